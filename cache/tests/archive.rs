//! Archives: carried over whole, cut anywhere, flipped anywhere, and made up by an enemy.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::LazyLock;

use kiln_cache::archive::is_archive;
use kiln_cache::{
    Action, Cache, Digest, ExportError, ImportError, ImportFailure, Imported, Key, KeyBuilder,
};
use proptest::prelude::*;

fn key(number: u64) -> Key {
    KeyBuilder::new("test", 1).number("n", number).finish()
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Puts an action with these objects.
fn put(cache: &Cache, number: u64, objects: &[&[u8]]) {
    let outputs = objects.iter().map(|bytes| {
        let digest = cache.put(bytes).unwrap();
        (format!("o{}", bytes.len()), digest, bytes.len() as u64)
    });
    let action = Action {
        kind: "test".into(),
        label: number.to_string(),
        outputs: outputs.collect(),
        values: vec![("v".into(), number.to_le_bytes().to_vec())],
        edges: vec![key(number + 1)],
        cost_ns: number,
    };
    cache.put_action(&key(number), &action).unwrap();
}

fn all(cache: &Cache) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    cache
        .each_action(|key, _, _| {
            keys.insert(key);
            Ok(())
        })
        .unwrap();
    keys
}

fn export(cache: &Cache, threads: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let keys = all(cache);
    let exported = cache.export(&keys, threads, &mut bytes, &mut |_| true);
    assert_eq!(exported.unwrap().actions, keys.len() as u64);
    bytes
}

fn import(cache: &Cache, bytes: &[u8]) -> Result<Imported, ImportError> {
    cache.import(bytes, &mut |_| true)
}

