//! From YAML and label to the bytes of a bundle and of the metadata file.

use proptest::prelude::*;

use super::bundle::{bundle_path, config_json, root_path, runtime_json};
use super::container::{Container, ImageConfig};
use super::ids::Ids;
use super::job::job_json;
use super::label::resolve;
use super::metadata::{canonical_reference, dry_run, metadata};
use super::volumes::Volumes;
use crate::spec::{MetadataFormat, Section, Spec, SpecErrors, Warning};

fn parse(yaml: &str) -> Spec {
    Spec::parse(yaml.as_bytes(), "a.yml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// Resolves the first service of `yaml` against an image.
fn try_resolve(yaml: &str, image: &ImageConfig) -> Result<(Container, Vec<Warning>), SpecErrors> {
    let spec = parse(yaml);
    resolve(
        &spec.services[0],
        image,
        &Ids::assign(&spec),
        &Volumes::of(&spec),
    )
}

/// Resolves a service with these fields (flow style, without braces) and this label.
fn service(fields: &str, label: &str) -> Container {
    let label = (!label.is_empty()).then(|| label.to_owned());
    let image = ImageConfig {
        label,
        ..ImageConfig::default()
    };
    let yaml = format!(
        "services: [{{name: web, image: x, {fields}}}]\nvolumes: [{{name: data}}, {{name: fixed, readonly: true}}]\n"
    );
    try_resolve(&yaml, &image)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_container_with_nothing_but_defaults() {
    let container = service("", "");
    assert_eq!(
        text(config_json(&container)),
        r#"{
    "ociVersion": "1.2.1",
    "process": {
        "user": {
            "uid": 0,
            "gid": 0
        },
        "cwd": "/",
        "capabilities": {}
    },
    "root": {
        "path": "rootfs"
    },
    "mounts": [
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": [
                "nosuid",
                "strictatime",
                "mode=755",
                "size=65536k"
            ]
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620"
            ]
        },
        {
            "destination": "/proc",
            "type": "proc",
            "source": "proc",
            "options": [
                "nosuid",
                "nodev",
                "noexec",
                "relatime"
            ]
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": [
                "nosuid",
                "noexec",
                "nodev"
            ]
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [
                "nosuid",
                "noexec",
                "nodev",
                "relatime",
                "ro"
            ]
        }
    ],
    "linux": {
        "resources": {},
        "namespaces": [
            {
                "type": "pid"
            },
            {
                "type": "mount"
            }
        ]
    }
}"#
    );
    let bundle = bundle_path(Section::Services, 3, "web");
    assert_eq!(
        text(runtime_json(
            &container,
            &bundle,
            &[&root_path(&bundle, false)]
        )),
        r#"{
    "cgroups": [],
    "mounts": [
        {
            "destination": "/containers/services/web/tmp",
            "type": "tmpfs",
            "source": "tmpfs"
        },
        {
            "destination": "/containers/services/web/tmp",
            "options": [
                "remount",
                "private"
            ]
        },
        {
            "destination": "/containers/services/web/rootfs",
            "type": "overlay",
            "source": "overlay",
            "options": [
                "lowerdir=/containers/services/web/lower",
                "upperdir=/containers/services/web/tmp/upper",
                "workdir=/containers/services/web/tmp/work"
            ]
        }
    ],
    "mkdir": [],
    "interfaces": [],
    "bindNS": {
        "cgroup": "",
        "ipc": "",
        "mnt": "",
        "net": "",
        "pid": "",
        "user": "",
        "uts": ""
    },
    "namespace": ""
}"#
    );
}

