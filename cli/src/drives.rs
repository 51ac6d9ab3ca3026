//! What a machine begins with, and its drives, in QEMU's words.
//!
//! Enters: a [`Machine`]. Leaves: arguments. Disks are SCSI, so that they have the names that
//! LinuxKit's descriptions know. Linux names several SCSI disks as it finds them, in no certain
//! order; so what has to be found by its name is not SCSI.

use std::ffi::OsString;

use crate::firmware::Firmware;
use crate::machine::{Boot, Machine, escaped};
use crate::vm::disk::Disk;

impl Machine {
    /// Returns an option of QEMU's machine. A BIOS shows on the console what boot loaders write on
    /// a screen, as it does for LinuxKit's `-nographic`.
    pub(crate) const fn screen(&self) -> &'static str {
        let is_medium = matches!(self.boot, Boot::Disk(_) | Boot::Disc(_));
        if is_medium && !self.firmware.is_efi() {
            ",graphics=off"
        } else {
            ""
        }
    }

    /// Adds a kernel or how one is looked for, and the firmware.
    pub(crate) fn add_beginning(&self, add: &mut impl FnMut(&str, OsString)) {
        match &self.boot {
            Boot::Kernel {
                kernel,
                initrd,
                cmdline,
                ..
            } => {
                add("-kernel", kernel.into());
                if let Some(initrd) = initrd {
                    add("-initrd", initrd.into());
                }
                add("-append", cmdline.into());
            }
            // Nothing else is tried.
            _ => add("-boot", "strict=on".into()),
        }
        let Firmware { code, variables } = &self.firmware;
        let code = code.iter().map(|code| (code, "on"));
        let flash = code.chain(variables.iter().map(|variables| (variables, "off")));
        for (unit, (Disk { file, format }, read_only)) in flash.enumerate() {
            let file = escaped(file);
            let drive =
                format!("if=pflash,unit={unit},format={format},readonly={read_only},file={file}");
            add("-drive", drive.into());
        }
    }

    /// Adds disks and discs; what the machine begins with comes first.
    pub(crate) fn add_drives(&self, add: &mut impl FnMut(&str, OsString)) {
        let (mut disk, mut disc) = (None, None);
        match &self.boot {
            Boot::Kernel { root: None, .. } => {}
            Boot::Kernel {
                root: Some(root), ..
            } => {
                let drive = "if=none,id=root,format=raw,readonly=on";
                add("-drive", format!("file={},{drive}", escaped(root)).into());
                add("-device", "virtio-blk-pci,drive=root".into());
            }
            Boot::Disk(first) => disk = Some(first),
            Boot::Disc(first) => disc = Some(first),
            Boot::SystemPartition(directory) => {
                // QEMU makes the file system.
                let directory = escaped(directory);
                let node = format!("driver=vvfat,node-name=esp,read-only=on,dir={directory}");
                add("-blockdev", node.into());
                add("-device", "virtio-blk-pci,drive=esp,bootindex=0".into());
            }
        }
        let boot_index = |boots: bool| if boots { ",bootindex=0" } else { "" };
        let disks = disk.into_iter().chain(&self.disks);
        let discs = disc.into_iter().chain(&self.disc);
        if disks.clone().next().is_some() || discs.clone().next().is_some() {
            add("-device", "virtio-scsi-pci".into());
        }
        for (index, Disk { file, format }) in disks.enumerate() {
            let drive = format!(
                "file={},if=none,id=disk{index},format={format}",
                escaped(file)
            );
            add("-drive", drive.into());
            let boot = boot_index(index == 0 && disk.is_some());
            add("-device", format!("scsi-hd,drive=disk{index}{boot}").into());
        }
        for (index, file) in discs.enumerate() {
            let drive = format!("if=none,id=disc{index},format=raw,media=cdrom,readonly=on");
            add("-drive", format!("file={},{drive}", escaped(file)).into());
            let boot = boot_index(index == 0 && disc.is_some());
            add("-device", format!("scsi-cd,drive=disc{index}{boot}").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::machine::model;
    use crate::vm::place::Place;

    #[test]
    fn what_is_booted_comes_first() {
        let disk = |file: &str, format: &str| Disk {
            file: file.into(),
            format: format.into(),
        };
        let boots = |boot: Boot, firmware: Firmware| {
            let machine = Machine {
                boot,
                firmware,
                disks: vec![disk("a,b.img", "raw")],
                disc: Some("d.iso".into()),
                ..Machine::plain()
            };
            let place = Place::at(Path::new("/run/a"), "a");
            let arguments = machine.arguments(&model("amd64").unwrap(), &place, false);
            let arguments = arguments.iter().map(|a| a.to_str().unwrap());
            arguments.collect::<Vec<_>>().join(" ")
        };
        let firmware = Firmware {
            code: Some(disk("code.fd", "raw")),
            variables: Some(disk("v.qcow2", "qcow2")),
        };
        for (text, parts) in [
            (
                boots(Boot::Disk(disk("b.qcow2", "qcow2")), firmware),
                &[
                    " -boot strict=on -drive if=pflash,unit=0,format=raw,readonly=on,file=code.fd -drive if=pflash,unit=1,format=qcow2,readonly=off,file=v.qcow2 ",
                    " -drive file=b.qcow2,if=none,id=disk0,format=qcow2 -device scsi-hd,drive=disk0,bootindex=0 ",
                    " -drive file=a,,b.img,if=none,id=disk1,format=raw -device scsi-hd,drive=disk1 ",
                ][..],
            ),
            (
                boots(Boot::Disc("b.iso".into()), Firmware::default()),
                &[
                    "-machine q35,graphics=off -accel",
                    "file=b.iso,if=none,id=disc0,format=raw,media=cdrom,readonly=on -device scsi-cd,drive=disc0,bootindex=0 ",
                    "file=d.iso,if=none,id=disc1,format=raw,media=cdrom,readonly=on -device scsi-cd,drive=disc1 ",
                ],
            ),
            (
                boots(Boot::SystemPartition("e,f".into()), Firmware::default()),
                &[
                    "-blockdev driver=vvfat,node-name=esp,read-only=on,dir=e,,f -device virtio-blk-pci,drive=esp,bootindex=0 ",
                ],
            ),
            (
                boots(
                    Boot::Kernel {
                        kernel: "k".into(),
                        initrd: None,
                        cmdline: "root=/dev/vda".into(),
                        root: Some("r.img".into()),
                    },
                    Firmware::default(),
                ),
                &[
                    "-kernel k -append root=/dev/vda ",
                    "-drive file=r.img,if=none,id=root,format=raw,readonly=on -device virtio-blk-pci,drive=root ",
                    "-drive file=a,,b.img,if=none,id=disk0,format=raw -device scsi-hd,drive=disk0 ",
                ],
            ),
        ] {
            for part in parts {
                assert!(text.contains(part), "no {part} in {text}");
            }
        }
    }
}
