//! Systems out of Debian packages, from the host's own mirrors.

use super::support::{Space, read_tar};

#[test]
fn packages_make_a_root_with_users_links_and_a_record() {
    let space = Space::new();
    space.write(
        "system.yml",
        "init:\n  - debian: {suite: bookworm, packages: [base-files, base-passwd, busybox-static, dash]}\n",
    );
    space.build(&["system.yml", "-f", "tar"]);
    let entries = read_tar(&space.path("system.tar"));
    let text = |path: &str| String::from_utf8(entries[path].content.clone()).unwrap();
    assert_eq!(entries["bin"].link, "usr/bin");
    assert_eq!(entries["usr/bin/busybox"].mode, 0o755);
    assert_eq!(entries["usr/bin/sh"].link, "dash");
    assert!(
        text("etc/passwd").starts_with("root:"),
        "{}",
        text("etc/passwd")
    );
    assert!(text("var/lib/dpkg/status").contains("Package: busybox-static\n"));
    // No package of another architecture, and nothing that no one asked for.
    assert!(!entries.contains_key("usr/bin/apt"));
}

#[test]
fn a_package_that_is_not_there_is_named() {
    let space = Space::new();
    space.write(
        "system.yml",
        "init:\n  - debian: {suite: bookworm, packages: [busybox-statik]}\n",
    );
    let said = space.kiln(&["build", "system.yml"]);
    assert_ne!(said.code, Some(0));
    for part in ["busybox-statik", "busybox-static"] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
}

#[test]
fn a_lock_pins_versions_and_hashes() {
    let space = Space::new();
    space.write(
        "system.yml",
        "init:\n  - debian: {suite: bookworm, packages: [busybox-static]}\n",
    );
    let said = space.kiln(&["lock", "system.yml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let lock = std::fs::read_to_string(space.path("system.lock")).unwrap();
    assert!(
        lock.contains("busybox-static") && lock.contains("sha256"),
        "{lock}"
    );
    space.build(&["system.yml", "-f", "tar"]);
    // A lock that asks for another hash is believed, and the mirror then is not.
    let at = lock.find("sha256:").unwrap() + 7;
    let damaged = format!("{}{}{}", &lock[..at], "0".repeat(64), &lock[at + 64..]);
    space.write("system.lock", &damaged);
    let said = space.kiln(&["build", "system.yml", "-f", "tar"]);
    assert_ne!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("busybox-static"), "{}", said.stderr);
}
