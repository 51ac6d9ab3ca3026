//! `kiln cache gc`: less in the cache.

use kiln_cache::{Cache, Collected, Limits};
use serde_json::json;

use super::with_cache;
use crate::args::CacheGc;
use crate::commands::{print, request};
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheGc, printer: Printer) -> Result<(), Failure> {
    let mut limits = Limits {
        max_bytes: arguments.max_size,
        unused_for: arguments.older_than,
        keep_builds: arguments.keep_builds,
        dry_run: arguments.dry_run,
    };
    if limits.max_bytes.is_none() && limits.unused_for.is_none() && limits.keep_builds.is_none() {
        limits.max_bytes = request::cache_max()?;
    }
    let collected = with_cache(&arguments.info, |cache: &Cache| cache.collect(&limits))?;
    if arguments.info.json {
        return print(&json(&collected));
    }
    let Collected {
        swept, left_bytes, ..
    } = collected;
    let what = format!(
        "{} objects and {} steps ({}); {} stay",
        swept.objects,
        swept.actions,
        units::size(swept.bytes),
        units::size(left_bytes)
    );
    match limits.dry_run {
        true => printer.done("Would remove", &what),
        false => printer.done("Removed", &what),
    }
    if swept.held > 0 {
        printer.warning(&format!(
            "{} objects stay because running builds use them",
            swept.held
        ));
    }
    if collected.over_bytes > 0 {
        printer.warning(&format!(
            "what must stay is {} larger than it should be",
            units::size(collected.over_bytes)
        ));
    }
    Ok(())
}

fn json(collected: &Collected) -> String {
    let swept = &collected.swept;
    let object = json!({
        "objects": swept.objects,
        "steps": swept.actions,
        "systems": collected.builds,
        "bytes": swept.bytes,
        "held_objects": swept.held,
        "left_bytes": collected.left_bytes,
        "over_bytes": collected.over_bytes,
    });
    format!("{object}\n")
}
