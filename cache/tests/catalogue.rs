//! The catalogue: folding, sharing, damage.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::path::{Path, PathBuf};

use kiln_cache::{Action, Build, Cache, CacheError, Catalogue, Digest, Key, KeyBuilder};

fn key(number: u64) -> Key {
    KeyBuilder::new("test", 1).number("n", number).finish()
}

/// Ten actions in a chain, two sharing each object.
fn fill(cache: &Cache) -> Vec<Digest> {
    (0..10)
        .map(|number: u64| {
            let digest = cache.put(&(number / 2).to_le_bytes()).unwrap();
            let action = Action {
                kind: "test".into(),
                label: format!("step {number}"),
                outputs: vec![("o".into(), digest, 8)],
                edges: (number > 0).then(|| key(number - 1)).into_iter().collect(),
                ..Action::default()
            };
            cache.put_action(&key(number), &action).unwrap();
            digest
        })
        .collect()
}

fn build(at_ns: i64, actions: impl IntoIterator<Item = u64>) -> Build {
    Build {
        at_ns,
        label: format!("at {at_ns}"),
        actions: actions.into_iter().map(key).collect(),
        ..Build::default()
    }
}

/// Later than any file of this test.
const LATER: i64 = i64::MAX - 1000;

fn index(root: &Path) -> PathBuf {
    let mut hosts = fs::read_dir(root.join("index")).unwrap();
    hosts.next().unwrap().unwrap().path()
}

fn assert_filled(catalogue: &Catalogue<'_>, digests: &[Digest]) {
    for (number, digest) in (0..).zip(digests) {
        let entry = catalogue.action(&key(number)).unwrap().unwrap();
        assert_eq!((entry.label, entry.bytes), (format!("step {number}"), 8));
        assert_eq!(catalogue.object(digest).unwrap().unwrap().size, 8);
        let users = catalogue.users(digest).unwrap();
        assert!(users.len() == 2 && users.contains(&key(number)));
        let parents: Vec<_> = (number < 9).then(|| key(number + 1)).into_iter().collect();
        assert_eq!(catalogue.parents(&key(number)).unwrap(), parents);
    }
}

#[test]
fn builds_are_folded_in() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    let digests = fill(&cache);
    cache.touch(&build(LATER, [1, 2])).unwrap();
    let catalogue = cache.catalogue().unwrap();
    assert!(catalogue.rebuilt().is_some());
    assert_filled(&catalogue, &digests);
    // Told while the catalogue is open, by someone else: kept for the next.
    Cache::open(&root)
        .unwrap()
        .touch(&build(LATER + 1, [2]))
        .unwrap();
    assert_eq!(catalogue.history(10).unwrap(), [build(LATER, [1, 2])]);
    catalogue.close().unwrap();

    let catalogue = cache.catalogue().unwrap();
    assert_eq!(catalogue.rebuilt(), None);
    assert_filled(&catalogue, &digests);
    let used = |number| catalogue.action(&key(number)).unwrap().unwrap().last_use_ns;
    assert!(used(0) < LATER && used(1) == LATER && used(2) == LATER + 1);
    let object = |number: usize| {
        catalogue
            .object(&digests[number])
            .unwrap()
            .unwrap()
            .last_use_ns
    };
    assert_eq!((object(0), object(2)), (LATER, LATER + 1));
    assert_eq!(catalogue.history(1).unwrap(), [build(LATER + 1, [2])]);
    assert_eq!(catalogue.history(9).unwrap().len(), 2);
    drop(catalogue);
    assert!(!index(&root).join("spool").exists());

    // What is gone is forgotten by a rebuild; use is not.
    let hex = digests[0].to_string();
    fs::remove_file(root.join("objects").join(&hex[..2]).join(&hex[2..])).unwrap();
    let hex = key(2).to_string();
    fs::remove_file(root.join("actions").join(&hex[..2]).join(&hex[2..])).unwrap();
    let catalogue = cache.catalogue().unwrap();
    catalogue.rebuild().unwrap();
    assert_eq!(catalogue.action(&key(2)).unwrap(), None);
    assert_eq!(catalogue.users(&digests[2]).unwrap(), [key(3)]);
    assert_eq!(catalogue.parents(&key(1)).unwrap(), []);
    assert_eq!(
        catalogue.action(&key(1)).unwrap().unwrap().last_use_ns,
        LATER
    );
}

#[test]
fn many_tell_at_once() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    fill(&Cache::open(&root).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let root = &root;
            scope.spawn(move || {
                let cache = Cache::open(root).unwrap();
                for number in 0..40 {
                    cache.touch(&build(thread * 100 + number, [1])).unwrap();
                    if number % 16 == 7 {
                        cache.catalogue().unwrap().close().unwrap();
                    }
                }
            });
        }
    });
    let cache = Cache::open(&root).unwrap();
    assert_eq!(cache.catalogue().unwrap().history(1000).unwrap().len(), 240);
}

#[test]
fn one_process_at_a_time() {
    let room = tempfile::tempdir().unwrap();
    let cache = Cache::open(room.path().join("cache")).unwrap();
    let catalogue = cache.catalogue().unwrap();
    let error = cache.catalogue().err().unwrap();
    assert!(matches!(error, CacheError::CatalogueBusy(_)), "{error}");
    drop(catalogue);
    cache.catalogue().unwrap();
}

#[test]
fn leftovers_of_the_killed_are_survived() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    let digests = fill(&cache);
    cache.touch(&build(7, [1])).unwrap();
    cache.catalogue().unwrap().close().unwrap();
    let index = index(&root);
    let generating = index.join("db/snap.0000000000000000.generating");
    fs::write(&generating, b"rubbish").unwrap();
    // Killed once while it was open: the history is still there. Twice: not worth the risk.
    for (state, rebuilt) in [
        ("open 1", false),
        ("open 2", true),
        ("making", true),
        ("\u{0}", true),
    ] {
        fs::write(index.join("state"), state).unwrap();
        let catalogue = cache.catalogue().unwrap();
        assert_eq!(catalogue.rebuilt().is_some(), rebuilt, "{state:?}");
        assert_filled(&catalogue, &digests);
        assert_eq!(catalogue.history(9).unwrap().is_empty(), rebuilt);
        assert!(!generating.exists());
        catalogue.close().unwrap();
        cache.touch(&build(8, [1])).unwrap();
        cache.catalogue().unwrap().close().unwrap();
    }
}

#[test]
fn a_damaged_database_is_rebuilt() {
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("cache");
    let cache = Cache::open(&root).unwrap();
    let digests = fill(&cache);
    cache.catalogue().unwrap().close().unwrap();
    let db = index(&root).join("db/db");
    let whole = fs::read(&db).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..used).step_by(used / 12) {
        let mut damaged = fs::read(&db).unwrap();
        let end = (at + 64).min(damaged.len());
        damaged[at.min(end)..end].fill(0xa5);
        fs::write(&db, damaged).unwrap();
        let catalogue = cache.catalogue().unwrap();
        assert_filled(&catalogue, &digests);
        catalogue.close().unwrap();
    }
    for len in [0, 10, used as u64 / 2] {
        fs::File::options()
            .write(true)
            .open(&db)
            .unwrap()
            .set_len(len)
            .unwrap();
        let catalogue = cache.catalogue().unwrap();
        assert!(catalogue.rebuilt().is_some());
        assert_filled(&catalogue, &digests);
        catalogue.close().unwrap();
    }
    assert!(index(&root).join("bad").exists());
}
