//! One YAML for every class of error, with position, length, words and hint; and what must parse.

use proptest::prelude::*;

use super::*;

/// `LINE:COL+LEN MESSAGE | HINT` for every error of `yaml`.
fn errors(yaml: &str) -> Vec<String> {
    let errors = Spec::parse(yaml.as_bytes(), "a.yml").unwrap_err();
    let line = |error: &SpecError| {
        let hint = error
            .hint
            .as_deref()
            .map(|hint| format!(" | {hint}"))
            .unwrap_or_default();
        format!(
            "{}:{}+{} {}{hint}",
            error.line, error.column, error.len, error.message
        )
    };
    errors.errors().iter().map(line).collect()
}

fn parse(yaml: &str) -> Spec {
    Spec::parse(yaml.as_bytes(), "a.yml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn syntax_errors() {
    const EMPTY: &str = "1:1+1 the file holds no description | it has at least one of kernel, \
                         init, onboot, onshutdown, services, files and volumes";
    let cases = [
        ("", EMPTY),
        ("# only\n", EMPTY),
        ("---\n", EMPTY),
        ("- a\n", "1:1+3 expected a mapping, found a list"),
        (
            "service:\n",
            "1:1+7 unknown key \"service\" | did you mean \"services\"?",
        ),
        (
            "x-anchors: 1\n",
            "1:1+9 unknown key \"x-anchors\" | known keys: kernel, init, onboot, onshutdown, services, files, volumes, trust",
        ),
        (
            "services: []\nservices: []\n",
            "2:1+8 key \"services\" is already given at line 1",
        ),
        (
            "1: 2\n",
            "1:1+1 a key must be a string, found the number 1 | quote it",
        ),
        ("? [a]\n: b\n", "1:3+3 a key must be a string, found a list"),
        (
            "kernel: {}\n---\nkernel: {}\n",
            "2:1+3 a second YAML document | give each document its own file; several files are merged in order",
        ),
        (
            "x: *a\n",
            "1:4+1 alias without a preceding anchor | quote the value if it is meant as text",
        ),
        (
            "init: &a [*a]\n",
            "1:11+2 alias inside the value it refers to",
        ),
        (
            "init:\n\t- a\n",
            "2:1+1 tab in indentation | YAML is indented with spaces",
        ),
        (
            "kernel:\n  cmdline: @x\n",
            "2:12+1 unexpected character '@' | quote the value if it is meant as text",
        ),
        (
            "kernel: {image: a\n",
            "1:9+1 not valid YAML: unclosed bracket '{'",
        ),
        (
            "kernel:\n  image: \"a\n",
            "2:10+1 not valid YAML: unclosed quote",
        ),
        (
            "init: !!binary x\n",
            "1:16+1 tag !!binary does not fit \"x\" | put the bytes into a file, and name it as a source",
        ),
        ("init: !foo [a]\n", "1:12+1 tag !foo is not supported"),
        (
            "kernel: {cmdline: !!int abc}\n",
            "1:25+3 tag !!int does not fit \"abc\"",
        ),
        (
            "kernel:\n  <<: [1]\n",
            "2:8+1 << merges mappings, found the number 1",
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(errors(yaml), [expected], "{yaml:?}");
    }
}

#[test]
fn an_error_carries_what_an_excerpt_needs() {
    let errors =
        Spec::parse("init: []\nkernel: {imge: é}\r\n".as_bytes(), "dir/a.yml").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "dir/a.yml:2:10: kernel: unknown key \"imge\""
    );
    let error = &errors.errors()[0];
    assert_eq!(
        (error.line_text.as_str(), error.len),
        ("kernel: {imge: é}", 4)
    );
    let errors = Spec::parse(b"init: [a]\nkernel: \xff\n", "a.yml").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "a.yml:2:9: not UTF-8: byte 0xff at offset 18"
    );
}

