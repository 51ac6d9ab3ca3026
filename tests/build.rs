//! Systems out of local images: contents, determinism, what is redone, what bad input gets.

use std::fs;

use super::support::{Space, read_tar, tool};

/// A system with a kernel, an init and two services that share a layer.
pub(crate) fn system(space: &Space) -> String {
    let kernel = space
        .image("kernel")
        .layer(&[("kernel", "not really a kernel")]);
    let init = space.image("init").layer(&[
        ("!init", "#!/bin/sh\n"),
        ("etc/motd", "hello\n"),
        ("bin/", ""),
    ]);
    let base = [
        ("!bin/sh", "a shell, shared by all"),
        ("lib/libc.so", "->libc.so.6"),
        ("lib/libc.so.6", "the library"),
    ];
    let one = space
        .image("one")
        .layer(&base)
        .layer(&[("srv/one", "1")])
        .config(&[
            "--config.cmd=/bin/sh",
            "--config.env=PATH=/bin",
            "--config.label=org.mobyproject.config={\"capabilities\":[\"CAP_CHOWN\"]}",
        ]);
    let two = space.image("two").layer(&base).layer(&[("srv/two", "2")]);
    space.write("note.txt", "from the host\n");
    format!(
        "kernel:\n  image: oci:{}\n  cmdline: console=ttyS0\n  tar: none\ninit:\n  - oci:{}\n\
         onboot:\n  - name: first\n    image: oci:{}\n    readonly: true\n\
         services:\n  - name: one\n    image: oci:{}\n  - name: two\n    image: oci:{}\n    command: [\"/bin/sh\", \"-c\", \"true\"]\n\
         files:\n  - path: etc/note\n    source: note.txt\n    mode: \"0640\"\n  - path: etc/motd\n    contents: replaced\n",
        kernel.layout(),
        init.layout(),
        one.layout(),
        one.layout(),
        two.layout()
    )
}

#[test]
fn a_tar_has_the_contract_s_layout() {
    let space = Space::new();
    let yaml = system(&space);
    space.write("system.yml", &yaml);
    space.build(&["system.yml", "--format", "tar"]);
    let entries = read_tar(&space.path("system.tar"));
    let content = |path: &str| {
        let entry = &entries[path];
        let entry = entries
            .get(&entry.link)
            .filter(|_| entry.kind == tar::EntryType::Link)
            .unwrap_or(entry);
        String::from_utf8(entry.content.clone()).unwrap()
    };
    assert_eq!(content("boot/cmdline"), "console=ttyS0");
    assert_eq!(content("boot/kernel"), "not really a kernel");
    assert_eq!(content("etc/motd"), "replaced");
    assert_eq!(
        (content("etc/note"), entries["etc/note"].mode),
        ("from the host\n".into(), 0o640)
    );
    assert_eq!(
        entries["etc/resolv.conf"].link,
        "/run/resolvconf/resolv.conf"
    );
    assert_eq!(entries["init"].mode, 0o755);
    for directory in [
        "containers",
        "containers/onboot/000-first/rootfs",
        "containers/services/two/lower",
        "containers/services/two/tmp",
        "dev",
        "proc",
        "sys",
    ] {
        assert_eq!(
            entries[directory].kind,
            tar::EntryType::Directory,
            "{directory}"
        );
    }
    // The image of `one` is there already, under `first`.
    assert!(!entries.contains_key("containers/services/one/lower"));
    assert!(
        content("containers/services/one/runtime.json")
            .contains("lowerdir=/containers/onboot/000-first/rootfs")
    );
    let config: serde_json::Value =
        serde_json::from_str(&content("containers/services/one/config.json")).unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["/bin/sh"]));
    assert_eq!(
        config["process"]["capabilities"]["bounding"],
        serde_json::json!(["CAP_CHOWN"])
    );
    assert!(
        content("containers/services/two/lower/etc/hosts")
            .starts_with("127.0.0.1       localhost\n")
    );
    // What two services share is stored once.
    assert_eq!(
        entries["containers/services/two/lower/bin/sh"].kind,
        tar::EntryType::Link
    );
    assert_eq!(
        entries["containers/services/two/lower/bin/sh"].link,
        "containers/onboot/000-first/rootfs/bin/sh"
    );
}

#[test]
fn the_same_system_is_the_same_bytes_anywhere() {
    let (one, two) = (Space::new(), Space::new());
    let yaml = system(&one);
    one.write("system.yml", &yaml);
    one.build(&["system.yml", "--format", "tar"]);
    two.write("note.txt", "from the host\n");
    two.write("elsewhere/system.yml", &yaml);
    let said = two
        .command()
        .env("TZ", "Asia/Tokyo")
        .env("RAYON_NUM_THREADS", "1")
        .args(["build", "elsewhere/system.yml", "-f", "tar"])
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let (first, second) = (
        fs::read(one.path("system.tar")).unwrap(),
        fs::read(two.path("system.tar")).unwrap(),
    );
    assert!(first == second, "the outputs differ");
    // Spliced, streamed, built anew: the same.
    one.write("note.txt", "changed on the host, and longer than it was\n");
    one.build(&["system.yml", "--format", "tar"]);
    one.write("note.txt", "from the host\n");
    one.build(&["system.yml", "--format", "tar"]);
    assert!(
        fs::read(one.path("system.tar")).unwrap() == first,
        "splicing changed the output"
    );
    let streamed = one
        .build(&["system.yml", "--format", "tar", "-o", "-"])
        .stdout;
    assert!(streamed == first, "the stream differs");
}

