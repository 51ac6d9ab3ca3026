//! `kiln cache import`: images from layouts and archives, and archives of caches.

use kiln_engine::build::Network;

use super::archive;
use crate::args::CacheImport;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheImport, printer: Printer) -> Result<(), Failure> {
    let (is_archive, mut source) = archive::open(&arguments.file)?;
    if is_archive {
        if arguments.name.is_some() {
            return Err(Failure::usage(
                "--name is for an image, and this is an archive of a cache",
                "leave it out",
            ));
        }
        return archive::import(arguments.cache.as_deref(), source, &arguments.file, printer);
    }
    let imported = super::with_images(
        arguments.cache.as_deref(),
        &Network::default(),
        printer,
        |images| {
            let name = arguments.name.as_ref();
            images.import(&arguments.file, &mut source, name)
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
