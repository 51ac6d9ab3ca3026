//! A service gets another bundle while the machine runs, and nobody who uses it is to notice.
//!
//! In: a bundle as a tar archive, over a conversation. One that says when it is ready is started
//! beside the old one, which ends when the new one is ready and its last client has left; until
//! then the old one is there as if nothing were. Others, which could not share what they have, are
//! started in its place, and the old one again when that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{self, MountFlags, UnmountFlags};
use rustix::process::Pid;
use serde_json::json;

use super::{Running, Supervisor};
use crate::bundle::{self, Bundle, Phase, REPLACEMENTS, make_directories, number_of};
use crate::error::{Context, Error, Result};
use crate::handover::{self, Party, To};
use crate::policy::{Main, Policy, Ready};
use crate::say;
use crate::service::State;
use crate::spec::NamespaceKind;
use crate::tar::Unpacker;

/// Between two looks whether the new one listens, and whether the old one's clients have left: at
/// first, and at last.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// One that does not say when it is ready is taken once it has run for so long.
const SETTLE: Duration = Duration::from_secs(1);
/// Lines of its log that explain why a new one was not taken.
const LAST_WORDS: u64 = 8;

/// A bundle that is coming.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) id: String,
    directory: PathBuf,
    unpacker: Option<Unpacker>,
    pub(super) wanted: Wanted,
}

/// How a service is to be replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The new one is ready within this.
    pub(super) wait: Duration,
    /// The old one ends before the new one starts, whatever they could share.
    pub(super) stop_first: bool,
}

/// A service that is being replaced.
#[derive(Debug)]
pub(super) struct Replacement {
    number: u32,
    id: String,
    directory: PathBuf,
    policy: Policy,
    before: Before,
    stage: Stage,
    /// When a new one that runs beside the old one has to be ready.
    limit: Instant,
    wait: Duration,
}

/// What is replaced.
#[derive(Debug)]
struct Before {
    directory: PathBuf,
    policy: Policy,
    party: Option<Party>,
}

#[derive(Debug)]
enum Stage {
    /// The new one runs beside the old one, and is not ready, or will not be any more.
    Beside {
        new: Party,
        is_late: bool,
        look: Instant,
        /// Sockets of the new one whose connections go to the old one.
        steered: usize,
    },
    /// The old one has clients.
    Draining {
        look: Instant,
        wait: Duration,
        until: Instant,
    },
    /// The old one has been told to end.
    Ending { kill_at: Option<Instant> },
    /// The new one is started where the old one was.
    Instead(Instead),
    /// It is over, and how.
    Over(std::result::Result<(), String>),
}

/// How far a new one is that is started where the old one was.
#[derive(Debug, Clone, Copy)]
enum Instead {
    /// The old one has not ended.
    Before,
    /// It has, and the new one has no process yet.
    Between,
    /// The new one has this process, and is to be taken at that time, or to be ready by then.
    After(Pid, Instant),
}

impl Arrival {
    /// Takes bytes of the archive.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.unpacker {
            Some(unpacker) => unpacker.feed(bytes),
            None => Ok(()),
        }
    }

    /// Gives up what has come.
    pub(super) fn discard(&self) {
        remove(&self.directory);
    }
}

impl Supervisor {
    /// Returns what a replacement has to build upon, and a place for it, which nobody else gets.
    pub(super) fn replacement_ground(&mut self, id: &str) -> Result<String> {
        let service = self.service(id)?;
        let layers = |directory: &Path| {
            let bundle = Bundle::read(directory, Phase::Service);
            bundle
                .ok()
                .and_then(|bundle| bundle.layers())
                .unwrap_or_default()
        };
        let directory = &service.directory;
        let tree = fs::read_to_string(directory.join("tree")).unwrap_or_default();
        let place = Path::new(REPLACEMENTS).join((self.places + 1).to_string());
        let ground = json!({
            "directory": place.join(&service.id),
            "layers": layers(directory),
            "tree": tree.trim(),
            "first": layers(&bundle::directory(Phase::Service, &service.id)),
        });
        self.places += 1;
        Ok(format!("{ground}\n"))
    }

