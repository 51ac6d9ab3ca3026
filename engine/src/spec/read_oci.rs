//! The tables of the OCI parts: mounts, devices, resources, mappings.

use super::decode::{Decoder, Fields, Path};
use super::grammar;
use super::model::FileMode;
use super::node::{Node, Value};
use super::oci::{
    BlockIo, Cpu, Device, DeviceRule, HugepageLimit, IdMapping, InterfacePriority, Memory, Mount,
    Network, Pids, Resources, ThrottleDevice, WeightDevice,
};

/// A mount; what is missing is completed when the bundle is made.
pub(super) fn mount(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Mount> {
    let mut fields = Fields::open(decoder, node, path)?;
    // LinuxKit spells these in lower case here and in camel case elsewhere; both are taken.
    let lower = [
        fields.plain("uidmappings", id_mappings),
        fields.plain("gidmappings", id_mappings),
    ];
    let camel = [
        fields.plain("uidMappings", id_mappings),
        fields.plain("gidMappings", id_mappings),
    ];
    let [uid_mappings, gid_mappings] =
        [0, 1].map(|index| camel[index].clone().or(lower[index].clone()));
    let mount = Mount {
        destination: fields
            .plain("destination", Decoder::string)
            .unwrap_or_default(),
        kind: fields.plain("type", Decoder::string).unwrap_or_default(),
        source: fields.plain("source", Decoder::string).unwrap_or_default(),
        options: fields
            .plain("options", Decoder::strings)
            .unwrap_or_default(),
        uid_mappings: uid_mappings.unwrap_or_default(),
        gid_mappings: gid_mappings.unwrap_or_default(),
    };
    if let Err(message) = mount.completed() {
        fields.report(message);
    }
    fields.close();
    Some(mount)
}

impl Mount {
    /// Fills in type, source and destination where one follows from another.
    ///
    /// # Errors
    /// When type or destination is missing and does not follow.
    pub fn completed(&self) -> Result<Self, String> {
        let mut mount = self.clone();
        if mount.kind.is_empty() {
            mount.kind = match (mount.source.as_str(), mount.destination.as_str()) {
                (source @ ("mqueue" | "devpts" | "proc" | "sysfs" | "cgroup"), _) => {
                    source.to_owned()
                }
                (_, "/dev") => "tmpfs".to_owned(),
                (_, "") => return Err("mount has neither type nor destination".to_owned()),
                (_, destination) => {
                    return Err(format!(
                        "mount for destination \"{destination}\" has no type"
                    ));
                }
            };
        }
        if mount.source.is_empty() && mount.kind != "bind" {
            mount.source.clone_from(&mount.kind);
        }
        if mount.source.is_empty() {
            return Err("bind mount has no source".to_owned());
        }
        if mount.destination.is_empty() {
            mount.destination = match mount.kind.as_str() {
                "proc" => "/proc",
                "devpts" => "/dev/pts",
                "sysfs" => "/sys",
                "cgroup" => "/sys/fs/cgroup",
                "mqueue" => "/dev/mqueue",
                kind => return Err(format!("mount of type \"{kind}\" has no destination")),
            }
            .to_owned();
        }
        Ok(mount)
    }
}

/// A mount of `runtime.mounts`, which the guest makes exactly as given.
pub(super) fn runtime_mount(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Mount> {
    let mut fields = Fields::open(decoder, node, path)?;
    let mount = Mount {
        destination: fields
            .plain("destination", Decoder::string)
            .unwrap_or_default(),
        kind: fields.plain("type", Decoder::string).unwrap_or_default(),
        source: fields.plain("source", Decoder::string).unwrap_or_default(),
        options: fields
            .plain("options", Decoder::strings)
            .unwrap_or_default(),
        uid_mappings: fields.plain("uidmappings", id_mappings).unwrap_or_default(),
        gid_mappings: fields.plain("gidmappings", id_mappings).unwrap_or_default(),
    };
    fields.close();
    Some(mount)
}

/// A list of id mappings.
pub(super) fn id_mappings(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Vec<IdMapping>> {
    decoder.list(node, path, |decoder, node, path| {
        let mut fields = Fields::open(decoder, node, path)?;
        let mapping = IdMapping {
            container_id: fields
                .plain("containerID", Decoder::number)
                .unwrap_or_default(),
            host_id: fields.plain("hostID", Decoder::number).unwrap_or_default(),
            size: fields.plain("size", Decoder::number).unwrap_or_default(),
        };
        fields.close();
        Some(mapping)
    })
}

/// A quoted octal string; the usual mistake is to leave the quotes out.
pub(super) fn mode(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<FileMode> {
    if let Value::Integer(_, text) = &node.value {
        let message = format!("expected a quoted octal mode, found the number {text}");
        let digits = text.trim_start_matches("0o");
        decoder.report_hint(
            &node.range,
            path,
            message,
            format!("quote it: \"{digits}\""),
        );
        return None;
    }
    decoder.parsed(node, path, grammar::mode)
}

/// A device.
pub(super) fn device(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Device> {
    let mut fields = Fields::open(decoder, node, path)?;
    let name = fields.required("path", Decoder::string);
    let kind = fields.field("type", Decoder::string);
    let major = fields.plain("major", Decoder::number).unwrap_or_default();
    let minor = fields.plain("minor", Decoder::number).unwrap_or_default();
    let is_all = name.as_ref().is_some_and(|name| name.value == "all");
    let mode = if is_all {
        fields.field("mode", mode)
    } else {
        fields.required("mode", mode)
    };
    let kinds: &[&str] = if is_all {
        &["", "a", "b", "c"]
    } else {
        &["b", "c", "u", "p"]
    };
    match &kind {
        Some(kind) if !kinds.contains(&kind.as_str()) => {
            let hint = format!("known types: {}", kinds.join(" ").trim());
            let message = format!("unknown device type \"{}\"", super::node::clip(kind));
            let range = fields
                .entry("type")
                .map_or(fields.range.clone(), |entry| entry.value.range.clone());
            fields.decoder.report_hint(&range, path, message, hint);
        }
        None if !is_all => fields.report("type is required"),
        _ => {}
    }
    fields.close();
    Some(Device {
        path: name?.value,
        kind: kind.map_or_else(String::new, |kind| kind.value),
        major,
        minor,
        mode: mode.map(|mode| mode.value),
    })
}

/// Control group limits.
pub(super) fn resources(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Resources> {
    let mut fields = Fields::open(decoder, node, path)?;
    let resources = Resources {
        devices: fields
            .plain("devices", |d, n, p| d.list(n, p, device_rule))
            .unwrap_or_default(),
        memory: fields.plain("memory", memory),
        cpu: fields.plain("cpu", cpu),
        pids: fields.plain("pids", pids),
        block_io: fields.plain("blockio", block_io),
        hugepage_limits: fields
            .plain("hugepageLimits", |d, n, p| d.list(n, p, hugepage_limit))
            .unwrap_or_default(),
        network: fields.plain("network", network),
    };
    fields.close();
    Some(resources)
}

fn device_rule(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<DeviceRule> {
    let mut fields = Fields::open(decoder, node, path)?;
    let rule = DeviceRule {
        allow: fields.plain("allow", Decoder::boolean).unwrap_or_default(),
        kind: fields.plain("type", Decoder::string).unwrap_or_default(),
        major: fields.plain("major", Decoder::number),
        minor: fields.plain("minor", Decoder::number),
        access: fields.plain("access", Decoder::string).unwrap_or_default(),
    };
    fields.close();
    Some(rule)
}

fn memory(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Memory> {
    let mut fields = Fields::open(decoder, node, path)?;
    let memory = Memory {
        limit: fields.plain("limit", Decoder::number),
        reservation: fields.plain("reservation", Decoder::number),
        swap: fields.plain("swap", Decoder::number),
        kernel: fields.plain("kernel", Decoder::number),
        kernel_tcp: fields.plain("kernelTCP", Decoder::number),
        swappiness: fields.plain("swappiness", Decoder::number),
        disable_oom_killer: fields.plain("disableOOMKiller", Decoder::boolean),
    };
    fields.close();
    Some(memory)
}

fn cpu(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Cpu> {
    let mut fields = Fields::open(decoder, node, path)?;
    let cpu = Cpu {
        shares: fields.plain("shares", Decoder::number),
        quota: fields.plain("quota", Decoder::number),
        period: fields.plain("period", Decoder::number),
        realtime_runtime: fields.plain("realtimeRuntime", Decoder::number),
        realtime_period: fields.plain("realtimePeriod", Decoder::number),
        cpus: fields.plain("cpus", Decoder::string).unwrap_or_default(),
        mems: fields.plain("mems", Decoder::string).unwrap_or_default(),
    };
    fields.close();
    Some(cpu)
}

fn pids(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Pids> {
    let mut fields = Fields::open(decoder, node, path)?;
    let pids = Pids {
        limit: fields.plain("limit", Decoder::number).unwrap_or_default(),
    };
    fields.close();
    Some(pids)
}

fn block_io(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<BlockIo> {
    let mut fields = Fields::open(decoder, node, path)?;
    let throttle = |d: &mut Decoder<'_>, n: &Node, p: &Path<'_>| d.list(n, p, throttle_device);
    let block_io = BlockIo {
        weight: fields.plain("weight", Decoder::number),
        leaf_weight: fields.plain("leafWeight", Decoder::number),
        weight_device: fields
            .plain("weightDevice", |d, n, p| d.list(n, p, weight_device))
            .unwrap_or_default(),
        throttle_read_bps_device: fields
            .plain("throttleReadBpsDevice", throttle)
            .unwrap_or_default(),
        throttle_write_bps_device: fields
            .plain("throttleWriteBpsDevice", throttle)
            .unwrap_or_default(),
        throttle_read_iops_device: fields
            .plain("throttleReadIOPSDevice", throttle)
            .unwrap_or_default(),
        throttle_write_iops_device: fields
            .plain("throttleWriteIOPSDevice", throttle)
            .unwrap_or_default(),
    };
    fields.close();
    Some(block_io)
}

fn weight_device(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<WeightDevice> {
    let mut fields = Fields::open(decoder, node, path)?;
    let device = WeightDevice {
        major: fields.plain("major", Decoder::number).unwrap_or_default(),
        minor: fields.plain("minor", Decoder::number).unwrap_or_default(),
        weight: fields.plain("weight", Decoder::number),
        leaf_weight: fields.plain("leafWeight", Decoder::number),
    };
    fields.close();
    Some(device)
}

fn throttle_device(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<ThrottleDevice> {
    let mut fields = Fields::open(decoder, node, path)?;
    let device = ThrottleDevice {
        major: fields.plain("major", Decoder::number).unwrap_or_default(),
        minor: fields.plain("minor", Decoder::number).unwrap_or_default(),
        rate: fields.plain("rate", Decoder::number).unwrap_or_default(),
    };
    fields.close();
    Some(device)
}

fn hugepage_limit(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<HugepageLimit> {
    let mut fields = Fields::open(decoder, node, path)?;
    let limit = HugepageLimit {
        page_size: fields.plain("pageSize", page_size).unwrap_or_default(),
        limit: fields.plain("limit", Decoder::number).unwrap_or_default(),
    };
    fields.close();
    Some(limit)
}

/// The specification's `2MB`, or a number of bytes as LinuxKit's schema has it.
fn page_size(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    if matches!(node.value, Value::String(_)) {
        return decoder.string(node, path);
    }
    let bytes: u64 = decoder.number(node, path)?;
    let units = [(30, "GB"), (20, "MB"), (10, "KB")];
    let unit = units
        .iter()
        .find(|(shift, _)| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift);
    let size = unit.map(|(shift, unit)| format!("{}{unit}", bytes >> shift));
    if size.is_none() {
        decoder.report_hint(
            &node.range,
            path,
            format!("{bytes} is not a page size"),
            "write a size such as \"2MB\"",
        );
    }
    size
}

fn network(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Network> {
    let mut fields = Fields::open(decoder, node, path)?;
    let network = Network {
        class_id: fields.plain("classID", Decoder::number),
        priorities: fields
            .plain("priorities", |d, n, p| d.list(n, p, interface_priority))
            .unwrap_or_default(),
    };
    fields.close();
    Some(network)
}

fn interface_priority(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<InterfacePriority> {
    let mut fields = Fields::open(decoder, node, path)?;
    let priority = InterfacePriority {
        name: fields.plain("name", Decoder::string).unwrap_or_default(),
        priority: fields
            .plain("priority", Decoder::number)
            .unwrap_or_default(),
    };
    fields.close();
    Some(priority)
}
