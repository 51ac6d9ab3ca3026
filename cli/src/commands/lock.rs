//! `kiln lock`: pins every image to a digest and every package to a version.

use kiln_engine::build::Format;

use super::{build, request};
use crate::args::Lock;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use kiln_engine::build as engine;

pub(super) fn run(arguments: &Lock, printer: Printer) -> Result<(), Failure> {
    let request = request::request(
        &arguments.files,
        vec![Format::KernelInitrd],
        &arguments.common,
    )?;
    let written = build::with_progress(&request.cache, printer, |progress, cancel| {
        engine::lock(&request, progress, cancel)
    })?;
    printer.done("Locked", &written.display().to_string());
    Ok(())
}
