//! Services as such: which may start, which is ready, what becomes of one that has ended.
//!
//! Pure bookkeeping with times from outside; [`supervisor`](crate::supervisor) starts, kills and
//! reports what is decided here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::policy::{GOOD_RUN, Policy};

/// One service, running or not.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its name: that of its bundle's directory.
    pub(crate) id: String,
    /// Its bundle.
    pub(crate) directory: PathBuf,
    /// What it asked for.
    pub(crate) policy: Policy,
    /// Where it is.
    pub(crate) state: State,
    /// Starts after the first.
    pub(crate) restarts: u32,
    /// It was ready since it was last told to start: who depends on it need not wait.
    was_ready: bool,
    /// It may need devices.
    needs_devices: bool,
    /// Runs in a row that were short.
    short_runs: u32,
    intent: Intent,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Others have to be ready first.
    Waiting,
    /// It has a process.
    Running {
        pid: Pid,
        since: Instant,
        ready: bool,
        /// When it is killed, if it has been told to end.
        kill_at: Option<Instant>,
    },
    /// It is started again then.
    Resting { until: Instant },
    /// It has ended, or never began; how.
    Ended(String),
}

impl State {
    /// Returns whether the service has this process.
    pub(crate) fn is_of(&self, process: Pid) -> bool {
        matches!(self, Self::Running { pid, .. } if *pid == process)
    }
}

/// What a service is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    /// Running, as its policy says.
    Up,
    /// Stopped.
    Down,
    /// Stopped, then running.
    Again,
}

impl Service {
    fn new(id: String, directory: PathBuf, policy: Policy, state: State) -> Self {
        Self {
            id,
            directory,
            policy,
            state,
            restarts: 0,
            was_ready: false,
            needs_devices: false,
            short_runs: 0,
            intent: Intent::Up,
        }
    }

    /// Returns its process.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Returns whether it is as it was asked to be: ready, and not about to end.
    pub(crate) fn is_up(&self) -> bool {
        self.is_ready() && self.intent == Intent::Up
    }

    /// Returns whether it is not to be stopped.
    pub(crate) fn is_wanted(&self) -> bool {
        self.intent != Intent::Down
    }

    /// Returns whether it was ready, or may become so without others.
    fn is_independent(&self) -> bool {
        match self.state {
            State::Waiting => false,
            State::Ended(_) => self.was_ready,
            State::Running { .. } | State::Resting { .. } => true,
        }
    }

    /// Returns whether it runs and can be relied on.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Running { ready: true, .. })
    }
}

/// All services, in name order.
#[derive(Debug, Default)]
pub(crate) struct Services {
    list: Vec<Service>,
    /// The machine's devices have their modules.
    has_devices: bool,
    /// The machine is ending: nothing is started any more.
    ending: bool,
}

impl Services {
    /// Adds a service that starts when what it depends on is ready, and the devices that it needs
    /// are there.
    pub(crate) fn add(
        &mut self,
        id: String,
        directory: PathBuf,
        policy: Policy,
        needs_devices: bool,
    ) {
        let mut service = Service::new(id, directory, policy, State::Waiting);
        service.needs_devices = needs_devices;
        self.list.push(service);
    }

    /// Lets those start that need devices.
    pub(crate) fn devices_are_there(&mut self) {
        self.has_devices = true;
    }

    /// Adds one that cannot be started.
    pub(crate) fn add_broken(&mut self, id: String, directory: PathBuf, why: String) {
        let ended = State::Ended(why);
        let service = Service::new(id, directory, Policy::default(), ended);
        self.list.push(service);
    }

    /// Returns all.
    pub(crate) fn all(&self) -> &[Service] {
        &self.list
    }

    /// Returns the service of a name.
    pub(crate) fn find(&self, id: &str) -> Option<&Service> {
        self.list.iter().find(|service| service.id == id)
    }

    fn find_mut(&mut self, id: &str) -> Option<&mut Service> {
        self.list.iter_mut().find(|service| service.id == id)
    }