    /// Makes room for a bundle that is to come into that directory.
    pub(super) fn expect(&mut self, id: &str, directory: &str, wanted: Wanted) -> Result<Arrival> {
        let id = self.service(id)?.id.clone();
        if self.service(&id)?.policy.main == Main::Attach {
            let why = "its streams are somebody's (kiln.main: attach): it cannot be replaced";
            return Err(Error::new(format!("{id}: {why}")));
        }
        let is_replaced = |r: &Replacement| r.id == id && !matches!(r.stage, Stage::Over(_));
        if self.replacements.iter().any(is_replaced) || self.is_arriving(&id) {
            return Err(Error::new(format!("{id} is being replaced already")));
        }
        let directory = PathBuf::from(directory);
        let is_ours = number_of(&directory).is_some_and(|number| number <= self.places)
            && directory.file_name().is_some_and(|name| *name == *id)
            && !directory.exists();
        if !is_ours {
            let place = directory.display();
            return Err(Error::new(format!("{place} was not given to {id}")));
        }
        make_room()?;
        make_directories(&directory)?;
        Ok(Arrival {
            unpacker: Some(Unpacker::new(&directory)?),
            id,
            directory,
            wanted,
        })
    }

    /// Starts what has come; returns the number under which its outcome is asked for.
    pub(super) fn replace(&mut self, arrival: &mut Arrival, now: Instant) -> Result<u32> {
        let unpacker = arrival.unpacker.take();
        unpacker.map_or(Ok(()), Unpacker::finish)?;
        let bundle = Bundle::read(&arrival.directory, Phase::Service)?;
        let service = self.service(&arrival.id)?;
        let (id, wanted) = (service.id.clone(), arrival.wanted);
        let running = service.pid().and_then(|pid| self.running(pid));
        let before = Before {
            directory: service.directory.clone(),
            policy: service.policy.clone(),
            party: running.map(|old| Party::new(old.pid, old.cgroup.as_deref())),
        };
        let beside = !wanted.stop_first
            && service.is_up()
            && bundle.policy.ready != Ready::Started
            && shares_all(&bundle)
            && running.is_some_and(|old| old.cgroup.is_some() && shares_all(&old.bundle));
        let mut replacement = Replacement {
            number: number_of(&arrival.directory).unwrap_or(0),
            directory: arrival.directory.clone(),
            policy: bundle.policy.clone(),
            stage: Stage::Instead(Instead::Before),
            limit: now + wanted.wait,
            wait: wanted.wait,
            before,
            id,
        };
        match (beside, &replacement.before.party) {
            (true, Some(old)) => {
                old.share()?;
                replacement.stage = self.start_beside(bundle, &replacement.id, now)?;
            }
            _ => self.redirect(
                &replacement.id,
                &replacement.directory,
                &replacement.policy,
                now,
            ),
        }
        let number = replacement.number;
        self.replacements.push(replacement);
        Ok(number)
    }

    fn start_beside(&mut self, mut bundle: Bundle, id: &str, now: Instant) -> Result<Stage> {
        bundle.shares_ports = true;
        let pid = self.start(Ok(bundle), id, Phase::Service);
        let pid = pid.ok_or_else(|| {
            let why = "the new one cannot be started: see the console; --stop-first may help";
            Error::new(format!("{id}: {why}"))
        })?;
        let group = self.running(pid).and_then(|new| new.cgroup.as_deref());
        Ok(Stage::Beside {
            new: Party::new(pid, group),
            is_late: false,
            look: now,
            steered: 0,
        })
    }

    /// Has a service end and start again, with another bundle.
    fn redirect(&mut self, id: &str, directory: &Path, policy: &Policy, now: Instant) {
        // One that has not been started yet is not, any more.
        self.fresh.retain(|bundle| bundle.id != *id);
        if let Some((pid, signal)) = self.services.stop(id, true, now) {
            self.tell_to_end(pid, signal);
        }
        self.services.redirect(id, directory, policy);
        self.services_changed = true;
    }

    fn running(&self, pid: Pid) -> Option<&Running> {
        self.containers.iter().find(|c| c.pid == pid)
    }

