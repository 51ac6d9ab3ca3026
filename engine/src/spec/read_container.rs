//! The table of a container: what a YAML entry and an image label may say.

use super::container::{BindNs, Config, Container, Interface, ListField, Runtime};
use super::decode::{Decoder, Fields, Path};
use super::error::Warning;
use super::grammar;
use super::model::Id;
use super::node::{Node, Value};
use super::read::{container_source, report_no_image};
use super::{builtin, policy, read_oci};

/// One item of a container section.
pub(super) fn container(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Container> {
    let mut fields = Fields::open(decoder, node, path)?;
    let name = fields.required("name", |d, n, p| d.parsed(n, p, grammar::container_name));
    let image = container_source(&mut fields);
    if let Some(None) = image {
        report_no_image(&mut fields, "image, debian or builtin");
    }
    let config = config(&mut fields);
    if fields.present("builtin").is_some() {
        builtin::refuse_keys(&mut fields);
    }
    let at = fields.decoder.at(&fields.range);
    if let Some(name) = name
        .as_ref()
        .filter(|name| name.chars().any(char::is_uppercase))
    {
        let warning = Warning::UpperCaseName {
            name: name.value.clone(),
            at: name.at.clone(),
        };
        fields.decoder.warn(warning);
    }
    fields.close();
    Some(Container {
        at,
        name: name?,
        image: image??,
        config,
    })
}

/// The fields that entries and labels share.
pub(super) fn config(fields: &mut Fields<'_, '_, '_>) -> Config {
    Config {
        capabilities: capabilities(fields, "capabilities"),
        capabilities_add: capabilities(fields, "capabilities.add"),
        ambient: capabilities(fields, "ambient"),
        mounts: fields.items("mounts", read_oci::mount),
        binds: fields.items("binds", |d, n, p| d.parsed(n, p, grammar::bind)),
        binds_add: fields.items("binds.add", |d, n, p| d.parsed(n, p, grammar::bind)),
        devices: fields.field("devices", |d, n, p| d.list(n, p, read_oci::device)),
        tmpfs: fields.field("tmpfs", |d, n, p| {
            d.list(n, p, |d, n, p| d.parsed(n, p, grammar::tmpfs))
        }),
        command: fields.field("command", Decoder::strings),
        env: fields.field("env", Decoder::strings),
        cwd: fields.field("cwd", Decoder::string),
        net: fields.field("net", Decoder::string),
        pid: fields.field("pid", Decoder::string),
        ipc: fields.field("ipc", Decoder::string),
        uts: fields.field("uts", Decoder::string),
        userns: fields.field("userns", Decoder::string),
        hostname: fields.field("hostname", Decoder::string),
        readonly: fields.field("readonly", Decoder::boolean),
        masked_paths: fields.field("maskedPaths", Decoder::strings),
        readonly_paths: fields.field("readonlyPaths", Decoder::strings),
        uid: fields.field("uid", id),
        gid: fields.field("gid", id),
        additional_gids: fields.items("additionalGids", id),
        no_new_privileges: fields.field("noNewPrivileges", Decoder::boolean),
        oom_score_adj: fields.field("oomScoreAdj", Decoder::number),
        rootfs_propagation: fields.field("rootfsPropagation", Decoder::string),
        cgroups_path: fields.field("cgroupsPath", Decoder::string),
        resources: fields.field("resources", read_oci::resources),
        sysctl: fields.field("sysctl", Decoder::string_map),
        rlimits: fields.field("rlimits", |d, n, p| {
            d.list(n, p, |d, n, p| d.parsed(n, p, grammar::rlimit))
        }),
        uid_mappings: fields.field("uidMappings", read_oci::id_mappings),
        gid_mappings: fields.field("gidMappings", read_oci::id_mappings),
        annotations: fields.field("annotations", policy::annotations),
        runtime: fields.field("runtime", runtime),
    }
}

/// A list of capabilities; `none` only makes sense alone.
fn capabilities(fields: &mut Fields<'_, '_, '_>, key: &'static str) -> ListField<String> {
    let list = fields.items(key, |d, n, p| d.parsed(n, p, grammar::capability))?;
    if list.len() > 1 {
        let none = list.iter().find(|name| name.eq_ignore_ascii_case("none"));
        if let Some(at) = none.map(|none| none.at.clone()) {
            let path = Path::Key(fields.path, key).to_string();
            fields
                .decoder
                .errors
                .push(|| at.error(format!("{path}: none stands beside other capabilities")));
        }
    }
    Some(list)
}

/// A number, or the name of a container.
pub(super) fn id(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Id> {
    match &node.value {
        Value::String(name) => Some(Id::Name(name.clone())),
        Value::Integer(..) => decoder.number(node, path).map(Id::Number),
        _ => {
            decoder.mismatch(node, path, "a number or a name");
            None
        }
    }
}

fn runtime(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Runtime> {
    let mut fields = Fields::open(decoder, node, path)?;
    let runtime = Runtime {
        cgroups: fields.field("cgroups", Decoder::strings),
        mounts: fields.field("mounts", |d, n, p| d.list(n, p, read_oci::runtime_mount)),
        mkdir: fields.field("mkdir", Decoder::strings),
        interfaces: fields.field("interfaces", |d, n, p| d.list(n, p, interface)),
        bind_ns: fields.plain("bindNS", bind_ns).unwrap_or_default(),
        namespace: fields.field("namespace", Decoder::string),
    };
    fields.close();
    Some(runtime)
}

fn interface(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Interface> {
    let mut fields = Fields::open(decoder, node, path)?;
    let interface = Interface {
        name: fields.plain("name", Decoder::string).unwrap_or_default(),
        add: fields.plain("add", Decoder::string).unwrap_or_default(),
        peer: fields.plain("peer", Decoder::string).unwrap_or_default(),
        create_in_root: fields
            .plain("createInRoot", Decoder::boolean)
            .unwrap_or_default(),
    };
    fields.close();
    Some(interface)
}

fn bind_ns(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<BindNs> {
    let mut fields = Fields::open(decoder, node, path)?;
    let bind_ns = BindNs {
        cgroup: fields.field("cgroup", Decoder::string),
        ipc: fields.field("ipc", Decoder::string),
        mnt: fields.field("mnt", Decoder::string),
        net: fields.field("net", Decoder::string),
        pid: fields.field("pid", Decoder::string),
        user: fields.field("user", Decoder::string),
        uts: fields.field("uts", Decoder::string),
    };
    fields.close();
    Some(bind_ns)
}

/// What a label may not set, because only the description can.
pub(super) fn refuse_label_keys(fields: &mut Fields<'_, '_, '_>) {
    for key in ["name", "image", "debian", "builtin"] {
        if let Some(range) = fields.entry(key).map(|entry| entry.key_range.clone()) {
            let path = *fields.path;
            fields.decoder.report(
                &range,
                &path,
                format!("{key} cannot be set in an image label"),
            );
        }
    }
}
