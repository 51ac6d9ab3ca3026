//! Roots of a system: a step for the tree of every origin, and what is unpacked into `/`.
//!
//! Enters: a [`Plan`]. Leaves: the steps of kernel, init, containers and volumes, and the `init`
//! stack: init trees and the kernel's modules over each other.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use kiln_cache::{Action, Cache, Digest};

use super::components::{clean, generated};
use super::image::tree_of;
use super::layout::LayoutTree;
use super::root::{Origin, Purpose, Root, Stack};
use super::system::{Init, Plan, VolumeContent};
use super::{Known, Need, Results, Step, StepError};
use crate::spec::Section;
use crate::tree::file::FileReader;
use crate::tree::generate::{Body, Node};
use crate::tree::{Kind, Tree, TreePath};

/// Where Alpine's apk keeps what is installed.
const APK_DATABASE: &str = "lib/apk/db/installed";
/// Alpine's largest are a few megabytes.
const APK_DATABASE_MAX: u64 = 64 << 20;

/// The steps that give every origin's tree.
pub(super) struct Roots {
    pub(super) kernel: Option<Arc<dyn Step>>,
    pub(super) init: Vec<Arc<dyn Step>>,
    /// Built-in jobs have none.
    pub(super) containers: BTreeMap<Section, Vec<Option<Arc<dyn Step>>>>,
    pub(super) volumes: Vec<Option<Arc<dyn Step>>>,
}

impl Roots {
    pub(super) fn of(plan: &Plan) -> Self {
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
        let container = |origin: &Option<Origin>| {
            let origin = origin.as_ref();
            origin.map(|origin| root(origin, Purpose::Container))
        };
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

    pub(super) fn all(&self) -> Need {
        let containers = self.containers.values().flatten().flatten();
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
    pub(super) fn init(
        &self,
        kernel: Option<&Action>,
        got: &Results<'_>,
    ) -> Known<Option<Arc<dyn Step>>> {
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

pub(super) fn init_source(plan: &Plan) -> String {
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
