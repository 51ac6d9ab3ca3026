//! `--vmm`: which program runs the machine, what it cannot do, and how it is told about the machine.
//!
//! Enters: the command line. Leaves: a program and its arguments, or what to do instead.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use kiln_engine::build::Request;
use kiln_engine::system::kernel::kind_of_image;

use super::what::What;
use super::{find_program, missing_program, request};
use crate::args::{Accel, Run, Vmm};
use crate::failure::Failure;
use crate::kvm;
use crate::machine::{Machine, Model, Networking, is_interface, model};
use crate::vm::kernel::Kernel;
use crate::vm::monitor::Monitor;
use crate::vm::place::Place;
use crate::vm::{cloud_hypervisor, firecracker};

/// As much of a kernel says what kind of image it is in.
const KERNEL_HEAD_BYTES: u64 = 4096;

/// A monitor that is there, and can do what is wanted.
pub(super) struct Chosen {
    pub(super) monitor: Monitor,
    pub(super) program: PathBuf,
    /// What QEMU is to be.
    model: Model,
}

/// Finds the monitor, and refuses what it cannot do: before anything is built, which would be in vain.
pub(super) fn choose(arguments: &Run, architecture: &str) -> Result<Chosen, Failure> {
    let monitor = monitor(arguments.vmm);
    let no_model = || Failure::usage(format!("kiln boots no {architecture}"), None);
    let model = model(architecture).ok_or_else(no_model)?;
    if monitor == Monitor::Qemu {
        return qemu(arguments, model);
    }
    check(arguments, monitor, architecture)?;
    if let Some(trouble) = kvm::missing() {
        let message = format!("{} needs KVM: {trouble}", monitor.name());
        return Err(Failure::failed(
            message,
            None,
            Some(
                "--vmm qemu boots the system without it, slowly; KVM is there when the processor's \
                 virtualisation is on and the module kvm_intel or kvm_amd is loaded, and open to \
                 members of the group kvm"
                    .to_owned(),
            ),
        ));
    }
    let (program, releases) = match monitor {
        Monitor::Firecracker => ("firecracker", "firecracker-microvm/firecracker"),
        _ => ("cloud-hypervisor", "cloud-hypervisor/cloud-hypervisor"),
    };
    let program = find_program(program).ok_or_else(|| {
        let hint = format!(
            "put the static program of https://github.com/{releases}/releases into a directory of PATH"
        );
        Failure::failed(format!("{program} is not installed"), None, Some(hint))
    })?;
    Ok(Chosen {
        monitor,
        program,
        model,
    })
}

const fn monitor(vmm: Vmm) -> Monitor {
    match vmm {
        Vmm::Firecracker => Monitor::Firecracker,
        Vmm::CloudHypervisor => Monitor::CloudHypervisor,
        Vmm::Qemu | Vmm::Hyperv => Monitor::Qemu,
    }
}

fn qemu(arguments: &Run, model: Model) -> Result<Chosen, Failure> {
    // A switch of Hyper-V may be called anything.
    if let Networking::Bridge(name) = &arguments.networking
        && !is_interface(name)
    {
        let message = format!("--networking: \"{name}\" is not the name of a bridge");
        return Err(Failure::usage(message, None));
    }
    let program =
        find_program(model.program).ok_or_else(|| missing_program(model.program, model.package))?;
    Ok(Chosen {
        monitor: Monitor::Qemu,
        program,
        model,
    })
}

