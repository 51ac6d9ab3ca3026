//! One container, resolved: entry, image label, image configuration and defaults merged.
//!
//! Entry before label before image before default, each value as a whole; only `capabilities.add`
//! and `binds.add` extend a label's list. Everything a person can get wrong is found here, so that
//! [`super::bundle`] cannot fail.

use std::collections::BTreeMap;

use super::container::{Container, ImageConfig, Runtime};
use super::ids::Ids;
use super::volumes::Volumes;
use crate::spec::{
    Bind, CAPABILITIES, Config, Container as Entry, Device, DeviceRule, ErrorList, Field,
    ListField, Mount, Position, Resources, Runtime as RuntimeConfig, Spanned, SpecError,
    SpecErrors, Tmpfs, Warning,
};

/// The label's name.
pub const LABEL: &str = "org.mobyproject.config";

/// Merges one entry with its image.
///
/// # Errors
/// What is wrong with the label, unknown ids and volumes; sorted, each with its place.
pub fn resolve(
    entry: &Entry,
    image: &ImageConfig,
    ids: &Ids,
    volumes: &Volumes,
) -> Result<(Container, Vec<Warning>), SpecErrors> {
    let label = match image.label.as_deref() {
        None | Some("") => Config::default(),
        Some(text) => Config::parse_label(text, &format!("the image of {}", entry.name.value))?,
    };
    let yaml = &entry.config;
    let both = Both {
        yaml,
        label: &label,
    };
    let mut errors = ErrorList::default();

    let readonly = both.pick(|config| &config.readonly).unwrap_or_default();
    let mounts = mount_table(&both, readonly, volumes, &mut errors);
    let (bounding, effective, ambient) = capabilities(&both);
    let (devices, resources) = devices(&both);
    let mut id =
        |field: Option<&Spanned<_>>| checked(&mut errors, ids.resolve(field)).unwrap_or_default();
    let container = Container {
        args: both
            .pick(|config| &config.command)
            .unwrap_or_else(|| [&image.entrypoint[..], &image.cmd].concat()),
        env: both
            .pick(|config| &config.env)
            .unwrap_or_else(|| image.env.clone()),
        cwd: cwd(&both, image),
        uid: id(both.field(|config| &config.uid)),
        gid: id(both.field(|config| &config.gid)),
        additional_gids: both
            .field(|config| &config.additional_gids)
            .map_or_else(Vec::new, |gids| {
                gids.iter().map(|gid| id(Some(gid))).collect()
            }),
        bounding,
        effective,
        ambient,
        rlimits: both.pick(|config| &config.rlimits).unwrap_or_default(),
        no_new_privileges: both
            .pick(|config| &config.no_new_privileges)
            .unwrap_or_default(),
        oom_score_adj: both.pick(|config| &config.oom_score_adj),
        readonly,
        hostname: both.text(|config| &config.hostname),
        mounts,
        annotations: both.pick(|config| &config.annotations).unwrap_or_default(),
        uid_mappings: both.pick(|config| &config.uid_mappings).unwrap_or_default(),
        gid_mappings: both.pick(|config| &config.gid_mappings).unwrap_or_default(),
        sysctl: both.pick(|config| &config.sysctl).unwrap_or_default(),
        resources,
        cgroups_path: both.text(|config| &config.cgroups_path),
        namespaces: namespaces(&both),
        devices,
        rootfs_propagation: both.text(|config| &config.rootfs_propagation),
        masked_paths: both.pick(|config| &config.masked_paths).unwrap_or_default(),
        readonly_paths: both
            .pick(|config| &config.readonly_paths)
            .unwrap_or_default(),
        runtime: runtime(&both),
    };
    errors.finish()?;
    Ok((container, warnings(entry, &label, image)))
}

/// The two places a value can come from before the image and the defaults.
struct Both<'a> {
    yaml: &'a Config,
    label: &'a Config,
}

impl<'a> Both<'a> {
    /// The entry's field if present, else the label's.
    fn field<T>(&self, get: impl Fn(&'a Config) -> &'a Field<T>) -> Option<&'a Spanned<T>> {
        get(self.yaml).as_ref().or_else(|| get(self.label).as_ref())
    }

    /// The value of [`Self::field`].
    fn pick<T: Clone + 'a>(&self, get: impl Fn(&'a Config) -> &'a Field<T>) -> Option<T> {
        self.field(get).map(|field| field.value.clone())
    }

    /// A string that is empty when absent.
    fn text(&self, get: impl Fn(&'a Config) -> &'a Field<String>) -> String {
        self.pick(get).unwrap_or_default()
    }

    /// The entry's list, or else the label's followed by the entry's additions.
    fn extended<T>(
        &self,
        plain: impl Fn(&'a Config) -> &'a ListField<T>,
        added: impl Fn(&'a Config) -> &'a ListField<T>,
    ) -> Vec<&'a Spanned<T>> {
        let items = |field: &'a ListField<T>| field.iter().flat_map(|list| &list.value);
        match plain(self.yaml) {
            Some(list) => list.value.iter().collect(),
            None => items(plain(self.label))
                .chain(items(added(self.yaml)))
                .collect(),
        }
    }
}

fn checked<T>(errors: &mut ErrorList, result: Result<T, SpecError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            errors.push(|| error);
            None
        }
    }
}

