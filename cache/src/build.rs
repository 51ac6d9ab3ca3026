//! Builds: what the newest build of each system was made from. What they reach is what a collection
//! spares.
//!
//! Files `builds/KEY.build`, one per system, beside the stamp of the same key; see
//! [`crate::record`] for the head. Body:
//!
//! ```text
//! at         i64, nanoseconds since 1970
//! duration   u64, nanoseconds
//! label      string
//! actions    u32 count × key 32
//! payload    string: the caller's own
//! ```

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::boot::nanoseconds;
use crate::error::{CacheError, Result};
use crate::record::{self, Decoder, Encoder, Kind};
use crate::remove::remove;
use crate::stamp::slot;
use crate::walk::read_dir;
use crate::{Cache, Key};

/// How stale the record of a stamp's last use may be.
const USE_GRANULARITY: Duration = Duration::from_hours(1);

/// What a finished build tells: when it was and which steps it relied on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// When it ended, nanoseconds since 1970.
    pub at_ns: i64,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// What people call it, such as the name of its YAML file.
    pub label: String,
    /// The actions it used, done or found. Their objects count as used with them.
    pub actions: Vec<Key>,
    /// The caller's own.
    pub payload: Vec<u8>,
}

impl Build {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.i64(self.at_ns);
        out.u64(self.duration_ns);
        out.bytes(self.label.as_bytes());
        out.count(self.actions.len());
        for key in &self.actions {
            out.raw(key.as_bytes());
        }
        out.bytes(&self.payload);
        out.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut body = Decoder::new(body);
        let build = Self {
            at_ns: body.i64()?,
            duration_ns: body.u64()?,
            label: body.string()?,
            actions: body.list(Decoder::key)?,
            payload: body.bytes()?.to_vec(),
        };
        body.end(build)
    }
}

/// A system that was built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What identifies the system.
    pub key: Key,
    /// Its newest build.
    pub build: Build,
    /// When it was last built, or found unchanged (within the hour), nanoseconds since 1970.
    pub used_ns: i64,
}

impl Cache {
    /// Records the newest build of a system.
    ///
    /// # Errors
    /// When it cannot be written or is larger than [`record::BODY_BYTES_MAX`].
    pub fn put_build(&self, key: &Key, build: &Build) -> Result<()> {
        let path = slot(self.root(), key, "build");
        self.put_record(Kind::Build, key, &path, &build.encode())
    }

    /// Returns the newest build of a system; `None` when there is none, or its record is damaged
    /// or cannot be read.
    #[must_use]
    pub fn build(&self, key: &Key) -> Option<Build> {
        let bytes = record::read_file(&slot(self.root(), key, "build")).ok()??;
        Build::decode(record::unseal(Kind::Build, key, &bytes)?)
    }

    /// Returns every system's newest build, the one used last first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn builds(&self) -> Result<Vec<Built>> {
        let directory = self.root().join("builds");
        let mut builds = Vec::new();
        for entry in read_dir(&directory)? {
            let entry = entry.map_err(CacheError::io("read", &directory))?;
            let path = entry.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "build")
            {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let Some(key) = stem.and_then(|stem| stem.parse::<Key>().ok()) else {
                continue;
            };
            if let Some(build) = self.build(&key) {
                let stamp = fs::metadata(slot(self.root(), &key, "stamp"));
                let stamp = stamp.map(|file| nanoseconds(file.mtime(), file.mtime_nsec()));
                let used_ns = build.at_ns.max(stamp.unwrap_or(i64::MIN));
                builds.push(Built {
                    key,
                    build,
                    used_ns,
                });
            }
        }
        builds.sort_by(|a, b| (b.used_ns, &a.key).cmp(&(a.used_ns, &b.key)));
        Ok(builds)
    }

    /// Forgets a system: its build and its stamp.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_build(&self, key: &Key) -> Result<()> {
        for suffix in ["stamp", "build"] {
            remove(&slot(self.root(), key, suffix))?;
        }
        Ok(())
    }

    /// Notes that a stamp was found to hold, at most once an hour. What keeps it from being noted
    /// (a read-only cache) keeps collections away, too.
    pub fn use_stamp(root: &Path, key: &Key) {
        let path = slot(root, key, "stamp");
        let now = SystemTime::now();
        let recent = |modified: SystemTime| {
            now.duration_since(modified)
                .is_ok_and(|age| age < USE_GRANULARITY)
        };
        let modified = fs::metadata(&path).and_then(|file| file.modified());
        if modified.is_ok_and(|modified| !recent(modified)) {
            let times = FileTimes::new().set_modified(now);
            let _ = File::open(&path).and_then(|file| file.set_times(times));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyBuilder, Stamp};

    fn key(name: &str) -> Key {
        KeyBuilder::new("test", 1).field("name", name).finish()
    }

    #[test]
    fn systems_are_listed_by_their_last_use() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let put = |name: &str, at_ns| {
            let build = Build {
                at_ns,
                label: name.to_owned(),
                ..Build::default()
            };
            cache.put_build(&key(name), &build).unwrap();
        };
        let labels = || {
            let builds = cache.builds().unwrap();
            let labels = builds.into_iter().map(|built| built.build.label);
            labels.collect::<Vec<_>>()
        };
        put("old", 1);
        put("new", 2);
        assert_eq!(labels(), ["new", "old"]);
        // Found unchanged long after.
        cache.put_stamp(&key("old"), &Stamp::default()).unwrap();
        let stamp = slot(cache.root(), &key("old"), "stamp");
        let set = |modified| {
            let file = File::open(&stamp).unwrap();
            file.set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        };
        set(SystemTime::UNIX_EPOCH);
        assert_eq!(labels(), ["new", "old"]);
        Cache::use_stamp(cache.root(), &key("old"));
        assert_eq!(labels(), ["old", "new"]);
        // Not again within the hour; a clock that went back is no reason to believe the stamp.
        let noted = fs::metadata(&stamp).unwrap().modified().unwrap();
        Cache::use_stamp(cache.root(), &key("old"));
        assert_eq!(fs::metadata(&stamp).unwrap().modified().unwrap(), noted);
        set(noted + Duration::from_hours(1000));
        Cache::use_stamp(cache.root(), &key("old"));
        assert!(
            fs::metadata(&stamp).unwrap().modified().unwrap() < noted + Duration::from_hours(1)
        );

        cache.remove_build(&key("old")).unwrap();
        cache.remove_build(&key("old")).unwrap();
        assert_eq!(labels(), ["new"]);
        assert!(cache.stamp(&key("old")).is_none());
    }
}
