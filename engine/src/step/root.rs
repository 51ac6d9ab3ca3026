//! Roots: where a component's file system comes from, and its one flattened tree.
//!
//! Enters: an [`Origin`] and what it is for. Leaves: `root` (object `tree`), with the rules of
//! LinuxKit's contract applied that hold for every image: fixed `etc/hosts` and `etc/resolv.conf`, mount points, no Docker stubs.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_cache::{Cache, Digest, Key, KeyBuilder};

use super::debian::Packages;
use super::image::{Directory, Image, Manifest, tree_of};
use super::layer::layers_of;
use super::{Known, Lane, Next, Results, Reuse, Step, StepError, Task};
use crate::tree::flatten::{Finish, flatten};
use crate::tree::generate::{Body, Node, generate};
use crate::tree::{Entry, Tree, TreePath};

/// Changes when the tree for the same layers may change.
const ROOT_VERSION: u32 = 3;

const RESOLV_CONF: &[u8] = b"\n# no resolv.conf configured\n";
const HOSTS: &[u8] = b"127.0.0.1       localhost\n\
    ::1     localhost ip6-localhost ip6-loopback\n\
    fe00::0 ip6-localnet\n\
    ff00::0 ip6-mcastprefix\n\
    ff02::1 ip6-allnodes\n\
    ff02::2 ip6-allrouters\n";

/// Where a file system comes from.
#[derive(Clone)]
pub struct Origin {
    /// What the system's provenance records call it: a canonical reference, or what the YAML says.
    pub name: String,
    /// How to get at it.
    pub source: Source,
}

/// How to get at a file system.
#[derive(Clone)]
pub enum Source {
    /// An image.
    Image(Arc<Image>),
    /// A directory of the host.
    Directory(PathBuf),
    /// Debian packages.
    Debian(Arc<Packages>),
}

impl Origin {
    /// Returns a text that tells origins apart within a run.
    pub(crate) fn identity(&self) -> String {
        match &self.source {
            Source::Image(image) => format!("image {} {}", image.source.name(), image.platform),
            Source::Directory(path) => format!("directory {}", path.display()),
            Source::Debian(packages) => format!("debian {}", packages.identity()),
        }
    }

    /// Returns the layers' trees, bottom first; or what is needed before they are known.
    fn layers(&self, got: &Results<'_>) -> Known<Vec<Digest>> {
        let done = match &self.source {
            Source::Directory(path) => {
                let step: Arc<dyn Step> = Arc::new(Directory(path.clone()));
                got.all(&[step])
            }
            Source::Debian(packages) => match packages.layers(got)? {
                Ok(steps) => got.all(&steps),
                Err(need) => Err(need),
            },
            Source::Image(image) => {
                let manifest: Arc<dyn Step> = Arc::new(Manifest(image.clone()));
                match got.get(&*manifest) {
                    Some(found) => layers_of(image, &found, got)?,
                    None => Err(vec![manifest]),
                }
            }
        };
        match done {
            Err(need) => Ok(Err(need)),
            Ok(done) => done
                .iter()
                .map(|action| tree_of(action, &self.name))
                .collect::<Result<_, _>>()
                .map(Ok),
        }
    }

    /// Returns the image's configuration, JSON; empty for what is no image. Known once the root is.
    ///
    /// # Errors
    /// When the cache cannot give it.
    pub fn config(&self, got: &Results<'_>) -> Result<Vec<u8>, StepError> {
        let Source::Image(image) = &self.source else {
            return Ok(Vec::new());
        };
        let manifest = got.get(&Manifest(image.clone()));
        let Some(digest) = manifest.as_ref().and_then(|action| action.output("config")) else {
            return Ok(Vec::new());
        };
        got.cache
            .read(digest)
            .map_err(StepError::in_context(format!("image {}", self.name)))
    }
}

/// What a root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Unpacked as it is: kernels.
    Plain,
    /// Unpacked into `/`, or a volume: `etc/resolv.conf` leads to `/run`.
    System,
    /// A container's root.
    Container,
}

