//! Collecting: what has not been used for long goes, until the rest is small or young enough.
//!
//! Enters: [`Limits`]. Leaves: less on the disk. The files say what is there and what the newest
//! build of each system reaches ([`crate::build`]); the catalogue, when it can be had, says when an
//! older build used something last. Nothing that a living process uses goes ([`crate::sweep`]),
//! and nobody waits for a collection.
//!
//! Order: what was used longest ago first; of the same age, what is cheapest to make again per
//! byte: an output's segments before the layers they were made from.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use crate::boot::nanoseconds;
use crate::error::{CacheError, Result};
use crate::inventory::{Entry, Inventory, Stored};
use crate::remove::remove;
use crate::sweep::{Loose, Swept, sweeping};
use crate::walk::read_dir;
use crate::{Cache, Digest, Key};

/// What no action names, or lacks an object, is rubbish when it is this old: whoever writes an
/// object names it soon.
const GRACE: Duration = Duration::from_hours(1);
/// Records of builds and outputs are forgotten after this long whatever the limits.
const FORGOTTEN: Duration = Duration::from_hours(90 * 24);
/// How often a build looks whether the cache is too large.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Damaged objects are kept this long, for whoever wants to know what happened to them.
const DAMAGED_KEPT: Duration = Duration::from_hours(24);

/// What may stay. Without any limit, only rubbish goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The largest size on the disk, in bytes.
    pub max_bytes: Option<u64>,
    /// What was not used for this long goes.
    pub unused_for: Option<Duration>,
    /// What the newest builds of this many systems reach stays, whatever the other limits say;
    /// without other limits, everything else goes.
    pub keep_builds: Option<usize>,
    /// Whether nothing is removed, only counted.
    pub dry_run: bool,
}

/// What came of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// What went. Of a dry run: what would go, as far as no living process uses it.
    pub swept: Swept,
    /// Systems that were forgotten.
    pub builds: u64,
    /// What the objects that stay take on the disk, in bytes.
    pub left_bytes: u64,
    /// Bytes by which the rest is larger than it should be, because it must stay.
    pub over_bytes: u64,
}

/// What is chosen to go.
#[derive(Default)]
struct Chosen {
    loose: Vec<Loose>,
    orphans: Vec<Digest>,
    builds: Vec<Key>,
    /// Bytes of the objects among them.
    bytes: u64,
}

impl Chosen {
    /// Lets an action go, and every object that no action names any longer.
    fn take(&mut self, entry: &Entry, objects: &mut HashMap<Digest, Stored>) {
        let mut loose = Loose {
            key: entry.key,
            since_ns: entry.since_ns,
            objects: Vec::new(),
        };
        for digest in &entry.outputs {
            if let Some(object) = objects.get_mut(digest) {
                object.users -= 1;
                if object.users == 0 {
                    self.bytes += object.bytes;
                    loose.objects.push(*digest);
                }
            }
        }
        self.loose.push(loose);
    }

    fn of(inventory: &mut Inventory, limits: &Limits) -> Self {
        let mut chosen = Self::default();
        for (digest, object) in &inventory.objects {
            if object.users == 0 && inventory.is_older(object.since_ns, GRACE) {
                chosen.bytes += object.bytes;
                chosen.orphans.push(*digest);
            }
        }
        chosen.orphans.sort_unstable();

        let keep = limits.keep_builds.unwrap_or(0).min(inventory.builds.len());
        let (kept, others) = inventory.builds.split_at(keep);
        let safe: HashSet<Key> = kept
            .iter()
            .flat_map(|built| &built.build.actions)
            .copied()
            .collect();
        let only_builds = limits.keep_builds.is_some()
            && limits.max_bytes.is_none()
            && limits.unused_for.is_none();
        let is_old = |at_ns| {
            let old = limits
                .unused_for
                .is_some_and(|than| inventory.is_older(at_ns, than));
            old || only_builds
        };
        let forgotten = others
            .iter()
            .filter(|built| is_old(built.used_ns) || inventory.is_older(built.used_ns, FORGOTTEN));
        chosen.builds = forgotten.map(|built| built.key).collect();

        let total = inventory.bytes();
        let actions = &inventory.actions;
        let dead: Vec<bool> = actions
            .iter()
            .map(|entry| {
                let missing = |digest| !inventory.objects.contains_key(digest);
                inventory.is_older(entry.since_ns, GRACE) && entry.outputs.iter().any(missing)
            })
            .collect();
        let old: Vec<bool> = actions.iter().map(|entry| is_old(entry.used_ns)).collect();
        let mut rest = Vec::new();
        for (at, entry) in actions.iter().enumerate() {
            match (dead[at], safe.contains(&entry.key), old[at]) {
                (true, _, _) | (_, false, true) => chosen.take(entry, &mut inventory.objects),
                (_, false, false) => rest.push(entry),
                (_, true, _) => {}
            }
        }
        let max = limits.max_bytes.unwrap_or(u64::MAX);
        for entry in rest.into_iter().filter(|entry| !entry.outputs.is_empty()) {
            if total - chosen.bytes <= max {
                break;
            }
            chosen.take(entry, &mut inventory.objects);
        }
        chosen
    }
}

