//! From what was written to what is meant: every image an origin, every host file a digest.
//!
//! Enters: a request. Leaves: a [`Plan`] and the list of files it was made from. The network is
//! not asked here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::{Cache, Digest, FileStamp};

use super::fresh::Inputs;
use super::origins::{engine, http, registry};
use super::packages::Packages as LinuxKitPackages;
use super::{BuildError, Description, Network, Request, YAML_MAX_BYTES};
use crate::event::{Event, Listener};
use crate::lockfile::Lock;
use crate::source::Platform;
use crate::source::docker_engine::{DockerEngine, EngineImage};
use crate::source::http::Http;
use crate::source::registry::Registry;
use crate::spec::{ImageSource, InitEntry, Position, Section, Spec, SpecError, SpecErrors};
use crate::step::StepError;
use crate::step::kernel::Kernel;
use crate::step::system::{Init, Plan};
use crate::system::files::{FileKind, file_nodes};
use crate::system::ids::Ids;
use crate::system::metadata::{dry_run, metadata};
use crate::tree::TreePath;
use crate::tree::generate::{Body, Node};

/// A plan and what it was made from.
pub(super) struct Planned {
    pub(super) plan: Arc<Plan>,
    pub(super) inputs: Inputs,
    /// Where the lock is, or is to be.
    pub(super) lock_path: Option<PathBuf>,
    /// What was asked, for its notes.
    pub(super) registry: Registry,
}

impl Planned {
    pub(super) fn cmdline(&self) -> Option<String> {
        self.plan
            .kernel
            .as_ref()
            .map(|kernel| kernel.cmdline.clone())
    }
}

/// Plans a request, honouring its lock when there is one.
pub(super) fn plan(request: &Request, listener: &dyn Listener) -> Result<Planned, BuildError> {
    let Some(path) = lock_path(request)? else {
        return plan_with(request, listener, &Lock::default());
    };
    let mut inputs = Inputs::default();
    let lock = match FileStamp::read(&path, YAML_MAX_BYTES) {
        Ok((stamp, bytes)) => {
            inputs.files.push(stamp);
            let text = String::from_utf8_lossy(&bytes);
            Lock::parse(&text).map_err(|source| BuildError::Lock {
                path: path.clone(),
                source,
            })?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            inputs.absent.push(path);
            Lock::default()
        }
        Err(error) => return Err(BuildError::file(&path)(error)),
    };
    let mut planned = plan_with(request, listener, &lock)?;
    planned.inputs.files.extend(inputs.files);
    planned.inputs.absent.extend(inputs.absent);
    Ok(planned)
}

/// Returns `NAME.lock` beside the last YAML, which is the one that names the system. What is no
/// file has no lock.
fn lock_path(request: &Request) -> Result<Option<PathBuf>, BuildError> {
    match request.descriptions.last() {
        None => Err(BuildError::usage(
            "no YAML file is given",
            "kiln build FILE.yml",
        )),
        Some(Description::Text { .. }) => Ok(None),
        Some(Description::File(last)) => std::path::absolute(last)
            .map(|path| Some(path.with_extension("lock")))
            .map_err(BuildError::file(last)),
    }
}

/// Plans a request with this lock.
pub(super) fn plan_with(
    request: &Request,
    listener: &dyn Listener,
    lock: &Lock,
) -> Result<Planned, BuildError> {
    plan_changed(request, listener, lock, |_| {})
}

/// Plans a request whose descriptions are not taken as they are.
pub(super) fn plan_changed(
    request: &Request,
    listener: &dyn Listener,
    lock: &Lock,
    change: impl FnOnce(&mut Spec),
) -> Result<Planned, BuildError> {
    let mut inputs = Inputs::default();
    let mut spec = read(request, listener, &mut inputs)?;
    change(&mut spec);
    let mut planner = Planner::new(request, lock, &mut inputs);
    let cache = std::path::absolute(&request.cache).map_err(BuildError::file(&request.cache))?;
    planner.look_at(&Cache::epoch_file(&cache));
    let plan = planner.plan(spec)?;
    if planner.engine.is_some() && planner.has_layouts {
        let text = "volumes with format: oci do not come from the Docker engine";
        listener.event(&Event::Warning(text.to_owned()));
    }
    let registry = planner.registry;
    Ok(Planned {
        plan: Arc::new(plan),
        inputs,
        lock_path: lock_path(request)?,
        registry,
    })
}

