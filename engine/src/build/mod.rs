//! The front door: one request, one report.
//!
//! Enters: YAML files and options, as a person gave them, with every default that comes from the
//! environment already filled in by the caller. Leaves: outputs on disk and a [`Report`].

mod archive;
mod fresh;
mod identity;
mod keep;
mod migrate;
mod origins;
mod packages;
mod pins;
mod plan;
mod reach;
mod services;
mod settings;
mod tiers;
mod walk;
mod write;

pub use archive::{Selection, export_archive, import_archive, recognise};
pub use identity::{cache_key, cache_key_prefix};
pub use migrate::{Migration, migrate};
pub(crate) use origins::registry;
pub use plan::{describe, fetch, merged};
pub use services::{Base, Ground, ServiceBundle, ServiceState, service_bundle, service_states};
pub use settings::image_settings;
pub(crate) use walk::walk;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kiln_cache::{Cache, CacheError};

use crate::event::{Event, Listener};
use crate::format::FormatError;
use crate::format::assemble::replace;
use crate::lockfile::{Lock, LockError};
use crate::sbom::Options as SbomOptions;
use crate::source::Mirror;
use crate::spec::{SpecError, SpecErrors};
use crate::step::StepError;
use crate::step::scheduler::{Graph, RunError};
use crate::step::system::{Materials, System};

/// A description is a few kilobytes.
const YAML_MAX_BYTES: u64 = 16 << 20;
/// Times a build starts over because the cache lost an object meanwhile.
const ATTEMPTS: usize = 3;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `NAME.tar`: the root file system.
    Tar,
    /// `NAME-kernel`, `NAME-initrd.img`, `NAME-cmdline`.
    KernelInitrd,
    /// `NAME-initrd.tar`: kernel, initrd.img, cmdline and ucode.cpio in a tar.
    TarKernelInitrd,
}

impl Format {
    /// All formats, in the order people read them.
    pub const ALL: [Self; 3] = [Self::Tar, Self::KernelInitrd, Self::TarKernelInitrd];

    /// Returns LinuxKit's name of the format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::KernelInitrd => "kernel+initrd",
            Self::TarKernelInitrd => "tar-kernel-initrd",
        }
    }

    /// Returns the format with LinuxKit's name for it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// Where outputs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `DIR/NAME…`, one or more files per format.
    Directory {
        /// The directory; must exist.
        directory: PathBuf,
        /// The prefix of all names.
        name: String,
    },
    /// One file, for a format of one file.
    File(PathBuf),
    /// Standard output, for a format of one file.
    Stdout,
}

/// How registries and mirrors are reached, and with whose credentials.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Registries (`host` or `host:port`) that may speak plain http or show any certificate.
    pub insecure_registries: Vec<String>,
    /// Places that are asked before a registry.
    pub mirrors: Vec<Mirror>,
    /// PEM files of further certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// Docker's `config.json`, for credentials.
    pub docker_config: Option<PathBuf>,
    /// The home directory, for paths that begin with `~/`.
    pub home: Option<PathBuf>,
    /// Silence after which a server is given up; `None`: the engine's own limits.
    pub timeout: Option<Duration>,
    /// `http_proxy`, `https_proxy`, `no_proxy`, as the environment has them.
    pub http_proxy: Option<String>,
    /// See `http_proxy`.
    pub https_proxy: Option<String>,
    /// See `http_proxy`.
    pub no_proxy: Option<String>,
}

/// A description: YAML, and where it is.
#[derive(Debug, Clone)]
pub enum Description {
    /// A file, which is read again by every build that its stat does not spare.
    File(PathBuf),
    /// What came from elsewhere: standard input, a URL.
    Text {
        /// What errors call it.
        name: String,
        /// The YAML.
        bytes: Vec<u8>,
        /// Whether packages in it are relative to the working directory; those of another
        /// machine's description are nowhere.
        is_local: bool,
    },
}

