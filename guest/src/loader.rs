//! Loads modules into the kernel: what the machine announces and what init needs, nothing else.
//!
//! In: an [`Index`], device modaliases from sysfs and uevents, names from the command line. Out:
//! finit_module(2) calls, dependencies first, each module at most once.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

use crate::cmdline::Cmdline;
use crate::error::{Context, Error, Result};
use crate::modules::{Files, Index, name, name_of_file};
use crate::{debug, say};

/// Longest modalias read from sysfs (the kernel writes at most a page).
const MODALIAS_BYTES_MAX: usize = 4096;
/// Nested softdeps followed; depmod refuses cycles in modules.dep but not in modules.softdep.
const DEPTH_MAX: usize = 32;
/// `MODULE_INIT_COMPRESSED_FILE` (`include/uapi/linux/module.h`, Linux 5.17).
const COMPRESSED_FILE: i32 = 4;

/// Parts of module paths that no container has to wait for: they make a machine cooler, faster or
/// more observable, not more able. Loading one costs about as much as starting a container.
const DEFERRED_PATHS: [&str; 17] = [
    "/crypto/",
    "/events/",
    "drivers/acpi/ac.",
    "drivers/acpi/battery.",
    "drivers/acpi/button.",
    "drivers/acpi/fan.",
    "drivers/acpi/thermal.",
    // Who steers the machine from outside waits until it runs.
    "drivers/char/virtio_console.",
    "net/vmw_vsock/",
    // Who needs random numbers before there are any waits for them.
    "drivers/char/hw_random/",
    "drivers/cpufreq/",
    "drivers/edac/",
    "drivers/firmware/",
    "drivers/hwmon/",
    "drivers/input/",
    "drivers/powercap/",
    "drivers/thermal/",
];
/// Buses whose devices have a modalias but whose modules are all of that kind, or nearly so.
const DEFERRED_BUSES: [&str; 1] = ["cpu"];
/// Buses whose devices never have a modalias; some have one device per CPU or memory block.
const SILENT_BUSES: [&str; 9] = [
    "clockevents",
    "clocksource",
    "container",
    "edac",
    "event_source",
    "machinecheck",
    "memory",
    "node",
    "workqueue",
];

/// Who takes modules; a recording double stands in for the kernel in tests.
pub(crate) trait Kernel {
    /// Loads one module file with its parameters.
    fn load(&mut self, file: &Path, parameters: &str) -> Result<()>;
}

/// The kernel we run on.
#[derive(Debug, Default)]
pub(crate) struct RunningKernel;

impl Kernel for RunningKernel {
    fn load(&mut self, file: &Path, parameters: &str) -> Result<()> {
        let parameters = CString::new(parameters).context(|| "parameters")?;
        let compressed = file.extension().is_some_and(|e| e != "ko");
        let flags = if compressed { COMPRESSED_FILE } else { 0 };
        let opened = fs::File::open(file).context(|| file.display())?;
        match rustix::system::finit_module(&opened, &parameters, flags) {
            // "No such device" is a driver that looked and found its device absent or taken, as
            // most processor modules do in a virtual machine.
            Ok(()) | Err(Errno::EXIST | Errno::NODEV) => Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOEXEC) if compressed => {
                Err(Error::new(format!(
                    "{}: this kernel does not take modules in this compression \
                     (needs Linux 5.17 with CONFIG_MODULE_DECOMPRESS)",
                    file.display()
                )))
            }
            Err(cause) => Err(cause).context(|| file.display()),
        }
    }
}

/// What was tried already; outlives a [`Loader`].
#[derive(Debug)]
pub(crate) struct Seen {
    /// Module names, whatever came of them.
    modules: HashSet<Vec<u8>>,
    /// Devices, as paths in sysfs.
    devices: HashSet<PathBuf>,
    /// Modaliases.
    aliases: HashSet<Vec<u8>>,
    /// Modules for later; none once [`Loader::load_deferred`] has begun.
    deferred: Option<Vec<Vec<u8>>>,
}

/// Loads modules by name, alias or device.
#[derive(Debug)]
pub(crate) struct Loader<'a, K> {
    files: &'a Files,
    index: Index<'a>,
    cmdline: &'a Cmdline,
    kernel: K,
    seen: &'a mut Seen,
    /// Modules that the kernel refused.
    failures: usize,
}

impl<'a, K: Kernel> Loader<'a, K> {
    /// Indexes the files and prepares to load.
    pub(crate) fn new(
        files: &'a Files,
        cmdline: &'a Cmdline,
        kernel: K,
        seen: &'a mut Seen,
    ) -> Self {
        let index = Index::new(files);
        Self {
            files,
            index,
            cmdline,
            kernel,
            seen,
            failures: 0,
        }
    }

    /// Returns how many modules the kernel has refused.
    pub(crate) fn failures(&self) -> usize {
        self.failures
    }

