//! `--cache-from`: further caches, which are only read.

use std::path::PathBuf;

use clap::Args;

/// Further caches.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CacheFrom {
    /// Further cache to read from, and not to write to; can be repeated [env: KILN_CACHE_FROM,
    /// separated by colons]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_from: Vec<PathBuf>,
}
