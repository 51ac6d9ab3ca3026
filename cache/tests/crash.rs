//! Killed at any moment: every name equals its content, every record decodes, rubbish is swept.
//!
//! The child is this test binary again: it runs the test `child`, which does nothing unless the
//! environment names a cache.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_cache::{Action, Build, Cache, Digest, Key, KeyBuilder, Stamp};

const ROOT: &str = "KILN_TEST_CRASH_ROOT";
const TASK: &str = "KILN_TEST_CRASH_TASK";

fn spawn(root: &Path, task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROOT, root)
        .env(TASK, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    match std::env::var(TASK).unwrap().as_str() {
        "write" => write_forever(&root.into()),
        "lock" => lock_forever(&root.into()),
        "catalogue" => tell_forever(&root.into()),
        other => panic!("no task {other}"),
    }
}

/// What object `number` holds: compressible by nobody's guess, 1 byte to 300 KiB.
fn content(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(number * 7919 % 300_000).unwrap() + 1];
    let mut reader = blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn key(number: u64) -> Key {
    KeyBuilder::new("crash", 1)
        .number("number", number % 50)
        .finish()
}

fn write_forever(root: &PathBuf) {
    let start = u64::from(std::process::id()) * 1009;
    // Again and again opened, so that opening and sweeping are killed too.
    for round in 0.. {
        let cache = Cache::open(root).unwrap();
        for number in (start + round * 20)..(start + round * 20 + 20) {
            let bytes = content(number);
            let mut writer = cache.object_writer().unwrap();
            for piece in bytes.chunks(50_000) {
                writer.write_all(piece).unwrap();
            }
            let digest = writer.commit().unwrap();
            cache.hold(&[digest]).unwrap();
            let _lock = cache.lock_key(&key(number), |_| {}).unwrap();
            let action = Action {
                kind: "crash".into(),
                outputs: vec![("o".into(), digest, bytes.len() as u64)],
                ..Action::default()
            };
            cache.put_action(&key(number), &action).unwrap();
            cache.put_stamp(&key(number), &Stamp::default()).unwrap();
            let build = Build {
                payload: digest.as_bytes().to_vec(),
                ..Build::default()
            };
            cache.put_build(&key(number), &build).unwrap();
        }
    }
}

