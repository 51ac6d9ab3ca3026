//! Opening: races, half-made directories, other formats, somebody else's directory.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kiln_cache::{Action, Build, Cache, CacheError, Digest, KeyBuilder, Stamp};

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Everything that writes works, and reads back.
fn exercise(cache: &Cache) {
    let key = KeyBuilder::new("test", 1).finish();
    let digest = cache.put(b"bytes").unwrap();
    assert_eq!(cache.read(&digest).unwrap(), b"bytes");
    let action = Action {
        outputs: vec![("o".into(), digest, 5)],
        ..Action::default()
    };
    cache.put_action(&key, &action).unwrap();
    assert_eq!(cache.action(&key).unwrap(), Some(action));
    cache.put_stamp(&key, &Stamp::default()).unwrap();
    cache.put_build(&key, &Build::default()).unwrap();
    assert_eq!(cache.stamp(&key), Some(Stamp::default()));
    cache.hold(&[digest]).unwrap();
    assert!(cache.held_objects().unwrap().contains(&digest));
    drop(cache.lock_key(&key, |_| {}).unwrap());
}

#[test]
fn many_make_it_at_once() {
    let room = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let root = room.path().join(format!("a/{round}"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| exercise(&Cache::open(&root).unwrap()));
            }
        });
        assert_eq!(names(&root.join("tmp")), [""; 0]);
        assert_eq!(names(&root.join("leases")), [""; 0]);
        assert_eq!(names(&root.join("quarantine")), [""; 0]);
    }
}

#[test]
fn a_half_made_cache_is_finished() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    fs::create_dir_all(root.join("objects")).unwrap();
    fs::write(root.join("version"), "").unwrap();
    let cache = Cache::open(&root).unwrap();
    assert_eq!(cache.set_aside(), None);
    exercise(&cache);
    assert_eq!(fs::read_to_string(root.join("version")).unwrap(), "1\n");
}

#[test]
fn directories_removed_by_hand_come_back() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    Cache::open(&root).unwrap();
    for name in names(&root) {
        if root.join(&name).is_dir() {
            fs::remove_dir_all(root.join(&name)).unwrap();
        }
    }
    exercise(&Cache::open(&root).unwrap());
}

#[test]
fn somebody_elses_directory_is_left_alone() {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("thesis.tex"), "").unwrap();
    let error = Cache::open(room.path()).unwrap_err();
    assert!(
        matches!(&error, CacheError::NotACache { found, .. } if found == "thesis.tex"),
        "{error}"
    );
    assert_eq!(names(room.path()), ["thesis.tex"]);
}

#[test]
fn a_newer_cache_is_refused() {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("version"), "999\n").unwrap();
    let error = Cache::open(room.path()).unwrap_err();
    assert!(
        matches!(error, CacheError::NewerFormat { found: 999, .. }),
        "{error}"
    );
    assert_eq!(names(room.path()), ["version"]);
}

#[test]
fn an_older_or_unreadable_cache_is_set_aside_once() {
    for version in ["0\n", "what?\n"] {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        let digest = {
            let cache = Cache::open(&root).unwrap();
            cache.put(b"old").unwrap()
        };
        fs::write(root.join("version"), version).unwrap();
        let asides: Vec<_> = std::thread::scope(|scope| {
            let open = || Cache::open(&root).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let aside: Vec<_> = asides.iter().filter_map(Cache::set_aside).collect();
        let [aside] = aside[..] else {
            panic!("set aside {} times", aside.len())
        };
        assert_eq!(fs::read_to_string(aside.join("version")).unwrap(), version);
        let hex = digest.to_string();
        let old = aside.join("objects").join(&hex[..2]).join(&hex[2..]);
        assert_eq!(fs::read(old).unwrap(), b"old");
        assert!(!asides[0].has_object(&digest));
        exercise(&asides[0]);
        assert_eq!(Cache::open(&root).unwrap().set_aside(), None);
    }
}

/// Runs `body` as a user who owns nothing here.
fn as_nobody(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::getuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                // Of this thread alone.
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            body();
        });
        thread.join().unwrap();
    });
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_cache_one_may_only_read_is_read() {
    let room = tempfile::tempdir().unwrap();
    set_mode(room.path(), 0o755);
    let root = room.path().join("cache");
    let (digest, copied) = {
        let cache = Cache::open(&root).unwrap();
        (cache.put(b"x").unwrap(), cache.put(b"y").unwrap())
    };
    // One object without a mark, that its reader cannot mark.
    let hex = copied.to_string();
    let path = root.join("objects").join(&hex[..2]).join(&hex[2..]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"y").unwrap();
    let directories = [&root, &root.join("tmp"), &root.join("leases")];
    for directory in directories {
        set_mode(directory, 0o555);
    }
    as_nobody(|| {
        let cache = Cache::open(&root).unwrap();
        assert_eq!(cache.read(&digest).unwrap(), b"x");
        assert_eq!(cache.read(&copied).unwrap(), b"y");
        assert_eq!(cache.read(&copied).unwrap(), b"y");
        cache.hold(&[digest]).unwrap();
        let error = cache.put(b"z").unwrap_err();
        assert!(matches!(error, CacheError::Unwritable { .. }), "{error}");
        assert!(error.to_string().contains("is not writable"), "{error}");
        if rustix::process::geteuid().as_raw() == 65534 {
            let text = "(it belongs to user 0, this is user 65534)";
            assert!(error.to_string().contains(text), "{error}");
        }
        let error = Cache::open(root.join("new")).unwrap_err();
        assert!(matches!(error, CacheError::Unwritable { .. }), "{error}");
    });
    for directory in directories {
        set_mode(directory, 0o755);
    }
}

#[test]
fn a_moved_cache_works() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let digest = Cache::open(&root).unwrap().put(b"x").unwrap();
    let moved = room.path().join("moved");
    fs::rename(&root, &moved).unwrap();
    let cache = Cache::open(&moved).unwrap();
    assert_eq!(cache.read(&digest).unwrap(), b"x");
    assert!(!cache.has_object(&Digest::of(b"y")));
    exercise(&cache);
}
