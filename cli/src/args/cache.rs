//! `kiln cache`: what the cache directory holds, and the images in it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use kiln_engine::source::{Platform, Reference};

use super::archive::{CacheKey, EXPORT_ABOUT, Made, Selection};
use super::{CacheFrom, Sources};
use crate::units;

/// `kiln cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show where the cache is and what it holds
    Info(CacheInfo),
    /// List what is in the cache: images, systems or steps
    Ls(CacheLs),
    /// Show what takes how much room
    Du(CacheInfo),
    /// Remove what has not been used for long
    Gc(CacheGc),
    /// Read everything and look for damage
    Verify(CacheVerify),
    /// Fetch images from their registries, for builds without a network
    Pull(CachePull),
    /// Send images to their registries
    Push(CachePush),
    /// Take in images from a file or directory, or an archive of a cache
    Import(CacheImport),
    /// Write an image to a file, or a part of the cache
    #[command(long_about = EXPORT_ABOUT)]
    // Many flags: boxed, to be no burden to the others.
    Export(Box<CacheExport>),
    /// Print a key for a CI provider's cache: the same for the same systems everywhere
    Key(CacheKey),
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

/// What to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListBy {
    /// Images, by name
    Image,
    /// Systems that were built, the one used last first
    System,
    /// Steps, the largest first
    Size,
}

/// `kiln cache ls`.
#[derive(Debug, Args)]
pub(crate) struct CacheLs {
    /// What to list, and in which order
    #[arg(long, value_name = "WHAT", default_value = "image")]
    pub(crate) by: ListBy,
    /// Where the cache is.
    #[command(flatten)]
    pub(crate) info: CacheInfo,
}

/// `kiln cache gc`.
#[derive(Debug, Args)]
#[command(long_about = GC)]
pub(crate) struct CacheGc {
    /// Largest size of what stays, such as 10GB; what was used longest ago goes first
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub(crate) max_size: Option<u64>,
    /// Remove what was not used for this long, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) older_than: Option<Duration>,
    /// Keep what the last builds of this many systems use; alone, remove everything else
    #[arg(long, value_name = "N")]
    pub(crate) keep_builds: Option<usize>,
    /// Remove nothing, and say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where the cache is.
    #[command(flatten)]
    pub(crate) info: CacheInfo,
}

const GC: &str = "\
Remove what has not been used for long from the cache.

Without a limit, KILN_CACHE_MAX_SIZE is the largest size, as it is after every build that had \
something to do. What a running build uses stays. What is missing later is fetched or made again.

  kiln cache gc --older-than 30d
  kiln cache gc --max-size 10GB --keep-builds 3
  kiln cache gc --keep-builds 1 --dry-run";

/// `kiln cache verify`.
#[derive(Debug, Args)]
pub(crate) struct CacheVerify {
    /// Set damaged objects aside and forget the steps that need them: builds do those again
    #[arg(long)]
    pub(crate) repair: bool,
    /// Where the cache is.
    #[command(flatten)]
    pub(crate) info: CacheInfo,
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
    /// OCI layout (directory, or tar), docker archive or archive of a cache; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Name of the only image, instead of the one it has
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Reference>,
    /// Cache directory [default: $XDG_CACHE_HOME/kiln or ~/.cache/kiln]
    #[arg(long, env = "KILN_CACHE", hide_env_values = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

/// `kiln cache export`.
#[derive(Debug, Args)]
pub(crate) struct CacheExport {
    /// Image; or with --for, --since or --all the file to write, - for standard output
    #[arg(value_name = "NAME|FILE")]
    pub(crate) what: PathBuf,
    /// File to write an image to; - is standard output
    #[arg(long, short = 'o', value_name = "FILE", conflicts_with = "Selection")]
    #[arg(required_unless_present = "Selection")]
    pub(crate) outfile: Option<PathBuf>,
    /// Which part of the cache.
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Of an image: oci, docker (for docker load) or filesystem [default: oci]; with --for the
    /// formats of the build, separated by commas [default: all that were built]
    #[arg(long, short, value_name = "FORMAT", value_delimiter = ',')]
    pub(crate) format: Vec<String>,
    /// How the systems of --for are built.
    #[command(flatten)]
    pub(crate) made: Made,
    /// Platform [default: linux and --arch]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "arch")]
    pub(crate) platform: Option<Platform>,
    /// Name of the image in the file [default: NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Reference>,
    /// Further caches.
    #[command(flatten)]
    pub(crate) cache_from: CacheFrom,
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
