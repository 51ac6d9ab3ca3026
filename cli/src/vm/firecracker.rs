//! Firecracker's configuration for a machine: the file of `--config-file`, and the arguments.
//!
//! Enters: a machine, and where its sockets go. Leaves: JSON as `VmmConfig` reads it (Firecracker's
//! `src/vmm/src/resources.rs`; what is in each part is in `src/vmm/src/vmm_config/`), and arguments
//! (`src/firecracker/src/main.rs`). The machine begins at once, and the socket stays open: Firecracker
//! does so with a configuration file when there is no `--no-api`.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use super::kernel::Kernel;
use super::place::Place;
use super::vsock::GUEST_CID;
use crate::machine::{Machine, Networking};

/// Most processors (`MAX_SUPPORTED_VCPUS` of `vmm_config/machine_config.rs`).
pub(crate) const CPUS_MAX: u16 = 32;

/// Words for the kernel of a machine on x86. A reset by the keyboard controller is what Firecracker
/// ends at (`docs/api_requests/actions.md`), and it has no other way to power off.
const X86_WORDS: &str = " reboot=k kiln.poweroff=reset";

/// Returns the configuration; none when a path of it is not Unicode, which JSON cannot hold.
pub(crate) fn config(machine: &Machine, kernel: Kernel<'_>, place: &Place) -> Option<Value> {
    let words = match machine.architecture.as_str() {
        "amd64" => X86_WORDS,
        _ => "",
    };
    // `vmm_config/drive.rs`. What the guest flushes is written (`block/mod.rs`).
    let drive = |(index, path): (usize, &Path)| -> Option<Value> {
        Some(json!({
            "drive_id": format!("disk{index}"),
            "path_on_host": path.to_str()?,
            "is_root_device": false,
            "is_read_only": false,
            "cache_type": "Writeback",
        }))
    };
    let disks = machine.disks.iter().map(|disk| disk.file.as_path());
    let drives: Option<Vec<Value>> = disks.enumerate().map(drive).collect();
    // `vmm_config/net.rs`. The guest makes up an address of its own.
    let interfaces: Vec<Value> = match &machine.networking {
        Networking::Tap(name) => vec![json!({"iface_id": "net0", "host_dev_name": name})],
        _ => Vec::new(),
    };
    let initrd = match kernel.initrd {
        Some(initrd) => Some(initrd.to_str()?),
        None => None,
    };
    Some(json!({
        // `vmm_config/boot_source.rs`.
        "boot-source": {
            "kernel_image_path": kernel.image.to_str()?,
            "initrd_path": initrd,
            "boot_args": format!("{}{words}", kernel.cmdline),
        },
        // `vmm_config/machine_config.rs`.
        "machine-config": {"vcpu_count": machine.cpus, "mem_size_mib": machine.memory},
        "drives": drives?,
        "network-interfaces": interfaces,
        // `vmm_config/vsock.rs`.
        "vsock": {"guest_cid": GUEST_CID, "uds_path": place.vsock().to_str()?},
        // `vmm_config/entropy.rs`.
        "entropy": {},
    }))
}

/// Returns the arguments. Standard output is the machine's serial line, so what Firecracker notes goes
/// to a file.
pub(crate) fn arguments(place: &Place) -> Vec<OsString> {
    vec![
        "--api-sock".into(),
        place.api().into(),
        "--config-file".into(),
        place.config().into(),
        "--log-path".into(),
        place.notes().into(),
        "--level".into(),
        "Warning".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::disk::Disk;

    #[test]
    fn a_machine_is_a_configuration() {
        let machine = Machine {
            networking: Networking::Tap("tap0".into()),
            disks: vec![Disk {
                file: "/d/a \"b\".img".into(),
                format: "raw".into(),
            }],
            ..Machine::plain()
        };
        let place = Place::at(Path::new("/run/a"), "a");
        let config = config(&machine, Kernel::of(&machine.boot).unwrap(), &place).unwrap();
        insta::assert_snapshot!(format!("{config:#}"), @r#"
        {
          "boot-source": {
            "kernel_image_path": "box-kernel",
            "initrd_path": "box-initrd.img",
            "boot_args": "console=ttyS0 reboot=k kiln.poweroff=reset"
          },
          "machine-config": {
            "vcpu_count": 2,
            "mem_size_mib": 512
          },
          "drives": [
            {
              "drive_id": "disk0",
              "path_on_host": "/d/a \"b\".img",
              "is_root_device": false,
              "is_read_only": false,
              "cache_type": "Writeback"
            }
          ],
          "network-interfaces": [
            {
              "iface_id": "net0",
              "host_dev_name": "tap0"
            }
          ],
          "vsock": {
            "guest_cid": 3,
            "uds_path": "/run/a/vsock.sock"
          },
          "entropy": {}
        }
        "#);
        let arguments = arguments(&place);
        let arguments: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        insta::assert_snapshot!(arguments.join(" "), @"--api-sock /run/a/api.sock --config-file /run/a/config.json --log-path /run/a/notes.log --level Warning");
    }

    #[test]
    fn other_architectures_power_off_by_themselves() {
        let machine = Machine {
            architecture: "arm64".into(),
            ..Machine::plain()
        };
        let place = Place::at(Path::new("/run/a"), "a");
        let config = config(&machine, Kernel::of(&machine.boot).unwrap(), &place).unwrap();
        assert_eq!(config["boot-source"]["boot_args"], "console=ttyS0");
        assert_eq!(config["network-interfaces"], json!([]));
        assert_eq!(config["drives"], json!([]));
    }
}
