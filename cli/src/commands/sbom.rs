//! `kiln sbom`: the bill of materials of a system that need not be built. And what its flags mean.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_engine::build as engine;
use kiln_engine::build::{Destination, Format as Output};
use kiln_engine::sbom::{Format, Options};

use super::{build, request};
use crate::args::{Bill, Common, Form, Sbom};
use crate::failure::Failure;
use crate::ui::printer::Printer;

pub(super) fn run(arguments: &Sbom, printer: Printer) -> Result<(), Failure> {
    let common = Common {
        // No output bears it.
        name: Some("sbom".to_owned()),
        dir: None,
        cache_from: arguments.cache_from.clone(),
        sources: arguments.sources.clone(),
    };
    let mut request = request::request(&arguments.files, vec![Output::Tar], &common)?;
    request.sbom = Some(form(&arguments.form)?);
    request.docker = request::docker(arguments.docker)?;
    request.destination = match arguments.output == Path::new("-") {
        true => Destination::Stdout,
        false => Destination::File(arguments.output.clone()),
    };
    let mut stdout = io::stdout().lock();
    build::with_progress(&request.cache, printer, |progress, cancel| {
        engine::sbom(&request, progress, cancel, &mut stdout)
    })
}

/// Returns what a build's flags ask for.
pub(super) fn bill(flags: &Bill) -> Result<Option<Options>, Failure> {
    let mut options = form(&flags.form)?;
    if let Some(file) = &flags.sbom_output {
        options.file.clone_from(file);
    }
    Ok((!flags.no_sbom).then_some(options))
}

fn form(flags: &Form) -> Result<Options, Failure> {
    let Some(format) = Format::named(&flags.sbom_format) else {
        return Err(Failure::usage(
            format!("unknown form \"{}\"", flags.sbom_format),
            None,
        ));
    };
    Ok(Options {
        created: flags.sbom_current_time.then(now),
        ..Options::of(format)
    })
}

/// Returns the seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
