//! The event loop of PID 1: one poll(2) over everything that can happen.
//!
//! Signals, container output, start reports, the console taking bytes again, the power button, new
//! devices, the network. Nothing in here blocks; whoever waits for something calls [`turn`] until
//! it is so.
//!
//! [`turn`]: Supervisor::turn

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::bundle::{Bundle, Phase, short_name};
use crate::cmdline::Cmdline;
use crate::container::{self, STATUS_BYTES_MAX, Started};
use crate::error::{Context, Result};
use crate::loader::Seen;
use crate::log::{Output, Stream};
use crate::network::Network;
use crate::power::Button;
use crate::uevent::{Event, Uevents};
use crate::{cgroup, console, machine, say, sys};

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Power off.
    PowerOff,
    /// Restart.
    Reboot,
    /// Stop the processor, keep the power.
    Halt,
}

impl Action {
    /// Returns what a signal to PID 1 asks for. The table is busybox init's, except that SIGTERM
    /// powers off: it is what hypervisors and container engines send to end a machine.
    fn of_signal(signal: libc::c_int) -> Option<Self> {
        match signal {
            libc::SIGTERM | libc::SIGUSR2 | libc::SIGPWR => Some(Self::PowerOff),
            libc::SIGINT => Some(Self::Reboot),
            libc::SIGUSR1 => Some(Self::Halt),
            _ => None,
        }
    }
}

/// A container with a process, or one whose end has not been dealt with.
#[derive(Debug)]
struct Running {
    bundle: Bundle,
    pid: Pid,
    cgroup: Option<PathBuf>,
    /// Open until the program runs or the start failed.
    status: Option<OwnedFd>,
    /// Why the start failed; empty if it did not.
    error: Vec<u8>,
    exit: Option<WaitStatus>,
}

/// What a descriptor of the poll set is for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Button,
    Uevents,
    Network,
    Console,
    Status(usize),
    Stream(usize),
}

/// After this time an onboot container is not one of those that start-up is measured by.
const LONG_RUN: Duration = Duration::from_secs(1);

/// Longest time for last words: a process that cannot be killed may never stop talking.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Everything PID 1 watches.
#[derive(Debug)]
pub(crate) struct Supervisor {
    signals: OwnedFd,
    cmdline: Cmdline,
    seen: Seen,
    containers: Vec<Running>,
    streams: Vec<(Pid, Stream)>,
    network: Option<Network>,
    button: Option<Button>,
    uevents: Option<Uevents>,
    /// Whether logs go to files.
    keep_logs: bool,
    action: Option<Action>,
    requests: u32,
    failures: i32,
    /// Containers that end are not worth a line any more.
    ending: bool,
}

const SIGNALS: [libc::c_int; 6] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPWR,
];

impl Supervisor {
    /// Blocks the signals it takes from now on by descriptor.
    pub(crate) fn new(cmdline: Cmdline, keep_logs: bool) -> Result<Self> {
        sys::ignore_sigpipe();
        Ok(Self {
            signals: sys::signal_fd(&SIGNALS).context(|| "signalfd")?,
            cmdline,
            seen: Seen::default(),
            containers: Vec::new(),
            streams: Vec::new(),
            network: None,
            button: None,
            uevents: None,
            keep_logs,
            action: None,
            requests: 0,
            failures: 0,
            ending: false,
        })
    }

    /// Loads the machine's modules, and from then on those of devices that appear.
    pub(crate) fn watch_devices(&mut self, overlay: bool) {
        // Subscribed first: a device may appear while the others are being answered.
        self.uevents = Uevents::open()
            .inspect_err(|cause| say!("uevents: {cause}"))
            .ok();
        machine::load_modules(&self.cmdline, &mut self.seen, overlay);
        // No ACPI, no button: a virtual machine without it is not worth a line.
        self.button = Button::open().ok();
    }

    /// Loads the modules for which nobody had to wait.
    pub(crate) fn finish_devices(&mut self) {
        machine::load_deferred(&self.cmdline, &mut self.seen);
    }

    /// Takes over a network client.
    pub(crate) fn watch_network(&mut self, network: Network) {
        self.network = Some(network);
    }

    /// Returns how the machine is to end, once somebody has said so.
    pub(crate) fn action(&self) -> Option<Action> {
        self.action
    }

    /// Returns how often somebody has said so.
    pub(crate) fn requests(&self) -> u32 {
        self.requests
    }

    /// Takes turns until `done`, or until the time is over; returns whether it was done.
    pub(crate) fn wait(&mut self, limit: Option<Duration>, done: impl Fn(&Self) -> bool) -> bool {
        let end = limit.map(|limit| Instant::now() + limit);
        while !done(self) {
            let now = Instant::now();
            if end.is_some_and(|end| end <= now) {
                return false;
            }
            self.turn(end.map(|end| end - now));
        }
        true
    }

    /// Returns whether the network is configured, or never will be.
    pub(crate) fn network_is_settled(&self) -> bool {
        self.network.as_ref().is_none_or(Network::is_settled)
    }

