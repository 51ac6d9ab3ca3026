//! `kiln cache key`: a name for what systems are made from.

use kiln_engine::build as engine;
use kiln_engine::build::Format;

use crate::args::{CacheFrom, CacheKey};
use crate::commands::{build, print, request};
use crate::failure::Failure;
use crate::ui::printer::Printer;

pub(super) fn run(arguments: &CacheKey, printer: Printer) -> Result<(), Failure> {
    let architecture = request::architecture(arguments.sources.arch.as_deref())?;
    if arguments.prefix {
        return print(&(engine::cache_key_prefix(&architecture) + "\n"));
    }
    let formats: Vec<_> = Format::ALL
        .into_iter()
        .filter(|format| arguments.format.iter().any(|name| name == format.name()))
        .collect();
    let (made, sources, none) = (&arguments.made, &arguments.sources, CacheFrom::default());
    let requests = arguments
        .systems
        .iter()
        .map(|system| request::looked_at(system, formats.clone(), made, &none, sources))
        .collect::<Result<Vec<_>, _>>()?;
    let cache = request::cache_directory(sources.cache.as_deref())?;
    let key = build::with_progress(&cache, printer, |progress, _| {
        engine::cache_key(&requests, progress)
    })?;
    print(&(key + "\n"))
}
