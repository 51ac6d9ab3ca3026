//! Every difference, found where it is.

use std::collections::BTreeSet;

use super::*;

/// `ID LINE:COL WHAT` of every finding.
fn found(descriptions: &[&str]) -> Vec<String> {
    let named = descriptions
        .iter()
        .enumerate()
        .map(|(index, text)| (["a.yml", "b.yml"][index], text.as_bytes()));
    find(named)
        .iter()
        .map(|finding| format!("{} {} {}", finding.difference.id, finding.at, finding.what))
        .collect()
}

const FIRST: &str = "\
kernel: {ucode: u.cpio, image: '', modules: all}
init: [kiln, a, 'r.example:5/a/b', 'a:1', 'a@sha256:00', 'oci:./x', '@pkg:../a', {image: 'q:1'}]
volumes:
- {name: v, readonly: true, image: z}
";

const SECOND: &str = "\
onboot:
- name: '@key'
  image: 'a:1'
  capabilities: [all, CAP_KILL, CAP_KILL]
  capabilities.add: [all]
  ambient: [all]
  ipc: none
  uts: ''
  net: none
  uidMappings: [{containerID: 0, hostID: 1, size: 2}]
  resources:
    memory: {limit: 5, kernelTCP: 5, disableOOMKiller: true}
    cpu: {realtimeRuntime: 1, realtimePeriod: 2}
    blockio: {weight: 3, leafWeight: 4, weightDevice: [], throttleReadBpsDevice: []}
    hugepageLimits: []
    network: {classID: 1}
  tmpfs: ['/t:ro']
  binds: ['v:/t:ro,nosuid', '/a:/b']
  mounts:
  - {type: bind, source: v, destination: /b, options: [ro], uidmappings: [], gidMappings: []}
  - {type: bind, source: w, destination: /c}
files:
- {path: etc/x, contents: '@x'}
- {path: etc/y/z/w, contents: '@pkg:../x', mode: \"0640\", uid: 7, gid: root}
- {path: usr/b, contents: x, mode: \"0644\"}
- {path: usr/c, contents: x, uid: 5}
- {path: /var/lib/a, directory: true}
- {path: run, directory: true}
- {path: boot//x, contents: x, mode: \"0755\"}
volumes: [{name: w, debian: {packages: [aa]}}]
services: [{name: t, builtin: ntp}]
";

#[test]
fn finds_every_difference_at_its_place() {
    let expected = include_str!("found.txt");
    let found = found(&[FIRST, SECOND]).join("\n") + "\n";
    assert_eq!(found, expected, "\n{found}");
    let ids: BTreeSet<&str> = found
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let known: BTreeSet<&str> = DIFFERENCES.iter().map(|difference| difference.id).collect();
    assert_eq!(ids, known, "each difference has an example here");
}

#[test]
fn finds_nothing_where_nothing_differs() {
    let plain = "\
kernel: {image: 'k:1', cmdline: console=ttyS0, tar: none}
init: ['i:1', 'r.example/j:2']
services:
- {name: a, image: 'x:1', capabilities: [all], net: none, binds: ['v:/v', '/a:/b:ro'], pid: host}
volumes: [{name: v}]
files:
- {path: etc, directory: true, mode: \"0755\"}
- {path: etc/x, contents: 'a@b'}
- {path: usr/share/x, contents: x, mode: \"0644\"}
- {path: var, directory: true, mode: \"0755\"}
";
    assert_eq!(found(&[plain]), Vec::<String>::new());
}

#[test]
fn broken_and_hostile_texts_do_no_harm() {
    assert_eq!(found(&["init: ["]), Vec::<String>::new());
    assert_eq!(found(&["[]"]), Vec::<String>::new());
    let wrong = "kernel: []\ninit: {}\nservices: [1, {mounts: {}, binds: [[]], uidMappings: 5}]\nfiles: [{path: []}]\n";
    assert_eq!(found(&[wrong]), ["no-kernel-image a.yml:1:1 kernel"]);
    let many = format!("init: [{}]", "a,".repeat(50_000));
    assert_eq!(found(&[&many]).len(), PLACES_MAX);
}
