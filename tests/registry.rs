//! Images out of Debian's registry.

use std::fs;

use super::support::{Space, read_tar};

#[test]
fn a_tag_stays_what_it_is_until_pulled() {
    let space = Space::new();
    let registry = space.registry();
    let one = space.image("one").layer(&[("!init", "one")]);
    let reference = registry.push(&one.layout(), "kiln/init:stable");
    space.write("system.yml", &format!("init:\n  - {reference}\n"));
    space.build(&["system.yml", "-f", "tar"]);
    let init =
        || String::from_utf8(read_tar(&space.path("system.tar"))["init"].content.clone()).unwrap();
    assert_eq!(init(), "one");

    let two = space.image("two").layer(&[("!init", "two")]);
    registry.push(&two.layout(), "kiln/init:stable");
    fs::remove_file(space.path("system.tar")).unwrap();
    space.build(&["system.yml", "-f", "tar"]);
    assert_eq!(init(), "one");
    space.build(&["system.yml", "-f", "tar", "--pull"]);
    assert_eq!(init(), "two");
}

#[test]
fn a_lock_is_honoured() {
    let space = Space::new();
    let registry = space.registry();
    let one = space.image("one").layer(&[("!init", "one")]);
    let reference = registry.push(&one.layout(), "kiln/init:stable");
    space.write("system.yml", &format!("init:\n  - {reference}\n"));
    let said = space.kiln(&["lock", "system.yml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let lock = fs::read_to_string(space.path("system.lock")).unwrap();
    assert!(
        lock.contains(&reference) && lock.contains("sha256:"),
        "{lock}"
    );
    let two = space.image("two").layer(&[("!init", "two")]);
    registry.push(&two.layout(), "kiln/init:stable");
    space.build(&["system.yml", "-f", "tar", "--pull"]);
    let init = read_tar(&space.path("system.tar"))["init"].content.clone();
    assert_eq!(String::from_utf8(init).unwrap(), "one");
}

#[test]
fn a_missing_image_is_named() {
    let space = Space::new();
    let registry = space.registry();
    space.write(
        "system.yml",
        &format!("init:\n  - {}/no/such:tag\n", registry.host),
    );
    let said = space.kiln(&["build", "system.yml"]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("no/such"), "{}", said.stderr);
}
