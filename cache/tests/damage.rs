//! What a power cut, a copy or a stray hand does to objects, and how it is noticed.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kiln_cache::{Action, Cache, CacheError, Digest};

const NEVER: i64 = 0;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_nanos()).unwrap()
}

/// Another boot of the machine, begun now.
fn reboot(root: &Path, id: &str) -> Cache {
    // ctime and the clock tick apart.
    std::thread::sleep(std::time::Duration::from_millis(20));
    Cache::open_in_boot(root, id, now()).unwrap()
}

fn path_of(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    root.join("objects").join(&hex[..2]).join(&hex[2..])
}

/// Overwrites the content as a power cut would: nothing that `stat` shows is changed.
fn lose(path: &Path) {
    let mtime = fs::metadata(path).unwrap().modified().unwrap();
    let len = fs::metadata(path).unwrap().len();
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(&vec![0; usize::try_from(len).unwrap()])
        .unwrap();
    file.set_times(FileTimes::new().set_modified(mtime))
        .unwrap();
}

fn is_missing(cache: &Cache, digest: &Digest) -> bool {
    matches!(cache.open_object(digest), Err(CacheError::MissingObject(it)) if it == *digest)
}

fn quarantined(root: &Path) -> usize {
    fs::read_dir(root.join("quarantine")).unwrap().count()
}

#[test]
fn bytes_lost_in_a_reboot_are_noticed() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open_in_boot(&root, "one", NEVER).unwrap();
    let lost = cache.put(b"lost").unwrap();
    let kept = cache.put(b"kept").unwrap();
    let mut writer = cache.object_writer().unwrap();
    writer.write_all(b"streamed").unwrap();
    let streamed = writer.commit().unwrap();
    for digest in [&lost, &streamed] {
        lose(&path_of(&root, digest));
        // In the boot it was written in, an object is trusted: nothing is hashed.
        assert!(cache.open_object(digest).is_ok());
    }
    drop(cache);

    let cache = reboot(&root, "two");
    let action = |digest: Digest, size| Action {
        outputs: vec![("o".into(), digest, size)],
        ..Action::default()
    };
    assert!(cache.complete(&action(lost, 4)) && !cache.sound(&action(lost, 4)).unwrap());
    assert!(!cache.complete(&action(lost, 4)));
    assert!(cache.sound(&action(kept, 4)).unwrap());
    assert!(is_missing(&cache, &lost) && is_missing(&cache, &streamed));
    assert_eq!(quarantined(&root), 2);
    assert!(!cache.has_object(&lost));
    assert_eq!(cache.read(&kept).unwrap(), b"kept");
    // The step done again.
    assert_eq!(cache.put(b"lost").unwrap(), lost);
    assert_eq!(cache.read(&lost).unwrap(), b"lost");
    drop(cache);

    // Kept was marked durable in boot two: from then on, and without hashing, it is trusted.
    let cache = reboot(&root, "three");
    lose(&path_of(&root, &kept));
    assert!(cache.open_object(&kept).is_ok());
    // Lost was written in boot two and is hashed in boot three.
    lose(&path_of(&root, &lost));
    assert!(is_missing(&cache, &lost));
}

#[test]
fn committing_replaces_what_cannot_be_trusted() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let digest = Cache::open_in_boot(&root, "one", NEVER)
        .unwrap()
        .put(b"bytes")
        .unwrap();
    lose(&path_of(&root, &digest));
    for stream in [true, false] {
        let cache = reboot(&root, if stream { "two" } else { "three" });
        if stream {
            let mut writer = cache.object_writer().unwrap();
            writer.write_all(b"bytes").unwrap();
            assert_eq!(writer.commit().unwrap(), digest);
        } else {
            assert_eq!(cache.put(b"bytes").unwrap(), digest);
        }
        assert_eq!(cache.read(&digest).unwrap(), b"bytes");
        assert_eq!(quarantined(&root), 0);
        lose(&path_of(&root, &digest));
    }
}

#[test]
fn a_copy_is_hashed_once_whatever_its_times() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open_in_boot(&root, "one", NEVER).unwrap();
    let good = cache.put(b"good").unwrap();
    let bad = cache.put(b"bad!").unwrap();
    lose(&path_of(&root, &bad));
    drop(cache);
    let copy = room.path().join("copy");
    let status = std::process::Command::new("cp")
        .args(["-a", "--reflink=never"])
        .args([&root, &copy])
        .status()
        .unwrap();
    assert!(status.success());
    let cache = Cache::open_in_boot(&copy, "one", NEVER).unwrap();
    assert!(is_missing(&cache, &bad));
    assert!(cache.open_object(&good).is_ok());
    // Its pages may be dirty: trusted in this boot, hashed again in the next.
    lose(&path_of(&copy, &good));
    assert!(cache.open_object(&good).is_ok());
    drop(cache);
    assert!(is_missing(&reboot(&copy, "two"), &good));
}

#[test]
fn another_size_is_noticed_in_any_boot() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    for len in [0, 3, 6] {
        let digest = cache.put(b"whole").unwrap();
        let action = Action {
            outputs: vec![("o".into(), digest, 5)],
            ..Action::default()
        };
        assert!(cache.complete(&action));
        assert!(cache.open_sized(&digest, 5).is_ok());
        let path = path_of(&root, &digest);
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        file.set_times(FileTimes::new().set_modified(mtime))
            .unwrap();
        assert!(!cache.complete(&action));
        if len == 3 {
            assert!(cache.open_sized(&digest, 5).is_err());
        }
        assert!(is_missing(&cache, &digest));
        assert!(!cache.has_object(&digest));
    }
    assert_eq!(quarantined(&root), 3);
    let digest = cache.put(b"whole").unwrap();
    assert!(cache.open_sized(&digest, 6).is_err());
}

#[test]
fn a_stray_write_is_noticed_in_any_boot() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    let digest = cache.put(b"whole").unwrap();
    let path = path_of(&root, &digest);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&path, b"Whole").unwrap();
    assert!(is_missing(&cache, &digest));
    // What is not even a file.
    fs::create_dir(&path).unwrap();
    assert!(is_missing(&cache, &digest));
    assert_eq!(cache.put(b"whole").unwrap(), digest);
    assert_eq!(cache.read(&digest).unwrap(), b"whole");
}