/// Flattens an origin's layers.
pub struct Root {
    /// Where from.
    pub origin: Origin,
    /// What for.
    pub purpose: Purpose,
}

impl Step for Root {
    fn kind(&self) -> &'static str {
        "root"
    }

    fn label(&self) -> String {
        self.origin.name.clone()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("root", ROOT_VERSION)
            .field("origin", self.origin.identity())
            .number("purpose", self.purpose as u64)
            .finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let layers = match self.origin.layers(got)? {
            Ok(layers) => layers,
            Err(need) => return Ok(Next::Need(need)),
        };
        let (name, purpose) = (self.origin.name.clone(), self.purpose);
        Ok(Next::Run(Task {
            key: KeyBuilder::new("root", ROOT_VERSION)
                .list("layers", layers.iter().map(Digest::as_bytes))
                .number("purpose", purpose as u64)
                .finish(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("root of {name}");
                let finish =
                    finish(scope.cache, purpose).map_err(StepError::in_context(context.clone()))?;
                let tree = flatten(scope.cache, &layers, &finish)
                    .map_err(StepError::in_context(context.clone()))?;
                let packs = super::own_packs(scope.cache, &[tree.0], &layers)
                    .map_err(StepError::in_context(context))?;
                let mut action = super::tree_action(tree);
                action.outputs.extend(packs);
                Ok(action)
            }),
        }))
    }
}

/// The rules for every image, by purpose.
fn finish(
    cache: &Cache,
    purpose: Purpose,
) -> Result<Finish, Box<dyn std::error::Error + Send + Sync>> {
    if purpose == Purpose::Plain {
        return Ok(Finish::default());
    }
    let path = |text: &str| TreePath::from_clean(text.as_bytes());
    let directory = |text: &str| Node::directory(path(text));
    let resolv_conf = match purpose {
        Purpose::Container => Node::new(
            path("etc/resolv.conf"),
            Body::Bytes(RESOLV_CONF.to_vec()),
            0o644,
        ),
        Purpose::System | Purpose::Plain => {
            let target = b"/run/resolvconf/resolv.conf".to_vec();
            Node::new(path("etc/resolv.conf"), Body::Symlink(target), 0o644)
        }
    };
    let fixed = [
        Node::new(path("etc/hosts"), Body::Bytes(HOSTS.to_vec()), 0o644),
        resolv_conf,
    ];
    let missing = [
        directory(""),
        directory("dev"),
        directory("dev/pts"),
        directory("dev/shm"),
        directory("etc"),
        Node::new(
            path("etc/mtab"),
            Body::Symlink(b"/proc/mounts".to_vec()),
            0o755,
        ),
        directory("proc"),
        directory("sys"),
    ];
    let entries = |nodes: &[Node]| -> Result<Vec<Entry>, Box<dyn std::error::Error + Send + Sync>> {
        let made = generate(cache, nodes)?;
        Ok(Tree::open(cache, &made.tree.0)?
            .iter()
            .map(|entry| entry.to_entry())
            .collect())
    };
    Ok(Finish {
        drop: [".dockerenv", "Dockerfile", "dev/console", "etc/hostname"]
            .map(path)
            .to_vec(),
        replace: entries(&fixed)?,
        add: entries(&missing)?,
    })
}

/// Lays finished trees over each other, without the paths in `drop`.
pub struct Stack {
    /// What people call it.
    pub label: String,
    /// The trees, bottom first.
    pub trees: Vec<Digest>,
    /// Entries to leave out: exactly these paths, not what lies below them.
    pub drop: Vec<TreePath>,
}

impl Step for Stack {
    fn kind(&self) -> &'static str {
        "stack"
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("stack", ROOT_VERSION)
            .list("trees", self.trees.iter().map(Digest::as_bytes))
            .list("drop", self.drop.iter().map(TreePath::as_bytes))
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (label, trees) = (self.label.clone(), self.trees.clone());
        let finish = Finish {
            drop: self.drop.clone(),
            ..Finish::default()
        };
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let tree =
                    flatten(scope.cache, &trees, &finish).map_err(StepError::in_context(label))?;
                Ok(super::tree_action(tree))
            }),
        }))
    }
}
