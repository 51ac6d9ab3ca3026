//! `kiln cache rm`: names go, and what nothing else uses with them.

use crate::args::CacheRm;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheRm, printer: Printer) -> Result<(), Failure> {
    for name in &arguments.names {
        let removed = super::with_sources(&arguments.sources, printer, |images| {
            images.remove(name, arguments.published_only)
        })?;
        match removed {
            Some(removed) => {
                let freed = units::size(removed.bytes);
                printer.done("Removed", &format!("{name} ({freed} freed)"));
            }
            None => printer.done("Kept", &format!("{name}: its registry does not have it")),
        }
    }
    Ok(())
}
