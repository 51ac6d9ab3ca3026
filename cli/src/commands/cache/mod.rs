//! `kiln cache`: one file a verb. What they share is here: opening the images of a cache, with
//! progress and signals.

mod archive;
mod clean;
mod du;
mod export;
mod gc;
mod import;
mod info;
mod key;
mod ls;
mod pull;
mod push;
mod rm;
mod verify;

use std::path::Path;

use kiln_cache::{Cache, CacheError};
use kiln_engine::build::{BuildError, Network};
use kiln_engine::image_store::Images;
use kiln_engine::source::Platform;

use super::{build, request};
use crate::args::{CacheCommand, CacheInfo, ListBy, Sources};
use crate::failure::{Failure, cache_hint};
use crate::ui::printer::Printer;

pub(super) fn run(arguments: &CacheCommand, printer: Printer) -> Result<(), Failure> {
    match arguments {
        CacheCommand::Info(arguments) => info::run(arguments),
        CacheCommand::Ls(arguments) => match arguments.by {
            ListBy::Image => ls::run(&arguments.info, printer),
            ListBy::System => du::systems(&arguments.info),
            ListBy::Size => du::steps(&arguments.info),
        },
        CacheCommand::Du(arguments) => du::run(arguments),
        CacheCommand::Gc(arguments) => gc::run(arguments, printer),
        CacheCommand::Verify(arguments) => verify::run(arguments, printer),
        CacheCommand::Pull(arguments) => pull::run(arguments, printer),
        CacheCommand::Push(arguments) => push::run(arguments, printer),
        CacheCommand::Import(arguments) => import::run(arguments, printer),
        CacheCommand::Export(arguments) => export::run(arguments, printer),
        CacheCommand::Key(arguments) => key::run(arguments, printer),
        CacheCommand::Rm(arguments) => rm::run(arguments, printer),
        CacheCommand::Clean(arguments) => clean::run(arguments, printer),
    }
}

/// Opens the cache where it is, and returns what `body` finds in it.
fn with_cache<T>(
    arguments: &CacheInfo,
    body: impl FnOnce(&Cache) -> Result<T, CacheError>,
) -> Result<T, Failure> {
    let root = request::cache_directory(arguments.cache.as_deref())?;
    let result = Cache::open(&root).and_then(|cache| body(&cache));
    result.map_err(|error| {
        let hint = cache_hint(&error, &root);
        Failure::failed(error.to_string(), None, Some(hint))
    })
}

/// Does something with the images of the cache in `cache`, showing progress.
pub(super) fn with_images<T>(
    cache: Option<&Path>,
    network: &Network,
    printer: Printer,
    body: impl FnOnce(&Images<'_>) -> Result<T, BuildError>,
) -> Result<T, Failure> {
    let cache = request::cache_directory(cache)?;
    build::with_progress(&cache, printer, |progress, cancel| {
        Images::open(&cache, network, progress, cancel).and_then(|images| body(&images))
    })
}

/// As [`with_images`], reaching registries as the flags say.
pub(super) fn with_sources<T>(
    sources: &Sources,
    printer: Printer,
    body: impl FnOnce(&Images<'_>) -> Result<T, BuildError>,
) -> Result<T, Failure> {
    let network = request::network(sources)?;
    with_images(sources.cache.as_deref(), &network, printer, body)
}

/// Returns `--platform`, else Linux on `--arch` or on this machine.
fn platform(named: Option<&Platform>, sources: &Sources) -> Result<Platform, Failure> {
    if let Some(platform) = named {
        return Ok(platform.clone());
    }
    let architecture = request::architecture(sources.arch.as_deref())?;
    Ok(Platform::new("linux", &architecture, None))
}

/// Says a digest as people compare them.
pub(super) fn short(digest: &impl ToString) -> String {
    digest.to_string().chars().take(19).collect()
}
