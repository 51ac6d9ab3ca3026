//! Steps, done.
//!
//! In: a step that is wanted, of a plan as a rule. Out: what that step leaves, and what the registry and
//! the caches had to say meanwhile, as warnings.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Action, Cache};

use super::plan::Planned;
use super::{BuildError, tiers};
use crate::event::{Event, Listener};
use crate::source::registry::Registry;
use crate::step::Step;
use crate::step::scheduler::{self, Graph};

impl Planned {
    /// Does the steps that a step of this plan needs, and that step.
    pub(super) fn walk(
        &self,
        root: impl Step + 'static,
        cache: &Cache,
        listener: &dyn Listener,
        cancel: &AtomicBool,
    ) -> Result<(Arc<Action>, Graph), BuildError> {
        walk(&self.registry, root, cache, listener, cancel)
    }
}

/// Does a step and all that it needs; tells what was odd on the way.
pub(crate) fn walk(
    registry: &Registry,
    root: impl Step + 'static,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<(Arc<Action>, Graph), BuildError> {
    let root: Arc<dyn Step> = Arc::new(root);
    let run = scheduler::run(cache, listener, cancel, &root);
    for note in registry.take_notes() {
        listener.event(&Event::Warning(note));
    }
    tiers::tell_troubles(cache, listener);
    Ok(run?)
}
