//! The small commands beside a build: the file server, the disc of metadata, the version.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::support::{Space, tool};

#[test]
fn a_directory_is_served_until_ctrl_c() {
    let space = Space::new();
    space.write("boot/hello-kernel", "a kernel");
    let mut command = space.command();
    command.args(["serve", "--port", "127.0.0.1:0", "--directory", "boot"]);
    let mut child = Ended(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let first = line();
    let (_, address) = first.split_once("http://").unwrap();
    let address = address.split(';').next().unwrap();
    assert!(first.contains("Serving boot on"), "{first}");

    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /hello-kernel HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("a kernel"),
        "{answer}"
    );
    let logged = line();
    assert!(
        logged.contains("GET /hello-kernel 200 8 B 127.0.0.1:"),
        "{logged}"
    );

    // Another connection is open and says nothing: nobody waits for it.
    let _open = TcpStream::connect(address).unwrap();
    tool("kill", &["-INT", &child.0.id().to_string()]);
    let began = Instant::now();
    let status = loop {
        match child.0.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
    };
    assert_eq!(status.code(), Some(0));

    for (arguments, code, words) in [
        (&["--port", "http"][..], 2, "port"),
        (&["--directory", "none"], 1, "cannot serve none"),
        (&["--directory", "boot/hello-kernel"], 2, "not a directory"),
        (
            &["--port", "192.0.2.1:0"],
            1,
            "cannot listen on 192.0.2.1:0",
        ),
    ] {
        let said = space.kiln(&[&["serve"], arguments].concat());
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.stderr);
        assert!(
            said.stderr.contains(words),
            "{arguments:?}: {}",
            said.stderr
        );
    }
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_disc_of_metadata_holds_the_data_to_the_byte() {
    let space = Space::new();
    let long = "x".repeat(5000);
    for data in [
        "{\"ssh\": {}}",
        "",
        "-",
        "@file",
        "--flag",
        "two\nlines\n",
        &long,
    ] {
        let said = space.kiln(&["metadata", "create", "meta.iso", data]);
        assert_eq!(said.code, Some(0), "{data}: {}", said.stderr);
        let path = space.path("meta.iso");
        let iso = path.to_str().unwrap();
        // libarchive reads the names of Rock Ridge, and with that told off those of ISO 9660.
        assert_eq!(tool("bsdtar", &["-tf", iso]), ".\nconfig\n");
        let plain = ["--options", "iso9660:!rockridge", "-tf", iso];
        assert_eq!(tool("bsdtar", &plain), ".\nCONFIG\n");
        assert_eq!(tool("bsdtar", &["-xOf", iso, "config"]), data);
        let first = fs::read(&path).unwrap();
        space.kiln(&["metadata", "create", "again.iso", data]);
        assert!(first == fs::read(space.path("again.iso")).unwrap());
    }
    // What cannot be written leaves what was there.
    let before = fs::read(space.path("meta.iso")).unwrap();
    let disk = space.disk("full", 16);
    let mut command = disk.command(&space);
    let said = super::support::said(command.args(["metadata", "create", "full/m.iso", "x"]));
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("make room"), "{}", said.stderr);
    assert!(!disk.path("m.iso").exists());
    let said = space.kiln(&["metadata", "create", "none/m.iso", "x"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("mkdir -p none"), "{}", said.stderr);
    assert!(before == fs::read(space.path("meta.iso")).unwrap());
    assert_eq!(
        space.kiln(&["metadata", "create", "meta.iso"]).code,
        Some(2)
    );
}

#[test]
fn the_version_names_the_commit_when_it_is_known() {
    let space = Space::new();
    let said = |arguments: &[&str]| {
        let said = space.kiln(&[&["version"], arguments].concat());
        (said.code, String::from_utf8(said.stdout).unwrap())
    };
    let number = env!("CARGO_PKG_VERSION");
    assert_eq!(said(&["--short"]), (Some(0), format!("{number}\n")));
    // The build that made kiln made this test too.
    match option_env!("KILN_COMMIT") {
        Some(commit) => {
            assert_eq!(said(&["--commit"]), (Some(0), format!("{commit}\n")));
            let whole = format!("kiln version {number}\ncommit: {commit}\n");
            assert_eq!(said(&[]), (Some(0), whole));
        }
        None => {
            assert_eq!(said(&["--commit"]), (Some(1), String::new()));
            assert_eq!(said(&[]), (Some(0), format!("kiln version {number}\n")));
        }
    }
    let place = env!("CARGO_MANIFEST_DIR");
    if let Ok(output) = std::process::Command::new("git")
        .args(["-C", place, "rev-parse", "HEAD"])
        .output()
        && output.status.success()
        && std::path::Path::new(place).join("../.git").exists()
    {
        let head = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said(&["--commit"]).1, head);
    }
}