/// Returns the merged descriptions as YAML, in LinuxKit's `--dry-run` form: nothing is looked up
/// or built.
///
/// # Errors
/// When a description cannot be read or is wrong.
pub fn describe(request: &Request, listener: &dyn Listener) -> Result<String, BuildError> {
    merged(request, listener).map(|spec| dry_run(&spec))
}

/// Returns the merged descriptions: nothing is looked up or built.
///
/// # Errors
/// When a description cannot be read or is wrong.
pub fn merged(request: &Request, listener: &dyn Listener) -> Result<Spec, BuildError> {
    read(request, listener, &mut Inputs::default())
}

/// Fetches a description over http or https.
///
/// # Errors
/// When the server does not answer with one.
pub fn fetch(url: &str, network: &Network) -> Result<Description, BuildError> {
    let failed = |error| BuildError::Step(StepError::new(url, error));
    let bytes = http(network)
        .get(url, &[], 0)
        .and_then(|response| response.read_all(YAML_MAX_BYTES))
        .map_err(failed)?;
    Ok(Description::Text {
        name: url.to_owned(),
        bytes,
        is_local: false,
    })
}

fn read(
    request: &Request,
    listener: &dyn Listener,
    inputs: &mut Inputs,
) -> Result<Spec, BuildError> {
    let mut whole: Option<Spec> = None;
    let mut packages = LinuxKitPackages::default();
    for description in &request.descriptions {
        let (bytes, stamp) = description.bytes()?;
        inputs.files.extend(stamp);
        let spec = description.parse(&bytes, &mut packages)??;
        match &mut whole {
            None => whole = Some(spec),
            Some(whole) => whole.append(spec)?,
        }
    }
    inputs.packages = packages.resolved();
    let spec = whole.unwrap_or_default();
    spec.check_jobs()?;
    for warning in &spec.warnings {
        listener.event(&Event::Warning(format!("{}: {warning}", warning.at())));
    }
    Ok(spec)
}

impl Description {
    /// Returns its YAML, and of a file its stamp.
    pub(super) fn bytes(&self) -> Result<(Cow<'_, [u8]>, Option<FileStamp>), BuildError> {
        match self {
            Self::Text { bytes, .. } => Ok((bytes.into(), None)),
            Self::File(file) => {
                let path = std::path::absolute(file).map_err(BuildError::file(file))?;
                let (stamp, bytes) =
                    FileStamp::read(&path, YAML_MAX_BYTES).map_err(BuildError::file(file))?;
                Ok((bytes.into(), Some(stamp)))
            }
        }
    }

    /// Parses its YAML, with the packages that it names.
    pub(super) fn parse(
        &self,
        bytes: &[u8],
        packages: &mut LinuxKitPackages,
    ) -> Result<Result<Spec, SpecErrors>, BuildError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(BuildError::file(path));
        let base = match self {
            Self::File(file) => absolute(file)?.parent().map(Path::to_owned),
            Self::Text { is_local: true, .. } => Some(absolute(Path::new("."))?),
            Self::Text { .. } => None,
        };
        let mut resolve = |path: &str| packages.resolve(base.as_deref(), path);
        Ok(Spec::parse_with(bytes, &self.name(), &mut resolve))
    }
}

pub(super) struct Planner<'a> {
    pub(super) request: &'a Request,
    pub(super) lock: &'a Lock,
    pub(super) inputs: &'a mut Inputs,
    pub(super) platform: Platform,
    pub(super) http: Http,
    pub(super) registry: Registry,
    pub(super) engine: Option<Arc<DockerEngine>>,
    /// Images that an engine is asked for, by name: each is asked for once.
    pub(super) engine_images: BTreeMap<String, Arc<EngineImage>>,
    pub(super) has_layouts: bool,
    pub(super) now: i64,
}

impl<'a> Planner<'a> {
    fn new(request: &'a Request, lock: &'a Lock, inputs: &'a mut Inputs) -> Self {
        let (http, registry) = registry(&request.network);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        Self {
            request,
            lock,
            inputs,
            platform: Platform::new("linux", &request.architecture, None),
            http,
            registry,
            engine: engine(request),
            engine_images: BTreeMap::new(),
            has_layouts: false,
            now: i64::try_from(now).unwrap_or(i64::MAX),
        }
    }

