//! What a cache must survive: killed processes, crowds, full disks, damage, clocks that go back.
//! Each round ends with a build whose output must be, byte for byte, what a fresh cache gives.
//!
//! `./tests/run` does a few rounds of each, `./tests/run --long` as many as `rounds` says. Where a
//! choice is random, it depends on a seed that a failure names; `KILN_TEST_SEED` repeats it.

mod crowd;
mod damage;
mod disk;
mod kill;

use std::fs;
use std::process::Command;

use super::support::{Said, Space, said};

/// Returns how many rounds to do: `short`, or with `KILN_TEST_LONG` set, `long`.
pub(crate) fn rounds(short: usize, long: usize) -> usize {
    match std::env::var_os("KILN_TEST_LONG") {
        Some(_) => long,
        None => short,
    }
}

/// Numbers that look random (SplitMix64), and where they began.
struct Random {
    state: u64,
    seed: u64,
}

impl Random {
    fn new() -> Self {
        let seed = match std::env::var("KILN_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => fastrand(),
        };
        Self { state: seed, seed }
    }

    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

/// A seed that differs from run to run.
fn fastrand() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new();
    hasher.build_hasher().finish()
}

/// Systems that share most of what they are made of, and what each must come to.
struct Systems {
    space: Space,
    /// By number: the bytes of `N.tar`.
    expected: Vec<Vec<u8>>,
}

impl Systems {
    /// Makes `count` systems of two services, one shared and one of their own. Images are kept in
    /// the cache, as those of registries are, so that there are names and blobs, too.
    fn new(count: usize) -> Self {
        let space = Space::new();
        let content =
            |name: &str, bytes: usize| format!("{name} ").repeat(bytes / (name.len() + 1));
        let shared = content("shared", 120_000);
        space.image("base").layer(&[("!bin/sh", &shared)]).layout();
        for number in 0..count {
            let own = content(&format!("service {number}"), 60_000 + 9000 * number);
            let name = format!("own{number}");
            space.image(&name).layer(&[("srv/data", &own)]).layout();
        }
        let mut systems = Self {
            space,
            expected: Vec::new(),
        };
        for number in 0..count {
            let at = |name: &str| systems.space.path(&format!("oci/{name}"));
            let (base, own) = (at("base"), at(&format!("own{number}")));
            systems.space.write(
                &format!("{number}.yml"),
                &format!(
                    "init: [\"oci:{base}:latest\"]\nservices:\n  - {{name: a, image: \"oci:{own}:latest\"}}\n  \
                     - {{name: b, image: \"oci:{base}:latest\"}}\nfiles: [{{path: etc/n, contents: \"{number}\"}}]\n",
                    base = base.display(),
                    own = own.display()
                ),
            );
        }
        for number in 0..count {
            let mut command = systems.space.command();
            command.env("KILN_CACHE", systems.space.path("reference"));
            let built = said(
                command
                    .args(["build", "-o", "x.tar"])
                    .arg(format!("{number}.yml")),
            );
            assert_eq!(built.code, Some(0), "{}", built.stderr);
            let bytes = fs::read(systems.space.path("x.tar")).unwrap();
            systems.expected.push(bytes);
        }
        fs::remove_file(systems.space.path("x.tar")).unwrap();
        systems
    }

    /// Returns the command that builds a system into `system.tar`.
    fn command(&self, number: usize) -> Command {
        let mut command = self.space.command();
        command.args(["build", "-o", "system.tar"]);
        command.arg(format!("{number}.yml"));
        command
    }

    /// Builds a system and checks what comes of it.
    fn check(&self, number: usize, what: &str) -> Said {
        let built = said(&mut self.command(number));
        assert_eq!(built.code, Some(0), "{what}: {}", built.stderr);
        self.check_output(number, what);
        built
    }

    fn check_output(&self, number: usize, what: &str) {
        let bytes = fs::read(self.space.path("system.tar")).unwrap();
        assert!(
            bytes == self.expected[number],
            "{what}: system {number} has other bytes"
        );
    }

    /// Reads everything in the cache.
    fn verify(&self, what: &str) {
        let verified = self.space.kiln(&["cache", "verify", "--json"]);
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        // An action whose objects a collection took is no damage: it counts as absent.
        for wrong in ["other bytes", "does not check"] {
            assert!(!text.contains(wrong), "{what}: {text}");
        }
        assert!(text.contains("objects"), "{what}: {}", verified.stderr);
    }
}