impl Cache {
    /// Removes what the limits do not let stay, after whoever else is collecting.
    ///
    /// # Errors
    /// When the cache cannot be read, or something cannot be removed.
    pub fn collect(&self, limits: &Limits) -> Result<Collected> {
        let _lock = self.lock_key(&sweeping(), |_| {})?;
        self.collect_alone(limits)
    }

    fn collect_alone(&self, limits: &Limits) -> Result<Collected> {
        let mut inventory = Inventory::take(self)?;
        inventory.date(self);
        inventory.sort();
        let total = inventory.bytes();
        let chosen = Chosen::of(&mut inventory, limits);
        let mut collected = Collected {
            builds: chosen.builds.len() as u64,
            ..Collected::default()
        };
        if limits.dry_run {
            let of_actions = chosen.loose.iter().map(|action| action.objects.len());
            let objects = of_actions.sum::<usize>() + chosen.orphans.len();
            collected.swept = Swept {
                actions: chosen.loose.len() as u64,
                objects: objects as u64,
                bytes: chosen.bytes,
                held: 0,
            };
        } else {
            for key in &chosen.builds {
                self.remove_build(key)?;
            }
            collected.swept = self.sweep_alone(&chosen.loose, &chosen.orphans)?;
            self.remove_rubbish(&inventory, limits)?;
            if collected.swept.actions > 0
                && let Ok(catalogue) = self.catalogue()
            {
                // It is rebuilt from the files whenever it does not do.
                let _ = catalogue.forget_gone();
            }
        }
        collected.left_bytes = total - collected.swept.bytes.min(total);
        let max = limits.max_bytes.unwrap_or(u64::MAX);
        collected.over_bytes = collected.left_bytes.saturating_sub(max);
        Ok(collected)
    }

    /// Collects when the objects take more than `max_bytes` on the disk, down to nine tenths of
    /// that. Looks at most once a minute, and not while another process collects.
    ///
    /// # Errors
    /// When the cache cannot be read, or something cannot be removed.
    pub fn collect_beyond(&self, max_bytes: u64) -> Result<()> {
        let looked = self.root().join("builds/looked");
        let modified = fs::metadata(&looked).and_then(|file| file.modified());
        let recent = modified
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if recent.is_some_and(|age| age < LOOK_AGAIN) {
            return Ok(());
        }
        fs::write(&looked, "").map_err(|error| CacheError::write(&looked, 0, error))?;
        if self.disk_bytes()? > max_bytes
            && let Some(_lock) = self.lock_key_unless(&sweeping(), |_| {}, || true)?
        {
            self.collect_alone(&Limits {
                max_bytes: Some(max_bytes / 10 * 9),
                ..Limits::default()
            })?;
        }
        Ok(())
    }

