//! A container with a process, from its start to the word on how it ended.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use crate::bundle::{Bundle, Phase, short_name};
use crate::container::{STATUS_BYTES_MAX, Started};
use crate::error::Context;
use crate::policy::{self, Ready};
use crate::ready::{self, Notify};
use crate::{cgroup, say, terminal};

use super::program::exit_code;
use super::report::period;

/// A container with a process, or one whose end has not been dealt with.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) bundle: Bundle,
    pub(super) pid: Pid,
    pub(super) cgroup: Option<PathBuf>,
    /// Open until the program runs or the start failed.
    pub(super) status: Option<OwnedFd>,
    /// Why the start failed; empty if it did not.
    pub(super) error: Vec<u8>,
    pub(super) exit: Option<WaitStatus>,
    /// Where it says that it is ready.
    pub(super) notify: Option<Notify>,
    /// Its standard input, while somebody may attach to it.
    pub(super) stdin: Option<OwnedFd>,
    /// Where its terminal comes from, once the program runs.
    terminal: Option<OwnedFd>,
    look: Option<Look>,
}

/// When it is looked at whether a container is ready.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    wait: Duration,
}

impl Running {
    pub(super) fn new(bundle: Bundle, started: Started, now: Instant) -> (Self, [OwnedFd; 2]) {
        // Nobody waits for the others but for their end.
        let is_service = bundle.phase == Phase::Service;
        let looks = is_service && matches!(bundle.policy.ready, Ready::Tcp(_) | Ready::File(_));
        let running = Self {
            bundle,
            pid: started.pid,
            cgroup: started.cgroup,
            status: Some(started.status),
            error: Vec::new(),
            exit: None,
            notify: started.notify.filter(|_| is_service),
            stdin: started.stdin,
            terminal: started.terminal,
            look: looks.then_some(Look {
                at: now,
                wait: ready::LOOK_MIN,
            }),
        };
        (running, [started.stdout, started.stderr])
    }

    /// Returns whether its program runs.
    pub(super) fn is_up(&self) -> bool {
        self.status.is_none() && self.error.is_empty() && self.exit.is_none()
    }

    /// Reads what the start has to say.
    pub(super) fn take_status(&mut self) {
        let Some(status) = &self.status else {
            return;
        };
        let mut buffer = [0; STATUS_BYTES_MAX];
        match rustix::io::read(status, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => self.status = None,
            Ok(length) => {
                let room = STATUS_BYTES_MAX.saturating_sub(self.error.len());
                self.error.extend_from_slice(&buffer[..length.min(room)]);
            }
        }
    }

    /// Takes its terminal, once the program runs: all its input, and what it returns all its output.
    pub(super) fn take_terminal(&mut self) -> Option<OwnedFd> {
        // It may have ended already, and have printed something before.
        if self.status.is_some() || !self.error.is_empty() {
            return None;
        }
        let socket = self.terminal.take()?;
        let taken = terminal::receive(&socket).and_then(|master| {
            rustix::io::ioctl_fionbio(&master, true).context(|| "terminal")?;
            self.stdin = Some(master.try_clone().context(|| "terminal")?);
            Ok(master)
        });
        let id = &self.bundle.id;
        taken
            .inspect_err(|cause| say!("{id}: terminal: {cause}"))
            .ok()
    }

    /// Returns when to look next whether it is ready.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.look.filter(|_| self.is_up()).map(|look| look.at)
    }

    /// Returns whether it is ready, as far as that can be seen now.
    pub(super) fn is_ready(&mut self, now: Instant) -> bool {
        if !self.is_up() {
            return false;
        }
        match &self.bundle.policy.ready {
            Ready::Started => true,
            Ready::Notify => self.notify.as_ref().is_some_and(Notify::is_ready),
            seen => {
                let Some(look) = &mut self.look else {
                    return true;
                };
                if now < look.at {
                    return false;
                }
                look.at = now + look.wait;
                look.wait = (look.wait * 2).min(ready::LOOK_MAX);
                let is_ready = match seen {
                    Ready::Tcp(port) => ready::listens(self.pid, self.cgroup.as_deref(), *port),
                    Ready::File(path) => ready::has_file(self.pid, path),
                    Ready::Started | Ready::Notify => true,
                };
                if is_ready {
                    self.look = None;
                }
                is_ready
            }
        }
    }

    /// Ends it at once, with every process of its group.
    pub(super) fn kill(&self) {
        let killed = self.cgroup.as_deref().map(cgroup::kill);
        if !matches!(killed, Some(Ok(()))) {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    /// Returns whether it ended well, and how.
    pub(super) fn end(&self) -> (bool, String) {
        if !self.error.is_empty() {
            let cause = String::from_utf8_lossy(&self.error);
            return (false, format!("not started: {cause}"));
        }
        let Some(exit) = self.exit else {
            return (true, String::new());
        };
        let how = match (exit.exit_status(), exit.terminating_signal()) {
            (Some(status), _) => format!("exited with status {status}"),
            (None, Some(signal)) => format!("killed by signal {}", policy::signal_name(signal)),
            (None, None) => "ended".to_owned(),
        };
        let memory = self
            .cgroup
            .as_deref()
            .is_some_and(cgroup::ran_out_of_memory);
        let why = if memory { " (out of memory)" } else { "" };
        (exit.exit_status() == Some(0), format!("{how}{why}"))
    }

    /// Returns its exit status as a shell would have it.
    pub(super) fn exit_code(&self) -> u8 {
        match (&self.exit, self.error.is_empty()) {
            (Some(exit), true) => exit_code(*exit),
            _ => super::NOT_STARTED,
        }
    }

    /// Says how it ended, and what comes next.
    pub(super) fn report(&self, how: &str, again: Option<Duration>) {
        let (noun, name) = (self.bundle.phase.noun(), short_name(&self.bundle.id));
        match again {
            Some(wait) if wait.is_zero() => say!("{noun} {name}: {how}, starting again"),
            Some(wait) => {
                let wait = period(wait);
                say!("{noun} {name}: {how}, starting again in {wait}");
            }
            None => say!("{noun} {name}: {how}"),
        }
    }

    /// Leaves nothing of it: processes, control group, mounts. Returns a group that is still in use,
    /// by processes that have been killed only now, or may live on.
    pub(super) fn clear_away(&self) -> Option<&Path> {
        let mut left = None;
        if let Some(group) = &self.cgroup {
            // What an onboot container leaves behind may be a daemon on purpose.
            if self.bundle.phase == Phase::Service {
                let _ = cgroup::kill(group);
            }
            left = (!cgroup::remove(group)).then_some(group.as_path());
        }
        self.bundle.release();
        left
    }
}
