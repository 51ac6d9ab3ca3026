//! `--docker`: images of Debian's own Docker engine, before the cache and the registry; and of
//! sockets at which something else answers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::Value;

use super::support::docker::Docker;
use super::support::{Said, Space, read_tar, said, tool};

fn image(space: &Space, name: &str, content: &str) -> String {
    space
        .image(name)
        .layer(&[("etc/motd", content)])
        .config(&["--architecture", "amd64"])
        .layout()
}

/// Builds; returns what `etc/motd` holds, and what was said.
fn build(space: &Space, host: &str, flags: &[&str]) -> (String, Said) {
    let mut command = space.command();
    command
        .args(["build", "--arch", "amd64", "-o", "one.tar", "one.yml"])
        .args(flags)
        .env("DOCKER_HOST", host);
    let said = said(&mut command);
    assert_eq!(said.code, Some(0), "{flags:?}: {}", said.stderr);
    let tar = read_tar(&space.path("one.tar"));
    let motd = String::from_utf8(tar["etc/motd"].content.clone()).unwrap();
    (motd, said)
}

/// Returns how the engine's image was had: `ran` or `cached`.
fn saved(said: &Said) -> String {
    let lines = String::from_utf8_lossy(&said.stdout);
    let events = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let save = |event: &Value| event["event"] == "finished" && event["kind"] == "docker-save";
    let found = events.filter(save).map(|event| event["outcome"].clone());
    found
        .map(|outcome| outcome.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_engine_is_asked_first_every_time() {
    let space = Space::new();
    let docker: Docker = space.docker();
    let host = docker.host.clone();
    let registry = space.registry();
    let name = registry.push(&image(&space, "there", "registry"), "kiln/one:1");
    space.write("one.yml", &format!("init:\n  - {name}\n  - {name}\n"));

    // It has none: the registry's.
    let flags = ["--docker", "--json"];
    assert_eq!(build(&space, &host, &flags).0, "registry");
    docker.load(&image(&space, "first", "first"), &name);
    let (motd, said) = build(&space, &host, &flags);
    assert_eq!((motd.as_str(), saved(&said).as_str()), ("first", "ran"));
    let (motd, said) = build(&space, &host, &flags);
    assert_eq!((motd.as_str(), saved(&said).as_str()), ("first", "cached"));
    // The tag is another image now.
    docker.load(&image(&space, "second", "second"), &name);
    assert_eq!(build(&space, &host, &flags).0, "second");
    assert_eq!(build(&space, &host, &["--docker", "--pull"]).0, "registry");
    assert_eq!(build(&space, &host, &flags).0, "second");
    assert_eq!(build(&space, &host, &[]).0, "registry");
    // A volume that keeps a whole image does not come from it, and that is said.
    let volume = format!("volumes: [{{name: v, image: '{name}', format: oci}}]\n");
    space.write("volume.yml", &volume);
    let mut command = space.command();
    let args = [
        "build",
        "--arch",
        "amd64",
        "--docker",
        "-o",
        "v.tar",
        "volume.yml",
    ];
    let warned = super::support::said(command.args(args).env("DOCKER_HOST", &host));
    assert_eq!(warned.code, Some(0), "{}", warned.stderr);
    let text = "volumes with format: oci do not come from the Docker engine";
    assert!(warned.stderr.contains(text), "{}", warned.stderr);
    drop(docker);
    let (motd, said) = build(&space, &host, &["--docker"]);
    assert_eq!(motd, "registry");
    assert_eq!(said.stderr.matches("no Docker engine at").count(), 1);
}

#[test]
fn engines_elsewhere_are_refused() {
    let space = Space::new();
    space.write("one.yml", "init: [nowhere.invalid/x:1]\n");
    let mut command = space.command();
    command
        .args(["build", "--docker", "one.yml"])
        .env("DOCKER_HOST", "tcp://127.0.0.1:1");
    let said = said(&mut command);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(
        said.stderr.contains("DOCKER_HOST=unix://"),
        "{}",
        said.stderr
    );
}

/// Listens at a socket and answers each path with raw bytes; `None` keeps silent.
fn fake(
    space: &Space,
    answer: impl Fn(&str, &mut UnixStream) -> Option<Vec<u8>> + Send + 'static,
) -> String {
    let path = space.path("fake.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    // It ends with the test's process.
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut line).unwrap() > 2 {}
            let asked = line.split(' ').nth(1).unwrap().to_owned();
            match answer(&asked, &mut stream) {
                // Whoever asked may be gone.
                Some(bytes) => drop(stream.write_all(&bytes)),
                None => silent.push(stream),
            }
        }
    });
    format!("unix://{}", path.display())
}

