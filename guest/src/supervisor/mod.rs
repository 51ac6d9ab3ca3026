//! The event loop of PID 1: one poll(2) over everything that can happen.
//!
//! Signals, container output, start reports, the console taking bytes again, the power button, new
//! devices, the network, services that are due. Nothing in here blocks; whoever waits for something
//! calls [`turn`] until it is so.
//!
//! [`turn`]: Supervisor::turn

mod containers;
mod memlog;
mod program;
mod replace;
mod report;
mod running;
mod serve;
mod services;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;

use crate::bundle::{Bundle, Phase};
use crate::cmdline::Cmdline;
use crate::error::{Context, Result};
use crate::loader::Seen;
use crate::log::{Journal, Stream};
use crate::network::Network;
use crate::power::Button;
use crate::service::Services;
use crate::uevent::{Event, Uevents};
use crate::{console, machine, say, sys};
use memlog::Memlog;
use replace::Replacement;
pub(crate) use report::seconds;
use running::Running;
use serve::Conversation;

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

/// What a descriptor of the poll set is for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Button,
    Uevents,
    Network,
    Console,
    Listener,
    Conversation,
    Memlog,
    Status(usize),
    Notify,
    Stream(usize),
}

/// After this time an onboot container is not one of those that start-up is measured by.
const LONG_RUN: Duration = Duration::from_secs(1);

/// The status of what could not be started, as a shell's.
const NOT_STARTED: u8 = 127;

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
    journals: Vec<Journal>,
    services: Services,
    /// Bundles of services that have been read but not started yet.
    fresh: Vec<Bundle>,
    replacements: Vec<Replacement>,
    /// Control groups of containers that have ended, with processes that have not.
    groups: Vec<PathBuf>,
    /// Places for bundles that were given away.
    places: u32,
    /// A service has ended or was added: others may wait for it in vain.
    services_changed: bool,
    network: Option<Network>,
    button: Option<Button>,
    uevents: Option<Uevents>,
    /// Where `kilnctl` connects.
    listener: Option<OwnedFd>,
    /// Where the host connects, if it can.
    host_listener: Option<OwnedFd>,
    conversations: Vec<Conversation>,
    /// Whether logs go to files.
    keep_logs: bool,
    /// Or to programs that know LinuxKit's memlogd.
    memlog: Option<Memlog>,
    action: Option<Action>,
    requests: u32,
    failures: i32,
    /// Containers that end are not worth a line any more.
    ending: bool,
    /// The end of the service for which the machine is there.
    main: Option<MainEnd>,
}

/// The end of the service for which the machine is there.
#[derive(Debug)]
struct MainEnd {
    status: u8,
    /// Why it never ran, if it did not.
    trouble: Option<String>,
    at: Instant,
}

