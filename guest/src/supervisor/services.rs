//! Services: those whose time has come are started and looked at, and the one that the machine is for
//! ends it.
//!
//! In: what [`Services`] says is due. Out: starts, ends, and the exit status of the machine.

use std::time::{Duration, Instant};

use super::running::Running;
use super::{Action, LONG_RUN, MainEnd, NOT_STARTED, Supervisor};
use crate::bundle::{self, Bundle, Phase};
use crate::error::Result;
use crate::policy::Main;
use crate::service::State;
use crate::{needs, say};

/// How long output waits for somebody to attach after its program has ended.
const ATTACH_MAX: Duration = Duration::from_secs(10);

impl Supervisor {
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
    pub(super) fn all_begun(&self) -> bool {
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
    pub(super) fn advance_services(&mut self, now: Instant) {
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

    /// Notes that the service for which the machine is there has ended, however it came to that.
    pub(super) fn note_main(&mut self, now: Instant) {
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

    pub(super) fn start_service(&mut self, index: usize, now: Instant) {
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

    /// Powers off when the service for which the machine is there has ended, and whoever is
    /// attached to it has had its output.
    pub(super) fn end_with_main(&mut self, now: Instant) {
        let Some(main) = &self.main else { return };
        let unheard = self.streams.iter().any(|(_, stream)| stream.held);
        let waited = now.saturating_duration_since(main.at) >= ATTACH_MAX;
        if self.action.is_none() && !self.has_attached() && (waited || !unheard) {
            self.ask(Action::PowerOff);
        }
    }

    pub(super) fn main_deadline(&self) -> Option<Instant> {
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
}