fn lock_forever(root: &PathBuf) {
    let cache = Cache::open(root).unwrap();
    let _lock = cache.lock_key(&key(0), |_| {}).unwrap();
    cache.put_build(&key(0), &Build::default()).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

fn tell_forever(root: &PathBuf) {
    let cache = Cache::open(root).unwrap();
    for number in 0.. {
        let build = Build {
            at_ns: number,
            actions: (0..40).map(key).collect(),
            ..Build::default()
        };
        cache.touch(&build).unwrap();
        cache.catalogue().unwrap().close().unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn hex(path: &Path) -> String {
    let parent = path.parent().unwrap().file_name().unwrap();
    let name = path.file_name().unwrap();
    format!("{}{}", parent.to_str().unwrap(), name.to_str().unwrap())
}

/// Reads everything there is; returns how many objects and actions.
fn inspect(root: &Path) -> (usize, usize) {
    let objects = files(&root.join("objects"));
    for path in &objects {
        let digest = Digest::of(&fs::read(path).unwrap());
        assert_eq!(digest.to_string(), hex(path), "a name without its content");
    }
    let cache = Cache::open(root).unwrap();
    let actions = files(&root.join("actions"));
    let mut read = 0;
    for number in 0..50 {
        if let Some(action) = cache.action(&key(number)).unwrap() {
            read += 1;
            assert!(cache.complete(&action));
            assert!(cache.open_object(action.output("o").unwrap()).is_ok());
        }
    }
    assert_eq!(read, actions.len(), "an action that does not decode");
    let records = files(&root.join("builds"));
    let whole = (0..50)
        .map(|number| {
            usize::from(cache.stamp(&key(number)).is_some())
                + usize::from(cache.build(&key(number)).is_some())
        })
        .sum::<usize>();
    assert_eq!(
        whole,
        records.len(),
        "a stamp or build that does not decode"
    );
    assert!(files(&root.join("quarantine")).is_empty());
    (objects.len(), actions.len())
}

#[test]
fn killed_writers_leave_whole_things() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut rubbish = 0;
    let mut counted = (0, 0);
    for round in 0..300 {
        // On a busy machine children come up late.
        if round >= 25 && rubbish > 0 && counted.0 > 50 && counted.1 > 5 {
            break;
        }
        let mut children = [spawn(&root, "write"), spawn(&root, "write")];
        for child in &mut children {
            // xorshift; from before main is reached to some hundred objects
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            std::thread::sleep(Duration::from_micros(seed % 60_000));
            child.kill().unwrap(); // SIGKILL
            child.wait().unwrap();
        }
        if root.join("tmp").is_dir() {
            rubbish += files(&root.join("tmp")).len();
        }
        if round % 5 == 4 {
            counted = inspect(&root);
        }
    }
    assert!(
        counted.0 > 50 && counted.1 > 5,
        "{counted:?} objects and actions"
    );
    assert!(
        rubbish > 0,
        "no child was killed while writing: nothing was tested"
    );
    // The first who writes sweeps, and leaves nothing himself.
    Cache::open(&root).unwrap().put(b"living").unwrap();
    for directory in ["tmp", "leases", "locks"] {
        assert!(files(&root.join(directory)).is_empty());
    }
}

#[test]
fn the_living_are_not_swept() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let living = Cache::open(&root).unwrap();
    let mut writer = living.object_writer().unwrap();
    writer.write_all(b"half ").unwrap();
    let handed_out = living.temporary();
    fs::write(&handed_out, b"x").unwrap();
    fs::write(root.join("tmp/1-2-3.4"), b"of the dead").unwrap();
    fs::write(root.join("leases/1-2-3"), b"of the dead").unwrap();
    Cache::open(&root).unwrap().put(b"other").unwrap();
    assert!(handed_out.exists());
    assert!(!root.join("tmp/1-2-3.4").exists());
    assert!(!root.join("leases/1-2-3").exists());
    writer.write_all(b"whole").unwrap();
    assert_eq!(writer.commit().unwrap(), Digest::of(b"half whole"));
    fs::remove_file(handed_out).unwrap();
    drop(living);
    assert!(files(&root.join("leases")).is_empty());
}

#[test]
fn nobody_waits_for_the_dead() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    let mut child = spawn(&root, "lock");
    let until = Instant::now() + Duration::from_secs(20);
    while cache.build(&key(0)).is_none() {
        assert!(Instant::now() < until, "the child does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id();
    let mut seen = 0;
    let killed = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let killed = Instant::now();
            child.kill().unwrap();
            child.wait().unwrap();
            killed
        });
        drop(cache.lock_key(&key(0), |pid| seen = pid).unwrap());
        thread.join().unwrap()
    });
    assert_eq!(seen, id);
    assert!(killed.elapsed() < Duration::from_secs(5));
    assert!(files(&root.join("locks")).is_empty());
}

#[test]
fn a_catalogue_survives_its_holders() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    let digests: Vec<_> = (0..40)
        .map(|number| {
            let digest = cache.put(&content(number)).unwrap();
            let action = Action {
                outputs: vec![("o".into(), digest, content(number).len() as u64)],
                ..Action::default()
            };
            cache.put_action(&key(number), &action).unwrap();
            digest
        })
        .collect();
    let mut told = 0;
    let mut rebuilt = 0;
    for round in 0..20 {
        let mut child = spawn(&root, "catalogue");
        // Long enough to come up, and into any part of opening, folding and closing.
        std::thread::sleep(Duration::from_micros(20_000 + round * 3_137));
        child.kill().unwrap();
        child.wait().unwrap();
        let catalogue = cache.catalogue().unwrap();
        for (number, digest) in (0..).zip(&digests) {
            assert!(catalogue.action(&key(number)).unwrap().is_some());
            assert_eq!(catalogue.users(digest).unwrap(), [key(number)]);
        }
        told += catalogue.history(1000).unwrap().len();
        rebuilt += usize::from(catalogue.rebuilt().is_some());
        catalogue.close().unwrap();
    }
    assert!(told > 0, "no child came up: nothing was tested");
    // Twice in the first rounds: children killed before the first catalogue was finished.
    assert!(
        rebuilt < 6,
        "rebuilt {rebuilt} times: one kill costs no history"
    );
}