impl Description {
    /// Reads one from a stream of this machine; errors call it `name`.
    ///
    /// # Errors
    /// When the stream breaks or is longer than any description.
    pub fn read(name: &str, input: impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        input.take(YAML_MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > YAML_MAX_BYTES {
            let text = format!("larger than {YAML_MAX_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        let name = name.to_owned();
        Ok(Self::Text {
            name,
            bytes,
            is_local: true,
        })
    }

    /// Returns what errors call it.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::File(path) => path.to_string_lossy(),
            Self::Text { name, .. } => name.into(),
        }
    }
}

/// One build.
#[derive(Debug, Clone)]
pub struct Request {
    /// The descriptions, in order.
    pub descriptions: Vec<Description>,
    /// What to write.
    pub formats: Vec<Format>,
    /// Where to.
    pub destination: Destination,
    /// The architecture, in Go's spelling: `amd64`, `arm64`, `riscv64`.
    pub architecture: String,
    /// The cache directory.
    pub cache: PathBuf,
    /// Further caches, which are only read, in order.
    pub cache_from: Vec<PathBuf>,
    /// Whether the kernel is taken out of its compressed image.
    pub decompress_kernel: bool,
    /// Whether tags and package indexes are looked up anew.
    pub pull: bool,
    /// The bill of materials, unless there is to be none.
    pub sbom: Option<SbomOptions>,
    /// `init: [kiln]`: the static kiln-init binary for `architecture`, when this kiln carries one.
    pub guest: Option<&'static [u8]>,
    /// The socket of a Docker engine that is asked for images first, unless `pull`.
    pub docker: Option<PathBuf>,
    /// Registries and mirrors.
    pub network: Network,
    /// The size in bytes that the cache is kept below, by a collection after a build.
    pub cache_max: Option<u64>,
    /// Identifies the program: another program rebuilds rather than trusts an old stamp.
    pub program: String,
}

/// One file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its path; `-` for standard output.
    pub path: PathBuf,
    /// `tar`, `kernel`, `initrd`, `cmdline`.
    pub role: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that had to be written; the rest stayed where it was.
    pub written: u64,
}

/// What a build did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The outputs, in the order of formats.
    pub outputs: Vec<OutputFile>,
    /// Nothing had to be done.
    pub up_to_date: bool,
    /// Steps taken from the cache and steps done, when any were looked at.
    pub cached: usize,
    /// See `cached`.
    pub ran: usize,
    /// The kernel's command line, when there is a kernel.
    pub cmdline: Option<String>,
    /// The graph, when it was walked.
    pub graph: Graph,
    /// How long it took.
    pub duration: Duration,
}

/// Why there is no output. Earlier outputs are as they were, finished steps stay cached.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The YAML is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Spec(Vec<SpecError>),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The caller gave up.
    #[error("interrupted")]
    Cancelled,
    /// An output cannot be written; `-` is standard output.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that the caller named cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock file is none.
    #[error("{}: {source}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: LockError,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The request contradicts itself.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl From<SpecErrors> for BuildError {
    fn from(errors: SpecErrors) -> Self {
        Self::Spec(errors.errors().to_vec())
    }
}

impl From<RunError> for BuildError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Step(error) => Self::Step(error),
            RunError::Cancelled => Self::Cancelled,
        }
    }
}

impl From<FormatError> for BuildError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Cache(error) => Self::Cache(error),
            FormatError::Output { path, source, .. } => Self::Output { path, source },
            FormatError::Stream(source) => Self::Output {
                path: "-".into(),
                source,
            },
            other => Self::Step(StepError::new("output", other)),
        }
    }
}

impl BuildError {
    pub(crate) fn output(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Output { path, source }
    }

    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    pub(crate) fn usage(message: impl Into<String>, hint: &str) -> Self {
        Self::Usage {
            message: message.into(),
            hint: Some(hint.to_owned()),
        }
    }

    fn lost_object(&self) -> bool {
        match self {
            Self::Step(error) => error.lost_object().is_some(),
            Self::Cache(error) => matches!(error, CacheError::MissingObject(_)),
            _ => false,
        }
    }
}