#[test]
fn wrong_types() {
    let yaml = "\
services:
- name: a
  image: b
  readonly: yes
  uid: 0100
  gid: 1.5
  hostname: 5
  net: true
  binds: /a:/b
  env:
  command: {a: b}
  oomScoreAdj: \"5\"
  sysctl: {kernel.x: 1}
  additionalGids: [-1, []]
  noNewPrivileges: \"true\"
";
    assert_eq!(
        errors(yaml),
        [
            "4:13+3 services[0].readonly: expected a boolean, found the string \"yes\" | YAML 1.2 spells it true",
            "5:8+4 services[0].uid: the number 0100 may be octal or decimal | write 0o… for octal, or drop the leading zero",
            "6:8+3 services[0].gid: expected a number or a name, found the number 1.5",
            "7:13+1 services[0].hostname: expected a string, found the number 5 | quote it: \"5\"",
            "8:8+4 services[0].net: expected a string, found the boolean true | quote it: \"true\"",
            "9:10+5 services[0].binds: expected a list, found the string \"/a:/b\" | start each item with \"- \"",
            "10:6+1 services[0].env: expected a list, found nothing | write [] for an empty list, or remove the key",
            "11:12+6 services[0].command: expected a list, found a mapping | start each item with \"- \"",
            "12:16+3 services[0].oomScoreAdj: expected a number, found the string \"5\" | remove the quotes",
            "13:22+1 services[0].sysctl.kernel.x: expected a string, found the number 1 | quote it: \"1\"",
            "14:20+2 services[0].additionalGids[0]: the number -1 is out of range",
            "14:24+2 services[0].additionalGids[1]: expected a number or a name, found a list",
            "15:20+6 services[0].noNewPrivileges: expected a boolean, found the string \"true\" | remove the quotes",
        ]
    );
}