    /// Loads a module by name or by an alias such as `fs-ext4`, blacklisted or not.
    ///
    /// Returns whether this kernel has it, loaded or built in.
    pub(crate) fn request(&mut self, wanted: &[u8]) -> bool {
        self.request_at(wanted, 0)
    }

    fn request_at(&mut self, wanted: &[u8], depth: usize) -> bool {
        if self.index.file(wanted).is_some() {
            self.load(wanted, depth);
            return true;
        }
        if self.index.is_builtin(wanted) {
            return true;
        }
        let found = self.index.resolve(wanted);
        for module in &found {
            self.load(module, depth);
        }
        !found.is_empty()
    }

    /// Answers every device below `SYS/bus/*/devices` until no new one appears: a bus driver
    /// brings its own devices.
    pub(crate) fn coldplug(&mut self, sys: &Path) {
        loop {
            let fresh = self.seen.new_modaliases(sys);
            if fresh.is_empty() {
                return;
            }
            for modalias in fresh {
                self.answer(&modalias);
            }
        }
    }

    /// Loads what was put off, and answers the buses left out before.
    pub(crate) fn load_deferred(&mut self, sys: &Path) {
        for module in self.seen.deferred.take().into_iter().flatten() {
            self.load(&module, 0);
        }
        self.coldplug(sys);
    }

    /// Answers one device's modalias.
    pub(crate) fn answer(&mut self, modalias: &[u8]) {
        if modalias.len() > MODALIAS_BYTES_MAX || !self.seen.aliases.insert(modalias.to_vec()) {
            return;
        }
        for module in self.index.resolve(modalias) {
            if self.is_banned(module) {
                continue;
            }
            match &mut self.seen.deferred {
                Some(deferred) if can_wait(&self.index, module) => deferred.push(module.to_vec()),
                _ => self.load(module, 0),
            }
        }
    }

    /// Returns whether devices are not to have a module: `blacklist` lines and the command line.
    pub(crate) fn is_banned(&self, module: &[u8]) -> bool {
        let module = name(module);
        self.index.is_blacklisted(&module)
            || self
                .cmdline
                .list("modprobe.blacklist")
                .chain(self.cmdline.list("module_blacklist"))
                .any(|banned| name(banned.as_bytes()) == module)
    }

    fn load(&mut self, module: &[u8], depth: usize) {
        let module = name(module);
        let Some((file, needs)) = self.index.file(&module) else {
            return;
        };
        if depth > DEPTH_MAX || !self.seen.modules.insert(module.to_vec()) {
            return;
        }
        let (before, after) = self.index.softdep(&module);
        let (before, after) = (before.to_vec(), after.to_vec());
        for module in before {
            self.request_at(module, depth + 1);
        }
        // modules.dep lists the nearest first; what it needs comes last.
        for needed in needs.iter().rev().copied().filter_map(name_of_file) {
            self.load(&needed, depth + 1);
        }
        let path = self.files.directory().join(OsStr::from_bytes(file));
        let parameters = self.parameters(&module);
        let began = Instant::now();
        match self.kernel.load(&path, &parameters) {
            Ok(()) => debug!(
                "module {}: {:?}",
                String::from_utf8_lossy(&module),
                began.elapsed()
            ),
            Err(cause) => {
                self.failures += 1;
                say!("module {}: {cause}", String::from_utf8_lossy(&module));
            }
        }
        for module in after {
            self.request_at(module, depth + 1);
        }
    }

    /// Returns a module's parameters: modprobe.d first, so that the command line wins.
    fn parameters(&self, module: &[u8]) -> String {
        let configured = self.index.options(module).iter();
        configured
            .map(|option| String::from_utf8_lossy(option).into_owned())
            .chain(
                self.cmdline
                    .module_parameters(&String::from_utf8_lossy(module)),
            )
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn can_wait(index: &Index<'_>, module: &[u8]) -> bool {
    let Some((file, _)) = index.file(module) else {
        return false;
    };
    let file = String::from_utf8_lossy(file);
    DEFERRED_PATHS.iter().any(|part| file.contains(part))
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            modules: HashSet::new(),
            devices: HashSet::new(),
            aliases: HashSet::new(),
            deferred: Some(Vec::new()),
        }
    }
}

impl Seen {
    /// Returns whether anything was put off, or not even looked at.
    pub(crate) fn has_deferred(&self) -> bool {
        self.deferred.is_some()
    }

    /// Returns whether a modalias was answered before.
    pub(crate) fn knows(&self, modalias: &[u8]) -> bool {
        self.aliases.contains(modalias)
    }

