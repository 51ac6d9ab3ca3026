//! Full disks: under the outputs, and under the cache.

use super::super::support::disk::Disk;
use super::super::support::{Said, Space, said};
use super::{assert_failed, assert_goes_on, assert_same, files, finished};

const BUILD: [&str; 6] = ["build", "--json", "-f", "tar", "--dir", "out"];
const KIB: usize = 1024;

/// A space with a small and a large image: in a tar 1 and 4 MiB.
fn space() -> Space {
    let space = Space::new();
    std::fs::create_dir(space.path("out")).unwrap();
    for (name, kib) in [("small", 1024), ("large", 4096)] {
        space
            .image(name)
            .layer(&[("data", &name.repeat(kib * KIB / name.len()))]);
    }
    space
}

/// Describes a system of these images.
fn describe(space: &Space, images: &[&str]) {
    let image = |name: &&str| {
        let layout = space.path("oci").join(name);
        format!(
            "  - {{name: {name}, image: \"oci:{}\", command: [/data]}}\n",
            layout.display()
        )
    };
    let services: String = images.iter().map(image).collect();
    space.write("system.yml", &format!("services:\n{services}"));
}

fn build(space: &Space, disk: &Disk) -> Said {
    said(disk.command(space).args(BUILD).arg("system.yml"))
}

/// A disk that has room for the small output, but not for the large one.
fn outputs_find_no_room(forget: bool) {
    let space = space();
    let disk = space.disk("out", 3 * 1024);
    describe(&space, &["small"]);
    let first = build(&space, &disk);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let earlier = files(&disk.path(""));
    assert!(earlier["system.tar"].len() > 1024 * KIB);
    if forget {
        std::fs::remove_dir_all(space.path("cache")).unwrap();
    }
    describe(&space, &["small", "large"]);
    let failed = build(&space, &disk);
    assert_failed(
        &failed,
        1,
        &[
            "error: cannot write ",
            "out/system.tar\n",
            "disk full: ",
            " MB more needed",
            "hint: make room in ",
            "free)",
            "--dir",
        ],
    );
    assert_same(&files(&disk.path("")), &earlier, "on a full disk");
    disk.remount("size=8m");
    let next = build(&space, &disk);
    assert_goes_on(&failed, &next);
    assert!(files(&disk.path(""))["system.tar"].len() > 5 * 1024 * KIB);
}

#[test]
fn a_fresh_output_finds_no_room() {
    outputs_find_no_room(true);
}

/// The earlier output begins as the new one does, so it would be changed in place.
#[test]
fn a_spliced_output_finds_no_room() {
    outputs_find_no_room(false);
}

#[test]
fn the_cache_finds_no_room() {
    let space = space();
    let disk = space.disk("cache", 3 * 1024);
    describe(&space, &["small"]);
    let first = build(&space, &disk);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let earlier = files(&space.path("out"));
    describe(&space, &["small", "large"]);
    let failed = build(&space, &disk);
    let large = format!("image oci:{}", space.path("oci/large").display());
    assert_failed(
        &failed,
        1,
        &[
            &large,
            "layer sha256:",
            "disk full: ",
            "free, at least ",
            "needed",
            "hint: make room on the disk of ",
        ],
    );
    assert_same(&files(&space.path("out")), &earlier, "with a full cache");
    let kept = finished(&failed, &["cached"]);
    assert!(
        kept.iter().any(|step| step.starts_with("layer ")),
        "{kept:?}"
    );
    assert!(files(&disk.path("tmp")).is_empty());
    disk.remount("size=16m");
    let next = build(&space, &disk);
    assert_goes_on(&failed, &next);
    assert!(files(&space.path("out"))["system.tar"].len() > 5 * 1024 * KIB);
}

#[test]
fn the_cache_finds_no_room_at_all() {
    let space = space();
    let disk = space.disk("cache", 4);
    describe(&space, &["small"]);
    let failed = build(&space, &disk);
    assert_failed(
        &failed,
        1,
        &["disk full: 0 B free\n", "hint: make room on the disk of "],
    );
    assert!(space.names("out").is_empty());
    disk.remount("size=16m");
    let next = build(&space, &disk);
    assert_goes_on(&failed, &next);
}
