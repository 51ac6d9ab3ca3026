//! Layers: each becomes a pack and a tree.
//!
//! Enters: the layers of a manifest. Leaves: `layer` (objects `pack`, `tree`), and how the `image`
//! step lists the layers of a manifest, keys included: a system may have millions of them.
//!
//! ```text
//! key         32 bytes, of the layer step
//! digest      32 bytes, of the blob
//! diff_id     32 bytes, of the tar in it
//! size        u64, little-endian: bytes of the blob
//! media type  u8, its place in `LAYER_TYPES`
//! ```

use std::io::Read;
use std::sync::Arc;

use kiln_cache::{Action, Key, KeyBuilder};

use super::image::Image;
use super::{Known, Lane, Next, Results, Reuse, Scope, Step, StepError, Task};
use crate::digest::Sha256;
use crate::image_store::store;
use crate::source::{LAYER_TYPES, LayerDescriptor};
use crate::tree::unpack::{Expect, Options, Unpacked, unpack};

/// Changes when the pack or tree of the same layer may change.
pub(super) const VERSION: u32 = 2;

/// Lists the layers of a manifest, bottom first; `None` when kiln cannot unpack one.
pub(super) fn encode(layers: &[LayerDescriptor]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for layer in layers {
        out.extend(layer_key(layer).as_bytes());
        out.extend(layer.digest.as_bytes());
        out.extend(layer.diff_id.as_bytes());
        out.extend(layer.size.to_le_bytes());
        let known = LAYER_TYPES.iter().position(|it| *it == layer.media_type);
        out.push(u8::try_from(known?).ok()?);
    }
    Some(out)
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<(Key, LayerDescriptor)>> {
    fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = bytes.split_first_chunk()?;
        *bytes = tail;
        Some(*head)
    }
    let mut layers = Vec::new();
    while !bytes.is_empty() {
        let key = Key::from_bytes(array(&mut bytes)?);
        let digest = Sha256::from_bytes(array(&mut bytes)?);
        let diff_id = Sha256::from_bytes(array(&mut bytes)?);
        let size = u64::from_le_bytes(array(&mut bytes)?);
        let [at] = array(&mut bytes)?;
        let layer = LayerDescriptor {
            digest,
            size,
            diff_id,
            media_type: LAYER_TYPES.get(usize::from(at))?,
        };
        layers.push((key, layer));
    }
    Some(layers)
}

/// Returns the results of an image's layers, bottom first; or the steps, when some are not there.
pub(crate) fn layers_of(
    image: &Arc<Image>,
    manifest: &Action,
    got: &Results<'_>,
) -> Known<Vec<Arc<Action>>> {
    let layers = manifest.value("layers").and_then(decode).ok_or_else(|| {
        StepError::new(
            format!("image {}", image.source.name()),
            "the cache's record of it is damaged",
        )
    })?;
    let found = layers.iter().map(|(key, _)| (got.find)(key));
    if let Some(found) = found.collect() {
        return Ok(Ok(found));
    }
    let step = |(key, layer)| {
        Arc::new(Layer {
            image: image.clone(),
            layer,
            key,
        }) as Arc<dyn Step>
    };
    Ok(Err(layers.into_iter().map(step).collect()))
}

/// Downloads, verifies and indexes a layer, in one pass.
pub struct Layer {
    /// An image that has it.
    image: Arc<Image>,
    layer: LayerDescriptor,
    key: Key,
}

impl Layer {
    /// Returns the step for a layer of `image`.
    pub(crate) fn new(image: Arc<Image>, layer: LayerDescriptor) -> Self {
        let key = layer_key(&layer);
        Self { image, layer, key }
    }
}

/// Returns the key of a layer's pack and tree.
pub(crate) fn layer_key(layer: &LayerDescriptor) -> Key {
    KeyBuilder::new("layer", VERSION)
        .field("digest", layer.digest.as_bytes())
        .field("diff_id", layer.diff_id.as_bytes())
        .field("media_type", layer.media_type)
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
        self.key
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (image, layer) = (self.image.clone(), self.layer);
        Ok(Next::Run(Task {
            key: self.key,
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
    input: impl Read + Send,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_listed_is_read(
            lists in proptest::collection::vec((any::<[u8; 32]>(), any::<u64>(), 0..LAYER_TYPES.len()), 0..5),
            cut in any::<proptest::sample::Index>(),
        ) {
            let layer = |(bytes, size, media_type): &([u8; 32], u64, usize)| LayerDescriptor {
                digest: Sha256::from_bytes(*bytes),
                size: *size,
                diff_id: Sha256::of(bytes),
                media_type: LAYER_TYPES[*media_type],
            };
            let layers: Vec<_> = lists.iter().map(layer).collect();
            let bytes = encode(&layers).unwrap();
            let with_keys = layers.iter().map(|layer| (layer_key(layer), *layer));
            prop_assert_eq!(decode(&bytes), Some(with_keys.collect()));
            // What is cut short is as many layers as are whole, or nothing.
            if let Some(fewer) = decode(&bytes[..cut.index(bytes.len() + 1)]) {
                prop_assert!(fewer.iter().map(|it| &it.1).eq(&layers[..fewer.len()]));
            }
        }

        #[test]
        fn any_bytes_are_layers_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
