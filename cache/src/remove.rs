//! Removing: single actions and objects, and all of a cache.
//!
//! Whoever removes an object decides that nothing uses it; what a build misses then it makes again,
//! since an action without its objects is a miss. A whole cache is removed only while nobody is
//! alive in it.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{CacheError, Result};
use crate::walk::read_dir;
use crate::{Cache, Digest, Key, layout};

pub(crate) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CacheError::io("remove", path)(error)),
    }
}

impl Cache {
    /// Forgets what `key` produced; its objects stay. Returns false when it was not known.
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub fn remove_action(&self, key: &Key) -> Result<bool> {
        remove(&self.action_path(key))
    }

    /// Removes an object. Who has it open keeps it. Returns false when it was not there.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_object(&self, digest: &Digest) -> Result<bool> {
        remove(&self.object_path(digest))
    }

    /// Removes everything of the cache in `root`, and the directory itself when it holds nothing
    /// else. A directory that is not there is an empty cache. Returns the bytes that were freed on
    /// the disk.
    ///
    /// # Errors
    /// [`CacheError::NotACache`] when the directory is somebody else's, [`CacheError::InUse`] when
    /// a living process uses the cache; nothing was removed then.
    pub fn clear(root: &Path) -> Result<u64> {
        if !root.exists() {
            return Ok(0);
        }
        let cache = Self::open_existing(root)?;
        let info = cache.info()?;
        let others = cache.others()?;
        if others > 0 {
            return Err(CacheError::InUse {
                path: root.to_owned(),
                processes: others,
            });
        }
        // The version goes first: what a crash leaves is a directory of known names, which the next
        // opening makes a cache again; and who opens it from now on makes it anew.
        remove(&root.join("version"))?;
        // Whoever opened it before that may have begun to write meanwhile.
        let others = cache.others()?;
        if others > 0 {
            layout::fill(root)?;
            return Err(CacheError::InUse {
                path: root.to_owned(),
                processes: others,
            });
        }
        drop(cache);
        for entry in read_dir(root)? {
            let entry = entry.map_err(CacheError::io("read", root))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| layout::is_ours(name)) else {
                continue;
            };
            let path = root.join(name);
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CacheError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        // Not when something of others' is in it, or it is a mount point.
        let _ = fs::remove_dir(root);
        let parts = [info.objects, info.builds, info.damaged, info.tmp, info.old];
        Ok(parts.iter().map(|part| part.disk_bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, KeyBuilder};

    #[test]
    fn removes_what_is_named() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let (one, two) = (cache.put(b"one").unwrap(), cache.put(b"two").unwrap());
        let key = KeyBuilder::new("test", 1).finish();
        cache.put_action(&key, &Action::default()).unwrap();
        assert!(cache.remove_object(&one).unwrap());
        assert!(!cache.remove_object(&one).unwrap());
        assert!(cache.remove_action(&key).unwrap());
        assert!(!cache.remove_action(&key).unwrap());
        assert_eq!(cache.read(&two).unwrap(), b"two");
    }

    #[test]
    fn clears_only_a_cache_that_nobody_uses() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        assert_eq!(Cache::clear(&root).unwrap(), 0);
        let user = Cache::open(&root).unwrap();
        user.put(&[7; 10_000]).unwrap();
        fs::write(root.join("notes.txt"), "mine").unwrap();
        assert!(matches!(
            Cache::clear(&root),
            Err(CacheError::InUse { processes: 1, .. })
        ));
        drop(user);
        assert!(Cache::clear(&root).unwrap() >= 10_000);
        let left: Vec<_> = fs::read_dir(&root).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        // Now it is somebody else's.
        assert!(matches!(
            Cache::clear(&root),
            Err(CacheError::NotACache { .. })
        ));
        assert!(root.join("notes.txt").exists());
        fs::remove_file(root.join("notes.txt")).unwrap();
        drop(Cache::open(&root).unwrap());
        Cache::clear(&root).unwrap();
        assert!(!root.exists());
    }
}