fn whole(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn hostile_engines_end_the_build_with_a_reason() {
    let space = Space::new();
    space.write("one.yml", "init: [nowhere.invalid/x:1]\n");
    let id = format!("sha256:{}", "0".repeat(64));
    let inspect = format!(r#"{{"Id": "{id}", "Architecture": "amd64", "Os": "linux"}}"#);
    let refused = |host: &str, why: &str| {
        let mut command = space.command();
        command
            .args([
                "build", "--arch", "amd64", "--docker", "-o", "x.tar", "one.yml",
            ])
            .env("KILN_HTTP_TIMEOUT", "0.3")
            .env("DOCKER_HOST", host);
        let said = said(&mut command);
        assert_eq!(said.code, Some(1), "{why}: {}", said.stderr);
        assert!(said.stderr.contains(why), "{why}: {}", said.stderr);
        // Nothing half fetched stays.
        assert_eq!(space.names("cache/tmp"), Vec::<String>::new(), "{why}");
    };
    refused(&fake(&space, |_, _| None), "silent for 0.3 s");
    let endless = |_: &str, stream: &mut UnixStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        while stream.write_all(&b"X: y\r\n".repeat(1000)).is_ok() {}
        Some(Vec::new())
    };
    refused(&fake(&space, endless), "without end");
    for (body, why) in [
        ("{}", "missing field"),
        (r#"{"Id": "latest"}"#, "is no digest"),
    ] {
        refused(&fake(&space, move |_, _| Some(whole(body))), why);
    }
    let denied = br#"{"message": "no disk"}"#;
    let head = format!(
        "HTTP/1.1 500 No\r\nContent-Length: {}\r\n\r\n",
        denied.len()
    );
    let denied = [head.as_bytes(), denied].concat();
    let answer = move |_: &str, _: &mut UnixStream| Some(denied.clone());
    refused(&fake(&space, answer), "answers 500: no disk");

    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    // An archive of another image, made by tar.
    let config =
        r#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}"#;
    space.write("save/c.json", config);
    space.write(
        "save/manifest.json",
        r#"[{"Config": "c.json", "Layers": []}]"#,
    );
    let (tar, save) = (space.path("save.tar"), space.path("save"));
    let (tar, save) = (tar.to_str().unwrap(), save.to_str().unwrap());
    tool("tar", &["-C", save, "-cf", tar, "c.json", "manifest.json"]);
    let chunked = |bytes: Vec<u8>| {
        let begin = format!("{head}{:x}\r\n", bytes.len());
        [begin.as_bytes(), &bytes, b"\r\n0\r\n\r\n"].concat()
    };
    let other = chunked(fs::read(tar).unwrap());
    // The image of the id, but for what is in its layer.
    let diff_id = format!("sha256:{}", "1".repeat(64));
    let config = config.replace("[]", &format!(r#"["{diff_id}"]"#));
    space.write("save/c.json", &config);
    space.write("save/l.tar", &"\0".repeat(1024));
    space.write(
        "save/manifest.json",
        r#"[{"Config": "c.json", "Layers": ["l.tar"]}]"#,
    );
    tool(
        "tar",
        &["-C", save, "-cf", tar, "c.json", "l.tar", "manifest.json"],
    );
    let altered = chunked(fs::read(tar).unwrap());
    let line = tool("sha256sum", &[&format!("{save}/c.json")]);
    let its_id = format!("sha256:{}", &line[..64]);
    for (archive, why) in [
        (format!("{head}5\r\nabc").into_bytes(), "broke off"),
        (
            format!("{head}3\r\nabcde\r\n0\r\n\r\n").into_bytes(),
            "longer than it says",
        ),
        (
            format!("{head}3\r\nabc\r\n0\r\n\r\n").into_bytes(),
            "ends within a header",
        ),
        (other, "the digest of what the Docker engine"),
        (altered, "the digest of what the Docker engine"),
    ] {
        let inspect = match archive.windows(5).any(|window| window == b"l.tar") {
            true => inspect.replace(&id, &its_id),
            false => inspect.clone(),
        };
        let answer = move |path: &str, _: &mut UnixStream| match path.ends_with("/json") {
            true => Some(whole(&inspect)),
            false => Some(archive.clone()),
        };
        refused(&fake(&space, answer), why);
    }
}
