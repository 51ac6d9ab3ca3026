//! `kiln run`: builds a description when it is one, then boots it, or a medium, in QEMU or another
//! monitor.
//!
//! The terminal is the machine's console until the machine ends; Ctrl-] ends it. A machine in the
//! background is left to `kiln vm`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::termios::tcgetwinsize;

use self::vmm::Chosen;
use self::what::What;
use super::replace::Built;
use super::{build, print, replace, request, watch};
use crate::args::{Accel, Run, Vmm};
use crate::failure::Failure;
use crate::firmware::Firmware;
use crate::kvm;
use crate::machine::{Machine, Networking, Publish};
use crate::signals::Interruption;
use crate::ui::printer::Printer;
use crate::vm::log;
use crate::vm::monitor::Monitor;
use crate::vm::place::{About, Place};
use crate::vm::process::Process;
use crate::vm::share::{Shared, Shares};

mod disks;
mod firmware;
mod hyperv;
mod image;
mod media;
mod stay;
mod vmm;
mod what;

pub(super) fn run(arguments: &Run, printer: Printer) -> Result<(), Failure> {
    let architecture = request::architecture(arguments.common.sources.arch.as_deref())?;
    if arguments.vmm == Vmm::Hyperv {
        return hyperv::run(arguments);
    }
    let chosen = vmm::choose(arguments, &architecture)?;
    check_ports(&arguments.publish)?;
    if !arguments.publish.is_empty() && arguments.networking != Networking::User {
        return Err(Failure::usage(
            "--publish needs --networking user",
            "on other networks the machine has an address of its own",
        ));
    }
    let what = What::of(arguments)?;
    chosen.check(&what)?;
    // From now on until the machine has ended, whoever looks.
    let interruption = build::watch_signals()?;
    let window = tcgetwinsize(io::stdin()).ok().filter(|_| arguments.tty);
    let (prefix, built) = what.build(arguments, &architecture, &interruption, printer)?;
    let name = what.name(&prefix);
    let place = Place::create(&name).map_err(|error| {
        Failure::failed("cannot make a place for the machine", Some(&error), None)
    })?;
    // Its files go when the machine has ended, and when it never began.
    let guard = Removed(&place);
    let begins = what.boot(arguments, &prefix, &place, window, printer)?;
    let by = firmware::Chooser {
        media: &arguments.media,
        architecture: &architecture,
        program: &chosen.program,
        place: &place,
        printer,
    };
    let firmware = match chosen.monitor {
        Monitor::Qemu => by.choose(&what)?,
        _ => Firmware::default(),
    };
    let system = System {
        what,
        built: built.and_then(|request| replace::note(request, &place)),
    };
    let volumes = arguments.volume.iter();
    let directories = arguments.virtiofs.iter();
    let shared: Vec<Shared> = match &system.what {
        What::Image(_) => volumes
            .map(|volume| (volume.directory.clone(), volume.readonly))
            .collect(),
        _ => directories.map(|path| (path.clone(), false)).collect(),
    };
    let machine = Machine {
        boot: begins,
        firmware,
        memory: arguments.mem,
        cpus: arguments.cpus,
        kvm: match chosen.monitor {
            Monitor::Qemu => use_kvm(arguments, &architecture, &chosen.program, printer)?,
            _ => true,
        },
        networking: arguments.networking.clone(),
        publish: arguments.publish.clone(),
        disks: disks::disks(arguments, &prefix)?,
        disc: disks::disc(arguments, &place)?,
        shares: shared.len(),
        architecture,
    };
    let (is_console, attaches) = (system.is_console(arguments), system.attaches(arguments));
    let quoted = chosen.arguments(&machine, &place, is_console, attaches)?;
    announce(&machine, &place, &system, arguments, printer);
    let shares = Shares::start(&shared, &place, arguments.detach)
        .map_err(|(message, error)| Failure::failed(message, Some(&error), None))?;
    let start = Start {
        chosen: &chosen,
        quoted: &quoted,
        shares,
        guard,
    };
    boot(arguments, &system, start, &interruption, printer)
}

/// What is booted, and where it comes from.
struct System {
    what: What,
    /// What it was built from, if that is known.
    built: Option<Built>,
}

impl System {
    /// Returns whether this process has the streams of the machine's program. Its output is its
    /// own then; the console's is kept in case it is wanted.
    fn attaches(&self, arguments: &Run) -> bool {
        matches!(self.what, What::Image(_)) && !arguments.detach
    }

    /// Returns whether this process is the machine's console.
    fn is_console(&self, arguments: &Run) -> bool {
        !arguments.detach && !self.attaches(arguments)
    }
}

/// What is needed to start the monitor.
struct Start<'a> {
    chosen: &'a Chosen,
    quoted: &'a [OsString],
    shares: Shares,
    guard: Removed<'a>,
}

