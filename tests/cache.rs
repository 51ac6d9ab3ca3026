//! Images in the cache: pulled, imported, exported, removed. skopeo and Debian's registry judge.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::support::loopback::{Reply, Server};
use super::support::{Said, Space, read_tar, tool};

fn ok(said: Said) -> String {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    String::from_utf8(said.stdout).unwrap()
}

/// Returns what `cache ls --json` says.
fn listed(space: &Space) -> Value {
    serde_json::from_str(&ok(space.kiln(&["cache", "ls", "--json"]))).unwrap()
}

/// Returns how many files of a kind the cache holds.
fn files(space: &Space, kind: &str) -> u64 {
    let info: Value = serde_json::from_str(&ok(space.kiln(&["cache", "info", "--json"]))).unwrap();
    info[kind]["files"].as_u64().unwrap()
}

/// Builds a system of this one init image; returns what its file `init` holds.
fn init_of(space: &Space, image: &str) -> String {
    space.write("system.yml", &format!("init:\n  - {image}\n"));
    space.build(&["system.yml", "-f", "tar"]);
    let tar = space.path("system.tar");
    let init = read_tar(&tar)["init"].content.clone();
    fs::remove_file(tar).unwrap();
    String::from_utf8(init).unwrap()
}

fn inspect(transport: &str, path: &Path) -> Value {
    let image = format!("{transport}:{}", path.display());
    serde_json::from_str(&tool("skopeo", &["inspect", &image])).unwrap()
}

#[test]
fn a_pulled_image_builds_offline_in_every_spelling() {
    let space = Space::new();
    let registry = space.registry();
    let image = space.image("one").layer(&[("!init", "one")]);
    let name = registry.push(&image.layout(), "kiln/init");
    ok(space.kiln(&["cache", "pull", &name]));
    drop(registry);
    let images = listed(&space);
    let digest = images[0]["digest"].as_str().unwrap();
    assert_eq!(images[0]["name"], format!("{name}:latest"));
    let text = ok(space.kiln(&["cache", "ls"]));
    assert!(text.lines().nth(1).unwrap().contains(digest), "{text}");
    for spelling in [
        name.clone(),
        format!("{name}:latest"),
        format!("{name}@{digest}"),
        format!("{name}:latest@{digest}"),
    ] {
        assert_eq!(init_of(&space, &spelling), "one", "{spelling}");
    }
}

#[test]
fn exports_are_read_by_skopeo_and_imported_again() {
    let space = Space::new();
    let registry = space.registry();
    let image = space
        .image("one")
        .layer(&[("!init", "zero"), ("kept", "kept")])
        .layer(&[("!init", "one")])
        .config(&["--config.cmd", "/init"]);
    let name = registry.push(&image.layout(), "kiln/init:stable");
    // Only built, so its blobs are not in the cache: the first export fetches them.
    assert_eq!(init_of(&space, &name), "one");
    ok(space.kiln(&["cache", "export", &name, "--outfile", "one.tar"]));
    drop(registry);
    let again = space.kiln(&["cache", "export", &name, "--outfile", "-"]);
    assert_eq!(again.stdout, fs::read(space.path("one.tar")).unwrap());
    let manifest = listed(&space)[0]["platforms"][0]["manifest"].clone();
    assert_eq!(
        inspect("oci-archive", &space.path("one.tar"))["Digest"],
        manifest
    );

    let docker = [
        "cache",
        "export",
        &name,
        "--format",
        "docker",
        "--outfile",
        "docker.tar",
    ];
    ok(space.kiln(&docker));
    let config = |transport: &str, file: &str| {
        let image = format!("{transport}:{}", space.path(file).display());
        tool("skopeo", &["inspect", "--config", &image])
    };
    assert_eq!(
        config("docker-archive", "docker.tar"),
        config("oci-archive", "one.tar")
    );
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!(
                "docker-archive:{}:{name}",
                space.path("docker.tar").display()
            ),
            &format!("oci:{}:x", space.path("copied").display()),
        ],
    );
    let filesystem = [
        "cache",
        "export",
        &name,
        "--format",
        "filesystem",
        "--outfile",
        "fs.tar",
    ];
    ok(space.kiln(&filesystem));
    let files = read_tar(&space.path("fs.tar"));
    assert_eq!(files["init"].content, b"one");
    assert_eq!(files["kept"].content, b"kept");
    let listing = Command::new("tar")
        .arg("tf")
        .arg(space.path("fs.tar"))
        .output()
        .unwrap();
    assert!(
        listing.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&listing.stderr)
    );

    tool("gzip", &["-k", space.path("one.tar").to_str().unwrap()]);
    for archive in ["one.tar", "one.tar.gz", "docker.tar", "-"] {
        ok(space.kiln(&["cache", "clean"]));
        let mut command = space.command();
        let mut child = command
            .args(["cache", "import", archive])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if archive == "-" {
            stdin.write_all(&again.stdout).unwrap();
        }
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{archive}");
        assert_eq!(listed(&space)[0]["name"], name, "{archive}");
        assert_eq!(init_of(&space, &name), "one", "{archive}");
    }
}

