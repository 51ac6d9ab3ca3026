//! The two files of a container's bundle, byte for byte as LinuxKit writes them, and where a
//! bundle and its root lie.
//!
//! config.json follows the OCI runtime specification 1.2.1; runtime.json is LinuxKit's own and read
//! by its init, and ours.

use std::collections::BTreeMap;

use serde::Serialize;

use super::container::Container;
use super::json;

use crate::spec::{IdMapping, Interface, Mount, Resources, Rlimit, Section};

/// The runtime specification's version in config.json.
pub const OCI_VERSION: &str = "1.2.1";

/// Directory of a bundle, relative to the root: `containers/onboot/003-NAME`, `containers/services/NAME`.
///
/// `index` counts from 0 within the section.
#[must_use]
pub fn bundle_path(section: Section, index: usize, name: &str) -> String {
    match section {
        Section::Services => format!("containers/services/{name}"),
        _ => format!("containers/{}/{index:03}-{name}", section.name()),
    }
}

/// Where the first container to use an image keeps its tree, relative to the root: `BUNDLE/lower`
/// below an overlay, `BUNDLE/rootfs` for a read-only container.
#[must_use]
pub fn root_path(bundle: &str, readonly: bool) -> String {
    format!("{bundle}/{}", if readonly { "rootfs" } else { "lower" })
}

/// Returns the bytes of config.json.
#[must_use]
pub fn config_json(container: &Container) -> Vec<u8> {
    let devices = container.devices.iter().map(|device| LinuxDevice {
        path: &device.path,
        kind: &device.kind,
        major: device.major,
        minor: device.minor,
        file_mode: device.mode.as_ref().map(|mode| mode.bits),
    });
    let namespaces = container
        .namespaces
        .iter()
        .map(|(kind, path)| Namespace { kind, path });
    json::to_vec(&ConfigFile {
        oci_version: OCI_VERSION,
        process: Process {
            user: User {
                uid: container.uid,
                gid: container.gid,
                additional_gids: &container.additional_gids,
            },
            args: &container.args,
            env: &container.env,
            cwd: &container.cwd,
            capabilities: Capabilities {
                bounding: &container.bounding,
                effective: &container.effective,
                inheritable: &container.bounding,
                permitted: &container.bounding,
                ambient: &container.ambient,
            },
            rlimits: container.rlimits.iter().map(PosixRlimit::of).collect(),
            no_new_privileges: container.no_new_privileges,
            oom_score_adj: container.oom_score_adj,
        },
        root: Root {
            path: "rootfs",
            readonly: container.readonly,
        },
        hostname: &container.hostname,
        mounts: &container.mounts,
        annotations: &container.annotations,
        linux: Linux {
            uid_mappings: &container.uid_mappings,
            gid_mappings: &container.gid_mappings,
            sysctl: &container.sysctl,
            resources: &container.resources,
            cgroups_path: &container.cgroups_path,
            namespaces: namespaces.collect(),
            devices: devices.collect(),
            rootfs_propagation: &container.rootfs_propagation,
            masked_paths: &container.masked_paths,
            readonly_paths: &container.readonly_paths,
        },
    })
}

/// Returns the bytes of runtime.json.
///
/// `bundle` is the container's own [`bundle_path`]; `layers` are the directories that its root
/// consists of, the topmost first: the [`root_path`] of the container that keeps the tree, its own
/// or another's. All are relative to the root of the system.
#[must_use]
pub fn runtime_json(container: &Container, bundle: &str, layers: &[&str]) -> Vec<u8> {
    let runtime = &container.runtime;
    let mut mounts = root_mounts(container.readonly, bundle, layers);
    mounts.extend(runtime.mounts.iter().cloned());
    let [cgroup, ipc, mnt, net, pid, user, uts] = &runtime.bind_ns;
    json::to_vec(&RuntimeFile {
        cgroups: &runtime.cgroups,
        mounts,
        mkdir: &runtime.mkdir,
        interfaces: runtime
            .interfaces
            .iter()
            .map(RuntimeInterface::of)
            .collect(),
        bind_ns: BindNs {
            cgroup,
            ipc,
            mnt,
            net,
            pid,
            user,
            uts,
        },
        namespace: &runtime.namespace,
    })
}

