//! `kiln cache verify`: is every byte what it should be?

use std::thread;

use kiln_cache::Verified;
use serde_json::json;

use super::with_cache;
use crate::args::CacheVerify;
use crate::commands::{build, print};
use crate::failure::Failure;
use crate::ui::printer::{Printer, printable};
use crate::ui::units;

pub(super) fn run(arguments: &CacheVerify, printer: Printer) -> Result<(), Failure> {
    let interruption = build::watch_signals()?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let verified = with_cache(&arguments.info, |cache| {
        cache.verify_all(arguments.repair, threads, interruption.flag())
    })?;
    let Some(verified) = verified else {
        return Err(Failure::interrupted(interruption.number()));
    };
    if arguments.info.json {
        print(&json(&verified))?;
    } else {
        for damage in &verified.damage {
            printer.warning(&printable(&damage.to_string()));
        }
        let what = format!(
            "{} objects ({}) and {} steps",
            verified.objects,
            units::size(verified.bytes),
            verified.actions
        );
        printer.done("Verified", &what);
    }
    match (verified.damage.len(), arguments.repair) {
        (0, _) => Ok(()),
        (count, true) => {
            printer.done("Repaired", &format!("{count}: builds do those steps again"));
            Ok(())
        }
        (count, false) => Err(Failure::failed(
            format!("{count} things in the cache are damaged or missing"),
            None,
            Some(
                "builds find that by themselves and do the steps again; kiln cache verify \
                 --repair removes it now"
                    .to_owned(),
            ),
        )),
    }
}

fn json(verified: &Verified) -> String {
    let damage = verified.damage.iter().map(ToString::to_string);
    let object = json!({
        "objects": verified.objects,
        "bytes": verified.bytes,
        "steps": verified.actions,
        "damage": damage.collect::<Vec<_>>(),
    });
    format!("{object}\n")
}
