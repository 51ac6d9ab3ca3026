//! Walking what is there: the files themselves, which no catalogue replaces.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{CacheError, Result};
use crate::{Action, Cache, Digest, Key, boot};

/// An object on disk; its content was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it takes on the disk, in bytes.
    pub disk_size: u64,
    /// When it was written or last verified (its ctime), nanoseconds since 1970.
    pub since_ns: i64,
}

/// Calls `each` with every file below `directory`, two levels down; what vanishes meanwhile is
/// passed over.
fn fanned_out(directory: &Path, mut each: impl FnMut(&str, &Metadata) -> Result<()>) -> Result<()> {
    for entry in read_dir(directory)? {
        let entry = entry.map_err(CacheError::io("read", directory))?;
        let head = entry.file_name();
        let Some(head) = head.to_str().filter(|head| head.len() == 2) else {
            continue;
        };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        for entry in read_dir(&path)? {
            let entry = entry.map_err(CacheError::io("read", &path))?;
            let name = entry.file_name();
            if let Some(tail) = name.to_str()
                && let Ok(metadata) = entry.metadata()
            {
                each(&format!("{head}{tail}"), &metadata)?;
            }
        }
    }
    Ok(())
}

/// Lists a directory; one that is not there is empty.
pub(crate) fn read_dir(
    directory: &Path,
) -> Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(CacheError::io("read", directory)(error)),
    }
}

impl Cache {
    /// Calls `each` with every object, in no order. Files with other names are passed over.
    ///
    /// # Errors
    /// When a directory cannot be read, or the first error of `each`.
    pub fn each_object(&self, mut each: impl FnMut(Stored) -> Result<()>) -> Result<()> {
        fanned_out(&self.root().join("objects"), |name, metadata| {
            match name.parse() {
                Ok(digest) if metadata.is_file() => each(Stored {
                    digest,
                    size: metadata.len(),
                    disk_size: metadata.blocks().saturating_mul(512),
                    since_ns: boot::nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
                }),
                _ => Ok(()),
            }
        })
    }

    /// Calls `each` with every action and when it was written (nanoseconds since 1970), in no
    /// order; `None` for one that is damaged.
    ///
    /// # Errors
    /// When a directory or record cannot be read, or the first error of `each`.
    pub fn each_action(
        &self,
        mut each: impl FnMut(Key, Option<Action>, i64) -> Result<()>,
    ) -> Result<()> {
        fanned_out(&self.root().join("actions"), |name, metadata| {
            let Ok(key) = name.parse::<Key>() else {
                return Ok(());
            };
            let since = boot::nanoseconds(metadata.ctime(), metadata.ctime_nsec());
            each(key, self.own_action(&key)?, since)
        })
    }
}
