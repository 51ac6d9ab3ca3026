//! Sweeping: objects and actions go, unless a living process turns out to rely on them.
//!
//! Enters: actions and objects that nothing is known to need. Leaves: fewer of them. Who looks an
//! object up first lists it in its lease ([`Cache::hold`]) and then looks whether it is there. Who
//! sweeps does it the other way round:
//!
//! 1. the objects are moved to `tmp/`, under the sweeper's own lease;
//! 2. the leases are read; what one of them lists is moved back;
//! 3. the actions go, unless they were written anew meanwhile, then the moved objects.
//!
//! A builder that saw an object before it was moved had listed it, so it comes back; in between, and
//! for a builder that comes later, it is missing and its step is done again. A sweeper killed in
//! the middle leaves actions without objects, which count as absent, and rubbish in `tmp/`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::boot::nanoseconds;
use crate::error::{CacheError, Result};
use crate::remove::remove;
use crate::{Cache, Digest, Key, KeyBuilder};

/// Objects between two looks at the leases: what is moved back was missing only for moments.
const BATCH: usize = 256;

/// How long to wait for a sweep to bring something back, how often in all: what is missing for
/// another reason must not cost more than making it again.
const WAIT: Duration = Duration::from_millis(10);
const WAITS_MAX: u32 = 50;

/// The lock that one sweep at a time takes.
pub(crate) fn sweeping() -> Key {
    KeyBuilder::new("collection", 1).finish()
}

/// An action that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loose {
    /// Its key.
    pub key: Key,
    /// When it had been written (its ctime), nanoseconds since 1970.
    pub since_ns: i64,
    /// The objects that it alone, or with other loose actions, names.
    pub objects: Vec<Digest>,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Actions.
    pub actions: u64,
    /// Objects.
    pub objects: u64,
    /// What they took on the disk, in bytes.
    pub bytes: u64,
    /// Objects that living processes rely on: they stay, and their actions with them.
    pub held: u64,
}

impl std::ops::AddAssign for Swept {
    fn add_assign(&mut self, other: Self) {
        self.actions += other.actions;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.held += other.held;
    }
}

impl Cache {
    /// Removes actions and the objects listed with them, and `orphans`: objects of no action.
    ///
    /// # Errors
    /// When a file cannot be moved or removed, or a lease cannot be read; what went is gone then,
    /// and nothing that somebody needs with it.
    pub fn sweep(&self, loose: &[Loose], orphans: &[Digest]) -> Result<Swept> {
        let _lock = self.lock_key(&sweeping(), |_| {})?;
        self.sweep_alone(loose, orphans)
    }

    /// As [`sweep`](Self::sweep), for who has the lock.
    pub(crate) fn sweep_alone(&self, loose: &[Loose], orphans: &[Digest]) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut kept = HashSet::new();
        let of_actions = loose.iter().flat_map(|action| &action.objects);
        let mut seen = HashSet::new();
        let objects: Vec<Digest> = of_actions
            .chain(orphans)
            .filter(|digest| seen.insert(**digest))
            .copied()
            .collect();
        let mut moved = Vec::new();
        for batch in objects.chunks(BATCH) {
            self.move_away(batch, &mut moved, &mut kept)?;
        }
        swept.held = kept.len() as u64;
        for action in loose {
            let is_held = action.objects.iter().any(|digest| kept.contains(digest));
            if !is_held && self.is_as_it_was(action) && self.remove_action(&action.key)? {
                swept.actions += 1;
            }
        }
        for (path, bytes) in moved {
            if remove(&path)? {
                swept.objects += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }

    /// Moves objects away, and back when somebody relies on them.
    fn move_away(
        &self,
        batch: &[Digest],
        moved: &mut Vec<(PathBuf, u64)>,
        kept: &mut HashSet<Digest>,
    ) -> Result<()> {
        self.lease()?;
        let held = self.held_objects()?;
        let mut away = Vec::new();
        for digest in batch {
            if held.contains(digest) {
                kept.insert(*digest);
                continue;
            }
            let (from, to) = (self.object_path(digest), self.temporary());
            let Ok(metadata) = fs::symlink_metadata(&from) else {
                continue;
            };
            match fs::rename(&from, &to) {
                Ok(()) => away.push((*digest, to, metadata.blocks().saturating_mul(512))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(CacheError::io("remove", &from)(error)),
            }
        }
        // When that cannot be known, everything goes back.
        let held = self.held_objects();
        for (digest, path, bytes) in away {
            if held.as_ref().map_or(true, |held| held.contains(&digest)) {
                // Written anew meanwhile, it is the same.
                let to = self.object_path(&digest);
                fs::rename(&path, &to).map_err(CacheError::io("keep", &to))?;
                kept.insert(digest);
            } else {
                moved.push((path, bytes));
            }
        }
        held.map(drop)
    }

    /// Tells whether an object that is not there, and that this process holds, comes back: a sweep
    /// may have moved it away before it saw who holds it.
    pub(crate) fn comes_back(&self, path: &Path) -> bool {
        let lock = self.root().join("locks").join(sweeping().to_string());
        while lock.exists() && self.waited.fetch_add(1, Ordering::Relaxed) < WAITS_MAX {
            thread::sleep(WAIT);
            if path.exists() {
                return true;
            }
        }
        path.exists()
    }

    fn is_as_it_was(&self, action: &Loose) -> bool {
        fs::symlink_metadata(self.action_path(&action.key)).is_ok_and(|metadata| {
            nanoseconds(metadata.ctime(), metadata.ctime_nsec()) == action.since_ns
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;

    fn put(cache: &Cache, name: &str) -> Loose {
        let key = KeyBuilder::new("test", 1).field("name", name).finish();
        let object = cache.put(name.as_bytes()).unwrap();
        let action = Action {
            outputs: vec![("o".into(), object, name.len() as u64)],
            ..Action::default()
        };
        cache.put_action(&key, &action).unwrap();
        let metadata = fs::metadata(cache.action_path(&key)).unwrap();
        Loose {
            key,
            since_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            objects: vec![object],
        }
    }

    #[test]
    fn what_the_living_hold_stays_and_its_action_with_it() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        let (gone, held) = {
            let writer = Cache::open(&root).unwrap();
            (put(&writer, "gone"), put(&writer, "held"))
        };
        let cache = Cache::open(&root).unwrap();
        let reader = Cache::open(&root).unwrap();
        reader.hold(&held.objects).unwrap();
        let swept = cache.sweep(&[gone.clone(), held.clone()], &[]).unwrap();
        assert_eq!((swept.actions, swept.objects, swept.held), (1, 1, 1));
        assert!(swept.bytes > 0);
        assert!(cache.action(&gone.key).unwrap().is_none());
        assert!(!cache.has_object(&gone.objects[0]));
        assert_eq!(cache.read(&held.objects[0]).unwrap(), b"held");
        assert!(cache.action(&held.key).unwrap().is_some());
        drop(reader);
        assert_eq!(cache.sweep(&[held], &[]).unwrap().objects, 1);
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn an_action_that_was_written_anew_stays() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        let mut loose = put(&Cache::open(&root).unwrap(), "x");
        loose.since_ns -= 1;
        let cache = Cache::open(&root).unwrap();
        assert_eq!(cache.sweep(&[loose.clone()], &[]).unwrap().actions, 0);
        assert!(cache.action(&loose.key).unwrap().is_some());
    }
}
