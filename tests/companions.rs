//! The small commands beside a build: the file server, the disc of metadata, the version.

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
