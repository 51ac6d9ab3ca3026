//! What the cache holds, for how long, and whether it is whole: `cache gc`, `du`, `ls --by`,
//! `verify`, and the collection after a build.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{Said, Space};

fn ok(said: Said) -> String {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    String::from_utf8(said.stdout).unwrap()
}

fn json(space: &Space, args: &[&str]) -> Value {
    serde_json::from_str(&ok(space.kiln(args))).unwrap()
}

/// Builds a system of one image with 200 kB of its own.
fn build(space: &Space, name: &str) -> Said {
    let layout = space.path(&format!("oci/{name}"));
    if !layout.exists() {
        let content = format!("{name} ").repeat(200_000 / (name.len() + 1));
        space.image(name).layer(&[("data", &content)]).layout();
    }
    let yml = format!("{name}.yml");
    let text = format!("init:\n  - oci:{}:latest\n", layout.display());
    if !space.path(&yml).exists() {
        space.write(&yml, &text);
    }
    space.kiln(&["build", "-o", &format!("{name}.tar"), &yml])
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

#[test]
fn systems_share_what_they_can_and_the_oldest_goes_first() {
    let space = Space::new();
    ok(build(&space, "old"));
    ok(build(&space, "new"));
    let systems = json(&space, &["cache", "ls", "--by", "system", "--json"]);
    assert_eq!(systems[0]["name"], "new.yml");
    assert_eq!(systems[1]["name"], "old.yml");
    let bytes = |value: &Value| value.as_u64().unwrap();
    for system in systems.as_array().unwrap() {
        let (all, own) = (bytes(&system["bytes"]), bytes(&system["own_bytes"]));
        assert!(own >= 200_000 && own <= all, "{system}");
    }
    let usage = json(&space, &["cache", "du", "--json"]);
    assert!(bytes(&usage["bytes"]) >= 400_000);
    let of_kinds = usage["kinds"].as_array().unwrap().iter();
    let of_kinds: u64 = of_kinds.map(|kind| bytes(&kind["bytes"])).sum();
    assert_eq!(
        of_kinds + bytes(&usage["unnamed_bytes"]),
        bytes(&usage["bytes"])
    );
    let text = ok(space.kiln(&["cache", "du"]));
    assert!(text.contains("layer"), "{text}");
    let steps = ok(space.kiln(&["cache", "ls", "--by", "size"]));
    assert!(steps.lines().nth(1).unwrap().contains("layer"), "{steps}");

    // A dry run tells what the run does.
    let limit = ["cache", "gc", "--keep-builds", "1", "--json"];
    let dry = json(&space, &[&limit[..], &["--dry-run"]].concat());
    assert_eq!(bytes(&dry["bytes"]), bytes(&systems[1]["own_bytes"]));
    assert_eq!(json(&space, &["cache", "du", "--json"]), usage);
    assert_eq!(json(&space, &limit), dry);
    let systems = json(&space, &["cache", "ls", "--by", "system", "--json"]);
    assert_eq!(systems.as_array().unwrap().len(), 1);
    // The one that stayed is found whole, the other is made again and is the same.
    let before = fs::read(space.path("old.tar")).unwrap();
    fs::remove_file(space.path("new.tar")).unwrap();
    let said = build(&space, "new");
    assert!(
        said.stderr.contains("0 ran") || !said.stderr.contains("ran"),
        "{}",
        said.stderr
    );
    ok(build(&space, "old"));
    assert_eq!(fs::read(space.path("old.tar")).unwrap(), before);
}

#[test]
fn a_build_keeps_the_cache_below_its_budget() {
    let space = Space::new();
    let build_within = |name: &str, budget: &str| {
        build(&space, name);
        // The first look of this minute.
        let _ = fs::remove_file(space.path("cache/builds/looked"));
        space.write(&format!("{name}.yml"), &{
            let text = fs::read_to_string(space.path(&format!("{name}.yml"))).unwrap();
            format!("{text}files:\n  - {{path: etc/x, contents: \"{budget}\"}}\n")
        });
        let mut command = space.command();
        command
            .args([
                "build",
                "-o",
                &format!("{name}.tar"),
                &format!("{name}.yml"),
            ])
            .env("KILN_CACHE_MAX_SIZE", budget);
        super::support::said(&mut command)
    };
    ok(build_within("one", "0"));
    let total = |space: &Space| {
        let usage = json(space, &["cache", "du", "--json"]);
        usage["bytes"].as_u64().unwrap()
    };
    let whole = total(&space);
    assert!(whole > 200_000);
    ok(build_within("two", "1MB"));
    assert!(total(&space) > whole);
    ok(build_within("three", "600kB"));
    assert!(total(&space) <= 600_000, "{}", total(&space));
    // What was just built is there.
    let systems = json(&space, &["cache", "ls", "--by", "system", "--json"]);
    assert_eq!(systems[0]["name"], "three.yml");
    fs::remove_file(space.path("three.tar")).unwrap();
    let said = space.kiln(&["build", "-o", "three.tar", "three.yml"]);
    ok(said);
    let said = build_within("three", "many");
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(
        said.stderr.contains("KILN_CACHE_MAX_SIZE=many"),
        "{}",
        said.stderr
    );
}

#[test]
fn damage_is_found_told_and_repaired() {
    let space = Space::new();
    ok(build(&space, "one"));
    assert_eq!(
        json(&space, &["cache", "verify", "--json"])["damage"],
        Value::Array(vec![])
    );
    let before = fs::read(space.path("one.tar")).unwrap();
    let objects = files(&space.path("cache/objects"));
    let largest = objects
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let modified = fs::metadata(largest).unwrap().modified().unwrap();
    // Written in place, and given its old time: as a bad disk would have it.
    let file = fs::File::options().write(true).open(largest).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
    let said = space.kiln(&["cache", "verify"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("has other bytes"), "{}", said.stderr);
    assert!(said.stderr.contains("--repair"), "{}", said.stderr);
    ok(space.kiln(&["cache", "verify", "--repair"]));
    ok(space.kiln(&["cache", "verify", "--repair"]));
    ok(space.kiln(&["cache", "verify"]));
    fs::remove_file(space.path("one.tar")).unwrap();
    ok(build(&space, "one"));
    assert_eq!(fs::read(space.path("one.tar")).unwrap(), before);
}
