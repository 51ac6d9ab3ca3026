//! `kiln run`: builds a description when it is one, then boots it in QEMU.
//!
//! The terminal is the machine's console until the machine ends; Ctrl-] ends it. A machine in the
//! background is left to `kiln vm`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use kiln_engine::build::{Destination, Format, Request};
use rustix::termios::tcgetwinsize;

use super::replace::Built;
use super::{build, print, replace, request, run_disks, run_image, watch};
use crate::args::{Accel, Run};
use crate::exit;
use crate::failure::Failure;
use crate::kvm;
use crate::machine::{Machine, Networking, Publish, model};
use crate::ui::printer::Printer;
use crate::vm::console::{self, End};
use crate::vm::control::{self, Port};
use crate::vm::place::{About, Place};
use crate::vm::qemu::{POWER_OFF_MAX, Qemu};
use crate::vm::share::Shares;

pub(super) fn run(arguments: &Run, printer: Printer) -> Result<(), Failure> {
    let architecture = request::architecture(arguments.common.sources.arch.as_deref())?;
    let Some(model) = model(&architecture) else {
        return Err(Failure::usage(
            format!("kiln boots no {architecture}"),
            None,
        ));
    };
    // Before anything is built: without QEMU or the ports it would be in vain.
    let program =
        find_program(model.program).ok_or_else(|| missing_program(model.program, model.package))?;
    check_ports(&arguments.publish)?;
    if !arguments.publish.is_empty() && arguments.networking != Networking::User {
        return Err(Failure::usage(
            "--publish needs --networking user",
            "on other networks the machine has an address of its own",
        ));
    }
    let what = What::of(arguments)?;
    let (prefix, built) = match &what {
        What::Description => build_prefix(arguments, printer)?,
        What::Outputs => (arguments.system.clone(), None),
        What::Image(image) => {
            let (prefix, request) =
                run_image::build_prefix(arguments, image, &architecture, printer)?;
            (prefix, Some(request))
        }
    };
    let window = tcgetwinsize(io::stdin()).ok().filter(|_| arguments.tty);
    let kernel = with_suffix(&prefix, "-kernel");
    if !kernel.is_file() {
        return Err(nothing_to_boot(&arguments.system, &kernel));
    }
    let initrd = with_suffix(&prefix, "-initrd.img");
    let name = what.name(&prefix);
    let place = Place::create(&name).map_err(|error| {
        Failure::failed("cannot make a place for the machine", Some(&error), None)
    })?;
    // Its files go when the machine has ended, and when it never began.
    let guard = Removed(&place);
    let system = System {
        what,
        built: built.and_then(|request| replace::note(request, &place)),
    };
    let shared = match &system.what {
        What::Image(_) => arguments
            .volume
            .iter()
            .map(|volume| volume.directory.clone())
            .collect(),
        _ => arguments.virtiofs.clone(),
    };
    let machine = Machine {
        kernel,
        initrd: initrd.is_file().then_some(initrd),
        cmdline: {
            let mut cmdline = read_cmdline(&with_suffix(&prefix, "-cmdline"), printer)?;
            // What is built does not depend on it.
            if let Some(size) = window {
                cmdline.push_str(&format!(" kiln.window={}x{}", size.ws_row, size.ws_col));
            }
            cmdline
        },
        memory: arguments.mem,
        cpus: arguments.cpus,
        kvm: use_kvm(arguments, &architecture, &program, printer)?,
        networking: arguments.networking.clone(),
        publish: arguments.publish.clone(),
        disks: run_disks::disks(arguments, &prefix)?,
        disc: run_disks::disc(arguments, &place)?,
        shares: shared.len(),
        architecture,
    };
    let quoted = machine.arguments(&model, &place, system.is_console(arguments));
    announce(&machine, &place, &system, arguments, printer);
    let shares = Shares::start(&shared, &place)
        .map_err(|(message, error)| Failure::failed(message, Some(&error), None))?;
    let start = Start {
        program: &program,
        quoted: &quoted,
        shares,
        guard,
    };
    boot(arguments, &system, start, printer)
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

/// What there is to boot.
enum What {
    Description,
    Outputs,
    /// A container image, by the name that was given.
    Image(String),
}

impl What {
    fn of(arguments: &Run) -> Result<Self, Failure> {
        let system = &arguments.system;
        let what = match system.to_str() {
            _ if is_description(system) => Self::Description,
            Some(image) if !with_suffix(system, "-kernel").exists() => {
                Self::Image(image.to_owned())
            }
            _ => Self::Outputs,
        };
        let is_of_images = !arguments.words.is_empty()
            || !arguments.env.is_empty()
            || arguments.user.is_some()
            || arguments.workdir.is_some()
            || arguments.entrypoint.is_some()
            || !arguments.volume.is_empty()
            || arguments.tty;
        match &what {
            Self::Image(_) | Self::Outputs if arguments.watch => Err(Failure::usage(
                "--watch is for descriptions",
                "an image is run anew",
            )),
            _ if arguments.watch && arguments.docker.docker => Err(Failure::usage(
                "--watch cannot ask a Docker engine whether its images have changed",
                "leave --docker out: images come from the registry, or as docker-archive:FILE",
            )),
            Self::Image(_) if !arguments.disk.is_empty() || has_data(arguments) => {
                Err(Failure::usage(
                    "--disk, --data and --data-file are for systems",
                    "an image has no use for them; files of this machine come with --volume DIR:PATH",
                ))
            }
            Self::Image(_) if !arguments.virtiofs.is_empty() => Err(Failure::usage(
                "--virtiofs is for systems",
                "of an image it is --volume DIR:PATH",
            )),
            Self::Image(_) => Ok(what),
            _ if is_of_images => Err(Failure::usage(
                "arguments, --tty, --env, --user, --workdir, --volume and --entrypoint are for images",
                "a description says all that of its services itself",
            )),
            _ => Ok(what),
        }
    }

    /// Returns what people call the machine.
    fn name(&self, prefix: &Path) -> String {
        match self {
            Self::Image(image) => run_image::hostname(image),
            _ => {
                let name = prefix.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
        }
    }
}

const fn has_data(arguments: &Run) -> bool {
    arguments.data.is_some() || arguments.data_file.is_some()
}

/// What is needed to start QEMU.
struct Start<'a> {
    program: &'a Path,
    quoted: &'a [OsString],
    shares: Shares,
    guard: Removed<'a>,
}

/// Boots the machine, and stays with it unless it is to run in the background.
fn boot(
    arguments: &Run,
    system: &System,
    start: Start<'_>,
    printer: Printer,
) -> Result<(), Failure> {
    let Start {
        program,
        quoted,
        shares,
        guard,
    } = start;
    let place = guard.0;
    let cannot = |error: &io::Error, complaint: String| {
        let hint = Some(complaint).filter(|complaint| !complaint.is_empty());
        let message = format!("cannot run {}", program.display());
        Failure::failed(message, Some(error), hint)
    };
    let mut qemu = Qemu::start(program, quoted, place.clone(), arguments.detach)
        .map_err(|error| cannot(&error, String::new()))?;
    // A machine that waits for its console makes the other sockets afterwards.
    let console = match system.is_console(arguments) {
        true => qemu.console().map(Some),
        false => qemu.wait_for_sockets().map(|()| None),
    };
    let console = console.map_err(|error| {
        qemu.end(false);
        cannot(&error, qemu.complaint())
    })?;
    shares.hand_over();
    let about = About {
        system: arguments.system.display().to_string(),
        pid: qemu.pid(),
        began: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        publish: arguments.publish.iter().map(Publish::for_people).collect(),
        source: system.built.as_ref().map(|built| built.source.clone()),
    };
    let described = place.describe(&about);
    described.map_err(|error| cannot(&error, String::new()))?;
    if arguments.detach {
        std::mem::forget(guard);
        return print(&format!("{}\n", place.name()));
    }
    if system.attaches(arguments) {
        return attach(&mut qemu, place, arguments.tty);
    }
    if let (true, Some(built)) = (arguments.watch, &system.built) {
        watch::start(built, place, printer);
    }
    if let Some(console) = console {
        stay(&mut qemu, console, printer)?;
    }
    match qemu.wait(None) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(status) => {
            let status = status.map_or_else(String::new, |status| status.to_string());
            let hint = Some(qemu.complaint()).filter(|complaint| !complaint.is_empty());
            Err(Failure::failed(
                format!("QEMU ended with {status}"),
                None,
                hint,
            ))
        }
        Err(error) => Err(cannot(&error, String::new())),
    }
}

