//! What a cache holds, counted from its files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Cache;
use crate::error::Result;
use crate::walk::read_dir;

/// Files, and the bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// What they take on the disk, in bytes: less with compression, reflinks counted fully.
    pub disk_bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64, disk_bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.disk_bytes = self.disk_bytes.saturating_add(disk_bytes);
    }

    /// Adds everything below `directory`.
    fn add_below(&mut self, directory: &Path) -> Result<()> {
        for entry in read_dir(directory)?.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => self.add_below(&entry.path())?,
                Ok(metadata) => self.add(metadata.len(), metadata.blocks().saturating_mul(512)),
                Err(_) => {} // gone meanwhile
            }
        }
        Ok(())
    }
}

/// The actions of one kind of step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindInfo {
    /// How many actions.
    pub actions: u64,
    /// The recorded sizes of their outputs together, in bytes. An object that several actions
    /// share counts for each.
    pub bytes: u64,
    /// How long their work took together, in nanoseconds.
    pub cost_ns: u64,
}

/// What a cache holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// Objects.
    pub objects: Amount,
    /// Actions that read well.
    pub actions: u64,
    /// Actions by kind of step.
    pub kinds: BTreeMap<String, KindInfo>,
    /// Actions that do not read, and count as absent.
    pub damaged_actions: u64,
    /// Objects that were found damaged and set aside.
    pub damaged: Amount,
    /// Stamps and builds.
    pub builds: Amount,
    /// Files being written, and rubbish not swept yet.
    pub tmp: Amount,
    /// What caches of older formats left, set aside.
    pub old: Amount,
    /// When the oldest object was written or last verified, nanoseconds since 1970.
    pub oldest_ns: Option<i64>,
    /// When the newest was.
    pub newest_ns: Option<i64>,
}

impl Cache {
    /// Counts what is there: one `stat` per object, one small read per action.
    ///
    /// # Errors
    /// When a directory or record cannot be read.
    pub fn info(&self) -> Result<Info> {
        let mut info = Info::default();
        self.each_object(|object| {
            info.objects.add(object.size, object.disk_size);
            let oldest = info.oldest_ns.get_or_insert(object.since_ns);
            *oldest = object.since_ns.min(*oldest);
            let newest = info.newest_ns.get_or_insert(object.since_ns);
            *newest = object.since_ns.max(*newest);
            Ok(())
        })?;
        self.each_action(|_, action, _| {
            let Some(action) = action else {
                info.damaged_actions += 1;
                return Ok(());
            };
            info.actions += 1;
            let sizes = action.outputs.iter().map(|output| output.2);
            let kind = info.kinds.entry(action.kind).or_default();
            kind.actions += 1;
            kind.bytes = sizes.fold(kind.bytes, u64::saturating_add);
            kind.cost_ns = kind.cost_ns.saturating_add(action.cost_ns);
            Ok(())
        })?;
        info.damaged.add_below(&self.root().join("quarantine"))?;
        info.builds.add_below(&self.root().join("builds"))?;
        info.tmp.add_below(&self.root().join("tmp"))?;
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("old-") {
                info.old.add_below(&entry.path())?;
            }
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, KeyBuilder};

    #[test]
    fn counts_what_was_put() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        assert_eq!(cache.info().unwrap(), Info::default());
        for number in 0..5_u64 {
            let digest = cache.put(&number.to_le_bytes()).unwrap();
            let key = KeyBuilder::new("test", 1).number("n", number).finish();
            let action = Action {
                kind: if number < 2 { "a" } else { "b" }.into(),
                outputs: vec![("o".into(), digest, 8)],
                cost_ns: 3,
                ..Action::default()
            };
            cache.put_action(&key, &action).unwrap();
            cache.put_build(&key, &crate::Build::default()).unwrap();
            if number == 4 {
                let path = cache.action_path(&key);
                fs::remove_file(&path).unwrap();
                fs::write(&path, "damage").unwrap();
                fs::write(cache.temporary(), "x").unwrap();
                fs::rename(
                    cache.object_path(&digest),
                    cache.root().join("quarantine/x"),
                )
                .unwrap();
            }
        }
        let info = cache.info().unwrap();
        assert_eq!((info.objects.count, info.objects.bytes), (4, 32));
        assert_eq!((info.actions, info.damaged_actions), (4, 1));
        let kind = |actions, bytes, cost_ns| KindInfo {
            actions,
            bytes,
            cost_ns,
        };
        let kinds = [("a".into(), kind(2, 16, 6)), ("b".into(), kind(2, 16, 6))];
        assert_eq!(info.kinds, BTreeMap::from(kinds));
        assert_eq!((info.damaged.count, info.damaged.bytes), (1, 8));
        assert_eq!((info.tmp.count, info.builds.count), (1, 5));
        assert!(info.oldest_ns <= info.newest_ns && info.oldest_ns > Some(0));
    }
}
