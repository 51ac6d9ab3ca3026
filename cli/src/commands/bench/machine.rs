//! Where it was measured: numbers of two machines do not compare.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What a machine is, as far as it decides about times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// Processors that this process may use.
    pub(super) cores: usize,
    /// Their name, empty when the kernel does not tell.
    pub(super) processor: String,
    /// Memory in bytes, 0 when unknown.
    pub(super) memory: u64,
    /// `Linux 6.1.0-18-amd64`
    pub(super) kernel: String,
    /// Type of the file system that was worked on, empty when unknown.
    pub(super) file_system: String,
}

impl Machine {
    /// Looks at this machine, and at the file system of `directory`.
    pub(super) fn look(directory: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let uname = rustix::system::uname();
        let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            memory: field(&read("/proc/meminfo"), "MemTotal")
                .trim_end_matches(" kB")
                .parse::<u64>()
                .map_or(0, |kilobytes| kilobytes.saturating_mul(1024)),
            kernel: format!("{} {}", part(uname.sysname()), part(uname.release())),
            file_system: fs::canonicalize(directory)
                .ok()
                .and_then(|path| file_system(&read("/proc/self/mountinfo"), &path))
                .unwrap_or_default(),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "memory_bytes": self.memory,
            "kernel": self.kernel,
            "file_system": self.file_system,
        })
    }

    /// Returns it in a few words.
    pub(super) fn words(&self) -> String {
        let cores = match self.cores {
            1 => "1 core".to_owned(),
            cores => format!("{cores} cores"),
        };
        let parts = [&cores, &self.processor, &self.kernel, &self.file_system];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.cloned().collect::<Vec<_>>().join(", ")
    }
}

/// Returns the first value of a name in lines of `name : value`.
fn field(text: &str, name: &str) -> String {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(key, _)| key.trim() == name);
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// Returns the type of a path's file system from proc_pid_mountinfo(5): the innermost mount's,
/// of several at one place the last.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| -> Option<(PathBuf, String)> {
        let (mount, kind) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        let place = place.replace("\\040", " ").replace("\\134", "\\");
        Some((place.into(), kind.split(' ').next()?.to_owned()))
    };
    mounts
        .lines()
        .filter_map(mount)
        .filter(|(place, _)| path.starts_with(place))
        .max_by_key(|(place, _)| place.components().count())
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:5 / /a\\040b rw shared:1 - tmpfs tmpfs rw\n\
                      3 1 0:6 / /a\\040b rw - xfs /dev/sdb rw\nbroken\n";
        let of = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(of("/home"), Some("ext4".into()));
        assert_eq!(of("/a b/c"), Some("xfs".into()));
        assert_eq!(of("/a bc"), Some("ext4".into()));
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_something_to_say() {
        let machine = Machine::look(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory > 0);
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        assert!(!machine.file_system.is_empty());
    }
}
