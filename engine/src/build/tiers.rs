//! Opening a cache together with the further ones that it reads.
//!
//! Enters: directories. Leaves: the cache. One of the others that cannot be used is said and left
//! out: whatever it would have had is made.

use std::path::{Path, PathBuf};

use kiln_cache::Cache;

use super::BuildError;
use crate::event::{Event, Listener};

/// Opens the cache in `root`, which reads those in `from` as well.
pub(super) fn open(
    root: &Path,
    from: &[PathBuf],
    listener: &dyn Listener,
) -> Result<Cache, BuildError> {
    let mut cache = Cache::open(root)?;
    for tier in from {
        if let Err(error) = cache.add_tier(tier) {
            let text = format!("cannot read from the cache {error}; going on without it");
            listener.event(&Event::Warning(text));
        }
    }
    Ok(cache)
}

/// Says which of them are used no more.
pub(super) fn tell_troubles(cache: &Cache, listener: &dyn Listener) {
    for (tier, trouble) in cache.tier_troubles() {
        let tier = tier.display();
        let text = format!("cannot read from the cache {tier} any more: {trouble}");
        listener.event(&Event::Warning(text));
    }
}