/// Boots the machine, and stays with it unless it is to run in the background.
fn boot(
    arguments: &Run,
    system: &System,
    start: Start<'_>,
    interruption: &Interruption,
    printer: Printer,
) -> Result<(), Failure> {
    let Start {
        chosen,
        quoted,
        shares,
        guard,
    } = start;
    let (monitor, program) = (chosen.monitor, &chosen.program);
    let place = guard.0;
    let cannot = |error: &io::Error, complaint: String| {
        let hint = Some(complaint).filter(|complaint| !complaint.is_empty());
        let message = format!("cannot run {}", program.display());
        Failure::failed(message, Some(error), hint)
    };
    let about = About {
        system: arguments.system.display().to_string(),
        monitor,
        began: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        publish: arguments.publish.iter().map(Publish::for_people).collect(),
        source: system.built.as_ref().map(|built| built.source.clone()),
    };
    let described = place.describe(&about);
    described.map_err(|error| cannot(&error, String::new()))?;
    let mut process = Process::start(monitor, program, quoted, place.clone(), arguments.detach)
        .map_err(|error| cannot(&error, String::new()))?;
    let cancelled = || interruption.has_come();
    // A machine that waits for its console makes the other sockets afterwards.
    let console = match system.is_console(arguments) {
        true => process.console(cancelled).map(Some),
        false => process.wait_for_sockets(cancelled).map(|()| None),
    };
    let console = console.map_err(|error| {
        process.end(false);
        match cancelled() {
            true => Failure::by_signal(interruption.number()),
            false => cannot(&error, process.complaint()),
        }
    })?;
    shares.hand_over();
    if arguments.detach {
        std::mem::forget(guard);
        return print(&format!("{}\n", place.name()));
    }
    log::keep_short(vec![
        place.console_log(),
        place.monitor_log(),
        place.notes(),
    ]);
    if system.attaches(arguments) {
        return stay::attach(&mut process, place, arguments.tty, interruption);
    }
    if let (true, Some(built)) = (arguments.watch, &system.built) {
        watch::start(built, place, printer);
    }
    if let Some(console) = console {
        stay::stay(&mut process, place, console, interruption, printer)?;
    }
    match process.wait(None) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(status) => {
            let status = status.map_or_else(String::new, |status| status.to_string());
            let hint = Some(process.complaint()).filter(|complaint| !complaint.is_empty());
            Err(Failure::failed(
                format!("{} ended with {status}", monitor.name()),
                None,
                hint,
            ))
        }
        Err(error) => Err(cannot(&error, String::new())),
    }
}

/// Removes a machine's files when dropped.
struct Removed<'a>(&'a Place);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        self.0.remove();
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

fn missing_program(program: &str, package: &str) -> Failure {
    Failure::failed(
        format!("{program} is not installed"),
        None,
        Some(format!(
            "on Debian and Ubuntu: sudo apt-get install {package}; on Fedora: sudo dnf install {program}"
        )),
    )
}

/// QEMU says of a port that is taken only that a rule could not be set up.
fn check_ports(publish: &[Publish]) -> Result<(), Failure> {
    for port in publish {
        let at = (port.address, port.host);
        let bound = if port.udp {
            UdpSocket::bind(at).map(drop)
        } else {
            TcpListener::bind(at).map(drop)
        };
        if let Err(error) = bound {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => Some("choose another: --publish HOST:GUEST".to_owned()),
                io::ErrorKind::PermissionDenied => {
                    Some("ports below 1024 are the administrator's; choose a higher one".to_owned())
                }
                _ => None,
            };
            let place = format!("{}:{}/{}", port.address, port.host, port.protocol());
            return Err(Failure::failed(
                format!("cannot publish {place}"),
                Some(&error),
                hint,
            ));
        }
    }
    Ok(())
}

fn use_kvm(
    arguments: &Run,
    architecture: &str,
    program: &Path,
    printer: Printer,
) -> Result<bool, Failure> {
    let native = request::architecture(None).is_ok_and(|host| host == architecture);
    match arguments.accel {
        Accel::Tcg => Ok(false),
        Accel::Kvm if native => Ok(true),
        Accel::Kvm => Err(Failure::usage(
            format!("KVM cannot run {architecture} on this machine"),
            "leave --accel out, or say --accel tcg",
        )),
        Accel::Auto if !native => Ok(false),
        Accel::Auto => {
            let cache = request::cache_directory(arguments.common.sources.cache.as_deref())?;
            let trouble = kvm::trouble(program, &cache.join("tmp"));
            if let Some(trouble) = &trouble {
                printer.done("Emulating", &format!("the processor, slowly: {trouble}"));
            }
            Ok(trouble.is_none())
        }
    }
}

fn announce(machine: &Machine, place: &Place, system: &System, arguments: &Run, printer: Printer) {
    for port in &machine.publish {
        let Publish {
            address,
            host,
            guest,
            ..
        } = port;
        let protocol = port.protocol();
        printer.done(
            "Publishing",
            &format!("{address}:{host} for the system's {guest}/{protocol}"),
        );
    }
    let accelerator = if machine.kvm { "KVM" } else { "emulation" };
    printer.done(
        "Booting",
        &format!(
            "{} ({} MiB, {} CPU, {}{} by {accelerator}); {}",
            place.name(),
            machine.memory,
            machine.cpus,
            machine.architecture,
            if machine.firmware.is_efi() {
                ", EFI,"
            } else {
                ""
            },
            match (system.attaches(arguments), arguments.detach) {
                (_, true) => format!("kiln vm stop {} ends it", place.name()),
                (true, _) if arguments.tty && io::stdin().is_terminal() =>
                    "Ctrl-C ends it while it boots, then Ctrl-] three times".to_owned(),
                (true, _) => "Ctrl-C ends it".to_owned(),
                (false, _) => "Ctrl-] ends it".to_owned(),
            }
        ),
    );
}
