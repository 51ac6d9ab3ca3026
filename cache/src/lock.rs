//! One process at a time per step.
//!
//! A lock is `flock` on `locks/KEY`: the kernel drops it when the owner dies, so nobody waits for
//! the dead. The file holds the owner's process id, for the message of whoever waits.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};

use crate::error::{CacheError, Result};
use crate::{Cache, Key};

/// The right to do a step; given back when dropped.
#[derive(Debug)]
pub struct KeyLock {
    file: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Cache {
    /// Takes the lock of `key`. When another process has it, `on_wait` is told that process's id
    /// (0 when unknown), once, and the call waits until it ends or dies.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_key(&self, key: &Key, on_wait: impl FnOnce(u32)) -> Result<KeyLock> {
        let path = self.root().join("locks").join(key.to_string());
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(CacheError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                on_wait(owner.trim().parse().unwrap_or(0));
                file.lock().map_err(CacheError::io("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", &path)(error)),
        }
        // Only a courtesy to whoever waits.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = write!(file, "{}", std::process::id());
        Ok(KeyLock { file })
    }
}
