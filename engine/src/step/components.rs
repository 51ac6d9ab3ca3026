//! Components: kernel, init, containers, volumes, files and the bill of materials, each a fragment
//! of the system.
//!
//! Enters: a [`Plan`]. Leaves: [`Fragments`], in the order of outputs: what changes most comes last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use kiln_cache::{Action, Cache, Digest};

use super::generated::Generated;
use super::image::tree_of;
use super::layout::LayoutTree;
use super::root::{Origin, Purpose, Root, Stack};
use super::sbom::{self, Component};
use super::system::{Init, Plan, VolumeContent};
use super::{Known, Need, Results, Step, StepError};
use crate::format::{Fragment, Part};
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
    /// What people should know.
    pub(crate) warnings: Vec<Warning>,
}

/// A fragment, and the step that makes its generated part.
struct Pending {
    fragment: Fragment,
    generated: Arc<dyn Step>,
}

/// Returns the fragments, or what is needed before they are known.
pub(crate) fn fragments(plan: &Plan, got: &Results<'_>) -> Known<Fragments> {
    let roots = Roots::of(plan);
    let mut all = roots.all();
    if plan.sbom.is_some() {
        all.extend(sbom::attestations(plan.origins()));
    }
    if got.all(&all).is_err() {
        return Ok(Err(all));
    }
    let mut pending = skeleton(plan).into_iter().collect::<Vec<_>>();
    volumes(plan, &roots, got, &mut pending)?;
    let mut materials = sbom::components(plan);
    let warnings = containers(plan, &roots, got, &mut pending, &mut materials)?;
    let kernel = roots.kernel.as_ref().and_then(|step| got.get(&**step));
    let init = match roots.init(kernel.as_deref(), got)? {
        Ok(init) => init,
        Err(need) => return Ok(Err(need)),
    };
    let needed: Need = pending
        .iter()
        .map(|pending| pending.generated.clone())
        .chain(init.clone())
        .collect();
    if let Err(need) = got.all(&needed) {
        return Ok(Err(need));
    }

    let mut list = Vec::new();
    if let (Some(kernel), Some(planned)) = (&kernel, &plan.kernel) {
        let boot = kernel.output("boot").copied();
        let boot = boot
            .ok_or_else(|| StepError::new("kernel", "the cache's record of it has no boot tree"))?;
        list.push(fragment(
            "kernel",
            planned.origin.name.clone(),
            "kernel",
            vec![whole(boot)],
        ));
    }
    if let Some(action) = init.and_then(|step| got.get(&*step)) {
        list.push(fragment(
            "init",
            init_source(plan),
            "init",
            vec![whole(tree_of(&action, "init")?)],
        ));
    }
    for Pending {
        mut fragment,
        generated,
    } in pending
    {
        if let Some(action) = got.get(&*generated) {
            fragment
                .parts
                .insert(0, whole(tree_of(&action, &fragment.name)?));
        }
        list.push(fragment);
    }
    let mut last = 0;
    if !plan.files.is_empty() {
        let step: Arc<dyn Step> = Arc::new(Generated {
            kind: "files",
            label: "files".into(),
            nodes: with_parents(&plan.files, &list, got)?,
        });
        let Some(action) = got.get(&*step) else {
            return Ok(Err(vec![step]));
        };
        list.push(fragment(
            "files",
            "linuxkit.files".into(),
            "files",
            vec![whole(tree_of(&action, "files")?)],
        ));
        last += 1;
    }
    let mut document = None;
    if let Some(options) = &plan.sbom {
        let (digest, size) = match sbom::document(options, &materials, got)? {
            Ok(found) => found,
            Err(need) => return Ok(Err(need)),
        };
        document = Some((digest, size));
        let path = options
            .path()
            .map_err(|why| StepError::new("sbom", format!("{:?} {why}", options.file)))?;
        let node = Node::new(path, Body::Object(digest, size), 0o644);
        let step = generated("files", "sbom", with_parents(&[node], &list, got)?);
        let Some(action) = got.get(&*step) else {
            return Ok(Err(vec![step]));
        };
        // LinuxKit puts no provenance records on it.
        let parts = vec![whole(tree_of(&action, "sbom")?)];
        list.push(fragment("sbom", String::new(), "", parts));
        last += 1;
    }
    Ok(Ok(Fragments {
        list,
        last,
        document,
        kernel,
        warnings,
    }))
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
    Arc::new(Generated {
        kind,
        label: label.to_owned(),
        nodes,
    })
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
        let mut nodes = vec![Node::directory(clean(&base))];
        let mut parts = Vec::new();
        let lower = clean(&format!("{base}/lower"));
        match root.as_ref().and_then(|root| got.get(&**root)) {
            Some(action) => parts.push(Part {
                prefix: lower,
                tree: tree_of(&action, &base)?,
                shared: true,
            }),
            None => nodes.push(Node::directory(lower)),
        }
        nodes.push(Node::directory(clean(&format!("{base}/merged"))));
        nodes.push(Node::directory(clean(&format!("{base}/tmp"))));
        let source = plan.volumes[index].name().to_owned();
        let name = &volume.name.value;
        out.push(Pending {
            fragment: fragment(name, source, &format!("volume[{index}]"), parts),
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
            let image = image_config(&origin.config(got)?)
                .map_err(StepError::in_context(format!("image {}", origin.name)))?;
            let (container, odd) = label::resolve(entry, &image, &plan.ids, &volumes).map_err(
                StepError::in_context(format!("{} \"{name}\"", section.name())),
            )?;
            warnings.extend(odd);
            let base = bundle_path(*section, index, name);
            let own = root_path(&base, container.readonly);
            let mut parts = Vec::new();
            let shared = placed.get(&tree).cloned();
            let root = shared.clone().unwrap_or_else(|| own.clone());
            // What several share is listed once.
            if listed.insert((root.clone(), origin.identity())) {
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
            let file = |name: &str, bytes| {
                Node::new(clean(&format!("{base}/{name}")), Body::Bytes(bytes), 0o644)
            };
            let mut nodes = vec![
                Node::directory(clean(&base)),
                file("config.json", config_json(&container)),
                file("runtime.json", runtime_json(&container, &base, &root)),
            ];
            if !container.readonly {
                nodes.push(Node::directory(clean(&format!("{base}/tmp"))));
            }
            if !container.readonly || shared.is_some() {
                nodes.push(Node::directory(clean(&format!("{base}/rootfs"))));
            }
            let location = format!("{}[{index}]", section.name());
            out.push(Pending {
                fragment: fragment(name, origin.name.clone(), &location, parts),
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
fn with_parents(
    files: &[Node],
    list: &[Fragment],
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
        if let std::collections::btree_map::Entry::Vacant(slot) = trees.entry(part.tree) {
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
