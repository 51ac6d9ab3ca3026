//! The cache directory: names, format number, temporary files.
//!
//! ```text
//! version        format number, decimal
//! objects/ab/…   immutable files named by the BLAKE3 of their content
//! actions/ab/…   one small self-checksummed file per key: what the step produced
//! builds/…       up-to-date stamps
//! locks/…        one file per step being worked on
//! tmp/           files being written
//! ```
//! No absolute path is kept inside: the directory can be moved, copied and shared.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{CacheError, Result};
use crate::{Digest, Key};

/// The format this code writes.
const FORMAT: u32 = 1;

/// An open cache directory. Cheap to open: one small file is read.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    serial: AtomicU64,
}

impl Cache {
    /// Opens `root`, making it when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made or read, or was made by a newer kiln.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) => {
                let found = text.trim().parse().unwrap_or(u32::MAX);
                if found > FORMAT {
                    return Err(CacheError::NewerFormat {
                        path: root,
                        found,
                        known: FORMAT,
                    });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                for directory in ["objects", "actions", "builds", "locks", "tmp"] {
                    let path = root.join(directory);
                    fs::create_dir_all(&path).map_err(CacheError::io("create", &path))?;
                }
                fs::write(&version, format!("{FORMAT}\n"))
                    .map_err(CacheError::io("write", &version))?;
            }
            Err(error) => return Err(CacheError::io("read", &version)(error)),
        }
        Ok(Self {
            root,
            serial: AtomicU64::new(0),
        })
    }

    /// Returns the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a path under `tmp/` that no other process or thread uses.
    pub fn temporary(&self) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.root
            .join(format!("tmp/{}-{serial}", std::process::id()))
    }

    pub(crate) fn object_path(&self, digest: &Digest) -> PathBuf {
        self.fan_out("objects", &digest.to_string())
    }

    pub(crate) fn action_path(&self, key: &Key) -> PathBuf {
        self.fan_out("actions", &key.to_string())
    }

    fn fan_out(&self, directory: &str, hex: &str) -> PathBuf {
        self.root.join(directory).join(&hex[..2]).join(&hex[2..])
    }
}
