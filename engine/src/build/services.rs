//! Services of a system that runs already: what they are made of, and what a new one has that the
//! old one has not.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Cache, Digest};

use super::plan::{self, Planned};
use super::{BuildError, Request, tiers};
use crate::event::Listener;
use crate::format::{Fragment, FragmentPlan, Part, Target, assemble, tar};
use crate::lockfile::Lock;
use crate::spec::ImageSource;
use crate::step::StepError;
use crate::step::services::{Service, Services, Site};
use crate::tree::difference::difference;
use crate::tree::generate::{Body, Node, generate};
use crate::tree::{Tree, TreeError, TreePath};

/// Layers that a root may have (overlayfs knows up to 500).
const LAYERS_MAX: usize = 64;
/// Bytes of a mount's options: mount(2) takes a page.
const OPTIONS_BYTES_MAX: usize = 4095;
/// As much may be sent again, in bytes, that what is superseded can go.
const REPEATED_MAX: u64 = 4 << 20;
/// Where a bundle keeps its tree.
const LOWER: &str = "lower";

/// Where a service is put in a running system, and what is there already.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// Its bundle: an absolute path.
    pub directory: String,
    /// Roots that a new one can be laid over, the one with the fewest layers first.
    pub bases: Vec<Base>,
}

/// A root in a running system.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// What it consists of: absolute paths, the topmost first.
    pub layers: Vec<String>,
    /// The tree that this is, as [`service_states`] and [`ServiceBundle`] name it.
    pub tree: String,
}

impl Base {
    /// Returns whether one more layer, at this path, can be laid over it.
    fn takes(&self, layer: &str) -> bool {
        let layers = self.layers.iter().map(|layer| layer.len() + 1);
        // Their names, and `upperdir=` and `workdir=` beside the new layer.
        let options = layers.sum::<usize>() + 3 * layer.len() + 64;
        self.layers.len() < LAYERS_MAX && options <= OPTIONS_BYTES_MAX
    }
}

/// A service as it is sent to a running system.
#[derive(Debug)]
pub struct ServiceBundle {
    cache: Cache,
    segments: Vec<crate::format::Segment>,
    /// The name of its tree.
    pub tree: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Nothing of what is there is used.
    pub is_whole: bool,
}

impl ServiceBundle {
    /// Writes it: a tar archive with `config.json`, `runtime.json`, `tree` (its name) and the
    /// directory `lower`.
    ///
    /// # Errors
    /// When the cache has lost something of it, or the stream breaks.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), BuildError> {
        assemble(&self.cache, &self.segments, Target::Writer(out), None)?;
        Ok(())
    }
}

/// A service as its description has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// Its name.
    pub name: String,
    /// The name of its tree.
    pub tree: String,
    /// Differs when anything else of it does.
    pub settings: String,
}

