//! A Cloud Hypervisor command line for a machine.
//!
//! Enters: a machine, and where its sockets go. Leaves: arguments as `cloud-hypervisor/src/main.rs`
//! takes them, of which each value is what `vmm/src/config.rs` reads, by the rules of
//! `option_parser/src/lib.rs`. Version 52 is the first that knows all of them.

use std::ffi::OsString;
use std::path::Path;

use super::kernel::Kernel;
use super::place::Place;
use super::vsock::GUEST_CID;
use crate::machine::{Machine, Networking};

/// Returns the arguments. The console is a socket when it `has_console`, else only a file.
pub(crate) fn arguments(
    machine: &Machine,
    kernel: Kernel<'_>,
    place: &Place,
    has_console: bool,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: OsString| {
        arguments.push(flag.into());
        arguments.push(value);
    };
    add("--kernel", kernel.image.into());
    if let Some(initrd) = kernel.initrd {
        add("--initramfs", initrd.into());
    }
    add("--cmdline", kernel.cmdline.into());
    add("--cpus", format!("boot={}", machine.cpus).into());
    // The servers of shared directories see the machine's memory (docs/fs.md).
    let shared = if machine.shares > 0 { ",shared=on" } else { "" };
    add(
        "--memory",
        format!("size={}M{shared}", machine.memory).into(),
    );
    // Flags that can be repeated take any number of values: one each, so that none is taken for
    // another's.
    for disk in &machine.disks {
        let value = format!("path={},image_type={}", quoted(&disk.file), disk.format);
        add("--disk", value.into());
    }
    if let Networking::Tap(name) = &machine.networking {
        add("--net", format!("tap={name}").into());
    }
    for index in 0..machine.shares {
        let socket = quoted(&place.share(index));
        add(
            "--fs",
            format!("tag=virtiofs{index},socket={socket}").into(),
        );
    }
    let socket = quoted(&place.vsock());
    add("--vsock", format!("cid={GUEST_CID},socket={socket}").into());
    let serial = match has_console {
        true => format!("socket={}", quoted(&place.console())),
        false => format!("file={}", quoted(&place.console_log())),
    };
    add("--serial", serial.into());
    add("--console", "off".into());
    let api = format!("path={}", quoted(&place.api()));
    add("--api-socket", api.into());
    arguments
}

/// Returns a path as a value, in quotes as far as it needs them. A quote itself cannot be said:
/// [`can_say`].
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    match path.contains([',', '[', ']', ' ']) {
        true => format!("\"{path}\""),
        false => path.into_owned(),
    }
}

/// Returns whether a path can be a value.
pub(crate) fn can_say(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Boot;
    use crate::vm::disk::Disk;

    #[test]
    fn a_machine_is_a_command_line() {
        let machine = Machine {
            boot: Boot::Kernel {
                kernel: "a,b-kernel".into(),
                initrd: Some("a,b-initrd.img".into()),
                cmdline: "console=ttyS0 a,b".into(),
                root: None,
            },
            networking: Networking::Tap("tap0".into()),
            disks: vec![
                Disk {
                    file: "/d/a,b.img".into(),
                    format: "raw".into(),
                },
                Disk {
                    file: "/d/c.qcow2".into(),
                    format: "qcow2".into(),
                },
            ],
            shares: 1,
            ..Machine::plain()
        };
        let place = Place::at(Path::new("/run/a"), "a");
        let text = |has_console| {
            let arguments = arguments(
                &machine,
                Kernel::of(&machine.boot).unwrap(),
                &place,
                has_console,
            );
            let arguments: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
            arguments.join(" ")
        };
        insta::assert_snapshot!(text(true), @r#"--kernel a,b-kernel --initramfs a,b-initrd.img --cmdline console=ttyS0 a,b --cpus boot=2 --memory size=512M,shared=on --disk path="/d/a,b.img",image_type=raw --disk path=/d/c.qcow2,image_type=qcow2 --net tap=tap0 --fs tag=virtiofs0,socket=/run/a/share.0 --vsock cid=3,socket=/run/a/vsock.sock --serial socket=/run/a/console.sock --console off --api-socket path=/run/a/api.sock"#);
        assert!(text(false).contains(" --serial file=/run/a/console.log "));
        assert!(!can_say(Path::new("/a\"b")));
    }
}
