//! Where descriptions come from, and what they are merged to; places that are asked before a
//! registry.

use std::fs;

use super::support::loopback::{Reply, Server};
use super::support::{Said, Space, read_tar, said, tool};

const ONE: &str = "init: [a/b]\nfiles:\n  - {path: etc/one, contents: \"1\\n\"}\n";
const TWO: &str = "files:\n  - {path: etc/two, contents: \"2\\n\"}\n";

fn with_input(space: &Space, arguments: &[&str], input: &str) -> Said {
    let input = fs::File::open(space.write("input", input)).unwrap();
    said(space.command().args(arguments).stdin(input))
}

#[test]
fn a_dry_run_prints_the_merged_description() {
    let space = Space::new();
    space.write("one.yml", ONE);
    space.write("two.yml", TWO);
    let said = space.kiln(&["build", "--dry-run", "one.yml", "two.yml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let merged = String::from_utf8(said.stdout).unwrap();
    let expected = "\
kernel:
    image: \"\"
init:
    - a/b
onboot: []
onshutdown: []
services: []
files:
    - path: etc/one
      directory: false
      contents: |
        1
      optional: false
    - path: etc/two
      directory: false
      contents: |
        2
      optional: false
volumes: []

";
    assert_eq!(merged, expected);
    // Nothing was looked up or written, and the print is a description.
    assert!(!space.path("cache").exists() && !space.path("two-kernel").exists());
    let again = with_input(&space, &["build", "--dry-run", "-"], &merged);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), merged);

    let wrong = with_input(&space, &["build", "--dry-run", "-"], "file: []\n");
    assert_eq!(wrong.code, Some(3));
    assert!(wrong.stderr.contains("<stdin>:1:1"), "{}", wrong.stderr);
    let endless = with_input(
        &space,
        &["build", "--dry-run", "-"],
        &"# \n".repeat(6 << 20),
    );
    assert_eq!(endless.code, Some(1));
    assert!(endless.stderr.contains("larger than"), "{}", endless.stderr);
}

#[test]
fn standard_input_and_urls_are_as_good_as_files() {
    let space = Space::new();
    let two = space.write("two.yml", TWO);
    let built = |prefix: &str| fs::read(space.path(&format!("{prefix}.tar"))).unwrap();
    space.build(&["-f", "tar", "--name", "file", two.to_str().unwrap()]);
    let said = with_input(&space, &["build", "-f", "tar", "-"], TWO);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(built("moby") == built("file"));
    // Other words on the same standard input are another system.
    let said = with_input(&space, &["build", "-f", "tar", "-"], &TWO.replace('2', "3"));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(built("moby") != built("file"));

    let server = Server::start(|request| match request.path.as_str() {
        "/systems/two.yml" => Reply::ok(TWO),
        _ => Reply::status(404),
    });
    let url = format!("http://{}/systems", server.host());
    space.build(&["-f", "tar", &format!("{url}/two.yml")]);
    assert!(built("two") == built("file"));
    let said = space.kiln(&["build", "-f", "tar", &format!("{url}/none.yml")]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("none.yml") && said.stderr.contains("404"),
        "{}",
        said.stderr
    );
    assert!(!space.path("none.tar").exists());

    let said = with_input(&space, &["lock", "-"], TWO);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
}

#[test]
fn a_mirror_is_asked_first_and_its_failure_is_told() {
    let space = Space::new();
    space.image("app").layer(&[("!init", "from the mirror")]);
    let (mirror, dead) = (space.loopback(), space.loopback());
    let host = mirror.reference("").split('/').next().unwrap().to_owned();
    let gone = dead.reference("").split('/').next().unwrap().to_owned();
    drop(dead);
    space.write("system.yml", "init: [registry.invalid/app:latest]\n");
    let flag = format!("registry.invalid=http://{host}");
    space.build(&["-f", "tar", "--mirror", &flag, "system.yml"]);

    space.write("system.yml", &format!("init: [\"{host}/app:latest\"]\n"));
    let flag = format!("{host}=http://{gone}");
    let said = space.build(&["-f", "tar", "--pull", "--mirror", &flag, "system.yml"]);
    assert!(
        said.stderr.contains("warning") && said.stderr.contains(&gone),
        "{}",
        said.stderr
    );

    let said = space.kiln(&["build", "--mirror", "ftp://x", "system.yml"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.stderr.contains("must start with http:// or https://"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_kernel_is_taken_out_of_its_compressed_image() {
    let space = Space::new();
    let root = space.path("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("kernel"), b"\x7fELF, a kernel").unwrap();
    tool("gzip", &[root.join("kernel").to_str().unwrap()]);
    fs::rename(root.join("kernel.gz"), root.join("kernel")).unwrap();
    let packed = space.image("packed").tree(&root);
    let other = space.image("other").layer(&[("kernel", "a kernel")]);
    let plain = space.image("plain").layer(&[("kernel", "\x7fELF, plain")]);
    let build = |layout: &str, flags: &[&str]| {
        space.write(
            "system.yml",
            &format!("kernel: {{image: \"oci:{layout}\", tar: none}}\n"),
        );
        space.kiln(&[&["build", "-f", "tar", "system.yml"], flags].concat())
    };
    let kernel = || read_tar(&space.path("system.tar"))["boot/kernel"].clone();
    assert_eq!(build(&packed.layout(), &[]).code, Some(0));
    assert!(kernel().content.starts_with(&[0x1f, 0x8b]));
    let said = build(&packed.layout(), &["--decompress-kernel"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(kernel().content, b"\x7fELF, a kernel");
    // What is wanted is there already.
    let said = build(&plain.layout(), &["--decompress-kernel"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(kernel().content, b"\x7fELF, plain");
    let said = build(&other.layout(), &["--decompress-kernel"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("not known"), "{}", said.stderr);
}

#[test]
fn linuxkits_flags_are_taken_or_refused_with_the_reason() {
    let space = Space::new();
    space.write("two.yml", TWO);
    let old = space.write("old.tar", "");
    let old = old.to_str().unwrap();
    space.build(&[
        "-f",
        "tar",
        "--no-sbom",
        "--disable-content-trust",
        "two.yml",
    ]);
    space.build(&["-f", "tar", "--size", "512M", "--input-tar", old, "two.yml"]);
    for (flags, reason) in [
        (&["--size", "much"][..], "512M"),
        (&["--input-tar", "none.tar"], "not a file"),
        (&["--input-tar", old, "--pull"], "cannot be used with"),
        (&["--input-tar", old, "-o", old], "the same file"),
    ] {
        let said = space.kiln(&[&["build", "-f", "tar", "two.yml"], flags].concat());
        assert_eq!(said.code, Some(2), "{flags:?}: {}", said.stderr);
        assert!(said.stderr.contains(reason), "{flags:?}: {}", said.stderr);
    }
    assert_eq!(fs::read(old).unwrap(), b"");
}
