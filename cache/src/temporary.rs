//! Temporary files: the only way bytes get into the cache.
//!
//! A file is written under `tmp/` and renamed to its name when it is whole. Dropped before that,
//! it is removed; killed before that, it is swept (see [`crate::lease`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Cache;
use crate::error::{CacheError, Result};

/// A file under `tmp/`, removed when dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    file: File,
    /// Where errors of a write may come as late as the close.
    sync: bool,
    published: bool,
}

impl Temporary {
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Appends `bytes`; `more` is how many bytes are known to come after them.
    pub(crate) fn write(&mut self, bytes: &[u8], more: u64) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| {
            let needed = more.saturating_add(bytes.len() as u64);
            CacheError::write(&self.path, needed, error)
        })
    }

    /// Moves the finished file to its final name, making the directory when needed.
    pub(crate) fn publish(mut self, to: &Path) -> Result<()> {
        if self.sync {
            self.file
                .sync_data()
                .map_err(|error| CacheError::write(&self.path, 0, error))?;
        }
        let renamed = match fs::rename(&self.path, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent)
                        .map_err(|error| CacheError::write(parent, 0, error))?;
                }
                fs::rename(&self.path, to)
            }
            other => other,
        };
        renamed.map_err(|error| CacheError::write(to, 0, error))?;
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
    /// Makes an empty temporary file. Its mode keeps others, and ourselves, from writing to it
    /// once this handle is closed.
    pub(crate) fn create_temporary(&self) -> Result<Temporary> {
        self.lease()?;
        let path = self.temporary();
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o444);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = self.root().join("tmp");
                fs::create_dir_all(&parent)
                    .map_err(|error| CacheError::unwritable(self.root(), &parent, error))?;
                options.open(&path)
            }
            other => other,
        };
        let file = file.map_err(|error| CacheError::unwritable(self.root(), &path, error))?;
        Ok(Temporary {
            path,
            file,
            sync: !self.is_local(),
            published: false,
        })
    }
}
