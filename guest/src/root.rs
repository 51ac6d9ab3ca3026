//! A root that is on a disk: found, mounted and entered, as a distribution's initrd does.
//!
//! In: `root=`, `rootfstype=`, `rootflags=`, `rw` and `init=` of the kernel's command line
//! (`Documentation/admin-guide/kernel-parameters.txt`), in an initramfs that has no containers of
//! its own. Out: that root's init in our place, or an error. Modules come from the initramfs.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};

use crate::bundle::CONTAINERS;
use crate::cmdline::Cmdline;
use crate::error::{Context, Error, Result};
use crate::loader::Seen;
use crate::rootfs::{self, Inside};
use crate::{console, debug, jobs, machine, mounts, say, sys};

/// How long a disk may take to appear.
const WAIT_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where it is mounted for a moment: in a tmpfs that goes with the initramfs.
const AT: &str = "/run/root";

/// Ends up in another init if the command line names a root and this system is there to find it.
pub(crate) fn enter(cmdline: &Cmdline, arguments: &[&CStr]) -> Result<()> {
    let Some(root) = cmdline.value("root").filter(|_| mounts::is_initramfs()) else {
        return Ok(());
    };
    if Path::new(CONTAINERS).exists() {
        say!("root={root} is left alone: this system is in memory");
        return Ok(());
    }
    if let Some(path) = arguments.first().and_then(|path| path.to_str().ok()) {
        machine::answer_the_kernel(path);
    }
    if let Some((kind, _)) = root.split_once('=')
        && !matches!(kind, "LABEL" | "UUID")
    {
        return Err(Error::new(format!(
            "root={root}: a root is found as /dev/NAME, LABEL=NAME or UUID=ID, not as {kind}="
        )));
    }
    let device = wait_for(root, cmdline)?;
    mount_at(&device, Path::new(AT), cmdline)?;
    debug!("root {} found", device.display());
    let init = cmdline.value("init").unwrap_or("/sbin/init");
    // What the kernel did not know itself is for init.
    replace_us(init, arguments.get(1..).unwrap_or_default())
}

/// Loads modules until the device is there.
fn wait_for(root: &str, cmdline: &Cmdline) -> Result<PathBuf> {
    let began = Instant::now();
    let mut seen = Seen::default();
    machine::load_modules(cmdline, &mut seen);
    loop {
        if let Some(device) = jobs::find_device(root) {
            return Ok(device);
        }
        if began.elapsed() > WAIT_MAX {
            return Err(Error::new(format!(
                "root={root}: no such device after {WAIT_MAX:?}"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
        machine::load_for_new_devices(cmdline, &mut seen);
    }
}

fn mount_at(device: &Path, at: &Path, cmdline: &Cmdline) -> Result<()> {
    mounts::make_directory(AT, 0o755).context(|| AT)?;
    let flags = match cmdline.is_writable() {
        true => MountFlags::empty(),
        false => MountFlags::RDONLY,
    };
    let data = cmdline.value("rootflags").unwrap_or_default();
    let data = CString::new(data).context(|| "rootflags")?;
    let mount = |device: &Path, at: &Path, kind: &str| {
        machine::load_for_kernel(&format!("fs-{kind}"));
        mount::mount(device, at, kind, flags, data.as_c_str())
            .context(|| format!("mount the root {} ({kind})", device.display()))
    };
    match cmdline.value("rootfstype") {
        Some(kind) => mount(device, at, kind),
        None => jobs::mount_found(device, at, &mount),
    }
}

/// Leaves the initramfs with everything mounted in it, and becomes the init of the root.
fn replace_us(init: &str, words: &[&CStr]) -> Result<()> {
    // pivot_root(2) refuses mounts that are shared.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount::mount_change("/", private).context(|| "make / private")?;
    let console = rustix::fs::open(
        "/dev/console",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    give_back();
    rootfs::pivot(&Inside::open(Path::new(AT))?)?;
    // A machine without a console is a legal one.
    if let Ok(console) = console {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
    console::flush(Duration::from_secs(1));
    let path = CString::new(init).context(|| "init")?;
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        CString::new(pair).ok()
    });
    let environment: Vec<CString> = environment.collect();
    let words = words.iter().map(|word| CString::from(*word));
    let arguments: Vec<CString> = [path.clone()].into_iter().chain(words).collect();
    let cause = sys::exec(&path, &arguments, &environment);
    Err(cause).context(|| format!("{init} of the root"))
}

/// Leaves to the root what the kernel would have left to it: `/dev`, mounted (`DEVTMPFS_MOUNT`), and
/// the programs that the kernel calls, under their own names.
fn give_back() {
    for inside in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        let _ = mount::unmount(inside, UnmountFlags::DETACH);
    }
    // A root without that directory mounts it elsewhere, or has no use for it.
    let _ = mount::mount_move("/dev", format!("{AT}/dev"));
    for (setting, program) in [
        ("modprobe", "/sbin/modprobe"),
        ("poweroff_cmd", "/sbin/poweroff"),
    ] {
        let _ = std::fs::write(format!("/proc/sys/kernel/{setting}"), program);
    }
}
