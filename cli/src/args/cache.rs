//! `kiln cache`: what the cache directory holds, and the images in it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kiln_engine::source::{Platform, Reference};

use super::Sources;

/// `kiln cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show where the cache is and what it holds
    Info(CacheInfo),
    /// List the images in the cache
    Ls(CacheInfo),
    /// Fetch images from their registries, for builds without a network
    Pull(CachePull),
    /// Send images to their registries
    Push(CachePush),
    /// Take in images from a file or directory
    Import(CacheImport),
    /// Write an image to a file
    Export(CacheExport),
    /// Remove images, and what nothing else uses
    Rm(CacheRm),
    /// Remove everything in the cache
    Clean(CacheClean),
}

/// Where the cache is, and how to show it.
#[derive(Debug, Args)]
pub(crate) struct CacheInfo {
    /// Cache directory [default: $XDG_CACHE_HOME/kiln or ~/.cache/kiln]
    #[arg(long, env = "KILN_CACHE", hide_env_values = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kiln cache pull`.
#[derive(Debug, Args)]
pub(crate) struct CachePull {
    /// Images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<Reference>,
    /// Platform [default: linux and --arch]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "arch")]
    pub(crate) platform: Option<Platform>,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// `kiln cache push`.
#[derive(Debug, Args)]
pub(crate) struct CachePush {
    /// Images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<Reference>,
    /// Name in the registry [default: NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) remote_name: Option<Reference>,
    /// Push each platform's image as NAME-ARCH, too
    #[arg(long)]
    pub(crate) with_arch_tags: bool,
    /// Push even when the name is there; other platforms' images there stay
    #[arg(long = "override")]
    pub(crate) replace: bool,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// `kiln cache import`.
#[derive(Debug, Args)]
pub(crate) struct CacheImport {
    /// OCI layout (directory, or tar) or docker archive; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Name of the only image, instead of the one it has
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Reference>,
    /// Cache directory [default: $XDG_CACHE_HOME/kiln or ~/.cache/kiln]
    #[arg(long, env = "KILN_CACHE", hide_env_values = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

/// What to export to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Tar of an OCI image layout
    Oci,
    /// Docker archive, for `docker load`
    Docker,
    /// Tar of the flattened file system
    Filesystem,
}

/// `kiln cache export`.
#[derive(Debug, Args)]
pub(crate) struct CacheExport {
    /// Image
    #[arg(value_name = "NAME")]
    pub(crate) image: Reference,
    /// File to write; - is standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) outfile: PathBuf,
    /// Format
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    pub(crate) format: ExportFormat,
    /// Platform [default: linux and --arch]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "arch")]
    pub(crate) platform: Option<Platform>,
    /// Name of the image in the file [default: NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Reference>,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// `kiln cache rm`.
#[derive(Debug, Args)]
pub(crate) struct CacheRm {
    /// Images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<Reference>,
    /// Only those whose registry has the same
    #[arg(long)]
    pub(crate) published_only: bool,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// `kiln cache clean`.
#[derive(Debug, Args)]
pub(crate) struct CacheClean {
    /// Only images whose registry has the same
    #[arg(long)]
    pub(crate) published_only: bool,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}
