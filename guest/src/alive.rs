//! Which processes are left, as far as the end of the machine is concerned (`/proc/PID/status`).

use std::fs;

use rustix::process::Pid;

/// Returns the ids of processes that shutdown has to wait for or kill: not kernel threads, not
/// zombies, not us.
pub(crate) fn others_alive() -> Vec<Other> {
    let own = rustix::process::getpid();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| *pid != own.as_raw_nonzero().get())
        .filter_map(|pid| Other::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?))
        .collect()
}

/// A process, as far as shutdown cares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Other {
    /// The signals it catches, the first as the lowest bit.
    caught: u64,
    /// It is the first process of a pid namespace, to which an uncaught signal does nothing.
    is_init: bool,
}

impl Other {
    /// Reads `/proc/PID/status`; none for zombies and kernel threads (which have no memory).
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        if field("VmSize").is_none() || field("State")?.starts_with(['Z', 'X']) {
            return None;
        }
        let caught = u64::from_str_radix(field("SigCgt")?, 16).ok()?;
        let ids: Vec<&str> = field("NSpid")
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        Some(Self {
            caught,
            is_init: ids.len() > 1 && ids.last() == Some(&"1"),
        })
    }

    /// Returns whether SIGTERM can end it: waiting for one that cannot hear is in vain.
    pub(crate) fn can_hear(&self) -> bool {
        self.hears(libc::SIGTERM)
    }

    fn hears(&self, signal: i32) -> bool {
        !self.is_init || self.caught & 1_u64.rotate_left(signal.unsigned_abs() - 1) != 0
    }
}

/// Returns whether a signal does anything to a process.
pub(crate) fn hears(pid: Pid, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let process = status.ok().and_then(|status| Other::parse(&status));
    signal == libc::SIGKILL || process.is_some_and(|process| process.hears(signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_sigterm() {
        let status = |state: &str, caught: &str, ids: &str| {
            format!("Name:\tx\nState:\t{state}\nVmSize:\t 4 kB\nNSpid:\t{ids}\nSigCgt:\t{caught}\n")
        };
        let hears = |s: String| Other::parse(&s).map(|o| o.can_hear());
        assert_eq!(
            hears(status("S (sleeping)", "0000000000004000", "9\t1")),
            Some(true)
        );
        assert_eq!(
            hears(status("S (sleeping)", "0000000000000000", "9\t1")),
            Some(false)
        );
        assert_eq!(
            hears(status("S (sleeping)", "0000000000000000", "9\t2")),
            Some(true)
        );
        assert_eq!(
            hears(status("S (sleeping)", "0000000000000000", "9")),
            Some(true)
        );
        assert_eq!(hears(status("Z (zombie)", "0000000000004000", "9")), None);
        assert_eq!(hears("Name:\tkthreadd\nState:\tS\n".to_owned()), None);
        assert!(Other::parse("garbage").is_none());
    }
}