#[test]
fn what_two_images_share_survives_one_of_them() {
    let space = Space::new();
    let registry = space.registry();
    let one = space.image("one").layer(&[("!init", "one")]).layout();
    let two = space.path("oci/two").display().to_string();
    let (from, to) = (format!("oci:{one}:latest"), format!("oci:{two}:latest"));
    tool("skopeo", &["copy", "-q", &from, &to]);
    let more = space.write("more/etc/more", "more");
    let more = more.parent().unwrap().parent().unwrap();
    let image = format!("{two}:latest");
    tool(
        "umoci",
        &["insert", "--image", &image, more.to_str().unwrap(), "/"],
    );
    let (one, two) = (
        registry.push(&one, "a/one:1"),
        registry.push(&two, "a/two:1"),
    );
    ok(space.kiln(&["cache", "pull", &one, &two]));
    drop(registry);
    let before = files(&space, "objects");
    ok(space.kiln(&["cache", "rm", &one]));
    // Its manifest and config; the layer is the other's, too.
    assert_eq!(files(&space, "objects"), before - 2);
    assert_eq!(listed(&space).as_array().unwrap().len(), 1);
    ok(space.kiln(&["cache", "export", &two, "--outfile", "two.tar"]));
    ok(space.kiln(&["cache", "rm", &two]));
    assert_eq!((files(&space, "objects"), files(&space, "actions")), (0, 0));

    // What a build was made of stays when the name goes.
    ok(space.kiln(&["cache", "import", "two.tar"]));
    assert_eq!(init_of(&space, &two), "one");
    ok(space.kiln(&["cache", "rm", &two]));
    assert_eq!(listed(&space), Value::Array(Vec::new()));
    ok(space.kiln(&["cache", "import", "two.tar"]));
    let said = space.build(&["system.yml", "-f", "tar"]);
    assert!(!said.stderr.contains("Unpacked"), "{}", said.stderr);
}

#[test]
fn mistakes_are_explained() {
    let space = Space::new();
    let image = space.image("one").layer(&[("!init", "one")]).layout();
    let said = space.kiln(&["cache", "import", &image]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("--name"), "{}", said.stderr);
    ok(space.kiln(&["cache", "import", "--name", "kiln/init:1", &image]));
    assert_eq!(init_of(&space, "kiln/init:1"), "one");
    let said = space.kiln(&["cache", "rm", "kiln/init:2"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("there is docker.io/kiln/init:1"),
        "{}",
        said.stderr
    );
    let said = space.kiln(&[
        "cache",
        "import",
        space.write("rubbish", "x").to_str().unwrap(),
    ]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);

    space.write("mine/file", "mine");
    let said = space.kiln(&["cache", "clean", "--cache", "mine"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("is not a cache"), "{}", said.stderr);
    assert!(space.path("mine/file").exists());
}

#[test]
fn a_damaged_blob_is_never_taken() {
    let space = Space::new();
    space.image("one").layer(&[("!init", "one")]);
    let registry = space.loopback();
    let name = registry.reference("one");
    let layer = registry.layers("one").remove(0);
    let path = space.path("oci/one/blobs").join(layer.replace(':', "/"));
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    registry.misbehave(move |request, reply| match request.path.ends_with(&layer) {
        true => super::support::loopback::Reply::range(&bytes, request),
        false => reply,
    });
    let said = space.kiln(&["cache", "pull", &name]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("digest"), "{}", said.stderr);
    assert_eq!(listed(&space), Value::Array(Vec::new()));
    registry.behave();
    ok(space.kiln(&["cache", "pull", &name]));
}

#[test]
fn a_changed_name_is_news_to_every_system() {
    let space = Space::new();
    let registry = space.registry();
    let image = |name: &str| space.image(name).layer(&[("!init", name)]).layout();
    let (old, new) = (image("old"), image("new"));
    let name = registry.push(&old, "kiln/init:1");
    let build = |system: &str, flags: &[&str]| {
        space.write(&format!("{system}.yml"), &format!("init: [\"{name}\"]\n"));
        let (yml, tar) = (format!("{system}.yml"), format!("{system}.tar"));
        let said = space.kiln(&[&["build", "-o", &tar, &yml], flags].concat());
        match said.code {
            Some(0) => read_tar(&space.path(&tar))["init"].content.clone(),
            _ => said.stderr.into_bytes(),
        }
    };
    assert_eq!(build("one", &[]), b"old");
    assert_eq!(build("two", &[]), b"old");
    registry.push(&new, "kiln/init:1");
    assert_eq!(build("two", &[]), b"old");
    // Who looks it up anew does so for all.
    assert_eq!(build("one", &["--pull"]), b"new");
    assert_eq!(build("two", &[]), b"new");
    drop(registry);
    assert_eq!(build("two", &[]), b"new");
    // What is removed is not taken for granted, either.
    ok(space.kiln(&["cache", "rm", &name]));
    let said = String::from_utf8(build("two", &[])).unwrap();
    assert!(said.contains("kiln/init"), "{said}");
}

#[test]
fn only_what_registries_have_is_cleaned_when_told_so() {
    let space = Space::new();
    let registry = space.registry();
    let denying = Server::start(|_| Reply::status(403));
    let image = |name: &str| space.image(name).layer(&[("!init", name)]).layout();
    let (there, private, changed) = (image("there"), image("private"), image("changed"));
    let published = registry.push(&there, "kiln/there:1");
    ok(space.kiln(&["cache", "pull", &published]));
    let denied = format!("{}/kiln/private:1", denying.host());
    ok(space.kiln(&["cache", "import", "--name", &denied, &private]));
    // The registry has something else under this name.
    let other = registry.push(&there, "kiln/changed:1");
    ok(space.kiln(&["cache", "import", "--name", &other, &changed]));
    let said = space.kiln(&["cache", "clean", "--published-only"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("1 published image"), "{}", said.stderr);
    assert!(
        said.stderr.contains("it stays in the cache"),
        "{}",
        said.stderr
    );
    let names = listed(&space);
    let names: Vec<_> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    let mut expected = [denied, other];
    expected.sort();
    assert_eq!(names, expected);
}
