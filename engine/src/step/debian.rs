//! Debian packages: a request becomes an index, a solution, and a layer per package.
//!
//! Leaves: `index` (object `index`), `solve` (value `packages`), `package` (objects `pack`, `tree`)
//! and, on top of them, what their maintainer scripts would have done and matters.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use kiln_cache::{Action, Cache, Digest, Key, KeyBuilder};

use super::image::tree_of;
use super::layer::unpacked;
use super::{Known, Lane, Need, Next, Results, Reuse, Step, StepError, Task};
use crate::source::debian::transport::{Body, Transport, TransportError};
use crate::source::debian::{self, DebianError, DebianRequest, Package, finish};
use crate::source::http::{Http, HttpError};
use crate::tree::file::FileReader;
use crate::tree::flatten::flatten;
use crate::tree::generate::{Body as NodeBody, Node, generate};
use crate::tree::path::{is_under, name, parent};
use crate::tree::tar::MemberKind;
use crate::tree::unpack::Options;
use crate::tree::{Kind, Tree, TreePath};

/// Changes when the tree of the same package may change.
const PACKAGE_VERSION: u32 = 2;
/// Changes when the index of the same archives may be stored in another form.
const INDEX_VERSION: u32 = 1;

/// Changes when the same packages may be finished in another way.
const FINISH_VERSION: u32 = 2;

/// The most that is read of one file to finish packages: a user database, a script.
const FINISH_MAX_BYTES: u64 = 64 << 20;

/// Packages as the YAML asks for them, and how to reach them.
pub struct Packages {
    /// What is asked for.
    pub request: DebianRequest,
    /// What a lock says it comes to.
    pub locked: Option<Vec<Package>>,
    /// Whether indexes are looked up anew.
    pub refresh: bool,
    /// The network.
    pub http: Http,
    /// Seconds since 1970, for the validity of indexes.
    pub now: i64,
}

impl Packages {
    /// Returns a line that says everything about the request: what locks call it.
    #[must_use]
    pub fn identity(&self) -> String {
        let request = &self.request;
        let mirror = request.mirror.as_deref().unwrap_or("-");
        let suite = request.suite.as_deref().unwrap_or("-");
        let mut packages = request.packages.clone();
        packages.sort();
        format!(
            "{mirror} {suite} {} {}",
            request.architecture,
            packages.join(" ")
        )
    }

    fn context(&self) -> String {
        format!("debian packages {}", self.request.packages.join(" "))
    }

    /// Returns the solution; or what is needed before it is known.
    ///
    /// # Errors
    /// When the cache's record cannot be read.
    pub fn solution(self: &Arc<Self>, got: &Results<'_>) -> Known<Vec<Package>> {
        if let Some(locked) = &self.locked {
            return Ok(Ok(locked.clone()));
        }
        let solve: Arc<dyn Step> = Arc::new(Solve(self.clone()));
        let Some(solved) = got.get(&*solve) else {
            return Ok(Err(vec![solve]));
        };
        let packages = solved.value("packages").unwrap_or_default();
        serde_json::from_slice(packages)
            .map(Ok)
            .map_err(StepError::in_context(self.context()))
    }

    /// Returns the steps for the layers, bottom first; or what is needed before they are known.
    pub(crate) fn layers(self: &Arc<Self>, got: &Results<'_>) -> Known<Need> {
        let packages = match self.solution(got)? {
            Ok(packages) => packages,
            Err(need) => return Ok(Err(need)),
        };
        // Those that replace files of others lie above them.
        let packages: Vec<Package> = finish::order::layers(&packages)
            .into_iter()
            .map(|at| packages[at].clone())
            .collect();
        let step = |package| {
            Arc::new(OnePackage {
                origin: self.clone(),
                package,
            }) as Arc<dyn Step>
        };
        let mut steps: Vec<Arc<dyn Step>> = packages.iter().cloned().map(step).collect();
        let done = match got.all(&steps) {
            Ok(done) => done,
            Err(need) => return Ok(Err(need)),
        };
        let mut trees = Vec::new();
        for action in &done {
            trees.push(tree_of(action, &self.context())?);
        }
        let finish = Finish {
            origin: self.clone(),
            packages,
            trees,
        };
        steps.push(Arc::new(finish));
        Ok(Ok(steps))
    }
}

