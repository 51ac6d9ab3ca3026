//! Components: kernel, init, containers, volumes, files and the bill of materials, each a fragment
//! of the system.
//!
//! Enters: a [`Plan`]. Leaves: [`Fragments`], in the order of outputs: what changes most comes last.
//! A system may have tens of thousands: what is known of them is not found again at every question.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::{Arc, OnceLock};

use kiln_cache::{Action, Digest};

use super::bundles::{Bundles, Pending};
use super::generated::Generated;
use super::image::tree_of;
use super::roots::{Roots, init_source};
use super::sbom;
use super::system::Plan;
use super::{Known, Need, Results, Step, StepError};
use crate::format::{Fragment, Part};
use crate::sbom::Options;
use crate::spec::Warning;
use crate::tree::generate::{Body, Node};
use crate::tree::path::{is_under, parent};
use crate::tree::view::follow;
use crate::tree::{Tree, TreePath};

/// The fragments of a system.
pub(crate) struct Fragments {
    /// Kernel, init, skeleton, volumes, onboot, onshutdown, services, files, bill of materials.
    pub(crate) list: Vec<Fragment>,
    /// How many of them, from the end, are no components, but replace what components bring.
    pub(crate) last: usize,
    /// The bill of materials, and its size.
    pub(crate) document: Option<(Digest, u64)>,
    /// The kernel's result, when there is a kernel.
    pub(crate) kernel: Option<Arc<Action>>,
}

/// The components of a plan, known one after the other.
pub(crate) struct Components {
    plan: Arc<Plan>,
    roots: Roots,
    /// The steps of all roots, and of what their images attest.
    first: Need,
    bundles: OnceLock<Bundles>,
    /// Kernel, init and bundles.
    list: OnceLock<Vec<Fragment>>,
    files: OnceLock<Arc<dyn Step>>,
    document: OnceLock<Document>,
    all: OnceLock<Fragments>,
}

/// The bill of materials, and the step that makes its part of the system.
struct Document {
    object: (Digest, u64),
    generated: Arc<dyn Step>,
}

/// Returns what `slot` holds, making it when it is empty.
fn known<T>(
    slot: &OnceLock<T>,
    make: impl FnOnce() -> Result<T, StepError>,
) -> Result<&T, StepError> {
    match slot.get() {
        Some(value) => Ok(value),
        None => make().map(|value| slot.get_or_init(|| value)),
    }
}

impl Components {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let roots = Roots::of(&plan);
        let mut first = roots.all();
        if plan.sbom.is_some() {
            first.extend(sbom::attestations(plan.origins()));
        }
        Self {
            plan,
            roots,
            first,
            bundles: OnceLock::new(),
            list: OnceLock::new(),
            files: OnceLock::new(),
            document: OnceLock::new(),
            all: OnceLock::new(),
        }
    }

    /// Returns the fragments, or what is needed before they are known.
    pub(crate) fn fragments(&self, got: &Results<'_>) -> Known<&Fragments> {
        if let Some(all) = self.all.get() {
            return Ok(Ok(all));
        }
        if got.all(&self.first).is_err() {
            return Ok(Err(self.first.clone()));
        }
        let kernel = self.roots.kernel.as_ref().and_then(|step| got.get(&**step));
        let bundles = known(&self.bundles, || Bundles::of(&self.plan, &self.roots, got))?;
        let list = match self.list.get() {
            Some(list) => list,
            None => match self.components(kernel.as_deref(), &bundles.pending, got)? {
                Ok(list) => self.list.get_or_init(|| list),
                Err(need) => return Ok(Err(need)),
            },
        };
        let mut last = Vec::new();
        if !self.plan.files.is_empty() {
            let step = known(&self.files, || {
                let before: Vec<_> = list.iter().collect();
                let nodes = with_parents(&self.plan.files, &before, got)?;
                Ok(generated("files", "files", nodes))
            })?;
            let Some(action) = got.get(&**step) else {
                return Ok(Err(vec![step.clone()]));
            };
            let parts = vec![whole(tree_of(&action, "files")?)];
            last.push(fragment("files", "linuxkit.files".into(), "files", parts));
        }
        let mut document = None;
        if let Some(options) = &self.plan.sbom {
            let found = match self.document.get() {
                Some(found) => found,
                None => match sbom::document(options, &bundles.materials, got)? {
                    Ok(object) => known(&self.document, || {
                        let before: Vec<_> = list.iter().chain(&last).collect();
                        document_node(options, object, &before, got)
                    })?,
                    Err(need) => return Ok(Err(need)),
                },
            };
            let Some(action) = got.get(&*found.generated) else {
                return Ok(Err(vec![found.generated.clone()]));
            };
            document = Some(found.object);
            // LinuxKit puts no provenance records on it.
            let parts = vec![whole(tree_of(&action, "sbom")?)];
            last.push(fragment("sbom", String::new(), "", parts));
        }
        Ok(Ok(self.all.get_or_init(|| Fragments {
            last: last.len(),
            list: list.iter().cloned().chain(last).collect(),
            document,
            kernel,
        })))
    }

    /// Returns what people should know, once the fragments are known.
    pub(crate) fn warnings(&self) -> &[Warning] {
        self.bundles.get().map_or(&[], |bundles| &bundles.warnings)
    }

    /// Returns the fragments of kernel, init and bundles.
    fn components(
        &self,
        kernel: Option<&Action>,
        pending: &[Pending],
        got: &Results<'_>,
    ) -> Known<Vec<Fragment>> {
        let init = match self.roots.init(kernel, got)? {
            Ok(init) => init,
            Err(need) => return Ok(Err(need)),
        };
        let needed: Need = pending
            .iter()
            .map(|pending| pending.generated.clone())
            .chain(init.clone())
            .collect();
        let Ok(done) = got.all(&needed) else {
            return Ok(Err(needed));
        };
        let mut list = Vec::new();
        if let (Some(kernel), Some(planned)) = (kernel, &self.plan.kernel) {
            let boot = kernel.output("boot").copied().ok_or_else(|| {
                StepError::new("kernel", "the cache's record of it has no boot tree")
            })?;
            let parts = vec![whole(boot)];
            list.push(fragment(
                "kernel",
                planned.origin.name.clone(),
                "kernel",
                parts,
            ));
        }
        if init.is_some()
            && let Some(action) = done.last()
        {
            let parts = vec![whole(tree_of(action, "init")?)];
            list.push(fragment("init", init_source(&self.plan), "init", parts));
        }
        for (pending, action) in pending.iter().zip(&done) {
            let mut fragment = pending.fragment.clone();
            let part = Part {
                prefix: pending.base.clone(),
                tree: tree_of(action, &fragment.name)?,
                shared: false,
            };
            fragment.parts.insert(0, part);
            list.push(fragment);
        }
        Ok(Ok(list))
    }
}

