//! `kiln cache export`: an image as a file or on standard output.

use std::io::IsTerminal;
use std::path::Path;

use kiln_engine::image_store::{self, ExportTarget};
use kiln_engine::source::Reference;

use super::archive;
use crate::args::CacheExport;
use crate::commands::build::raw_stdout;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

pub(super) fn run(arguments: &CacheExport, printer: Printer) -> Result<(), Failure> {
    if arguments.selection.is_given() {
        return archive::export(arguments, printer);
    }
    let platform = super::platform(arguments.platform.as_ref(), &arguments.sources)?;
    let format = format(&arguments.format)?;
    let image = image(&arguments.what)?;
    // Required by the definition of the flags.
    let outfile = arguments.outfile.as_deref().unwrap_or(Path::new("-"));
    let is_stream = outfile == Path::new("-");
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
            false => ExportTarget::File(outfile),
        };
        let name = arguments.name.as_ref();
        images.export(&image, &platform, format, name, target)
    })?;
    let path = outfile.display();
    let size = std::fs::metadata(outfile).map_or(0, |file| file.len());
    let rest = match is_stream {
        true => image.to_string(),
        false => format!("{image} to {path} {}", units::size(size)),
    };
    printer.done("Exported", &rest);
    Ok(())
}

fn format(names: &[String]) -> Result<image_store::ExportFormat, Failure> {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    match names[..] {
        [] | ["oci"] => Ok(image_store::ExportFormat::Oci),
        ["docker"] => Ok(image_store::ExportFormat::Docker),
        ["filesystem"] => Ok(image_store::ExportFormat::Filesystem),
        _ => Err(Failure::usage(
            format!("--format {} is no format of an image", names.join(",")),
            "it is one of oci, docker and filesystem",
        )),
    }
}

fn image(name: &Path) -> Result<Reference, Failure> {
    let text = name.to_string_lossy();
    text.parse().map_err(|error| {
        let text = format!("\"{text}\" is no name of an image: {error}");
        Failure::usage(text, "kiln cache ls lists the images that there are")
    })
}