    /// Returns the modaliases of devices not seen before, sorted.
    fn new_modaliases(&mut self, sys: &Path) -> Vec<Vec<u8>> {
        let mut fresh = Vec::new();
        for bus in directory(&sys.join("bus")) {
            let is = |names: &[&str]| names.iter().any(|name| bus.ends_with(name));
            if is(&SILENT_BUSES) || (self.deferred.is_some() && is(&DEFERRED_BUSES)) {
                continue;
            }
            for device in directory(&bus.join("devices")) {
                if self.devices.contains(&device) {
                    continue;
                }
                if let Ok(text) = fs::read(device.join("modalias")) {
                    fresh.push(text.trim_ascii().to_vec());
                }
                self.devices.insert(device);
            }
        }
        fresh.sort();
        fresh.dedup();
        fresh
    }
}

fn directory(path: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<(String, String)>);

    impl Kernel for &mut Recorder {
        fn load(&mut self, file: &Path, parameters: &str) -> Result<()> {
            let file = file.file_name().unwrap().to_str().unwrap().to_owned();
            self.0.push((file, parameters.to_owned()));
            Ok(())
        }
    }

    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules/1");
        let conf = root.path().join("etc/modprobe.d");
        let sys = root.path().join("sys/bus/pci/devices");
        let cpu = root.path().join("sys/bus/cpu/devices/cpu0");
        for directory in [
            &modules,
            &conf,
            &sys.join("0"),
            &sys.join("1"),
            &sys.join("2"),
            &cpu,
        ] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(
            modules.join("modules.dep"),
            "k/net.ko: k/mid.ko k/base.ko\nk/mid.ko: k/base.ko\nk/base.ko:\nk/md5.ko:\nk/snd.ko:\nk/loop-a.ko:\nk/loop-b.ko:\nk/drivers/cpufreq/freq.ko:\nk/drivers/input/mouse.ko:\n",
        )
        .unwrap();
        fs::write(
            modules.join("modules.alias"),
            "alias pci:v1d* net\nalias pci:v2d* snd\nalias crypto-md5 md5\nalias cpu:* freq\nalias pci:v3d* mouse\n",
        )
        .unwrap();
        fs::write(
            modules.join("modules.softdep"),
            "softdep net pre: crypto-md5\nsoftdep loop_a pre: loop_b\nsoftdep loop_b pre: loop_a\n",
        )
        .unwrap();
        fs::write(conf.join("a.conf"), "options net queues=2\nblacklist snd\n").unwrap();
        fs::write(sys.join("0/modalias"), "pci:v1d9\n").unwrap();
        fs::write(sys.join("1/modalias"), "pci:v2d9\n").unwrap();
        fs::write(sys.join("2/modalias"), "pci:v3d9\n").unwrap();
        fs::write(cpu.join("modalias"), "cpu:type:x\n").unwrap();
        root
    }

    #[test]
    fn devices_bring_their_modules_once_and_in_order() {
        let root = machine();
        let files = Files::read(root.path(), "1");
        let cmdline = Cmdline::parse(b"net.debug=1");
        let (mut kernel, mut seen) = (Recorder::default(), Seen::default());
        let mut loader = Loader::new(&files, &cmdline, &mut kernel, &mut seen);
        loader.coldplug(&root.path().join("sys"));
        loader.coldplug(&root.path().join("sys"));
        assert!(loader.request(b"net"));
        assert!(!loader.request(b"nowhere"));
        let names: Vec<&str> = kernel.0.iter().map(|(file, _)| file.as_str()).collect();
        assert_eq!(names, ["md5.ko", "base.ko", "mid.ko", "net.ko"]);
        assert_eq!(kernel.0[3].1, "queues=2 debug=1");
    }

    #[test]
    fn what_no_container_waits_for_comes_last() {
        let root = machine();
        let files = Files::read(root.path(), "1");
        let cmdline = Cmdline::default();
        let (mut kernel, mut seen) = (Recorder::default(), Seen::default());
        let sys = root.path().join("sys");
        Loader::new(&files, &cmdline, &mut kernel, &mut seen).coldplug(&sys);
        assert_eq!(kernel.0.last().unwrap().0, "net.ko");
        Loader::new(&files, &cmdline, &mut kernel, &mut seen).load_deferred(&sys);
        assert!(!seen.has_deferred());
        let names: Vec<&str> = kernel.0[4..]
            .iter()
            .map(|(file, _)| file.as_str())
            .collect();
        assert_eq!(names, ["mouse.ko", "freq.ko"]);
    }

    #[test]
    fn a_blacklisted_module_loads_when_named_and_cycles_end() {
        let root = machine();
        let files = Files::read(root.path(), "1");
        let cmdline = Cmdline::default();
        let (mut kernel, mut seen) = (Recorder::default(), Seen::default());
        let mut loader = Loader::new(&files, &cmdline, &mut kernel, &mut seen);
        assert!(loader.request(b"snd"));
        assert!(loader.request(b"loop-a"));
        let names: Vec<&str> = kernel.0.iter().map(|(file, _)| file.as_str()).collect();
        assert_eq!(names, ["snd.ko", "loop-b.ko", "loop-a.ko"]);
    }
}
