//! Built-in jobs: what LinuxKit's small onboot images do, without an image.
//!
//! In: a job's name and the arguments that the image of that name takes. Out: an exit status,
//! what was done on standard output, what went wrong on standard error. A job is a process of its
//! own, root in the host's namespaces, and knows nothing of PID 1. Every path and address that it
//! touches is a value that tests replace.

mod arguments;
mod devices;
mod dns;
mod ext4;
mod extend;
mod format;
mod metadata;
mod modprobe;
mod mount;
mod ntp;
mod settings;
mod superblock;
mod swap;
mod sysctl;
mod sysfs;
mod table;
mod udp;

use std::fmt;

use crate::error::{Error, Result};

/// Prints one line of what a job does.
macro_rules! tell {
    ($($arg:tt)*) => { $crate::jobs::tell_line(format_args!($($arg)*)) };
}
use tell;

pub(crate) use mount::{find_device, mount_found};

/// A job's program.
type Run = fn(&[String]) -> Result<()>;

/// Every job, by name.
const JOBS: &[(&str, Run)] = &[
    ("extend", extend::run),
    ("format", format::run),
    ("metadata", metadata::run),
    ("modprobe", modprobe::run),
    ("mount", mount::run),
    ("ntp", ntp::run),
    ("swap", swap::run),
    ("sysctl", sysctl::run),
    ("sysfs", sysfs::run),
];

/// Runs a job; returns its exit status.
pub(crate) fn run(name: &str, args: &[String]) -> i32 {
    let done = match JOBS.iter().find(|(job, _)| *job == name) {
        Some((_, run)) => run(args),
        None => Err(unknown()),
    };
    match done {
        Ok(()) => 0,
        Err(cause) => {
            print(rustix::stdio::stderr(), format_args!("{name}: {cause}"));
            1
        }
    }
}

fn unknown() -> Error {
    let names: Vec<&str> = JOBS.iter().map(|(job, _)| *job).collect();
    Error::new(format!("no such job; there are {}", names.join(", ")))
}

/// Prints a line; see [`tell!`].
fn tell_line(line: fmt::Arguments<'_>) {
    print(rustix::stdio::stdout(), line);
}

/// Writes a whole line in one call where the reader lets it. A stream that takes nothing (the
/// reader is gone, the terminal is closed) must not stop a machine from being set up.
fn print(stream: std::os::fd::BorrowedFd<'_>, line: fmt::Arguments<'_>) {
    let text = format!("{line}\n");
    let mut rest = text.as_bytes();
    while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::write(stream, rest)) {
        rest = rest.get(count..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_sorted_and_an_unknown_one_fails() {
        let names: Vec<&str> = JOBS.iter().map(|(job, _)| *job).collect();
        assert!(names.is_sorted());
        assert_eq!(run("nothing", &[]), 1);
        assert!(unknown().to_string().contains("modprobe, mount, ntp"));
    }
}