/// What the guest mounts to make the root.
fn root_mounts(readonly: bool, bundle: &str, layers: &[&str]) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, source: &str, options: Vec<String>| Mount {
        destination: format!("/{bundle}/{destination}"),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options,
        ..Mount::default()
    };
    let layers: Vec<String> = layers.iter().map(|layer| format!("/{layer}")).collect();
    let lower = format!("lowerdir={}", layers.join(":"));
    // Of several layers it is writable until its mount points are made.
    if let (true, [only]) = (readonly, layers.as_slice()) {
        return vec![mount("rootfs", "", only, vec!["bind".to_owned()])];
    }
    let overlay = vec![
        lower,
        format!("upperdir=/{bundle}/tmp/upper"),
        format!("workdir=/{bundle}/tmp/work"),
    ];
    vec![
        mount("tmp", "tmpfs", "tmpfs", Vec::new()),
        mount(
            "tmp",
            "",
            "",
            vec!["remount".to_owned(), "private".to_owned()],
        ),
        mount("rootfs", "overlay", "overlay", overlay),
    ]
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize)]
struct ConfigFile<'a> {
    #[serde(rename = "ociVersion")]
    oci_version: &'a str,
    process: Process<'a>,
    root: Root<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    mounts: &'a [Mount],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    linux: Linux<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    user: User<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    env: &'a [String],
    cwd: &'a str,
    capabilities: Capabilities<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rlimits: Vec<PosixRlimit<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    no_new_privileges: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_score_adj: Option<i32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct User<'a> {
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    additional_gids: &'a [u32],
}

#[derive(Serialize)]
struct Capabilities<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    bounding: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    effective: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    inheritable: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    permitted: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ambient: &'a [String],
}

#[derive(Serialize)]
struct PosixRlimit<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    hard: u64,
    soft: u64,
}

impl<'a> PosixRlimit<'a> {
    fn of(limit: &'a Rlimit) -> Self {
        Self {
            kind: &limit.kind,
            hard: limit.hard,
            soft: limit.soft,
        }
    }
}

#[derive(Serialize)]
struct Root<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    readonly: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    uid_mappings: &'a [IdMapping],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    gid_mappings: &'a [IdMapping],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sysctl: &'a BTreeMap<String, String>,
    resources: &'a Resources,
    #[serde(skip_serializing_if = "str::is_empty")]
    cgroups_path: &'a str,
    namespaces: Vec<Namespace<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<LinuxDevice<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    rootfs_propagation: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    masked_paths: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    readonly_paths: &'a [String],
}

#[derive(Serialize)]
struct Namespace<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
}

#[derive(Serialize)]
struct LinuxDevice<'a> {
    path: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    major: i64,
    minor: i64,
    #[serde(rename = "fileMode", skip_serializing_if = "Option::is_none")]
    file_mode: Option<u16>,
}

#[derive(Serialize)]
struct RuntimeFile<'a> {
    cgroups: &'a [String],
    mounts: Vec<Mount>,
    mkdir: &'a [String],
    interfaces: Vec<RuntimeInterface<'a>>,
    #[serde(rename = "bindNS")]
    bind_ns: BindNs<'a>,
    namespace: &'a str,
}

#[derive(Serialize)]
struct RuntimeInterface<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    add: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    peer: &'a str,
    #[serde(rename = "createInRoot")]
    create_in_root: bool,
}

impl<'a> RuntimeInterface<'a> {
    fn of(interface: &'a Interface) -> Self {
        Self {
            name: &interface.name,
            add: &interface.add,
            peer: &interface.peer,
            create_in_root: interface.create_in_root,
        }
    }
}

#[derive(Serialize)]
struct BindNs<'a> {
    cgroup: &'a str,
    ipc: &'a str,
    mnt: &'a str,
    net: &'a str,
    pid: &'a str,
    user: &'a str,
    uts: &'a str,
}