/// Returns all services of a system; what they are made of is built if it is not there.
///
/// # Errors
/// As for a build.
pub fn service_states(
    request: &Request,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Vec<ServiceState>, BuildError> {
    let cache = tiers::open(&request.cache, &request.cache_from, listener)?;
    let site = Site {
        bundle: String::new(),
        layers: vec![String::new()],
    };
    let planned = plan::plan(request, listener)?;
    let services = services(&planned, &cache, None, site, listener, cancel)?;
    let state = |service: Service| ServiceState {
        settings: Digest::of([service.config, service.runtime].concat().as_bytes()).to_string(),
        name: service.name,
        tree: service.tree,
    };
    Ok(services.into_iter().map(state).collect())
}

/// Makes a service ready to be sent. `image` takes the place of the description's.
///
/// # Errors
/// As for a build, and when there is no such service.
pub fn service_bundle(
    request: &Request,
    name: &str,
    image: Option<&str>,
    ground: &Ground,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<ServiceBundle, BuildError> {
    let cache = tiers::open(&request.cache, &request.cache_from, listener)?;
    let planned = plan_with_image(request, name, image, listener)?;
    let context = format!("services \"{name}\"");
    let failed = |error: TreeError| StepError::in_context(context.clone())(error);
    let services = |site| services(&planned, &cache, Some(name), site, listener, cancel);
    let bundle = relative(&ground.directory);
    let own = format!("{bundle}/{LOWER}");
    let find = |layers| {
        let bundle = bundle.clone();
        let found = services(Site { bundle, layers })?.pop();
        found.ok_or_else(|| {
            BuildError::usage(
                format!("the description has no service {name}"),
                "kiln vm ps lists what runs; --file names another description",
            )
        })
    };
    // Its tree does not depend on where it is put.
    let service = find(vec![own.clone()])?;
    let tree: Digest = service
        .tree
        .parse()
        .map_err(StepError::in_context(context.clone()))?;
    let mut best: Option<(Digest, u64, &Base)> = None;
    for base in ground.bases.iter().filter(|base| base.takes(&own)) {
        // One that was collected meanwhile is no ground.
        let known = base.tree.parse::<Digest>().ok();
        let Some(known) = known.filter(|tree| Tree::open(&cache, tree).is_ok()) else {
            continue;
        };
        let (change, _) = difference(&cache, &known, &tree).map_err(failed)?;
        let bytes = Tree::open(&cache, &change)
            .map_err(failed)?
            .iter()
            .map(|e| e.size())
            .sum();
        if best
            .as_ref()
            .is_none_or(|(_, least, _)| bytes + REPEATED_MAX < *least)
        {
            best = Some((change, bytes, base));
        }
    }
    let (change, service) = match best {
        None => (tree, service),
        Some((change, _, base)) => {
            let below = base.layers.iter().map(|layer| relative(layer));
            (change, find([own].into_iter().chain(below).collect())?)
        }
    };
    let file = |name: &str, text: String| {
        let path = TreePath::from_clean(name.as_bytes());
        Node::new(path, Body::Bytes(text.into_bytes()), 0o644)
    };
    let files = [
        file("config.json", service.config),
        file("runtime.json", service.runtime),
        file("tree", service.tree.clone()),
    ];
    let files = generate(&cache, &files)
        .map_err(StepError::in_context(context))?
        .tree
        .0;
    let part = |prefix: &str, tree| Part {
        prefix: TreePath::from_clean(prefix.as_bytes()),
        tree,
        shared: false,
    };
    let fragment = Fragment {
        name: name.to_owned(),
        source: String::new(),
        location: String::new(),
        parts: vec![part("", files), part(LOWER, change)],
    };
    let is_whole = best.is_none();
    let mut segments = tar::segments(&cache, &fragment, &FragmentPlan::default())?;
    segments.push(tar::end(&cache)?);
    Ok(ServiceBundle {
        tree: service.tree,
        bytes: segments.iter().map(|segment| segment.len).sum(),
        is_whole,
        segments,
        cache,
    })
}

fn relative(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

fn plan_with_image(
    request: &Request,
    name: &str,
    image: Option<&str>,
    listener: &dyn Listener,
) -> Result<Planned, BuildError> {
    let Some(image) = image else {
        return plan::plan(request, listener);
    };
    plan::plan_changed(request, listener, &Lock::default(), |spec| {
        for entry in spec.services.iter_mut().filter(|e| e.name.value == name) {
            entry.image.value = ImageSource::Image(image.to_owned());
        }
    })
}

fn services(
    planned: &Planned,
    cache: &Cache,
    name: Option<&str>,
    site: Site,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Vec<Service>, BuildError> {
    let root = Services::new(planned.plan.clone(), name, site);
    let (result, _) = planned.walk(root, cache, listener, cancel)?;
    let services = result.value("services").unwrap_or_default();
    let services = serde_json::from_slice(services).map_err(StepError::in_context("services"));
    Ok(services?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_room_in_a_mount_s_options() {
        let base = |count: usize, length: usize| Base {
            layers: vec!["l".repeat(length); count],
            tree: String::new(),
        };
        assert!(base(63, 50).takes("run/kiln/services/1/lower"));
        assert!(!base(64, 50).takes("run/kiln/services/1/lower"));
        assert!(base(37, 98).takes(&"l".repeat(90)));
        assert!(!base(38, 98).takes(&"l".repeat(90)));
        assert!(!base(1, 98).takes(&"l".repeat(1400)));
    }
}
