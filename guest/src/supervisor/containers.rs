//! The life of containers: started, adopted by the event loop, ended, buried.
//!
//! In: bundles. Out: processes with their output in journals, and a line on the console where one did
//! not start or ended badly.

use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, WaitOptions};

use super::running::Running;
use super::serve::send;
use super::{Action, LONG_RUN, MainEnd, Supervisor};
use crate::bundle::{Bundle, Phase, short_name};
use crate::error::Result;
use crate::log::{Journal, Output, Stream};
use crate::policy::{Main, OnFailure};
use crate::spec::ConsoleSize;
use crate::{alive, cgroup, container, say};

impl Supervisor {
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

    pub(super) fn adopt(&mut self, started: container::Started, bundle: Bundle) -> Pid {
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
    pub(super) fn take_terminal(&mut self, index: usize) {
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
    pub(super) fn journal(&mut self, bundle: &Bundle) -> usize {
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

    pub(super) fn runs(&self, pid: Pid) -> bool {
        self.containers.iter().any(|c| c.pid == pid)
    }

    /// Returns how many containers were not started or ended badly.
    pub(crate) fn failures(&self) -> i32 {
        self.failures
    }

    pub(super) fn name_of(&self, pid: Pid) -> &str {
        let container = self.containers.iter().find(|c| c.pid == pid);
        container.map_or("", |container| short_name(&container.bundle.id))
    }

    /// Has a container end by its stop signal, or at once if it would not hear that: to wait for it
    /// would be in vain.
    pub(super) fn tell_to_end(&self, pid: Pid, signal: i32) {
        match alive::hears(pid, signal) {
            true => send(pid, signal),
            false => self.kill(pid),
        }
    }

    /// Ends a container at once.
    pub(super) fn kill(&self, pid: Pid) {
        if let Some(running) = self.containers.iter().find(|c| c.pid == pid) {
            running.kill();
        }
    }

    pub(super) fn not_started(&mut self, phase: Phase, id: &str, why: &str) {
        self.failures += 1;
        say!("{} {}: not started: {why}", phase.noun(), short_name(id));
    }

    /// Collects every dead child; orphans of containers end here too.
    pub(super) fn reap(&mut self) {
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
    pub(super) fn bury(&mut self, now: Instant) {
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
}
