//! Images: a name becomes a manifest, a manifest its layers, a layer a pack and a tree.
//!
//! Enters: an [`ImageSource`]. Leaves: `resolve` (values `manifest`, `attestations`), `image` (objects `manifest`,
//! `config`; value `layers`), `layer` and `directory` (objects `pack`, `tree`).

use std::path::PathBuf;
use std::sync::Arc;

use kiln_cache::{Action, Digest, Key, KeyBuilder};

use super::{Lane, Next, Results, Reuse, Scope, Step, StepError, Task};
use crate::digest::Sha256;
use crate::source::{ImageSource, LayerDescriptor, Located, Platform};
use crate::tree::directory;
use crate::tree::unpack::{Expect, Options, Unpacked, unpack};

/// Changes when the pack or tree of the same layer may change.
const LAYER_VERSION: u32 = 2;

/// An image as the YAML names it, and how to reach it.
pub struct Image {
    /// Where its bytes come from.
    pub source: Arc<dyn ImageSource>,
    /// What it must run on.
    pub platform: Platform,
    /// The manifest, when a lock or the reference itself says it.
    pub pinned: Option<Located>,
    /// Whether the name is looked up anew.
    pub refresh: bool,
}

impl Image {
    fn id(&self, kind: &str) -> KeyBuilder {
        KeyBuilder::new(kind, 1)
            .field("image", self.source.name())
            .field("platform", self.platform.to_string())
    }
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
        self.0.id("resolve").number("version", 2).finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        if let Some(pinned) = &self.0.pinned {
            return Ok(Next::Done(resolved(pinned)));
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
            work: Box::new(move |_| {
                let context = format!("image {}", image.source.name());
                image
                    .source
                    .locate(&image.platform)
                    .map(|found| resolved(&found))
                    .map_err(StepError::in_context(context))
            }),
        }))
    }
}

fn resolved(found: &Located) -> Action {
    let attestations: Vec<String> = found.attestations.iter().map(Sha256::to_string).collect();
    Action {
        values: vec![
            ("manifest".into(), found.manifest.to_string().into_bytes()),
            ("attestations".into(), attestations.join(" ").into_bytes()),
        ],
        ..Action::default()
    }
}

/// Returns what a [`Resolve`] found.
pub(crate) fn located(resolve: &Action) -> Result<Located, StepError> {
    let text = resolve.value("attestations").unwrap_or_default();
    let words = String::from_utf8_lossy(text);
    let attestations: Result<Vec<Sha256>, _> = words
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(str::parse)
        .collect();
    Ok(Located {
        manifest: manifest_of(resolve)?,
        attestations: attestations
            .map_err(StepError::in_context("the cache's record of an image"))?,
    })
}

/// Returns the manifest a [`Resolve`] found.
pub(crate) fn manifest_of(resolve: &Action) -> Result<Sha256, StepError> {
    let text = resolve
        .value("manifest")
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.unwrap_or_default()
        .parse()
        .map_err(StepError::in_context("the cache's record of an image"))
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
        self.0.id("image").finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let resolve: Arc<dyn Step> = Arc::new(Resolve(self.0.clone()));
        let Some(resolved) = got.get(&*resolve) else {
            return Ok(Next::Need(vec![resolve]));
        };
        let manifest = manifest_of(&resolved)?;
        let image = self.0.clone();
        Ok(Next::Run(Task {
            // The manifest says it all, wherever it comes from.
            key: KeyBuilder::new("image", 1)
                .field("manifest", manifest.to_string())
                .finish(),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("image {}", image.source.name());
                let found = image
                    .source
                    .image(&manifest)
                    .map_err(StepError::in_context(context.clone()))?;
                let put = |role: &str, bytes: &[u8]| {
                    let digest = scope
                        .cache
                        .put(bytes)
                        .map_err(StepError::in_context(context.clone()))?;
                    Ok((role.to_owned(), digest, bytes.len() as u64))
                };
                Ok(Action {
                    outputs: vec![
                        put("manifest", &found.manifest)?,
                        put("config", &found.config)?,
                    ],
                    values: vec![("layers".into(), encode_layers(&found.layers))],
                    ..Action::default()
                })
            }),
        }))
    }
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

fn decode_layers(bytes: &[u8]) -> Option<Vec<LayerDescriptor>> {
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

impl Step for Layer {
    fn kind(&self) -> &'static str {
        "layer"
    }

    fn label(&self) -> String {
        let hex = self.layer.digest.hex();
        format!("{} {}", self.image.source.name(), &hex[..12])
    }

    fn id(&self) -> Key {
        KeyBuilder::new("layer", LAYER_VERSION)
            .field("digest", self.layer.digest.as_bytes())
            .field("diff_id", self.layer.diff_id.as_bytes())
            .field("media_type", &self.layer.media_type)
            .finish()
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
                let input = image
                    .source
                    .layer(&layer)
                    .map_err(StepError::in_context(context.clone()))?;
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
