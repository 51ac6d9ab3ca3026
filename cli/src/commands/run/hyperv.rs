//! `kiln run --vmm hyperv`: a script for a Windows machine, on standard output.
//!
//! Enters: the command line. Leaves: the script of [`crate::vm::hyperv`], or what to do instead.

use std::path::Path;

use super::super::print;
use super::what::is_of_images;
use crate::args::{Accel, Run};
use crate::failure::Failure;
use crate::machine::Networking;
use crate::vm::disk::own_name;
use crate::vm::hyperv::{HyperV, Medium, Switch, script};

pub(super) fn run(arguments: &Run) -> Result<(), Failure> {
    check(arguments)?;
    let boot = medium(&arguments.system)?;
    let mut disks = Vec::new();
    for (index, disk) in arguments.disk.iter().enumerate() {
        let file = match disk.file() {
            Some(file) => text(file)?.to_owned(),
            None => own_name(index, &format!("{}-disk", name(arguments)?), "vhdx"),
        };
        disks.push((file, disk.size()));
    }
    let machine = HyperV {
        name: name(arguments)?,
        boot,
        memory: arguments.mem,
        cpus: arguments.cpus,
        disks,
        switch: match &arguments.networking {
            Networking::Bridge(switch) => Switch::Named(switch.clone()),
            Networking::None => Switch::None,
            Networking::User | Networking::Tap(_) => Switch::Default,
        },
        detached: arguments.detach,
    };
    print(&script(&machine))
}

/// Refuses what a script for another machine cannot have.
fn check(arguments: &Run) -> Result<(), Failure> {
    let refused = |what: &str, instead: &'static str| Err(Failure::usage(what, instead));
    if !arguments.publish.is_empty() {
        return refused(
            "--publish: Hyper-V forwards no ports",
            "the machine has an address on its switch",
        );
    }
    if matches!(arguments.networking, Networking::Tap(_)) {
        return refused(
            "--networking tap,NAME: Hyper-V has switches",
            "say --networking bridge,SWITCH, or leave it out for the Default Switch",
        );
    }
    if !arguments.virtiofs.is_empty() || !arguments.volume.is_empty() {
        return refused(
            "--virtiofs and --volume: Hyper-V shares no directories",
            "put the files into the system or onto a disk",
        );
    }
    if arguments.data.is_some() || arguments.data_file.is_some() {
        return refused(
            "--data and --data-file: there is no disc with data in a script",
            "kiln metadata create makes one, and Add-VMDvdDrive adds it",
        );
    }
    if arguments.media.is_efi() || !matches!(*arguments.media.kinds(), [] | ["--iso"]) {
        return refused(
            "--squashfs, --kernel, --uefi and --fw: Hyper-V boots a medium, by its own UEFI",
            "leave them out",
        );
    }
    if arguments.watch
        || arguments.accel != Accel::Auto
        || arguments.state.is_some()
        || arguments.docker.docker
    {
        return refused(
            "--watch, --accel, --state and --docker: the machine is not run here",
            "leave them out",
        );
    }
    if is_of_images(arguments) {
        return refused(
            "arguments, --tty, --env, --env-file, --user, --workdir, --hostname and --entrypoint are for images",
            "say all that of its services in the description that the medium is made of",
        );
    }
    // New-VHD goes by the name, and generation 2 knows no VHD.
    match arguments.disk.iter().find(|disk| !disk.is_named("vhdx")) {
        Some(_) => refused(
            "--disk: a machine of Hyper-V's generation 2 has disks of the format vhdx alone",
            "call it FILE.vhdx; qemu-img convert -O vhdx FROM TO makes one of another format",
        ),
        None => Ok(()),
    }
}

/// Tells what is booted by its name: it may not be there, but on the Windows machine.
fn medium(system: &Path) -> Result<Medium, Failure> {
    let extension = system.extension().and_then(|extension| extension.to_str());
    let extension = extension.unwrap_or_default().to_ascii_lowercase();
    let file = text(system)?.to_owned();
    match extension.as_str() {
        "iso" => Ok(Medium::Disc(file)),
        "vhdx" => Ok(Medium::Disk(file)),
        _ => Err(Failure::usage(
            format!("Hyper-V cannot boot {}", system.display()),
            "give a disc or disk that boots by UEFI: FILE.iso or FILE.vhdx",
        )),
    }
}

/// Returns what the machine is called: as its file, as LinuxKit has it.
fn name(arguments: &Run) -> Result<String, Failure> {
    if let Some(name) = &arguments.common.name {
        return Ok(name.clone());
    }
    // On this machine `\` is a letter.
    let file = text(&arguments.system)?;
    let file = file.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    Ok(stem.trim_end_matches("-efi").to_owned())
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| {
        Failure::usage(
            format!("{} is not Unicode", path.display()),
            "Windows has no such names",
        )
    })
}
