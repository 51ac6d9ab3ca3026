//! Recipes and files: what is written is what was asked for, whatever was there before.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_cache::{Cache, Digest};
use proptest::prelude::*;

use crate::format::recipe::{Piece, Recipe, RecipeWriter, Sink};
use crate::format::splice::splice_moving;
use crate::format::{Form, FormatError, Segment, Target, assemble};

fn cache(directory: &Path) -> Cache {
    Cache::open(directory.join("cache")).unwrap()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn put(cache: &Cache, bytes: &[u8]) -> Segment {
    Segment {
        digest: cache.put(bytes).unwrap(),
        len: bytes.len() as u64,
        form: Form::Bytes,
    }
}

/// A recipe with all kinds of pieces, `blocks` 4 KiB blocks long plus `extra` bytes.
fn recipe(cache: &Cache, seed: u64, blocks: u64, extra: u64) -> Segment {
    let pack = cache.put(&noise(seed ^ 0xffff, 2_000_000)).unwrap();
    let len = blocks * 4096 + extra;
    let mut writer = RecipeWriter::new(cache).unwrap();
    let mut step = 0;
    while writer.len() < len {
        let left = len - writer.len();
        match step % 3 {
            0 => writer
                .literal(&noise(seed, 700.min(left as usize)))
                .unwrap(),
            1 => writer
                .range(&pack, seed % 1000 + step, 9000.min(left))
                .unwrap(),
            _ => writer.zeros((5000 * (seed % 2) + 100).min(left)).unwrap(),
        }
        step += 1;
    }
    writer.finish().unwrap()
}

fn bytes_of(cache: &Cache, segments: &[Segment]) -> Vec<u8> {
    let mut out = Vec::new();
    assemble(cache, segments, Target::Writer(&mut out), None).unwrap();
    out
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_recipe_gives_back_its_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let pack = cache.put(&noise(1, 3_000_000)).unwrap();
    let literal = noise(2, 2_500_000);
    let mut writer = RecipeWriter::new(&cache).unwrap();
    writer.literal(&literal[..10]).unwrap();
    writer.literal(&literal[10..]).unwrap();
    writer.zeros(100).unwrap();
    writer.zeros(10_000_000).unwrap();
    writer.range(&pack, 5, 1_000_000).unwrap();
    writer.range(&pack, 1_000_005, 1_000_000).unwrap();
    writer.range(&pack, 7, 0).unwrap();
    writer.literal(b"").unwrap();
    let segment = writer.finish().unwrap();
    let opened = Recipe::open(&cache, &segment.digest).unwrap();
    let pieces: Vec<Piece<'_>> = opened.pieces().collect();
    let expected = [
        Piece::Literal {
            at: 0,
            len: 2_500_100,
        },
        Piece::Zeros { len: 10_000_000 },
        Piece::Range {
            pack: &pack,
            offset: 5,
            len: 2_000_000,
        },
    ];
    assert_eq!(pieces, expected);
    let mut bytes = literal;
    bytes.resize(12_500_100, 0);
    bytes.extend(&noise(1, 3_000_000)[5..2_000_005]);
    assert_eq!(segment.len, bytes.len() as u64);
    assert!(bytes_of(&cache, &[segment]) == bytes);
    // A file takes the long range through the kernel.
    let path = directory.path().join("out");
    assemble(&cache, &[segment], Target::Path(&path), None).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn headers_compress() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let mut writer = RecipeWriter::new(&cache).unwrap();
    for number in 0..10_000 {
        let header = crate::format::tar::plain_header(&format!("usr/{number}"), 0o644, 1, number);
        writer.literal(&header).unwrap();
        writer.zeros(1024).unwrap();
    }
    let segment = writer.finish().unwrap();
    let stored = cache.open_object(&segment.digest).unwrap().len();
    assert!(stored * 30 < segment.len, "{stored} for {}", segment.len);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_recipe_is_an_error(seed in 0..50_u64, at in any::<prop::sample::Index>(), bit in 0..8) {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        let good = recipe(&cache, seed, 12, 17);
        let mut bytes = cache.read(&good.digest).unwrap();
        let index = at.index(bytes.len());
        bytes[index] ^= 1_u8 << bit;
        let bad = Segment { digest: cache.put(&bytes).unwrap(), ..good };
        // Bytes or an error, never a panic.
        let _ = assemble(&cache, &[bad], Target::Writer(&mut std::io::sink()), None);
        let cut = Segment { digest: cache.put(&bytes[..index]).unwrap(), ..good };
        prop_assert!(assemble(&cache, &[cut], Target::Writer(&mut std::io::sink()), None).is_err());
    }

    #[test]
    fn spliced_is_what_a_cold_build_writes(
        old in prop::collection::vec((0..12_u64, 0..40_u64, prop::sample::select(vec![0, 0, 0, 0, 0, 512])), 0..8),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3, (12..24_u64, 0..40_u64, prop::sample::select(vec![0, 0, 0, 0, 1024]))), 0..5),
        move_min in prop::sample::select(vec![0, 60_000, u64::MAX]),
        tail in 0..3_u64,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        let mut new = old.clone();
        for (at, what, segment) in edits {
            let index = at.index(new.len() + 1);
            match what {
                0 => new.insert(index, segment),
                1 if index < new.len() => new[index] = segment,
                2 if index < new.len() => drop(new.remove(index)),
                _ => {}
            }
        }
        let render = |list: &[(u64, u64, u64)]| -> Vec<Segment> {
            let mut segments: Vec<Segment> = list
                .iter()
                .map(|(seed, blocks, extra)| recipe(&cache, *seed, *blocks, *extra))
                .collect();
            segments.push(put(&cache, &vec![0; usize::try_from(tail * 512).unwrap()]));
            segments
        };
        let (old, new) = (render(&old), render(&new));
        let out = directory.path().join("out");
        fs::create_dir(&out).unwrap();
        let path = out.join("system.tar");
        let placed = assemble(&cache, &old, Target::Path(&path), None).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let spliced = splice_moving(&cache, &path, &placed, &new, move_min).unwrap();
        if spliced {
            prop_assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
            prop_assert!(fs::read(&path).unwrap() == bytes_of(&cache, &new));
        } else {
            // Only when nothing could be kept.
            prop_assert!(old.iter().all(|segment| segment.len == 0 || !new.contains(segment)));
            prop_assert!(fs::read(&path).unwrap() == bytes_of(&cache, &old));
        }
        assemble(&cache, &new, Target::Path(&path), Some(&placed)).unwrap();
        prop_assert!(fs::read(&path).unwrap() == bytes_of(&cache, &new));
        prop_assert_eq!(names(&out), ["system.tar"]);
    }
}