/// Refuses what another monitor than QEMU cannot do.
fn check(arguments: &Run, monitor: Monitor, architecture: &str) -> Result<(), Failure> {
    let name = monitor.name();
    let refused = |what: String, instead: &'static str| Err::<(), _>(Failure::usage(what, instead));
    let native = request::architecture(None).is_ok_and(|host| host == architecture);
    if !native || (monitor == Monitor::Firecracker && architecture == "riscv64") {
        return refused(
            format!("{name} runs no {architecture} on this machine"),
            "--vmm qemu emulates other processors",
        );
    }
    if arguments.accel == Accel::Tcg {
        return refused(
            format!("--accel tcg: {name} runs machines by KVM only"),
            "leave it out, or say --vmm qemu",
        );
    }
    if arguments.media.is_efi() || arguments.media.iso || arguments.media.squashfs {
        return refused(
            format!("--iso, --squashfs, --uefi and --fw: {name} boots a kernel and an initrd"),
            "give a description or their prefix, or say --vmm qemu",
        );
    }
    if !arguments.publish.is_empty() {
        return refused(
            format!("--publish: {name} forwards no ports"),
            "with --networking tap,NAME the machine has an address of its own; or say --vmm qemu",
        );
    }
    match &arguments.networking {
        Networking::User => {
            return refused(
                format!("--networking user, which is the default, is QEMU's: {name} has none"),
                "say --networking tap,NAME with an interface that is there (ip tuntap add NAME mode \
                 tap), or --networking none",
            );
        }
        Networking::Bridge(_) => {
            return refused(
                format!("--networking bridge,BRIDGE is QEMU's: {name} has none"),
                "put an interface into the bridge (ip tuntap add NAME mode tap; ip link set NAME \
                 master BRIDGE), and say --networking tap,NAME",
            );
        }
        Networking::Tap(_) | Networking::None => {}
    }
    if arguments.data.is_some() || arguments.data_file.is_some() {
        return refused(
            format!("--data and --data-file: {name} has no disc"),
            "give a disk with the data (--disk FILE), which is /dev/vda, or say --vmm qemu",
        );
    }
    if monitor == Monitor::Firecracker {
        return check_firecracker(arguments);
    }
    let wrong = arguments
        .disk
        .iter()
        .find(|disk| !["raw", "qcow2", "vhdx"].contains(&disk.format().as_str()));
    match wrong {
        Some(disk) => refused(
            format!("--disk: {name} reads no {} images", disk.format()),
            "it reads raw, qcow2 and vhdx; qemu-img convert makes one of the other",
        ),
        None => Ok(()),
    }
}

fn check_firecracker(arguments: &Run) -> Result<(), Failure> {
    if !arguments.virtiofs.is_empty() || !arguments.volume.is_empty() {
        return Err(Failure::usage(
            "--virtiofs and --volume: Firecracker shares no directories",
            "put the files into the system or onto a disk, or say --vmm cloud-hypervisor or qemu",
        ));
    }
    if arguments.cpus > firecracker::CPUS_MAX {
        let most = firecracker::CPUS_MAX;
        return Err(Failure::usage(
            format!("--cpus: Firecracker gives a machine up to {most}"),
            None,
        ));
    }
    match arguments.disk.iter().find(|disk| disk.format() != "raw") {
        Some(disk) => Err(Failure::usage(
            format!("--disk: Firecracker reads no {} images", disk.format()),
            "it reads raw ones only: qemu-img convert -O raw FROM TO makes one",
        )),
        None => Ok(()),
    }
}

/// Returns whether a monitor boots no kernel that is compressed. Firecracker:
/// `docs/rootfs-and-kernel-setup.md`. Cloud Hypervisor: `load_kernel` of `vmm/src/vm.rs`.
fn wants_bare_kernel(monitor: Monitor, architecture: &str) -> bool {
    match monitor {
        Monitor::Firecracker => true,
        Monitor::CloudHypervisor => architecture != "amd64",
        Monitor::Qemu => false,
    }
}

/// Has the kernel built in the form that the monitor boots.
pub(super) fn shape(request: &mut Request, arguments: &Run) {
    request.decompress_kernel = wants_bare_kernel(monitor(arguments.vmm), &request.architecture);
}

/// Returns the modules that the devices of a monitor need besides virtio_net and virtio_rng.
pub(super) const fn modules(vmm: Vmm) -> [&'static str; 2] {
    monitor(vmm).modules()
}

impl Chosen {
    /// Refuses what QEMU alone boots, before there is anything to boot it with.
    pub(super) fn check(&self, what: &What) -> Result<(), Failure> {
        match what {
            What::Medium { .. } | What::Outputs { root: Some(_), .. }
                if self.monitor != Monitor::Qemu =>
            {
                Err(self.boots_kernels())
            }
            _ => Ok(()),
        }
    }

    fn boots_kernels(&self) -> Failure {
        Failure::usage(
            format!(
                "{} boots only a kernel that kiln gives it",
                self.monitor.name()
            ),
            "give a description or the prefix of a kernel and an initrd, or say --vmm qemu",
        )
    }

