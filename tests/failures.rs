//! What bad input and bad luck get: an error that names the thing at fault, an exit code, the
//! earlier output as it was, nothing half-written, and every finished step kept.

mod concurrent;
mod description;
mod disk;
mod killed;
mod outputs;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::support::{Said, Space, names};

/// Files by name, whole.
type Files = BTreeMap<String, Vec<u8>>;

/// Reads all files of a directory.
fn files(directory: &Path) -> Files {
    let read = |name: String| (fs::read(directory.join(&name)).unwrap(), name);
    let files = names(directory).into_iter().map(read);
    files.map(|(bytes, name)| (name, bytes)).collect()
}

/// Compares without printing megabytes.
fn assert_same(files: &Files, expected: &Files, when: &str) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(files), names(expected), "{when}");
    for (name, bytes) in files {
        assert!(
            *bytes == expected[name],
            "{when}: {name} has other bytes ({} instead of {})",
            bytes.len(),
            expected[name].len()
        );
    }
}

/// Expects a failure that says all of `parts`.
#[track_caller]
fn assert_failed(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{}", said.stderr);
    assert!(said.stderr.starts_with("error: ") || said.stderr.contains("\nerror: "));
    for part in parts {
        assert!(
            said.stderr.contains(part),
            "no {part:?} in\n{}",
            said.stderr
        );
    }
}

/// Returns the steps that a build with `--json` finished with one of these outcomes.
fn finished(said: &Said, outcomes: &[&str]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&said.stdout);
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["event"] == "finished")
        .filter(|event| outcomes.iter().any(|outcome| event["outcome"] == **outcome))
        .map(|event| {
            let word = |name: &str| event[name].as_str().unwrap().to_owned();
            format!("{} {}", word("kind"), word("label"))
        })
        .collect()
}

/// Expects that the next build succeeds, and does nothing again that the failed one had finished.
#[track_caller]
fn assert_goes_on(failed: &Said, next: &Said) {
    assert_eq!(next.code, Some(0), "{}", next.stderr);
    let done = finished(failed, &["ran", "unchanged", "cached"]);
    let cached = finished(next, &["cached"]);
    // Files of this machine are looked at each time.
    let is_kept = |step: &&String| cached.contains(*step) || step.starts_with("resolve oci:");
    let again: Vec<_> = done.iter().filter(|step| !is_kept(step)).collect();
    assert!(again.is_empty(), "done again: {again:?}");
}

/// An output that is there before things go wrong: `out/system.tar`.
fn earlier_output(space: &Space) -> Files {
    fs::create_dir_all(space.path("out")).unwrap();
    space.write(
        "system.yml",
        "files:\n  - {path: etc/earlier, contents: output}\n",
    );
    space.build(&["-f", "tar", "--dir", "out", "system.yml"]);
    files(&space.path("out"))
}
