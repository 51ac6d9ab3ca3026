//! Several kilns at once: one cache, one description, the same outputs or different ones.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::support::Space;
use super::{Files, assert_same, files};

const FORMATS: &str = "tar,kernel+initrd";
const KILNS: usize = 4;
/// Times that everything but the writing is known already.
const ROUNDS: usize = 8;

/// A space with a system, and what one kiln makes of it in a cache of its own.
fn scene() -> (Space, Files) {
    let space = Space::new();
    space.write("system.yml", &super::super::build::system(&space));
    let alone = outputs(&space, "alone");
    (space, alone)
}

/// Builds with a cache that nobody else uses.
fn outputs(space: &Space, name: &str) -> Files {
    let _ = std::fs::remove_dir_all(space.path(name));
    std::fs::create_dir(space.path(name)).unwrap();
    let cache = space.path(&format!("cache-{name}"));
    let _ = std::fs::remove_dir_all(&cache);
    let cache = cache.to_str().unwrap();
    space.build(&["-f", FORMATS, "--dir", name, "--cache", cache, "system.yml"]);
    files(&space.path(name))
}

/// Starts kilns, one for each output directory and cache, and waits for them.
fn all_at_once<'a>(space: &Space, places: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let start = |(directory, cache): (&str, &str)| {
        std::fs::create_dir_all(space.path(directory)).unwrap();
        let mut command = space.command();
        command.args([
            "build",
            "-f",
            FORMATS,
            "--dir",
            directory,
            "--cache",
            cache,
            "system.yml",
        ]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let kilns: Vec<Child> = places.into_iter().map(start).collect();
    let said: Vec<_> = kilns
        .into_iter()
        .map(|kiln| kiln.wait_with_output().unwrap())
        .collect();
    for output in said {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "one of several kilns:\n{stderr}");
    }
}

/// Cold, warm with outputs to splice, warm without outputs: each time all are right.
fn several(directories: [&str; KILNS]) {
    let (space, alone) = scene();
    let check = |expected: &Files, when: &str| {
        for directory in directories {
            assert_same(&files(&space.path(directory)), expected, when);
        }
        assert!(space.names("cache/tmp").is_empty(), "{when}");
    };
    let at_once = || all_at_once(&space, directories.map(|directory| (directory, "cache")));
    at_once();
    check(&alone, "cold");
    space.write("note.txt", "changed on the host, and longer than it was\n");
    let changed = outputs(&space, "changed");
    assert!(changed != alone);
    at_once();
    check(&changed, "changed");
    for _ in 0..ROUNDS {
        for directory in directories {
            let _ = std::fs::remove_dir_all(space.path(directory));
        }
        at_once();
        check(&changed, "warm");
    }
}

#[test]
fn the_same_outputs() {
    several(["out"; KILNS]);
}

#[test]
fn outputs_of_their_own() {
    several(["one", "two", "three", "four"]);
}

/// Not even the cache tells them of each other.
#[test]
fn the_same_outputs_from_other_caches() {
    let (space, alone) = scene();
    let caches = ["cache-1", "cache-2", "cache-3", "cache-4"];
    for _ in 0..ROUNDS {
        let _ = std::fs::remove_dir_all(space.path("out"));
        all_at_once(&space, caches.map(|cache| ("out", cache)));
        assert_same(&files(&space.path("out")), &alone, "other caches");
    }
}

/// Two descriptions that are to be the same files: whoever is last wins, and the other one must
/// not take those files for its own.
#[test]
fn different_descriptions() {
    let (space, _) = scene();
    let text = std::fs::read_to_string(space.path("system.yml")).unwrap();
    let names = ["one.yml", "two.yml"];
    let build = |name: &str, directory: &str| {
        let mut command = space.command();
        command.args([
            "build", "--json", "-f", FORMATS, "--name", "system", "--dir", directory,
        ]);
        command.arg(name).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let whole = |mut kiln: Child| {
        kiln.stdout
            .take()
            .map(|mut out| std::io::copy(&mut out, &mut std::io::sink()));
        assert!(kiln.wait().unwrap().success());
    };
    let expected = names.map(|name| {
        space.write(name, &text.replace("replaced", &name.repeat(500)));
        let directory = format!("out-{name}");
        std::fs::create_dir(space.path(&directory)).unwrap();
        whole(build(name, &directory));
        files(&space.path(&directory))
    });
    // The second one writes the tar while the first one is between its tar and its other files.
    std::fs::create_dir(space.path("out")).unwrap();
    let mut first = build(names[0], "out");
    until_kernel(&mut first);
    kill_process(Pid::from_child(&first), Signal::STOP).unwrap();
    let mut second = build(names[1], "out");
    // It may end, or it may wait for the first one: long enough to show that.
    let began = Instant::now();
    while second.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&first), Signal::CONT).unwrap();
    whole(first);
    whole(second);
    for (name, expected) in names.iter().zip(&expected) {
        whole(build(name, "out"));
        assert_same(&files(&space.path("out")), expected, name);
    }
}

/// Reads events until the kernel is being written.
fn until_kernel(kiln: &mut Child) {
    let mut events = BufReader::with_capacity(1, kiln.stdout.as_mut().unwrap()).lines();
    let is_kernel = |line: String| line.contains("\"writing\"") && line.contains("-kernel\"");
    assert!(events.any(|line| is_kernel(line.unwrap())));
}
