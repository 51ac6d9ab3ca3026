//! `kiln cache export`: an image as a file or on standard output.

use std::io::IsTerminal;
use std::path::Path;

use kiln_engine::image_store::{self, ExportTarget};

use crate::args::{CacheExport, ExportFormat};
use crate::commands::build::raw_stdout;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheExport, printer: Printer) -> Result<(), Failure> {
    let platform = super::platform(arguments.platform.as_ref(), &arguments.sources)?;
    let format = match arguments.format {
        ExportFormat::Oci => image_store::ExportFormat::Oci,
        ExportFormat::Docker => image_store::ExportFormat::Docker,
        ExportFormat::Filesystem => image_store::ExportFormat::Filesystem,
    };
    let is_stream = arguments.outfile == Path::new("-");
    if is_stream && std::io::stdout().is_terminal() {
        return Err(Failure::usage(
            "a tar would only garble this terminal",
            "send it somewhere: kiln cache export NAME --outfile - | tar t",
        ));
    }
    let mut stdout = raw_stdout()?;
    super::with_sources(&arguments.sources, printer, |images| {
        let target = match is_stream {
            true => ExportTarget::Stream(&mut stdout),
            false => ExportTarget::File(&arguments.outfile),
        };
        let name = arguments.name.as_ref();
        images.export(&arguments.image, &platform, format, name, target)
    })?;
    let path = arguments.outfile.display();
    let size = std::fs::metadata(&arguments.outfile).map_or(0, |file| file.len());
    let rest = match is_stream {
        true => arguments.image.to_string(),
        false => format!("{} to {path} {}", arguments.image, units::size(size)),
    };
    printer.done("Exported", &rest);
    Ok(())
}
