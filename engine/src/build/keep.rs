//! After a build: the cache is told what was used, and kept small.
//!
//! Enters: a finished build. Leaves: its record, which is what a collection spares, and a cache
//! below the budget. A build that found everything in the cache writes nothing new, and collects
//! nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::{Build, Cache, CacheError};

use super::{Description, Report, Request, fresh};

/// Notes what a build used, and collects when the cache has grown beyond its budget.
pub(super) fn keep(request: &Request, cache: &Cache, report: &Report) -> Result<(), CacheError> {
    let build = used(request, report);
    if let Some(key) = fresh::system(request) {
        cache.put_build(&key, &build)?;
    }
    cache.touch(&build)?;
    match request.cache_max {
        Some(max_bytes) if report.ran > 0 => cache.collect_beyond(max_bytes),
        _ => Ok(()),
    }
}

fn used(request: &Request, report: &Report) -> Build {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = request.descriptions.last().map(Description::name);
    let name = name.unwrap_or_default();
    let label = name.rsplit('/').next().unwrap_or_default();
    Build {
        at_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        duration_ns: u64::try_from(report.duration.as_nanos()).unwrap_or(u64::MAX),
        label: label.to_owned(),
        actions: report
            .graph
            .nodes
            .iter()
            .filter_map(|node| node.key)
            .collect(),
        payload: Vec::new(),
    }
}