#[test]
fn files_that_cannot_be() {
    let yaml = "\
files:
- {path: a, contents: x, mode: 0644}
- {path: b, contents: x, mode: \"0o644\"}
- {path: ../c, contents: x}
- contents: y
- path: d
- {path: e, contents: a, source: b}
- {path: f, metadata: toml}
- {path: g, directory: true, contents: x}
- {path: h, symlink: x, source: y}
- {path: /, directory: true}
- {path: i, source: 5}
";
    assert_eq!(
        errors(yaml),
        [
            "2:32+4 files[0].mode: expected a quoted octal mode, found the number 0644 | quote it: \"0644\"",
            "3:32+7 files[1].mode: mode \"0o644\" is not octal | write octal digits from 0 to 7777, such as \"0644\"",
            "4:10+4 files[2].path: path \"../c\" contains \"..\"",
            "5:3+8 files[3]: path is required",
            "6:3+4 files[4]: nothing to put there: give contents, source, metadata, symlink or directory: true",
            "7:4+4 files[5]: contents stands beside source; give one of them",
            "8:23+4 files[6].metadata: \"toml\" is not one of yaml, json",
            "9:4+4 files[7]: contents stands beside directory; give one of them",
            "10:4+4 files[8]: source stands beside symlink; give one of them",
            "11:10+1 files[9].path: path \"/\" names the root directory",
            "12:21+1 files[10].source: expected a string, found the number 5 | quote it: \"5\"",
        ]
    );
}

#[test]
fn images_and_names() {
    let yaml = "\
kernel: {image: x, debian: {suite: bookworm, packages: [linux-image-amd64]}}
init: [5, '', {}, {image: ''}, 'a b']
services:
- {name: a b, image: x}
- name: web
- {name: w, image: ''}
- {name: v, debian: {suite: s, packages: [], sute: x}}
- {name: u, debian: {packages: [A]}}
- {name: t, image: '@foo'}
- {name: s, image: 'https://x/y'}
- {image: s}
- {name: web, image: x}
- {name: web, image: y}
";
    assert_eq!(
        errors(yaml),
        [
            "1:10+5 kernel: image stands beside debian; give one of them",
            "2:8+1 init[0]: expected a string, found the number 5 | quote it: \"5\"",
            "2:11+2 init[1]: image reference is empty",
            "2:15+2 init[2]: image or debian is required",
            "2:27+2 init[3].image: image reference is empty",
            "2:32+5 init[4]: image reference \"a b\" contains ' '",
            "4:10+3 services[0].name: container name \"a b\" contains ' ' | the name becomes a directory: use letters, digits, '-', '_' and '.'",
            "5:3+4 services[1]: image, debian or builtin is required",
            "6:20+2 services[2].image: image reference is empty",
            "7:42+2 services[3].debian.packages: no package is named",
            "7:46+4 services[3].debian: unknown key \"sute\" | did you mean \"suite\"?",
            "8:33+1 services[4].debian.packages[0]: invalid package name \"A\" | write NAME or NAME=VERSION, one package per item",
            "9:20+6 services[5].image: \"@foo\" is neither an image reference nor a template | the only template is @pkg:DIRECTORY",
            "10:20+13 services[6].image: image reference \"https://x/y\" is a URL | write registry/path:tag without a scheme",
            "11:4+5 services[7]: name is required",
            "13:10+3 duplicate service name \"web\", first given at a.yml:12:10",
        ]
    );
}

#[test]
fn volumes() {
    let yaml = "\
volumes:
- {name: V}
- {name: v}
- {name: v, format: x, platforms: [arm64]}
- {}
";
    assert_eq!(
        errors(yaml),
        [
            "2:10+1 volumes[0].name: invalid volume name \"V\" | use lower case letters, digits, '-' and '_'",
            "4:10+1 duplicate volume name \"v\", first given at a.yml:3:10",
            "4:21+1 volumes[2].format: \"x\" is not one of filesystem, oci",
            "4:36+5 volumes[2].platforms[0]: invalid platform \"arm64\" | write os/arch or os/arch/variant, such as linux/arm64",
            "5:3+2 volumes[3]: name is required",
        ]
    );
}

#[test]
fn runtime_parts() {
    let yaml = "\
services:
- name: a
  image: b
  environment: []
  capabilities: [CAP_KILL, none]
  ambient: [NET_ADMIN]
  resources: {memory: {limt: 5}, cpu: {shares: -1}, hugepageLimits: [{pageSize: 5}]}
  mounts: [{type: bind}, {destination: /x}, {type: tmpfs}]
  devices: [{path: /dev/x}, {path: /dev/y, type: z, mode: \"666\"}]
  rlimits: [nofile]
  oomScoreAdj: 99999999999
  binds: [/a]
  binds.add: ['a:b:c:d']
  tmpfs: ['a:b:c']
  runtime: {bindns: {}, interfaces: [{nam: x}]}
";
    assert_eq!(
        errors(yaml),
        [
            "4:3+11 services[0]: unknown key \"environment\" | did you mean \"env\"?",
            "5:28+4 services[0].capabilities: none stands beside other capabilities",
            "6:13+9 services[0].ambient[0]: unknown capability \"NET_ADMIN\" | did you mean \"CAP_NET_ADMIN\"?",
            "7:24+4 services[0].resources.memory: unknown key \"limt\" | did you mean \"limit\"?",
            "7:48+2 services[0].resources.cpu.shares: the number -1 is out of range",
            "7:81+1 services[0].resources.hugepageLimits[0].pageSize: 5 is not a page size | write a size such as \"2MB\"",
            "8:13+4 services[0].mounts[0]: bind mount has no source",
            "8:27+11 services[0].mounts[1]: mount for destination \"/x\" has no type",
            "8:46+4 services[0].mounts[2]: mount of type \"tmpfs\" has no destination",
            "9:14+4 services[0].devices[0]: mode is required",
            "9:14+4 services[0].devices[0]: type is required",
            "9:50+1 services[0].devices[1]: unknown device type \"z\" | known types: b c u p",
            "10:13+6 services[0].rlimits[0]: rlimit \"nofile\" does not have three parts | a limit is NAME,SOFT,HARD, such as nofile,1024,4096",
            "11:16+11 services[0].oomScoreAdj: the number 99999999999 is out of range",
            "12:11+2 services[0].binds[0]: bind \"/a\" has no ':' | a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION",
            "13:15+9 services[0].binds.add[0]: bind \"a:b:c:d\" has too many ':' | a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION",
            "14:11+7 services[0].tmpfs[0]: tmpfs \"a:b:c\" has too many ':' | a tmpfs is DESTINATION or DESTINATION:OPTION,OPTION",
            "15:13+6 services[0].runtime: unknown key \"bindns\" | did you mean \"bindNS\"?",
            "15:39+3 services[0].runtime.interfaces[0]: unknown key \"nam\" | did you mean \"name\"?",
        ]
    );
}

#[test]
fn reports_at_most_twenty_in_order() {
    let yaml: String = (0..5000).map(|index| format!("k{index}: 1\n")).collect();
    let found = errors(&yaml);
    assert_eq!(found.len(), ERRORS_MAX);
    assert!(
        found[19].starts_with("20:1+3 unknown key \"k19\""),
        "{}",
        found[19]
    );
}

#[test]
fn reads_every_kind_of_image() {
    let spec = parse(
        "kernel: {debian: {suite: bookworm, packages: [linux-image-amd64], mirror: 'http://m/debian', keyring: k.gpg}, modules: [virtio*, ext4], tar: none}
init: [kiln, {image: a/b}, {debian: {suite: sid, packages: [busybox=1:1.36]}}, 'linuxkit/init:v1']
volumes: [{name: blank, image: ''}, {name: data, image: x, readonly: true, format: oci, platforms: [linux/arm64]}]
",
    );
    let kernel = spec.kernel.unwrap();
    assert_eq!(
        kernel.modules.as_deref(),
        Some(&Modules::Matching(vec![
            "virtio*".to_owned(),
            "ext4".to_owned()
        ]))
    );
    assert_eq!(
        (kernel.tar_name(), kernel.binary_name(), kernel.ucode_name()),
        (None, "kernel", None)
    );
    let ImageSource::Debian(debian) = &kernel.image.unwrap().value else {
        panic!()
    };
    assert_eq!(
        (
            debian.suite.as_ref().unwrap().as_str(),
            debian.packages[0].as_str()
        ),
        ("bookworm", "linux-image-amd64")
    );
    assert_eq!(
        debian.mirror.as_ref().map(|mirror| mirror.as_str()),
        Some("http://m/debian")
    );

    let image = |text: &str| InitEntry::Image(ImageSource::Image(text.to_owned()));
    let init: Vec<&InitEntry> = spec.init.iter().map(|entry| &entry.value).collect();
    assert_eq!(
        [init[0], init[1], init[3]],
        [&InitEntry::Kiln, &image("a/b"), &image("linuxkit/init:v1")]
    );
    assert!(
        matches!(init[2], InitEntry::Image(ImageSource::Debian(debian)) if debian.suite.as_ref().unwrap().as_str() == "sid")
    );
    assert_eq!(spec.init[1].at.to_string(), "a.yml:2:22");

    assert!(spec.volumes[0].image.is_none() && !spec.volumes[0].readonly);
    assert_eq!(spec.volumes[1].format.as_deref(), Some(&VolumeFormat::Oci));
    assert_eq!(
        parse("kernel: {modules: all}")
            .kernel
            .unwrap()
            .modules
            .as_deref(),
        Some(&Modules::All)
    );
}

#[test]
fn honours_camel_case_where_linuxkit_drops_it() {
    let spec = parse(
        "services:
- name: Web
  image: x
  uidMappings: [{containerID: 1, hostID: 2, size: 3}]
  mounts:
  - {type: tmpfs, destination: /t, uidmappings: [{hostID: 7}], gidMappings: [{hostID: 8}]}
  resources:
    memory: {kernelTCP: 1, disableOOMKiller: true}
    cpu: {realtimeRuntime: 2, realtimePeriod: 3}
    blockio: {leafWeight: 4, throttleReadIOPSDevice: [{major: 8, minor: 0, rate: 9}]}
    hugepageLimits: [{pageSize: 2097152, limit: 5}, {pageSize: 1GB, limit: 6}]
    network: {classID: 7}
",
    );
    let config = &spec.services[0].config;
    let json = serde_json::to_string(&config.resources.as_ref().unwrap().value).unwrap();
    assert_eq!(
        json,
        "{\"memory\":{\"kernelTCP\":1,\"disableOOMKiller\":true},\"cpu\":{\"realtimeRuntime\":2,\"realtimePeriod\":3},\
        \"blockIO\":{\"leafWeight\":4,\"throttleReadIOPSDevice\":[{\"major\":8,\"minor\":0,\"rate\":9}]},\
        \"hugepageLimits\":[{\"pageSize\":\"2MB\",\"limit\":5},{\"pageSize\":\"1GB\",\"limit\":6}],\"network\":{\"classID\":7}}"
    );
    assert_eq!(
        config.uid_mappings.as_ref().unwrap()[0],
        IdMapping {
            container_id: 1,
            host_id: 2,
            size: 3
        }
    );
    let mount = &config.mounts.as_ref().unwrap()[0];
    assert_eq!(
        (mount.uid_mappings[0].host_id, mount.gid_mappings[0].host_id),
        (7, 8)
    );
}

#[test]
fn reads_what_windows_editors_write() {
    let spec = parse(
        "\u{feff}kernel:\r\n  image: k\r\nfiles:\r\n- path: a\r\n  contents: |\r\n    x\r\n    y\r\n",
    );
    assert!(
        matches!(&spec.files[0].content, FileContent::Contents(text) if text.as_str() == "x\ny\n")
    );
    assert_eq!(spec.files[0].path.at.to_string(), "a.yml:4:9");
    assert_eq!(
        errors("\u{feff}kernl: {}\r\n"),
        ["1:1+5 unknown key \"kernl\" | did you mean \"kernel\"?"]
    );
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let spec = parse(
        "services:
- &base
  name: one
  image: x
  env: &env [A=1]
  command: [a]
- <<: *base
  name: two
- <<: [{name: three, env: []}, *base]
  command: []
onboot:
- {name: c, image: y, env: *env}
",
    );
    let of = |container: &Container| {
        let list = |field: &Field<Vec<String>>| field.as_ref().map(|list| list.value.clone());
        (
            container.name.value.clone(),
            list(&container.config.env),
            list(&container.config.command),
        )
    };
    let some = |item: &str| Some(vec![item.to_owned()]);
    assert_eq!(
        of(&spec.services[1]),
        ("two".to_owned(), some("A=1"), some("a"))
    );
    assert_eq!(
        of(&spec.services[2]),
        ("three".to_owned(), Some(vec![]), Some(vec![]))
    );
    assert_eq!(of(&spec.onboot[0]), ("c".to_owned(), some("A=1"), None));
}

#[test]
fn directories_win_over_links_and_links_over_contents() {
    let spec = parse(
        "files: [{path: a, directory: true, symlink: x}, {path: b, symlink: x, contents: y}, {path: c, contents: ''}]",
    );
    assert_eq!(spec.files[0].content, FileContent::Directory);
    assert!(
        matches!(&spec.files[1].content, FileContent::Symlink(target) if target.as_str() == "x")
    );
    assert!(matches!(&spec.files[2].content, FileContent::Contents(text) if text.is_empty()));
}

#[test]
fn warns() {
    let spec = parse("trust: {org: [linuxkit]}\nservices: [{name: Web, image: x}]\n");
    let warnings: Vec<String> = spec
        .warnings
        .iter()
        .map(|w| format!("{} {w}", w.at()))
        .collect();
    assert_eq!(
        warnings,
        [
            "a.yml:2:19 container name \"Web\" has upper case letters; some runtimes refuse that",
            "a.yml:1:8 trust has no effect: images are verified by digest, not by signature",
        ]
    );
}

#[test]
fn appends() {
    let mut spec = parse(
        "kernel: {image: k1, cmdline: a, tar: t, ucode: u}\ninit: [i1]\nservices: [{name: a, image: x}]\nvolumes: [{name: v}]\n",
    );
    let second = "kernel: {cmdline: '', binary: b, tar: ''}\ninit: [i2]\nservices: [{name: b, image: y}]\nvolumes: [{name: w}]\n";
    spec.append(Spec::parse(second.as_bytes(), "b.yml").unwrap())
        .unwrap();
    let kernel = spec.kernel.as_ref().unwrap();
    assert_eq!((kernel.cmdline_text(), kernel.binary_name()), ("a", "b"));
    assert_eq!((kernel.tar_name(), kernel.ucode_name()), (None, Some("u")));
    assert_eq!(
        (spec.init.len(), spec.services.len(), spec.volumes.len()),
        (2, 2, 2)
    );

    let third = "services: [{name: b, image: y}]\nvolumes: [{name: v}]\n";
    let error = spec
        .append(Spec::parse(third.as_bytes(), "c.yml").unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.yml:1:19: duplicate service name \"b\", first given at b.yml:3:19\n\
        c.yml:2:18: duplicate volume name \"v\", first given at a.yml:4:18"
    );
    assert_eq!(spec.services.len(), 2, "a refused append changes nothing");
}

#[test]
fn labels() {
    let config = Config::parse_label("{\"capabilities\":[\"all\"],\n\t\"binds\": [\"/a:/b\"],\"runtime\":{\"mkdir\":[\"/x\\/y\"]}}", "img").unwrap();
    assert_eq!(config.capabilities.unwrap()[0].value, "all");
    assert_eq!(config.runtime.unwrap().mkdir.clone().unwrap()[0], "/x/y");
    let error = Config::parse_label("{\"name\": \"x\", \"image\": \"y\", \"bind\": []}", "img")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "label org.mobyproject.config of img:1:2: name cannot be set in an image label\n\
        label org.mobyproject.config of img:1:15: image cannot be set in an image label\n\
        label org.mobyproject.config of img:1:29: unknown key \"bind\""
    );
    assert!(
        Config::parse_label("[]", "img")
            .unwrap_err()
            .to_string()
            .ends_with("expected a mapping, found a list")
    );
}

#[test]
fn bombs_are_refused_quickly() {
    let mut laughs = "init: &a0 [x]\n".to_owned();
    for level in 1..40 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        laughs.push_str(&format!("k{level}: &a{level} [{aliases}]\n"));
    }
    let merges = format!(
        "a: &a {{{}}}\nb: {{<<: [{}]}}\n",
        (0..20_000)
            .map(|index| format!("k{index}: 1,"))
            .collect::<String>(),
        "*a,".repeat(20_000)
    );
    let deep_flow = format!("init: {}", "[".repeat(100_000));
    let deep_block: String = (0..500)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    let started = std::time::Instant::now();
    let expected = [
        (laughs, "aliases write out more than 100000 values"),
        (merges, "aliases write out more than 100000 values"),
        (deep_flow, "nested deeper than 64 levels"),
        (deep_block, "nested deeper than 64 levels"),
        (
            format!("{{{}}}", "k: 1,".repeat(200_000)),
            "key \"k\" is already given at line 1",
        ),
        (
            format!("{{{}}}", "[]: 1,".repeat(200_000)),
            "a key must be a string, found a list",
        ),
        (
            format!("init: [{}]", "1,".repeat(400_000)),
            "init[19]: expected a string, found the number 1",
        ),
        ("- \n".repeat(1_100_000), "more than 1000000 values"),
        (
            "x".repeat(TEXT_MAX_BYTES + 1),
            "the file is longer than 16777216 bytes",
        ),
    ];
    for (yaml, message) in expected {
        let started = std::time::Instant::now();
        let found = Spec::parse(yaml.as_bytes(), "a").unwrap_err().to_string();
        println!("{message}: {:?}", started.elapsed());
        assert!(
            found.ends_with(message),
            "{}",
            &found[..found.len().min(300)]
        );
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

const SAMPLE: &str = "kernel: {image: a/b:c, cmdline: \"console=ttyS0\"}
init: &i [x, {debian: {suite: bookworm, packages: [a1]}}]
onboot:
  - name: sysctl
    image: *i
    binds: ['/a:/b:ro']
    <<: {uid: 5, readonly: true}
services:
  - {name: web, image: x, mounts: [{type: tmpfs, destination: /t}], resources: {pids: {limit: 5}}}
files:
  - path: etc/x
    contents: |
      text
    mode: \"0644\"
  - {path: m, metadata: yaml}
";

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Spec::parse(&bytes, "a");
    }

    #[test]
    fn random_yaml_like_text_never_panics(text in "[-:&*!|>'\"%@`{}\\[\\], \n#?a-c0-9<é\t~]{0,200}") {
        if let Err(errors) = Spec::parse(text.as_bytes(), "a") {
            for error in errors.errors() {
                prop_assert!(error.line >= 1 && error.column >= 1 && error.len >= 1);
                prop_assert!(error.column <= error.line_text.chars().count() + 1);
            }
        }
        let _ = Config::parse_label(&text, "a");
    }

    #[test]
    fn mutated_yaml_never_panics(edits in proptest::collection::vec((0..SAMPLE.len(), 0..8usize, "[-:&*{}\\[\\],'\" \na0~]{0,4}"), 1..6)) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (at, cut, insert) in edits {
            let start = at.min(bytes.len());
            let end = (start + cut).min(bytes.len());
            bytes.splice(start..end, insert.into_bytes());
        }
        let _ = Spec::parse(&bytes, "a");
    }
}

