//! What a build of a system takes from the cache.
//!
//! Enters: requests that were built. Leaves: the keys of all actions that building them again, on
//! another machine without a network, would look up. No step is done and no server is asked: the
//! graph of each is walked from result to result, as a build walks it when all is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Cache, Key};

use super::{BuildError, Format, Request, plan};
use crate::event::{Event, Listener};
use crate::step::scheduler::{NotKept, RunError, recall};
use crate::step::system::{System, VolumeContent};
use crate::step::{Step, StepError};

/// Passes on warnings; how each step is found again is nobody's concern.
struct Quiet<'a>(&'a dyn Listener);

impl Listener for Quiet<'_> {
    fn event(&self, event: &Event) {
        if let Event::Warning(_) = event {
            self.0.event(event);
        }
    }
}

/// Returns the keys that a build of `request` uses; when it names no formats, a build in each of
/// those that were built.
pub(super) fn reach(
    request: &Request,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<BTreeSet<Key>, BuildError> {
    let choices: Vec<Vec<Format>> = match request.formats.is_empty() {
        true => Format::ALL.map(|format| vec![format]).into(),
        false => vec![request.formats.clone()],
    };
    let mut reached: Option<BTreeSet<Key>> = None;
    let mut missing = None;
    for formats in choices {
        let request = Request {
            formats,
            pull: false,
            docker: None,
            ..request.clone()
        };
        match reach_one(&request, cache, listener, cancel)? {
            Ok(keys) => reached.get_or_insert_default().extend(keys),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    reached.ok_or_else(|| not_built(request, missing.as_ref()))
}

/// Returns the keys, or the step that was not done.
fn reach_one(
    request: &Request,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Result<BTreeSet<Key>, StepError>, BuildError> {
    let planned = plan::plan(request, listener)?;
    let root: Arc<dyn Step> = Arc::new(System::new(planned.plan.clone()));
    let graph = match recall(cache, &Quiet(listener), cancel, &root) {
        Ok((_, graph)) => graph,
        Err(RunError::Step(error)) if error.cause.is::<NotKept>() => return Ok(Err(error)),
        Err(error) => return Err(error.into()),
    };
    let mut keys: BTreeSet<Key> = graph.nodes.iter().filter_map(|node| node.key).collect();
    for content in &planned.plan.volumes {
        // What its name leads to is looked up beside the graph.
        if let VolumeContent::Layout(layout) = content {
            keys.extend(layout.name_keys());
        }
    }
    let mut kept = BTreeSet::new();
    for key in keys {
        // Files of the host are looked at everywhere anew.
        if cache.action(&key)?.is_some() {
            kept.insert(key);
        }
    }
    Ok(Ok(kept))
}

fn not_built(request: &Request, missing: Option<&StepError>) -> BuildError {
    let names: Vec<_> = request
        .descriptions
        .iter()
        .map(|file| file.name())
        .collect();
    let names = names.join(" ");
    let missing = missing.map_or("it", |error| &*error.context);
    StepError::new(
        names.clone(),
        format!("not built yet: {missing} is not in the cache"),
    )
    .hint(format!(
        "build it first: kiln build {names}; and say here what the build was told (--arch, \
         --format, --no-sbom …)"
    ))
    .into()
}
