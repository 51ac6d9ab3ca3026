//! Every key of a description: its type and what it is for, in the words an editor shows.

use super::Kind::{Any, Bool, Like, List, Map, Number, Some, Strings, Text, Usually, Words};
use super::builtin::JOBS;
use super::{Key, Kind, Object, Pattern, Rule};

/// One line a key: `"name": kind, "text";`.
macro_rules! keys {
    ($($name:literal: $kind:expr, $text:expr;)*) => {
        &[$(Key { name: $name, kind: $kind, text: $text }),*]
    };
}

/// A mapping whose keys have nothing to do with each other; it is named when used in many places.
const fn plain(name: &'static str, keys: &'static [&'static [Key]]) -> Object {
    Object {
        name,
        keys,
        required: &[],
        rule: Rule::Free,
    }
}

const I64: Kind = Number(i64::MIN, i64::MAX as u64);
const U64: Kind = Number(0, u64::MAX);
const U32: Kind = Number(0, u32::MAX as u64);
const U16: Kind = Number(0, u16::MAX as u64);
const I32: Kind = Number(i32::MIN as i64, i32::MAX as u64);

const TEXTS: Kind = List(&Text);
const CAPABILITIES: Kind = List(&Like(Pattern::Capability));
const BINDS: Kind = List(&Like(Pattern::Bind));
const NAMESPACE: Kind = Usually(&["host", "new"]);
const NAMESPACE_OR_NONE: Kind = Usually(&["host", "new", "none"]);
/// A number, or the name of a container that was given one.
const ID: Kind = Any(&[U32, Text]);
const MAPPINGS: Kind = List(&Map(&MAPPING));
const THROTTLES: Kind = List(&Map(&THROTTLE));
const MOUNTS: Kind = List(&Map(&MOUNT));
const DEVICES: Kind = List(&Map(&DEVICE));
const CONTAINERS: Kind = List(&Map(&CONTAINER));

/// The whole document.
pub(super) static SYSTEM: Object = plain(
    "",
    &[keys! {
        "kernel": Map(&KERNEL), "The kernel, its command line and its modules.";
        "init": List(&Any(&[Words(&["kiln"]), Like(Pattern::Image), Map(&IMAGE)])), "What is unpacked into /, in order: images, Debian packages, or kiln, the built-in PID 1.";
        "onboot": CONTAINERS, "Containers run one after another at boot.";
        "onshutdown": CONTAINERS, "Containers run one after another at shutdown.";
        "services": CONTAINERS, "Containers that keep running; their names are unique.";
        "files": List(&Map(&FILE)), "Single files, directories and links of the root file system.";
        "volumes": List(&Map(&VOLUME)), "Named directories that containers share.";
        "trust": Map(&TRUST), "LinuxKit's; without effect, since images are verified by digest.";
    }],
);

const IMAGE_TEXT: &str = "Image reference: NAME[:TAG][@DIGEST], oci:DIR, docker-archive:FILE, directory:DIR or @pkg:DIR.";
const DEBIAN_TEXT: &str = "A tree made of Debian packages, in place of an image.";

static IMAGE: Object = Object {
    name: "image",
    keys: &[keys! {
        "image": Like(Pattern::Image), IMAGE_TEXT;
        "debian": Map(&DEBIAN), DEBIAN_TEXT;
    }],
    required: &[],
    rule: Rule::OneImage,
};

static DEBIAN: Object = Object {
    name: "debian",
    keys: &[keys! {
        "suite": Like(Pattern::Suite), "Suite or code name, such as bookworm; the host's own without it.";
        "packages": Some(&Like(Pattern::Package)), "What to install, with all it depends on: NAME, NAME:ARCH or NAME=VERSION.";
        "mirror": Like(Pattern::Mirror), "Base URL of a mirror; the host's apt sources without it.";
        "keyring": Text, "Keyring the mirror's InRelease is verified with; the host's without it.";
    }],
    required: &["packages"],
    rule: Rule::Free,
};

static KERNEL: Object = Object {
    name: "",
    keys: &[keys! {
        "image": Like(Pattern::ImageOrEmpty), IMAGE_TEXT;
        "debian": Map(&DEBIAN), DEBIAN_TEXT;
        "cmdline": Text, "Kernel command line, verbatim.";
        "binary": Text, "File name of the kernel in the image; kernel by default.";
        "tar": Text, "File name of the tar in the image that is unpacked into /; kernel.tar by default, none for none.";
        "ucode": Text, "File name of the microcode cpio in the image.";
        "modules": Any(&[Words(&["all"]), TEXTS]), "Modules to keep, with what they need: all, or names and globs.";
    }],
    required: &[],
    rule: Rule::AtMostOneImage,
};

static TRUST: Object = plain(
    "",
    &[keys! {
        "image": TEXTS, "Images that were to be trusted.";
        "org": TEXTS, "Organisations that were to be trusted.";
    }],
);

static VOLUME: Object = Object {
    name: "",
    keys: &[keys! {
        "name": Like(Pattern::VolumeName), "Name that mounts and binds refer to; unique.";
        "image": Like(Pattern::ImageOrEmpty), IMAGE_TEXT;
        "debian": Map(&DEBIAN), DEBIAN_TEXT;
        "readonly": Bool, "Containers may only read it.";
        "format": Words(&["filesystem", "oci"]), "How an image is stored: its files (default), or as an OCI layout.";
        "platforms": List(&Like(Pattern::Platform)), "Platforms kept in an OCI layout; all without it.";
    }],
    required: &["name"],
    rule: Rule::AtMostOneImage,
};

static FILE: Object = Object {
    name: "",
    keys: &[keys! {
        "path": Like(Pattern::FilePath), "Path in the system; missing directories above it are made.";
        "directory": Bool, "It is a directory.";
        "symlink": Text, "It is a symbolic link to this target.";
        "contents": Text, "It is a file with this text.";
        "source": Text, "It is a copy of this file of the host, relative to the working directory; ~/ is the home.";
        "metadata": Words(&["", "yaml", "json"]), "It is the merged description itself.";
        "optional": Bool, "Leave it out when the source does not exist.";
        "mode": Like(Pattern::ModeOrEmpty), "Permission bits, quoted octal; 0600 by default, 0700 for directories.";
        "uid": ID, "Owner: a number, or the name of a container.";
        "gid": ID, "Group: a number, or the name of a container.";
    }],
    required: &["path"],
    rule: Rule::Content,
};

const ENTRY: &[Key] = keys! {
    "name": Like(Pattern::ContainerName), "Name of the container and of its directory.";
    "image": Like(Pattern::Image), IMAGE_TEXT;
    "debian": Map(&DEBIAN), DEBIAN_TEXT;
    "builtin": Words(JOBS), "A job that kiln's own init does itself, in place of an image.";
};

/// One item of `onboot`, `onshutdown` or `services`.
pub(super) static CONTAINER: Object = Object {
    name: "container",
    keys: &[ENTRY, CONFIG],
    required: &["name"],
    rule: Rule::OneSource,
};

/// What an image says about how to run it.
pub(super) static LABEL: Object = Object {
    name: "",
    keys: &[CONFIG],
    required: &[],
    rule: Rule::Free,
};

/// What entries and labels share.
const CONFIG: &[Key] = keys! {
    "capabilities": CAPABILITIES, "Capabilities: CAP_ names, all, or none; replaces the label's.";
    "capabilities.add": CAPABILITIES, "Capabilities beside those of the image's label.";
    "ambient": CAPABILITIES, "Ambient capabilities, for processes that are not root.";
    "mounts": MOUNTS, "Mounts inside the container.";
    "binds": BINDS, "SOURCE:DESTINATION[:OPTIONS]; SOURCE is absolute or a volume; replaces the label's.";
    "binds.add": BINDS, "Binds beside those of the image's label.";
    "devices": DEVICES, "Device nodes, with leave to use them.";
    "tmpfs": List(&Like(Pattern::Tmpfs)), "DESTINATION[:OPTIONS], file systems in memory.";
    "command": TEXTS, "Command and arguments; the image's entrypoint and command without it. Of a built-in job its arguments.";
    "env": TEXTS, "Environment, NAME=VALUE; replaces the image's.";
    "cwd": Text, "Working directory; the image's, or /, without it.";
    "net": NAMESPACE_OR_NONE, "Network namespace: host (default), new, none (a new one), or the path of one.";
    "pid": NAMESPACE, "Process namespace: new (default), host, or the path of one.";
    "ipc": NAMESPACE_OR_NONE, "IPC namespace: host (default), new, none (a new one), or the path of one.";
    "uts": NAMESPACE_OR_NONE, "Host name namespace: host (default), new, none (a new one), or the path of one.";
    "userns": NAMESPACE, "User namespace: host (default), new, or the path of one.";
    "hostname": Text, "Host name inside.";
    "readonly": Bool, "The root file system is read-only; writable in memory without it.";
    "maskedPaths": TEXTS, "Paths hidden in the container.";
    "readonlyPaths": TEXTS, "Paths read-only in the container.";
    "uid": ID, "User: a number, or the name of a container; 0 by default.";
    "gid": ID, "Group: a number, or the name of a container; 0 by default.";
    "additionalGids": List(&ID), "Supplementary groups.";
    "noNewPrivileges": Bool, "execve grants no privileges.";
    "oomScoreAdj": I32, "How willingly the kernel kills it for memory, -1000 to 1000.";
    "rootfsPropagation": Usually(&["private", "shared", "slave", "unbindable"]), "Mount propagation of the root.";
    "cgroupsPath": Text, "Control group; the runtime's choice without it.";
    "resources": Map(&RESOURCES), "Limits of the control group.";
    "sysctl": Strings, "Kernel parameters of its namespaces; the values are strings.";
    "rlimits": List(&Like(Pattern::Rlimit)), "NAME,SOFT,HARD, such as nofile,1024,unlimited.";
    "uidMappings": MAPPINGS, "User ids of the user namespace.";
    "gidMappings": MAPPINGS, "Group ids of the user namespace.";
    "annotations": Strings, "Annotations for the runtime.";
    "runtime": Map(&RUNTIME), "What the init does around the container.";
};

static MOUNT: Object = plain(
    "mount",
    &[keys! {
        "destination": Text, "Mount point; follows from type for proc, devpts, sysfs, cgroup and mqueue.";
        "type": Text, "File system type, or bind.";
        "source": Text, "Device, absolute path or volume; the type without it.";
        "options": TEXTS, "Options, as for mount(8).";
        "uidmappings": MAPPINGS, "User ids of an idmapped mount, in LinuxKit's spelling.";
        "gidmappings": MAPPINGS, "Group ids of an idmapped mount, in LinuxKit's spelling.";
        "uidMappings": MAPPINGS, "User ids of an idmapped mount.";
        "gidMappings": MAPPINGS, "Group ids of an idmapped mount.";
    }],
);

static RUNTIME_MOUNT: Object = plain(
    "",
    &[keys! {
        "destination": Text, "Mount point in the system.";
        "type": Text, "File system type.";
        "source": Text, "Device, path or keyword.";
        "options": TEXTS, "Options, as for mount(8).";
        "uidmappings": MAPPINGS, "User ids of an idmapped mount.";
        "gidmappings": MAPPINGS, "Group ids of an idmapped mount.";
    }],
);

static MAPPING: Object = plain(
    "mapping",
    &[keys! {
        "containerID": U32, "First id inside.";
        "hostID": U32, "First id outside.";
        "size": U32, "How many.";
    }],
);

static DEVICE: Object = Object {
    name: "",
    keys: &[keys! {
        "path": Text, "Path of the node; all gives leave without making one.";
        "type": Words(&["", "a", "b", "c", "u", "p"]), "Block, character or pipe; for all also a, any.";
        "major": I64, "Major number.";
        "minor": I64, "Minor number.";
        "mode": Like(Pattern::Mode), "Permission bits, quoted octal.";
    }],
    required: &["path"],
    rule: Rule::Device,
};

static RESOURCES: Object = plain(
    "",
    &[keys! {
        "devices": List(&Map(&DEVICE_RULE)), "Rules about devices, in order.";
        "memory": Map(&MEMORY), "Memory, in bytes; -1 is unlimited.";
        "cpu": Map(&CPU), "Processors.";
        "pids": Map(&PIDS), "Processes.";
        "blockio": Map(&BLOCK_IO), "Block devices.";
        "hugepageLimits": List(&Map(&HUGEPAGE)), "Huge pages, by size.";
        "network": Map(&NETWORK), "Network classes and priorities (cgroup v1).";
    }],
);

static DEVICE_RULE: Object = plain(
    "",
    &[keys! {
        "allow": Bool, "Allow, or deny (default).";
        "type": Usually(&["a", "b", "c"]), "Any, block or character.";
        "major": I64, "Major number; all without it.";
        "minor": I64, "Minor number; all without it.";
        "access": Text, "Any of r, w and m (make).";
    }],
);

static MEMORY: Object = plain(
    "",
    &[keys! {
        "limit": I64, "Bytes at most.";
        "reservation": I64, "Bytes to come down to under pressure.";
        "swap": I64, "Bytes of memory and swap together.";
        "kernel": I64, "Bytes of kernel memory.";
        "kernelTCP": I64, "Bytes of TCP buffers.";
        "swappiness": U64, "0 to 100.";
        "disableOOMKiller": Bool, "Let it hang instead of killing it.";
    }],
);

static CPU: Object = plain(
    "",
    &[keys! {
        "shares": U64, "Relative weight.";
        "quota": I64, "Microseconds per period.";
        "period": U64, "Microseconds.";
        "realtimeRuntime": I64, "Real-time microseconds per period.";
        "realtimePeriod": U64, "Microseconds.";
        "cpus": Text, "Processors, such as 0-3,7.";
        "mems": Text, "Memory nodes, such as 0-1.";
    }],
);

static PIDS: Object = plain(
    "",
    &[keys! {
        "limit": I64, "At most this many.";
    }],
);

static BLOCK_IO: Object = plain(
    "",
    &[keys! {
        "weight": U16, "Relative weight, 10 to 1000.";
        "leafWeight": U16, "Relative weight of its own processes.";
        "weightDevice": List(&Map(&WEIGHT)), "Weights by device.";
        "throttleReadBpsDevice": THROTTLES, "Bytes read per second, by device.";
        "throttleWriteBpsDevice": THROTTLES, "Bytes written per second, by device.";
        "throttleReadIOPSDevice": THROTTLES, "Reads per second, by device.";
        "throttleWriteIOPSDevice": THROTTLES, "Writes per second, by device.";
    }],
);

static WEIGHT: Object = plain(
    "",
    &[keys! {
        "major": I64, "Major number.";
        "minor": I64, "Minor number.";
        "weight": U16, "Relative weight.";
        "leafWeight": U16, "Relative weight of its own processes.";
    }],
);

static THROTTLE: Object = plain(
    "throttle",
    &[keys! {
        "major": I64, "Major number.";
        "minor": I64, "Minor number.";
        "rate": U64, "Per second.";
    }],
);

static HUGEPAGE: Object = plain(
    "",
    &[keys! {
        "pageSize": Any(&[Text, U64]), "Size such as 2MB; a number is one of bytes.";
        "limit": U64, "Bytes at most.";
    }],
);

static NETWORK: Object = plain(
    "",
    &[keys! {
        "classID": U32, "Class of net_cls.";
        "priorities": List(&Map(&PRIORITY)), "Priorities by interface.";
    }],
);

static PRIORITY: Object = plain(
    "",
    &[keys! {
        "name": Text, "Interface.";
        "priority": U32, "Priority.";
    }],
);

static RUNTIME: Object = plain(
    "",
    &[keys! {
        "cgroups": TEXTS, "Control groups to make.";
        "mounts": List(&Map(&RUNTIME_MOUNT)), "Mounts in the system before the container starts.";
        "mkdir": TEXTS, "Directories to make in the system.";
        "interfaces": List(&Map(&INTERFACE)), "Network interfaces to make or to move inside.";
        "bindNS": Map(&BIND_NS), "Where to bind the container's namespaces.";
        "namespace": Text, "Namespace of containerd.";
    }],
);

static INTERFACE: Object = plain(
    "",
    &[keys! {
        "name": Text, "Name inside the container.";
        "add": Text, "Kind to make, such as veth; moved inside without it.";
        "peer": Text, "Name of the other end of a veth.";
        "createInRoot": Bool, "Make it in the system's own namespace.";
    }],
);

static BIND_NS: Object = plain(
    "",
    &[keys! {
        "cgroup": Text, "Path for the control group namespace.";
        "ipc": Text, "Path for the IPC namespace.";
        "mnt": Text, "Path for the mount namespace.";
        "net": Text, "Path for the network namespace.";
        "pid": Text, "Path for the process namespace.";
        "user": Text, "Path for the user namespace.";
        "uts": Text, "Path for the host name namespace.";
    }],
);