    /// Notes that a process can be relied on, which may be that of a replacement.
    pub(super) fn replacement_ready(&mut self, pid: Pid, now: Instant) {
        let mut all = self.replacements.iter_mut();
        let replacement = all.find(
            |r| matches!(&r.stage, Stage::Beside { new, is_late: false, .. } if new.pid == pid),
        );
        let Some(replacement) = replacement else {
            return;
        };
        // Somebody may have stopped the service meanwhile: then there is to be none.
        let service = self.services.find(&replacement.id);
        if service.is_some_and(|service| !service.is_wanted()) {
            let new = self.containers.iter().find(|c| c.pid == pid);
            new.into_iter().for_each(Running::kill);
            return;
        }
        // The old one may have ended meanwhile, and have been started again.
        let old = self.services.find(&replacement.id);
        let old = old.and_then(|service| {
            self.containers
                .iter()
                .find(|c| Some(c.pid) == service.pid())
        });
        replacement.before.party = old.map(|old| Party::new(old.pid, old.cgroup.as_deref()));
        let until = now + replacement.before.policy.stop_wait;
        let draining = Stage::Draining {
            look: now,
            wait: LOOK_MIN,
            until,
        };
        let stage = std::mem::replace(&mut replacement.stage, draining);
        if let (Stage::Beside { new, .. }, Some(old)) = (stage, &replacement.before.party) {
            handover::steer(old, &new, To::New);
        }
        let (id, directory, policy) =
            (&replacement.id, &replacement.directory, &replacement.policy);
        self.services.take_over(id, directory, policy, pid, now);
    }

    /// Takes notice of the end of a process of a service. Returns whether it was one that is, or
    /// was to be, replaced: then the service as such has not ended.
    pub(super) fn replacement_ended(&mut self, dead: &Running, how: &str, now: Instant) -> bool {
        let replacement = self
            .replacements
            .iter_mut()
            .find(|r| r.id == dead.bundle.id && !matches!(r.stage, Stage::Over(_)));
        let Some(replacement) = replacement else {
            return false;
        };
        let is_old = replacement.is_old(dead.pid);
        let old = replacement.before.party.clone();
        match (&replacement.stage, old) {
            (Stage::Beside { new, is_late, .. }, old) if new.pid == dead.pid => {
                let why = match is_late {
                    true => replacement.not_ready(),
                    false => format!("the new one {how} before it was ready"),
                };
                old.iter().for_each(handover::let_go);
                replacement.fail(why);
                true
            }
            (Stage::Draining { .. }, Some(old)) if !is_old => {
                // The old one has not been told to end.
                let (id, before) = (&replacement.id, &replacement.before);
                let (directory, policy) = (&before.directory, &before.policy);
                self.services.take_over(id, directory, policy, old.pid, now);
                handover::let_go(&old);
                let why = format!("the new one {how} while the old one had clients");
                replacement.fail(why);
                true
            }
            (Stage::Draining { .. } | Stage::Ending { .. }, _) => is_old,
            (Stage::Instead(_), _) => true,
            _ => false,
        }
    }

    /// Returns whether sockets of a service may have to be bound where others of it are.
    pub(super) fn has_two(&self, id: &str) -> bool {
        let two = |stage: &Stage| {
            matches!(
                stage,
                Stage::Beside { .. } | Stage::Draining { .. } | Stage::Ending { .. }
            )
        };
        self.replacements
            .iter()
            .any(|r| r.id == id && two(&r.stage))
    }

    /// Goes on with everything that is being replaced.
    pub(super) fn advance_replacements(&mut self, now: Instant) {
        let mut all = std::mem::take(&mut self.replacements);
        for replacement in &mut all {
            self.advance_replacement(replacement, now);
        }
        // How those went that nobody waits for is on the console.
        all.retain(|r| !matches!(r.stage, Stage::Over(_)) || self.is_awaited(r.number));
        self.replacements = all;
    }

