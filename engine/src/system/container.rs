//! A container with every value decided, and what its image contributed.
//!
//! [`super::label`] makes it, [`super::bundle`] writes it down.

use std::collections::BTreeMap;

use crate::spec::{Device, IdMapping, Interface, Mount, Resources, Rlimit};

/// What an image says about how to run it; empty for trees that are not images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `Env`
    pub env: Vec<String>,
    /// `WorkingDir`
    pub working_dir: String,
    /// `User`, which is not followed.
    pub user: String,
    /// The label [`super::label::LABEL`]; empty counts as absent.
    pub label: Option<String>,
    /// `ExposedPorts`, such as `80/tcp`; followed by nobody here.
    pub exposed_ports: Vec<String>,
    /// `Volumes`: paths; followed by nobody here.
    pub volumes: Vec<String>,
    /// `StopSignal`; followed by nobody here.
    pub stop_signal: String,
}

/// Reads what an image says about how to run it (OCI image-spec, `config.md`). What is no image
/// says nothing.
///
/// # Errors
/// When it is no such document.
pub fn image_config(json: &[u8]) -> Result<ImageConfig, serde_json::Error> {
    use serde::Deserialize;
    use serde::de::IgnoredAny;
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Config {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        env: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
        volumes: Option<BTreeMap<String, IgnoredAny>>,
        stop_signal: Option<String>,
    }
    #[derive(Deserialize, Default)]
    struct Image {
        config: Option<Config>,
    }
    if json.is_empty() {
        return Ok(ImageConfig::default());
    }
    let config = serde_json::from_slice::<Image>(json)?
        .config
        .unwrap_or_default();
    let keys = |map: Option<BTreeMap<String, IgnoredAny>>| -> Vec<String> {
        map.unwrap_or_default().into_keys().collect()
    };
    Ok(ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        label: config
            .labels
            .and_then(|mut labels| labels.remove(super::label::LABEL)),
        exposed_ports: keys(config.exposed_ports),
        volumes: keys(config.volumes),
        stop_signal: config.stop_signal.unwrap_or_default(),
    })
}

/// A container with every value decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Command and arguments.
    pub args: Vec<String>,
    /// Environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Working directory, never empty.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Bounding, inheritable and permitted set: sorted, unique.
    pub bounding: Vec<String>,
    /// Effective set: unique, in the order given.
    pub effective: Vec<String>,
    /// Ambient set: unique, in the order given.
    pub ambient: Vec<String>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// No new privileges by execve.
    pub no_new_privileges: bool,
    /// Badness offset of the OOM killer.
    pub oom_score_adj: Option<i32>,
    /// The root is read-only, which also selects the bundle's layout.
    pub readonly: bool,
    /// Host name; empty is the host's.
    pub hostname: String,
    /// Complete mount table, sorted by destination, volumes resolved.
    pub mounts: Vec<Mount>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// User id mappings.
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mappings.
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters.
    pub sysctl: BTreeMap<String, String>,
    /// Control group limits, rules for the devices included.
    pub resources: Resources,
    /// Control group path; empty is the runtime's choice.
    pub cgroups_path: String,
    /// Namespaces in creation order: type and path, which is empty for a new one.
    pub namespaces: Vec<(&'static str, String)>,
    /// Device nodes, without `all`.
    pub devices: Vec<Device>,
    /// Propagation of the root.
    pub rootfs_propagation: String,
    /// Paths hidden in the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only in the container.
    pub readonly_paths: Vec<String>,
    /// What the guest does around the container.
    pub runtime: Runtime,
}

/// The `runtime` section with every value decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Control groups to create.
    pub cgroups: Vec<String>,
    /// Mounts after those of the root.
    pub mounts: Vec<Mount>,
    /// Directories to create.
    pub mkdir: Vec<String>,
    /// Interfaces to create or move.
    pub interfaces: Vec<Interface>,
    /// Paths to bind namespaces to, in the order cgroup, ipc, mnt, net, pid, user, uts.
    pub bind_ns: [String; 7],
    /// containerd namespace.
    pub namespace: String,
}
