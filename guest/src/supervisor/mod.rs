//! The event loop of PID 1: one poll(2) over everything that can happen.
//!
//! Signals, container output, start reports, the console taking bytes again, the power button, new
//! devices, the network, services that are due. Nothing in here blocks; whoever waits for something
//! calls [`turn`] until it is so.
//!
//! [`turn`]: Supervisor::turn

mod memlog;
mod program;
mod replace;
mod report;
mod running;
mod serve;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions};

use crate::bundle::{Bundle, Phase, short_name};
use crate::cmdline::Cmdline;
use crate::container;
use crate::error::{Context, Result};
use crate::loader::Seen;
use crate::log::{Journal, Output, Stream};
use crate::network::Network;
use crate::policy::{Main, OnFailure};
use crate::power::Button;
use crate::service::{Services, State};
use crate::spec::ConsoleSize;
use crate::uevent::{Event, Uevents};
use crate::{alive, bundle, cgroup, console, machine, needs, say, sys};
use memlog::Memlog;
use replace::Replacement;
pub(crate) use report::seconds;
use running::Running;
use serve::{Conversation, send};

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

/// How long output waits for somebody to attach after its program has ended.
const ATTACH_MAX: Duration = Duration::from_secs(10);

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

    /// Starts a container; what it prints and how it ends is said by later turns.
    ///
    /// Returns the process, or none if it could not be started, which has then been said.
    pub(crate) fn start(&mut self, bundle: Result<Bundle>, id: &str, phase: Phase) -> Option<Pid> {
        // Whoever has printed something, or could have, was here before.
        let again = self.journals.iter().any(|journal| journal.is_of(id, phase));
        let window = self.cmdline.window();
        let started = bundle.and_then(|mut bundle| {
            let size = window.map(|(height, width)| ConsoleSize { height, width });
            let asked = &mut bundle.config.process.console_size;
            *asked = asked.take().or(size);
            let started = bundle
                .prepare(again)
                .and_then(|()| container::start(&mut bundle));
            if started.is_err() {
                bundle.release();
            }
            Ok((started?, bundle))
        });
        match started {
            Ok((started, bundle)) => Some(self.adopt(started, bundle)),
            Err(cause) => {
                self.not_started(phase, id, &cause.to_string());
                None
            }
        }
    }

    fn adopt(&mut self, started: container::Started, bundle: Bundle) -> Pid {
        let journal = self.journal(&bundle);
        let (running, [stdout, stderr]) = Running::new(bundle, started, Instant::now());
        let pid = running.pid;
        let held = running.bundle.policy.main == Main::Attach;
        for (fd, output) in [(stdout, Output::Stdout), (stderr, Output::Stderr)] {
            let stream = Stream::new(fd, output, journal, held);
            self.streams.push((pid, stream));
        }
        self.containers.push(running);
        pid
    }

    /// Takes a container's terminal, if it has one now.
    fn take_terminal(&mut self, index: usize) {
        let Some(terminal) = self.containers[index].take_terminal() else {
            return;
        };
        let running = &self.containers[index];
        let its = |(pid, stream): &&(Pid, Stream)| {
            (*pid == running.pid).then_some((stream.journal, stream.held))
        };
        if let Some((journal, held)) = self.streams.iter().find_map(|entry| its(&entry)) {
            let stream = Stream::new(terminal, Output::Stdout, journal, held);
            self.streams.push((running.pid, stream));
        }
    }

    /// Returns the log of a container, begun if it has none yet.
    fn journal(&mut self, bundle: &Bundle) -> usize {
        let is_its = |journal: &Journal| journal.is_of(&bundle.id, bundle.phase);
        self.journals.iter().position(is_its).unwrap_or_else(|| {
            let to_console = bundle.policy.console;
            let journal = Journal::new(&bundle.id, bundle.phase, to_console, self.keep_logs);
            self.journals.push(journal);
            self.journals.len() - 1
        })
    }

    /// Runs a container to its end. One that fails and whose policy is to stop ends the machine.
    pub(crate) fn run(&mut self, bundle: Result<Bundle>, id: &str, phase: Phase) {
        let on_failure = bundle.as_ref().ok().map(|bundle| bundle.policy.on_failure);
        let (enough, failures) = (self.requests, self.failures);
        if let Some(pid) = self.start(bundle, id, phase) {
            // Somebody who asks for the end (again) does not wait for this one.
            let over = |s: &Self| !s.runs(pid) || s.requests > enough;
            if !self.wait(Some(LONG_RUN), over) {
                // The power button is among the modules put off.
                self.finish_devices();
                self.wait(None, over);
            }
        }
        if self.failures > failures && on_failure == Some(OnFailure::Stop) && phase == Phase::Onboot
        {
            say!(
                "{} {}: kiln.on-failure is stop",
                phase.noun(),
                short_name(id)
            );
            self.ask(Action::PowerOff);
        }
    }

    fn runs(&self, pid: Pid) -> bool {
        self.containers.iter().any(|c| c.pid == pid)
    }

    /// Returns how many containers were not started or ended badly.
    pub(crate) fn failures(&self) -> i32 {
        self.failures
    }

    /// Takes over the services; each starts as soon as those it depends on are ready.
    pub(crate) fn start_services(&mut self, bundles: Vec<(String, Result<Bundle>)>) {
        for (id, bundle) in bundles {
            match bundle {
                Ok(bundle) => {
                    let directory = bundle.directory.clone();
                    let needs_devices = needs::needs_devices(&bundle);
                    let policy = bundle.policy.clone();
                    self.services.add(id, directory, policy, needs_devices);
                    self.fresh.push(bundle);
                }
                Err(cause) => {
                    let directory = bundle::directory(Phase::Service, &id);
                    self.not_started(Phase::Service, &id, &cause.to_string());
                    self.services.add_broken(id, directory, cause.to_string());
                }
            }
        }
        self.services_changed = true;
        self.advance_services(Instant::now());
    }

    /// Waits a while for those services to begin that have been started.
    pub(crate) fn wait_for_started(&mut self) {
        let begun = |s: &Self| s.containers.iter().all(|c| c.status.is_none());
        self.wait(Some(LONG_RUN), begun);
    }

    /// Waits until every service has begun, however long that takes.
    pub(crate) fn wait_for_services(&mut self) {
        let begun = |s: &Self| s.all_begun() || s.action().is_some();
        if !self.wait(Some(LONG_RUN), begun) {
            // One that others wait for may need a device.
            self.finish_devices();
            self.wait(None, begun);
        }
    }

    /// Returns whether every service runs its program, has failed, or rests.
    fn all_begun(&self) -> bool {
        let waits = |state: &State| *state == State::Waiting;
        self.containers.iter().all(|c| c.status.is_none())
            && !self.services.all().iter().any(|s| waits(&s.state))
    }

    /// Returns how many services run their program.
    pub(crate) fn services_up(&self) -> usize {
        let is_up = |c: &&Running| c.bundle.phase == Phase::Service && c.is_up();
        self.containers.iter().filter(is_up).count()
    }

    /// Starts, kills and looks at services as their time comes.
    fn advance_services(&mut self, now: Instant) {
        loop {
            if std::mem::take(&mut self.services_changed) {
                for (id, why) in self.services.give_up_hopeless() {
                    self.not_started(Phase::Service, &id, &why);
                }
            }
            let Some(index) = self.services.due(now) else {
                break;
            };
            self.start_service(index, now);
        }
        for pid in self.services.overdue(now) {
            say!("service {}: does not end, killed", self.name_of(pid));
            self.kill(pid);
        }
        for index in 0..self.containers.len() {
            let running = &mut self.containers[index];
            if running.bundle.phase == Phase::Service
                && !self.services.knows_ready(running.pid)
                && running.is_ready(now)
            {
                // What else it says is for nobody.
                running.notify = None;
                let pid = running.pid;
                if !self.services.ready(pid) {
                    self.replacement_ready(pid, now);
                }
            }
        }
    }

    fn name_of(&self, pid: Pid) -> &str {
        let container = self.containers.iter().find(|c| c.pid == pid);
        container.map_or("", |container| short_name(&container.bundle.id))
    }

    /// Has a container end by its stop signal, or at once if it would not hear that: to wait for it
    /// would be in vain.
    fn tell_to_end(&self, pid: Pid, signal: i32) {
        match alive::hears(pid, signal) {
            true => send(pid, signal),
            false => self.kill(pid),
        }
    }

    /// Ends a container at once.
    fn kill(&self, pid: Pid) {
        if let Some(running) = self.containers.iter().find(|c| c.pid == pid) {
            running.kill();
        }
    }

    /// Notes that the service for which the machine is there has ended, however it came to that.
    fn note_main(&mut self, now: Instant) {
        let mut all = self.services.all().iter();
        let ended = all.find_map(|service| match &service.state {
            State::Ended(how) if service.policy.main != Main::Off => Some(how),
            _ => None,
        });
        if let (None, Some(how)) = (&self.main, ended) {
            self.main = Some(MainEnd {
                status: NOT_STARTED,
                trouble: Some(how.clone()),
                at: now,
            });
        }
    }

    fn start_service(&mut self, index: usize, now: Instant) {
        let service = &self.services.all()[index];
        let (id, directory) = (service.id.clone(), service.directory.clone());
        let fresh = self.fresh.iter().position(|bundle| bundle.id == id);
        let bundle = match fresh {
            Some(fresh) => Ok(self.fresh.swap_remove(fresh)),
            None => Bundle::read(&directory, Phase::Service),
        };
        let shares = self.has_two(&id);
        let bundle = bundle.map(|mut bundle| {
            bundle.shares_ports = shares;
            bundle
        });
        match self.start(bundle, &id, Phase::Service) {
            Some(pid) => self.services.started(index, pid, now),
            None => {
                let how = "not started: see the console";
                self.services.ended(index, false, how, now);
                self.services_changed = true;
            }
        }
    }

    fn not_started(&mut self, phase: Phase, id: &str, why: &str) {
        self.failures += 1;
        say!("{} {}: not started: {why}", phase.noun(), short_name(id));
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

    /// Collects every dead child; orphans of containers end here too.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(container) = self.containers.iter_mut().find(|c| c.pid == pid) {
                container.exit = Some(status);
            } else {
                self.program_ended(pid, status);
            }
        }
        self.groups.retain(|group| !cgroup::remove(group));
    }

    /// Reports and tidies up containers that have ended.
    fn bury(&mut self, now: Instant) {
        let is_dead = |c: &Running| c.exit.is_some() && c.status.is_none();
        while let Some(index) = self.containers.iter().position(is_dead) {
            let dead = self.containers.remove(index);
            // Its control group knows why.
            let (succeeded, how) = dead.end();
            let left = dead.clear_away().map(Path::to_owned);
            self.groups.extend(left);
            // What it wrote comes before what became of it.
            for (pid, stream) in &mut self.streams {
                if *pid == dead.pid && !stream.ended && !stream.held {
                    stream.pump(&mut self.journals[stream.journal], |_, _| {});
                }
            }
            let is_service = dead.bundle.phase == Phase::Service;
            let replaced = self.replacement_ended(&dead, &how, now);
            let expected = replaced || self.ending && is_service;
            if !succeeded && !expected {
                self.failures += 1;
            }
            let mut again = None;
            if let Some(index) = self.services.of(dead.pid) {
                again = self.services.ended(index, succeeded, &how, now);
                self.services_changed = true;
            }
            if again.is_none() && !replaced && dead.bundle.policy.main != Main::Off {
                let never_ran = !dead.error.is_empty();
                self.main = Some(MainEnd {
                    status: dead.exit_code(),
                    trouble: never_ran.then(|| how.clone()),
                    at: now,
                });
            }
            if !expected && (!succeeded || is_service) {
                dead.report(&how, again);
            }
        }
    }

    /// Powers off when the service for which the machine is there has ended, and whoever is
    /// attached to it has had its output.
    fn end_with_main(&mut self, now: Instant) {
        let Some(main) = &self.main else { return };
        let unheard = self.streams.iter().any(|(_, stream)| stream.held);
        let waited = now.saturating_duration_since(main.at) >= ATTACH_MAX;
        if self.action.is_none() && !self.has_attached() && (waited || !unheard) {
            self.ask(Action::PowerOff);
        }
    }

    fn main_deadline(&self) -> Option<Instant> {
        let waits = self.action.is_none() && !self.has_attached();
        let main = self.main.as_ref().filter(|_| waits);
        main.map(|main| main.at + ATTACH_MAX)
    }

    /// Leaves the network alone and expects every container to end: for shutdown.
    pub(crate) fn expect_the_end(&mut self) {
        self.network = None;
        self.ending = true;
        self.services.expect_the_end();
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
