//! Settings of the whole machine that PID 1 makes once: limits, host name, clock, resolv.conf,
//! how the kernel calls back, and the modules.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit};

use crate::bundle::make_directories;
use crate::cmdline::Cmdline;
use crate::loader::{Loader, RunningKernel, Seen};
use crate::modules::{Files, read_conf_directory};
use crate::network::default_hostname;
use crate::{console, say, sys};

/// LinuxKit's limit on open files, soft and hard.
const OPEN_FILES_MAX: u64 = 1 << 20;
/// A clock before this (2020-01-01) was never set.
const CLOCK_SECONDS_MIN: i64 = 1_577_836_800;

/// Makes the settings that need no module.
pub(crate) fn settle(own_path: Option<&str>) {
    // From here on Ctrl-Alt-Del is a SIGINT to us.
    if let Err(cause) = rustix::system::reboot(rustix::system::RebootCommand::CadOff) {
        say!("ctrl-alt-del: {cause}");
    }
    limit(Resource::Nofile, Some(OPEN_FILES_MAX));
    limit(Resource::Nproc, None);
    if let Err(cause) = sys::loopback_up() {
        say!("lo: {cause}");
    }
    make_resolv_conf();
    if let Some(path) = own_path {
        answer_the_kernel(path);
    }
}

fn limit(resource: Resource, value: Option<u64>) {
    let both = Rlimit {
        current: value,
        maximum: value,
    };
    if let Err(cause) = rustix::process::setrlimit(resource, both) {
        say!("limit {resource:?}: {cause}");
    }
}

/// Has the kernel call us for modules and for an orderly power-off, where the image has no
/// program of its own for that. It runs the path in its own root, the bare initramfs.
pub(crate) fn answer_the_kernel(own_path: &str) {
    if !Path::new("/sbin/modprobe").exists() {
        let _ = fs::write("/proc/sys/kernel/modprobe", own_path);
    }
    if !Path::new("/sbin/poweroff").exists() {
        let _ = fs::write(
            "/proc/sys/kernel/poweroff_cmd",
            format!("{own_path} poweroff"),
        );
    }
}

/// Makes the file that `/etc/resolv.conf` points to, empty, so that it can be bound into
/// containers before there is a network.
fn make_resolv_conf() {
    let Ok(target) = fs::read_link("/etc/resolv.conf") else {
        return;
    };
    let target = Path::new("/etc").join(target);
    let made = make_directories(target.parent().unwrap_or(Path::new("/")))
        .map_err(|cause| cause.to_string())
        .and_then(|()| fs::write(&target, "").map_err(|cause| cause.to_string()));
    if let Err(cause) = made {
        say!("{}: {cause}", target.display());
    }
}

/// Where the machine's name comes from.
pub(crate) enum Name {
    /// `/etc/hostname`.
    File(String),
    /// The kernel has one.
    Kernel,
    /// The first interface's address.
    Interface,
}

impl Name {
    /// Looks: `/etc/hostname`, else what the kernel has, else the first interface's address.
    pub(crate) fn find() -> Self {
        let file = fs::read_to_string("/etc/hostname").unwrap_or_default();
        let current = rustix::system::uname();
        match (file.trim(), current.nodename().to_bytes()) {
            ("", b"" | b"(none)") => Self::Interface,
            ("", _) => Self::Kernel,
            (name, _) => Self::File(name.to_owned()),
        }
    }
}

/// Returns whether services have to wait for devices though they ask for none: when the machine has
/// its name or its time from one, or was told to load modules by name.
pub(crate) fn needs_devices(cmdline: &Cmdline, name: &Name) -> bool {
    matches!(name, Name::Interface)
        || !clock_is_set()
        || !listed_modules().trim_ascii().is_empty()
        || cmdline.list("modules").next().is_some()
}

/// Sets the host name.
pub(crate) fn set_hostname(name: Name) {
    let name = match name {
        Name::File(name) => Some(name),
        Name::Kernel => None,
        Name::Interface => default_hostname(),
    };
    if let Some(name) = name
        && let Err(cause) = rustix::system::sethostname(name.as_bytes())
    {
        say!("hostname {name}: {cause}");
    }
}