/// Gives the bill of materials its place in the system.
fn document_node(
    options: &Options,
    object: (Digest, u64),
    before: &[&Fragment],
    got: &Results<'_>,
) -> Result<Document, StepError> {
    let path = options
        .path()
        .map_err(|why| StepError::new("sbom", format!("{:?} {why}", options.file)))?;
    let node = Node::new(path, Body::Object(object.0, object.1), 0o644);
    let nodes = with_parents(&[node], before, got)?;
    Ok(Document {
        object,
        generated: generated("files", "sbom", nodes),
    })
}

pub(super) fn fragment(name: &str, source: String, location: &str, parts: Vec<Part>) -> Fragment {
    Fragment {
        name: name.to_owned(),
        source,
        location: location.to_owned(),
        parts,
    }
}

fn whole(tree: Digest) -> Part {
    Part {
        prefix: TreePath::default(),
        tree,
        shared: false,
    }
}

pub(super) fn clean(text: &str) -> TreePath {
    TreePath::from_clean(text.as_bytes())
}

pub(super) fn generated(kind: &'static str, label: &str, nodes: Vec<Node>) -> Arc<dyn Step> {
    Arc::new(Generated::new(kind, label, nodes))
}

/// Adds the directories that nothing else makes, 0755 and root's, and takes every path where the
/// links of the system lead.
fn with_parents(
    files: &[Node],
    list: &[&Fragment],
    got: &Results<'_>,
) -> Result<Vec<Node>, StepError> {
    let context = || StepError::in_context("files");
    let parts = || list.iter().flat_map(|fragment| &fragment.parts);
    let mut trees = BTreeMap::new();
    let touched = |part: &Part| {
        files
            .iter()
            .any(|node| is_under(node.path.as_bytes(), part.prefix.as_bytes()))
    };
    for part in parts().filter(|part| touched(part)) {
        if let btree_map::Entry::Vacant(slot) = trees.entry(part.tree) {
            slot.insert(Tree::open(got.cache, &part.tree).map_err(context())?);
        }
    }
    let mut nodes: Vec<Node> = Vec::new();
    let mut made: BTreeSet<Vec<u8>> = BTreeSet::new();
    for file in files {
        let mut node = file.clone();
        // The deepest part that the path lies in decides what links mean.
        let inside = parts()
            .filter(|part| {
                trees.contains_key(&part.tree)
                    && is_under(node.path.as_bytes(), part.prefix.as_bytes())
            })
            .collect::<Vec<_>>();
        for part in &inside {
            let prefix = part.prefix.as_bytes();
            // A link of a part before may have led out of it.
            if !is_under(node.path.as_bytes(), prefix) {
                continue;
            }
            let rest = node.path.as_bytes()[prefix.len()..]
                .strip_prefix(b"/")
                .unwrap_or(&node.path.as_bytes()[prefix.len()..]);
            let Some(place) = follow(&trees[&part.tree], rest) else {
                return Err(StepError::new(
                    format!("files: {}", node.path),
                    "a directory on its way is a file or a loop of links",
                ));
            };
            node.path = part.prefix.join(&place);
        }
        let exists = |path: &[u8]| {
            inside.iter().any(|part| {
                let prefix = part.prefix.as_bytes();
                let rest = path.get(prefix.len()..).unwrap_or_default();
                is_under(path, prefix)
                    && trees[&part.tree]
                        .find(rest.strip_prefix(b"/").unwrap_or(rest))
                        .is_some()
            })
        };
        let mut missing = Vec::new();
        let mut above = parent(node.path.as_bytes());
        while let Some(directory) = above.filter(|directory| !directory.is_empty()) {
            if !exists(directory) && made.insert(directory.to_vec()) {
                missing.push(Node::directory(TreePath::from_clean(directory)));
            }
            above = parent(directory);
        }
        nodes.extend(missing.into_iter().rev());
        if matches!(node.body, Body::Directory) {
            made.insert(node.path.as_bytes().to_vec());
        }
        nodes.push(node);
    }
    Ok(nodes)
}
