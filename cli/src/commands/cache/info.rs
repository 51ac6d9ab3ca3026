//! `kiln cache info`: what the cache directory holds, counted from its files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::args::CacheInfo;
use crate::commands::request::cache_directory;
use crate::failure::{Failure, cache_hint};
use crate::ui::units;
use kiln_cache::CacheError;

pub(super) fn run(info: &CacheInfo) -> Result<(), Failure> {
    let root = cache_directory(info.cache.as_deref())?;
    let contents = Contents::of(&root).map_err(|(path, error)| {
        let error = CacheError::io("read", &path)(error);
        let hint = cache_hint(&error, &root);
        Failure::failed(error.to_string(), None, Some(hint))
    })?;
    crate::commands::print(&if info.json {
        contents.json(&root)
    } else {
        contents.text(&root)
    })
}

/// Files below a directory of the cache.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    files: u64,
    /// Bytes on the disk, which is what removing them gives back.
    bytes: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    format: Option<String>,
    objects: Count,
    actions: Count,
    builds: Count,
    other: Count,
}

impl Contents {
    fn of(root: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let mut contents = Self::default();
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) => contents.format = Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(contents),
            Err(error) => return Err((version, error)),
        }
        for entry in read_directory(root)? {
            let count = match entry.file_name().and_then(|name| name.to_str()) {
                Some("objects") => &mut contents.objects,
                Some("actions") => &mut contents.actions,
                Some("builds") => &mut contents.builds,
                _ => &mut contents.other,
            };
            count.add(&entry)?;
        }
        Ok(contents)
    }

    fn text(&self, root: &Path) -> String {
        let Some(format) = &self.format else {
            return format!("cache    {} (not made yet)\n", root.display());
        };
        let line = |name: &str, count: Count, what: &str| {
            let size = units::size(count.bytes);
            format!("{name:<8} {:>8} {size:>9}  {what}\n", count.files)
        };
        let total = [self.objects, self.actions, self.builds, self.other]
            .iter()
            .map(|count| count.bytes)
            .sum();
        format!("cache    {} (format {format})\n", root.display())
            + &line("objects", self.objects, "layers, trees, pieces of outputs")
            + &line("actions", self.actions, "what each step produced")
            + &line("builds", self.builds, "what an unchanged build looks at")
            + &line("other", self.other, "locks, leases, files being written")
            + &format!("total    {:>18}\n", units::size(total))
    }

    fn json(&self, root: &Path) -> String {
        let count = |count: Count| json!({"files": count.files, "bytes": count.bytes});
        let mut text = json!({
            "directory": root.to_string_lossy(),
            "format": self.format,
            "objects": count(self.objects),
            "actions": count(self.actions),
            "builds": count(self.builds),
            "other": count(self.other),
        })
        .to_string();
        text.push('\n');
        text
    }
}

impl Count {
    fn add(&mut self, path: &Path) -> Result<(), (PathBuf, io::Error)> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            // Builds go on while we count.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err((path.to_owned(), error)),
        };
        if metadata.is_dir() {
            for entry in read_directory(path)? {
                self.add(&entry)?;
            }
        } else {
            self.files += 1;
            self.bytes += metadata.blocks() * 512;
        }
        Ok(())
    }
}

fn read_directory(path: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err((path.to_owned(), error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|error| (path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_cache::{Action, Cache, KeyBuilder};

    #[test]
    fn counts_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("cache");
        assert_eq!(Contents::of(&root).unwrap(), Contents::default());
        let cache = Cache::open(&root).unwrap();
        cache.put(&[7; 10_000]).unwrap();
        cache.put(&[8; 10_000]).unwrap();
        let key = KeyBuilder::new("test", 1).finish();
        cache.put_action(&key, &Action::default()).unwrap();
        let contents = Contents::of(&root).unwrap();
        assert_eq!(contents.objects.files, 2);
        assert!(contents.objects.bytes >= 20_000);
        assert_eq!(contents.actions.files, 1);
        assert_eq!(contents.builds, Count::default());
        let text = contents.text(&root);
        assert!(text.contains("objects         2"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&contents.json(&root)).unwrap();
        assert_eq!(json["actions"]["files"], 1);
    }
}