    /// Starts a container; what it prints and how it ends is said by later turns.
    ///
    /// Returns the process, or none if it could not be started, which has then been said.
    pub(crate) fn start(&mut self, bundle: Result<Bundle>, id: &str, phase: Phase) -> Option<Pid> {
        let started = bundle.and_then(|mut bundle| {
            let started = bundle
                .prepare()
                .and_then(|()| container::start(&mut bundle));
            if started.is_err() {
                bundle.release();
            }
            Ok((started?, bundle))
        });
        match started {
            Ok((started, bundle)) => Some(self.adopt(started, bundle)),
            Err(cause) => {
                self.failures += 1;
                say!("{} {}: not started: {cause}", phase.noun(), short_name(id));
                None
            }
        }
    }

    fn adopt(&mut self, started: Started, bundle: Bundle) -> Pid {
        let stream = |fd, output| Stream::new(fd, &bundle.id, bundle.phase, output, self.keep_logs);
        self.streams
            .push((started.pid, stream(started.stdout, Output::Stdout)));
        self.streams
            .push((started.pid, stream(started.stderr, Output::Stderr)));
        self.containers.push(Running {
            bundle,
            pid: started.pid,
            cgroup: started.cgroup,
            status: Some(started.status),
            error: Vec::new(),
            exit: None,
        });
        started.pid
    }

    /// Runs a container to its end.
    pub(crate) fn run(&mut self, bundle: Result<Bundle>, id: &str, phase: Phase) {
        let enough = self.requests;
        if let Some(pid) = self.start(bundle, id, phase) {
            // Somebody who asks for the end (again) does not wait for this one.
            let over = |s: &Self| !s.runs(pid) || s.requests > enough;
            if !self.wait(Some(LONG_RUN), over) {
                // The power button is among the modules put off.
                self.finish_devices();
                self.wait(None, over);
            }
        }
    }

    fn runs(&self, pid: Pid) -> bool {
        self.containers.iter().any(|c| c.pid == pid)
    }

    /// Returns how many containers were not started or ended badly.
    pub(crate) fn failures(&self) -> i32 {
        self.failures
    }

    /// Returns whether every container runs its program or has failed.
    pub(crate) fn all_started(&self) -> bool {
        self.containers.iter().all(|c| c.status.is_none())
    }

    /// Returns how many services run their program.
    pub(crate) fn services(&self) -> usize {
        let up = |c: &&Running| c.bundle.phase == Phase::Service && c.error.is_empty();
        self.containers.iter().filter(up).count()
    }

    /// Waits for something to happen, at most `limit`, and deals with it; returns whether anything
    /// did.
    pub(crate) fn turn(&mut self, limit: Option<Duration>) -> bool {
        let ready = self.ready(limit);
        for source in &ready {
            let source = *source;
            match source {
                Source::Signals => self.take_signals(),
                Source::Button => self.take_button(),
                Source::Uevents => self.take_uevents(),
                Source::Console => console::lock().drain(),
                Source::Status(index) => self.take_status(index),
                Source::Stream(index) => self.take_output(index),
                Source::Network => {}
            }
        }
        let now = Instant::now();
        if let Some(network) = &mut self.network {
            network.advance(now);
        }
        self.streams.retain(|(_, stream)| !stream.ended);
        self.bury();
        !ready.is_empty()
    }

