//! Many processes on one cache.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::{Systems, rounds};

const PROCESSES: usize = 8;

#[test]
fn eight_processes_share_one_cache_and_do_each_step_once() {
    let systems = Systems::new(3);
    for round in 0..rounds(2, 100) {
        let _ = fs::remove_dir_all(systems.space.path("cache"));
        let start = |at: usize| -> Child {
            let mut command = systems.space.command();
            let output = format!("out{at}.tar");
            command.args(["build", "--json", "-o", &output, &format!("{}.yml", at % 3)]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let children: Vec<_> = (0..PROCESSES).map(start).collect();
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        for (at, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "round {round}, {at}: {stderr}");
            let bytes = fs::read(systems.space.path(&format!("out{at}.tar"))).unwrap();
            assert!(bytes == systems.expected[at % 3], "round {round}, {at}");
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                let event: Value = serde_json::from_str(line).unwrap();
                let kind = event["kind"].as_str().unwrap_or_default();
                if event["event"] == "finished" && event["outcome"] == "ran" && kind == "layer" {
                    *ran.entry(event["label"].to_string()).or_default() += 1;
                }
            }
        }
        // One layer of the base, one of each service.
        let labels: Vec<_> = ran.keys().collect();
        assert_eq!(ran.values().sum::<usize>(), 4, "round {round}: {labels:?}");
        systems.verify(&format!("round {round}"));
    }
}

#[test]
fn builds_go_on_while_others_collect_and_verify() {
    let systems = Systems::new(3);
    for round in 0..rounds(3, 150) {
        let _ = fs::remove_file(systems.space.path("system.tar"));
        let start = |args: &[&str]| -> Child {
            let mut command = systems.space.command();
            command
                .args(args)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut children = Vec::new();
        for at in 0..3 {
            let (output, yml) = (format!("out{at}.tar"), format!("{at}.yml"));
            let _ = fs::remove_file(systems.space.path(&output));
            children.push(start(&["build", "-o", &output, &yml]));
            children.push(start(&["cache", "gc", "--keep-builds", "0", "--json"]));
        }
        children.push(start(&["cache", "ls", "--by", "system"]));
        for (at, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "round {round}, {at}: {stderr}");
        }
        for at in 0..3 {
            let bytes = fs::read(systems.space.path(&format!("out{at}.tar"))).unwrap();
            assert!(bytes == systems.expected[at], "round {round}, system {at}");
        }
        systems.verify(&format!("round {round}"));
    }
}