    fn plan(&mut self, spec: Spec) -> Result<Plan, BuildError> {
        let ids = Ids::assign(&spec);
        let files = self.files(&spec, &ids)?;
        let kernel = match spec
            .kernel
            .as_ref()
            .and_then(|kernel| Some((kernel, kernel.image.as_ref()?)))
        {
            None => None,
            Some((kernel, image)) => {
                let debian = matches!(image.value, ImageSource::Debian(_));
                Some(Arc::new(Kernel {
                    origin: self.origin(image)?,
                    debian,
                    cmdline: kernel.cmdline_text().to_owned(),
                    binary: kernel
                        .binary
                        .as_ref()
                        .map(|name| name.value.clone())
                        .filter(|name| !name.is_empty()),
                    tar: kernel.tar_name().map(str::to_owned).filter(|_| !debian),
                    ucode: kernel.ucode_name().map(str::to_owned),
                    modules: kernel.modules.as_ref().map(|modules| modules.value.clone()),
                    decompress: self.request.decompress_kernel,
                }))
            }
        };
        let mut init = Vec::new();
        for entry in &spec.init {
            init.push(match &entry.value {
                InitEntry::Kiln => Init::Kiln(self.request.guest.ok_or_else(|| {
                    let message = format!(
                        "this kiln carries no init for {}",
                        self.request.architecture
                    );
                    let hint = "build kiln with KILN_GUEST_TARGETS=TARGET for it, or use LinuxKit's init, runc and containerd images";
                    BuildError::Spec(vec![entry.at.error(message).with_hint(hint)])
                })?),
                InitEntry::Image(image) => Init::Origin(self.image(image, &entry.at)?),
            });
        }
        let mut containers = BTreeMap::new();
        for section in Section::ALL {
            let origins: Result<Vec<_>, _> = spec
                .containers(section)
                .iter()
                .map(|container| match container.job() {
                    Some(_) => Ok(None),
                    None => self.origin(&container.image).map(Some),
                })
                .collect();
            containers.insert(section, origins?);
        }
        let mut volumes = Vec::new();
        for volume in &spec.volumes {
            volumes.push(self.volume(volume)?);
        }
        let formats = self.request.formats.clone();
        let sbom = self.request.sbom.clone();
        Ok(Plan {
            spec,
            ids,
            kernel,
            init,
            containers,
            volumes,
            files,
            formats,
            sbom,
        })
    }

    /// Notes a file whose change must be seen, but whose content is read elsewhere.
    pub(super) fn look_at(&mut self, path: &Path) {
        let unread = FileStamp::begin(path);
        match unread {
            // Racy files are hashed at the next check, and do not match: then they are read again.
            Ok(unread) => self.inputs.files.push(unread.read_as(Digest::of(b""))),
            Err(_) => self.inputs.absent.push(path.to_owned()),
        }
    }

    fn files(&mut self, spec: &Spec, ids: &Ids) -> Result<Vec<Node>, BuildError> {
        let mut nodes = Vec::new();
        for file in file_nodes(&spec.files, ids)? {
            let body = match file.kind {
                FileKind::Directory => Body::Directory,
                FileKind::Symlink(target) => Body::Symlink(target.into_bytes()),
                FileKind::Contents(bytes) => Body::Bytes(bytes),
                FileKind::Metadata(format) => Body::Bytes(metadata(spec, format)),
                FileKind::Source(source) => match self.host_file(&source, file.optional) {
                    Ok(Some(body)) => body,
                    Ok(None) => continue,
                    Err(error) => {
                        return Err(one(&file.at, format!("cannot read {source}: {error}")));
                    }
                },
            };
            let path = TreePath::parse(file.path.as_bytes())
                .map_err(|error| one(&file.at, format!("{} {error}", file.path)))?;
            nodes.push(Node {
                path,
                body,
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
            });
        }
        Ok(nodes)
    }

    fn host_file(&mut self, source: &str, optional: bool) -> std::io::Result<Option<Body>> {
        let path = match (source.strip_prefix("~/"), &self.request.network.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(source),
        };
        let path = std::path::absolute(path)?;
        match FileStamp::of(&path) {
            Ok(stamp) if stamp.kind == kiln_cache::file_stamp::FileKind::Directory => {
                Err(std::io::Error::other("it is a directory; name a file"))
            }
            Ok(stamp) => {
                let body = Body::Host(path, stamp.digest);
                self.inputs.files.push(stamp);
                Ok(Some(body))
            }
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {
                self.inputs.absent.push(path);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn one(at: &Position, message: String) -> BuildError {
    let error: SpecError = at.error(message);
    BuildError::Spec(vec![error])
}
