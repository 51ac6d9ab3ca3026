//! The same YAML through LinuxKit and through kiln: the same system, but for what is documented.
//!
//! `linuxkit/yaml/` holds a description for every family of LinuxKit's examples and tests, over
//! images made here ([`images`]). What LinuxKit builds of them was recorded as facts (paths, modes,
//! owners, provenance, contents, parsed JSON) in `linuxkit/facts/`; kiln's output must have the same
//! facts after the changes in [`divergence`], each of which `docs/linuxkit.md` explains.
//!
//! `KILN_LINUXKIT=/path/to/linuxkit` runs LinuxKit too and compares its facts with the recorded
//! ones; `KILN_LINUXKIT_RECORD=1` with it records them anew.

mod divergence;
mod facts;
mod images;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Space, names, said};
use divergence::Divergence;
use facts::Facts;

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/linuxkit")
        .join(name)
}

/// Returns the families: a name, and the YAML files that make it, in order.
fn families() -> Vec<(String, Vec<String>)> {
    let mut families: Vec<(String, Vec<String>)> = Vec::new();
    for file in names(&here("yaml")) {
        let name = file.strip_suffix(".yml").unwrap();
        let family = name.split('.').next().unwrap().to_owned();
        match families.last_mut() {
            Some((last, files)) if *last == family => files.push(file),
            _ => families.push((family, vec![file])),
        }
    }
    families
}

#[test]
fn every_family_of_descriptions_gives_linuxkit_s_system() {
    let space = Space::new();
    let registry = space.registry();
    images::push(&registry.host, &space.path("images"));
    space.write("key.pub", "ssh-ed25519 AAAA someone\n");
    let linuxkit = env::var_os("KILN_LINUXKIT").map(PathBuf::from);
    let record = env::var_os("KILN_LINUXKIT_RECORD").is_some();
    let mut wrong = String::new();
    let mut used = BTreeSet::new();
    for (family, files) in families() {
        for file in &files {
            let text = fs::read_to_string(here("yaml").join(file)).unwrap();
            space.write(
                file,
                &text.replace("lk/", &format!("{}/lk/", registry.host)),
            );
        }
        let facts = |tar: &Path| Facts::of(tar, &registry.host);
        let kept = here("facts").join(format!("{family}.json"));
        if let Some(linuxkit) = &linuxkit {
            let live = facts(&run_linuxkit(linuxkit, &space, &family, &files));
            if record {
                fs::create_dir_all(here("facts")).unwrap();
                fs::write(&kept, live.to_json()).unwrap();
            }
            let recorded = Facts::from_json(&fs::read_to_string(&kept).unwrap());
            for line in recorded.differences(&live) {
                let _ = writeln!(wrong, "{family}: LinuxKit now: {line}");
            }
        }
        let output = format!("{family}.tar");
        let mut arguments = vec!["--no-sbom", "-o", &output];
        arguments.extend(files.iter().map(String::as_str));
        space.build(&arguments);
        let mut expected = Facts::from_json(
            &fs::read_to_string(&kept)
                .unwrap_or_else(|error| panic!("{}: {error}", kept.display())),
        );
        let found = facts(&space.path(&output));
        for divergence in Divergence::ALL {
            if divergence.apply(&mut expected, &found) {
                used.insert(divergence);
            }
        }
        for line in expected.differences(&found) {
            let _ = writeln!(wrong, "{family}: {line}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let all = BTreeSet::from(Divergence::ALL);
    assert_eq!(used, all, "a divergence that no family shows");
}

/// Builds with LinuxKit; returns the tar.
fn run_linuxkit(program: &Path, space: &Space, family: &str, files: &[String]) -> PathBuf {
    let output = format!("{family}.linuxkit.tar");
    let said = said(
        Command::new(program)
            .args([
                "build",
                "--no-sbom",
                "--cache",
                "linuxkit-cache",
                "--o",
                &output,
            ])
            .args(files)
            .current_dir(space.path(""))
            .env("HOME", space.path("linuxkit-home")),
    );
    assert_eq!(said.code, Some(0), "{family}: {}", said.stderr);
    space.path(&output)
}