const SIGNALS: [libc::c_int; 7] = [
    libc::SIGCHLD,
    // Of virtio ports.
    libc::SIGIO,
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
            journals: Vec::new(),
            services: Services::default(),
            fresh: Vec::new(),
            replacements: Vec::new(),
            groups: Vec::new(),
            places: 0,
            services_changed: false,
            network: None,
            button: None,
            uevents: None,
            listener: None,
            host_listener: None,
            conversations: Vec::new(),
            keep_logs,
            memlog: None,
            action: None,
            requests: 0,
            failures: 0,
            ending: false,
            main: None,
        })
    }

    /// Loads the machine's modules, and from then on those of devices that appear. From then on it
    /// can be talked to, too.
    pub(crate) fn watch_devices(&mut self) {
        // Subscribed first: a device may appear while the others are being answered.
        self.uevents = Uevents::open()
            .inspect_err(|cause| say!("uevents: {cause}"))
            .ok();
        machine::load_modules(&self.cmdline, &mut self.seen);
        self.services.devices_are_there();
        self.listen();
        let now = Instant::now();
        if let Some(network) = &mut self.network {
            // It may have come before there was anybody to hear of it.
            network.interface_appeared(now);
        }
        self.advance_services(now);
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

    /// Returns the kernel's command line.
    pub(crate) fn cmdline(&self) -> &Cmdline {
        &self.cmdline
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
                Source::Status(index) => {
                    self.containers[index].take_status();
                    self.take_terminal(index);
                }
                Source::Stream(index) => {
                    let (_, stream) = &mut self.streams[index];
                    stream.pump(&mut self.journals[stream.journal], |_, _| {});
                }
                // Looked at below, as time passes.
                Source::Network | Source::Notify | Source::Conversation | Source::Memlog => {}
                Source::Listener => self.accept(),
            }
        }
        let now = Instant::now();
        if let Some(network) = &mut self.network {
            network.advance(now);
        }
        self.streams.retain(|(_, stream)| !stream.ended);
        self.bury(now);
        if let Some(memlog) = &mut self.memlog {
            memlog.advance(&self.journals);
        }
        self.advance_services(now);
        self.advance_replacements(now);
        self.note_main(now);
        self.converse(now);
        self.end_with_main(now);
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
            if stream.held {
                continue;
            }
            watch(Source::Stream(index), stream.fd.as_fd(), PollFlags::IN);
        }
        for (index, container) in self.containers.iter().enumerate() {
            if let Some(status) = &container.status {
                watch(Source::Status(index), status.as_fd(), PollFlags::IN);
            }
            if let (Some(notify), true) = (&container.notify, container.is_up()) {
                watch(Source::Notify, notify.socket.as_fd(), PollFlags::IN);
            }
        }
        for conversation in &self.conversations {
            for (fd, flags) in self.waits_of(conversation) {
                watch(Source::Conversation, fd, flags);
            }
        }
        for listener in self.listeners() {
            watch(Source::Listener, listener.as_fd(), PollFlags::IN);
        }
        for (fd, flags) in self.memlog.iter().flat_map(Memlog::waits) {
            watch(Source::Memlog, fd, flags);
        }
        if let Some(out) = console.waiting() {
            watch(Source::Console, out, PollFlags::OUT);
        }
        if let Some(uevents) = &self.uevents {
            watch(Source::Uevents, uevents.socket.as_fd(), PollFlags::IN);
        }
        for fd in self.network.iter().flat_map(Network::fds) {
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
        let network = self.network.as_ref().and_then(Network::deadline);
        let looks = self.containers.iter().filter_map(Running::next_look).min();
        let due = [
            network,
            looks,
            self.services.deadline(),
            self.replacement_deadline(),
            self.main_deadline(),
        ];
        let due = due.into_iter().flatten().min();
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
            } else if number == libc::SIGIO {
                self.look_at_ports();
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
                Event::Port(device) => self.port_appeared(&device),
                Event::Vsock => self.listen_to_host(),
                Event::Interface => {
                    if let Some(network) = &mut self.network {
                        network.interface_appeared(Instant::now());
                    }
                }
            }
        }
        machine::load_for_devices(&self.cmdline, &mut self.seen, &modaliases);
    }

    /// Takes the last words of what has ended.
    pub(crate) fn drain(&mut self) {
        let end = Instant::now() + DRAIN_MAX;
        while self.turn(Some(Duration::ZERO)) && Instant::now() < end {}
    }
}

/// Reads a container's bundle, with its name.
pub(crate) fn read(directory: &Path, phase: Phase) -> (String, Result<Bundle>) {
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    (id.into_owned(), Bundle::read(directory, phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_of_the_contract() {
        assert_eq!(Action::of_signal(libc::SIGTERM), Some(Action::PowerOff));
        assert_eq!(Action::of_signal(libc::SIGUSR2), Some(Action::PowerOff));
        assert_eq!(Action::of_signal(libc::SIGINT), Some(Action::Reboot));
        assert_eq!(Action::of_signal(libc::SIGUSR1), Some(Action::Halt));
        assert_eq!(Action::of_signal(libc::SIGHUP), None);
    }
}