#[test]
fn an_unchanged_system_is_fresh_and_a_touched_one_is_not() {
    let space = Space::new();
    let yaml = system(&space);
    space.write("system.yml", &yaml);
    let first = space.build(&["system.yml", "--format", "tar"]);
    assert!(!first.stderr.contains("Fresh"), "{}", first.stderr);
    let second = space.build(&["system.yml", "--format", "tar"]);
    assert!(second.stderr.contains("Fresh"), "{}", second.stderr);
    // An output that somebody changed is made again.
    let before = fs::read(space.path("system.tar")).unwrap();
    fs::write(space.path("system.tar"), "damaged").unwrap();
    let third = space.build(&["system.yml", "--format", "tar"]);
    assert!(!third.stderr.contains("Fresh"), "{}", third.stderr);
    assert!(fs::read(space.path("system.tar")).unwrap() == before);
    // So is one whose input changed.
    space.write("note.txt", "other\n");
    let fourth = space.build(&["system.yml", "--format", "tar"]);
    assert!(!fourth.stderr.contains("Fresh"), "{}", fourth.stderr);
    assert!(fs::read(space.path("system.tar")).unwrap() != before);
}

#[test]
fn a_wrong_key_is_shown_where_it_stands() {
    let space = Space::new();
    space.write("system.yml", "services:\n  - name: one\n    imag: x\n");
    let said = space.kiln(&["build", "system.yml"]);
    assert_ne!(said.code, Some(0));
    for part in ["system.yml:3:5", "imag: x", "image"] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
}

#[test]
fn a_damaged_layer_leaves_the_earlier_output_alone() {
    let space = Space::new();
    let image = space
        .image("init")
        .layer(&[("!init", "one"), ("data", "some data")]);
    space.write(
        "system.yml",
        &format!("init:\n  - oci:{}\n", image.layout()),
    );
    space.build(&["system.yml", "-f", "tar"]);
    let before = fs::read(space.path("system.tar")).unwrap();
    let other = space
        .image("other")
        .layer(&[("!init", "two"), ("more", "more data")]);
    for blob in fs::read_dir(format!("{}/blobs/sha256", other.layout())).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            fs::write(&path, bytes).unwrap();
        }
    }
    space.write(
        "system.yml",
        &format!("init:\n  - oci:{}\n", other.layout()),
    );
    let said = space.kiln(&["build", "system.yml", "-f", "tar"]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("layer sha256:"), "{}", said.stderr);
    assert!(fs::read(space.path("system.tar")).unwrap() == before);
    let left: Vec<_> = fs::read_dir(space.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_str().unwrap().contains("tmp")),
        "{left:?}"
    );
}

/// `cargo run -- build …` opens the README: it must mean kiln.
#[test]
fn cargo_runs_kiln_and_nothing_else() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let said = tool(
        env!("CARGO"),
        &[&arguments[..], &["--manifest-path", manifest]].concat(),
    );
    let metadata: serde_json::Value = serde_json::from_str(&said).unwrap();
    let defaults = metadata["workspace_default_members"].as_array().unwrap();
    assert_eq!(defaults.len(), 1, "{defaults:?}");
    assert!(
        defaults[0].as_str().unwrap().contains("/cli#"),
        "{defaults:?}"
    );
}

#[test]
fn pipes_and_devices_are_written_to_and_links_stay() {
    let space = Space::new();
    space.write("one.yml", "files: [{path: etc/one, contents: \"1\"}]\n");
    let flags = ["build", "-f", "tar", "one.yml", "-o"];
    let build = |output: &str| space.kiln(&[&flags[..], &[output]].concat());
    assert_eq!(build("file.tar").code, Some(0));
    let expected = fs::read(space.path("file.tar")).unwrap();

    let fifo = space.path("fifo");
    tool("mkfifo", &[fifo.to_str().unwrap()]);
    let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
    let said = build("fifo");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(reader.join().unwrap(), expected);

    // A link to this process's standard output: what /dev/stdout is.
    let link = space.path("stdout");
    std::os::unix::fs::symlink("/proc/self/fd/1", &link).unwrap();
    let said = build("stdout");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(said.stdout, expected);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    // A link to a file elsewhere.
    fs::create_dir(space.path("disk")).unwrap();
    space.write("disk/one.tar", "old");
    std::os::unix::fs::symlink("disk/one.tar", space.path("one.tar")).unwrap();
    for _ in 0..2 {
        let said = build("one.tar");
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert_eq!(fs::read(space.path("disk/one.tar")).unwrap(), expected);
        assert!(
            fs::symlink_metadata(space.path("one.tar"))
                .unwrap()
                .is_symlink()
        );
    }
    assert!(build("one.tar").stderr.contains("Fresh"));

    let said = build("/dev/full");
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("/dev/full"), "{}", said.stderr);
}

#[test]
fn a_file_goes_where_a_link_above_containers_leads() {
    let space = Space::new();
    let init = space
        .image("init")
        .layer(&[("c/", ""), ("containers", "->c")]);
    let web = space.image("web").layer(&[("srv/web", "1")]);
    space.write(
        "system.yml",
        &format!(
            "init:\n  - oci:{}\nservices:\n  - name: web\n    image: oci:{}\n\
             files:\n  - path: containers/services/web/x\n    contents: x\n",
            init.layout(),
            web.layout()
        ),
    );
    space.build(&["system.yml", "--format", "tar"]);
    let entries = read_tar(&space.path("system.tar"));
    assert_eq!(entries["c/services/web/x"].content, b"x");
}
