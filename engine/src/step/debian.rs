//! Debian packages: a request becomes an index, a solution, and a layer per package.
//!
//! Leaves: `index` (object `index`), `solve` (value `packages`), `package` (objects `pack`, `tree`)
//! and, on top of them, what their maintainer scripts would have done and matters.

use std::path::Path;
use std::sync::Arc;

use kiln_cache::{Action, Key, KeyBuilder};

use super::generated::Generated;
use super::image::unpacked;
use super::{Lane, Next, Results, Reuse, Step, StepError, Task};
use crate::source::debian::transport::{Body, Transport, TransportError};
use crate::source::debian::{self, DebianError, DebianRequest, Package};
use crate::source::http::{Http, HttpError};
use crate::tree::TreePath;
use crate::tree::generate::{Body as NodeBody, Node};
use crate::tree::unpack::Options;

/// Changes when the tree of the same package may change.
const PACKAGE_VERSION: u32 = 1;
/// Changes when the index of the same archives may be stored in another form.
const INDEX_VERSION: u32 = 1;

/// Directories at the top that live below `usr`, and are links to there (merged /usr).
const MERGED: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];

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
    pub fn solution(
        self: &Arc<Self>,
        got: &Results<'_>,
    ) -> Result<Result<Vec<Package>, Vec<Arc<dyn Step>>>, StepError> {
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
    pub(crate) fn layers(
        self: &Arc<Self>,
        got: &Results<'_>,
    ) -> Result<Result<Vec<Arc<dyn Step>>, Vec<Arc<dyn Step>>>, StepError> {
        let packages = match self.solution(got)? {
            Ok(packages) => packages,
            Err(need) => return Ok(Err(need)),
        };
        let step = |package| {
            Arc::new(OnePackage {
                origin: self.clone(),
                package,
            }) as Arc<dyn Step>
        };
        let mut steps: Vec<Arc<dyn Step>> = packages.into_iter().map(step).collect();
        let done = match got.all(&steps) {
            Ok(done) => done,
            Err(need) => return Ok(Err(need)),
        };
        let links = merged_links(&done);
        if !links.is_empty() {
            steps.push(Arc::new(Generated {
                kind: "finish",
                label: "merged /usr".into(),
                nodes: links,
            }));
        }
        Ok(Ok(steps))
    }
}

/// Returns the links at the top that these packages' files are reached by.
fn merged_links(packages: &[Arc<Action>]) -> Vec<Node> {
    let used = |top: &str| {
        packages.iter().any(|package| {
            package
                .value("merged")
                .unwrap_or_default()
                .split(|byte| *byte == b' ')
                .any(|word| word == top.as_bytes())
        })
    };
    let link = |top: &str| {
        let body = NodeBody::Symlink(format!("usr/{top}").into_bytes());
        Node::new(TreePath::from_clean(top.as_bytes()), body, 0o777)
    };
    MERGED
        .iter()
        .copied()
        .filter(|top| used(top))
        .map(link)
        .collect()
}

/// Returns where a path of a package goes in a system with merged /usr.
fn merge_usr(path: &TreePath) -> TreePath {
    let bytes = path.as_bytes();
    let top = bytes.split(|byte| *byte == b'/').next().unwrap_or_default();
    if MERGED.iter().any(|merged| merged.as_bytes() == top) {
        return TreePath::from_clean(b"usr").join(bytes);
    }
    path.clone()
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
                let json =
                    serde_json::to_vec(&solved).map_err(StepError::in_context(context.clone()))?;
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
                let map = |path: &TreePath| Some(merge_usr(path));
                let merged = std::sync::Mutex::new(std::collections::BTreeSet::new());
                let map = |path: &TreePath| {
                    let to = map(path)?;
                    if to != *path {
                        let top = path
                            .as_bytes()
                            .split(|byte| *byte == b'/')
                            .next()
                            .unwrap_or_default();
                        merged
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .insert(top.to_vec());
                    }
                    Some(to)
                };
                let options = Options {
                    literal_whiteouts: true,
                    map: Some(&map),
                    ..Options::default()
                };
                let mut action =
                    unpacked(scope, &mut files, &options, package.size, context.clone())?;
                files.finish().map_err(StepError::in_context(context))?;
                let merged = merged
                    .into_inner()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let merged: Vec<Vec<u8>> = merged.into_iter().collect();
                action.values.push(("merged".into(), merged.join(&b' ')));
                Ok(action)
            }),
        }))
    }
}
