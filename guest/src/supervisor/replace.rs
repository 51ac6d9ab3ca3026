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

use super::{Running, Supervisor, send};
use crate::bundle::{self, Bundle, Phase, REPLACEMENTS, make_directories, number_of};
use crate::error::{Context, Error, Result};
use crate::handover::{self, Party, To};
use crate::policy::{Main, Policy, Ready};
use crate::service::State;
use crate::spec::NamespaceKind;
use crate::tar::Unpacker;
use crate::{alive, say};

/// Between two looks whether the old one's clients have left.
const LOOK: Duration = Duration::from_millis(50);
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
    /// When the new one has to be ready.
    limit: Instant,
    wait: Duration,
    /// When it has run for long enough.
    settled: Option<Instant>,
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
    Beside { new: Party, is_late: bool },
    /// The old one has clients.
    Draining { look: Instant, until: Instant },
    /// The old one has been told to end.
    Ending { kill_at: Option<Instant> },
    /// The new one is started where the old one was; its process, once it has one.
    Instead(Option<Pid>),
    /// It is over, and how.
    Over(std::result::Result<(), String>),
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
    /// Returns what a replacement has to build upon.
    pub(super) fn replacement_ground(&self, id: &str) -> Result<String> {
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
        let ground = json!({
            "directory": next_directory(id),
            "layers": layers(directory),
            "tree": tree.trim(),
            "first": layers(&bundle::directory(Phase::Service, &service.id)),
        });
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
        if self.replacements.iter().any(is_replaced) {
            return Err(Error::new(format!("{id} is being replaced already")));
        }
        // Of those that nobody has asked how they went.
        self.replacements.retain(|other| other.id != id);
        let directory = PathBuf::from(directory);
        if directory != next_directory(&id) {
            return Err(Error::new(format!(
                "{id} has been replaced by somebody else meanwhile; try again"
            )));
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
            stage: Stage::Instead(None),
            limit: now + wanted.wait,
            wait: wanted.wait,
            settled: None,
            before,
            id,
        };
        match (beside, &replacement.before.party) {
            (true, Some(old)) => {
                old.share()?;
                replacement.stage = self.start_beside(bundle, &replacement.id)?;
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

    fn start_beside(&mut self, mut bundle: Bundle, id: &str) -> Result<Stage> {
        bundle.shares_ports = true;
        let pid = self.start(Ok(bundle), id, Phase::Service);
        let pid = pid.ok_or_else(|| Error::new(format!("{id}: the new one cannot be started")))?;
        let group = self.running(pid).and_then(|new| new.cgroup.as_deref());
        Ok(Stage::Beside {
            new: Party::new(pid, group),
            is_late: false,
        })
    }

    /// Has a service end and start again, with another bundle.
    fn redirect(&mut self, id: &str, directory: &Path, policy: &Policy, now: Instant) {
        // One that has not been started yet is not, any more.
        self.fresh.retain(|bundle| bundle.id != *id);
        if let Some((pid, signal)) = self.services.stop(id, true, now) {
            match alive::hears(pid, signal) {
                true => send(pid, signal),
                // To wait for it would be in vain.
                false => self.kill(pid),
            }
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
        let replacement =
            all.find(|r| matches!(&r.stage, Stage::Beside { new, .. } if new.pid == pid));
        let Some(replacement) = replacement else {
            return;
        };
        // The old one may have ended meanwhile, and have been started again.
        let old = self.services.find(&replacement.id);
        let old = old.and_then(|service| {
            self.containers
                .iter()
                .find(|c| Some(c.pid) == service.pid())
        });
        replacement.before.party = old.map(|old| Party::new(old.pid, old.cgroup.as_deref()));
        let until = now + replacement.before.policy.stop_wait;
        let draining = Stage::Draining { look: now, until };
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
    pub(super) fn replacement_ended(&mut self, dead: &Running, how: &str) -> bool {
        for replacement in &mut self.replacements {
            let is_old = replacement.is_old(dead.pid);
            match &replacement.stage {
                Stage::Beside { new, is_late } if new.pid == dead.pid => {
                    let why = match is_late {
                        true => replacement.not_ready(),
                        false => format!("the new one {how} before it was ready"),
                    };
                    replacement.fail(why);
                    return true;
                }
                Stage::Draining { .. } | Stage::Ending { .. } if is_old => return true,
                Stage::Instead(_) if replacement.id == dead.bundle.id => return true,
                _ => {}
            }
        }
        false
    }

    /// Goes on with everything that is being replaced.
    pub(super) fn advance_replacements(&mut self, now: Instant) {
        for index in 0..self.replacements.len() {
            let mut replacement = self.replacements.remove(index);
            self.advance_replacement(&mut replacement, now);
            self.replacements.insert(index, replacement);
        }
    }

    fn advance_replacement(&mut self, replacement: &mut Replacement, now: Instant) {
        let old = replacement.before.party.clone();
        match &mut replacement.stage {
            Stage::Beside { new, is_late } if !*is_late => {
                // It may listen before it is ready.
                if let Some(old) = &old {
                    handover::steer(old, new, To::Old);
                }
                if replacement.limit <= now {
                    *is_late = true;
                    self.kill(new.pid);
                }
            }
            Stage::Draining { look, until } if *look <= now => {
                *look = now + LOOK;
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
            Stage::Instead(first) => {
                let Some(service) = self.services.find(&replacement.id) else {
                    return;
                };
                let is_old = |pid: Pid| old.as_ref().is_some_and(|old| old.pid == pid);
                let pid = service.pid().filter(|pid| !is_old(*pid));
                *first = first.or(pid);
                let why = match &service.state {
                    State::Ended(how) => format!("the new one {how}"),
                    // The old one has not ended, or the new one not been started.
                    _ if first.is_none() => return,
                    _ if *first != pid => "the new one ended at once".to_owned(),
                    State::Running { since, .. } if service.is_up() => {
                        let settles = replacement.policy.ready == Ready::Started;
                        let settled = *since + SETTLE;
                        replacement.settled = Some(settled).filter(|_| settles);
                        match settles && now < settled {
                            true => return,
                            false => return self.finish_replacement(replacement),
                        }
                    }
                    _ if replacement.limit <= now => replacement.not_ready(),
                    _ => return,
                };
                self.roll_back(replacement, why, now);
            }
            Stage::Beside { .. } | Stage::Draining { .. } | Stage::Over(_) => {}
        }
    }

    fn end_old(&mut self, replacement: &Replacement, now: Instant) -> Stage {
        let policy = &replacement.before.policy;
        if let Some(old) = &replacement.before.party {
            match alive::hears(old.pid, policy.stop_signal) {
                true => send(old.pid, policy.stop_signal),
                false => self.kill(old.pid),
            }
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
            None => {
                self.services.stop(id, false, now);
                why
            }
        };
        replacement.fail(why);
    }

    /// Returns how a replacement went, once it is over; then it is forgotten.
    pub(super) fn replacement_outcome(&mut self, number: u32) -> Option<Result<()>> {
        let mut all = self.replacements.iter();
        let index = all.position(|r| r.number == number && matches!(r.stage, Stage::Over(_)))?;
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
            Stage::Draining { look, .. } => Some(*look),
            Stage::Ending { kill_at } => *kill_at,
            Stage::Beside { is_late: false, .. } | Stage::Instead(Some(_)) => {
                let settled = replacement.settled.unwrap_or(replacement.limit);
                Some(replacement.limit.min(settled))
            }
            Stage::Beside { .. } | Stage::Instead(None) | Stage::Over(_) => None,
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

/// Returns where the next bundle goes.
fn next_directory(id: &str) -> PathBuf {
    let names = fs::read_dir(REPLACEMENTS).into_iter().flatten().flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let next = numbers.max().map_or(1, |last| last + 1);
    Path::new(REPLACEMENTS).join(next.to_string()).join(id)
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
    let _ = fs::remove_dir_all(directory.parent().unwrap_or(directory));
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