#[test]
fn a_read_only_container_on_another_ones_root() {
    let container = service(
        "readonly: true, runtime: {mkdir: [/a], bindNS: {net: /run/netns/x}, namespace: n, interfaces: [{name: v, add: veth}], mounts: [{type: bind, source: /s, destination: /d, options: [rw]}]}",
        "{\"runtime\": {\"mkdir\": [\"/b\"], \"cgroups\": [\"c\"], \"bindNS\": {\"net\": \"l\", \"pid\": \"p\"}}}",
    );
    let bundle = bundle_path(Section::Onboot, 3, "dhcp");
    assert_eq!(bundle, "containers/onboot/003-dhcp");
    assert_eq!(
        root_path(&bundle, true),
        "containers/onboot/003-dhcp/rootfs"
    );
    let runtime: serde_json::Value = serde_json::from_slice(&runtime_json(
        &container,
        &bundle,
        &["containers/services/web/lower"],
    ))
    .unwrap();
    assert_eq!(
        runtime.to_string(),
        r#"{"cgroups":["c"],"mounts":[{"destination":"/containers/onboot/003-dhcp/rootfs","source":"/containers/services/web/lower","options":["bind"]},{"destination":"/d","type":"bind","source":"/s","options":["rw"]}],"mkdir":["/a"],"interfaces":[{"name":"v","add":"veth","createInRoot":false}],"bindNS":{"cgroup":"","ipc":"","mnt":"","net":"/run/netns/x","pid":"p","user":"","uts":""},"namespace":"n"}"#
    );
    let config: serde_json::Value = serde_json::from_slice(&config_json(&container)).unwrap();
    assert_eq!(
        config["root"].to_string(),
        r#"{"path":"rootfs","readonly":true}"#
    );
    assert_eq!(config["mounts"][0]["options"][4], "ro");
    assert_eq!(config["mounts"][3]["options"][3], "ro");
}

