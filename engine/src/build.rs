//! The front door: one request, one report.
//!
//! Enters: YAML files and options, as a person gave them, with every default that comes from the
//! environment already filled in by the caller. Leaves: outputs on disk and a [`Report`].

use std::path::PathBuf;
use std::time::Duration;

use crate::step::scheduler::Graph;

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
    /// PEM files of further certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// Docker's `config.json`, for credentials.
    pub docker_config: Option<PathBuf>,
    /// `http_proxy`, `https_proxy`, `no_proxy`, as the environment has them.
    pub http_proxy: Option<String>,
    /// See `http_proxy`.
    pub https_proxy: Option<String>,
    /// See `http_proxy`.
    pub no_proxy: Option<String>,
}

/// One build.
#[derive(Debug, Clone)]
pub struct Request {
    /// The YAML files, in order.
    pub files: Vec<PathBuf>,
    /// What to write.
    pub formats: Vec<Format>,
    /// Where to.
    pub destination: Destination,
    /// The architecture, in Go's spelling: `amd64`, `arm64`, `riscv64`.
    pub architecture: String,
    /// The cache directory.
    pub cache: PathBuf,
    /// Whether tags and package indexes are looked up anew.
    pub pull: bool,
    /// `init: [kiln]`: the static kiln-init binary for `architecture`, when this kiln carries one.
    pub guest: Option<&'static [u8]>,
    /// Registries and mirrors.
    pub network: Network,
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
