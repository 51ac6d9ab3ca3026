//! `kiln migrate` from outside: what it prints, and the code that scripts look at.

use super::support::Space;

const PLAIN: &str = "init: ['127.0.0.1:1/a:1']\nservices: [{name: a, image: '127.0.0.1:1/b:1'}]\n";

const DIFFERS: &str = "\
trust: {org: [linuxkit]}
services:
  - name: a
    image: 127.0.0.1:1/b
    ipc: none
    resources: {cpu: {realtimePeriod: 5}}
    capabilities: [CAP_KILL]
    capabilities.add: [CAP_CHOWN]
files:
  - {path: etc/x, contents: x}
";

#[test]
fn says_what_differs_and_that_it_builds() {
    let space = Space::new();
    space.write("plain.yml", PLAIN);
    let said = space.kiln(&["migrate", "plain.yml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        "plain.yml: builds as it is (no difference from LinuxKit)\n"
    );

    space.write("differs.yml", DIFFERS);
    let said = space.kiln(&["migrate", "differs.yml"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let text = String::from_utf8(said.stdout).unwrap();
    let expected = "\
differs: keys that LinuxKit accepts and drops
  LinuxKit leaves them out of config.json
  kiln honours them: a limit or mapping that never was in force now is
  --> differs.yml:6:23  services[0].resources.cpu.realtimePeriod

differs: none as ipc or uts
  LinuxKit takes it as the path of a namespace
  kiln makes a new namespace, as for net
  --> differs.yml:5:10  services[0].ipc: none

differs: directories above files
  LinuxKit gives them the mode (with x) and the owner of the first file below
  kiln leaves directories of images alone; makes missing ones 0755, of root
  --> differs.yml:10:12  files[0]: /etc: 0700 in LinuxKit

note: images without a tag or digest
  they mean :latest, whatever that is at the first build; kiln lock pins it
  --> differs.yml:4:12  services[0].image: 127.0.0.1:1/b

warning: trust has no effect: images are verified by digest, not by signature
  --> differs.yml:1:8

warning: a: capabilities.add is ignored because capabilities is given and replaces the whole list
  --> differs.yml:8:23  move its items into the plain list

differs.yml: builds as it is (3 differences from LinuxKit, 3 notes)
";
    assert_eq!(text, expected, "\n{text}");
    // Nothing was asked, and nothing was made.
    assert_eq!(space.names("."), ["differs.yml", "plain.yml"]);
}

#[test]
fn says_what_must_be_changed() {
    let space = Space::new();
    space.write(
        "bad.yml",
        "files: [{path: etc/x, contents: x, mode: 0644}]\nservices: [{name: a/b, image: ''}]\n",
    );
    let said = space.kiln(&["migrate", "bad.yml"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(1), ""));
    let text = String::from_utf8(said.stdout).unwrap();
    for part in [
        "hint: quote it: \"0644\"",
        "bad.yml:2:19",
        "image reference is empty",
        "--> bad.yml:1:16  files[0]: /etc: 0700 in LinuxKit",
        "\nbad.yml: must be changed (3 mistakes, 1 difference from LinuxKit)\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // What only several files together have, and what the planner alone knows.
    space.write(
        "one.yml",
        "volumes: [{name: v}]\nservices: [{name: a, image: x, uid: b}]\n",
    );
    space.write(
        "two.yml",
        "services: [{name: c, image: y, binds: ['v:/v']}]\ninit: ['a:b:c:d']\n",
    );
    let said = space.kiln(&["migrate", "one.yml", "two.yml"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let text = String::from_utf8(said.stdout).unwrap();
    for part in [
        "no container is named \"b\"",
        "--> two.yml:2:8",
        "differs: volumes of a file before the last",
        "one.yml + two.yml: must be changed (2 mistakes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = space.kiln(&["migrate", "nowhere.yml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("nowhere.yml"), "{}", said.stderr);
}

#[test]
fn programs_get_one_object() {
    let space = Space::new();
    space.write("a.yml", DIFFERS);
    let said = space.kiln(&["migrate", "--json", "a.yml"]);
    let value: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(value["builds"], true);
    assert_eq!(value["errors"], serde_json::json!([]));
    let first = &value["differences"][0];
    assert_eq!(
        (&first["id"], &first["class"]),
        (&"dropped-key".into(), &"differs".into())
    );
    assert_eq!(
        first["places"][0],
        serde_json::json!({"file": "a.yml", "line": 6, "column": 23, "length": 14, "what": "services[0].resources.cpu.realtimePeriod"})
    );
    assert_eq!(value["warnings"][1]["place"]["line"], 8);
    space.write("b.yml", "init: ['']\n");
    let said = space.kiln(&["migrate", "--json", "b.yml"]);
    assert_eq!(said.code, Some(1));
    let value: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(value["builds"], false);
    assert_eq!(value["errors"][0]["place"]["column"], 8);
}