    /// Returns the arguments for a machine, of which somebody of this process `is_console`, or
    /// nobody will be when it `attaches`.
    pub(super) fn arguments(
        &self,
        machine: &Machine,
        place: &Place,
        is_console: bool,
        attaches: bool,
    ) -> Result<Vec<OsString>, Failure> {
        let kernel = || {
            let kernel = Kernel::of(&machine.boot).ok_or_else(|| self.boots_kernels())?;
            check_kernel(kernel, self.monitor, &machine.architecture).map(|()| kernel)
        };
        match self.monitor {
            Monitor::Qemu => Ok(machine.arguments(&self.model, place, is_console)),
            Monitor::Firecracker => {
                let kernel = kernel()?;
                let config = firecracker::config(machine, kernel, place).ok_or_else(|| {
                    Failure::failed(
                        "a path is not Unicode, and Firecracker's configuration cannot name it",
                        None,
                        Some("rename the file, or say --vmm qemu".to_owned()),
                    )
                })?;
                // Not every version makes the file of their notes.
                let written = fs::write(place.config(), format!("{config:#}\n"))
                    .and_then(|()| File::create(place.notes()));
                written.map_err(|error| {
                    let message = format!("cannot write {}", place.config().display());
                    Failure::failed(message, Some(&error), None)
                })?;
                Ok(firecracker::arguments(place))
            }
            Monitor::CloudHypervisor => {
                let mut disks = machine.disks.iter().map(|disk| &disk.file);
                if let Some(disk) = disks.find(|disk| !cloud_hypervisor::can_say(disk)) {
                    return Err(Failure::usage(
                        format!("Cloud Hypervisor cannot be told of {}", disk.display()),
                        "its name has a quote; rename it",
                    ));
                }
                let kernel = kernel()?;
                if attaches {
                    cloud_hypervisor::end_at_reboot(place).map_err(|error| {
                        let message = format!("cannot make {}", place.events().display());
                        Failure::failed(message, Some(&error), None)
                    })?;
                }
                Ok(cloud_hypervisor::arguments(
                    machine, kernel, place, !attaches,
                ))
            }
        }
    }
}

/// Refuses a kernel in a form that the monitor does not boot.
fn check_kernel(kernel: Kernel<'_>, monitor: Monitor, architecture: &str) -> Result<(), Failure> {
    if !wants_bare_kernel(monitor, architecture) {
        return Ok(());
    }
    let image = kernel.image.display();
    let mut head = Vec::new();
    let read = File::open(kernel.image)
        .and_then(|file| file.take(KERNEL_HEAD_BYTES).read_to_end(&mut head));
    read.map_err(|error| Failure::failed(format!("cannot read {image}"), Some(&error), None))?;
    let (name, word) = (monitor.name(), monitor.word());
    match is_bare_kernel(&head, architecture) {
        true => Ok(()),
        false => Err(Failure::failed(
            format!("{name} cannot boot {image}: it is compressed"),
            None,
            Some(format!(
                "build with --decompress-kernel, or run the description: kiln run --vmm {word} FILE.yml"
            )),
        )),
    }
}

/// Returns whether a kernel that begins so is in no compressed image.
fn is_bare_kernel(head: &[u8], architecture: &str) -> bool {
    match architecture {
        "amd64" => head.starts_with(b"\x7fELF"),
        _ => kind_of_image(head) == Some("Image"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_taken_as_they_are_or_not() {
        let space = tempfile::tempdir().unwrap();
        let image = space.path().join("box-kernel");
        let check = |bytes: &[u8], monitor, architecture| {
            fs::write(&image, bytes).unwrap();
            let kernel = Kernel {
                image: &image,
                initrd: None,
                cmdline: "",
            };
            check_kernel(kernel, monitor, architecture).is_ok()
        };
        let elf = b"\x7fELF\x02\x01";
        let mut arm64 = [0; 64];
        arm64[..2].copy_from_slice(b"MZ");
        arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let mut efi_zboot = arm64;
        efi_zboot[4..8].copy_from_slice(b"zimg");
        let gzip = b"\x1f\x8b\x08";
        for monitor in [Monitor::Firecracker, Monitor::CloudHypervisor] {
            assert!(check(elf, monitor, "amd64"));
            assert!(check(&arm64, monitor, "arm64"));
            for compressed in [&efi_zboot[..], gzip, b""] {
                assert!(!check(compressed, monitor, "arm64"), "{compressed:?}");
            }
        }
        assert!(!check(gzip, Monitor::Firecracker, "amd64"));
        // It unpacks a bzImage, and says itself what it does not know.
        assert!(check(gzip, Monitor::CloudHypervisor, "amd64"));
    }
}
