//! A plan's steps, done.
//!
//! In: a plan, and the step that is wanted of it. Out: what that step leaves, and what the registry and
//! the caches had to say meanwhile, as warnings.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Action, Cache};

use super::plan::Planned;
use super::{BuildError, tiers};
use crate::event::{Event, Listener};
use crate::step::Step;
use crate::step::scheduler::{self, Graph};

impl Planned {
    /// Does the steps that a step of this plan needs, and that step; tells what was odd on the way.
    pub(super) fn walk(
        &self,
        root: impl Step + 'static,
        cache: &Cache,
        listener: &dyn Listener,
        cancel: &AtomicBool,
    ) -> Result<(Arc<Action>, Graph), BuildError> {
        let root: Arc<dyn Step> = Arc::new(root);
        let run = scheduler::run(cache, listener, cancel, &root);
        for note in self.registry.take_notes() {
            listener.event(&Event::Warning(note));
        }
        tiers::tell_troubles(cache, listener);
        Ok(run?)
    }
}