/// A file of three segments, the middle one of which changes.
fn three(cache: &Cache) -> ([Segment; 3], [Segment; 3]) {
    let [first, last] = [1, 2].map(|seed| put(cache, &noise(seed, 40 * 4096)));
    let [old, new] = [3, 4].map(|seed| put(cache, &noise(seed, seed as usize * 4096)));
    ([first, old, last], [first, new, last])
}

#[test]
fn a_reader_keeps_the_old_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, new) = three(&cache);
    let path = directory.path().join("out");
    let placed = assemble(&cache, &old, Target::Path(&path), None).unwrap();
    let mut reader = File::open(&path).unwrap();
    let placed = assemble(&cache, &new, Target::Path(&path), Some(&placed)).unwrap();
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    assert!(seen == bytes_of(&cache, &old));
    assert!(fs::read(&path).unwrap() == bytes_of(&cache, &new));
    drop(reader);
    let inode = fs::metadata(&path).unwrap().ino();
    assemble(&cache, &old, Target::Path(&path), Some(&placed)).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().ino(),
        inode,
        "nobody reads: in place"
    );
}

#[test]
fn a_second_name_keeps_the_old_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, new) = three(&cache);
    let (path, other) = (directory.path().join("out"), directory.path().join("kept"));
    let placed = assemble(&cache, &old, Target::Path(&path), None).unwrap();
    fs::hard_link(&path, &other).unwrap();
    assemble(&cache, &new, Target::Path(&path), Some(&placed)).unwrap();
    assert!(fs::read(&path).unwrap() == bytes_of(&cache, &new));
    assert!(fs::read(&other).unwrap() == bytes_of(&cache, &old));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    assemble(&cache, &new, Target::Path(&path), Some(&placed)).unwrap();
    assert!(fs::read(&other).unwrap() == bytes_of(&cache, &old));
    assert!(fs::read(&path).unwrap() == bytes_of(&cache, &new));
}

