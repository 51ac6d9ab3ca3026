//! `kiln cache clean`: an empty cache, or one without what registries have.

use kiln_cache::{Cache, Swept};
use kiln_engine::source::Reference;

use crate::args::CacheClean;
use crate::commands::request::cache_directory;
use crate::failure::{Failure, cache_hint};
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheClean, printer: Printer) -> Result<(), Failure> {
    if arguments.published_only {
        return published(arguments, printer);
    }
    let root = cache_directory(arguments.sources.cache.as_deref())?;
    let freed = Cache::clear(&root).map_err(|error| {
        let hint = cache_hint(&error, &root);
        Failure::failed(error.to_string(), None, Some(hint))
    })?;
    let rest = format!("{} ({} freed)", root.display(), units::size(freed));
    printer.done("Removed", &rest);
    Ok(())
}

/// Removes the images that registries have, one by one.
fn published(arguments: &CacheClean, printer: Printer) -> Result<(), Failure> {
    let (mut count, mut total) = (0, Swept::default());
    super::with_sources(&arguments.sources, printer, |images| {
        for name in images.names()? {
            let Ok(reference) = name.parse::<Reference>() else {
                continue;
            };
            if let Some(removed) = images.remove(&reference, true)? {
                count += 1;
                total += removed;
            }
        }
        Ok(())
    })?;
    let freed = units::size(total.bytes);
    printer.done(
        "Removed",
        &format!("{count} published images ({freed} freed)"),
    );
    Ok(())
}