    /// Polls; what is ready comes in the order to deal with: output before the death it explains.
    fn ready(&self, limit: Option<Duration>) -> Vec<Source> {
        let console = console::lock();
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut watch = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        for (index, (_, stream)) in self.streams.iter().enumerate() {
            watch(Source::Stream(index), stream.fd.as_fd(), PollFlags::IN);
        }
        for (index, container) in self.containers.iter().enumerate() {
            if let Some(status) = &container.status {
                watch(Source::Status(index), status.as_fd(), PollFlags::IN);
            }
        }
        if let Some(out) = console.waiting() {
            watch(Source::Console, out, PollFlags::OUT);
        }
        if let Some(uevents) = &self.uevents {
            watch(Source::Uevents, uevents.socket.as_fd(), PollFlags::IN);
        }
        if let Some(fd) = self.network.as_ref().and_then(Network::fd) {
            watch(Source::Network, fd, PollFlags::IN);
        }
        if let Some(button) = &self.button {
            watch(Source::Button, button.socket.as_fd(), PollFlags::IN);
        }
        watch(Source::Signals, self.signals.as_fd(), PollFlags::IN);

        let timeout = self.timeout(limit).and_then(|t| t.try_into().ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Vec::new(),
            // Nothing can be waited for any more: PID 1 must not spin in silence.
            Err(cause) => panic!("poll: {cause}"),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let pairs = sources.into_iter().zip(ready);
        pairs
            .filter(|(_, ready)| *ready)
            .map(|(source, _)| source)
            .collect()
    }

    fn timeout(&self, limit: Option<Duration>) -> Option<Duration> {
        let due = self.network.as_ref().and_then(Network::deadline);
        let due = due.map(|at| at.saturating_duration_since(Instant::now()));
        [limit, due].into_iter().flatten().min()
    }

    fn take_signals(&mut self) {
        // struct signalfd_siginfo is 128 bytes and begins with the signal's number.
        let mut buffer = [0; 128];
        while let Ok(128) = rustix::io::read(&self.signals, &mut buffer) {
            let number = i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            if number == libc::SIGCHLD {
                self.reap();
            } else if let Some(action) = Action::of_signal(number) {
                self.ask(action);
            }
        }
    }

    fn ask(&mut self, action: Action) {
        self.action.get_or_insert(action);
        self.requests += 1;
    }

    fn take_button(&mut self) {
        if self.button.as_ref().is_some_and(Button::pressed) {
            say!("power button pressed");
            self.ask(Action::PowerOff);
        }
    }

    fn take_uevents(&mut self) {
        let events = self.uevents.as_ref().map(Uevents::read).unwrap_or_default();
        let mut modaliases = Vec::new();
        for event in events {
            match event {
                Event::Modalias(modalias) => modaliases.push(modalias),
                Event::Interface => {
                    if let Some(network) = &mut self.network {
                        network.interface_appeared(Instant::now());
                    }
                }
            }
        }
        machine::load_for_devices(&self.cmdline, &mut self.seen, &modaliases);
    }

    fn take_status(&mut self, index: usize) {
        let container = &mut self.containers[index];
        let Some(status) = &container.status else {
            return;
        };
        let mut buffer = [0; STATUS_BYTES_MAX];
        match rustix::io::read(status, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => container.status = None,
            Ok(length) => {
                let room = STATUS_BYTES_MAX.saturating_sub(container.error.len());
                container
                    .error
                    .extend_from_slice(&buffer[..length.min(room)]);
            }
        }
    }

    fn take_output(&mut self, index: usize) {
        let (_, stream) = &mut self.streams[index];
        stream.ended = !stream.pump();
    }

    /// Collects every dead child; orphans of containers end here too.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(container) = self.containers.iter_mut().find(|c| c.pid == pid) {
                container.exit = Some(status);
            }
        }
    }

    /// Reports and tidies up containers that have ended.
    fn bury(&mut self) {
        let is_dead = |c: &Running| c.exit.is_some() && c.status.is_none();
        while let Some(index) = self.containers.iter().position(is_dead) {
            let dead = self.containers.remove(index);
            // What it wrote comes before what became of it.
            for (pid, stream) in &mut self.streams {
                if *pid == dead.pid && !stream.ended {
                    stream.ended = !stream.pump();
                }
            }
            let expected = self.ending && dead.bundle.phase == Phase::Service;
            if !expected && !dead.report() {
                self.failures += 1;
            }
            if let Some(group) = &dead.cgroup {
                cgroup::remove(group);
            }
            dead.bundle.release();
        }
    }

    /// Leaves the network alone and expects every container to end: for shutdown.
    pub(crate) fn expect_the_end(&mut self) {
        self.network = None;
        self.ending = true;
    }

    /// Takes the last words of what has ended.
    pub(crate) fn drain(&mut self) {
        let end = Instant::now() + DRAIN_MAX;
        while self.turn(Some(Duration::ZERO)) && Instant::now() < end {}
    }
}

impl Running {
    /// Says how it ended; returns whether that was well.
    fn report(&self) -> bool {
        let (noun, name) = (self.bundle.phase.noun(), short_name(&self.bundle.id));
        if !self.error.is_empty() {
            let cause = String::from_utf8_lossy(&self.error);
            say!("{noun} {name}: not started: {cause}");
            return false;
        }
        let Some(exit) = self.exit else { return true };
        match (exit.exit_status(), exit.terminating_signal()) {
            (Some(0), _) if self.bundle.phase != Phase::Service => {}
            (Some(status), _) => say!("{noun} {name}: exited with status {status}"),
            (None, Some(signal)) => say!("{noun} {name}: killed by signal {signal}"),
            (None, None) => say!("{noun} {name}: ended"),
        }
        exit.exit_status() == Some(0)
    }
}

/// Reads a container's bundle, with its name.
pub(crate) fn read(directory: &std::path::Path, phase: Phase) -> (String, Result<Bundle>) {
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    (id.into_owned(), Bundle::read(directory, phase))
}

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
    /// It catches SIGTERM.
    catches_term: bool,
    /// It is the first process of a pid namespace, to which an uncaught SIGTERM does nothing.
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
            catches_term: caught & 1 << (libc::SIGTERM - 1) != 0,
            is_init: ids.len() > 1 && ids.last() == Some(&"1"),
        })
    }

    /// Returns whether SIGTERM can end it: waiting for one that cannot hear is in vain.
    pub(crate) fn can_hear(&self) -> bool {
        self.catches_term || !self.is_init
    }
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

    #[test]
    fn signals_of_the_contract() {
        assert_eq!(Action::of_signal(libc::SIGTERM), Some(Action::PowerOff));
        assert_eq!(Action::of_signal(libc::SIGUSR2), Some(Action::PowerOff));
        assert_eq!(Action::of_signal(libc::SIGINT), Some(Action::Reboot));
        assert_eq!(Action::of_signal(libc::SIGUSR1), Some(Action::Halt));
        assert_eq!(Action::of_signal(libc::SIGHUP), None);
    }
}
