//! Images: a name becomes a manifest, a manifest its layers ([`layer`](super::layer)).
//!
//! Enters: an [`ImageSource`]. Leaves: `resolve` (values of [`Name`]), `image` (objects `manifest`,
//! `config`; value `layers`) and `directory` (objects `pack`, `tree`). What [`crate::image_store`]
//! holds is taken from there before any source is asked.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyBuilder};

use super::engine::engine_image;
use super::layer;
use super::{Lane, Next, Output, Results, Reuse, Step, StepError, Task};
use crate::digest::Sha256;
use crate::image_store::name::{Name, name_key};
use crate::image_store::store::{self, Store};
use crate::source::docker_engine::EngineImage;
use crate::source::{ImageSource, Located, Platform, ResolvedImage};
use crate::tree::directory;

/// An image as the YAML names it, and how to reach it.
pub struct Image {
    /// Where its bytes come from.
    pub source: Arc<dyn ImageSource>,
    /// The same as `source`, when a Docker engine is asked first.
    pub engine: Option<Arc<EngineImage>>,
    /// What it must run on.
    pub platform: Platform,
    /// The manifest, when a lock or the reference itself says it.
    pub pinned: Option<Located>,
    /// Whether the name is looked up anew.
    pub refresh: bool,
}

/// Returns the key of what is known of a manifest.
pub(crate) fn manifest_key(manifest: &Sha256) -> Key {
    // The manifest says it all, wherever it comes from.
    KeyBuilder::new("image", 3)
        .number("layer", layer::VERSION.into())
        .field("manifest", manifest.to_string())
        .finish()
}

/// Finds the manifest that a name means.
pub struct Resolve(pub Arc<Image>);

impl Step for Resolve {
    fn kind(&self) -> &'static str {
        "resolve"
    }

    fn label(&self) -> String {
        self.0.source.name()
    }

    fn id(&self) -> Key {
        name_key(&self.0.source.name(), &self.0.platform)
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        if let Some(pinned) = &self.0.pinned {
            let top = pinned.manifest;
            return Ok(Next::Done(
                Name::of(&self.0.platform, pinned.clone(), top).action(),
            ));
        }
        match engine_image(&self.0, got)? {
            Err(need) => return Ok(Next::Need(need)),
            // Not kept: the name means this here and now.
            Ok(Some(manifest)) => {
                let found = Located::from(manifest);
                return Ok(Next::Done(
                    Name::of(&self.0.platform, found, manifest).action(),
                ));
            }
            Ok(None) => {}
        }
        let image = self.0.clone();
        let local = !image.source.inputs().is_empty();
        let reuse = match (local, image.refresh) {
            (true, _) => Reuse::Never,
            (false, true) => Reuse::Refresh,
            (false, false) => Reuse::Always,
        };
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse,
            work: Box::new(move |scope| {
                let context = || format!("image {}", image.source.name());
                // What a digest means never changes: it need not be asked for.
                if let Some(digest) = image.source.digest()
                    && let Some(found) = Store::new(scope.cache).resolve(&digest, &image.platform)
                {
                    return Ok(Name::of(&image.platform, found, digest).action());
                }
                let found = image
                    .source
                    .locate(&image.platform)
                    .map_err(StepError::in_context(context()))?;
                let mut top = found.manifest;
                // The index is kept, so that its digest is as good as the name.
                if !local && let Some((digest, bytes)) = image.source.top() {
                    store::put(scope.cache, &bytes).map_err(StepError::in_context(context()))?;
                    top = digest;
                }
                Ok(Name::of(&image.platform, found, top).action())
            }),
        }))
    }
}

/// Returns what a [`Resolve`] found.
pub(crate) fn located(resolve: &Action) -> Result<Located, StepError> {
    Name::read(resolve)
        .map(|name| name.found)
        .ok_or_else(|| StepError::new("image", "the cache's record of it is damaged"))
}

/// Fetches manifest and config.
pub struct Manifest(pub Arc<Image>);

impl Step for Manifest {
    fn kind(&self) -> &'static str {
        "image"
    }

    fn label(&self) -> String {
        self.0.source.name()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("image", 3)
            .field("image", self.0.source.name())
            .field("platform", self.0.platform.to_string())
            .finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let resolve: Arc<dyn Step> = Arc::new(Resolve(self.0.clone()));
        let Some(resolved) = got.get(&*resolve) else {
            return Ok(Next::Need(vec![resolve]));
        };
        let manifest = located(&resolved)?.manifest;
        let image = self.0.clone();
        Ok(Next::Run(Task {
            key: manifest_key(&manifest),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("image {}", image.source.name());
                let found = match Store::new(scope.cache).image(&manifest) {
                    Some(found) => found,
                    None => image
                        .source
                        .image(&manifest)
                        .map_err(StepError::in_context(context.clone()))?,
                };
                let layers = layer::encode(&found.layers).ok_or_else(|| {
                    StepError::new(context.clone(), "a layer has an unknown media type")
                })?;
                Ok(Action {
                    outputs: documents(scope.cache, &found)
                        .map_err(StepError::in_context(context))?,
                    values: vec![("layers".into(), layers)],
                    ..Action::default()
                })
            }),
        }))
    }
}

/// Keeps an image's manifest and config, as the outputs of its step.
pub(super) fn documents(cache: &Cache, image: &ResolvedImage) -> Result<Vec<Output>, CacheError> {
    let put = |role: &str, bytes: &[u8]| {
        let (_, object) = store::put(cache, bytes)?;
        Ok((role.to_owned(), object, bytes.len() as u64))
    };
    Ok(vec![
        put("manifest", &image.manifest)?,
        put("config", &image.config)?,
    ])
}

/// Indexes a plain directory of the host. Done every time: only a walk can tell what changed.
pub struct Directory(pub PathBuf);

impl Step for Directory {
    fn kind(&self) -> &'static str {
        "directory"
    }

    fn label(&self) -> String {
        self.0.display().to_string()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("directory", 2)
            .field("path", self.0.as_os_str().as_encoded_bytes())
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let path = self.0.clone();
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Cpu,
            reuse: Reuse::Never,
            work: Box::new(move |scope| {
                let context = format!("directory {}", path.display());
                let found =
                    directory::index(scope.cache, &path).map_err(StepError::in_context(context))?;
                Ok(super::generated::action(&found))
            }),
        }))
    }
}

/// Returns the tree among a step's objects.
pub(crate) fn tree_of(action: &Action, context: &str) -> Result<Digest, StepError> {
    action
        .output("tree")
        .copied()
        .ok_or_else(|| StepError::new(context, "the cache's record of it has no tree"))
}
