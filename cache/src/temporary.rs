//! Temporary files: the only way bytes get into the cache.
//!
//! A file is written under `tmp/` and renamed to its name when it is whole. Dropped before that,
//! it is removed; killed before that, it is swept (see [`crate::layout`]).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::Cache;
use crate::error::{CacheError, Result};

/// A file under `tmp/`, removed when dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    published: bool,
}

impl Temporary {
    /// Names the file in the error of a write to it.
    pub(crate) fn wrote<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(CacheError::io("write", &self.path))
    }

    /// Moves the finished file to its final name, making the directory when needed.
    pub(crate) fn publish(mut self, to: &Path) -> Result<()> {
        match fs::rename(&self.path, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent).map_err(CacheError::io("create", parent))?;
                }
                fs::rename(&self.path, to).map_err(CacheError::io("write", to))?;
            }
            other => other.map_err(CacheError::io("write", to))?,
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is swept later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Cache {
    /// Makes an empty temporary file, open for reading and writing.
    pub(crate) fn create_temporary(&self) -> Result<(Temporary, File)> {
        let path = self.temporary();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(CacheError::io("create", &path))?;
        let temporary = Temporary {
            path,
            published: false,
        };
        Ok((temporary, file))
    }
}
