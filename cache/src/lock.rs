//! One process at a time per step.
//!
//! A lock is `flock` on `locks/KEY`: the kernel drops it when the owner dies, so nobody waits for
//! the dead. The file holds the owner's process id, for the message of whoever waits.
//!
//! Lock files are removed by their owners, while locked; whoever gets a lock then looks whether
//! the name still leads to the file it has locked, and otherwise starts over. What the killed
//! leave is removed by [`crate::lease`]'s sweep in the same way. Keys do not share lock files:
//! with shards, two processes holding one key each and wanting the other's shard would wait for
//! ever, where the steps themselves have no cycle.
//!
//! Where locks of other machines cannot be seen, a step may be done twice. That costs time only:
//! objects and actions are replaced by their equals.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{CacheError, Result};
use crate::{Cache, Key};

/// How often a wait that can be cancelled looks whether it is, and whether the lock is free.
const POLL: Duration = Duration::from_millis(20);

/// The right to do a step; given back when dropped.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    /// Closing it gives the lock back.
    file: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // While still locked. What cannot be removed now is swept later.
        if leads_to(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a file for locking. Writable even for those who only look: NFS locks exclusively only
/// what is open for writing.
pub(crate) fn open(path: &Path, create: bool) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(path)
}

/// True when `path` still is the file that was opened (and locked) through it.
pub(crate) fn leads_to(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(by_name), Ok(by_file)) => {
            (by_name.dev(), by_name.ino()) == (by_file.dev(), by_file.ino())
        }
        _ => false,
    }
}

impl Cache {
    /// Takes the lock of `key`. When another process has it, `on_wait` is told that process's id
    /// (0 when unknown), once, and the call waits until it ends or dies.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_key(&self, key: &Key, on_wait: impl FnOnce(u32)) -> Result<KeyLock> {
        let lock = self.lock_with(key, on_wait, |file| file.lock().map(|()| true))?;
        Ok(lock.expect("a wait that is not cancelled ends with the lock"))
    }

    /// Like [`lock_key`](Self::lock_key), and gives up, returning `None`, when `cancelled` says
    /// so; it is asked every 20 ms while waiting.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_key_unless(
        &self,
        key: &Key,
        on_wait: impl FnOnce(u32),
        mut cancelled: impl FnMut() -> bool,
    ) -> Result<Option<KeyLock>> {
        self.lock_with(key, on_wait, |file| lock_file_unless(file, &mut cancelled))
    }

    fn lock_with(
        &self,
        key: &Key,
        on_wait: impl FnOnce(u32),
        mut wait: impl FnMut(&File) -> io::Result<bool>,
    ) -> Result<Option<KeyLock>> {
        let path = self.root().join("locks").join(key.to_string());
        let mut on_wait = Some(on_wait);
        loop {
            let mut file = self.open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait(owner(&file));
                    }
                    if !wait(&file).map_err(CacheError::io("lock", &path))? {
                        return Ok(None);
                    }
                }
                Err(TryLockError::Error(error)) => {
                    return Err(CacheError::io("lock", &path)(error));
                }
            }
            if leads_to(&path, &file) {
                // Only a courtesy to whoever waits. Of fixed width, to overwrite what a killed
                // owner left: ext4 flushes a truncated file when it is closed, a quarter of a
                // millisecond per step.
                let _ = write!(file, "{:<10}", std::process::id());
                return Ok(Some(KeyLock { path, file }));
            }
        }
    }

    fn open_lock(&self, path: &Path) -> Result<File> {
        let file = match open(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = fs::create_dir_all(self.root().join("locks"));
                open(path, true)
            }
            other => other,
        };
        file.map_err(|error| CacheError::unwritable(self.root(), path, error))
    }
}

fn owner(file: &File) -> u32 {
    let mut text = String::new();
    let _ = Read::take(file, 32).read_to_string(&mut text);
    text.trim().parse().unwrap_or(0)
}

/// Locks a file (`flock`), waiting for whoever has it until `cancelled`. Returns false then.
///
/// # Errors
/// When the file system has no locks.
pub fn lock_file_unless(file: &File, mut cancelled: impl FnMut() -> bool) -> io::Result<bool> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if cancelled() => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::KeyBuilder;

    #[test]
    fn one_at_a_time_and_nothing_left() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        let key = KeyBuilder::new("test", 1).finish();
        Cache::open(&root).unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::open(&root).unwrap();
                    for _ in 0..50 {
                        let _lock = cache.lock_key(&key, |_| {}).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(root.join("locks")).unwrap().count(), 0);
    }

    #[test]
    fn who_waits_knows_for_whom_and_may_give_up() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let key = KeyBuilder::new("test", 1).finish();
        let lock = cache.lock_key(&key, |_| panic!("nobody has it")).unwrap();
        let mut polls = 0;
        let mut seen = 0;
        let none = cache.lock_key_unless(
            &key,
            |pid| seen = pid,
            || {
                polls += 1;
                polls == 3
            },
        );
        assert!(none.unwrap().is_none());
        assert_eq!((seen, polls), (std::process::id(), 3));
        drop(lock);
        assert!(
            cache
                .lock_key_unless(&key, |_| {}, || true)
                .unwrap()
                .is_some()
        );
    }
}
