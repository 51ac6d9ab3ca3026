//! Components: kernel, init, containers, volumes, files and the bill of materials, each a fragment
//! of the system.
//!
//! Enters: a [`Plan`]. Leaves: [`Fragments`], in the order of outputs: what changes most comes last.
//! A system may have tens of thousands: what is known of them is not found again at every question.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::io::Read;
use std::sync::{Arc, OnceLock};

use kiln_cache::{Action, Cache, Digest};

use super::generated::Generated;
use super::image::tree_of;
use super::layout::LayoutTree;
use super::root::{Origin, Purpose, Root, Stack};
use super::sbom::{self, Component};
use super::system::{Init, Plan, VolumeContent};
use super::{Known, Need, Results, Step, StepError};
use crate::format::{Fragment, Part};
use crate::sbom::Options;
use crate::spec::{Section, Warning};
use crate::system::bundle::{bundle_path, config_json, root_path, runtime_json};
use crate::system::container::ImageConfig;
use crate::system::label;
use crate::system::volumes::{Volumes, volume_path};
use crate::tree::file::FileReader;
use crate::tree::generate::{Body, Node};
use crate::tree::path::{is_under, parent};
use crate::tree::view::follow;
use crate::tree::{Kind, Tree, TreePath};

/// Where Alpine's apk keeps what is installed.
const APK_DATABASE: &str = "lib/apk/db/installed";
/// Alpine's largest are a few megabytes.
const APK_DATABASE_MAX: u64 = 64 << 20;

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

/// A fragment, and the step that makes its generated part.
struct Pending {
    fragment: Fragment,
    /// Where the generated part goes.
    base: TreePath,
    generated: Arc<dyn Step>,
}

/// What is known once the roots are there.
struct Bundles {
    pending: Vec<Pending>,
    materials: Vec<Component>,
    warnings: Vec<Warning>,
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
        let bundles = known(&self.bundles, || self.bundles(got))?;
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
                let nodes = with_parents(&self.plan.files, || list.iter(), got)?;
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
                        let before = || list.iter().chain(&last);
                        document_node(options, object, before, got)
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