    /// Gives up those that wait for what will never come; returns their names, and why.
    pub(crate) fn give_up_hopeless(&mut self) -> Vec<(String, String)> {
        // Who has been ready, or may be some day: a cycle never gets in here.
        let mut hopeful: Vec<bool> = self.list.iter().map(Service::is_independent).collect();
        let position = |name: &String| self.list.iter().position(|service| service.id == *name);
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for (index, service) in self.list.iter().enumerate() {
                let mut needed = service.policy.depends_on.iter().map(position);
                let comes = |at: Option<usize>| at.is_some_and(|at| hopeful[at]);
                if !hopeful[index] && service.state == State::Waiting && needed.all(comes) {
                    hopeful[index] = true;
                    changed = true;
                }
            }
        }
        let mut given_up = Vec::new();
        for (index, service) in self.list.iter().enumerate() {
            if service.state != State::Waiting || hopeful[index] {
                continue;
            }
            let mut needed = service.policy.depends_on.iter();
            let missing = needed.find(|name| !position(name).is_some_and(|at| hopeful[at]));
            let name = missing.cloned().unwrap_or_default();
            let why = match self.find(&name).map(|needed| &needed.state) {
                None => format!("there is no service {name} to depend on"),
                Some(State::Waiting) => format!("{name}, which it depends on, cannot start"),
                Some(_) => format!("{name}, which it depends on, did not become ready"),
            };
            given_up.push((index, why));
        }
        let give_up = |(index, why): (usize, String)| {
            self.list[index].state = State::Ended(why.clone());
            (self.list[index].id.clone(), why)
        };
        given_up.into_iter().map(give_up).collect()
    }

    /// Returns one that may be started now.
    pub(crate) fn due(&self, now: Instant) -> Option<usize> {
        if self.ending {
            return None;
        }
        self.list.iter().position(|service| match service.state {
            State::Waiting => {
                let is_ready = |name| self.find(name).is_some_and(|needed| needed.was_ready);
                (self.has_devices || !service.needs_devices)
                    && service.policy.depends_on.iter().all(|name| is_ready(name))
            }
            State::Resting { until } => until <= now,
            _ => false,
        })
    }

    /// Returns when something has to be done though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = |service: &Service| match service.state {
            State::Resting { until } if !self.ending => Some(until),
            State::Running { kill_at, .. } => kill_at,
            _ => None,
        };
        self.list.iter().filter_map(due).min()
    }

    /// Returns those whose time to end is over; each once.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<Pid> {
        let mut overdue = Vec::new();
        for service in &mut self.list {
            if let State::Running { pid, kill_at, .. } = &mut service.state
                && kill_at.is_some_and(|at| at <= now)
            {
                *kill_at = None;
                overdue.push(*pid);
            }
        }
        overdue
    }

    /// Notes that a service has a process.
    pub(crate) fn started(&mut self, index: usize, pid: Pid, now: Instant) {
        let service = &mut self.list[index];
        if matches!(service.state, State::Resting { .. }) {
            service.restarts += 1;
        }
        service.state = State::Running {
            pid,
            since: now,
            ready: false,
            kill_at: None,
        };
    }

    /// Notes that a service can be relied on; returns whether that is new.
    pub(crate) fn ready(&mut self, process: Pid) -> bool {
        for service in &mut self.list {
            if let State::Running { pid, ready, .. } = &mut service.state
                && *pid == process
                && !*ready
            {
                *ready = true;
                service.was_ready = true;
                return true;
            }
        }
        false
    }

    /// Notes that a service's process has ended or that it could not be started; returns after
    /// what time it is started again, if it is.
    pub(crate) fn ended(
        &mut self,
        index: usize,
        succeeded: bool,
        how: &str,
        now: Instant,
    ) -> Option<Duration> {
        let ending = self.ending;
        let service = &mut self.list[index];
        if let State::Running { since, .. } = service.state
            && now.saturating_duration_since(since) >= GOOD_RUN
        {
            service.short_runs = 0;
        }
        service.short_runs = service.short_runs.saturating_add(1);
        let wait = match service.intent {
            _ if ending => None,
            Intent::Down => None,
            Intent::Again => Some(Duration::ZERO),
            Intent::Up => {
                let policy = service.policy.restart;
                policy.wait(succeeded, service.short_runs)
            }
        };
        if service.intent == Intent::Again {
            service.intent = Intent::Up;
            service.short_runs = 0;
        }
        service.state = match wait {
            Some(wait) => State::Resting { until: now + wait },
            None if service.intent == Intent::Down => State::Ended("stopped".to_owned()),
            None => State::Ended(how.to_owned()),
        };
        wait
    }

    /// Returns whether a process is known to be that of a service that can be relied on.
    pub(crate) fn knows_ready(&self, process: Pid) -> bool {
        self.of(process)
            .is_some_and(|index| self.list[index].is_ready())
    }

    /// Returns the service a process belongs to.
    pub(crate) fn of(&self, process: Pid) -> Option<usize> {
        let is_its = |service: &Service| service.pid() == Some(process);
        self.list.iter().position(is_its)
    }

    /// Asks for a service to run; false when there is none of that name.
    pub(crate) fn start(&mut self, id: &str, now: Instant) -> bool {
        let Some(service) = self.find_mut(id) else {
            return false;
        };
        service.short_runs = 0;
        match service.state {
            State::Running {
                kill_at: Some(_), ..
            } => service.intent = Intent::Again,
            State::Running { .. } => service.intent = Intent::Up,
            _ => {
                service.intent = Intent::Up;
                service.state = State::Resting { until: now };
            }
        }
        true
    }

    /// Asks for a service to end, and to start again if `again`. Returns its process and the
    /// signal to send, if it has one.
    pub(crate) fn stop(&mut self, id: &str, again: bool, now: Instant) -> Option<(Pid, i32)> {
        let service = self.find_mut(id)?;
        service.intent = if again { Intent::Again } else { Intent::Down };
        match &mut service.state {
            State::Running { pid, kill_at, .. } => {
                *kill_at = Some(now + service.policy.stop_wait);
                Some((*pid, service.policy.stop_signal))
            }
            state => {
                if again {
                    service.intent = Intent::Up;
                    *state = State::Resting { until: now };
                } else {
                    *state = State::Ended("stopped".to_owned());
                }
                None
            }
        }
    }

    /// Has a service start from another bundle from now on.
    pub(crate) fn redirect(&mut self, id: &str, directory: &Path, policy: &Policy) {
        if let Some(service) = self.find_mut(id) {
            service.directory = directory.to_owned();
            service.policy = policy.clone();
            service.short_runs = 0;
        }
    }

    /// Makes a process, which can be relied on, that of a service; the one it had is nobody's.
    pub(crate) fn take_over(
        &mut self,
        id: &str,
        directory: &Path,
        policy: &Policy,
        pid: Pid,
        now: Instant,
    ) {
        self.redirect(id, directory, policy);
        if let Some(service) = self.find_mut(id) {
            service.intent = Intent::Up;
            service.was_ready = true;
            service.state = State::Running {
                pid,
                since: now,
                ready: true,
                kill_at: None,
            };
        }
    }

    /// Starts nothing more.
    pub(crate) fn expect_the_end(&mut self) {
        self.ending = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Restart;

    const PID: Pid = match Pid::from_raw(100) {
        Some(pid) => pid,
        None => panic!(),
    };

    fn services(all: &[(&str, &[&str], Restart)]) -> Services {
        let mut services = Services::default();
        for (id, needs, restart) in all {
            let policy = Policy {
                depends_on: needs.iter().map(|n| (*n).to_owned()).collect(),
                restart: *restart,
                ..Policy::default()
            };
            services.add((*id).to_owned(), PathBuf::new(), policy, false);
        }
        services
    }

    #[test]
    fn who_depends_starts_when_the_other_is_ready() {
        let now = Instant::now();
        let mut all = services(&[("a", &["b"], Restart::Never), ("b", &[], Restart::Never)]);
        assert_eq!(all.due(now), Some(1));
        all.started(1, PID, now);
        assert_eq!(all.due(now), None);
        assert!(all.ready(PID) && !all.ready(PID));
        assert_eq!(all.due(now), Some(0));
        // Even after it has done its work.
        all.ended(1, true, "exited", now);
        assert_eq!(all.due(now), Some(0));
        assert!(all.give_up_hopeless().is_empty());
    }

    #[test]
    fn who_needs_devices_waits_for_them_and_holds_up_nobody() {
        let now = Instant::now();
        let mut all = services(&[("b", &[], Restart::Never)]);
        all.add("a".to_owned(), PathBuf::new(), Policy::default(), true);
        assert_eq!(all.due(now), Some(0));
        all.started(0, PID, now);
        assert_eq!(all.due(now), None);
        assert!(all.give_up_hopeless().is_empty());
        all.devices_are_there();
        assert_eq!(all.due(now), Some(1));
    }

    #[test]
    fn who_waits_in_vain_is_given_up() {
        let now = Instant::now();
        let mut all = services(&[
            ("a", &["b"], Restart::Never),
            ("b", &["c"], Restart::Never),
            ("c", &[], Restart::Never),
            ("d", &["nobody"], Restart::Never),
            ("e", &["f"], Restart::Never),
            ("f", &["e"], Restart::Never),
        ]);
        let mut given_up = || -> Vec<String> {
            let gone = all.give_up_hopeless().into_iter();
            gone.map(|(id, why)| format!("{id}: {why}")).collect()
        };
        assert_eq!(
            given_up(),
            [
                "d: there is no service nobody to depend on",
                "e: f, which it depends on, cannot start",
                "f: e, which it depends on, cannot start"
            ]
        );
        assert!(given_up().is_empty());
        all.ended(2, false, "not started", now);
        let gone: Vec<String> = all.give_up_hopeless().into_iter().map(|g| g.1).collect();
        assert_eq!(
            gone,
            [
                "b, which it depends on, cannot start",
                "c, which it depends on, did not become ready"
            ]
        );
        assert_eq!(all.deadline(), None);
    }

    #[test]
    fn restarts_rest_longer_and_a_good_run_forgives() {
        let mut now = Instant::now();
        let mut all = services(&[("a", &[], Restart::Always)]);
        let mut rests = Vec::new();
        for run in 0..4 {
            all.started(0, PID, now);
            assert_eq!(all.all()[0].restarts, run);
            now += if run == 3 { GOOD_RUN } else { Duration::ZERO };
            rests.push(all.ended(0, false, "killed", now).unwrap().as_millis());
            assert_eq!(
                all.deadline(),
                Some(now + Duration::from_millis(*rests.last().unwrap() as u64))
            );
            assert_eq!(all.due(now), None);
            now = all.deadline().unwrap();
            assert_eq!(all.due(now), Some(0));
        }
        assert_eq!(rests, [100, 200, 400, 100]);
        all.expect_the_end();
        assert_eq!(all.due(now), None);
    }

    #[test]
    fn another_process_takes_over() {
        let now = Instant::now();
        let mut all = services(&[("a", &[], Restart::Always), ("b", &["a"], Restart::Never)]);
        all.started(0, PID, now);
        let new = Pid::from_raw(200).unwrap();
        let policy = Policy::default();
        all.take_over("a", Path::new("/x"), &policy, new, now);
        // Who depends on it may start, and the old one is nobody's.
        assert_eq!(
            (all.due(now), all.of(PID), all.of(new)),
            (Some(1), None, Some(0))
        );
        assert!(all.all()[0].is_up() && all.knows_ready(new));
        assert_eq!(all.ended(0, true, "exited", now), None);
        assert_eq!(all.all()[0].directory, Path::new("/x"));
    }

    #[test]
    fn people_stop_start_and_restart() {
        let now = Instant::now();
        let mut all = services(&[("a", &[], Restart::Always)]);
        all.started(0, PID, now);
        assert_eq!(all.stop("x", false, now), None);
        assert_eq!(all.stop("a", false, now), Some((PID, libc::SIGTERM)));
        assert!(all.overdue(now).is_empty());
        let late = all.deadline().unwrap();
        assert_eq!(all.overdue(late), [PID]);
        assert!(all.overdue(late).is_empty());
        assert_eq!(all.ended(0, false, "killed", late), None);
        assert_eq!(all.all()[0].state, State::Ended("stopped".into()));
        assert!(all.start("a", late));
        assert_eq!(all.due(late), Some(0));
        all.started(0, PID, late);
        assert!(all.stop("a", true, late).is_some());
        assert_eq!(all.ended(0, true, "exited", late), Some(Duration::ZERO));
        assert_eq!(all.due(late), Some(0));
        // Started while it is being stopped.
        all.started(0, PID, late);
        all.stop("a", false, late);
        assert!(all.start("a", late));
        assert_eq!(all.ended(0, true, "exited", late), Some(Duration::ZERO));
    }
}
