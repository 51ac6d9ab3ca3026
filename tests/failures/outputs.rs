//! Outputs that cannot be written, for reasons other than room.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::super::support::{Said, Space, said};
use super::{assert_failed, assert_goes_on, assert_same, earlier_output, files};

const BUILD: [&str; 6] = ["build", "--json", "-f", "tar", "--dir", "out"];

/// A space with an earlier output, and another system to write over it.
fn changed(space: &Space) -> super::Files {
    let earlier = earlier_output(space);
    space.image("init").layer(&[("!init", "new")]);
    let text = format!("init:\n  - oci:{}\n", space.path("oci/init").display());
    space.write("system.yml", &text);
    earlier
}

fn build(space: &Space) -> Said {
    said(space.command().args(BUILD).arg("system.yml"))
}

#[test]
fn a_directory_without_permission() {
    let space = Space::new();
    let earlier = changed(&space);
    fs::set_permissions(space.path("out"), Permissions::from_mode(0o555)).unwrap();
    let failed = said(space.powerless().args(BUILD).arg("system.yml"));
    assert_failed(
        &failed,
        1,
        &[
            "error: cannot write ",
            "out/system.tar\n",
            "Permission denied",
            "hint: make ",
            "--dir",
        ],
    );
    assert_same(&files(&space.path("out")), &earlier, "without permission");
    fs::set_permissions(space.path("out"), Permissions::from_mode(0o755)).unwrap();
    let next = build(&space);
    assert_goes_on(&failed, &next);
}

#[test]
fn what_the_dead_leave_is_swept() {
    let space = Space::new();
    changed(&space);
    // Nobody holds its lock. The output itself does not change, nor does the lock file's name.
    let rubbish = ["out/.system.tar.kiln-tmp-1-0", ".system.lock.kiln-tmp-1-0"];
    let is_there = || rubbish.map(|name| space.path(name).exists());
    assert_eq!(build(&space).code, Some(0));
    for name in rubbish {
        space.write(name, "half");
    }
    let text = fs::read_to_string(space.path("system.yml")).unwrap();
    space.write("system.yml", &format!("{text}# touched\n"));
    assert_eq!(build(&space).code, Some(0));
    assert_eq!(is_there(), [false, true]);
    assert_eq!(space.kiln(&["lock", "system.yml"]).code, Some(0));
    assert_eq!(is_there(), [false, false]);
}

#[test]
fn a_read_only_disk() {
    let space = Space::new();
    let disk = space.disk("out", 1024);
    space.write(
        "system.yml",
        "files:\n  - {path: etc/earlier, contents: output}\n",
    );
    let build = || said(disk.command(&space).args(BUILD).arg("system.yml"));
    assert_eq!(build().code, Some(0));
    let earlier = files(&disk.path(""));
    disk.remount("ro");
    space.write(
        "system.yml",
        "files:\n  - {path: etc/earlier, contents: changed}\n",
    );
    let failed = build();
    assert_failed(
        &failed,
        1,
        &[
            "error: cannot write ",
            "out/system.tar\n",
            "Read-only file system",
            "hint: make ",
            "--dir",
        ],
    );
    assert_same(&files(&disk.path("")), &earlier, "on a read-only disk");
    disk.remount("rw");
    let next = build();
    assert_goes_on(&failed, &next);
}

#[test]
fn a_directory_in_the_way() {
    let space = Space::new();
    changed(&space);
    fs::remove_file(space.path("out/system.tar")).unwrap();
    space.write("out/system.tar/precious", "work");
    let failed = build(&space);
    assert_failed(
        &failed,
        1,
        &[
            "error: cannot write ",
            "out/system.tar\n",
            "s a directory",
            "hint: ",
        ],
    );
    let failed = space.kiln(&["build", "-o", "out/system.tar", "system.yml"]);
    assert_failed(
        &failed,
        1,
        &["error: cannot write ", "out/system.tar\n", "hint: "],
    );
    assert_eq!(space.names("out"), ["system.tar"]);
    assert_eq!(
        fs::read(space.path("out/system.tar/precious")).unwrap(),
        b"work"
    );
}

#[test]
fn a_directory_that_is_not_there() {
    let space = Space::new();
    changed(&space);
    let failed = space.kiln(&["build", "-f", "tar", "--dir", "nowhere", "system.yml"]);
    assert_failed(
        &failed,
        2,
        &[
            "error: --dir nowhere is not a directory\n",
            "hint: make it first",
        ],
    );
    let failed = space.kiln(&["build", "-o", "nowhere/system.tar", "system.yml"]);
    assert_failed(
        &failed,
        1,
        &[
            "error: cannot write ",
            "nowhere/system.tar\n",
            "No such file or directory",
            "hint: make the directory first: mkdir -p ",
        ],
    );
    // Known before anything is done.
    assert!(!failed.stderr.contains("Unpacked"), "{}", failed.stderr);
    assert!(!space.path("nowhere").exists());
}