    fn bundles(&self, got: &Results<'_>) -> Result<Bundles, StepError> {
        let mut pending = skeleton(&self.plan).into_iter().collect();
        volumes(&self.plan, &self.roots, got, &mut pending)?;
        let mut materials = sbom::components(&self.plan);
        let warnings = containers(&self.plan, &self.roots, got, &mut pending, &mut materials)?;
        Ok(Bundles {
            pending,
            materials,
            warnings,
        })
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
fn document_node<'a, I: Iterator<Item = &'a Fragment>>(
    options: &Options,
    object: (Digest, u64),
    before: impl Fn() -> I,
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

fn fragment(name: &str, source: String, location: &str, parts: Vec<Part>) -> Fragment {
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

fn clean(text: &str) -> TreePath {
    TreePath::from_clean(text.as_bytes())
}

fn generated(kind: &'static str, label: &str, nodes: Vec<Node>) -> Arc<dyn Step> {
    Arc::new(Generated::new(kind, label, nodes))
}

/// The steps that give every origin's tree.
struct Roots {
    kernel: Option<Arc<dyn Step>>,
    init: Vec<Arc<dyn Step>>,
    containers: BTreeMap<Section, Vec<Arc<dyn Step>>>,
    volumes: Vec<Option<Arc<dyn Step>>>,
}

impl Roots {
    fn of(plan: &Plan) -> Self {
        let root = |origin: &Origin, purpose| {
            Arc::new(Root {
                origin: origin.clone(),
                purpose,
            }) as Arc<dyn Step>
        };
        let init = |init: &Init| match init {
            Init::Kiln(binary) => generated("init", "kiln-init", kiln_init(binary)),
            Init::Origin(origin) => root(origin, Purpose::System),
        };
        let container = |origin: &Origin| root(origin, Purpose::Container);
        Self {
            kernel: plan.kernel.clone().map(|kernel| kernel as Arc<dyn Step>),
            init: plan.init.iter().map(init).collect(),
            containers: plan
                .containers
                .iter()
                .map(|(section, origins)| (*section, origins.iter().map(container).collect()))
                .collect(),
            volumes: plan
                .volumes
                .iter()
                .map(|content| match content {
                    VolumeContent::Blank => None,
                    VolumeContent::Files(origin) => Some(root(origin, Purpose::System)),
                    VolumeContent::Layout(layout) => {
                        Some(Arc::new(LayoutTree(layout.clone())) as _)
                    }
                })
                .collect(),
        }
    }

    fn all(&self) -> Need {
        let containers = self.containers.values().flatten();
        let volumes = self.volumes.iter().flatten();
        self.kernel
            .iter()
            .chain(&self.init)
            .chain(containers)
            .chain(volumes)
            .cloned()
            .collect()
    }

    /// Lays the kernel's modules and the init trees over each other.
    fn init(&self, kernel: Option<&Action>, got: &Results<'_>) -> Known<Option<Arc<dyn Step>>> {
        let done = got.all(&self.init).unwrap_or_default();
        let mut trees: Vec<Digest> = done
            .iter()
            .map(|action| tree_of(action, "init"))
            .collect::<Result<_, _>>()?;
        if let Some(databases) = apk_databases(got.cache, &trees)? {
            match got.get(&*databases) {
                Some(action) => trees.push(tree_of(&action, "init")?),
                None => return Ok(Err(vec![databases])),
            }
        }
        if let Some(modules) = kernel.and_then(|kernel| kernel.output("modules")) {
            // Modules go below init images, which may replace them; but where an image has merged
            // /lib into /usr, they must follow its link, and so go on top.
            let merged = trees.iter().any(|tree| {
                Tree::open(got.cache, tree).is_ok_and(|tree| {
                    tree.find(b"lib")
                        .is_some_and(|entry| entry.kind() == Kind::Symlink)
                })
            });
            trees.insert(if merged { trees.len() } else { 0 }, *modules);
        }
        if trees.is_empty() {
            return Ok(Ok(None));
        }
        // The root itself is not an entry of outputs.
        Ok(Ok(Some(Arc::new(Stack {
            label: "init".into(),
            trees,
            drop: vec![TreePath::default()],
        }))))
    }
}

/// Joins the package databases of init images that are Alpine's: each knows its own packages
/// alone, and the last one would hide the others.
fn apk_databases(cache: &Cache, trees: &[Digest]) -> Result<Option<Arc<dyn Step>>, StepError> {
    let mut joined = Vec::new();
    let mut count = 0;
    for tree in trees {
        let tree = Tree::open(cache, tree).map_err(StepError::in_context(APK_DATABASE))?;
        let entry = tree.find(APK_DATABASE.as_bytes());
        let Some(entry) = entry.filter(|entry| entry.kind() == Kind::File) else {
            continue;
        };
        count += 1;
        if entry.size() > APK_DATABASE_MAX {
            let text = format!("an init image's is {} bytes long", entry.size());
            return Err(StepError::new(APK_DATABASE, text));
        }
        FileReader::open(cache, &entry)
            .and_then(|mut file| file.read_to_end(&mut joined))
            .map_err(StepError::in_context(APK_DATABASE))?;
        joined.extend(b"\n\n");
    }
    let node = Node::new(clean(APK_DATABASE), Body::Bytes(joined), 0o644);
    Ok((count > 1).then(|| generated("init", "apk database", vec![node])))
}

fn init_source(plan: &Plan) -> String {
    let names = plan.init.iter().map(|init| match init {
        Init::Kiln(_) => "kiln",
        Init::Origin(origin) => origin.name.as_str(),
    });
    names.collect::<Vec<_>>().join(" ")
}

/// kiln's own init and the directories it mounts over. Both `/init` (initramfs) and `/sbin/init`
/// (disks) lead to it.
fn kiln_init(binary: &[u8]) -> Vec<Node> {
    let mut nodes = vec![Node::new(
        clean("init"),
        Body::Bytes(binary.to_vec()),
        0o755,
    )];
    for directory in ["dev", "etc", "mnt", "proc", "run", "sbin", "sys", "var"] {
        nodes.push(Node::directory(clean(directory)));
    }
    nodes.push(Node::new(clean("root"), Body::Directory, 0o700));
    nodes.push(Node::new(clean("tmp"), Body::Directory, 0o1777));
    let link = |path, target: &str| Node::new(clean(path), Body::Symlink(target.into()), 0o777);
    nodes.push(link("sbin/init", "/init"));
    nodes.push(link("etc/resolv.conf", "/run/resolvconf/resolv.conf"));
    nodes
}

/// The directories above bundles and volumes.
fn skeleton(plan: &Plan) -> Option<Pending> {
    let sections = plan
        .containers
        .iter()
        .filter(|(_, origins)| !origins.is_empty());
    let mut names: Vec<String> = sections
        .map(|(section, _)| format!("containers/{}", section.name()))
        .collect();
    if !plan.volumes.is_empty() {
        names.push("containers/volumes".to_owned());
    }
    if names.is_empty() {
        return None;
    }
    names.insert(0, "containers".to_owned());
    let nodes = names
        .iter()
        .map(|name| Node::directory(clean(name)))
        .collect();
    Some(Pending {
        fragment: fragment("containers", "kiln".into(), "containers", Vec::new()),
        base: TreePath::default(),
        generated: generated("skeleton", "containers", nodes),
    })
}

fn volumes(
    plan: &Plan,
    roots: &Roots,
    got: &Results<'_>,
    out: &mut Vec<Pending>,
) -> Result<(), StepError> {
    for (index, (volume, root)) in plan.spec.volumes.iter().zip(&roots.volumes).enumerate() {
        let base = volume_path(&volume.name.value);
        let mut nodes = vec![Node::directory(TreePath::default())];
        let mut parts = Vec::new();
        match root.as_ref().and_then(|root| got.get(&**root)) {
            Some(action) => parts.push(Part {
                prefix: clean(&format!("{base}/lower")),
                tree: tree_of(&action, &base)?,
                shared: true,
            }),
            None => nodes.push(Node::directory(clean("lower"))),
        }
        nodes.push(Node::directory(clean("merged")));
        nodes.push(Node::directory(clean("tmp")));
        let source = plan.volumes[index].name().to_owned();
        let name = &volume.name.value;
        out.push(Pending {
            fragment: fragment(name, source, &format!("volume[{index}]"), parts),
            base: clean(&base),
            generated: generated("volume", name, nodes),
        });
    }
    Ok(())
}

/// Makes the bundles. Containers whose roots are the same tree share the first one's.
fn containers(
    plan: &Plan,
    roots: &Roots,
    got: &Results<'_>,
    out: &mut Vec<Pending>,
    materials: &mut Vec<Component>,
) -> Result<Vec<Warning>, StepError> {
    let volumes = Volumes::of(&plan.spec);
    let mut placed: BTreeMap<Digest, String> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut listed = BTreeSet::new();
    let mut configs: HashMap<String, ImageConfig> = HashMap::new();
    for (section, steps) in &roots.containers {
        let entries = plan
            .spec
            .containers(*section)
            .iter()
            .zip(&plan.containers[section])
            .zip(steps);
        for (index, ((entry, origin), step)) in entries.enumerate() {
            let name = &entry.name.value;
            let action = got
                .get(&**step)
                .ok_or_else(|| StepError::new(name.clone(), "its root is not there"))?;
            let tree = tree_of(&action, name)?;
            let identity = origin.identity();
            let image = match configs.entry(identity.clone()) {
                Entry::Occupied(slot) => slot.into_mut(),
                Entry::Vacant(slot) => slot.insert(
                    image_config(&origin.config(got)?)
                        .map_err(StepError::in_context(format!("image {}", origin.name)))?,
                ),
            };
            let (container, odd) = label::resolve(entry, image, &plan.ids, &volumes).map_err(
                StepError::in_context(format!("{} \"{name}\"", section.name())),
            )?;
            warnings.extend(odd);
            let base = bundle_path(*section, index, name);
            let own = root_path(&base, container.readonly);
            let mut parts = Vec::new();
            let shared = placed.get(&tree).cloned();
            let root = shared.clone().unwrap_or_else(|| own.clone());
            // What several share is listed once.
            if listed.insert((root.clone(), identity)) {
                materials.push(Component {
                    key: base.trim_start_matches("containers/").to_owned(),
                    path: root.clone(),
                    origin: Some(origin.clone()),
                });
            }
            if shared.is_none() {
                parts.push(Part {
                    prefix: clean(&own),
                    tree,
                    shared: true,
                });
                placed.insert(tree, own);
            }
            let file = |name: &str, bytes| Node::new(clean(name), Body::Bytes(bytes), 0o644);
            let mut nodes = vec![
                Node::directory(TreePath::default()),
                file("config.json", config_json(&container)),
                file("runtime.json", runtime_json(&container, &base, &root)),
            ];
            if !container.readonly {
                nodes.push(Node::directory(clean("tmp")));
            }
            if !container.readonly || shared.is_some() {
                nodes.push(Node::directory(clean("rootfs")));
            }
            let location = format!("{}[{index}]", section.name());
            out.push(Pending {
                fragment: fragment(name, origin.name.clone(), &location, parts),
                base: clean(&base),
                generated: generated("bundle", name, nodes),
            });
        }
    }
    Ok(warnings)
}

/// Reads what an image says about how to run it (OCI image-spec, `config.md`).
fn image_config(json: &[u8]) -> Result<ImageConfig, serde_json::Error> {
    use serde::Deserialize;
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Config {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        env: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        labels: Option<BTreeMap<String, String>>,
    }
    #[derive(Deserialize, Default)]
    struct Image {
        config: Option<Config>,
    }
    if json.is_empty() {
        return Ok(ImageConfig::default());
    }
    let config = serde_json::from_slice::<Image>(json)?
        .config
        .unwrap_or_default();
    Ok(ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        label: config
            .labels
            .and_then(|mut labels| labels.remove(label::LABEL)),
    })
}

/// Adds the directories that nothing else makes, 0755 and root's, and takes every path where the
/// links of the system lead.
fn with_parents<'a, I: Iterator<Item = &'a Fragment>>(
    files: &[Node],
    list: impl Fn() -> I,
    got: &Results<'_>,
) -> Result<Vec<Node>, StepError> {
    let context = || StepError::in_context("files");
    let parts = || list().flat_map(|fragment| &fragment.parts);
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
