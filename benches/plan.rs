//! Planning alone: a graph of 10,000 roots of 100 layers each, all of it in the cache.
//!
//! Enters: nothing; images are made up in memory, and hold next to nothing. Leaves: how long it
//! takes to walk the graph and find every result again, which is a plan that has nothing to do.

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Action, Cache, Key, KeyBuilder};
use kiln_engine::digest::Sha256;
use kiln_engine::event::Silent;
use kiln_engine::source::{ImageSource, LayerDescriptor, Platform, ResolvedImage, SourceError};
use kiln_engine::step::image::Image;
use kiln_engine::step::root::{Origin, Purpose, Root, Source};
use kiln_engine::step::scheduler::{recall, run};
use kiln_engine::step::{Next, Results, Step, StepError};

use crate::Anything;

/// Images, each the root of one component.
pub(crate) const COMPONENTS: usize = 10_000;
/// Layers of each image.
pub(crate) const LAYERS: usize = 100;
/// Different layers: neighbours share all but one, as images of one family do.
const DIFFERENT: usize = 1_000;

/// An image that exists in memory only.
struct MadeUp {
    number: usize,
    layers: Arc<Vec<(LayerDescriptor, Vec<u8>)>>,
}

impl MadeUp {
    fn manifest(&self) -> Sha256 {
        Sha256::of(format!("manifest {}", self.number).as_bytes())
    }
}

impl ImageSource for MadeUp {
    fn resolve(&self, _platform: &Platform) -> Result<Sha256, SourceError> {
        Ok(self.manifest())
    }

    fn image(&self, _manifest: &Sha256) -> Result<ResolvedImage, SourceError> {
        let layers = self.layers.iter().cycle().skip(self.number).take(LAYERS);
        Ok(ResolvedImage {
            manifest_digest: self.manifest(),
            manifest: format!("manifest {}", self.number).into_bytes(),
            config: b"{}".to_vec(),
            layers: layers.map(|(layer, _)| *layer).collect(),
        })
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        let mut all = self.layers.iter();
        let found = all.find(|(other, _)| other.digest == layer.digest);
        let bytes = found.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn name(&self) -> String {
        format!("image{}", self.number)
    }
}

/// Needs all roots, and is done.
struct All(Vec<Arc<dyn Step>>);

impl Step for All {
    fn kind(&self) -> &'static str {
        "all"
    }

    fn label(&self) -> String {
        "all".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("all", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        Ok(match got.all(&self.0) {
            Err(need) => Next::Need(need),
            Ok(_) => Next::Done(Action::default()),
        })
    }
}

/// Returns one of the layers: a tar of one file.
fn layer(number: usize) -> Anything<(LayerDescriptor, Vec<u8>)> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o644);
    builder.append_data(&mut header, format!("srv/{number}"), &b"kiln"[..])?;
    let bytes = builder.into_inner()?;
    let digest = Sha256::of(&bytes);
    let layer = LayerDescriptor {
        digest,
        size: bytes.len() as u64,
        media_type: "application/vnd.oci.image.layer.v1.tar",
        diff_id: digest,
    };
    Ok((layer, bytes))
}

/// Returns the graph's root, for a run of its own.
fn graph(layers: &Arc<Vec<(LayerDescriptor, Vec<u8>)>>) -> Arc<dyn Step> {
    let root = |number| {
        let made_up = MadeUp {
            number,
            layers: layers.clone(),
        };
        let name = made_up.name();
        let image = Image {
            pinned: Some(made_up.manifest().into()),
            source: Arc::new(made_up),
            engine: None,
            platform: Platform::new("linux", "amd64", None),
            refresh: false,
        };
        Arc::new(Root {
            origin: Origin {
                name,
                source: Source::Image(Arc::new(image)),
            },
            purpose: Purpose::Plain,
        }) as Arc<dyn Step>
    };
    Arc::new(All((0..COMPONENTS).map(root).collect()))
}

/// Fills the cache, and returns the walk to be timed.
pub(crate) fn prepared(cache: &Cache) -> Anything<impl FnMut() + '_> {
    let layers: Vec<_> = (0..DIFFERENT).map(layer).collect::<Anything<_>>()?;
    let layers = Arc::new(layers);
    let cancel = AtomicBool::new(false);
    run(cache, &Silent, &cancel, &graph(&layers))?;
    Ok(move || {
        let (_, graph) = recall(cache, &Silent, &cancel, &graph(&layers)).expect("a plan");
        assert!(graph.nodes.len() > 2 * COMPONENTS);
    })
}