/// Every optional part of config.json, in order, on one line.
#[test]
fn a_container_with_everything() {
    let container = service(
        "command: ['<a&b>'], env: [A=1], cwd: /w, net: new, ipc: none, uts: /run/uts, pid: host, userns: new,
        uid: web, gid: 5, additionalGids: [web, 7, root], noNewPrivileges: true, oomScoreAdj: -500, hostname: h,
        rootfsPropagation: shared, cgroupsPath: /cg, annotations: {b: x, a: y}, sysctl: {z: '1', a: '2'},
        rlimits: ['nofile,1,unlimited'], uidMappings: [{containerID: 0, hostID: 1, size: 2}],
        maskedPaths: [/m], readonlyPaths: [/r], capabilities: [CAP_NET_ADMIN, CAP_CHOWN, CAP_NET_ADMIN], ambient: [CAP_BPF],
        devices: [{path: all, type: b}, {path: /dev/x, type: c, major: 1, minor: 2, mode: '0666'}],
        resources: {devices: [{allow: false, access: rwm}], pids: {limit: 9}}",
        "",
    );
    let mut config: serde_json::Value = serde_json::from_slice(&config_json(&container)).unwrap();
    config.as_object_mut().unwrap().shift_remove("mounts");
    assert_eq!(
        config.to_string(),
        concat!(
            r#"{"ociVersion":"1.2.1","process":{"user":{"uid":100,"gid":5,"additionalGids":[100,7,0]},"args":["<a&b>"],"env":["A=1"],"cwd":"/w","#,
            r#""capabilities":{"bounding":["CAP_BPF","CAP_CHOWN","CAP_NET_ADMIN"],"effective":["CAP_NET_ADMIN","CAP_CHOWN"],"#,
            r#""inheritable":["CAP_BPF","CAP_CHOWN","CAP_NET_ADMIN"],"permitted":["CAP_BPF","CAP_CHOWN","CAP_NET_ADMIN"],"ambient":["CAP_BPF"]},"#,
            r#""rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1}],"noNewPrivileges":true,"oomScoreAdj":-500},"#,
            r#""root":{"path":"rootfs"},"hostname":"h","annotations":{"a":"y","b":"x"},"#,
            r#""linux":{"uidMappings":[{"containerID":0,"hostID":1,"size":2}],"sysctl":{"a":"2","z":"1"},"#,
            r#""resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","access":"rwm"},{"allow":true,"type":"c","major":1,"minor":2,"access":"rwm"}],"pids":{"limit":9}},"#,
            r#""cgroupsPath":"/cg","namespaces":[{"type":"network"},{"type":"ipc"},{"type":"uts","path":"/run/uts"},{"type":"user"},{"type":"mount"}],"#,
            r#""devices":[{"path":"/dev/x","type":"c","major":1,"minor":2,"fileMode":438}],"rootfsPropagation":"shared","maskedPaths":["/m"],"readonlyPaths":["/r"]}}"#,
        )
    );
    assert!(text(config_json(&container)).contains(r#""\u003ca\u0026b\u003e""#));
}

#[test]
fn entry_before_label_before_image() {
    let image = ImageConfig {
        entrypoint: vec!["/e".to_owned()],
        cmd: vec!["c".to_owned()],
        env: vec!["I=1".to_owned()],
        working_dir: "/i".to_owned(),
        user: "nobody".to_owned(),
        label: Some(
            "{\"env\": [\"L=1\"], \"hostname\": \"l\", \"readonly\": true, \"net\": \"new\"}"
                .to_owned(),
        ),
        ..ImageConfig::default()
    };
    let (container, warnings) = try_resolve("services: [{name: a, image: x}]", &image).unwrap();
    assert_eq!(
        (container.args, container.env),
        (
            vec!["/e".to_owned(), "c".to_owned()],
            vec!["L=1".to_owned()]
        )
    );
    assert_eq!(
        (
            container.cwd.as_str(),
            container.hostname.as_str(),
            container.readonly
        ),
        ("/i", "l", true)
    );
    assert_eq!(container.namespaces.len(), 3);
    let shown: Vec<String> = warnings
        .iter()
        .map(|w| format!("{} {w} | {}", w.at(), w.hint().unwrap_or("")))
        .collect();
    assert_eq!(
        shown,
        [
            "a.yml:1:19 a: the image's user \"nobody\" is ignored, the container runs as root | set uid and gid in the entry"
        ]
    );

    let cleared = "services: [{name: a, image: x, command: [], env: [], cwd: '', hostname: '', readonly: false, net: '', uid: 0}]";
    let (container, warnings) = try_resolve(cleared, &image).unwrap();
    assert!(container.args.is_empty() && container.env.is_empty() && warnings.is_empty());
    assert_eq!(
        (
            container.cwd.as_str(),
            container.hostname.as_str(),
            container.readonly
        ),
        ("/", "", false)
    );
    assert_eq!(container.namespaces.len(), 2);
    for root in ["", "0", "root", "0:5", "root:x"] {
        let image = ImageConfig {
            user: root.to_owned(),
            ..ImageConfig::default()
        };
        assert!(
            try_resolve("services: [{name: a, image: x}]", &image)
                .unwrap()
                .1
                .is_empty(),
            "{root}"
        );
    }
}

#[test]
fn capabilities_merge() {
    let label = "{\"capabilities\": [\"CAP_KILL\", \"CAP_BPF\"]}";
    let effective = |fields: &str, label: &str| service(fields, label).effective.join(" ");
    assert_eq!(effective("", label), "CAP_KILL CAP_BPF");
    assert_eq!(
        effective("capabilities.add: [CAP_BPF, CAP_CHOWN]", label),
        "CAP_KILL CAP_BPF CAP_CHOWN"
    );
    assert_eq!(
        effective(
            "capabilities: [CAP_CHOWN], capabilities.add: [CAP_BPF]",
            label
        ),
        "CAP_CHOWN"
    );
    assert_eq!(effective("capabilities: []", label), "");
    assert_eq!(effective("capabilities: [None]", label), "");
    assert_eq!(
        effective(
            "capabilities.add: [CAP_BPF]",
            "{\"capabilities\": [\"none\"]}"
        ),
        "CAP_BPF"
    );
    let all = service("capabilities.add: [all]", label);
    assert_eq!(
        (
            all.effective.len(),
            all.effective[0].as_str(),
            all.effective[40].as_str()
        ),
        (41, "CAP_CHOWN", "CAP_CHECKPOINT_RESTORE")
    );
    assert_eq!(
        (all.bounding.len(), all.bounding[0].as_str()),
        (41, "CAP_AUDIT_CONTROL")
    );
}

#[test]
fn mounts_replace_by_destination() {
    let container = service(
        "tmpfs: ['/t:size=1,ro', /u], binds: ['/s:/u', 'data:/d', 'fixed:/f:nosuid,ro', '/x:/d2:ro', '/y:/d2'],
        mounts: [{type: proc}, {source: mqueue}, {destination: /dev, options: [x]}, {type: bind, source: data, destination: /e, options: [rbind]}]",
        "",
    );
    let shown: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            format!(
                "{} {} {} {}",
                mount.destination,
                mount.kind,
                mount.source,
                mount.options.join(",")
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "/d bind /containers/volumes/data/merged rw,rbind,rshared",
            "/d2 bind /y rw,rbind,rshared",
            "/dev tmpfs tmpfs x",
            "/dev/mqueue mqueue mqueue ",
            "/dev/pts devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620",
            "/e bind /containers/volumes/data/merged rbind",
            "/f bind /containers/volumes/fixed/merged nosuid,ro,rbind",
            "/proc proc proc ",
            "/sys sysfs sysfs nosuid,noexec,nodev",
            "/sys/fs/cgroup cgroup cgroup nosuid,noexec,nodev,relatime,ro",
            "/t tmpfs tmpfs size=1,ro",
            "/u bind /s rw,rbind,rshared",
        ]
    );
    let label = "{\"binds\": [\"data:/d\", \"/a:/b\"]}";
    let binds = |fields: &str| {
        let container = service(fields, label);
        let binds = container.mounts.iter().filter(|mount| mount.kind == "bind");
        binds
            .map(|mount| format!("{}:{}", mount.source, mount.destination))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(binds(""), "/a:/b /containers/volumes/data/merged:/d");
    assert_eq!(
        binds("binds.add: ['/z:/b']"),
        "/z:/b /containers/volumes/data/merged:/d"
    );
    assert_eq!(binds("binds: []"), "");
}

#[test]
fn errors_have_their_places() {
    let yaml = "services:
- name: a
  image: x
  uid: web
  binds: ['dat:/d', 'fixed:/f', 'fixed:/g:ro,rw', 'nothing-like-it:/h']
  mounts: [{type: bind, source: fixed, destination: /m}]
volumes: [{name: data}, {name: fixed, readonly: true}]
";
    let errors = try_resolve(yaml, &ImageConfig::default()).unwrap_err();
    let shown: Vec<String> = errors
        .errors()
        .iter()
        .map(|error| format!("{error} | {}", error.hint.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        shown,
        [
            "a.yml:4:8: no container is named \"web\", so it has no id | ids are numbers, root, or names of containers",
            "a.yml:5:11: no volume is named \"dat\" | did you mean \"data\"?",
            "a.yml:5:21: volume \"fixed\" is read-only, but is mounted read-write | add the option ro",
            "a.yml:5:33: volume \"fixed\" is read-only, but is mounted read-write | add the option ro",
            "a.yml:5:51: no volume is named \"nothing-like-it\" | a source is an absolute path or the name of a volume",
            "a.yml:6:12: volume \"fixed\" is read-only, but is mounted read-write | add the option ro",
        ]
    );
    let image = ImageConfig {
        label: Some("{\"binds\": [\"v:/x\"]}".to_owned()),
        ..ImageConfig::default()
    };
    let error = try_resolve("services: [{name: a, image: x}]", &image)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "label org.mobyproject.config of the image of a:1:12: no volume is named \"v\""
    );
}

#[test]
fn warns_of_ignored_additions() {
    let image = ImageConfig {
        label: Some("{\"capabilities.add\": [\"CAP_BPF\"], \"binds.add\": []}".to_owned()),
        ..ImageConfig::default()
    };
    let yaml = "services: [{name: a, image: x, capabilities: [], capabilities.add: [all], binds: [], binds.add: []}]";
    let (container, warnings) = try_resolve(yaml, &image).unwrap();
    assert!(container.effective.is_empty());
    let shown: Vec<String> = warnings.iter().map(|w| format!("{} {w}", w.at())).collect();
    let label = "label org.mobyproject.config of the image of a";
    assert_eq!(
        shown,
        [
            "a.yml:1:68 a: capabilities.add is ignored because capabilities is given and replaces the whole list".to_owned(),
            "a.yml:1:97 a: binds.add is ignored because binds is given and replaces the whole list".to_owned(),
            format!("{label}:1:22 a: capabilities.add in the image label is ignored; only a YAML entry can add"),
            format!("{label}:1:48 a: binds.add in the image label is ignored; only a YAML entry can add"),
        ]
    );
}

#[test]
fn canonical_references() {
    for (reference, canonical) in [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1", "docker.io/library/nginx:1"),
        ("linuxkit/init:v1", "docker.io/linuxkit/init:v1"),
        ("localhost/x", "localhost/x"),
        ("host:5000/x@sha256:0", "host:5000/x@sha256:0"),
        ("foo/bar/baz", "foo/bar/baz"),
    ] {
        assert_eq!(canonical_reference(reference), canonical);
    }
}

const EVERYTHING: &str = "kernel: {image: linuxkit/kernel:6, cmdline: 'console=ttyS0', tar: none, modules: [virtio*]}
init: [kiln, 'linuxkit/init:v1', {debian: {suite: bookworm, packages: [busybox], mirror: 'http://m/d'}}]
trust: {org: [linuxkit]}
onboot:
- name: a
  image: x
  capabilities.add: [all]
  mounts: [{type: tmpfs, destination: /t, uidMappings: [{hostID: 7}]}]
  binds: ['/a:/b']
  devices: [{path: all}]
  tmpfs: [/t]
  command: []
  cwd: ''
  readonly: false
  uid: 0
  gid: a
  resources: {blockio: {weight: 5}}
  sysctl: {kernel.x: '1'}
  rlimits: ['nofile,1,2']
  runtime: {mkdir: [/x], interfaces: [{name: eth1}]}
services: [{name: b, debian: {suite: sid, packages: [nginx-light]}, runtime: {bindNS: {net: /n}}}]
files:
- {path: /etc/x, contents: \"a\\nb\\n\", mode: \"0644\", uid: b}
- {path: d, directory: true}
- {path: m, metadata: yaml, optional: true}
volumes: [{name: v, image: img, format: oci, readonly: true, platforms: [linux/amd64]}, {name: w}]
";

#[test]
fn metadata_as_yaml() {
    let spec = parse(EVERYTHING);
    let yaml = text(metadata(&spec, MetadataFormat::Yaml));
    assert_eq!(
        yaml,
        "\
kernel:
  image: docker.io/linuxkit/kernel:6
  cmdline: console=ttyS0
  tar: none
  modules:
  - virtio*
init:
- kiln
- docker.io/linuxkit/init:v1
- debian:
    suite: bookworm
    packages:
    - busybox
    mirror: http://m/d
onboot:
- name: a
  image: docker.io/library/x
  capabilities.add:
  - all
  mounts:
  - destination: /t
    type: tmpfs
    source: \"\"
    options: []
    uidmappings:
    - containerID: 0
      hostID: 7
      size: 0
    gidmappings: []
  binds:
  - /a:/b
  devices:
  - path: all
    type: \"\"
    major: 0
    minor: 0
  tmpfs:
  - /t
  command: []
  readonly: false
  uid: 0
  gid: a
  resources:
    blockio:
      weight: 5
  sysctl:
    kernel.x: \"1\"
  rlimits:
  - nofile,1,2
  runtime:
    mkdir:
    - /x
    interfaces:
    - name: eth1
      createInRoot: false
onshutdown: []
services:
- name: b
  debian:
    suite: sid
    packages:
    - nginx-light
  runtime:
    bindNS:
      net: /n
files:
- path: /etc/x
  directory: false
  contents: |
    a
    b
  optional: false
  mode: \"0644\"
  uid: b
- path: d
  directory: true
  optional: false
- path: m
  directory: false
  metadata: yaml
  optional: true
volumes:
- name: v
  image: img
  readonly: true
  format: oci
  platforms:
  - linux/amd64
- name: w
"
    );
    assert_eq!(
        text(metadata(&parse(&yaml), MetadataFormat::Yaml)),
        yaml,
        "read back it says the same"
    );
}

#[test]
fn metadata_as_json() {
    let json = text(metadata(
        &parse("services: [{name: a, image: x, binds: [], runtime: {}}]"),
        MetadataFormat::Json,
    ));
    assert_eq!(
        json,
        r#"{
    "kernel": {
        "image": ""
    },
    "init": null,
    "onboot": null,
    "onshutdown": null,
    "services": [
        {
            "name": "a",
            "image": "docker.io/library/x",
            "binds": [],
            "runtime": {
                "bindNS": {}
            }
        }
    ],
    "files": null,
    "volumes": null
}"#
    );
}

#[test]
fn dry_run_prints_what_was_written() {
    let yaml = "kernel: {image: linuxkit/kernel:6}\nservices: [{name: a, image: x, env: [A=1]}]\n";
    let printed = dry_run(&parse(yaml));
    assert_eq!(
        printed,
        "\
kernel:
    image: linuxkit/kernel:6
init: []
onboot: []
onshutdown: []
services:
    - name: a
      image: x
      env:
        - A=1
files: []
volumes: []

"
    );
    let everything = dry_run(&parse(EVERYTHING));
    assert_eq!(
        dry_run(&parse(&everything)),
        everything,
        "read back it says the same"
    );
}

proptest! {
    /// Whatever parses resolves or reports, and its metadata says the same when read back.
    #[test]
    fn mutated_descriptions_survive(edits in proptest::collection::vec((0..EVERYTHING.len(), 0..6usize, "[-:{}\\[\\],'\" \na0~]{0,3}"), 0..4), label in "[{}\\[\\]\":,a-z ]{0,20}") {
        let mut bytes = EVERYTHING.as_bytes().to_vec();
        for (at, cut, insert) in edits {
            let start = at.min(bytes.len());
            let end = (start + cut).min(bytes.len());
            bytes.splice(start..end, insert.into_bytes());
        }
        let Ok(spec) = Spec::parse(&bytes, "a") else { return Ok(()) };
        let image = ImageConfig { label: Some(label), ..ImageConfig::default() };
        for entry in spec.onboot.iter().chain(&spec.services) {
            if let Ok((container, _)) = resolve(entry, &image, &Ids::assign(&spec), &Volumes::of(&spec)) {
                let config: serde_json::Value = serde_json::from_slice(&config_json(&container)).unwrap();
                prop_assert!(config["mounts"].is_array());
            }
        }
        let _ = super::files::file_nodes(&spec.files, &Ids::assign(&spec));
        for written in [text(metadata(&spec, MetadataFormat::Yaml)), dry_run(&spec)] {
            let back = Spec::parse(written.as_bytes(), "b").map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
            let again = [text(metadata(&back, MetadataFormat::Yaml)), dry_run(&back)];
            prop_assert!(again.contains(&written), "{}", written);
        }
    }
}

#[test]
fn a_built_in_job_has_no_root_and_a_mark() {
    let yaml = "onboot: [{name: data, builtin: mount, command: [-label, data, /var], env: [A=b], \
                annotations: {kiln.on-failure: stop}, resources: {memory: {limit: 5}}, \
                rlimits: ['nofile,1,2'], oomScoreAdj: -5, cgroupsPath: jobs/data}]\n";
    let spec = parse(yaml);
    let entry = &spec.onboot[0];
    let config = text(job_json(entry, entry.job().unwrap()));
    let value: serde_json::Value = serde_json::from_str(&config).unwrap();
    let expected = serde_json::json!({
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["-label", "data", "/var"],
            "env": ["A=b"],
            "cwd": "/",
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}],
            "oomScoreAdj": -5,
        },
        "annotations": {"kiln.builtin": "mount", "kiln.on-failure": "stop"},
        "linux": {"resources": {"memory": {"limit": 5}}, "cgroupsPath": "jobs/data"},
    });
    assert_eq!(value, expected);
    assert!(config.starts_with("{\n    \"ociVersion\": \"1.2.1\",\n    \"process\": {\n"));
    // It can be read back.
    let again = parse(&dry_run(&spec));
    assert_eq!(again.onboot[0].job(), Some("mount"));
    assert_eq!(again.onboot[0].config.command, entry.config.command);
}