    /// Returns what the objects take on the disk, in bytes: one `stat` each.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn disk_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        self.each_object(|object| {
            bytes += object.disk_size;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Removes old damaged objects, stamps that nobody used for long, and what an older kiln left.
    fn remove_rubbish(&self, inventory: &Inventory, limits: &Limits) -> Result<()> {
        let changed = |metadata: &fs::Metadata| {
            // The time a file was moved here is its ctime; of a stamp, mtime is the last use.
            nanoseconds(metadata.ctime(), metadata.ctime_nsec())
        };
        let damaged = self.root().join("quarantine");
        for entry in read_dir(&damaged)?.flatten() {
            if let Ok(metadata) = entry.metadata()
                && inventory.is_older(changed(&metadata), DAMAGED_KEPT)
            {
                remove(&entry.path())?;
            }
        }
        let unused_for = limits.unused_for.unwrap_or(FORGOTTEN).min(FORGOTTEN);
        // Those that were chosen to go have no stamp any longer.
        let kept: HashSet<Key> = inventory.builds.iter().map(|built| built.key).collect();
        for entry in read_dir(&self.root().join("builds"))?.flatten() {
            let path = entry.path();
            let is_stamp = path
                .extension()
                .is_some_and(|extension| extension == "stamp");
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let key = stem.and_then(|stem| stem.parse::<Key>().ok());
            // An output that is as it was written may be asked about again.
            let holds = |key: Key| self.stamp(&key).is_some_and(|stamp| stamp.check().is_ok());
            if let Ok(metadata) = entry.metadata()
                && is_stamp
                && !key.is_some_and(|key| kept.contains(&key))
                && inventory.is_older(changed(&metadata), unused_for)
                && !key.is_some_and(holds)
            {
                remove(&path)?;
            }
        }
        // Another kiln's cache goes only when asked for.
        for entry in read_dir(self.root())?
            .flatten()
            .filter(|_| limits.unused_for.is_some())
        {
            let is_old = entry.file_name().to_string_lossy().starts_with("old-");
            if let Ok(metadata) = entry.metadata()
                && is_old
                && inventory.is_older(changed(&metadata), unused_for)
            {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(CacheError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::now_ns;
    use crate::inventory::nanos;
    use crate::{Action, Build, KeyBuilder};

    const KIB: usize = 1 << 10;

    fn key(name: &str) -> Key {
        KeyBuilder::new("test", 1).field("name", name).finish()
    }

    /// An action with an object of its own, and one that it shares.
    fn put(cache: &Cache, name: &str, shared: &[u8], cost_ns: u64) {
        let own = [name.as_bytes(), &vec![7; 100 * KIB]].concat();
        let outputs = [&own[..], shared].map(|bytes| {
            let digest = cache.put(bytes).unwrap();
            (name.to_owned(), digest, bytes.len() as u64)
        });
        let action = Action {
            outputs: outputs.into(),
            cost_ns,
            ..Action::default()
        };
        cache.put_action(&key(name), &action).unwrap();
    }

    fn built(cache: &Cache, name: &str, at_ns: i64, actions: &[&str]) {
        let build = Build {
            at_ns,
            label: name.to_owned(),
            actions: actions.iter().map(|name| key(name)).collect(),
            ..Build::default()
        };
        cache.put_build(&key(name), &build).unwrap();
    }

    /// The actions that are whole; looked at by a process that ends, or it would hold them.
    fn left(cache: &Cache) -> String {
        let cache = Cache::open(cache.root()).unwrap();
        let names = ["a", "b", "c", "d"].into_iter();
        names
            .filter(|name| {
                let action = cache.action(&key(name)).unwrap();
                action.is_some_and(|action| cache.sound(&action).unwrap())
            })
            .collect()
    }

    /// Four actions of one age; systems `one` (a, b) and `two` (b, c), the second newer.
    fn filled() -> (tempfile::TempDir, Cache) {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        {
            let cache = Cache::open(&root).unwrap();
            put(&cache, "a", b"shared by a and b", 4);
            put(&cache, "b", b"shared by a and b", 3);
            put(&cache, "c", b"of c", 2);
            put(&cache, "d", b"of d", 1);
            let later = now_ns() + nanos(GRACE);
            built(&cache, "one", later, &["a", "b"]);
            built(&cache, "two", later + 1, &["b", "c"]);
        }
        let cache = Cache::open(&root).unwrap();
        (room, cache)
    }

    fn collect(cache: &Cache, limits: Limits) -> Collected {
        cache.collect(&limits).unwrap()
    }

    #[test]
    fn the_longest_unused_goes_first_until_the_rest_fits() {
        let (_room, cache) = filled();
        let total = cache.disk_bytes().unwrap();
        let max_bytes = Some(total - (50 * KIB) as u64);
        let limits = Limits {
            max_bytes,
            ..Limits::default()
        };
        let dry = collect(
            &cache,
            Limits {
                dry_run: true,
                ..limits
            },
        );
        assert_eq!(cache.disk_bytes().unwrap(), total);
        let done = collect(&cache, limits);
        assert_eq!(dry, done);
        assert_eq!((done.swept.actions, done.over_bytes), (1, 0));
        // d was in no build.
        assert_eq!(left(&cache), "abc");
        assert_eq!(done.left_bytes, cache.disk_bytes().unwrap());
        let max_bytes = Some(done.left_bytes - 1);
        let limits = Limits {
            max_bytes,
            ..Limits::default()
        };
        assert_eq!(collect(&cache, limits).swept.objects, 1);
        // a is of the older build; what it shares with b stays.
        assert_eq!(left(&cache), "bc");
    }

    #[test]
    fn the_newest_builds_are_kept_and_the_used_with_them() {
        let (room, cache) = filled();
        let keep_builds = Some(1);
        let limits = Limits {
            keep_builds,
            max_bytes: Some(0),
            ..Limits::default()
        };
        let done = collect(&cache, limits);
        assert!(done.over_bytes > 0 && done.builds == 0);
        assert_eq!(left(&cache), "bc");
        let only = Limits {
            keep_builds: Some(0),
            ..Limits::default()
        };
        let other = Cache::open(room.path().join("cache")).unwrap();
        let held = other.action(&key("c")).unwrap().unwrap();
        assert!(other.sound(&held).unwrap());
        let done = collect(&cache, only);
        assert_eq!((done.swept.held, done.builds), (2, 2));
        assert_eq!(left(&other), "c");
        drop(other);
        assert_eq!(collect(&cache, only).swept.actions, 1);
        assert_eq!(cache.disk_bytes().unwrap(), 0);
    }

    #[test]
    fn age_is_that_of_the_last_use() {
        let (_room, cache) = filled();
        // Used an hour from now, as it were.
        let limits = |unused_for| Limits {
            unused_for: Some(unused_for),
            ..Limits::default()
        };
        assert_eq!(collect(&cache, limits(GRACE)).swept, Swept::default());
        std::thread::sleep(Duration::from_millis(2));
        let done = collect(&cache, limits(Duration::from_millis(1)));
        assert_eq!((done.swept.actions, done.builds), (1, 0));
        assert_eq!(left(&cache), "abc");
    }

    #[test]
    fn rubbish_goes_when_it_is_old() {
        let (_room, cache) = filled();
        let orphan = cache.put(b"of no action").unwrap();
        drop(cache);
        let cache = Cache::open(_room.path().join("cache")).unwrap();
        assert_eq!(collect(&cache, Limits::default()).swept, Swept::default());
        let mut inventory = Inventory::take(&cache).unwrap();
        inventory.now_ns += 2 * nanos(GRACE);
        let chosen = Chosen::of(&mut inventory, &Limits::default());
        assert_eq!(chosen.orphans, [orphan]);
        assert!(chosen.loose.is_empty() && chosen.builds.is_empty());
        // And an action that lost its object.
        let action = cache.action(&key("d")).unwrap().unwrap();
        cache.remove_object(&action.outputs[0].1).unwrap();
        let mut inventory = Inventory::take(&cache).unwrap();
        inventory.now_ns += 2 * nanos(GRACE);
        let chosen = Chosen::of(&mut inventory, &Limits::default());
        assert_eq!(chosen.loose.len(), 1);
    }

    #[test]
    fn a_budget_is_looked_at_once_a_minute() {
        let (_room, cache) = filled();
        let total = cache.disk_bytes().unwrap();
        cache.collect_beyond(total).unwrap();
        assert_eq!(left(&cache), "abcd");
        cache.collect_beyond(total - 1).unwrap();
        assert_eq!(left(&cache), "abcd");
        fs::remove_file(cache.root().join("builds/looked")).unwrap();
        cache.collect_beyond(total - 1).unwrap();
        assert_eq!(left(&cache), "abc");
    }

    #[test]
    fn one_collects_at_a_time() {
        let (room, cache) = filled();
        let other = Cache::open(room.path().join("cache")).unwrap();
        let lock = other.lock_key(&sweeping(), |_| {}).unwrap();
        // A build does not wait for it.
        cache.collect_beyond(1).unwrap();
        assert_eq!(left(&cache), "abcd");
        drop(lock);
        fs::remove_file(cache.root().join("builds/looked")).unwrap();
        cache.collect_beyond(1).unwrap();
        assert_eq!(left(&cache), "");
    }
}
