//! `kiln lock`: pins every image to a digest and every package to a version.

use kiln_engine::build::Format;

use super::{build, request};
use crate::args::Lock;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::progress::Progress;
use kiln_engine::build as engine;

pub(super) fn run(arguments: &Lock, printer: Printer) -> Result<(), Failure> {
    let request = request::request(
        &arguments.files,
        vec![Format::KernelInitrd],
        &arguments.common,
    )?;
    let interruption = build::watch_signals()?;
    let progress = Progress::new(printer, interruption.flag().clone());
    let result = engine::lock(&request, &progress, interruption.flag());
    drop(progress);
    let written =
        result.map_err(|error| Failure::of_build(error, &request.cache, interruption.number()))?;
    printer.done("Locked", &written.display().to_string());
    Ok(())
}
