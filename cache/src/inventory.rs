//! What is there and when it was used: the files, dated by builds and by the catalogue.
//!
//! Enters: the cache. Leaves: every action, object and system, for [`crate::collect`] to choose
//! from and [`crate::usage`] to add up. Memory grows with their number, a few hundred bytes each.

use std::collections::HashMap;
use std::time::Duration;

use crate::boot::now_ns;
use crate::error::Result;
use crate::{Built, Cache, Digest, Key};

/// An action.
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) kind: String,
    pub(crate) label: String,
    pub(crate) since_ns: i64,
    pub(crate) used_ns: i64,
    pub(crate) cost_ns: u64,
    /// Its objects, each once.
    pub(crate) outputs: Vec<Digest>,
}

/// An object.
pub(crate) struct Stored {
    /// On the disk.
    pub(crate) bytes: u64,
    pub(crate) since_ns: i64,
    /// Actions that name it.
    pub(crate) users: usize,
}

/// What is there.
pub(crate) struct Inventory {
    pub(crate) now_ns: i64,
    pub(crate) actions: Vec<Entry>,
    pub(crate) objects: HashMap<Digest, Stored>,
    pub(crate) builds: Vec<Built>,
}

pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Inventory {
    /// Walks everything: one small read an action, one `stat` an object.
    pub(crate) fn take(cache: &Cache) -> Result<Self> {
        let mut objects = HashMap::new();
        let mut actions = Vec::new();
        // Actions first: what is written meanwhile is an object without one, and young.
        cache.each_action(|key, action, since_ns| {
            if let Some(action) = action {
                actions.push(Entry {
                    key,
                    kind: action.kind,
                    label: action.label,
                    since_ns,
                    used_ns: since_ns,
                    cost_ns: action.cost_ns,
                    outputs: action.outputs.iter().map(|output| output.1).collect(),
                });
            }
            Ok(())
        })?;
        cache.each_object(|object| {
            let stored = Stored {
                bytes: object.disk_size,
                since_ns: object.since_ns,
                users: 0,
            };
            objects.insert(object.digest, stored);
            Ok(())
        })?;
        for action in &mut actions {
            // One object may have several roles.
            action.outputs.sort_unstable();
            action.outputs.dedup();
            for digest in &action.outputs {
                if let Some(object) = objects.get_mut(digest) {
                    object.users += 1;
                }
            }
        }
        Ok(Self {
            now_ns: now_ns(),
            actions,
            objects,
            builds: cache.builds()?,
        })
    }

    /// Finds out when each action was last used.
    pub(crate) fn date(&mut self, cache: &Cache) {
        let mut used: HashMap<Key, i64> = HashMap::new();
        for built in &self.builds {
            for key in &built.build.actions {
                let at = used.entry(*key).or_insert(built.used_ns);
                *at = built.used_ns.max(*at);
            }
        }
        // Without it the order is a little worse.
        let catalogue = cache.catalogue().ok();
        for action in &mut self.actions {
            let known = catalogue
                .as_ref()
                .and_then(|it| it.action(&action.key).ok());
            let known = known.flatten().map(|entry| entry.last_use_ns);
            let times = [used.get(&action.key).copied(), known];
            let latest = times.into_iter().flatten().fold(action.since_ns, i64::max);
            action.used_ns = latest;
        }
    }

    pub(crate) fn is_older(&self, at_ns: i64, than: Duration) -> bool {
        self.now_ns.saturating_sub(at_ns) > nanos(than)
    }

    /// Sorts actions in the order they are to go.
    pub(crate) fn sort(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        actions.sort_by_cached_key(|entry| {
            let price = entry.cost_ns / (self.bytes_of(&entry.outputs) >> 10).max(1);
            (entry.used_ns, price, entry.key)
        });
        self.actions = actions;
    }

    /// Returns what the objects take on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.objects.values().map(|object| object.bytes).sum()
    }

    /// Returns what these objects take on the disk; those that are gone, nothing.
    pub(crate) fn bytes_of<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> u64 {
        let stored = digests.into_iter().filter_map(|it| self.objects.get(it));
        stored.map(|object| object.bytes).sum()
    }
}
