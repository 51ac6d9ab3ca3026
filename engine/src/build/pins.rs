//! What a lock is made of: every image and every package list of a plan, looked up.
//!
//! Enters: a plan. Leaves: what its names mean now, as a lock keeps it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Action, Cache, Key, KeyBuilder};

use super::BuildError;
use super::plan::Planned;
use crate::event::Listener;
use crate::lockfile::{Lock, LockedImage, LockedPackages};
use crate::step::image::Resolve;
use crate::step::layout::EVERY_PLATFORM;
use crate::step::root::Source;
use crate::step::system::{Plan, VolumeContent};
use crate::step::{Next, Results, Step, StepError};

/// Resolves every name of a plan, and nothing more.
struct Names(Arc<Plan>);

impl Step for Names {
    fn kind(&self) -> &'static str {
        "lock"
    }

    fn label(&self) -> String {
        "names".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("lock", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let mut needed: Vec<Arc<dyn Step>> = Vec::new();
        let mut lock = Lock::default();
        for origin in self.0.origins() {
            match &origin.source {
                Source::Directory(_) => {}
                // What stands in files of the host is pinned by them.
                Source::Image(image) if !image.source.inputs().is_empty() => {}
                Source::Image(image) => {
                    let step: Arc<dyn Step> = Arc::new(Resolve(image.clone()));
                    match got.get(&*step) {
                        None => needed.push(step),
                        Some(resolved) => {
                            let found = crate::step::image::located(&resolved)?;
                            let attestations = found.attestations.iter().map(ToString::to_string);
                            lock.images.push(LockedImage {
                                image: origin.name.clone(),
                                platform: image.platform.to_string(),
                                manifest: found.manifest.to_string(),
                                attestations: attestations.collect(),
                            });
                        }
                    }
                }
                Source::Debian(packages) => match packages.solution(got)? {
                    Err(need) => needed.extend(need),
                    Ok(solution) => {
                        let lines: Result<Vec<_>, _> =
                            solution.iter().map(serde_json::to_string).collect();
                        lock.packages.push(LockedPackages {
                            request: packages.identity(),
                            resolved: lines.map_err(StepError::in_context("lock"))?,
                        });
                    }
                },
            }
        }
        for content in &self.0.volumes {
            let VolumeContent::Layout(layout) = content else {
                continue;
            };
            if !layout.source.inputs().is_empty() {
                continue;
            }
            match layout.top(got)? {
                Err(need) => needed.extend(need),
                Ok(top) => lock.images.push(LockedImage {
                    image: layout.name.clone(),
                    platform: EVERY_PLATFORM.to_owned(),
                    manifest: top.to_string(),
                    attestations: Vec::new(),
                }),
            }
        }
        if !needed.is_empty() {
            return Ok(Next::Need(needed));
        }
        Ok(Next::Done(Action {
            values: vec![("lock".into(), lock.render().into_bytes())],
            ..Action::default()
        }))
    }
}

/// Returns what the names of a plan mean now.
pub(super) fn resolve(
    planned: &Planned,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Lock, BuildError> {
    let (result, _) = planned.walk(Names(planned.plan.clone()), cache, listener, cancel)?;
    let text = String::from_utf8_lossy(result.value("lock").unwrap_or_default()).into_owned();
    Lock::parse(&text).map_err(|source| BuildError::Lock {
        path: PathBuf::from("lock"),
        source,
    })
}
