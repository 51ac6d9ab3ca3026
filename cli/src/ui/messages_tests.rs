//! Every message about a description, as a person sees it.
//!
//! `snapshots/…messages.snap` holds one example of each: the YAML, then what kiln says. A second
//! test reads the sources where such messages are made, and fails for each sentence of theirs that
//! the examples do not show.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use kiln_engine::build::{self, Description, Destination, Format, Migration, Network, Request};
use kiln_engine::event::Silent;
use kiln_engine::spec::{Section, Spec};
use kiln_engine::system::container::ImageConfig;
use kiln_engine::system::ids::Ids;
use kiln_engine::system::label;
use kiln_engine::system::volumes::Volumes;

use super::diagnostic;
use super::printer::Printer;
use crate::failure::Failure;

const PLAIN: Printer = Printer {
    color: false,
    verbose: false,
    quiet: false,
    terminal: false,
};

const SNAPSHOT: &str = "src/ui/snapshots/kiln__ui__messages_tests__messages.snap";

/// Where messages about descriptions are made, below `engine/src/`.
const SOURCES: &[&str] = &[
    "spec/mod.rs",
    "spec/append.rs",
    "spec/decode.rs",
    "spec/error.rs",
    "spec/grammar.rs",
    "spec/node.rs",
    "spec/read.rs",
    "spec/read_container.rs",
    "spec/read_oci.rs",
    "spec/yaml.rs",
    "system/files.rs",
    "system/ids.rs",
    "system/label.rs",
    "system/volumes.rs",
    "build/origins.rs",
    "build/pins.rs",
    "build/plan.rs",
];

/// Sentences that are shown elsewhere, or are no messages about a description.
const ELSEWHERE: &[&str] = &[
    // Only out of lists, which the callers join and trim.
    ", ",
    " ",
    // Containers that are jobs are told apart before.
    "the built-in job {job} has no files",
    "this is a bug in kiln",
    // No description at all.
    "no YAML file is given",
    "kiln build FILE.yml",
    // tests/docker.rs
    "volumes with format: oci do not come from the Docker engine",
];

