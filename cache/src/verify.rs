//! Verifying: every byte of the cache against its name.
//!
//! Enters: the cache. Leaves: what is damaged, and with `repair` a cache without it: damaged objects
//! are set aside and damaged records removed, so that their steps are done again. Builds find
//! damage by themselves when they meet it; this is for who wants to know before.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::error::{CacheError, Result, is_damage};
use crate::remove::remove;
use crate::{Cache, Digest, Key, Stored};

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// An object whose bytes are others than its name says.
    #[error("object {0} has other bytes")]
    Object(Digest),
    /// A record that does not check.
    #[error("the record of step {0} does not check")]
    Action(Key),
    /// An action that names an object that is not there. Builds do such a step again.
    #[error("step {label} lacks its object {digest}")]
    Missing {
        /// The action.
        key: Key,
        /// What people call it.
        label: String,
        /// The object.
        digest: Digest,
    },
}

/// What was looked at, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were read.
    pub actions: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

impl Cache {
    /// Reads everything, with `threads` at once. Returns `None` when `cancel` was set meanwhile.
    ///
    /// # Errors
    /// When the cache cannot be read, or with `repair` cannot be written.
    pub fn verify_all(
        &self,
        repair: bool,
        threads: usize,
        cancel: &AtomicBool,
    ) -> Result<Option<Verified>> {
        let mut verified = Verified::default();
        let mut lacking = Vec::new();
        self.each_action(|key, action, _| {
            verified.actions += 1;
            match action {
                None => verified.damage.push(Damage::Action(key)),
                Some(action) => {
                    let missing = |output: &&(String, Digest, u64)| {
                        !self.has_object_sized(&output.1, output.2)
                    };
                    if let Some((_, digest, _)) = action.outputs.iter().find(missing) {
                        let (label, digest) =
                            (format!("{} {}", action.kind, action.label), *digest);
                        lacking.push(Damage::Missing { key, label, digest });
                    }
                }
            }
            Ok(())
        })?;
        let mut objects = Vec::new();
        self.each_object(|object| {
            objects.push(object);
            Ok(())
        })?;
        // The large ones first: no thread is left alone with one at the end.
        objects.sort_by_key(|object| std::cmp::Reverse(object.size));
        verified.objects = objects.len() as u64;
        verified.bytes = objects.iter().map(|object| object.size).sum();
        let damaged = self.verify_objects(&objects, threads, cancel)?;
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let objects = damaged.iter().map(|(digest, _)| Damage::Object(*digest));
        verified.damage.extend(objects);
        // Those of damaged objects are found at the next look, when the objects are gone.
        verified.damage.append(&mut lacking);
        if repair {
            for (digest, metadata) in &damaged {
                self.put_away(digest, metadata)?;
            }
            for damage in &verified.damage {
                self.forget(damage)?;
            }
        }
        Ok(Some(verified))
    }

    fn verify_objects(
        &self,
        objects: &[Stored],
        threads: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<(Digest, Metadata)>> {
        let next = AtomicUsize::new(0);
        let found: Mutex<Result<Vec<(Digest, Metadata)>>> = Mutex::new(Ok(Vec::new()));
        let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
        thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while !cancel.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(object) = objects.get(at) else { break };
                        match self.damaged(object) {
                            Ok(None) => {}
                            Ok(Some(metadata)) => {
                                if let Ok(found) = &mut *lock() {
                                    found.push((object.digest, metadata));
                                }
                            }
                            Err(error) => {
                                *lock() = Err(error);
                                break;
                            }
                        }
                    }
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        found.sort_unstable_by_key(|(digest, _)| *digest);
        Ok(found)
    }

    /// Hashes an object; returns the file when it is wrong. One that was removed meanwhile is
    /// nobody's damage.
    fn damaged(&self, object: &Stored) -> Result<Option<Metadata>> {
        let path = self.object_path(&object.digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::io("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(CacheError::io("stat", &path))?;
        let mut hasher = blake3::Hasher::new();
        match hasher.update_reader(file) {
            Ok(_) => {}
            Err(error) if is_damage(&error) => return Ok(Some(metadata)),
            Err(error) => return Err(CacheError::io("read", &path)(error)),
        }
        let is = Digest::from(hasher.finalize());
        Ok((is != object.digest).then_some(metadata))
    }

    /// Sets aside the file that was read; another one in its place is a build's, and right.
    fn put_away(&self, digest: &Digest, damaged: &Metadata) -> Result<()> {
        let path = self.object_path(digest);
        self.quarantine(digest, &path, damaged);
        match fs::symlink_metadata(&path) {
            // Where it cannot be set aside it cannot stay, either.
            Ok(there) if there.ino() == damaged.ino() => remove(&path).map(drop),
            _ => Ok(()),
        }
    }

    /// Removes a record that is still of no use.
    fn forget(&self, damage: &Damage) -> Result<()> {
        let (Damage::Action(key) | Damage::Missing { key, .. }) = damage else {
            return Ok(());
        };
        match self.action(key)? {
            Some(action) if self.complete(&action) => Ok(()),
            _ => remove(&self.action_path(key)).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, KeyBuilder};

    #[test]
    fn damage_is_found_in_spite_of_marks_and_repaired() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let key = |n: u64| KeyBuilder::new("test", 1).number("n", n).finish();
        let mut objects = Vec::new();
        for number in 0..4_u64 {
            let object = cache.put(&number.to_le_bytes()).unwrap();
            let action = Action {
                outputs: vec![("o".into(), object, 8)],
                ..Action::default()
            };
            cache.put_action(&key(number), &action).unwrap();
            objects.push(object);
        }
        let verify = |repair| {
            let cancel = AtomicBool::new(false);
            let verified = cache.verify_all(repair, 2, &cancel);
            verified.unwrap().unwrap()
        };
        let sound = verify(false);
        assert_eq!((sound.objects, sound.bytes, sound.actions), (4, 32, 4));
        assert_eq!(sound.damage, []);
        // A flipped byte under an old time: the mark still says that all is well.
        let path = cache.object_path(&objects[0]);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(&path, permissions).unwrap();
        fs::write(&path, [9; 8]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
        cache.remove_object(&objects[1]).unwrap();
        let record = cache.action_path(&key(2));
        fs::remove_file(&record).unwrap();
        fs::write(&record, "rubbish").unwrap();
        let is = |damage: &Damage| match damage {
            Damage::Object(digest) => *digest == objects[0],
            Damage::Missing { digest, .. } => *digest == objects[1],
            Damage::Action(found) => *found == key(2),
        };
        for repair in [false, true] {
            let damage = verify(repair).damage;
            assert!(damage.len() == 3 && damage.iter().all(is), "{damage:?}");
        }
        // The step of the first is found now; then nothing.
        assert_eq!(verify(true).damage.len(), 1);
        assert_eq!(verify(true).damage, []);
        assert_eq!(cache.read(&objects[3]).unwrap(), 3_u64.to_le_bytes());
        let cancelled = cache.verify_all(true, 1, &AtomicBool::new(true));
        assert_eq!(cancelled.unwrap(), None);
    }
}