    fn advance_replacement(&mut self, replacement: &mut Replacement, now: Instant) {
        let old = replacement.before.party.clone();
        match &mut replacement.stage {
            Stage::Beside {
                new,
                is_late: is_late @ false,
                look,
                steered,
            } if *look <= now => {
                *look = now + LOOK_MIN;
                // It may listen before it is ready.
                if let Some(old) = old.filter(|_| new.count() != *steered) {
                    *steered = handover::steer(&old, new, To::Old);
                }
                if replacement.limit <= now {
                    *is_late = true;
                    self.kill(new.pid);
                }
            }
            Stage::Draining { look, wait, until } if *look <= now => {
                *look = now + *wait;
                *wait = (*wait * 2).min(LOOK_MAX);
                let is_gone = old
                    .as_ref()
                    .is_none_or(|old| self.running(old.pid).is_none());
                let is_idle = || old.as_ref().is_none_or(Party::is_idle);
                if is_gone || *until <= now || is_idle() {
                    replacement.stage = self.end_old(replacement, now);
                }
            }
            Stage::Ending { kill_at } => {
                let old = old.filter(|old| self.running(old.pid).is_some());
                match (old, &kill_at) {
                    (None, _) => self.finish_replacement(replacement),
                    (Some(old), Some(at)) if *at <= now => {
                        *kill_at = None;
                        self.kill(old.pid);
                    }
                    _ => {}
                }
            }
            Stage::Instead(_) => self.advance_instead(replacement, now),
            Stage::Beside { .. } | Stage::Draining { .. } | Stage::Over(_) => {}
        }
    }

    fn advance_instead(&mut self, replacement: &mut Replacement, now: Instant) {
        let (Stage::Instead(stage), Some(service)) =
            (&mut replacement.stage, self.services.find(&replacement.id))
        else {
            return;
        };
        let old = replacement.before.party.as_ref().map(|old| old.pid);
        if service.pid().is_some() && service.pid() == old {
            return;
        }
        if !service.is_wanted() {
            replacement.fail("it was stopped".to_owned());
            return;
        }
        let settles = replacement.policy.ready == Ready::Started;
        let why = match (&*stage, &service.state) {
            (_, State::Ended(how)) => format!("the new one {how}"),
            (Instead::After(first, _), state) if !state.is_of(*first) => {
                "the new one ended at once".to_owned()
            }
            (Instead::After(_, at), _) if settles && now < *at => return,
            (Instead::After(..), _) if service.is_up() => {
                return self.finish_replacement(replacement);
            }
            (Instead::After(_, at), _) if now < *at => return,
            (Instead::After(..), _) => replacement.not_ready(),
            (_, State::Running { pid, since, .. }) => {
                let wait = if settles { SETTLE } else { replacement.wait };
                *stage = Instead::After(*pid, *since + wait);
                return;
            }
            // It was to be started, and was not.
            (Instead::Between, State::Resting { until }) if now < *until => {
                "the new one cannot be started: see the console".to_owned()
            }
            (_, State::Resting { .. } | State::Waiting) => {
                *stage = Instead::Between;
                return;
            }
        };
        self.roll_back(replacement, why, now);
    }

    fn end_old(&mut self, replacement: &Replacement, now: Instant) -> Stage {
        let policy = &replacement.before.policy;
        if let Some(old) = &replacement.before.party {
            self.tell_to_end(old.pid, policy.stop_signal);
        }
        Stage::Ending {
            kill_at: Some(now + policy.stop_wait),
        }
    }

    fn finish_replacement(&mut self, replacement: &mut Replacement) {
        say!("service {}: replaced", replacement.id);
        replacement.stage = Stage::Over(Ok(()));
        let service = self.services.find(&replacement.id);
        if let Some(new) = service.and_then(|service| self.running(service.pid()?)) {
            handover::let_go(&Party::new(new.pid, new.cgroup.as_deref()));
            remove_unused(&replacement.id, &new.bundle);
        }
    }

    fn roll_back(&mut self, replacement: &mut Replacement, why: String, now: Instant) {
        let (id, before) = (&replacement.id, &replacement.before);
        self.redirect(id, &before.directory, &before.policy, now);
        let why = match before.party {
            Some(_) => format!("{why}; the old one is started again"),
            // It did not run before either.
            None => {
                self.services.stop(id, false, now);
                why
            }
        };
        replacement.fail(why);
    }

