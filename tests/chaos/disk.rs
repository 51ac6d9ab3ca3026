//! Disks that are full, read-only or elsewhere, and clocks that go back.

use std::fs;
use std::process::Command;

use super::{Systems, rounds};
use crate::support::{said, tool};

/// Builds on a tmpfs that grows step by step. `$1` is its directory, `$2` the kiln, `$3` the step in
/// KiB, `$4` whether the cache is emptied before each build.
const GROW: &str = r#"
mkdir "$1" && mount -t tmpfs -o size=4k tmpfs "$1" || exit 99
size=4
while [ $size -lt 20000 ]; do
    mount -o remount,size=${size}k "$1"
    [ "$4" = yes ] && rm -rf "$1"/*
    if KILN_CACHE="$1/cache" "$2" build -o "$1/system.tar" 0.yml 2>error; then
        cp "$1/system.tar" full.tar
        echo $size
        exit 0
    fi
    grep -q 'disk full\|No space left' error || { cat error; exit 98; }
    ls -A "$1" | grep -q kiln-tmp && { echo left; ls -A "$1"; exit 97; }
    size=$((size + $3))
done
exit 96
"#;

#[test]
fn a_disk_that_is_full_at_any_write_costs_nothing_but_the_build() {
    let systems = Systems::new(1);
    let step = match rounds(0, 1) {
        0 => "60",
        _ => "4",
    };
    for emptied in ["no", "yes"] {
        let small = systems.space.path(&format!("small-{emptied}"));
        let mut command = Command::new("unshare");
        command
            .args(["-rm", "sh", "-c", GROW, "sh"])
            .arg(&small)
            .args([env!("CARGO_BIN_EXE_kiln"), step, emptied])
            .current_dir(systems.space.path("."));
        let grown = said(&mut command);
        let text = String::from_utf8_lossy(&grown.stdout);
        assert_eq!(grown.code, Some(0), "{text}{}", grown.stderr);
        // It did not fit at first.
        let size: u32 = text.trim().parse().unwrap();
        assert!(size > 300, "{size} KiB");
        let bytes = fs::read(systems.space.path("full.tar")).unwrap();
        assert!(bytes == systems.expected[0]);
    }
}

#[test]
fn a_moved_cache_is_the_same_cache() {
    let systems = Systems::new(2);
    systems.check(0, "before");
    let (from, to) = (systems.space.path("cache"), systems.space.path("moved"));
    fs::rename(from, &to).unwrap();
    fs::remove_file(systems.space.path("system.tar")).unwrap();
    // Nothing is made again but what is made every time.
    let mut command = systems.command(0);
    let built = said(command.arg("--json").env("KILN_CACHE", &to));
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let text = String::from_utf8(built.stdout).unwrap();
    for line in text
        .lines()
        .filter(|line| line.contains("\"kind\":\"layer\""))
    {
        assert!(!line.contains("\"outcome\":\"ran\""), "{line}");
    }
    systems.check_output(0, "moved");
}

#[test]
fn a_read_only_cache_builds_what_it_has() {
    let systems = Systems::new(1);
    systems.check(0, "before");
    fs::remove_file(systems.space.path("system.tar")).unwrap();
    let cache = systems.space.path("cache");
    let before = tool("find", &[cache.to_str().unwrap(), "-printf", "%p %T@ %s\n"]);
    let mut command = Command::new("unshare");
    let script = "mount --bind cache cache && mount -o remount,ro,bind cache && \
                  KILN_CACHE=cache exec \"$0\" build -o system.tar 0.yml";
    command
        .args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_kiln")])
        .current_dir(systems.space.path("."));
    let built = said(&mut command);
    let after = tool("find", &[cache.to_str().unwrap(), "-printf", "%p %T@ %s\n"]);
    assert_eq!(before, after);
    match built.code {
        Some(0) => systems.check_output(0, "read-only"),
        _ => assert!(built.stderr.contains("writable"), "{}", built.stderr),
    }
}

#[test]
fn a_clock_that_went_back_is_believed_by_nobody() {
    let systems = Systems::new(2);
    for (offset, number) in [("+800d", 0), ("-800d", 1), ("+1h", 0), ("-1d", 1)] {
        let _ = fs::remove_file(systems.space.path("system.tar"));
        let mut command = systems.space.command_in(&["faketime", "-f", offset]);
        command.args(["build", "-o", "system.tar", &format!("{number}.yml")]);
        let built = said(&mut command);
        assert_eq!(built.code, Some(0), "{offset}: {}", built.stderr);
        systems.check_output(number, offset);
        let mut command = systems.space.command_in(&["faketime", "-f", offset]);
        command.args(["cache", "gc", "--older-than", "30d", "--max-size", "10GB"]);
        let collected = said(&mut command);
        assert_eq!(collected.code, Some(0), "{offset}: {}", collected.stderr);
        systems.check(1 - number, offset);
        systems.check(number, offset);
    }
    systems.verify("in the end");
}
