//! Descriptions of wrong shapes: where the mistake is, the line itself, and nothing written.
//!
//! What the mistakes are is the business of the spec's own tests.

use std::fs;

use super::super::support::Space;
use super::{assert_failed, assert_same, earlier_output, files};

/// Builds a description; expects its errors, the earlier output, and no cache made for nothing.
#[track_caller]
fn wrong(bytes: &[u8], parts: &[&str]) {
    let space = Space::new();
    let earlier = earlier_output(&space);
    fs::write(space.path("system.yml"), bytes).unwrap();
    let said = space.kiln(&["build", "-f", "tar", "--dir", "out", "system.yml"]);
    assert_failed(&said, 3, parts);
    assert_same(&files(&space.path("out")), &earlier, "after the mistake");
}

#[test]
fn every_unknown_key_is_shown() {
    let text = "services:\n  - name: one\n    image: x\n    comand: [a]\nservice: []\n";
    wrong(
        text.as_bytes(),
        &[
            "error: services[0]: unknown key \"comand\"\n --> system.yml:4:5\n",
            "4 |     comand: [a]\n  |     ^^^^^^\nhint: did you mean \"command\"?",
            "error: unknown key \"service\"\n --> system.yml:5:1\n",
            "error: 2 mistakes in the description",
        ],
    );
}

#[test]
fn a_wrong_type() {
    wrong(
        b"kernel:\n  cmdline: [a, b]\n",
        &[
            "error: kernel.cmdline: expected ",
            " --> system.yml:2:12\n",
            "2 |   cmdline: [a, b]\n  |            ^^^^^^\n",
        ],
    );
}

#[test]
fn a_key_given_twice() {
    wrong(
        b"init: [a]\nservices: []\ninit: [b]\n",
        &[
            "error: key \"init\" is already given at line 1\n --> system.yml:3:1\n",
            "3 | init: [b]\n  | ^^^^\n",
        ],
    );
}

#[test]
fn a_tab() {
    wrong(
        b"init:\n\t- a\n",
        &[
            "error: tab in indentation\n --> system.yml:2:1\n",
            "2 |  - a\n  | ^\nhint: YAML is indented with spaces",
        ],
    );
}

#[test]
fn an_empty_file() {
    wrong(
        b"",
        &[
            "error: the file holds no description\n",
            " --> system.yml:1:1\n",
            "hint: ",
        ],
    );
    wrong(
        b"# nothing yet\n",
        &["error: the file holds no description\n"],
    );
}

#[test]
fn a_file_that_is_no_text() {
    let binary: Vec<u8> = b"\x7fELF\x02\x01"
        .iter()
        .copied()
        .chain(128..=255)
        .collect();
    wrong(
        &binary,
        &["error: not UTF-8: ", " --> system.yml:1:7\n", "hint: "],
    );
}

#[test]
fn an_image_that_cannot_be_one_is_shown_too() {
    wrong(
        b"init:\n  - Upper/case\n",
        &[
            "error: ",
            " --> system.yml:2:5\n",
            "2 |   - Upper/case\n  |     ^^^^^^^^^^\n",
        ],
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let space = Space::new();
    let earlier = earlier_output(&space);
    fs::create_dir(space.path("directory")).unwrap();
    for (name, why) in [
        ("missing.yml", "No such file"),
        ("directory", "Is a directory"),
    ] {
        let said = space.kiln(&["build", "-f", "tar", "--dir", "out", name]);
        assert_failed(
            &said,
            1,
            &[&format!("error: cannot read {name}\n"), why, "hint: "],
        );
    }
    // One file of several: still nothing is built.
    let said = space.kiln(&[
        "build",
        "-f",
        "tar",
        "--dir",
        "out",
        "system.yml",
        "missing.yml",
    ]);
    assert_failed(&said, 1, &["error: cannot read missing.yml\n"]);
    assert_same(&files(&space.path("out")), &earlier, "after the mistakes");
}
