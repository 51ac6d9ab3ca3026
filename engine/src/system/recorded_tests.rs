//! What LinuxKit made of a description with every field of a container, byte for byte.
//!
//! `recorded/linuxkit.txt` holds the config.json and runtime.json of each container, as
//! `linuxkit build --format tar` wrote them for `recorded/system.yml` and the images below.

use std::collections::BTreeMap;

use super::bundle::{bundle_path, config_json, root_path, runtime_json};
use super::container::ImageConfig;
use super::ids::Ids;
use super::label::resolve;
use super::volumes::Volumes;
use crate::spec::{ImageSource, Section, Spec};

const SYSTEM: &str = include_str!("recorded/system.yml");
const LINUXKIT: &str = include_str!("recorded/linuxkit.txt");

/// The images' labels; all else is the same in each.
const LABELS: [(&str, &str); 3] = [
    ("plain", ""),
    (
        "labelled",
        r#"{"capabilities":["CAP_KILL"],"binds":["/l:/l"],"net":"host","cwd":"/label","hostname":"lbl","runtime":{"mkdir":["/m"],"bindNS":{"net":"/n"}},"resources":{"memory":{"limit":7}},"uid":5,"rlimits":["nofile,1,2"],"ambient":["CAP_BPF"]}"#,
    ),
    (
        "full",
        r#"{"hostname":"a","readonly":true,"command":["x"],"env":["A"],"tmpfs":["/t"],"sysctl":{"a":"b"},"annotations":{"c":"d"},"rlimits":["as,1,2"],"devices":[{"path":"/dev/k","type":"c","major":1,"minor":2,"mode":"600"}],"maskedPaths":["/x"],"readonlyPaths":["/y"],"additionalGids":[5],"noNewPrivileges":true,"oomScoreAdj":5,"rootfsPropagation":"shared","cgroupsPath":"/c","userns":"new","uts":"new","uidMappings":[{"size":5}],"gid":6,"runtime":{"cgroups":["c"],"mkdir":["/d"],"mounts":[{"destination":"/q","type":"tmpfs"}],"interfaces":[{"name":"e"}],"namespace":"n","bindNS":{"net":"/a","pid":"/b"}}}"#,
    ),
];

fn image(name: &str) -> ImageConfig {
    let label = LABELS.iter().find(|(image, _)| *image == name).unwrap().1;
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ImageConfig {
        entrypoint: owned(&["/bin/x"]),
        cmd: owned(&["a"]),
        env: owned(&["A=1"]),
        working_dir: "/w".to_owned(),
        user: String::new(),
        label: Some(label.to_owned()),
        ..ImageConfig::default()
    }
}

#[test]
fn containers_are_linuxkits_byte_for_byte() {
    let spec = Spec::parse(SYSTEM.as_bytes(), "system.yml").unwrap();
    let (ids, volumes) = (Ids::assign(&spec), Volumes::of(&spec));
    // The first container of an image holds its files; LinuxKit goes by the image's name.
    let mut roots: BTreeMap<&str, String> = BTreeMap::new();
    let mut made = BTreeMap::new();
    for section in Section::ALL {
        for (index, entry) in spec.containers(section).iter().enumerate() {
            let ImageSource::Image(name) = &entry.image.value else {
                panic!("{:?}", entry.image)
            };
            let (container, warnings) = resolve(entry, &image(name), &ids, &volumes).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            let bundle = bundle_path(section, index, &entry.name);
            let root = roots
                .entry(name)
                .or_insert_with(|| root_path(&bundle, container.readonly));
            let files = [
                ("config.json", config_json(&container)),
                ("runtime.json", runtime_json(&container, &bundle, &[root])),
            ];
            for (file, bytes) in files {
                made.insert(
                    format!("{bundle}/{file}"),
                    String::from_utf8(bytes).unwrap(),
                );
            }
        }
    }
    let mut compared = 0;
    for recorded in LINUXKIT.split("== ").skip(1) {
        let (path, json) = recorded.split_once('\n').unwrap();
        assert_eq!(made[path], json.trim_end_matches('\n'), "{path}");
        compared += 1;
    }
    assert_eq!((compared, made.len()), (20, 20));
}