/// A given empty string clears the label's and the image's; the root then stands in.
fn cwd(both: &Both<'_>, image: &ImageConfig) -> String {
    let filled = |text: &&str| !text.is_empty();
    let label = both
        .label
        .cwd
        .as_ref()
        .map(|cwd| cwd.value.as_str())
        .filter(filled);
    let cwd = match &both.yaml.cwd {
        Some(cwd) => Some(cwd.value.as_str()).filter(filled),
        None => label.or(Some(image.working_dir.as_str()).filter(filled)),
    };
    cwd.unwrap_or("/").to_owned()
}

/// Bounding, effective and ambient sets.
fn capabilities(both: &Both<'_>) -> (Vec<String>, Vec<String>, Vec<String>) {
    let effective = expand(&both.extended(
        |config| &config.capabilities,
        |config| &config.capabilities_add,
    ));
    let ambient = both
        .field(|config| &config.ambient)
        .map_or_else(Vec::new, |list| list.iter().collect());
    let ambient = expand(&ambient);
    let mut bounding: Vec<String> = effective.iter().chain(&ambient).cloned().collect();
    bounding.sort();
    bounding.dedup();
    (bounding, effective, ambient)
}

/// Writes out `all`, drops `none` and repetitions.
fn expand(names: &[&Spanned<String>]) -> Vec<String> {
    if names.iter().any(|name| name.eq_ignore_ascii_case("all")) {
        return CAPABILITIES.map(str::to_owned).to_vec();
    }
    let mut unique: Vec<String> = Vec::new();
    for name in names
        .iter()
        .filter(|name| !name.eq_ignore_ascii_case("none"))
    {
        if !unique.contains(&name.value) {
            unique.push(name.value.clone());
        }
    }
    unique
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

/// The mounts every container has.
fn default_mounts(readonly: bool) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, options: &[&str], follows_root: bool| {
        let mut options = owned(options);
        if readonly && follows_root {
            options.push("ro".to_owned());
        }
        Mount {
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            source: kind.to_owned(),
            options,
            ..Mount::default()
        }
    };
    vec![
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
            true,
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ],
            false,
        ),
        mount(
            "/proc",
            "proc",
            &["nosuid", "nodev", "noexec", "relatime"],
            false,
        ),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev"], true),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
            false,
        ),
    ]
}

/// Keyed by destination: defaults, then tmpfs, then binds, then mounts; the later one counts.
fn mount_table(
    both: &Both<'_>,
    readonly: bool,
    volumes: &Volumes,
    errors: &mut ErrorList,
) -> Vec<Mount> {
    let mut list = default_mounts(readonly);
    list.extend(
        both.field(|config| &config.tmpfs)
            .into_iter()
            .flat_map(|list| &list.value)
            .map(tmpfs_mount),
    );
    for bind in both.extended(|config| &config.binds, |config| &config.binds_add) {
        list.extend(checked(errors, bind_mount(bind, volumes)));
    }
    for mount in both
        .field(|config| &config.mounts)
        .into_iter()
        .flat_map(|list| &list.value)
    {
        list.extend(checked(
            errors,
            given_mount(&mount.value, &mount.at, volumes),
        ));
    }
    let table: BTreeMap<String, Mount> = list
        .into_iter()
        .map(|mount| (mount.destination.clone(), mount))
        .collect();
    table.into_values().collect()
}

fn tmpfs_mount(tmpfs: &Tmpfs) -> Mount {
    Mount {
        destination: tmpfs.destination.clone(),
        kind: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: tmpfs.options.clone(),
        ..Mount::default()
    }
}

fn bind_mount(bind: &Spanned<Bind>, volumes: &Volumes) -> Result<Mount, SpecError> {
    let given = bind.options.as_deref().unwrap_or_default();
    let options = match &bind.options {
        None => owned(&["rw", "rbind", "rshared"]),
        Some(options) => options
            .iter()
            .cloned()
            .chain(["rbind".to_owned()])
            .collect(),
    };
    Ok(Mount {
        destination: bind.destination.clone(),
        kind: "bind".to_owned(),
        source: volumes.source(&bind.source, given, &bind.at)?,
        options,
        ..Mount::default()
    })
}

