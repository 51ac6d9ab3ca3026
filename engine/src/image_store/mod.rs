//! Images as things in the cache: list, pull, import, export, push, remove.
//!
//! In reading order: [`name`] is what a name means; [`store`] keeps blobs as they are transferred;
//! [`gather`] finds all that belongs to an image and [`fetch`] gets what is missing. Above them one
//! file a verb. What a build has resolved and unpacked is the same image: there is one record of
//! a name, one of a manifest, one of a layer, whoever wrote it.

mod export;
pub(crate) mod fetch;
pub(crate) mod gather;
mod import;
mod list;
pub mod name;
mod pull;
mod push;
mod remove;
mod send;
pub(crate) mod store;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::Cache;

pub use export::{ExportFormat, ExportTarget};
pub use list::Listed;
pub use name::Name;
pub use pull::Pulled;
pub use push::{PushOptions, Pushed};
pub use send::SendOptions;

use crate::build::{BuildError, Network, walk};
use crate::event::Listener;
use crate::source::error::SourceErrorKind;
use crate::source::registry::Registry;
use crate::source::{Platform, Reference};
use crate::spec::nearest;
use crate::step::{Need, Step, StepError};
use gather::{Blob, Gathered};

/// The images of a cache, and the registries they come from and go to.
pub struct Images<'a> {
    cache: Cache,
    registry: Registry,
    listener: &'a dyn Listener,
    cancel: &'a AtomicBool,
}

impl<'a> Images<'a> {
    /// Opens the cache in `directory`; no registry is asked yet.
    ///
    /// # Errors
    /// When the directory cannot be used as a cache.
    pub fn open(
        directory: &Path,
        network: &Network,
        listener: &'a dyn Listener,
        cancel: &'a AtomicBool,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            cache: Cache::open(directory)?,
            registry: crate::build::registry(network).1,
            listener,
            cancel,
        })
    }

    /// Returns the records that a reference means, for every platform.
    fn named(&self, reference: &Reference) -> Result<Vec<Name>, BuildError> {
        let all = name::all(&self.cache)?;
        let found: Vec<Name> = all
            .iter()
            .filter(|name| name.is_meant_by(reference))
            .cloned()
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let mut candidates: Vec<&str> = all.iter().map(|name| name.name.as_str()).collect();
        candidates.dedup();
        Err(unknown(reference, &candidates))
    }

    /// Returns the record that a reference means on a platform, the best when there are variants.
    fn one(&self, reference: &Reference, platform: &Platform) -> Result<Name, BuildError> {
        let names = self.named(reference)?;
        let ranked = names
            .iter()
            .filter_map(|name| Some((name.platform.rank(platform)?, name)));
        if let Some((_, name)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Ok(name.clone());
        }
        let there: Vec<String> = names.iter().map(|name| name.platform.to_string()).collect();
        let message = format!(
            "the cache has no {reference} for {platform}, only for {}",
            there.join(", ")
        );
        let error = StepError::new(format!("image {reference}"), message);
        Err(error
            .hint("pull it for that platform: kiln cache pull --platform OS/ARCH NAME")
            .into())
    }

    /// Fetches what of an image the cache lacks, then stores its documents.
    fn keep(
        &self,
        name: &str,
        source: &Arc<dyn crate::source::ImageSource>,
        gathered: &Gathered,
    ) -> Result<(), BuildError> {
        let fetch = |blob: &Blob| {
            Arc::new(fetch::Fetch {
                source: source.clone(),
                name: name.to_owned(),
                blob: *blob,
            }) as Arc<dyn Step>
        };
        self.run(gathered.blobs.iter().map(fetch).collect())?;
        for (_, bytes) in gathered.configs.iter().chain(&gathered.documents) {
            store::put(&self.cache, bytes)?;
        }
        Ok(())
    }

    /// Runs steps, all of them; returns their objects.
    fn run(&self, steps: Need) -> Result<Arc<kiln_cache::Action>, BuildError> {
        let all = fetch::All(steps);
        let done = walk(&self.registry, all, &self.cache, self.listener, self.cancel);
        Ok(done?.0)
    }
}

fn unknown(reference: &Reference, candidates: &[&str]) -> BuildError {
    let wanted = reference.key();
    let mut near: Vec<&str> = candidates
        .iter()
        .copied()
        .filter(|name| {
            let own = |text: &str| text.rsplit('/').next().map(|last| last.to_owned());
            own(name).map(|last| last.split([':', '@']).next().map(str::to_owned))
                == own(&wanted).map(|last| last.split([':', '@']).next().map(str::to_owned))
        })
        .collect();
    if let Some(one) = nearest(&wanted, candidates)
        && !near.contains(&one)
    {
        near.insert(0, one);
    }
    near.truncate(5);
    let hint = match near.as_slice() {
        [] => "kiln cache ls lists what there is; kiln cache pull NAME gets it".to_owned(),
        near => format!("there is {}", near.join(", ")),
    };
    StepError::new(format!("image {reference}"), "is not in the cache")
        .hint(hint)
        .into()
}

/// Ties a source's failure to an image.
fn failed(name: &str, kind: SourceErrorKind) -> BuildError {
    StepError::new(format!("image {name}"), kind.of(name)).into()
}