/// Descriptions that are wrong or odd, each in its own way; several where one alone is enough to
/// stop the reading.
const EXAMPLES: &[&str] = &[
    // YAML itself.
    "",
    "# nothing but comments\n",
    "- a list\n",
    "services: []\nservices: []\n",
    "1: 2\n",
    "? [a]\n: b\n",
    "kernel: {}\n---\nkernel: {}\n",
    "init: *a\n",
    "init: &a [*a]\n",
    "init:\n\t- a\n",
    "kernel:\n  cmdline: @x\n",
    "kernel: {image: a\n",
    "init: !!binary x\nfiles: !set []\nkernel:\n  <<: [1]\n",
    // Keys.
    "service: []\n",
    "x-anchors: 1\n",
    "services:\n- {name: a, image: b, entrypoint: [x]}\n",
    // Types.
    "services:
- name: a
  image: b
  readonly: yes
  noNewPrivileges: off
  uid: 0100
  gid: 1.5
  hostname: 5
  net: true
  binds: /a:/b
  env:
  cwd:
  command: {a: b}
  oomScoreAdj: \"5\"
  sysctl: {kernel.x: 1}
  additionalGids: [-1, []]
  annotations: []
  resources: {memory: {disableOOMKiller: \"true\"}, pids: {limit: some}}
kernel: {modules: 5}
",
    // Images and names.
    "services: [{name: a, image: x, builtin: ntp}, {name: b, builtin: mnt}, {name: c, builtin: ntp, readonly: true}]
",
    "kernel: {image: x, debian: {packages: [linux-image-amd64]}}
init: ['', {}, {image: ''}, 'a b', 5]
services:
- {name: a b, image: x}
- {name: a/b, image: x}
- {name: '', image: x}
- {name: .., image: x}
- {name: web}
- {name: w, image: ''}
- {name: t, image: '@foo'}
- {name: s, image: 'https://x/y'}
- {image: s}
- {name: web, image: x}
- {name: web, image: y}
",
    "init:
- {debian: {packages: []}}
- {debian: {suite: a b, packages: [A], mirror: x}}
- {debian: {suite: bookworm}}
",
    "init: ['docker.io/UPPER']\n",
    "init: ['@pkg:../pkg/x']\n",
    "init: ['directory:/nowhere/kiln']\n",
    "init: [kiln]\n",
    // Volumes.
    "volumes:
- {name: V}
- {name: v}
- {name: v, format: x, platforms: [arm64]}
- {}
",
    "volumes: [{name: data, image: 'directory:/srv', format: oci}]\n",
    "volumes: [{name: data, readonly: true}]
services:
- name: a
  image: x
  binds: [data:/data, 'dat:/d', 'zzz:/z', 'data:/r:ro']
  mounts: [{type: bind, source: data, destination: /m}]
",
    // Files.
    "files:
- {path: a, contents: x, mode: 0644}
- {path: b, contents: x, mode: \"0o644\"}
- {path: ../c, contents: x}
- contents: y
- path: d
- {path: e, contents: a, source: b}
- {path: f, metadata: toml}
- {path: g, directory: true, contents: x}
- {path: h, symlink: x, source: y}
- {path: i, metadata: yaml, source: y}
- {path: j, metadata: yaml, contents: y}
- {path: /, directory: true}
- {path: \"a\\0b\", contents: x}
",
    "files:
- {path: a, contents: x}
- {path: a/b, contents: x}
- {path: c/d, contents: x}
- {path: c, symlink: x}
- {path: l, symlink: l}
- {path: l/m, contents: x}
",
    "files: [{path: a, source: /nowhere/kiln}]\n",
    "files: [{path: a, source: /}]\n",
    "services: [{name: web, image: x}]
files:
- {path: a, contents: x, uid: wb, gid: \"7\"}
- {path: b, contents: x, uid: someone}
",
    // Containers.
    "services:
- name: a
  image: b
  capabilities: [CAP_KILL, none]
  capabilities.add: [NET_ADMIN]
  ambient: [CAP_NET_ADMN, ZZZ]
  binds: [/a, ':/b', 'a:b:c:d']
  tmpfs: ['a:b:c', ':ro']
  rlimits: [nofile, 'nofiles,1,2', 'zz,1,2', 'nofile,-1,2', 'nofile,1,2,3']
  mounts: [{type: bind}, {destination: /x}, {type: tmpfs}]
",
    "services:
- name: a
  image: b
  devices: [{path: /dev/x}, {path: /dev/y, type: z, mode: \"666\"}, {path: all, type: u}]
  resources: {hugepageLimits: [{pageSize: 5}]}
",
    "services: [{name: a, image: b, uid: nobody}]\n",
    // What is accepted with a warning.
    "trust: {org: [linuxkit]}
services:
- name: Web
  image: x
  capabilities: []
  capabilities.add: [CAP_KILL]
  binds: []
  binds.add: ['/a:/b']
",
];

/// Image labels, and the entries that use them.
const LABELS: &[&str] = &[
    "{\"name\": \"x\", \"image\": \"y\", \"bind\": []}",
    "[]",
    "# nothing\n",
    "{\"binds\": [\"data:/data\"], \"uid\": \"nobody\", \"binds.add\": [], \"mounts\": [{}]}",
    "{\"capabilities.add\": [\"CAP_KILL\"], \"binds.add\": []}",
];

/// What is too much to be shown here: a title and how to make it.
fn generated() -> Vec<(&'static str, String)> {
    let mut laughs = "init: &a0 [x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        let _ = writeln!(laughs, "k{level}: &a{level} [{aliases}]");
    }
    let longest = "x".repeat(201);
    vec![
        ("a text of 17 MB", "x".repeat(17 << 20)),
        ("aliases of aliases of aliases", laughs),
        ("100 brackets", format!("init: {}", "[".repeat(100))),
        (
            "mappings in mappings",
            (0..70)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect(),
        ),
        ("a million items", "- \n".repeat(1_000_001)),
        (
            "a name of 201 letters",
            format!("services: [{{name: {longest}, image: x}}]\n"),
        ),
    ]
}

fn request(texts: &[&[u8]]) -> Request {
    let names = ["system.yml", "second.yml"];
    let text = |(name, bytes): (&str, &&[u8])| Description::Text {
        name: name.into(),
        bytes: bytes.to_vec(),
        is_local: false,
    };
    Request {
        descriptions: names.into_iter().zip(texts).map(text).collect(),
        formats: vec![Format::Tar],
        destination: Destination::Stdout,
        architecture: "amd64".into(),
        cache: PathBuf::from("/nowhere/kiln"),
        cache_from: Vec::new(),
        decompress_kernel: false,
        pull: false,
        sbom: None,
        guest: None,
        docker: None,
        network: Network::default(),
        cache_max: None,
        program: String::new(),
    }
}

fn rendered(found: Migration) -> String {
    let mut text = match found.errors.is_empty() {
        true => String::new(),
        false => diagnostic::render(&Failure::of_description(found.errors), PLAIN, Some(100)),
    };
    for warning in &found.warnings {
        let line = PLAIN.warning_line(&format!("{}: {warning}", warning.at()));
        let _ = writeln!(text, "{line}");
        if let Some(hint) = warning.hint() {
            let _ = writeln!(text, "hint: {hint}");
        }
    }
    assert!(!text.is_empty(), "there is nothing wrong with it");
    text
}

fn example(texts: &[&[u8]]) -> String {
    rendered(build::migrate(&request(texts)).unwrap())
}

/// What is said about a lock whose entry for a list of packages is not one that kiln wrote.
fn of_lock() -> String {
    let directory = tempfile::tempdir().unwrap();
    let yaml = directory.path().join("system.yml");
    let description =
        "init: [{debian: {suite: s, packages: [aa], mirror: 'http://127.0.0.1:1'}}]\n";
    std::fs::write(&yaml, description).unwrap();
    let lock =
        "version: 1\npackages:\n- request: http://127.0.0.1:1 s amd64 aa\n  resolved: [\"{\"]\n";
    std::fs::write(directory.path().join("system.lock"), lock).unwrap();
    let request = Request {
        descriptions: vec![Description::File(yaml)],
        cache: directory.path().join("cache"),
        ..request(&[])
    };
    let cancel = std::sync::atomic::AtomicBool::new(false);
    let error = build::run(&request, &Silent, &cancel, &mut std::io::sink()).unwrap_err();
    let failure = Failure::of_build(error, &request.cache, 0);
    let text = diagnostic::render(&failure, PLAIN, Some(100));
    text.replace(&*directory.path().to_string_lossy(), "DIRECTORY")
}

/// What is said about an image's label.
fn of_label(label: &str) -> String {
    let entry = "services: [{name: web, image: x}]\n";
    let spec = Spec::parse(entry.as_bytes(), "system.yml").unwrap();
    let image = ImageConfig {
        label: Some(label.to_owned()),
        user: "www-data".into(),
        ..ImageConfig::default()
    };
    let container = &spec.containers(Section::Services)[0];
    let (ids, volumes) = (Ids::assign(&spec), Volumes::of(&spec));
    let mut found = Migration::default();
    match label::resolve(container, &image, &ids, &volumes) {
        Ok((_, warnings)) => found.warnings = warnings,
        Err(errors) => found.errors = errors.errors().to_vec(),
    }
    rendered(found)
}

#[test]
fn messages() {
    let mut text = String::new();
    let mut add = |input: &str, output: &str| {
        let input = input.trim_end();
        let _ = writeln!(text, "==========\n{input}\n----------\n{output}");
    };
    for yaml in EXAMPLES {
        add(yaml, &example(&[yaml.as_bytes()]));
    }
    add("(not UTF-8)", &example(&[b"init: [a]\nkernel: \xff\n"]));
    let one = "services: [{name: a, image: x}]\nvolumes: [{name: v}]\n";
    let both = format!("{one}--- and second.yml:\n{one}");
    add(&both, &example(&[one.as_bytes(), one.as_bytes()]));
    for (title, yaml) in generated() {
        // Only the parser: looking for differences would read the long ones once more.
        let errors = Spec::parse(yaml.as_bytes(), "system.yml").unwrap_err();
        let found = Migration {
            errors: errors.errors().to_vec(),
            ..Migration::default()
        };
        add(&format!("({title})"), &rendered(found));
    }
    add("(a damaged lock file)", &of_lock());
    for label in LABELS {
        add(&format!("label: {label}"), &of_label(label));
    }
    assert_snapshot!(text);
}

#[test]
fn every_sentence_of_the_sources_is_shown() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let engine = here.join("../engine/src");
    let snapshot = std::fs::read_to_string(here.join(SNAPSHOT)).unwrap();
    let shown: Vec<&str> = snapshot.lines().collect();
    let mut missing = Vec::new();
    let mut sentences = 0;
    for source in SOURCES {
        let code = std::fs::read_to_string(engine.join(source)).unwrap();
        for literal in literals(&code) {
            if !literal.contains(' ') || ELSEWHERE.contains(&literal.as_str()) {
                continue;
            }
            sentences += 1;
            if !shown.iter().any(|line| shows(line, &literal)) {
                missing.push(format!("{source}: {literal}"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "give each an example in {}:\n{}",
        file!(),
        missing.join("\n")
    );
    assert!(sentences > 120, "only {sentences} sentences were found");
}

/// Tells whether a line has the fixed parts of a format string, in order.
fn shows(line: &str, literal: &str) -> bool {
    let mut rest = line;
    let mut parts = literal;
    loop {
        let (fixed, after) = match parts.split_once('{') {
            Some((fixed, after)) => (fixed, after.split_once('}').map(|(_, after)| after)),
            None => (parts, None),
        };
        match rest.find(fixed) {
            Some(at) => rest = &rest[at + fixed.len()..],
            None => return false,
        }
        match after {
            Some(after) => parts = after,
            None => return true,
        }
    }
}

/// Returns the string literals of Rust code, without its tests and comments.
fn literals(code: &str) -> Vec<String> {
    let code = match code.find("#[cfg(test)]\nmod tests {") {
        Some(end) => &code[..end],
        None => code,
    };
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    let mut characters = code.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // A character literal, or a lifetime, which has no quote in it.
            '\'' => {
                let next = characters.next();
                if next == Some('\\') {
                    characters.next();
                }
                characters.next_if_eq(&'\'');
            }
            '"' => {
                let mut literal = String::new();
                loop {
                    match characters.next() {
                        None | Some('"') => break,
                        Some('\\') => match characters.next() {
                            Some('\n') => {
                                while characters.next_if(|c| c.is_whitespace()).is_some() {}
                            }
                            Some('n') => literal.push('\n'),
                            Some(other) => literal.push(other),
                            None => break,
                        },
                        Some(other) => literal.push(other),
                    }
                }
                found.push(literal);
            }
            _ => {}
        }
    }
    found
}

#[test]
fn literals_are_found() {
    let code = "// \"a b\"\nlet c = '\"'; f(\"x \\\"y\\\" \\\n   z\", '\\'', &'a \"w\");\n#[cfg(test)]\nmod tests {\n\"t\"}";
    assert_eq!(literals(code), ["x \"y\" z", "w"]);
    assert!(shows("error: a \"q\" is not b", "a \"{}\" is {not}b"));
    assert!(!shows("error: a is b", "b {} a"));
}