/// Is the machine's console until one of the two ends.
fn stay(
    qemu: &mut Qemu,
    console: std::os::unix::net::UnixStream,
    printer: Printer,
) -> Result<(), Failure> {
    let interruption = build::watch_signals()?;
    let cancelled = || interruption.flag().load(Ordering::Relaxed);
    match console::attach(console, cancelled) {
        Ok(End::Machine) => Ok(()),
        Ok(End::Escape) => {
            printer.done("Ending", "the machine");
            qemu.end(false);
            Ok(())
        }
        Ok(End::Signal) => {
            qemu.end(true);
            Err(Failure::with_status(exit::signal(interruption.number())))
        }
        Err(error) => {
            qemu.end(true);
            match error.kind() {
                io::ErrorKind::BrokenPipe => Err(Failure::broken_pipe()),
                _ => Err(Failure::failed("the console", Some(&error), None)),
            }
        }
    }
}

/// Has the standard streams of the machine's service, and ends as that does.
fn attach(qemu: &mut Qemu, place: &Place, tty: bool) -> Result<(), Failure> {
    let interruption = build::watch_signals()?;
    let cancelled = || interruption.flag().load(Ordering::Relaxed);
    let talk = || -> io::Result<Option<u8>> {
        let mut port = Port::open(place)?;
        port.input = Some(control::stdin()?);
        let words = ["attach", run_image::SERVICE].map(str::to_owned);
        let raw = port.request(&words, tty)?;
        port.relay(raw, None, cancelled)
    };
    match talk() {
        Ok(Some(status)) => {
            // It syncs its disks, and is gone a moment later.
            if !matches!(qemu.wait(Some(POWER_OFF_MAX)), Ok(Some(_))) {
                qemu.end(false);
            }
            match status {
                0 => Ok(()),
                status => Err(Failure::with_status(status)),
            }
        }
        Ok(None) => {
            qemu.end(true);
            Err(Failure::with_status(exit::signal(interruption.number())))
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            qemu.end(true);
            Err(Failure::broken_pipe())
        }
        Err(error) => {
            let console = fs::read(place.console_log()).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            let last: Vec<&str> = console.lines().rev().take(20).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let hint = format!(
                "{}\nits console said last:\n{}",
                qemu.complaint(),
                last.join("\n")
            );
            qemu.end(false);
            let message = "the machine ended before its program";
            Err(Failure::failed(
                message,
                Some(&error),
                Some(hint.trim().to_owned()),
            ))
        }
    }
}

