//! `kiln cache pull`: images from registries, whole, for builds without a network.

use crate::args::CachePull;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CachePull, printer: Printer) -> Result<(), Failure> {
    let platform = super::platform(arguments.platform.as_ref(), &arguments.sources)?;
    for name in &arguments.names {
        let pulled = super::with_sources(&arguments.sources, printer, |images| {
            images.pull(name, &platform)
        })?;
        let rest = format!(
            "{} {} {platform} {}",
            pulled.name,
            super::short(&pulled.top),
            units::size(pulled.bytes)
        );
        printer.done("Pulled", &rest);
    }
    Ok(())
}
