//! Tiers: read, never written, and never needed.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeMap;
use std::fs::{self, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyBuilder, TierError};

fn key(number: u64) -> Key {
    KeyBuilder::new("test", 1).number("n", number).finish()
}

fn put(cache: &Cache, number: u64, bytes: &[u8]) -> Action {
    let digest = cache.put(bytes).unwrap();
    let action = Action {
        kind: "test".into(),
        outputs: vec![("o".into(), digest, bytes.len() as u64)],
        ..Action::default()
    };
    cache.put_action(&key(number), &action).unwrap();
    action
}

/// Everything about a directory that a write would change.
fn state(root: &Path) -> BTreeMap<PathBuf, (u64, u64, u32, i64, i64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let file = fs::symlink_metadata(&path).unwrap();
        if file.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let times = (
            file.mtime(),
            file.mtime_nsec(),
            file.ctime(),
            file.ctime_nsec(),
        );
        let (mtime, mtime_ns, ctime, ctime_ns) = times;
        let size = file.len();
        found.insert(
            path,
            (
                file.ino(),
                size,
                file.mode(),
                mtime,
                mtime_ns,
                ctime,
                ctime_ns,
            ),
        );
    }
    found
}

fn object(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    root.join("objects").join(&hex[..2]).join(&hex[2..])
}

