//! `kiln pkg`: LinuxKit's flags for packages.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `kiln pkg`.
#[derive(Debug, Args)]
pub(crate) struct Pkg {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: PkgCommand,
    /// What to take in place of what the packages say.
    #[command(flatten)]
    pub(crate) flags: PkgFlags,
}

/// One verb each. Those that kiln refuses take anything, to say why.
#[derive(Debug, Subcommand)]
pub(crate) enum PkgCommand {
    /// Print the image references of packages: ORG/IMAGE:TAG, one a line
    ShowTag(ShowTag),
    /// Refused: kiln builds no packages
    Build(Anything),
    /// Refused: kiln builds no packages
    Push(Anything),
    /// Refused: kiln writes nothing to registries
    #[command(alias = "index")]
    Manifest(Anything),
    /// Refused: kiln writes nothing to registries
    RemoteTag(Anything),
    /// Refused: kiln has no builder
    Builder(Anything),
}

/// `kiln pkg show-tag`.
#[derive(Debug, Args)]
pub(crate) struct ShowTag {
    /// Directories of packages
    #[arg(required = true, value_name = "DIR")]
    pub(crate) directories: Vec<PathBuf>,
    /// With the registry in front: docker.io/ORG/IMAGE:TAG
    #[arg(long)]
    pub(crate) canonical: bool,
}

/// Whatever LinuxKit's command takes.
#[derive(Debug, Args)]
pub(crate) struct Anything {
    /// Ignored
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

/// What all of LinuxKit's package commands understand.
#[derive(Debug, Args)]
pub(crate) struct PkgFlags {
    /// Organisation [default: LINUXKIT_PKG_ORG, else build.yml's, else linuxkit]
    #[arg(long, global = true)]
    pub(crate) org: Option<String>,
    /// Name of the package's description
    #[arg(long, global = true, value_name = "FILE", default_value = "build.yml")]
    pub(crate) build_yml: PathBuf,
    /// Hash, in place of asking git
    #[arg(long, global = true)]
    pub(crate) hash: Option<String>,
    /// Commit to hash
    #[arg(long, global = true, value_name = "COMMIT", default_value = "HEAD")]
    pub(crate) hash_commit: String,
    /// Directory to hash, a parent of the package [default: the package]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) hash_path: Option<PathBuf>,
    /// Template of the tag; {{.Hash}} is the hash [default: build.yml's, else {{.Hash}}]
    #[arg(long, global = true, value_name = "TEMPLATE")]
    pub(crate) tag: Option<String>,
    /// Take packages for changed since the commit
    #[arg(long, global = true)]
    pub(crate) force_dirty: bool,
    /// Organisation $USER and hash "dev"
    #[arg(long, global = true)]
    pub(crate) dev: bool,
    /// Accepted for LinuxKit's sake: it is for building
    #[arg(long, global = true, hide = true, conflicts_with = "enable_cache")]
    pub(crate) disable_cache: bool,
    /// Accepted for LinuxKit's sake: it is for building
    #[arg(long, global = true, hide = true)]
    pub(crate) enable_cache: bool,
    /// Accepted for LinuxKit's sake: it is for building
    #[arg(long, global = true, hide = true, conflicts_with = "nonetwork")]
    pub(crate) network: bool,
    /// Accepted for LinuxKit's sake: it is for building
    #[arg(long, global = true, hide = true)]
    pub(crate) nonetwork: bool,
    /// Accepted for LinuxKit's sake: it is for building
    #[arg(long, global = true, hide = true, value_name = "REGISTRY=…")]
    pub(crate) registry_creds: Vec<String>,
}