#[test]
fn packages_are_resolved_wherever_text_stands() {
    let yaml = "\
init: ['@pkg:init']
services:
  - name: a
    image: &image '@pkg:a'
    command: ['@pkg:a', 'not @pkg:a', '@foo']
    annotations: {'@pkg:key': '@pkg:value'}
  - {name: b, image: *image}
files:
  - path: etc/image
    contents: |-
      @pkg:a
";
    let mut asked = Vec::new();
    let spec = Spec::parse_with(yaml.as_bytes(), "a.yml", &mut |path| {
        asked.push(path.to_owned());
        Ok(format!("docker.io/org/{path}:1"))
    })
    .unwrap();
    // An alias is the text it stands for.
    assert_eq!(asked, ["init", "a", "a", "key", "value", "a"]);
    let image = |name: &str| ImageSource::Image(format!("docker.io/org/{name}:1"));
    assert_eq!(spec.init[0].value, InitEntry::Image(image("init")));
    assert_eq!(spec.services[1].image.value, image("a"));
    let config = &spec.services[0].config;
    let command: Vec<&str> = config
        .command
        .iter()
        .flat_map(|c| &c.value)
        .map(|s| &**s)
        .collect();
    assert_eq!(command, ["docker.io/org/a:1", "not @pkg:a", "@foo"]);
    let annotations = config.annotations.as_ref().unwrap();
    assert_eq!(annotations["docker.io/org/key:1"], "docker.io/org/value:1");
    let FileContent::Contents(contents) = &spec.files[0].content else {
        panic!("{:?}", spec.files[0].content)
    };
    assert_eq!(contents.value, "docker.io/org/a:1");

    let mut failed = |path: &str| Err((format!("no {path}"), Some("make it".to_owned())));
    let errors = Spec::parse_with(yaml.as_bytes(), "a.yml", &mut failed).unwrap_err();
    let first = &errors.errors()[0];
    assert_eq!(first.to_string(), "a.yml:1:8: @pkg:init: no init");
    assert_eq!((first.len, first.hint.as_deref()), (11, Some("make it")));
    assert_eq!(errors.errors().len(), 6);
    // What is nobody's template is an ordinary word, and no image.
    let errors = Spec::parse(yaml.as_bytes(), "a.yml").unwrap_err();
    assert_eq!(errors.errors().len(), 3);
}

