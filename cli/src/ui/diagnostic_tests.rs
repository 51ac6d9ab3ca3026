//! Whole rendered errors, as a person sees them.

use std::io;
use std::path::Path;

use insta::assert_snapshot;
use kiln_cache::{CacheError, Digest};
use kiln_engine::step::StepError;

use super::*;
use crate::exit;
use kiln_engine::build::BuildError;
use kiln_engine::spec::SpecError;

const PLAIN: Printer = Printer {
    color: false,
    verbose: false,
    quiet: false,
    terminal: false,
};

/// A directory that exists nowhere, so that no free space is measured but the root's; filtered.
const CACHE: &str = "/nowhere/kiln";

fn rendered(error: BuildError) -> String {
    let failure = Failure::of_build(error, Path::new(CACHE), 2);
    render(&failure, PLAIN, Some(100))
}

fn spec(column: usize, len: usize, line_text: &str) -> SpecError {
    SpecError {
        file: "system.yml".into(),
        line: 42,
        column,
        len,
        message: "service \"sshd\": runtime.mounts[1]: unknown mount type \"bin\"".into(),
        hint: Some("did you mean `bind`?".into()),
        line_text: line_text.into(),
    }
}

#[test]
fn a_mistake_in_the_description_shows_its_line() {
    let error = BuildError::Spec(vec![spec(15, 3, "      - type: bin")]);
    assert_snapshot!(rendered(error), @r#"
    error: service "sshd": runtime.mounts[1]: unknown mount type "bin"
      --> system.yml:42:15
       |
    42 |       - type: bin
       |               ^^^
    hint: did you mean `bind`?
    "#);
}

#[test]
fn several_mistakes_are_counted() {
    let mut other = spec(1, 8, "services: [");
    other.message = "unclosed list".into();
    other.hint = None;
    let error = BuildError::Spec(vec![spec(15, 3, "      - type: bin"), other]);
    assert_snapshot!(rendered(error), @r#"
    error: service "sshd": runtime.mounts[1]: unknown mount type "bin"
      --> system.yml:42:15
       |
    42 |       - type: bin
       |               ^^^
    hint: did you mean `bind`?

    error: unclosed list
      --> system.yml:42:1
       |
    42 | services: [
       | ^^^^^^^^

    error: 2 mistakes in the description
    "#);
}

#[test]
fn columns_are_characters_and_places_out_of_range_do_no_harm() {
    let error = BuildError::Spec(vec![spec(9, 4, "größe: ‹weit›  # größer")]);
    assert_snapshot!(rendered(error), @r#"
    error: service "sshd": runtime.mounts[1]: unknown mount type "bin"
      --> system.yml:42:9
       |
    42 | größe: ‹weit›  # größer
       |         ^^^^
    hint: did you mean `bind`?
    "#);
    for (column, len) in [(0, 0), (1, 0), (1000, 1000), (usize::MAX, usize::MAX)] {
        let error = BuildError::Spec(vec![spec(column.min(1 << 40), len.min(1 << 40), "ä: b")]);
        assert!(rendered(error).contains("ä: b"), "{column} {len}");
    }
}

#[test]
fn a_place_that_cannot_be_shown_is_still_named() {
    let error = BuildError::Spec(vec![spec(90_000, 3, "")]);
    assert_snapshot!(rendered(error), @r#"
    error: service "sshd": runtime.mounts[1]: unknown mount type "bin"
      --> system.yml:42:90000
    hint: did you mean `bind`?
    "#);
}

#[test]
fn a_step_shows_its_causes_once_each() {
    let io = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
    let cause = CauseOf("cannot reach registry.example:443", io);
    let error = BuildError::Step(StepError::new("image registry.example/nginx:1", cause));
    assert_snapshot!(rendered(error), @"
    error: image registry.example/nginx:1
      caused by: cannot reach registry.example:443
      caused by: connection refused
    hint: check the network and the proxy (https_proxy, no_proxy), then run the command again: what was finished is kept
    ");
}

#[test]
fn a_steps_own_hint_wins() {
    let error = StepError::new("image private/app:1", "unauthorized")
        .hint("log in first: docker login registry.example");
    assert_snapshot!(rendered(BuildError::Step(error)), @"
    error: image private/app:1
      caused by: unauthorized
    hint: log in first: docker login registry.example
    ");
}

#[test]
fn a_full_disk_says_where_and_what_next() {
    let full = || CacheError::Full {
        path: "/nowhere/kiln/tmp/1-0".into(),
        needed: 75_776,
        free: 0,
        quota: false,
    };
    assert_snapshot!(rendered(BuildError::Cache(full())), @"
    error: cache: cannot write /nowhere/kiln/tmp/1-0: disk full: 0 B free, at least 74.0 KiB needed
    hint: make room on the disk of /nowhere/kiln (`kiln cache info` shows what the cache holds), or choose another with --cache DIR or KILN_CACHE
    ");
    // As it arrives from the depths: carried by an I/O error.
    let carried = StepError::new("layer sha256:ab", io::Error::other(full()));
    assert_snapshot!(rendered(BuildError::Step(carried)), @"
    error: layer sha256:ab
      caused by: cache: cannot write /nowhere/kiln/tmp/1-0: disk full: 0 B free, at least 74.0 KiB needed
    hint: make room on the disk of /nowhere/kiln (`kiln cache info` shows what the cache holds), or choose another with --cache DIR or KILN_CACHE
    ");
    let output = BuildError::Output {
        path: "/nowhere/hello-initrd.img".into(),
        source: io::ErrorKind::StorageFull.into(),
    };
    assert_snapshot!(without_sizes(&rendered(output)), @"
    error: cannot write /nowhere/hello-initrd.img
      caused by: no storage space
    hint: make room in /nowhere (SIZE free), or write elsewhere (--dir, --output)
    ");
    let stdout = BuildError::Output {
        path: "-".into(),
        source: io::ErrorKind::StorageFull.into(),
    };
    assert_snapshot!(rendered(stdout), @"
    error: cannot write to standard output
      caused by: no storage space
    ");
}

#[test]
fn unwritable_places_say_what_to_do() {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    let cache = CacheError::Unwritable {
        root: CACHE.into(),
        owner: Some((0, 1000)),
        source: denied(),
    };
    assert_snapshot!(rendered(BuildError::Cache(cache)), @"
    error: cache: /nowhere/kiln is not writable (it belongs to user 0, this is user 1000): permission denied
    hint: make /nowhere/kiln writable for you, or choose another with --cache DIR or KILN_CACHE
    ");
    let file = CacheError::io("read", Path::new("/nowhere/kiln/version"));
    let file = file(io::ErrorKind::NotADirectory.into());
    assert_snapshot!(rendered(BuildError::Cache(file)), @"
    error: cache: cannot read /nowhere/kiln/version: not a directory
    hint: if /nowhere/kiln is no place for a cache, choose another with --cache DIR or KILN_CACHE
    ");
    let other = CacheError::NotACache {
        path: CACHE.into(),
        found: "photos".into(),
    };
    assert_snapshot!(rendered(BuildError::Cache(other)), @r#"
    error: cache: /nowhere/kiln is not a cache: it holds "photos"
    hint: choose another with --cache DIR or KILN_CACHE: kiln puts nothing beside other files
    "#);
    let output = BuildError::Output {
        path: "/usr/out/hello-kernel".into(),
        source: denied(),
    };
    assert_snapshot!(rendered(output), @"
    error: cannot write /usr/out/hello-kernel
      caused by: permission denied
    hint: make /usr/out writable for you, or write elsewhere (--dir, --output)
    ");
    let missing = BuildError::Output {
        path: "out/hello-kernel".into(),
        source: io::ErrorKind::NotFound.into(),
    };
    assert_snapshot!(rendered(missing), @"
    error: cannot write out/hello-kernel
      caused by: entity not found
    hint: make the directory first: mkdir -p out
    ");
}

#[test]
fn a_newer_cache_and_a_lost_object() {
    let newer = CacheError::NewerFormat {
        path: CACHE.into(),
        found: 9,
        known: 1,
    };
    assert_snapshot!(rendered(BuildError::Cache(newer)), @"
    error: cache: /nowhere/kiln has format 9, this kiln knows up to 1
    hint: use the kiln that made it, or choose another with --cache DIR or KILN_CACHE
    ");
    let lost = CacheError::MissingObject(Digest::from_bytes([0xab; 32]));
    assert_snapshot!(rendered(BuildError::Cache(lost)), @"
    error: cache: object abababababababababababababababababababababababababababababababab is missing or damaged
    hint: run the command again: what is missing is made anew
    ");
}

#[test]
fn codes_of_failures() {
    let code = |error| Failure::of_build(error, Path::new(CACHE), 2).code;
    assert_eq!(
        code(BuildError::Spec(vec![spec(1, 1, "x")])),
        exit::DESCRIPTION
    );
    assert_eq!(code(BuildError::Cancelled), 130);
    assert_eq!(
        Failure::of_build(BuildError::Cancelled, Path::new(CACHE), 15).code,
        143
    );
    let usage = BuildError::Usage {
        message: "x".into(),
        hint: None,
    };
    assert_eq!(code(usage), exit::USAGE);
    assert_eq!(
        code(BuildError::Step(StepError::new("x", "y"))),
        exit::FAILED
    );
    let closed = BuildError::Output {
        path: "-".into(),
        source: io::ErrorKind::BrokenPipe.into(),
    };
    let closed = Failure::of_build(closed, Path::new(CACHE), 2);
    assert_eq!(closed.code, exit::BROKEN_PIPE);
    assert_eq!(render(&closed, PLAIN, None), "");
}

#[test]
fn hostile_names_stay_text() {
    let error = StepError::new("image a\x1b[2Jb", "line one\nline two");
    assert_snapshot!(rendered(BuildError::Step(error)), @"
    error: image a�[2Jb
      caused by: line one
        line two
    ");
    let mut mistake = spec(1, 3, "\x1b]0;x\x07\tkey: 1");
    mistake.message = "bad \x1b[31mkey".into();
    let text = rendered(BuildError::Spec(vec![mistake]));
    let control = |character: char| character.is_control() && character != '\n';
    assert!(!text.chars().any(control), "{text:?}");
}

#[test]
fn colour_changes_no_word() {
    let failure = || {
        let error = BuildError::Spec(vec![spec(15, 3, "      - type: bin")]);
        Failure::of_build(error, Path::new(CACHE), 2)
    };
    let colored = Printer {
        color: true,
        ..PLAIN
    };
    let text = render(&failure(), colored, Some(100));
    assert!(text.contains("\x1b["));
    assert_eq!(without_escapes(&text), render(&failure(), PLAIN, Some(100)));
}

#[derive(Debug)]
struct CauseOf(&'static str, io::Error);

impl std::fmt::Display for CauseOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CauseOf {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.1)
    }
}

/// Replaces `(12 GB free)`.
fn without_sizes(text: &str) -> String {
    let (before, rest) = text.split_once(" (").unwrap();
    let (size, after) = rest.split_once(')').unwrap();
    assert!(size.ends_with(" free"), "{size}");
    format!("{before} (SIZE free){after}")
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain + rest
}
