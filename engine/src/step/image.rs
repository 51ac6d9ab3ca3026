//! Images: a name becomes a manifest, a manifest its layers, a layer a pack and a tree.
//!
//! Enters: an [`ImageSource`]. Leaves: `resolve` (values of [`Name`]), `image` (objects `manifest`,
//! `config`; value `layers`), `layer` and `directory` (objects `pack`, `tree`). What
//! [`crate::image_store`] holds is taken from there before any source is asked.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyBuilder};

use super::engine::engine_image;
use super::{Lane, Next, Output, Results, Reuse, Scope, Step, StepError, Task};
use crate::digest::Sha256;
use crate::image_store::name::{Name, name_key};
use crate::image_store::store::{self, Store};
use crate::source::docker_engine::EngineImage;
use crate::source::{ImageSource, LayerDescriptor, Located, Platform, ResolvedImage};
use crate::tree::directory;
use crate::tree::unpack::{Expect, Options, Unpacked, unpack};

/// Changes when the pack or tree of the same layer may change.
const LAYER_VERSION: u32 = 2;

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
    KeyBuilder::new("image", 2)
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
        KeyBuilder::new("image", 2)
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
                Ok(Action {
                    outputs: documents(scope.cache, &found)
                        .map_err(StepError::in_context(context))?,
                    values: vec![("layers".into(), encode_layers(&found.layers))],
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

/// One line a layer: digest, size, diff_id, media type.
fn encode_layers(layers: &[LayerDescriptor]) -> Vec<u8> {
    let line = |layer: &LayerDescriptor| {
        format!(
            "{} {} {} {}\n",
            layer.digest, layer.size, layer.diff_id, layer.media_type
        )
    };
    layers.iter().map(line).collect::<String>().into_bytes()
}

pub(crate) fn decode_layers(bytes: &[u8]) -> Option<Vec<LayerDescriptor>> {
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        Some(LayerDescriptor {
            digest: words.next()?.parse().ok()?,
            size: words.next()?.parse().ok()?,
            diff_id: words.next()?.parse().ok()?,
            media_type: words.next()?.to_owned(),
        })
    };
    std::str::from_utf8(bytes).ok()?.lines().map(line).collect()
}

/// Returns the steps for the layers of an image, bottom first.
pub(crate) fn layers_of(
    image: &Arc<Image>,
    manifest: &Action,
) -> Result<Vec<Arc<dyn Step>>, StepError> {
    let layers = manifest
        .value("layers")
        .and_then(decode_layers)
        .ok_or_else(|| {
            StepError::new(
                format!("image {}", image.source.name()),
                "the cache's record of it is damaged",
            )
        })?;
    let step = |layer| {
        Arc::new(Layer {
            image: image.clone(),
            layer,
        }) as Arc<dyn Step>
    };
    Ok(layers.into_iter().map(step).collect())
}

/// Downloads, verifies and indexes a layer, in one pass.
pub struct Layer {
    /// An image that has it.
    pub image: Arc<Image>,
    /// The layer.
    pub layer: LayerDescriptor,
}

/// Returns the key of a layer's pack and tree.
pub(crate) fn layer_key(layer: &LayerDescriptor) -> Key {
    KeyBuilder::new("layer", LAYER_VERSION)
        .field("digest", layer.digest.as_bytes())
        .field("diff_id", layer.diff_id.as_bytes())
        .field("media_type", &layer.media_type)
        .finish()
}

impl Step for Layer {
    fn kind(&self) -> &'static str {
        "layer"
    }

    fn label(&self) -> String {
        let hex = self.layer.digest.hex();
        format!("{} {}", self.image.source.name(), &hex[..12])
    }

    fn id(&self) -> Key {
        layer_key(&self.layer)
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (image, layer) = (self.image.clone(), self.layer.clone());
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let name = image.source.name();
                let context = format!("image {name}: layer {}", layer.digest);
                let kept = store::open(scope.cache, &layer.digest)
                    .map_err(StepError::in_context(context.clone()))?;
                let input = match kept {
                    Some(kept) => Box::new(kept) as Box<dyn Read + Send>,
                    None => image
                        .source
                        .layer(&layer)
                        .map_err(StepError::in_context(context.clone()))?,
                };
                let expect = Expect {
                    digest: Some(layer.digest),
                    size: Some(layer.size),
                    diff_id: Some(layer.diff_id),
                };
                let options = Options {
                    expect,
                    ..Options::default()
                };
                unpacked(scope, input, &options, layer.size, context)
            }),
        }))
    }
}

/// Unpacks a stream with progress, and gives its pack and tree their roles.
pub(crate) fn unpacked<'c>(
    scope: &Scope<'c>,
    input: impl std::io::Read + Send,
    options: &Options<'c>,
    size: u64,
    context: String,
) -> Result<Action, StepError> {
    let progress = |done| scope.progress(done, Some(size));
    let result = unpack(scope.cache, input, options, scope.cancel, &progress);
    result
        .map(|unpacked| pack_and_tree(&unpacked))
        .map_err(StepError::in_context(context))
}

fn pack_and_tree(unpacked: &Unpacked) -> Action {
    Action {
        outputs: vec![
            ("pack".into(), unpacked.pack, unpacked.pack_size),
            ("tree".into(), unpacked.tree, unpacked.tree_size),
        ],
        ..Action::default()
    }
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
