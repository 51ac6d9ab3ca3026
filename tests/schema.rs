//! `kiln schema` against Debian's python3-jsonschema: it is a schema, and it says of descriptions
//! what kiln says.

use std::fs;
use std::path::Path;

use super::support::{Space, tool};

/// Checks the schema itself, then prints for each description whether it takes it. PyYAML types by
/// YAML 1.1, so it is told 1.2's booleans; numbers with a leading zero are none in either.
const CHECK: &str = r#"
import json, re, sys
import jsonschema, yaml
class Loader(yaml.SafeLoader): pass
for first, resolvers in list(Loader.yaml_implicit_resolvers.items()):
    Loader.yaml_implicit_resolvers[first] = [(tag, pattern) for tag, pattern in resolvers
        if tag not in ('tag:yaml.org,2002:bool', 'tag:yaml.org,2002:timestamp')]
Loader.add_implicit_resolver('tag:yaml.org,2002:bool', re.compile('^(?:true|True|TRUE|false|False|FALSE)$'), list('tTfF'))
schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for name in sys.argv[2:]:
    document = yaml.load(open(name), Loader)
    print('good' if validator.is_valid(document) else 'bad', name)
"#;

/// Descriptions that kiln takes.
const GOOD: &[&str] = &[
    "{}",
    "null",
    "kernel: {image: k, cmdline: a, binary: b, tar: none, ucode: u}",
    "kernel: {debian: {suite: bookworm, packages: [linux-image-amd64]}, modules: [virtio*]}",
    "init: [kiln, a/b:c, {image: x}, {debian: {packages: [busybox=1:1.35]}}, '@pkg:./x']",
    "trust: {image: [a], org: [b]}",
    "volumes: [{name: v}, {name: w, image: x, readonly: true, format: oci, platforms: [linux/arm64/v8]}]",
    "files: [{path: a, contents: ''}, {path: b, directory: true, mode: '0755', uid: 5, gid: web}, {path: c, symlink: d}, {path: e, source: f, optional: true}, {path: g, metadata: json}]",
    "services: [{name: a, image: b, capabilities: [CAP_KILL, all], net: new, pid: /x, uid: web, additionalGids: [1, x]}]",
    "services: [{name: a, image: b, binds: ['/a:/b:ro'], binds.add: [v:/c], tmpfs: ['/t:size=1'], rlimits: ['nofile,1,Unlimited']}]",
    "services: [{name: a, image: b, devices: [{path: all, type: b}, {path: /d, type: c, major: 1, minor: 2, mode: '666'}]}]",
    "services: [{name: a, image: b, sysctl: {a.b: '1'}, annotations: {}, resources: {pids: {limit: -1}, blockio: {weight: 5}}}]",
    "services: [{name: a, image: b, runtime: {mounts: [{}], interfaces: [{name: x, createInRoot: true}], bindNS: {net: /n}}}]",
    "services: [{name: a, image: b, mounts: [{type: tmpfs, destination: /t, uidMappings: [{hostID: 1}]}]}]",
];

/// Descriptions that kiln refuses.
const BAD: &[&str] = &[
    "[]",
    "service: []",
    "kernel: null",
    "kernel: {image: a, debian: {packages: [aa]}}",
    "kernel: {modules: some}",
    "init: ['']",
    "init: [{image: a, tag: b}]",
    "init: ['https://x']",
    "init: [{debian: {packages: []}}]",
    "volumes: [{name: V}]",
    "volumes: [{name: v, format: x}]",
    "volumes: [{name: v, platforms: [arm64]}]",
    "files: [{path: a}]",
    "files: [{path: ../a, contents: x}]",
    "files: [{path: /, directory: true}]",
    "files: [{path: a, contents: x, mode: 0644}]",
    "files: [{path: a, contents: x, mode: '0o644'}]",
    "services: [{name: a}]",
    "services: [{image: a}]",
    "services: [{name: a, image: ''}]",
    "services: [{name: a/b, image: c}]",
    "services: [{name: '..', image: c}]",
    "services: [{name: a, image: b, readonly: yes}]",
    "services: [{name: a, image: b, env: {A: b}}]",
    "services: [{name: a, image: b, capabilities: [NET_ADMIN]}]",
    "services: [{name: a, image: b, binds: [/a]}]",
    "services: [{name: a, image: b, rlimits: [nofile]}]",
    "services: [{name: a, image: b, sysctl: {a: 1}}]",
    "services: [{name: a, image: b, devices: [{path: /x, type: c}]}]",
    "services: [{name: a, image: b, devices: [{path: all, type: u}]}]",
    "services: [{name: a, image: b, resources: {memory: {limt: 5}}}]",
    "services: [{name: a, image: b, oomScoreAdj: 99999999999}]",
    "services: [{name: a, image: b, runtime: {bindns: {}}}]",
];

#[test]
fn the_schema_says_what_kiln_says() {
    let space = Space::new();
    space.write("x/build.yml", "image: x\n");
    let schema = space.kiln(&["schema"]);
    assert_eq!(schema.code, Some(0), "{}", schema.stderr);
    fs::write(space.path("schema.json"), &schema.stdout).unwrap();
    let mut expected = String::new();
    let mut arguments = vec!["-c".to_owned(), CHECK.to_owned()];
    arguments.push(space.path("schema.json").display().to_string());
    let lists = [("good", GOOD), ("bad", BAD)];
    for (verdict, list) in lists {
        for (index, yaml) in list.iter().enumerate() {
            let path = space.write(&format!("{verdict}-{index}.yml"), yaml);
            let path = path.to_str().unwrap().to_owned();
            let said = space.kiln(&["build", "--dry-run", &path]);
            let code = if verdict == "good" { 0 } else { 3 };
            assert_eq!(said.code, Some(code), "{yaml}: {}", said.stderr);
            expected.push_str(&format!("{verdict} {path}\n"));
            arguments.push(path);
        }
    }
    for example in fs::read_dir(root().join("examples")).unwrap() {
        let path = example.unwrap().path().display().to_string();
        if path.ends_with(".yml") {
            expected.push_str(&format!("good {path}\n"));
            arguments.push(path);
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(tool("/usr/bin/python3", &arguments), expected);
}

#[test]
fn labels_have_a_schema_of_their_own() {
    let space = Space::new();
    let schema = space.kiln(&["schema", "--label"]);
    assert_eq!(schema.code, Some(0), "{}", schema.stderr);
    fs::write(space.path("schema.json"), &schema.stdout).unwrap();
    let check = |yaml: &str| {
        let label = space.write("label", yaml);
        let schema = space.path("schema.json");
        let arguments = [
            "-c",
            CHECK,
            schema.to_str().unwrap(),
            label.to_str().unwrap(),
        ];
        tool("/usr/bin/python3", &arguments).starts_with("good")
    };
    assert!(check(
        "{\"capabilities\": [\"all\"], \"binds\": [\"/a:/b\"]}"
    ));
    assert!(!check("{\"name\": \"x\"}"));
    assert!(!check("{\"image\": \"x\"}"));
}

#[test]
fn the_published_schema_is_this_one() {
    let said = Space::new().kiln(&["schema"]);
    let published = root().join("docs/kiln.schema.json");
    let same = fs::read(&published).is_ok_and(|published| published == said.stdout);
    assert!(same, "run: kiln schema > {}", published.display());
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
