//! Flags of archives: which part of the cache, and the systems that name it. `kiln cache key`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::{Bill, Sources, formats};
use crate::units;

pub(super) const EXPORT_ABOUT: &str = "\
Write an image to a file, or a part of the cache.

An image is named, and --outfile is the file. With --for, --since or --all the file is an archive \
of what the cache holds, and stands in the image's place; `kiln cache import` takes it in again.

  kiln cache export nginx:1.27 --outfile nginx.tar
  kiln cache export --for hello.yml hello.kiln
  kiln cache export --since 7d - | ssh build kiln cache import -";

/// A system: descriptions, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System(pub(crate) Vec<PathBuf>);

impl FromStr for System {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let files: Vec<PathBuf> = text.split(',').map(PathBuf::from).collect();
        if files.iter().any(|file| file.as_os_str().is_empty()) {
            return Err("a system is FILE.yml, or FILE.yml,FILE.yml for several".to_owned());
        }
        Ok(Self(files))
    }
}

/// Which part of the cache.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Selection {
    /// What builds of this system look up; its files separated by commas; can be repeated
    #[arg(long = "for", value_name = "FILE.yml[,FILE.yml]")]
    pub(crate) systems: Vec<System>,
    /// What was made or used in that time: 30d, 12h
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) since: Option<Duration>,
    /// Everything
    #[arg(long)]
    pub(crate) all: bool,
}

impl Selection {
    /// True when a part of the cache is meant, not an image.
    pub(crate) fn is_given(&self) -> bool {
        !self.systems.is_empty() || self.since.is_some() || self.all
    }
}

/// The flags of a build that change what it makes.
#[derive(Debug, Args)]
pub(crate) struct Made {
    /// Take the kernel out of its compressed image (gzip, xz, zstd, lz4, lzma)
    #[arg(long)]
    pub(crate) decompress_kernel: bool,
    /// What the system is made of.
    #[command(flatten)]
    pub(crate) bill: Bill,
}

/// `kiln cache key`.
#[derive(Debug, Args)]
pub(crate) struct CacheKey {
    /// Systems, each with its files separated by commas
    #[arg(required_unless_present = "prefix", value_name = "FILE.yml[,FILE.yml]")]
    pub(crate) systems: Vec<System>,
    /// Formats of the build, separated by commas
    #[arg(
        short,
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "kernel+initrd"
    )]
    #[arg(value_parser = formats())]
    pub(crate) format: Vec<String>,
    /// Print only what the keys of all systems begin with
    #[arg(long)]
    pub(crate) prefix: bool,
    /// How they are built.
    #[command(flatten)]
    pub(crate) made: Made,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}