#[test]
fn a_reader_in_a_loop_never_sees_a_torn_file() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, new) = three(&cache);
    let path = directory.path().join("out");
    let (a, b) = (bytes_of(&cache, &old), bytes_of(&cache, &new));
    let mut placed = assemble(&cache, &old, Target::Path(&path), None).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut whole = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // It may be away for a moment.
                if let Ok(bytes) = fs::read(&path) {
                    assert!(bytes == a || bytes == b);
                    whole += 1;
                }
            }
            whole
        });
        for turn in 0..200 {
            let segments = if turn % 2 == 0 { &new } else { &old };
            let path = Target::Path(&path);
            placed = assemble(&cache, segments, path, Some(&placed)).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 10);
    });
}

#[test]
fn a_failure_leaves_the_old_output_and_no_rubbish() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, new) = three(&cache);
    let out = directory.path().join("out");
    fs::create_dir(&out).unwrap();
    let path = out.join("system.tar");
    let placed = assemble(&cache, &old, Target::Path(&path), None).unwrap();
    let missing = Segment {
        digest: Digest::of(b"gone"),
        len: 4096,
        form: Form::Bytes,
    };
    let broken = [new[0], missing, new[2]];
    for previous in [None, Some(&placed[..])] {
        let error = assemble(&cache, &broken, Target::Path(&path), previous).unwrap_err();
        assert!(matches!(error, FormatError::Cache(_)), "{error}");
        assert!(fs::read(&path).unwrap() == bytes_of(&cache, &old));
        assert_eq!(names(&out), ["system.tar"]);
    }
    let wrong = Segment {
        len: new[1].len + 1,
        ..new[1]
    };
    let error = assemble(&cache, &[wrong], Target::Path(&path), None).unwrap_err();
    assert!(matches!(error, FormatError::WrongLength { .. }));
    assert_eq!(names(&out), ["system.tar"]);
}

#[test]
fn sweeps_the_dead_and_spares_the_living() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, _) = three(&cache);
    let out = directory.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join(".system.tar.kiln-tmp-1-1"), b"dead").unwrap();
    fs::write(out.join(".other.tar.kiln-tmp-1-1"), b"not ours").unwrap();
    let living = File::create(out.join(".system.tar.kiln-tmp-2-1")).unwrap();
    living.lock().unwrap();
    assemble(&cache, &old, Target::Path(&out.join("system.tar")), None).unwrap();
    assert_eq!(
        names(&out),
        [
            ".other.tar.kiln-tmp-1-1",
            ".system.tar.kiln-tmp-2-1",
            "system.tar"
        ]
    );
}

#[test]
fn a_full_disk_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, _) = three(&cache);
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let error = assemble(&cache, &old, Target::Writer(&mut full), None).unwrap_err();
    assert!(error.is_full_disk(), "{error}");
    full.flush().unwrap();
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (old, _) = three(&cache);
    let path = directory.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = assemble(&cache, &old, Target::Path(&path), None).unwrap_err();
    assert!(
        error.to_string().contains("a device, pipe or socket"),
        "{error}"
    );
    assert!(!fs::metadata(&path).unwrap().is_file());
}
