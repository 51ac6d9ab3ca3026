//! `kiln cache export --for|--since|--all` and `kiln cache import` of what it wrote.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_engine::build as engine;
use kiln_engine::build::{BuildError, Format, Request, Selection};
use kiln_engine::image_store::ExportTarget;

use crate::args::CacheExport;
use crate::commands::build::{raw_stdout, with_progress};
use crate::commands::request;
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::ui::units;

/// Writes the part of the cache that is selected.
pub(super) fn export(arguments: &CacheExport, printer: Printer) -> Result<(), Failure> {
    let path = arguments.what.as_path();
    let is_stream = path == Path::new("-");
    if is_stream && std::io::stdout().is_terminal() {
        return Err(Failure::usage(
            "an archive would only garble this terminal",
            "send it somewhere: kiln cache export --all - | ssh HOST kiln cache import -",
        ));
    }
    if arguments.platform.is_some() || arguments.name.is_some() {
        return Err(Failure::usage(
            "--platform and --name are for exporting an image",
            "leave them out; --arch says which systems are meant",
        ));
    }
    let cache = request::cache_directory(arguments.sources.cache.as_deref())?;
    let cache_from = request::cache_from(&arguments.cache_from);
    let requests = requests(arguments)?;
    let selection = match arguments.selection.since {
        Some(time) => Selection::Since(SystemTime::now().checked_sub(time).unwrap_or(UNIX_EPOCH)),
        None if arguments.selection.all => Selection::All,
        None => Selection::Systems(&requests),
    };
    let mut stdout = raw_stdout()?;
    let target = match is_stream {
        true => ExportTarget::Stream(&mut stdout),
        false => ExportTarget::File(path),
    };
    let exported = with_progress(&cache, printer, |progress, cancel| {
        engine::export_archive(&cache, &cache_from, selection, target, progress, cancel)
    })?;
    let mut rest = format!(
        "{} steps, {} objects of {}",
        exported.actions,
        exported.objects,
        units::size(exported.bytes)
    );
    if !is_stream {
        let size = std::fs::metadata(path).map_or(0, |file| file.len());
        rest = format!("{} {} ({rest})", path.display(), units::size(size));
    }
    printer.done("Exported", &rest);
    if exported.left_out > 0 {
        let text = format!("{} steps were not complete and left out", exported.left_out);
        printer.warning(&text);
    }
    Ok(())
}

/// Returns the requests of `--for`, without formats when none is named.
fn requests(arguments: &CacheExport) -> Result<Vec<Request>, Failure> {
    let named = |name: &String| {
        Format::named(name).ok_or_else(|| {
            let known = Format::ALL.map(Format::name).join(", ");
            Failure::usage(format!("--format {name} is no format of a build"), None)
                .hint(format!("with --for it is one of {known}"))
        })
    };
    let formats = arguments.format.iter().map(named);
    let formats = formats.collect::<Result<Vec<_>, _>>()?;
    let system = |system| {
        request::looked_at(
            system,
            formats.clone(),
            &arguments.made,
            &arguments.cache_from,
            &arguments.sources,
        )
    };
    arguments.selection.systems.iter().map(system).collect()
}

/// Takes in an archive.
pub(super) fn import(
    cache: Option<&Path>,
    source: impl Read,
    path: &Path,
    printer: Printer,
) -> Result<(), Failure> {
    let cache = request::cache_directory(cache)?;
    let imported = with_progress(&cache, printer, |progress, cancel| {
        engine::import_archive(&cache, source, path, progress, cancel)
    })?;
    let known = match imported.known {
        0 => String::new(),
        known => format!("; {known} steps were there already"),
    };
    let rest = format!(
        "{} steps, {} objects of {}{known}",
        imported.actions,
        imported.objects,
        units::size(imported.bytes)
    );
    printer.done("Imported", &rest);
    Ok(())
}

/// Opens what is to be imported, and looks whether it is an archive.
pub(super) fn open(path: &Path) -> Result<(bool, Box<dyn Read>), Failure> {
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => match std::fs::File::open(path) {
            Ok(file) => Box::new(file),
            // Said by whoever needs it.
            Err(_) => return Ok((false, Box::new(std::io::empty()))),
        },
    };
    match engine::recognise(source) {
        Ok((is_archive, source)) => Ok((is_archive, Box::new(source))),
        // A directory, say.
        Err(_) if path != Path::new("-") => Ok((false, Box::new(std::io::empty()))),
        Err(source) => {
            let path = path.to_owned();
            let error = BuildError::File { path, source };
            Err(Failure::of_build(error, Path::new("-"), 0))
        }
    }
}