/// Removes a machine's files when dropped.
struct Removed<'a>(&'a Place);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Builds the description and returns the prefix of its outputs.
fn build_prefix(arguments: &Run, printer: Printer) -> Result<(PathBuf, Option<Request>), Failure> {
    let files = [arguments.system.clone()];
    let mut request = request::request(&files, vec![Format::KernelInitrd], &arguments.common)?;
    request.docker = request::docker(arguments.docker)?;
    let interruption = build::watch_signals()?;
    let report = build::build(&request, &interruption, printer)?;
    build::say_result(&request, &report, printer);
    match &request.destination {
        Destination::Directory { directory, name } => Ok((directory.join(name), Some(request))),
        Destination::File(_) | Destination::Stdout => Err(Failure::usage(
            "only a kernel and an initrd can be booted",
            None,
        )),
    }
}

fn is_description(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yml" | "yaml")) || path.is_file()
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path: OsString = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn nothing_to_boot(system: &Path, kernel: &Path) -> Failure {
    Failure::failed(
        format!("there is no {} to boot", kernel.display()),
        None,
        Some(if is_description(system) {
            "a system that boots needs `kernel:` in its description".to_owned()
        } else {
            format!(
                "give a description, `kiln run {}.yml`, or the prefix of what `kiln build` wrote",
                system.display()
            )
        }),
    )
}

fn read_cmdline(path: &Path, printer: Printer) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            printer.warning(&format!(
                "there is no {}: the kernel gets no command line",
                path.display()
            ));
            Ok(String::new())
        }
        Err(error) => Err(Failure::failed(
            format!("cannot read {}", path.display()),
            Some(&error),
            None,
        )),
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
            "{} ({} MiB, {} CPU, {} by {accelerator}); {}",
            place.name(),
            machine.memory,
            machine.cpus,
            machine.architecture,
            match (system.attaches(arguments), arguments.detach) {
                (_, true) => format!("kiln vm stop {} ends it", place.name()),
                (true, _) => "Ctrl-C ends it".to_owned(),
                (false, _) => "Ctrl-] ends it".to_owned(),
            }
        ),
    );
}
