//! `kiln cache import`: images from layouts and archives.

use std::io;

use kiln_engine::build::Network;

use crate::args::CacheImport;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheImport, printer: Printer) -> Result<(), Failure> {
    let imported = super::with_images(
        arguments.cache.as_deref(),
        &Network::default(),
        printer,
        |images| {
            let name = arguments.name.as_ref();
            images.import(&arguments.file, &mut io::stdin().lock(), name)
        },
    )?;
    for image in imported {
        let platforms: Vec<String> = image.platforms.iter().map(ToString::to_string).collect();
        let rest = format!(
            "{} {} {} {}",
            image.name,
            super::short(&image.top),
            platforms.join(","),
            units::size(image.bytes)
        );
        printer.done("Imported", &rest);
    }
    Ok(())
}
