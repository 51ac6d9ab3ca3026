//! `cache rm`: a name goes, and with it what nothing else uses.
//!
//! Enters: references. Leaves: fewer records, fewer objects. What stays: all that belongs to another
//! name, whatever a recorded step of a build was made from, and what living processes hold.

use std::collections::{BTreeSet, HashSet};

use kiln_cache::{Digest, Key, Loose, Swept};

use super::list::keys;
use super::name::{self, Name};
use super::{Images, failed};
use crate::build::BuildError;
use crate::event::Event;
use crate::source::http::HttpError;
use crate::source::{ImageSource, Reference, SourceErrorKind};

impl Images<'_> {
    /// Removes a name, for all platforms. `published` keeps it unless its registry has the same;
    /// then `None` is returned.
    ///
    /// # Errors
    /// When there is no such name, or the registry or the cache fails.
    pub fn remove(
        &self,
        reference: &Reference,
        published: bool,
    ) -> Result<Option<Swept>, BuildError> {
        let names = self.named(reference)?;
        if published && !self.is_published(&names)? {
            return Ok(None);
        }
        self.forget(&names)?;
        self.release(&names).map(Some)
    }

    /// Removes the records of names: the next build looks them up anew.
    pub(super) fn forget(&self, names: &[Name]) -> Result<(), BuildError> {
        let remove = || {
            for name in names {
                self.cache.remove_action(&name.key())?;
            }
            Ok(())
        };
        Ok(self.cache.in_new_epoch(remove)?)
    }

    /// Returns the names of all images, each once.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn names(&self) -> Result<Vec<String>, BuildError> {
        let names: BTreeSet<String> = name::all(&self.cache)?
            .into_iter()
            .map(|name| name.name)
            .collect();
        Ok(names.into_iter().collect())
    }

    /// Tells whether a registry has what these records say, on every platform.
    fn is_published(&self, names: &[Name]) -> Result<bool, BuildError> {
        for name in names {
            let Ok(reference) = name.name.parse::<Reference>() else {
                return Ok(false);
            };
            let image = self.registry.image(&reference);
            match image.resolve(&name.platform) {
                Ok(manifest) => {
                    let top = image.top().map_or(manifest, |(top, _)| top);
                    if manifest != name.found.manifest || top != name.top {
                        return Ok(false);
                    }
                }
                Err(error) if is_absent(&error.kind) => return Ok(false),
                // Whether it is there, nobody here may know: it is not for us to remove.
                Err(error) if matches!(*error.kind, SourceErrorKind::Denied { .. }) => {
                    let text = format!("{error}; it stays in the cache");
                    self.listener.event(&Event::Warning(text));
                    return Ok(false);
                }
                Err(error) => return Err(failed(&name.name, *error.kind)),
            }
        }
        Ok(true)
    }

    /// Removes what belongs to images whose records are gone, and to nothing else.
    pub(super) fn release(&self, gone: &[Name]) -> Result<Swept, BuildError> {
        if gone.is_empty() {
            return Ok(Swept::default());
        }
        let cache = &self.cache;
        let mut loose = keys(cache, gone)?;
        for key in keys(cache, &name::all(cache)?)? {
            loose.remove(&key);
        }
        // What an export made of an image goes with it.
        cache.each_action(|key, action, _| {
            let made = action.is_some_and(|action| {
                action.kind == "filesystem" && gone.iter().any(|name| name.name == action.label)
            });
            if made {
                loose.insert(key);
            }
            Ok(())
        })?;
        let needed = self.needed_by_others(&loose)?;
        loose.retain(|key| !needed.contains(key));

        let mut used: HashSet<Digest> = HashSet::new();
        let mut going = Vec::new();
        cache.each_action(|key, action, since_ns| {
            let Some(action) = action else { return Ok(()) };
            let objects = action.outputs.iter().map(|output| output.1);
            if loose.contains(&key) {
                let objects = objects.collect();
                going.push(Loose {
                    key,
                    since_ns,
                    objects,
                });
            } else {
                used.extend(objects);
            }
            Ok(())
        })?;
        for action in &mut going {
            action.objects.retain(|digest| !used.contains(digest));
        }
        Ok(cache.sweep(&going, &[])?)
    }

    /// Returns those of `loose` that a step outside of them was made from.
    fn needed_by_others(&self, loose: &BTreeSet<Key>) -> Result<HashSet<Key>, BuildError> {
        let mut needed = HashSet::new();
        self.cache.each_action(|key, action, _| {
            if let Some(action) = action.filter(|_| !loose.contains(&key)) {
                needed.extend(action.edges.into_iter().filter(|edge| loose.contains(edge)));
            }
            Ok(())
        })?;
        Ok(needed)
    }
}

/// Tells whether a registry says that it has no such image.
fn is_absent(kind: &SourceErrorKind) -> bool {
    match kind {
        SourceErrorKind::NotFound { .. }
        | SourceErrorKind::NoPlatform { .. }
        | SourceErrorKind::WrongPlatform { .. } => true,
        SourceErrorKind::Http { error, .. } => {
            matches!(error, HttpError::Status { status: 404, .. })
        }
        _ => false,
    }
}