fn given_mount(mount: &Mount, at: &Position, volumes: &Volumes) -> Result<Mount, SpecError> {
    let mut mount = mount.completed().map_err(|message| at.error(message))?;
    if mount.kind == "bind" {
        mount.source = volumes.source(&mount.source, &mount.options, at)?;
    }
    Ok(mount)
}

/// Namespaces in the order LinuxKit creates them; the mount namespace is always new.
fn namespaces(both: &Both<'_>) -> Vec<(&'static str, String)> {
    let shared = |kind, value: String, takes_none: bool| match value.as_str() {
        "" | "host" | "root" => None,
        "new" => Some((kind, String::new())),
        "none" if takes_none => Some((kind, String::new())),
        _ => Some((kind, value)),
    };
    let pid = both.text(|config| &config.pid);
    let pid = if pid.is_empty() {
        "new".to_owned()
    } else {
        pid
    };
    [
        shared("network", both.text(|config| &config.net), true),
        shared("ipc", both.text(|config| &config.ipc), true),
        shared("uts", both.text(|config| &config.uts), true),
        shared("pid", pid, false),
        shared("user", both.text(|config| &config.userns), false),
        Some(("mount", String::new())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Device nodes, and the limits with a rule for each device.
fn devices(both: &Both<'_>) -> (Vec<Device>, Resources) {
    let mut resources = both.pick(|config| &config.resources).unwrap_or_default();
    let mut devices = both.pick(|config| &config.devices).unwrap_or_default();
    for device in &devices {
        let number = |number| (device.path != "all").then_some(number);
        resources.devices.push(DeviceRule {
            allow: true,
            kind: device.kind.clone(),
            major: number(device.major),
            minor: number(device.minor),
            access: "rwm".to_owned(),
        });
    }
    devices.retain(|device| device.path != "all");
    (devices, resources)
}

/// Each member chosen on its own, and each namespace of `bindNS` too.
fn runtime(both: &Both<'_>) -> Runtime {
    let empty = RuntimeConfig::default();
    let of = |config: &Config| {
        config
            .runtime
            .as_ref()
            .map_or_else(|| empty.clone(), |runtime| runtime.value.clone())
    };
    let (yaml, label) = (of(both.yaml), of(both.label));
    fn pick<T: Default>(yaml: Field<T>, label: Field<T>) -> T {
        yaml.or(label).map(|field| field.value).unwrap_or_default()
    }
    Runtime {
        cgroups: pick(yaml.cgroups, label.cgroups),
        mounts: pick(yaml.mounts, label.mounts),
        mkdir: pick(yaml.mkdir, label.mkdir),
        interfaces: pick(yaml.interfaces, label.interfaces),
        bind_ns: [
            pick(yaml.bind_ns.cgroup, label.bind_ns.cgroup),
            pick(yaml.bind_ns.ipc, label.bind_ns.ipc),
            pick(yaml.bind_ns.mnt, label.bind_ns.mnt),
            pick(yaml.bind_ns.net, label.bind_ns.net),
            pick(yaml.bind_ns.pid, label.bind_ns.pid),
            pick(yaml.bind_ns.user, label.bind_ns.user),
            pick(yaml.bind_ns.uts, label.bind_ns.uts),
        ],
        namespace: pick(yaml.namespace, label.namespace),
    }
}

/// What is probably not meant.
fn warnings(entry: &Entry, label: &Config, image: &ImageConfig) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let container = &entry.name.value;
    let yaml = &entry.config;
    let add_ignored = |key, at: &Position| Warning::AddIgnored {
        container: container.clone(),
        key,
        at: at.clone(),
    };
    if let (Some(_), Some(added)) = (&yaml.capabilities, &yaml.capabilities_add) {
        warnings.push(add_ignored("capabilities", &added.at));
    }
    if let (Some(_), Some(added)) = (&yaml.binds, &yaml.binds_add) {
        warnings.push(add_ignored("binds", &added.at));
    }
    let label_ignored = |key, at: &Position| Warning::LabelAddIgnored {
        container: container.clone(),
        key,
        at: at.clone(),
    };
    warnings.extend(
        label
            .capabilities_add
            .as_ref()
            .map(|added| label_ignored("capabilities", &added.at)),
    );
    warnings.extend(
        label
            .binds_add
            .as_ref()
            .map(|added| label_ignored("binds", &added.at)),
    );
    let image_uid = image.user.split(':').next().unwrap_or_default();
    let is_root = matches!(image_uid, "" | "0" | "root");
    if !is_root && yaml.uid.is_none() && label.uid.is_none() {
        warnings.push(Warning::UserIgnored {
            container: container.clone(),
            user: image.user.clone(),
            at: entry.name.at.clone(),
        });
    }
    warnings
}
