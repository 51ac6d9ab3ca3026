//! From what was written to what is meant: every image an origin, every host file a digest.
//!
//! Enters: a request. Leaves: a [`Plan`] and the list of files it was made from. The network is
//! not asked here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::FileStamp;
use kiln_cache::{Action, Cache, Digest, Key, KeyBuilder};

use super::fresh::Inputs;
use super::packages::Packages as LinuxKitPackages;
use super::{BuildError, Description, Network, Request, YAML_MAX_BYTES};
use crate::event::{Event, Listener};
use crate::lockfile::{Lock, LockedImage, LockedPackages};
use crate::source::credentials::Credentials;
use crate::source::debian::DebianRequest;
use crate::source::docker_archive::DockerArchive;
use crate::source::docker_engine::{DockerEngine, EngineImage};
use crate::source::http::{Http, HttpOptions, ProxyOptions};
use crate::source::oci_layout::OciLayout;
use crate::source::platform::ParsePlatformError;
use crate::source::registry::{Registry, RegistryOptions};
use crate::source::{ImageName, Platform};
use crate::spec::{
    Debian, ImageSource, InitEntry, Position, Section, Spanned, Spec, SpecError, SpecErrors,
    Volume, VolumeFormat,
};
use crate::step::debian::Packages;
use crate::step::image::{Image, Resolve};
use crate::step::kernel::Kernel;
use crate::step::layout::{EVERY_PLATFORM, Layout, Shelf};
use crate::step::root::{Origin, Source};
use crate::step::scheduler::run as run_graph;
use crate::step::system::{Init, Plan, VolumeContent};
use crate::step::{Next, Results, Step, StepError};
use crate::system::files::{FileKind, file_nodes};
use crate::system::ids::Ids;
use crate::system::metadata::{dry_run, metadata};
use crate::tree::TreePath;
use crate::tree::directory;
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
    let mut inputs = Inputs::default();
    let spec = read(request, listener, &mut inputs)?;
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

fn http(network: &Network) -> Http {
    let no_proxy = network.no_proxy.as_deref().unwrap_or_default().split(',');
    let limits = HttpOptions::default();
    Http::new(HttpOptions {
        timeout_idle: network.timeout.unwrap_or(limits.timeout_idle),
        timeout_connect: network.timeout.unwrap_or(limits.timeout_connect),
        ca_files: network.ca_files.clone(),
        insecure: network.insecure_registries.clone(),
        proxy: ProxyOptions {
            http: network.http_proxy.clone(),
            https: network.https_proxy.clone(),
            no_proxy: no_proxy
                .map(str::trim)
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
        },
        ..limits
    })
}

/// Makes the access to all registries.
pub(crate) fn registry(network: &Network) -> (Http, Registry) {
    let http = http(network);
    let credentials = network
        .docker_config
        .clone()
        .map(Credentials::from_file)
        .unwrap_or_default();
    let options = RegistryOptions {
        mirrors: network.mirrors.clone(),
        credentials,
    };
    (http.clone(), Registry::new(http, options))
}

/// Returns the Docker engine that is asked first.
fn engine(request: &Request) -> Option<Arc<DockerEngine>> {
    let socket = request.docker.clone().filter(|_| !request.pull)?;
    let idle = request.network.timeout;
    let idle = idle.unwrap_or(HttpOptions::default().timeout_idle);
    Some(Arc::new(DockerEngine::new(socket, idle)))
}

