//! Every file of a cache flipped, cut short or removed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Random, Systems, rounds};
use crate::support::tool;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip,
    Cut,
    Empty,
    Remove,
    Garbage,
}

const HARMS: [Harm; 5] = [
    Harm::Flip,
    Harm::Cut,
    Harm::Empty,
    Harm::Remove,
    Harm::Garbage,
];

fn harm(path: &Path, harm: Harm, random: &mut Random) {
    let mut bytes = fs::read(path).unwrap();
    match harm {
        Harm::Remove => return fs::remove_file(path).unwrap(),
        Harm::Flip if bytes.is_empty() => bytes.push(1),
        Harm::Flip => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        Harm::Cut => bytes.truncate(bytes.len() / 2),
        Harm::Empty => bytes.clear(),
        Harm::Garbage => bytes = vec![0xff; bytes.len() + 1],
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn no_damaged_byte_is_used_whichever_file_it_is_in() {
    let systems = Systems::new(2);
    let space = &systems.space;
    systems.check(0, "before");
    systems.check(1, "before");
    // So that there is a catalogue, too.
    assert_eq!(space.kiln(&["cache", "ls", "--by", "size"]).code, Some(0));
    let (cache, whole) = (space.path("cache"), space.path("whole"));
    fs::rename(&cache, &whole).unwrap();
    let mut all = Vec::new();
    files(&whole, &mut all);
    all.sort();
    // The format itself is no data: a damaged one is set aside, a newer one refused.
    all.retain(|path| !path.ends_with("version"));
    let mut random = Random::new();
    let seed = random.seed;
    let harms = rounds(1, HARMS.len());
    let step = rounds(3, 1);
    for (at, path) in all.iter().enumerate().step_by(step) {
        for other in 0..harms {
            let chosen = HARMS[(at + other) % HARMS.len()];
            let what = format!("seed {seed}: {chosen:?} {}", path.display());
            let _ = fs::remove_dir_all(&cache);
            let (from, to) = (whole.to_str().unwrap(), cache.to_str().unwrap());
            tool("cp", &["-a", from, to]);
            let within = path.strip_prefix(&whole).unwrap();
            harm(&cache.join(within), chosen, &mut random);
            let _ = fs::remove_file(space.path("system.tar"));
            systems.check(0, &what);
            systems.check(1, &what);
            let listed = space.kiln(&["cache", "ls", "--by", "size"]);
            assert_eq!(listed.code, Some(0), "{what}: {}", listed.stderr);
        }
    }
}

#[test]
fn a_cache_without_its_catalogue_or_any_directory_of_its_own_goes_on() {
    let systems = Systems::new(2);
    let space = &systems.space;
    systems.check(0, "before");
    for name in [
        "index",
        "builds",
        "leases",
        "locks",
        "tmp",
        "quarantine",
        "actions",
        "objects",
    ] {
        assert_eq!(space.kiln(&["cache", "du"]).code, Some(0));
        fs::remove_dir_all(space.path(&format!("cache/{name}"))).unwrap();
        let _ = fs::remove_file(space.path("system.tar"));
        systems.check(1, name);
        systems.check(0, name);
        for verb in [&["cache", "du"][..], &["cache", "gc"], &["cache", "verify"]] {
            let said = space.kiln(verb);
            assert_eq!(said.code, Some(0), "{name}, {verb:?}: {}", said.stderr);
        }
    }
    // The catalogue's own files, one after the other.
    let index = space.names("cache/index");
    let db = format!("cache/index/{}/db", index[0]);
    for file in space.names(&db) {
        let path = space.path(&format!("{db}/{file}"));
        match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::write(&path, [7; 100]).unwrap(),
        }
        let said = space.kiln(&["cache", "du"]);
        assert_eq!(said.code, Some(0), "{file}: {}", said.stderr);
        systems.check(0, &file);
    }
}

#[test]
fn a_newer_format_is_refused_and_untouched() {
    let systems = Systems::new(1);
    systems.check(0, "before");
    systems.space.write("cache/version", "1000000\n");
    fs::remove_file(systems.space.path("system.tar")).unwrap();
    let before = tool("find", &[systems.space.path("cache").to_str().unwrap()]);
    for args in [
        &["build", "-o", "system.tar", "0.yml"][..],
        &["cache", "gc"],
        &["cache", "verify"],
        &["cache", "du"],
        &["cache", "export", "--all", "x.kiln"],
    ] {
        let said = systems.space.kiln(args);
        assert_eq!(said.code, Some(1), "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains("1000000"), "{args:?}: {}", said.stderr);
    }
    let after = tool("find", &[systems.space.path("cache").to_str().unwrap()]);
    assert_eq!(before, after);
}