/// Empties a cache, for tests that need thousands of empty ones.
fn empty(cache: &Cache) {
    for room in ["objects", "actions"] {
        let path = cache.root().join(room);
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
}

/// Everything in `copy` is whole, and is what `original` has.
fn assert_part_of(copy: &Cache, original: &Cache) -> (usize, usize) {
    let mut objects = 0;
    copy.each_object(|object| {
        assert_eq!(Digest::of(&copy.read(&object.digest)?), object.digest);
        objects += 1;
        Ok(())
    })
    .unwrap();
    let mut actions = 0;
    copy.each_action(|key, action, _| {
        let action = action.unwrap();
        assert!(copy.sound(&action)?);
        assert_eq!(original.action(&key)?, Some(action));
        actions += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(fs::read_dir(copy.root().join("tmp")).unwrap().count(), 0);
    (objects, actions)
}

fn small(root: &Path) -> Cache {
    let cache = Cache::open(root.join("small")).unwrap();
    put(&cache, 1, &[b"one", b""]);
    put(&cache, 2, &[b"two", b"one"]);
    put(&cache, 3, &[]);
    cache
}

#[test]
fn what_is_exported_is_imported() {
    let room = tempfile::tempdir().unwrap();
    let cache = Cache::open(room.path().join("cache")).unwrap();
    let (big, shared) = (noise(1, 9 << 20), vec![0; 700_000]);
    put(&cache, 1, &[&big, &shared, b""]);
    put(&cache, 2, &[&shared, b"small"]);
    put(&cache, 3, &[]);
    let archive = export(&cache, 1);
    assert!(is_archive(&archive) && !is_archive(&archive[1..]));
    assert_eq!(archive, export(&cache, 2), "one and two threads differ");

    let copy = Cache::open(room.path().join("copy")).unwrap();
    let imported = import(&copy, &archive).unwrap();
    let bytes = (big.len() + shared.len() + 5) as u64;
    assert_eq!(
        (imported.actions, imported.objects, imported.bytes),
        (3, 4, bytes)
    );
    assert_eq!(assert_part_of(&copy, &cache), (4, 3));
    assert_eq!(export(&copy, 2), archive, "a copy is another archive");
    let again = import(&copy, &archive).unwrap();
    assert_eq!(
        (again.actions, again.objects, again.known),
        (0, 0, 3),
        "{again:?}"
    );

    // One is chosen: nothing of the others.
    let mut one = Vec::new();
    let keys = BTreeSet::from([key(2), key(77)]);
    let exported = cache.export(&keys, 1, &mut one, &mut |_| true).unwrap();
    assert_eq!((exported.actions, exported.left_out), (1, 1));
    empty(&copy);
    assert_eq!(import(&copy, &one).unwrap().objects, 2);

    // As tools for people read it.
    let plain = zstd::decode_all(&archive[..]).unwrap();
    let mut tar = tar::Archive::new(&plain[..]);
    let names = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if let Some(hex) = name.strip_prefix("objects/") {
            assert_eq!(hex.parse(), Ok(Digest::of(&content)));
        }
        name
    });
    assert_eq!(names.count(), 7);
}

#[test]
fn an_incomplete_action_is_left_out() {
    let room = tempfile::tempdir().unwrap();
    let cache = small(room.path());
    let damaged = Digest::of(b"two").to_string();
    let path = cache.root().join("objects").join(&damaged[..2]);
    let path = path.join(&damaged[2..]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "tow").unwrap();
    let mut archive = Vec::new();
    let exported = cache
        .export(&all(&cache), 1, &mut archive, &mut |_| true)
        .unwrap();
    assert_eq!((exported.actions, exported.left_out), (2, 1));
    let copy = Cache::open(room.path().join("copy")).unwrap();
    import(&copy, &archive).unwrap();
    assert_eq!(assert_part_of(&copy, &cache), (2, 2));
}

#[test]
fn cut_anywhere_it_says_so() {
    let room = tempfile::tempdir().unwrap();
    let cache = small(room.path());
    let archive = export(&cache, 1);
    let copy = Cache::open(room.path().join("copy")).unwrap();
    for cut in 0..archive.len() {
        let failure = import(&copy, &archive[..cut]).unwrap_err().failure;
        match failure {
            ImportFailure::NotAnArchive => assert!(cut < 29, "{cut}"),
            ImportFailure::Truncated { .. } => assert!(cut >= 29, "{cut}"),
            other => panic!("cut at {cut}: {other:?}"),
        }
        assert_part_of(&copy, &cache);
    }
    import(&copy, &archive).unwrap();
}

#[test]
fn what_came_before_the_cut_is_kept() {
    let room = tempfile::tempdir().unwrap();
    let cache = Cache::open(room.path().join("cache")).unwrap();
    for number in 0..6 {
        put(&cache, number, &[&noise(number, 400_000)]);
    }
    let archive = export(&cache, 2);
    let copy = Cache::open(room.path().join("copy")).unwrap();
    let mut before = 0;
    for tenth in 1..10 {
        let cut = archive.len() * tenth / 10;
        let error = import(&copy, &archive[..cut]).unwrap_err();
        assert!(matches!(error.failure, ImportFailure::Truncated { .. }));
        let (objects, actions) = assert_part_of(&copy, &cache);
        assert!(objects >= actions && actions >= before);
        assert_eq!(error.imported.actions, (actions - before) as u64);
        before = actions;
    }
    assert!(before >= 4, "{before}");
    assert_eq!(import(&copy, &archive).unwrap().known, before as u64);
    assert_eq!(assert_part_of(&copy, &cache), (6, 6));
}

#[test]
fn flipped_anywhere_nothing_wrong_comes_in() {
    let room = tempfile::tempdir().unwrap();
    let cache = small(room.path());
    let archive = export(&cache, 1);
    let copy = Cache::open(room.path().join("copy")).unwrap();
    for at in 0..archive.len() {
        let mut flipped = archive.clone();
        flipped[at] ^= 1 << (at % 8);
        let _ = import(&copy, &flipped);
        assert_part_of(&copy, &cache);
        empty(&copy);
    }
}

/// Compresses a made-up tar into an archive.
fn wrap(tar: &[u8], window_log: Option<u32>) -> Vec<u8> {
    let mut archive = b"\x5b\x2a\x4d\x18\x15\0\0\0kiln cache archive 1\n".to_vec();
    let mut encoder = zstd::Encoder::new(&mut archive, 1).unwrap();
    if let Some(log) = window_log {
        encoder.window_log(log).unwrap();
    }
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap();
    archive
}

#[test]
fn an_enemy_gets_nowhere() {
    let room = tempfile::tempdir().unwrap();
    let cache = small(room.path());
    let plain = zstd::decode_all(&export(&cache, 1)[..]).unwrap();
    let copy = Cache::open(room.path().join("copy")).unwrap();
    let refused = |archive: &[u8]| match import(&copy, archive).unwrap_err().failure {
        ImportFailure::Damaged { offset, reason } => (offset, reason),
        other => panic!("{other:?}"),
    };
    let hex = Digest::of(b"x").to_string();
    for name in [
        "../../evil".to_owned(),
        "objects/../../evil".to_owned(),
        format!("/objects/{hex}"),
        format!("objects/{}", hex.to_uppercase()),
        format!("builds/{hex}"),
        format!("objects/{hex}/x"),
        "version".to_owned(),
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o444);
        header.set_size(1);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        let (offset, reason) = refused(&wrap(&builder.into_inner().unwrap(), None));
        assert_eq!((offset, reason.contains("no object")), (0, true), "{name}");
    }
    // An action whose objects do not come, an object under another's name, more after the end.
    let mut one = Vec::new();
    let keys = BTreeSet::from([key(2)]);
    cache.export(&keys, 1, &mut one, &mut |_| true).unwrap();
    let one = zstd::decode_all(&one[..]).unwrap();
    let (_, reason) = refused(&wrap(&one[1024..], None));
    assert_eq!(reason, "an action without its objects");
    empty(&copy);
    let mut swapped = plain.clone();
    let at = plain.windows(3).position(|bytes| bytes == b"one").unwrap();
    swapped[at..at + 3].copy_from_slice(b"eno");
    assert!(refused(&wrap(&swapped, None)).1.contains("its name"));
    let twice = [plain.clone(), plain.clone()].concat();
    assert!(refused(&wrap(&twice, None)).1.contains("after the end"));
    // More memory than any archive needs.
    let huge = wrap(&vec![0; 64 << 20], Some(26));
    assert!(refused(&huge).1.contains("decompress"));
    // A promise of exabytes.
    let mut promise = plain[..512].to_vec();
    promise[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    promise[148..156].copy_from_slice(b"        ");
    let sum: u32 = promise.iter().map(|byte| u32::from(*byte)).sum();
    promise[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = import(&copy, &wrap(&promise, None)).unwrap_err();
    assert!(matches!(
        error.failure,
        ImportFailure::Truncated { offset: 512 }
    ));
    let newer = [
        b"\x5b\x2a\x4d\x18\x15\0\0\0kiln cache archive 2\n",
        &plain[..],
    ]
    .concat();
    let error = import(&copy, &newer).unwrap_err();
    assert!(matches!(error.failure, ImportFailure::Newer { found: 2 }));
    assert_part_of(&copy, &cache);
    assert!(!room.path().join("evil").exists());
}

#[test]
fn both_ends_can_fail_or_be_stopped() {
    struct Broken(bool);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            buffer.fill(0);
            let head = b"\x5b\x2a\x4d\x18\x15\0\0\0kiln cache archive 1\n";
            (&head[..]).read(buffer)
        }
    }
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let room = tempfile::tempdir().unwrap();
    let cache = small(room.path());
    let keys = all(&cache);
    let full = cache.export(&keys, 1, Full, &mut |_| true).unwrap_err();
    assert!(matches!(full, ExportError::Output(_)));
    let stopped = cache.export(&keys, 1, io::sink(), &mut |_| false);
    assert!(matches!(stopped, Err(ExportError::Cancelled)));
    let archive = export(&cache, 1);
    let copy = Cache::open(room.path().join("copy")).unwrap();
    let stopped = copy.import(&archive[..], &mut |_| false).unwrap_err();
    assert!(matches!(stopped.failure, ImportFailure::Cancelled));
    // Buffers of the skippable frame's parts: the first read gives all of it.
    let broken = copy
        .import(io::BufReader::new(Broken(false)), &mut |_| true)
        .unwrap_err();
    assert!(matches!(broken.failure, ImportFailure::Input(_)));
    assert_part_of(&copy, &cache);
}

/// The cache of [`small`] and its archive, made once.
static SMALL: LazyLock<(tempfile::TempDir, Cache, Vec<u8>)> = LazyLock::new(|| {
    let room = tempfile::tempdir().unwrap();
    let cache = small(room.path());
    let archive = export(&cache, 1);
    (room, cache, archive)
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_bytes_are_taken_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        at in any::<proptest::sample::Index>(),
    ) {
        let (_, cache, archive) = &*SMALL;
        let room = tempfile::tempdir().unwrap();
        let copy = Cache::open(room.path().join("copy")).unwrap();
        prop_assert!(import(&copy, &bytes).is_err());
        prop_assert!(import(&copy, &[&archive[..29], &bytes].concat()).is_err());
        prop_assert!(import(&copy, &wrap(&bytes, None)).is_err());
        // A tar that was right but for some bytes.
        let mut plain = zstd::decode_all(&archive[..]).unwrap();
        let at = at.index(plain.len());
        let len = bytes.len().min(plain.len() - at).min(40);
        plain[at..at + len].copy_from_slice(&bytes[..len]);
        let _ = import(&copy, &wrap(&plain, None));
        assert_part_of(&copy, cache);
    }
}
