//! The end: onshutdown containers, SIGTERM, SIGKILL, disks, reboot(2) — and the fatal ends.
//!
//! Nothing waits longer than something is alive that can still do something about it.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::mount::{self, MountFlags, UnmountFlags};
use rustix::system::{RebootCommand, reboot};

use crate::alive::{Other, others_alive};
use crate::bundle::{self, Phase};
use crate::cmdline::Cmdline;
use crate::supervisor::{self, Action, Supervisor, seconds};
use crate::{console, say, sys};

/// Longest wait for processes to end by themselves.
const TERM_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the kernel to remove killed processes.
const KILL_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often processes that are not our children are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for the console to take the last lines.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// File systems without a disk or a server behind them: nothing to save.
const VIRTUAL: [&str; 18] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "rootfs",
    "devtmpfs",
    "devpts",
    "mqueue",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "configfs",
    "pstore",
    "efivarfs",
    "bpf",
    "nsfs",
    "selinuxfs",
];

/// Ends everything in order, then the machine.
pub(crate) fn shut_down(supervisor: &mut Supervisor, action: Action) -> ! {
    let began = Instant::now();
    let verb = match action {
        Action::PowerOff => "powering off",
        Action::Reboot => "rebooting",
        Action::Halt => "halting",
    };
    say!("{verb}");
    // Services still run: these containers may want them, and the network.
    let requests = supervisor.requests();
    for directory in bundle::list(Phase::Onshutdown) {
        let (id, bundle) = supervisor::read(&directory, Phase::Onshutdown);
        supervisor.run(bundle, &id, Phase::Onshutdown);
        if supervisor.requests() > requests {
            say!("asked again: not waiting for onshutdown containers");
            break;
        }
    }
    supervisor.expect_the_end();
    end_processes(supervisor);
    supervisor.drain();
    unmount_disks();
    rustix::fs::sync();
    say!("{verb} now, after {}", seconds(began.elapsed()));
    console::flush(FLUSH_MAX);
    end_machine(action, supervisor.cmdline())
}

fn end_processes(supervisor: &mut Supervisor) {
    // No process at all is fine, and the only possible error.
    let _ = sys::kill_all(libc::SIGTERM);
    let hearing = |_: &Supervisor| !others_alive().iter().any(Other::can_hear);
    wait_for(supervisor, TERM_WAIT_MAX, hearing);
    let _ = sys::kill_all(libc::SIGKILL);
    if !wait_for(supervisor, KILL_WAIT_MAX, |_| others_alive().is_empty()) {
        say!("{} processes cannot be killed", others_alive().len());
    }
}

fn wait_for(
    supervisor: &mut Supervisor,
    limit: Duration,
    done: impl Fn(&Supervisor) -> bool,
) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done(supervisor) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        supervisor.turn(Some(LOOK_EVERY));
    }
}

/// Unmounts what is on disks, newest first; what is busy becomes at least read-only.
fn unmount_disks() {
    rustix::fs::sync();
    // A file system whose file is swap is busy, and cannot even become read-only.
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for path in swaps.lines().skip(1).filter_map(|it| it.split(' ').next()) {
        let path = unescape(path);
        if let Err(cause) = sys::swap_off(&path) {
            say!("{path}: still used as swap: {cause}");
        }
    }
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut all = mounts(&table);
    all.reverse();
    for (path, kind) in all {
        if path == "/" || VIRTUAL.contains(&kind.as_str()) {
            continue;
        }
        if mount::unmount(path.as_str(), UnmountFlags::NOFOLLOW).is_ok() {
            continue;
        }
        let flags = MountFlags::RDONLY | MountFlags::from_bits_retain(crate::options::REMOUNT);
        if let Err(cause) = mount::mount("", path.as_str(), "", flags, None) {
            say!("{path}: neither unmounted nor made read-only: {cause}");
        }
    }
}

/// Reads mountinfo (proc(5)): mount points and types, oldest first.
fn mounts(table: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(table);
    text.lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let path = head.split(' ').nth(4)?;
            let kind = tail.split(' ').next()?;
            Some((unescape(path), kind.to_owned()))
        })
        .collect()
}

/// Undoes the `\040`-like escapes of mountinfo.
fn unescape(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                out.push(char::from(code));
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

fn end_machine(action: Action, cmdline: &Cmdline) -> ! {
    let command = match action {
        Action::PowerOff if cmdline.resets_to_power_off() => RebootCommand::Restart,
        Action::PowerOff => RebootCommand::PowerOff,
        Action::Reboot => RebootCommand::Restart,
        Action::Halt => RebootCommand::Halt,
    };
    let result = reboot(command);
    last_words(&format!("kiln: reboot(2) returned: {result:?}\n"));
    // PID 1 must not return: that would be a kernel panic with our message lost above it.
    loop {
        std::thread::park();
    }
}

/// Prints without queue or lock: nothing else can be relied on any more.
fn last_words(text: &str) {
    let console = fs::OpenOptions::new().write(true).open("/dev/console");
    let written = console.and_then(|mut console| console.write_all(text.as_bytes()));
    if written.is_err() {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// Says why, and ends the machine as `panic=` wants: restart (after that many seconds, or at once
/// if negative); without it, power off, since a machine without PID 1 serves nobody.
pub(crate) fn die(why: &str) -> ! {
    last_words(&format!("kiln: fatal: {why}\n"));
    if sys::in_child() {
        sys::exit_now(127);
    }
    rustix::fs::sync();
    let cmdline = Cmdline::parse(&fs::read("/proc/cmdline").unwrap_or_default());
    match cmdline.panic_seconds() {
        0 => end_machine(Action::PowerOff, &cmdline),
        seconds => {
            let wait = u64::try_from(seconds).unwrap_or(0);
            std::thread::sleep(Duration::from_secs(wait));
            end_machine(Action::Reboot, &cmdline)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mountinfo() {
        let table = b"22 1 0:5 / / rw shared:1 - rootfs rootfs rw\n\
            36 22 8:1 / /var/my\\040disk rw,noatime shared:9 master:1 - ext4 /dev/sda1 rw\nbroken\n";
        assert_eq!(
            mounts(table),
            [
                ("/".to_owned(), "rootfs".to_owned()),
                ("/var/my disk".to_owned(), "ext4".to_owned())
            ]
        );
        assert_eq!(unescape(r"a\134b\x"), r"a\b\x");
    }

    proptest! {
        #[test]
        fn any_table_is_fine(bytes: Vec<u8>) {
            let _ = mounts(&bytes);
        }

        #[test]
        fn unescape_is_fine(path in r".{0,9}(\\[0-9]{0,4}.{0,3}){0,4}") {
            let _ = unescape(&path);
        }
    }
}