/// Builds. An unchanged system costs a stat of its inputs and outputs, and nothing else.
///
/// # Errors
/// Whatever keeps the outputs from being made.
pub fn run(
    request: &Request,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    stdout: &mut dyn Write,
) -> Result<Report, BuildError> {
    let began = Instant::now();
    if let Some(path) = write::stream(&request.destination) {
        return to_stream(request, path, listener, cancel);
    }
    write::check(request)?;
    if let Some(mut report) = fresh::fresh(request) {
        report.duration = began.elapsed();
        return Ok(report);
    }
    let cache = tiers::open(&request.cache, &request.cache_from, listener)?;
    let mut attempt = 1;
    let mut stream = Stream {
        inner: stdout,
        begun: false,
    };
    loop {
        match once(request, &cache, listener, cancel, &mut stream) {
            // A damaged object was set aside when it was found: its step runs again.
            // What a stream has taken cannot be taken back.
            Err(error) if error.lost_object() && attempt < ATTEMPTS && !stream.begun => {
                attempt += 1;
            }
            Err(error) => return Err(error),
            Ok(mut report) => {
                report.duration = began.elapsed();
                // The outputs are there: what goes wrong now is none of theirs.
                if let Err(error) = keep::keep(request, &cache, &report) {
                    listener.event(&Event::Warning(error.to_string()));
                }
                return Ok(report);
            }
        }
    }
}

/// Builds into a device or a pipe: what is there is written to, not replaced by a file.
fn to_stream(
    request: &Request,
    path: &Path,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Report, BuildError> {
    let file = File::options().write(true).open(path);
    let mut file = file.map_err(BuildError::output(path))?;
    let request = Request {
        destination: Destination::Stdout,
        ..request.clone()
    };
    let mut report = run(&request, listener, cancel, &mut file).map_err(|error| match error {
        BuildError::Output {
            path: named,
            source,
        } if named == Path::new("-") => BuildError::output(path)(source),
        other => other,
    })?;
    for output in &mut report.outputs {
        path.clone_into(&mut output.path);
    }
    Ok(report)
}

/// A stream that remembers whether anything was written to it.
struct Stream<'a> {
    inner: &'a mut dyn Write,
    begun: bool,
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun |= !bytes.is_empty();
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn once(
    request: &Request,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    stdout: &mut dyn Write,
) -> Result<Report, BuildError> {
    let mut planned = plan::plan(request, listener)?;
    let root = System::new(planned.plan.clone());
    let (result, graph) = planned.walk(root, cache, listener, cancel)?;
    let (outputs, stamps) = write::write(request, cache, listener, cancel, &result, stdout)?;
    let mut report = Report {
        outputs,
        cmdline: planned.cmdline(),
        ..Report::default()
    };
    for node in graph.nodes.iter().filter(|node| node.key.is_some()) {
        match node.outcome {
            Some(crate::event::Outcome::Cached) => report.cached += 1,
            _ => report.ran += 1,
        }
    }
    fresh::remember(request, cache, &mut planned.inputs, &report, stamps)?;
    report.graph = graph;
    Ok(report)
}

/// Writes the bill of materials of a system that is not built, where `request` wants its output.
///
/// # Errors
/// Whatever keeps the system's parts from being had, or the document from being written.
pub fn sbom(
    request: &Request,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    stdout: &mut dyn Write,
) -> Result<(), BuildError> {
    write::check(request)?;
    let cache = tiers::open(&request.cache, &request.cache_from, listener)?;
    let planned = plan::plan(request, listener)?;
    let root = Materials::new(planned.plan.clone());
    let (result, _) = planned.walk(root, &cache, listener, cancel)?;
    write::write(request, &cache, listener, cancel, &result, stdout).map(|_| ())
}

/// Writes the lock file: what the YAML's names mean now. Returns its path.
///
/// # Errors
/// Whatever keeps a name from being resolved, or the file from being written.
pub fn lock(
    request: &Request,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<PathBuf, BuildError> {
    let Some(Description::File(_)) = request.descriptions.last() else {
        return Err(BuildError::usage(
            "a lock file lies beside the description, which is no file here",
            "write the description to a file first",
        ));
    };
    let cache = tiers::open(&request.cache, &request.cache_from, listener)?;
    // What is there already does not count: it is to be renewed.
    let request = Request {
        pull: true,
        ..request.clone()
    };
    let planned = plan::plan_with(&request, listener, &Lock::default())?;
    let lock = pins::resolve(&planned, &cache, listener, cancel)?;
    let path = planned.lock_path.unwrap_or_default();
    replace(&path, lock.render().as_bytes())?;
    Ok(path)
}