/// Takes the time from the hardware clock if the kernel has not (`RTC_HCTOSYS`, or the clock's
/// driver is a module).
pub(crate) fn set_clock() {
    if clock_is_set() {
        return;
    }
    let Ok(text) = fs::read_to_string("/sys/class/rtc/rtc0/since_epoch") else {
        return;
    };
    let Some(tv_sec) = text.trim().parse().ok().filter(|s| *s >= CLOCK_SECONDS_MIN) else {
        return;
    };
    let time = rustix::time::Timespec { tv_sec, tv_nsec: 0 };
    if let Err(cause) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time) {
        say!("clock: {cause}");
    }
}

fn clock_is_set() -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec >= CLOCK_SECONDS_MIN
}

fn listed_modules() -> Vec<u8> {
    read_conf_directory(Path::new("/etc/modules-load.d"))
}

/// Reads what modules the running kernel has.
pub(crate) fn module_files() -> Files {
    let release = rustix::system::uname();
    Files::read(Path::new("/"), &release.release().to_string_lossy())
}

/// Loads the modules of the machine and those asked for by name.
pub(crate) fn load_modules(cmdline: &Cmdline, seen: &mut Seen) {
    let files = module_files();
    if files.is_empty() {
        return;
    }
    make_nodes(&files);
    let mut loader = Loader::new(&files, cmdline, RunningKernel, seen);
    // Devices named on the command line have no bus that announces them.
    if cmdline.mentions_module("virtio_mmio") {
        loader.request(b"virtio_mmio");
    }
    loader.coldplug(Path::new("/sys"));
    let listed = listed_modules();
    let listed = String::from_utf8_lossy(&listed);
    let from_files = listed
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    for name in from_files.chain(cmdline.list("modules")) {
        if !loader.request(name.as_bytes()) {
            say!("module {name}: not in this kernel");
        }
    }
}

/// Something that another processor does meanwhile.
#[must_use]
pub(crate) struct Beside(Option<Pid>);

impl Beside {
    /// Does something in a process of its own, if there is a processor for it; here and now
    /// otherwise.
    pub(crate) fn begin(work: impl FnOnce()) -> Self {
        let processors = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
        match (processors > 1).then(|| sys::fork(0)) {
            Some(Ok(sys::Fork::Parent(pid))) => return Self(Some(pid)),
            Some(Ok(sys::Fork::Child)) => {
                work();
                console::open_if_waiting();
                sys::exit_now(0)
            }
            Some(Err(_)) | None => work(),
        }
        Self(None)
    }

    /// Waits until it is done.
    pub(crate) fn finish(self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// Makes the nodes behind which the kernel loads a module when they are opened (`/dev/fuse`,
/// `/dev/net/tun`, …), so that the module need not be loaded for a mere possibility.
fn make_nodes(files: &Files) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    for node in files.nodes() {
        let path = Path::new("/dev").join(node.name);
        let kind = match node.is_block {
            true => FileType::BlockDevice,
            false => FileType::CharacterDevice,
        };
        if let Some(parent) = path.parent() {
            let _ = make_directories(parent);
        }
        let number = makedev(node.major, node.minor);
        // One that exists has its driver already.
        let _ = mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), number);
    }
}

/// Loads what devices wanted but no container has to wait for.
pub(crate) fn load_deferred(cmdline: &Cmdline, seen: &mut Seen) {
    if !seen.has_deferred() {
        return;
    }
    let files = module_files();
    Loader::new(&files, cmdline, RunningKernel, seen).load_deferred(Path::new("/sys"));
}

/// Loads what devices want that were not there before, without having been told of them.
pub(crate) fn load_for_new_devices(files: &Files, cmdline: &Cmdline, seen: &mut Seen) {
    Loader::new(files, cmdline, RunningKernel, seen).coldplug(Path::new("/sys"));
}

/// Loads what new devices want.
pub(crate) fn load_for_devices(cmdline: &Cmdline, seen: &mut Seen, modaliases: &[Vec<u8>]) {
    if modaliases.iter().all(|alias| seen.knows(alias)) {
        return;
    }
    let files = module_files();
    let mut loader = Loader::new(&files, cmdline, RunningKernel, seen);
    for modalias in modaliases {
        loader.answer(modalias);
    }
}

/// Loads one module or alias for the kernel itself (`request_module`); returns whether it exists.
pub(crate) fn load_for_kernel(wanted: &str) -> bool {
    let files = module_files();
    // In the kernel's root there is no /proc, hence no command line; parameters from it have been
    // applied to whatever was loaded at boot.
    let cmdline = Cmdline::parse(&fs::read("/proc/cmdline").unwrap_or_default());
    let mut seen = Seen::default();
    Loader::new(&files, &cmdline, RunningKernel, &mut seen).request(wanted.as_bytes())
}