struct Planner<'a> {
    request: &'a Request,
    lock: &'a Lock,
    inputs: &'a mut Inputs,
    platform: Platform,
    http: Http,
    registry: Registry,
    engine: Option<Arc<DockerEngine>>,
    /// Images that an engine is asked for, by name: each is asked for once.
    engine_images: BTreeMap<String, Arc<EngineImage>>,
    has_layouts: bool,
    now: i64,
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
                    one(&entry.at, message)
                })?),
                InitEntry::Image(image) => Init::Origin(self.image(image, &entry.at)?),
            });
        }
        let mut containers = BTreeMap::new();
        for section in Section::ALL {
            let origins: Result<Vec<_>, _> = spec
                .containers(section)
                .iter()
                .map(|container| self.origin(&container.image))
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

    fn volume(&mut self, volume: &Volume) -> Result<VolumeContent, BuildError> {
        let Some(image) = &volume.image else {
            return Ok(VolumeContent::Blank);
        };
        let format = volume.format.as_deref().copied().unwrap_or_default();
        Ok(match format {
            VolumeFormat::Filesystem => VolumeContent::Files(self.origin(image)?),
            VolumeFormat::Oci => {
                self.has_layouts = true;
                VolumeContent::Layout(Arc::new(self.layout(image, volume)?))
            }
        })
    }

    /// Plans an image that is kept as it is, for several platforms.
    fn layout(
        &mut self,
        image: &Spanned<ImageSource>,
        volume: &Volume,
    ) -> Result<Layout, BuildError> {
        let name = match &image.value {
            ImageSource::Image(text) => Some((text, self.image_name(text, &image.at)?)),
            ImageSource::Debian(_) => None,
        };
        let (name, source): (_, Arc<dyn Shelf>) = match name {
            Some((_, ImageName::Registry(reference))) => {
                let name = reference.canonical();
                let pinned = self.lock.image(&name, EVERY_PLATFORM);
                let reference = match pinned {
                    Some(pinned) => reference.pinned(pinned.manifest),
                    None => reference,
                };
                (name, Arc::new(self.registry.image(&reference)))
            }
            Some((text, ImageName::OciLayout { path, tag })) => {
                (text.clone(), Arc::new(OciLayout::new(path, tag)))
            }
            Some((text, ImageName::OciArchive { path, tag })) => {
                (text.clone(), Arc::new(OciLayout::archive(path, tag)))
            }
            _ => {
                let message =
                    "only an image of a registry or an OCI layout can be kept as a layout";
                return Err(one(&image.at, message.into()));
            }
        };
        for input in source.inputs() {
            self.look_at(&input);
        }
        let platform = |platform: &Spanned<String>| {
            let parsed = platform.value.parse();
            parsed.map_err(|error: ParsePlatformError| one(&platform.at, error.to_string()))
        };
        Ok(Layout {
            name,
            source,
            platforms: volume
                .platforms
                .iter()
                .map(platform)
                .collect::<Result<_, _>>()?,
            own: self.platform.clone(),
            refresh: self.request.pull,
        })
    }

    fn image_name(&self, text: &str, at: &Position) -> Result<ImageName, BuildError> {
        let base = self.base(at)?;
        ImageName::parse(text)
            .and_then(|name| name.resolve_paths(&base, self.request.network.home.as_deref()))
            .map_err(|error| one(at, error.to_string()))
    }

    fn origin(&mut self, image: &Spanned<ImageSource>) -> Result<Origin, BuildError> {
        self.image(&image.value, &image.at)
    }

    fn image(&mut self, image: &ImageSource, at: &Position) -> Result<Origin, BuildError> {
        match image {
            ImageSource::Image(text) => self.named(text, at),
            ImageSource::Debian(debian) => self.debian(debian, at),
        }
    }

    /// Returns the directory that relative paths of a YAML start from: its own.
    fn base(&self, at: &Position) -> Result<PathBuf, BuildError> {
        let file =
            std::path::absolute(at.file()).map_err(BuildError::file(Path::new(at.file())))?;
        Ok(file.parent().unwrap_or(Path::new("/")).to_owned())
    }

    fn named(&mut self, text: &str, at: &Position) -> Result<Origin, BuildError> {
        let name = self.image_name(text, at)?;
        let reference = match &name {
            ImageName::Registry(reference) => Some(reference.clone()),
            _ => None,
        };
        let (name, source) = match name {
            ImageName::Registry(reference) => {
                let image = Arc::new(self.registry.image(&reference))
                    as Arc<dyn crate::source::ImageSource>;
                (reference.canonical(), image)
            }
            ImageName::OciLayout { path, tag } => {
                (text.to_owned(), Arc::new(OciLayout::new(path, tag)) as _)
            }
            ImageName::OciArchive { path, tag } => (
                text.to_owned(),
                Arc::new(OciLayout::archive(path, tag)) as _,
            ),
            ImageName::DockerArchive { path, reference } => (
                text.to_owned(),
                Arc::new(DockerArchive::new(path, reference)) as _,
            ),
            ImageName::Directory(path) => {
                let files = directory::files(&path).map_err(|error| one(at, error.to_string()))?;
                for file in files {
                    self.look_at(&file);
                }
                return Ok(Origin {
                    name: text.to_owned(),
                    source: Source::Directory(path),
                });
            }
        };
        for input in source.inputs() {
            self.look_at(&input);
        }
        let pinned = self.lock.image(&name, &self.platform.to_string());
        // What a digest names is the registry's: an engine cannot show that it has the same.
        let engine = match (&self.engine, reference) {
            (Some(engine), Some(reference)) if pinned.is_none() && source.digest().is_none() => {
                let image = self
                    .engine_images
                    .entry(reference.key())
                    .or_insert_with(|| {
                        Arc::new(EngineImage::new(engine.clone(), reference, source.clone()))
                    });
                Some(image.clone())
            }
            _ => None,
        };
        let source = match &engine {
            Some(engine) => engine.clone() as Arc<dyn crate::source::ImageSource>,
            None => source,
        };
        let image = Image {
            source,
            engine,
            platform: self.platform.clone(),
            pinned,
            refresh: self.request.pull,
        };
        Ok(Origin {
            name,
            source: Source::Image(Arc::new(image)),
        })
    }

    fn debian(&mut self, debian: &Debian, at: &Position) -> Result<Origin, BuildError> {
        let base = self.base(at)?;
        let request = DebianRequest {
            suite: debian.suite.as_ref().map(|suite| suite.value.clone()),
            packages: debian
                .packages
                .iter()
                .map(|package| package.value.clone())
                .collect(),
            mirror: debian.mirror.as_ref().map(|mirror| mirror.value.clone()),
            keyring: debian
                .keyring
                .as_ref()
                .map(|keyring| base.join(&keyring.value)),
            architecture: self.request.architecture.clone(),
        };
        let name = format!(
            "debian:{}:{}",
            request.suite.as_deref().unwrap_or("host"),
            request.packages.join(",")
        );
        let mut packages = Packages {
            request,
            locked: None,
            refresh: self.request.pull,
            http: self.http.clone(),
            now: self.now,
        };
        if let Some(lines) = self.lock.resolved(&packages.identity()) {
            let locked: Result<Vec<_>, _> = lines
                .iter()
                .map(|line| serde_json::from_str(line))
                .collect();
            packages.locked = Some(locked.map_err(|error| {
                one(
                    at,
                    format!("its entry in the lock file is damaged: {error}"),
                )
            })?);
        }
        Ok(Origin {
            name,
            source: Source::Debian(Arc::new(packages)),
        })
    }

    /// Notes a file whose change must be seen, but whose content is read elsewhere.
    fn look_at(&mut self, path: &Path) {
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

fn one(at: &Position, message: String) -> BuildError {
    let error: SpecError = at.error(message);
    BuildError::Spec(vec![error])
}

/// Resolves every name of a plan, and nothing more.
struct Names(Arc<Plan>);

impl Step for Names {
    fn kind(&self) -> &'static str {
        "lock"
    }

    fn label(&self) -> String {
        "names".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("lock", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let mut needed: Vec<Arc<dyn Step>> = Vec::new();
        let mut lock = Lock::default();
        for origin in self.0.origins() {
            match &origin.source {
                Source::Directory(_) => {}
                // What stands in files of the host is pinned by them.
                Source::Image(image) if !image.source.inputs().is_empty() => {}
                Source::Image(image) => {
                    let step: Arc<dyn Step> = Arc::new(Resolve(image.clone()));
                    match got.get(&*step) {
                        None => needed.push(step),
                        Some(resolved) => {
                            let found = crate::step::image::located(&resolved)?;
                            let attestations = found.attestations.iter().map(ToString::to_string);
                            lock.images.push(LockedImage {
                                image: origin.name.clone(),
                                platform: image.platform.to_string(),
                                manifest: found.manifest.to_string(),
                                attestations: attestations.collect(),
                            });
                        }
                    }
                }
                Source::Debian(packages) => match packages.solution(got)? {
                    Err(need) => needed.extend(need),
                    Ok(solution) => {
                        let lines: Result<Vec<_>, _> =
                            solution.iter().map(serde_json::to_string).collect();
                        lock.packages.push(LockedPackages {
                            request: packages.identity(),
                            resolved: lines.map_err(StepError::in_context("lock"))?,
                        });
                    }
                },
            }
        }
        for content in &self.0.volumes {
            let VolumeContent::Layout(layout) = content else {
                continue;
            };
            if !layout.source.inputs().is_empty() {
                continue;
            }
            match layout.top(got)? {
                Err(need) => needed.extend(need),
                Ok(top) => lock.images.push(LockedImage {
                    image: layout.name.clone(),
                    platform: EVERY_PLATFORM.to_owned(),
                    manifest: top.to_string(),
                    attestations: Vec::new(),
                }),
            }
        }
        if !needed.is_empty() {
            return Ok(Next::Need(needed));
        }
        Ok(Next::Done(Action {
            values: vec![("lock".into(), lock.render().into_bytes())],
            ..Action::default()
        }))
    }
}

/// Returns what the names of a plan mean now.
pub(super) fn resolve(
    plan: &Arc<Plan>,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Lock, BuildError> {
    let root: Arc<dyn Step> = Arc::new(Names(plan.clone()));
    let (result, _) = run_graph(cache, listener, cancel, &root)?;
    let text = String::from_utf8_lossy(result.value("lock").unwrap_or_default()).into_owned();
    Lock::parse(&text).map_err(|source| BuildError::Lock {
        path: PathBuf::from("lock"),
        source,
    })
}