    /// Returns how a replacement went, once it is over; then it is forgotten.
    pub(super) fn replacement_outcome(&mut self, number: u32) -> Option<Result<()>> {
        let index = self.replacements.iter().position(|r| r.number == number)?;
        if !matches!(self.replacements[index].stage, Stage::Over(_)) {
            return None;
        }
        let replacement = self.replacements.remove(index);
        let Stage::Over(Err(why)) = replacement.stage else {
            return Some(Ok(()));
        };
        let mut text = format!("{}: {why}", replacement.id);
        let is_its =
            |journal: &&crate::log::Journal| journal.is_of(&replacement.id, Phase::Service);
        if let Some(journal) = self.journals.iter().find(is_its) {
            let end = journal.ring.end();
            let mut next = end.saturating_sub(LAST_WORDS);
            text.push_str("\nits last words:");
            while let Some((number, line)) = journal.ring.get(next) {
                next = number + 1;
                text.push_str(&format!("\n  {}", String::from_utf8_lossy(&line.text)));
            }
        }
        Some(Err(Error::new(text)))
    }

    /// Returns when a replacement has to be looked at though nothing happens.
    pub(super) fn replacement_deadline(&self) -> Option<Instant> {
        let due = |replacement: &Replacement| match &replacement.stage {
            Stage::Beside {
                is_late: false,
                look,
                ..
            }
            | Stage::Draining { look, .. } => Some(*look),
            Stage::Ending { kill_at } => *kill_at,
            Stage::Instead(Instead::After(_, at)) => Some(*at),
            Stage::Beside { .. } | Stage::Instead(_) | Stage::Over(_) => None,
        };
        self.replacements.iter().filter_map(due).min()
    }
}

impl Replacement {
    fn is_old(&self, pid: Pid) -> bool {
        self.before.party.as_ref().is_some_and(|old| old.pid == pid)
    }

    fn fail(&mut self, why: String) {
        say!("service {}: not replaced: {why}", self.id);
        self.stage = Stage::Over(Err(why));
        // What is still in use of it stays until it is not.
        remove(&self.directory);
    }

    fn not_ready(&self) -> String {
        format!("the new one was not ready after {} s", self.wait.as_secs())
    }
}

/// Returns whether two of a service can run at once: a name of a namespace or an interface is
/// there only once, and ports of another network cannot be handed over.
fn shares_all(bundle: &Bundle) -> bool {
    !bundle.config.is_new(NamespaceKind::Network)
        && bundle.runtime.interfaces.is_empty()
        && bundle.runtime.bind_ns.wanted().is_empty()
}

/// Mounts a file system in memory for bundles, as large as it may be, unless it is there.
fn make_room() -> Result<()> {
    let is_there = |mounts: String| {
        let mut targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        targets.any(|target| target == REPLACEMENTS)
    };
    if fs::read_to_string("/proc/mounts").is_ok_and(is_there) {
        return Ok(());
    }
    make_directories(Path::new(REPLACEMENTS))?;
    mount::mount(
        "tmpfs",
        REPLACEMENTS,
        "tmpfs",
        MountFlags::empty(),
        c"mode=700",
    )
    .context(|| REPLACEMENTS)
}

/// Removes a bundle that is not used any more, with its number.
fn remove(directory: &Path) {
    if number_of(directory).is_none() {
        return;
    }
    for name in ["rootfs", "tmp"] {
        let _ = mount::unmount(
            directory.join(name),
            UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        );
    }
    let _ = fs::remove_dir_all(directory);
    let _ = directory.parent().map(fs::remove_dir);
}

/// Removes the bundles of a service that the one it has now is not built upon.
fn remove_unused(id: &str, used: &Bundle) {
    let layers = used.layers().unwrap_or_default();
    for entry in fs::read_dir(REPLACEMENTS).into_iter().flatten().flatten() {
        let directory = entry.path().join(id);
        let is_below = |layer: &str| Path::new(layer).starts_with(&directory);
        if directory != used.directory && directory.is_dir() && !layers.split(':').any(is_below) {
            remove(&directory);
        }
    }
}