#[test]
fn built_in_jobs() {
    let yaml = "\
init: [{builtin: mount}]
onboot:
- {name: a, builtin: mount, command: [/var], resources: {devices: [], memory: {limit: 5}}}
- {name: b, builtin: mont}
- {name: c, builtin: dhcp}
- {name: d, builtin: swap, image: x, debian: {packages: [yy]}, readonly: true}
- {name: e, builtin: 5}
- {name: f, builtin: ntp, binds: ['/a:/b'], user: 1, annotations: {kiln.builtin: x, kiln.ready: notify, kiln.user: x}}
";
    let takes = "a job runs as root in the host's namespaces, without a root of its own; \
                 it takes command, env, annotations, resources, rlimits, oomScoreAdj, cgroupsPath";
    assert_eq!(
        errors(yaml),
        [
            "1:9+7 init[0]: image or debian is required".to_owned(),
            "1:9+7 init[0]: unknown key \"builtin\" | known keys: image, debian".to_owned(),
            "3:58+7 onboot[0].resources.devices: rules stand beside builtin | a job may use every device; remove it".to_owned(),
            "4:22+4 onboot[1].builtin: there is no built-in job \"mont\" | did you mean \"mount\"?".to_owned(),
            format!("5:22+4 onboot[2].builtin: there is no built-in job \"dhcp\" | there are {}", JOBS.join(", ")),
            "6:13+7 onboot[3]: builtin stands beside debian; give one of them".to_owned(),
            "6:13+7 onboot[3]: builtin stands beside image; give one of them".to_owned(),
            "6:28+5 onboot[3]: image stands beside debian; give one of them".to_owned(),
            format!("6:64+8 onboot[3]: readonly stands beside builtin | {takes}"),
            "7:22+1 onboot[4].builtin: expected a string, found the number 5 | quote it: \"5\"".to_owned(),
            format!("8:27+5 onboot[5]: binds stands beside builtin | {takes}"),
            "8:45+4 onboot[5]: unknown key \"user\" | did you mean \"userns\"?".to_owned(),
            "8:82+1 onboot[5].annotations.kiln.builtin: kiln.builtin is the build's own | write builtin: NAME beside the container's name".to_owned(),
            "8:85+10 onboot[5].annotations: kiln.ready stands beside builtin | a job does not say that it is ready; remove it".to_owned(),
            "8:105+9 onboot[5].annotations: kiln.user stands beside builtin | a job is root; remove it".to_owned(),
        ]
    );
    let spec = parse("services: [{name: t, builtin: ntp, command: [pool.example]}]\n");
    assert_eq!(spec.services[0].job(), Some("ntp"));
    let errors = spec.check_jobs().unwrap_err();
    let error = &errors.errors()[0];
    assert_eq!(
        error.to_string(),
        "a.yml:1:31: builtin: ntp: kiln's own init does it, which init does not name"
    );
    assert_eq!(
        error.hint.as_deref(),
        Some("write init: [kiln], or an image in place of builtin")
    );
    let spec = parse("init: [x, kiln]\nservices: [{name: t, builtin: ntp}]\n");
    assert!(spec.check_jobs().is_ok());
    // The guest shares no code with us.
    let guest = include_str!("../../../guest/src/jobs/mod.rs");
    let entries = guest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("(\""));
    let jobs: Vec<&str> = entries
        .filter_map(|entry| entry.split('"').next())
        .collect();
    assert_eq!(jobs, JOBS);
}
