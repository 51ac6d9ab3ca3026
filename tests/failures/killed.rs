//! Builds that are killed at any moment, many times over.
//!
//! Enters: a system in three states, so that outputs are spliced from each other, and a seed.
//! Leaves, after each `kill -9`: every output whole or absent, and a next build that gets
//! everything right and removes what the dead one left.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process_group};

use super::super::support::{Space, said};
use super::{Files, assert_same, files};

/// Builds that are killed.
const ROUNDS: u64 = 32;
/// Every so many rounds the cache is empty.
const COLD: u64 = 8;
const BUILD: [&str; 6] = [
    "build",
    "-f",
    "tar,kernel+initrd",
    "--dir",
    "out",
    "system.yml",
];

/// Numbers that a seed decides (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Text that compresses to about half.
    fn text(&mut self, bytes: u64) -> String {
        (0..bytes / 16)
            .map(|_| format!("{:016x}", self.below(u64::MAX)))
            .collect()
    }
}

/// Makes the images, and returns the descriptions of the system's states.
fn states(space: &Space) -> [String; 3] {
    let mut random = Random(0);
    let layout = |name: &str, files: &[(&str, &str)]| {
        let image = space.image(name).layer(files);
        format!("oci:{}", image.layout())
    };
    let kernels = ["a kernel", "another kernel"].map(|text| {
        let name = text.replace(' ', "-");
        layout(&name, &[("kernel", text)])
    });
    let init = layout("init", &[("!init", "#!/bin/sh\n"), ("etc/", "")]);
    let base = random.text(1 << 20);
    let services = [1_u64, 2, 3, 4].map(|n| {
        let own = random.text(n << 18);
        let files = [("!bin/sh", base.as_str()), ("srv/own", &own)];
        layout(&format!("service-{n}"), &files)
    });
    let state = |kernel: &str, second: &str, note: &str| {
        format!(
            "kernel:\n  image: {kernel}\n  cmdline: console=ttyS0\n  tar: none\ninit:\n  - {init}\n\
             services:\n  - {{name: one, image: \"{}\"}}\n  - {{name: two, image: \"{second}\"}}\n  \
             - {{name: three, image: \"{}\"}}\nfiles:\n  - path: etc/note\n    contents: \"{note}\"\n",
            services[0], services[2]
        )
    };
    [
        state(&kernels[0], &services[1], "first"),
        state(&kernels[0], &services[3], "first"),
        state(&kernels[1], &services[1], &"second".repeat(2000)),
    ]
}

#[test]
fn outputs_are_whole_and_the_next_build_works() {
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    let seed =
        std::env::var("KILN_TEST_SEED").map_or(u64::from(seed), |seed| seed.parse().unwrap());
    eprintln!("again with KILN_TEST_SEED={seed}");
    let mut random = Random(seed);
    let space = Space::new();
    std::fs::create_dir(space.path("out")).unwrap();
    let states = states(&space);
    let out = space.path("out");
    let clear = |name: &str| std::fs::remove_dir_all(space.path(name)).unwrap();
    // What a build makes that nothing disturbs, and how long it takes.
    let mut cold = Duration::ZERO;
    let expected = states.each_ref().map(|state| {
        space.write("system.yml", state);
        let began = Instant::now();
        let said = space.kiln(&BUILD);
        cold = began.elapsed();
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let built = files(&out);
        clear("cache");
        clear("out");
        std::fs::create_dir(&out).unwrap();
        built
    });
    assert_eq!(expected[0].len(), 4);
    let mut warm = cold;
    for round in 0..ROUNDS {
        let mut limit = warm;
        if round % COLD == COLD - 1 {
            clear("cache");
            limit = cold;
        }
        space.write("system.yml", &states[pick(&mut random)]);
        // At any moment, or soon after it has begun to write one of its files.
        let (writing, limit) = match round % 2 {
            0 => (0, limit),
            _ => (1 + random.below(4), Duration::from_millis(3)),
        };
        let moment = random.below(u64::try_from(limit.as_micros()).unwrap());
        kill_after(&space, writing, Duration::from_micros(moment));
        let when = format!("round {round}, killed {moment} µs after file {writing} was begun");
        assert_whole(&files(&out), &expected, &when);
        let state = pick(&mut random);
        space.write("system.yml", &states[state]);
        let began = Instant::now();
        let next = said(space.command().args(BUILD));
        warm = began.elapsed();
        assert_eq!(next.code, Some(0), "{when}: {}", next.stderr);
        assert_same(&files(&out), &expected[state], &when);
    }
}

fn pick(random: &mut Random) -> usize {
    usize::try_from(random.below(3)).unwrap()
}

/// Starts a build, and kills it and all it started, some time after it says that it writes its
/// file number `writing`; 0 is its start.
fn kill_after(space: &Space, writing: u64, moment: Duration) {
    let mut command = space.command();
    command.args(BUILD).arg("--json").process_group(0);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let events = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let is_writing = |line: &String| line.contains("\"event\":\"writing\"");
    let begun = events.map(Result::unwrap).filter(is_writing);
    begun.take(usize::try_from(writing).unwrap()).for_each(drop);
    std::thread::sleep(moment);
    // Fails when it is done already.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    child.wait().unwrap();
}

/// Expects every output to be one of the complete ones.
fn assert_whole(found: &Files, expected: &[Files], when: &str) {
    for (name, bytes) in found.iter().filter(|(name, _)| !name.starts_with('.')) {
        let whole = expected.iter().any(|files| files.get(name) == Some(bytes));
        assert!(whole, "{when}: {name} is torn ({} bytes)", bytes.len());
    }
}
