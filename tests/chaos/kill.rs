//! Processes killed at any moment.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Random, Systems, rounds};

/// What is killed: builds (which splice the output of another system), collections, exports and
/// imports, and whatever opens the catalogue.
const VICTIMS: [&[&str]; 8] = [
    &["build"],
    &["build"],
    &["build"],
    &["cache", "gc", "--keep-builds", "1"],
    &["cache", "gc", "--keep-builds", "0"],
    &["cache", "export", "--all", "part.kiln"],
    &["cache", "import", "whole.kiln"],
    &["cache", "ls", "--by", "size"],
];

#[test]
fn killed_at_any_moment_nothing_is_lost_or_wrong() {
    let systems = Systems::new(3);
    let space = &systems.space;
    let mut random = Random::new();
    let seed = random.seed;
    systems.check(0, "first");
    let said = space.kiln(&["cache", "export", "--all", "whole.kiln"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let mut killed = 0;
    for round in 0..rounds(25, 1000) {
        let victim = VICTIMS[random.below(VICTIMS.len())];
        let number = random.below(3);
        let what = format!("seed {seed}, round {round}, {victim:?}");
        let mut command = match victim {
            ["build"] => systems.command(number),
            other => {
                let mut command = space.command();
                command.args(other);
                command
            }
        };
        let began = Instant::now();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Some are let go on to their end.
        sleep(Duration::from_micros(random.below(60_000) as u64));
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Whole or not there: never half.
        let output = fs::read(space.path("system.tar"));
        let is_whole = |bytes: &Vec<u8>| systems.expected.contains(bytes);
        assert!(
            output.as_ref().map_or(true, is_whole),
            "{what}: a torn output"
        );
        let number = random.below(3);
        systems.check(number, &what);
        if random.below(8) == 0 {
            systems.verify(&what);
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{what}: somebody waits for the dead"
        );
    }
    assert!(killed > 0, "seed {seed}: nobody was killed in time");
    systems.verify(&format!("seed {seed}, in the end"));
    // The living sweep after the dead.
    systems.check(1, "last");
    systems.check(2, "very last");
    let said = space.kiln(&["cache", "export", "--all", "part.kiln"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(space.names("cache/tmp"), Vec::<String>::new());
    assert_eq!(space.names("cache/leases"), Vec::<String>::new());
    assert_eq!(space.names("cache/locks"), Vec::<String>::new());
    let hidden = space.names(".");
    let hidden: Vec<_> = hidden
        .iter()
        .filter(|name| name.contains("kiln-tmp"))
        .collect();
    assert!(hidden.is_empty(), "seed {seed}: {hidden:?}");
}
