//! `kiln bench` on a small system: the numbers are sane, and what is the user's stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use super::build::system;
use super::support::{Said, Space};

fn bench(space: &Space, args: &[&str]) -> Said {
    space.kiln(&[&["bench", "system.yml"], args].concat())
}

fn measured(said: &Said) -> Value {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    serde_json::from_slice(&said.stdout).unwrap()
}

fn scenario<'a>(report: &'a Value, name: &str) -> &'a Value {
    let scenarios = report["scenarios"].as_array().unwrap();
    let found = scenarios.iter().find(|it| it["scenario"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Every file below a directory: size, inode and time of the last change.
fn listing(directory: &Path) -> BTreeMap<String, (u64, u64, i64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            let what = (data.size(), data.ino(), data.ctime_nsec());
            if data.is_dir() {
                left.push(path);
            } else {
                found.insert(path.display().to_string(), what);
            }
        }
    }
    found
}

#[test]
fn numbers_are_sane_and_nothing_of_the_users_changes() {
    let space = Space::new();
    let yaml = system(&space);
    space.write("system.yml", &yaml);
    space.build(&["system.yml"]);
    let before = listing(&space.path(""));
    let report = measured(&bench(&space, &["--rounds", "2", "--json"]));
    assert_eq!(
        listing(&space.path("")),
        before,
        "something was left or touched"
    );

    let names = [
        "cold",
        "warm",
        "nothing-changed",
        "one-file-changed",
        "one-service-swapped",
    ];
    let median = |name: &str| scenario(&report, name)["median"].as_f64().unwrap();
    for name in names {
        let row = scenario(&report, name);
        assert_eq!(row["samples"].as_array().unwrap().len(), 2, "{name}");
        assert!(row["memory_bytes"].as_u64().unwrap() > 1 << 20, "{row}");
        assert!(row["output_bytes"].as_u64().unwrap() > 1000, "{row}");
        let spread = row["quartiles"].as_array().unwrap();
        let spread: Vec<f64> = spread.iter().map(|it| it.as_f64().unwrap()).collect();
        assert!(
            spread[0] <= median(name) && median(name) <= spread[1],
            "{row}"
        );
    }
    let steps = |name: &str| {
        let row = scenario(&report, name);
        let of = |key: &str| row[key].as_u64().unwrap();
        (
            of("steps_cached"),
            of("steps_ran"),
            row["up_to_date"] == true,
        )
    };
    // What each scenario is: everything is done, little is done, nothing is looked at.
    let (cached, ran, _) = steps("cold");
    assert!(cached == 0 && ran > 10, "{report}");
    assert_eq!(steps("nothing-changed"), (0, 0, true));
    for name in ["warm", "one-file-changed", "one-service-swapped"] {
        let (cached, some, fresh) = steps(name);
        assert!(cached > 0 && some < ran && !fresh, "{name}: {report}");
    }
    assert_ne!(steps("one-file-changed").1, 0);
    // What is least work reads and writes least; times are for people to judge.
    let moved = |name: &str| {
        let of = |key: &str| scenario(&report, name)[key].as_u64().unwrap();
        of("read_bytes") + of("written_bytes")
    };
    for name in ["cold", "warm", "one-file-changed", "one-service-swapped"] {
        assert!(moved("nothing-changed") < moved(name), "{name}: {report}");
    }
    assert_eq!(report["system"]["swap"]["service"], "two");
    assert_eq!(report["system"]["fetched"], serde_json::json!([]));
}

#[test]
fn comparisons_and_other_commands() {
    let space = Space::new();
    let yaml = system(&space);
    space.write("system.yml", &yaml);
    let quick = ["--format", "tar", "--rounds", "1", "--cold-rounds", "0"];
    let with = |more: &[&str]| bench(&space, &[&quick[..], more].concat());

    let first = with(&["--json"]);
    let report = measured(&first);
    assert_eq!(report["missing"][0]["scenario"], "cold");
    space.write("before.json", &String::from_utf8(first.stdout).unwrap());
    // One round of either proves nothing, and the command is slow on purpose.
    let second = with(&[
        "--compare",
        "before.json",
        "--against",
        "test -n \"$KILN_BENCH_ROUND\" && test -f \"$KILN_BENCH_FILE\" && echo x >\"$KILN_BENCH_OUTPUT/x\"",
        "--html",
        "chart.html",
        "--json",
    ]);
    let report = measured(&second);
    let compared = report["comparison"]["scenarios"].as_array().unwrap();
    assert_eq!(compared.len(), 4);
    for row in compared {
        assert_eq!(row["verdict"], "too-few-rounds");
        assert!(row["ratio"].as_f64().unwrap() > 0.0);
    }
    let against = &report["against"];
    assert_eq!(against["scenario"], "nothing-changed");
    assert_eq!(against["verdict"], "too-few-rounds");
    assert!(!against["pairs"][0].as_array().unwrap().is_empty());
    let page = fs::read_to_string(space.path("chart.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<circle"));

    let failed = with(&["--against", "echo out of bricks >&2; exit 3"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("out of bricks"), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("ended with code 3"),
        "{}",
        failed.stderr
    );
    let other = bench(&space, &["--compare", "before.json"]);
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    assert!(other.stderr.contains("measured tar"), "{}", other.stderr);
    let left = space.names("");
    assert!(
        !left.iter().any(|name| name.starts_with("kiln-bench")),
        "{left:?}"
    );
}

#[test]
fn a_system_that_cannot_be_built_is_an_error_of_its_build() {
    let space = Space::new();
    space.write(
        "system.yml",
        "services: [{name: a, image: 'oci:/nowhere'}]\n",
    );
    let said = bench(&space, &["--rounds", "1", "--format", "tar"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("/nowhere"), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("kiln build (preparing) ended with code"),
        "{}",
        said.stderr
    );
    space.write("system.yml", "services: [{name: a}]\n");
    assert_eq!(bench(&space, &[]).code, Some(3));
    assert_eq!(space.kiln(&["bench", "-"]).code, Some(2));
}

/// Ctrl-C ends the children, those of a command included, and takes the directory away.
#[test]
fn an_interruption_leaves_nothing() {
    let space = Space::new();
    let yaml = system(&space);
    space.write("system.yml", &yaml);
    let mut command = space.command();
    command.args(["bench", "system.yml", "--rounds", "1", "--cold-rounds", "0"]);
    command.args(["-f", "tar", "--against", "echo $$ >pid; sleep 1000 & wait"]);
    let mut kiln = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let pid = loop {
        let text = fs::read_to_string(space.path("pid")).unwrap_or_default();
        match text.trim().parse::<i32>() {
            Ok(pid) => break pid,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
        assert!(kiln.try_wait().unwrap().is_none(), "it ended early");
    };
    let number = i32::try_from(kiln.id()).unwrap();
    let kiln_pid = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(kiln_pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(kiln.wait().unwrap().code(), Some(143));
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "the command still runs"
    );
    let left = space.names("");
    assert!(
        !left.iter().any(|name| name.starts_with("kiln-bench")),
        "{left:?}"
    );
}
