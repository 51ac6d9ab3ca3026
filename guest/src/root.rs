//! A root that is on a disk: found, mounted and entered, as a distribution's initrd does.
//!
//! In: `root=`, `rootfstype=`, `rootflags=`, `rw` and `init=` of the kernel's command line
//! (`Documentation/admin-guide/kernel-parameters.txt`), and `roothash=` and what goes with it
//! (systemd-veritysetup-generator(8)), in an initramfs that has no containers of its own. Out: that
//! root's init in our place, or an error. Modules come from the initramfs.

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
use crate::modules::Files;
use crate::rootfs::{self, Inside};
use crate::verity::{self, Options};
use crate::{console, debug, jobs, machine, mounts, say, sys};

/// How long a disk may take to appear.
const WAIT_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where it is mounted for a moment: in a tmpfs that goes with the initramfs.
const AT: &str = "/run/root";

/// Ends up in another init if the command line names a root and this system is there to find it.
pub(crate) fn enter(cmdline: &Cmdline, own_path: Option<&str>, words: &[&CStr]) -> Result<()> {
    let (root, hash) = (cmdline.value("root"), cmdline.value("roothash"));
    if root.or(hash).is_none() || !mounts::is_initramfs() {
        return Ok(());
    }
    if Path::new(CONTAINERS).exists() {
        say!(
            "root={} is left alone: this system is in memory",
            root.unwrap_or_default()
        );
        return Ok(());
    }
    if let Some(path) = own_path {
        machine::answer_the_kernel(path);
    }
    let mut search = Search {
        cmdline,
        files: machine::module_files(),
        seen: Seen::default(),
        began: Instant::now(),
    };
    machine::load_modules(cmdline, &mut search.seen);
    let device = match (hash, root) {
        (Some(hash), root) => search.verified(hash, root)?,
        (None, Some(root)) => search.wait_for(root)?,
        (None, None) => return Ok(()),
    };
    mount_at(&device, Path::new(AT), cmdline)?;
    debug!("root {} found", device.display());
    let init = cmdline.value("init").unwrap_or("/sbin/init");
    // What the kernel did not know itself is for init.
    replace_us(init, words)
}

/// Devices are looked for, and modules loaded for what appears.
struct Search<'a> {
    cmdline: &'a Cmdline,
    files: Files,
    seen: Seen,
    began: Instant,
}

impl Search<'_> {
    fn wait_for(&mut self, wanted: &str) -> Result<PathBuf> {
        loop {
            if let Some(device) = jobs::find_device(wanted).context(|| wanted)? {
                return Ok(device);
            }
            if self.began.elapsed() > WAIT_MAX {
                let missing = format!("{wanted}: no such device after {WAIT_MAX:?}");
                return Err(Error::new(missing));
            }
            std::thread::sleep(LOOK_EVERY);
            machine::load_for_new_devices(&self.files, self.cmdline, &mut self.seen);
        }
    }

    /// Finds the data and its hashes where they are said to be, else in the partitions that have the
    /// halves of the root hash for UUIDs (Discoverable Partitions Specification).
    fn verified(&mut self, hash: &str, root: Option<&str>) -> Result<PathBuf> {
        if !verity::is_hash(hash) {
            return Err(Error::new(format!("roothash={hash} is no hash")));
        }
        let value = |key: &str| self.cmdline.value(&format!("systemd.verity_root_{key}"));
        let options = Options::parse(value("options").unwrap_or_default())
            .context(|| "systemd.verity_root_options")?;
        let by_half = |half: &str| {
            let (a, b, c, d) = (&half[..8], &half[8..12], &half[12..16], &half[16..20]);
            format!("PARTUUID={a}-{b}-{c}-{d}-{}", &half[20..])
        };
        // The name of what is made here is no place to find it.
        let data = value("data").or(root.filter(|root| *root != "/dev/mapper/root"));
        let data = data.map_or_else(|| by_half(&hash[..32]), str::to_owned);
        let hashes = value("hash");
        let hashes = hashes.map_or_else(|| by_half(&hash[hash.len() - 32..]), str::to_owned);
        let (data, hashes) = (self.wait_for(&data)?, self.wait_for(&hashes)?);
        verity::open("root", hash, &data, &hashes, &options)
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