/// Returns where an entry of a package goes in a system with merged /usr.
fn place(path: &TreePath, kind: MemberKind) -> Option<TreePath> {
    let kind = match kind {
        MemberKind::Directory => finish::Kind::Directory,
        MemberKind::Symlink => finish::Kind::Symlink,
        MemberKind::File | MemberKind::HardLink => finish::Kind::File,
        _ => finish::Kind::Other,
    };
    if finish::merge::is_own_link(path.as_bytes(), kind) {
        return None;
    }
    Some(TreePath::from_clean(&finish::merge::map_path(
        path.as_bytes(),
    )))
}

/// Does what the packages' maintainer scripts would have done and matters, as one more layer.
struct Finish {
    origin: Arc<Packages>,
    packages: Vec<Package>,
    trees: Vec<Digest>,
}

impl Step for Finish {
    fn kind(&self) -> &'static str {
        "finish"
    }

    fn label(&self) -> String {
        self.origin.request.packages.join(" ")
    }

    fn id(&self) -> Key {
        KeyBuilder::new("finish", FINISH_VERSION)
            .list("trees", self.trees.iter().map(Digest::as_bytes))
            .list(
                "packages",
                self.packages
                    .iter()
                    .map(|package| package.control.as_bytes()),
            )
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (trees, packages) = (self.trees.clone(), self.packages.clone());
        let context = self.origin.context();
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
                    StepError::new(context, error)
                };
                extras(scope.cache, &trees, &packages).map_err(failed)
            }),
        }))
    }
}

fn extras(
    cache: &Cache,
    trees: &[Digest],
    packages: &[Package],
) -> Result<Action, Box<dyn std::error::Error + Send + Sync>> {
    let (merged, _) = flatten(cache, trees, &Default::default())?;
    let listing = Merged {
        cache,
        tree: Tree::open(cache, &merged)?,
    };
    let mut nodes = Vec::new();
    for (path, extra) in finish::finish(&listing, packages)? {
        let body = match extra.what {
            finish::What::Directory => NodeBody::Directory,
            finish::What::File(bytes) => NodeBody::Bytes(bytes),
            finish::What::Symlink(target) => NodeBody::Symlink(target),
        };
        let node = Node::new(
            TreePath::from_clean(&path),
            body,
            (extra.mode & 0o7777) as u16,
        );
        nodes.push(Node {
            uid: extra.uid,
            gid: extra.gid,
            ..node
        });
    }
    Ok(super::generated::action(&generate(cache, &nodes)?))
}

/// What the packages hold together.
struct Merged<'a> {
    cache: &'a Cache,
    tree: Tree,
}

impl finish::Listing for Merged<'_> {
    fn kind(&self, path: &[u8]) -> Option<finish::Kind> {
        self.tree.find(path).map(|entry| match entry.kind() {
            Kind::Directory => finish::Kind::Directory,
            Kind::File => finish::Kind::File,
            Kind::Symlink => finish::Kind::Symlink,
            _ => finish::Kind::Other,
        })
    }

    fn names(&self, directory: &[u8]) -> Vec<Vec<u8>> {
        let Some(at) = self.tree.position(directory) else {
            return Vec::new();
        };
        let below = (at + 1..self.tree.len()).map(|index| self.tree.get(index).path());
        below
            .take_while(|path| is_under(path, directory))
            .filter(|path| parent(path) == Some(directory))
            .map(|path| name(path).to_vec())
            .collect()
    }

    fn read(&self, path: &[u8]) -> std::io::Result<Vec<u8>> {
        let Some(entry) = self.tree.find(path) else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let mut bytes = Vec::new();
        if entry.size() > FINISH_MAX_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        FileReader::open(self.cache, &entry)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn debian_error(context: String) -> impl FnOnce(DebianError) -> StepError {
    move |error| {
        let hints = error.hints();
        let wrapped = StepError::new(context, error);
        match hints.is_empty() {
            true => wrapped,
            false => wrapped.hint(hints.join("; ")),
        }
    }
}

impl Transport for Http {
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
        let failed = |status, why: String| TransportError {
            url: url.to_owned(),
            status,
            why,
        };
        let response = Self::get(self, url, &[], from).map_err(|error| match &error {
            HttpError::Status { status, .. } => failed(Some(*status), error.to_string()),
            _ => failed(None, error.to_string()),
        })?;
        if response.from != from {
            return Err(failed(None, "the server cannot continue a download".into()));
        }
        Ok((response.length, response.body))
    }
}

/// Fetches and verifies what the archives have.
struct Index(Arc<Packages>);