/// Takes an object's mark away, as copying it does.
fn unmark(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

struct Room {
    directory: tempfile::TempDir,
}

impl Room {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn cache(&self, name: &str) -> Cache {
        Cache::open(self.path(name)).unwrap()
    }

    fn with_tiers(&self, name: &str, tiers: &[&str]) -> Cache {
        let mut cache = self.cache(name);
        for tier in tiers {
            cache.add_tier(&self.path(tier)).unwrap();
        }
        cache
    }
}

fn room() -> Room {
    let directory = tempfile::tempdir().unwrap();
    Room { directory }
}

#[test]
fn tiers_answer_in_order_and_are_not_written_to() {
    let room = room();
    let one = put(&room.cache("a"), 1, b"one");
    let two = put(&room.cache("b"), 2, b"two");
    let other = put(&room.cache("b"), 1, b"other");
    for action in [&one, &two] {
        let root = room.path(if action == &one { "a" } else { "b" });
        unmark(&object(&root, action.output("o").unwrap()));
    }
    for name in ["a", "b"] {
        for path in state(&room.path(name)).into_keys() {
            let mode = if path.is_dir() { 0o555 } else { 0o444 };
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    }
    let before = [state(&room.path("a")), state(&room.path("b"))];
    let cache = room.with_tiers("main", &["a", "b"]);
    assert_eq!(cache.action(&key(1)).unwrap(), Some(one.clone()));
    assert_eq!(cache.action(&key(2)).unwrap(), Some(two.clone()));
    assert_eq!(cache.action(&key(3)).unwrap(), None);
    for (action, bytes) in [(&one, b"one"), (&two, b"two")] {
        assert!(cache.sound(action).unwrap());
        let digest = action.output("o").unwrap();
        assert!(cache.has_object(digest));
        assert_eq!(cache.read(digest).unwrap(), bytes);
        assert_eq!(
            *cache.open_object(digest).unwrap().map().unwrap(),
            bytes[..]
        );
    }
    // What is made goes into the cache, and wins from then on.
    let own = put(&cache, 1, b"own");
    assert_eq!(cache.action(&key(1)).unwrap(), Some(own));
    assert_eq!(cache.tier_troubles().count(), 0);
    // What walks the cache sees the cache alone.
    assert_eq!(cache.info().unwrap().actions, 1);
    drop(cache);
    assert_eq!(before, [state(&room.path("a")), state(&room.path("b"))]);
    assert_ne!(one, other);
    for path in before.iter().flat_map(BTreeMap::keys) {
        if path.is_dir() {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
    }
}

#[test]
fn a_damaged_object_is_made_anew_in_the_cache() {
    let room = room();
    let action = put(&room.cache("tier"), 1, b"good");
    let digest = *action.output("o").unwrap();
    let path = object(&room.path("tier"), &digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "evil").unwrap();
    let before = state(&room.path("tier"));
    let cache = room.with_tiers("main", &["tier"]);
    let found = cache.action(&key(1)).unwrap().unwrap();
    assert!(!cache.sound(&found).unwrap());
    let missing = cache.open_object(&digest);
    assert!(matches!(missing, Err(CacheError::MissingObject(_))));
    put(&cache, 1, b"good");
    assert!(cache.sound(&found).unwrap());
    assert_eq!(cache.read(&digest).unwrap(), b"good");
    drop(cache);
    assert_eq!(before, state(&room.path("tier")));
    // The other way round, the tier stands in for a damaged object of the cache.
    let cache = room.with_tiers("tier", &["main"]);
    assert_eq!(cache.read(&digest).unwrap(), b"good");
}

#[test]
fn an_action_needs_all_its_objects() {
    let room = room();
    let action = put(&room.cache("tier"), 1, b"object");
    fs::remove_dir_all(room.path("tier/objects")).unwrap();
    let cache = room.with_tiers("main", &["tier"]);
    assert_eq!(cache.action(&key(1)).unwrap(), None);
    cache.put(b"object").unwrap();
    assert_eq!(cache.action(&key(1)).unwrap(), Some(action.clone()));
    // A record of the cache whose object is gone gives way to a tier's.
    let stale = put(&cache, 1, b"gone");
    cache.remove_object(stale.output("o").unwrap()).unwrap();
    assert_eq!(cache.action(&key(1)).unwrap(), Some(action));
}

#[test]
fn what_was_decided_stays_when_the_tier_goes() {
    let room = room();
    let decided = Action {
        kind: "test".into(),
        values: vec![("v".into(), b"x".to_vec())],
        ..Action::default()
    };
    let tier = room.cache("tier");
    tier.put_action(&key(1), &decided).unwrap();
    put(&tier, 2, b"object");
    let cache = room.with_tiers("main", &["tier"]);
    assert!(cache.action(&key(1)).unwrap().is_some());
    assert!(cache.action(&key(2)).unwrap().is_some());
    let cache = room.cache("main");
    assert_eq!(cache.action(&key(1)).unwrap(), Some(decided));
    assert_eq!(cache.action(&key(2)).unwrap(), None);
}

#[test]
fn a_tier_may_vanish_at_any_moment() {
    let room = room();
    let action = put(&room.cache("tier"), 1, &[7; 100_000]);
    let digest = *action.output("o").unwrap();
    let cache = room.with_tiers("main", &["tier"]);
    let open = cache.open_object(&digest).unwrap();
    // Cut short by somebody while it is open.
    let path = object(&room.path("tier"), &digest);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10)
        .unwrap();
    let error = open.read_exact_at(&mut [0; 100], 0).unwrap_err();
    let error = CacheError::io("read", &path)(error);
    assert!(matches!(error, CacheError::MissingObject(lost) if lost == digest));
    let troubles: Vec<_> = cache.tier_troubles().collect();
    assert_eq!(troubles.len(), 1);
    assert_eq!(troubles[0].0, room.path("tier"));
    assert_eq!(cache.action(&key(1)).unwrap(), None);
    fs::remove_dir_all(room.path("tier")).unwrap();
    let cache = room.cache("main");
    assert_eq!(cache.action(&key(1)).unwrap(), None);
    put(&cache, 1, &[7; 100_000]);
    assert!(cache.sound(&action).unwrap());
}

#[test]
fn what_is_no_tier_is_named() {
    let room = room();
    let mut cache = room.cache("main");
    let mut add = |name: &str| cache.add_tier(&room.path(name));
    assert!(matches!(add("missing"), Err(TierError::Missing(_))));
    fs::create_dir(room.path("empty")).unwrap();
    assert!(matches!(add("empty"), Err(TierError::NotACache(_))));
    fs::write(room.path("file"), "").unwrap();
    assert!(matches!(add("file"), Err(TierError::Unreadable { .. })));
    for (version, number) in [("2\n", Some(2)), ("0\n", Some(0)), ("x", None)] {
        drop(room.cache("other"));
        fs::remove_file(room.path("other/version")).unwrap();
        fs::write(room.path("other/version"), version).unwrap();
        let error = add("other").unwrap_err();
        assert!(matches!(error, TierError::Format { found, .. } if found == number));
        assert!(error.to_string().contains("other"), "{error}");
        fs::remove_dir_all(room.path("other")).unwrap();
    }
    drop(room.cache("tier"));
    for part in ["objects", "actions"] {
        fs::remove_dir(room.path("tier").join(part)).unwrap();
        fs::write(room.path("tier").join(part), "").unwrap();
        assert!(matches!(add("tier"), Err(TierError::Unreadable { .. })));
        fs::remove_file(room.path("tier").join(part)).unwrap();
        add("tier").unwrap();
    }
    // Itself: nothing more to read there.
    add("main").unwrap();
    let damaged = Digest::of(b"nothing");
    assert!(cache.open_object(&damaged).is_err());
}