impl Step for Index {
    fn kind(&self) -> &'static str {
        "index"
    }

    fn label(&self) -> String {
        let suite = self
            .0
            .request
            .suite
            .as_deref()
            .unwrap_or("the host's suite");
        format!("debian {suite} {}", self.0.request.architecture)
    }

    fn id(&self) -> Key {
        let request = &self.0.request;
        KeyBuilder::new("index", INDEX_VERSION)
            .field("suite", request.suite.as_deref().unwrap_or_default())
            .field("mirror", request.mirror.as_deref().unwrap_or_default())
            .field(
                "keyring",
                request
                    .keyring
                    .as_ref()
                    .map_or(&b""[..], |path| path.as_os_str().as_encoded_bytes()),
            )
            .field("architecture", &request.architecture)
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let packages = self.0.clone();
        let context = self.label();
        let sources = debian::sources(Path::new("/"), &packages.request)
            .map_err(debian_error(context.clone()))?;
        let key = KeyBuilder::new("index", INDEX_VERSION)
            .field("sources", format!("{sources:?}"))
            .field("architecture", &packages.request.architecture)
            .finish();
        Ok(Next::Run(Task {
            key,
            lane: Lane::Network,
            reuse: if packages.refresh {
                Reuse::Refresh
            } else {
                Reuse::Always
            },
            work: Box::new(move |scope| {
                let architecture = &packages.request.architecture;
                let index = debian::index(&packages.http, &sources, architecture, packages.now)
                    .map_err(debian_error(context.clone()))?;
                let bytes = index
                    .to_bytes()
                    .map_err(StepError::in_context(context.clone()))?;
                let digest = scope
                    .cache
                    .put(&bytes)
                    .map_err(StepError::in_context(context))?;
                Ok(Action {
                    outputs: vec![("index".into(), digest, bytes.len() as u64)],
                    ..Action::default()
                })
            }),
        }))
    }
}

/// Finds out which packages it takes.
struct Solve(Arc<Packages>);

impl Step for Solve {
    fn kind(&self) -> &'static str {
        "solve"
    }

    fn label(&self) -> String {
        self.0.request.packages.join(" ")
    }

    fn id(&self) -> Key {
        KeyBuilder::new("solve", 1)
            .field("request", self.0.identity())
            .finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let step: Arc<dyn Step> = Arc::new(Index(self.0.clone()));
        let Some(index) = got.get(&*step) else {
            return Ok(Next::Need(vec![step]));
        };
        let context = self.0.context();
        let digest = *index.output("index").ok_or_else(|| {
            StepError::new(
                context.clone(),
                "the cache's record of its index is damaged",
            )
        })?;
        let packages = self.0.clone();
        let mut wanted = packages.request.packages.clone();
        wanted.sort();
        Ok(Next::Run(Task {
            key: KeyBuilder::new("solve", 1)
                .digest("index", &digest)
                .field("architecture", &packages.request.architecture)
                .list("packages", &wanted)
                .finish(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let bytes = scope
                    .cache
                    .read(&digest)
                    .map_err(StepError::in_context(context.clone()))?;
                let index = debian::packages::Index::from_bytes(&bytes)
                    .map_err(StepError::in_context(context.clone()))?;
                drop(bytes);
                let solved = debian::solve::solve(&index, &packages.request)
                    .map_err(StepError::in_context(context.clone()))?;
                let json = serde_json::to_vec(&solved).map_err(StepError::in_context(context))?;
                Ok(Action {
                    values: vec![("packages".into(), json)],
                    ..Action::default()
                })
            }),
        }))
    }
}

/// Downloads, verifies and indexes the files of a package.
struct OnePackage {
    origin: Arc<Packages>,
    package: Package,
}

impl Step for OnePackage {
    fn kind(&self) -> &'static str {
        "package"
    }

    fn label(&self) -> String {
        format!("{} {}", self.package.name, self.package.version)
    }

    fn id(&self) -> Key {
        KeyBuilder::new("package", PACKAGE_VERSION)
            .field("sha256", self.package.sha256.as_bytes())
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (origin, package) = (self.origin.clone(), self.package.clone());
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("package {} {}", package.name, package.version);
                let mut files =
                    debian::fetch(&origin.http, &package).map_err(debian_error(context.clone()))?;
                let options = Options {
                    literal_whiteouts: true,
                    map: Some(&place),
                    ..Options::default()
                };
                let action = unpacked(scope, &mut files, &options, package.size, context.clone())?;
                files.finish().map_err(StepError::in_context(context))?;
                Ok(action)
            }),
        }))
    }
}
