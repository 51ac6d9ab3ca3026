//! What `kilnctl` and `kiln vm` ask for: commands in, text and an exit status out.
//!
//! Commands that take time (a log that is followed, a program, a stop) are jobs of their
//! conversation and go on whenever something happens.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::{Pid, WaitStatus};

use super::memlog::Memlog;
use super::program::{Program, exit_code, feed};
use super::replace::{Arrival, Wanted};
use super::report::stamp;
use super::{Action, Running, Supervisor};
use crate::bundle::short_name;
use crate::error::{Error, Result};
use crate::exec::{self, Exec};
use crate::log::{Journal, Output};
use crate::policy::Main;
use crate::service::{Service, State};
use crate::session::{self, Kind, Request, Said, Session};
use crate::{builtin, policy, say};

const USAGE: &str = "\
kilnctl COMMAND: what runs in this system

  ps [--json]                       the services
  stats [--json]                    what they use
  logs [-f] [-t] [-n LINES] NAME    what one has printed
  exec [-t] [-w DIR] [-e K=V] NAME PROGRAM [ARG...]
  attach NAME                       the streams of a service that waits for it
  start NAME, stop NAME, restart NAME
  kill [-s SIGNAL] NAME
  poweroff, reboot, halt
";

/// Conversations at the same time over the socket.
const SESSIONS_MAX: usize = 64;
/// How often a port is listened to again after its client has left.
const TRIES: usize = 4;
/// A new one is ready within this, if nobody says otherwise.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Exit status of a command that was not understood.
const MISUSE: u8 = 2;

/// A conversation and what it is busy with.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) session: Session,
    job: Job,
}

#[derive(Debug)]
enum Job {
    None,
    /// Lines of a log from a number on.
    Logs {
        journal: usize,
        next: u64,
        follow: bool,
        times: bool,
    },
    /// A program.
    Program(Program),
    /// A service that is to be running, or ended.
    Service {
        id: String,
        up: bool,
    },
    /// A bundle that is coming, and what went wrong with it; all of it has come.
    Arrival(Box<Arrival>, Option<Error>, bool),
    /// A service that is being replaced.
    Replaced(u32),
    /// The streams of a service.
    Attached {
        id: String,
        pending: VecDeque<u8>,
        input_ended: bool,
        /// The size its terminal is to have.
        window: Option<session::Window>,
    },
}

impl Conversation {
    fn new(session: Session) -> Self {
        Self {
            session,
            job: Job::None,
        }
    }

    /// Returns the descriptors to wait for.
    pub(super) fn waits(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::new();
        if let Some((fd, flags)) = self.session.waits() {
            all.push((fd.as_fd(), flags));
        }
        if let (Job::Program(program), false) = (&self.job, self.session.has_ended()) {
            program.waits(self.session.has_room(), &mut all);
        }
        all
    }
}

impl Supervisor {
    /// Returns the descriptors a conversation waits for.
    pub(super) fn waits_of<'a>(
        &'a self,
        conversation: &'a Conversation,
    ) -> Vec<(BorrowedFd<'a>, PollFlags)> {
        let mut all = conversation.waits();
        if let Job::Attached { id, pending, .. } = &conversation.job {
            if conversation.session.has_room() {
                let streams = self.streams.iter().map(|(_, stream)| stream);
                let its = streams.filter(|s| s.held && self.journals[s.journal].id == *id);
                all.extend(its.map(|stream| (stream.fd.as_fd(), PollFlags::IN)));
            }
            let stdin = self.stdin_of(id).filter(|_| !pending.is_empty());
            all.extend(stdin.map(|fd| (fd.as_fd(), PollFlags::OUT)));
        }
        all
    }

    fn stdin_of(&self, id: &str) -> Option<&OwnedFd> {
        let running = self.containers.iter().find(|c| c.bundle.id == id)?;
        running.stdin.as_ref()
    }

    /// Returns whether somebody is attached to a service, and has not heard its end.
    pub(super) fn has_attached(&self) -> bool {
        let mut all = self.conversations.iter();
        all.any(|c| matches!(c.job, Job::Attached { .. }) && !c.session.is_silent())
    }

    /// Takes the place of LinuxKit's memlogd if the system has it: no log goes to a file then.
    pub(crate) fn listen_as_memlogd(&mut self) {
        self.memlog = Memlog::open().unwrap_or_else(|cause| {
            say!("{cause}");
            None
        });
        self.keep_logs &= self.memlog.is_none();
    }

    /// Opens the sockets and the virtio ports that are there.
    pub(super) fn listen(&mut self) {
        self.listener = session::listen().inspect_err(|cause| say!("{cause}")).ok();
        self.listen_to_host();
        for device in session::ports() {
            self.port_appeared(&device);
        }
    }

    /// Takes a virtio port that has appeared.
    pub(super) fn port_appeared(&mut self, device: &str) {
        if self.conversations.iter().any(|c| c.session.is_port(device)) {
            return;
        }
        let session = Session::open_port(device);
        self.conversations.extend(session.map(Conversation::new));
    }

    /// Listens for the host if it could connect, and is not listened for yet.
    pub(super) fn listen_to_host(&mut self) {
        if self.host_listener.is_none() {
            self.host_listener = session::listen_host();
        }
    }

    /// Returns where somebody may connect: nowhere while there are too many conversations.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &OwnedFd> {
        let there = [&self.listener, &self.host_listener].into_iter().flatten();
        there.filter(|_| self.conversations.len() < SESSIONS_MAX)
    }

    /// Takes new conversations.
    pub(super) fn accept(&mut self) {
        while self.conversations.len() < SESSIONS_MAX {
            let local = || self.listener.as_ref().and_then(Session::accept);
            let host = || self.host_listener.as_ref().and_then(Session::accept_host);
            let Some(session) = local().or_else(host) else {
                break;
            };
            self.conversations.push(Conversation::new(session));
        }
    }

    /// Returns whether a bundle for a service is coming.
    pub(super) fn is_arriving(&self, wanted: &str) -> bool {
        let is_it = |job: &Job| matches!(job, Job::Arrival(arrival, ..) if arrival.id == wanted);
        self.conversations.iter().any(|c| is_it(&c.job))
    }

    /// Returns whether somebody waits for the outcome of a replacement.
    pub(super) fn is_awaited(&self, wanted: u32) -> bool {
        let is_it = |job: &Job| matches!(job, Job::Replaced(number) if *number == wanted);
        self.conversations.iter().any(|c| is_it(&c.job))
    }

    /// Looks which ports have somebody at their other end.
    pub(super) fn look_at_ports(&mut self) {
        for conversation in &mut self.conversations {
            conversation.session.look();
        }
    }

    /// Goes on with every conversation as far as that is possible now.
    pub(super) fn converse(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.conversations.len() {
            // Taken out: a command may want everything else of the supervisor.
            let mut conversation = self.conversations.swap_remove(index);
            let last = self.conversations.len();
            let mut stays = false;
            for _ in 0..TRIES {
                stays = self.go_on(&mut conversation, now);
                // The next client may have spoken already.
                if stays || !conversation.hang_up() {
                    break;
                }
                stays = true;
            }
            if stays {
                self.conversations.push(conversation);
                self.conversations.swap(index, last);
                index += 1;
            }
        }
    }

    /// Returns false when the conversation is over.
    fn go_on(&mut self, conversation: &mut Conversation, now: Instant) -> bool {
        if conversation.session.waits().is_none() {
            return true;
        }
        if !conversation.session.pump() {
            return false;
        }
        if !self.listen_to(conversation, now) {
            return false;
        }
        self.advance_job(conversation);
        let waiting = conversation.waiting();
        conversation.session.tell_taken(waiting);
        // Nothing is read here: nobody would be woken for what waits in the session.
        conversation.session.write()
    }

    /// Does what the client has said; false when that makes no sense.
    fn listen_to(&mut self, conversation: &mut Conversation, now: Instant) -> bool {
        loop {
            match conversation.session.said() {
                Ok(None) => return true,
                Ok(Some(Said::Frame(kind, bytes))) => conversation.take(kind, &bytes),
                Ok(Some(Said::Request(request))) => {
                    conversation.abandon();
                    let done = self.command(&request, conversation, now);
                    if let Err((cause, status)) = done {
                        conversation.fail(&cause, status);
                    }
                }
                Err(cause) => {
                    conversation.fail(&cause, MISUSE);
                    // It may still be there to hear why.
                    let _ = conversation.session.pump();
                    return false;
                }
            }
        }
    }

    fn command(
        &mut self,
        request: &Request,
        conversation: &mut Conversation,
        now: Instant,
    ) -> std::result::Result<(), (Error, u8)> {
        let misuse = |text: &str| (Error::new(text), MISUSE);
        let failure = |cause: Error| (cause, 1);
        let session = &mut conversation.session;
        let words: Vec<&str> = request.args.iter().map(String::as_str).collect();
        match words.as_slice() {
            [] | ["help" | "-h" | "--help"] => {
                session.say(Kind::Stdout, USAGE.as_bytes());
                session.end(0);
            }
            ["ps"] => session.answer(&self.ps(now)),
            ["ps", "--json"] => session.answer(&self.ps_json(now)),
            ["stats"] => session.answer(&self.stats()),
            ["stats", "--json"] => session.answer(&self.stats_json()),
            ["logs", rest @ ..] => conversation.job = self.logs(rest).map_err(failure)?,
            ["exec", rest @ ..] => {
                let program = self.exec(rest, request.terminal).map_err(failure)?;
                conversation.job = Job::Program(program);
            }
            ["replace", "--ground", name] => {
                let ground = self.replacement_ground(name).map_err(failure)?;
                session.answer(&ground);
            }
            ["replace", rest @ ..] => {
                let (name, directory, wanted) = replacement(rest).ok_or_else(|| {
                    misuse("replace: --into DIRECTORY [--wait SECONDS] [--stop-first] NAME")
                })?;
                let arrival = self.expect(name, directory, wanted).map_err(failure)?;
                conversation.job = Job::Arrival(Box::new(arrival), None, false);
            }
            ["attach", name] => {
                let service = self.service(name).map_err(failure)?;
                if service.policy.main != Main::Attach {
                    let why = format!("{name} keeps its streams to itself (kiln.main: attach)");
                    return Err(failure(Error::new(why)));
                }
                conversation.job = Job::Attached {
                    id: service.id.clone(),
                    pending: VecDeque::new(),
                    input_ended: false,
                    window: request.terminal,
                };
            }
            ["start", name] => {
                let service = self.service(name).map_err(failure)?;
                let id = service.id.clone();
                self.services.start(&id, now);
                self.advance_services(now);
                conversation.job = Job::Service { id, up: true };
            }
            [verb @ ("stop" | "restart"), name] => {
                let id = self.service(name).map_err(failure)?.id.clone();
                let again = *verb == "restart";
                self.services_changed = true;
                if let Some((pid, signal)) = self.services.stop(&id, again, now) {
                    self.tell_to_end(pid, signal);
                }
                self.advance_services(now);
                conversation.job = Job::Service { id, up: again };
            }
            ["kill", rest @ ..] => {
                let (signal, name) = match rest {
                    [name] => (libc::SIGKILL, name),
                    ["-s", signal, name] => {
                        let number = policy::signal(signal);
                        (number.ok_or_else(|| misuse("kill: unknown signal"))?, name)
                    }
                    _ => return Err(misuse("kill: kill [-s SIGNAL] NAME")),
                };
                let service = self.service(name).map_err(failure)?;
                let pid = service.pid();
                send(pid.ok_or_else(|| failure(not_running(name)))?, signal);
                session.end(0);
            }
            [verb @ ("poweroff" | "reboot" | "halt")] => {
                let action = match *verb {
                    "poweroff" => Action::PowerOff,
                    "reboot" => Action::Reboot,
                    _ => Action::Halt,
                };
                session.end(0);
                self.ask(action);
            }
            [word, ..] => {
                let text = format!("{word}: not a command, or not with these arguments; see help");
                return Err(misuse(&text));
            }
        }
        Ok(())
    }

    pub(super) fn service(&self, name: &str) -> Result<&Service> {
        self.services.find(name).ok_or_else(|| {
            let all = self.services.all().iter().map(|s| s.id.as_str());
            let all: Vec<&str> = all.collect();
            Error::new(format!(
                "there is no service {name}; there are: {}",
                all.join(", ")
            ))
        })
    }

    fn logs(&self, words: &[&str]) -> Result<Job> {
        let (mut follow, mut times, mut count, mut name) = (false, false, None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "-f" | "--follow" => follow = true,
                "-t" | "--timestamps" => times = true,
                "-n" | "--tail" => {
                    let number = words.next().and_then(|word| word.parse::<u64>().ok());
                    count = Some(number.ok_or_else(|| Error::new("logs: -n wants a number"))?);
                }
                word if name.is_none() && !word.starts_with('-') => name = Some(word),
                word => return Err(Error::new(format!("logs: {word}: not understood"))),
            }
        }
        let name = name.ok_or_else(|| Error::new("logs: of whom? logs NAME"))?;
        let named = |journal: &Journal| journal.id == name || short_name(&journal.id) == name;
        let journal = self.journals.iter().position(named);
        let journal = journal
            .ok_or_else(|| Error::new(format!("nothing called {name} has printed anything")))?;
        let end = self.journals[journal].ring.end();
        Ok(Job::Logs {
            journal,
            next: count.map_or(0, |count| end.saturating_sub(count)),
            follow,
            times,
        })
    }

    fn exec(&mut self, words: &[&str], terminal: Option<session::Window>) -> Result<Program> {
        let mut wanted = Exec::default();
        let mut words = words.iter();
        let mut name = None;
        while name.is_none() {
            let Some(word) = words.next() else { break };
            let mut value = || words.next().map(|word| (*word).to_owned());
            match *word {
                "-t" | "--tty" | "-it" | "-ti" => {
                    wanted.terminal = Some(terminal.unwrap_or((24, 80)));
                }
                // Input is always connected.
                "-i" | "--interactive" => {}
                "-w" | "--workdir" => wanted.cwd = value(),
                "-e" | "--env" => wanted.env.extend(value()),
                word if !word.starts_with('-') => name = Some(word),
                word => return Err(Error::new(format!("exec: {word}: not understood"))),
            }
        }
        wanted.args = words.map(|word| (*word).to_owned()).collect();
        let name = name.ok_or_else(|| Error::new("exec: where? exec NAME PROGRAM"))?;
        if wanted.args.is_empty() {
            return Err(Error::new(format!(
                "exec: which program? exec {name} PROGRAM"
            )));
        }
        let named = |c: &&mut Running| short_name(&c.bundle.id) == name || c.bundle.id == name;
        let all = self.containers.iter_mut().filter(|c| c.is_up());
        // One that is being replaced is there twice.
        let current = self.services.find(name).and_then(Service::pid);
        let running = all.filter(named).max_by_key(|c| Some(c.pid) == current);
        let running = running.ok_or_else(|| not_running(name))?;
        let bundle = &mut running.bundle;
        if builtin::is_job(&bundle.config) {
            let why = "a built-in job, which has no root to run a program in";
            return Err(Error::new(format!("exec: {name} is {why}")));
        }
        wanted.user.clone_from(&bundle.policy.user);
        let group = running.cgroup.as_deref();
        exec::start(&mut bundle.config, running.pid, group, &wanted).map(Program::new)
    }

    /// Goes on with what a conversation is busy with.
    fn advance_job(&mut self, conversation: &mut Conversation) {
        let session = &mut conversation.session;
        if session.has_ended() {
            return;
        }
        match &mut conversation.job {
            Job::None => {}
            Job::Logs {
                journal,
                next,
                follow,
                times,
            } => {
                let ring = &self.journals[*journal].ring;
                while session.has_room()
                    && let Some((number, line)) = ring.get(*next)
                {
                    *next = number + 1;
                    let mut text = if *times { stamp(line.time) } else { Vec::new() };
                    text.extend_from_slice(&line.text);
                    text.push(b'\n');
                    session.say(kind(line.output), &text);
                }
                if !*follow && ring.get(*next).is_none() {
                    session.end(0);
                }
            }
            Job::Program(program) => program.advance(session),
            Job::Arrival(arrival, failed, is_whole) => {
                let done = match (failed.take(), is_whole) {
                    (Some(cause), _) => Err(cause),
                    (None, true) => self.replace(arrival, Instant::now()),
                    (None, false) => return,
                };
                match done {
                    Ok(number) => conversation.job = Job::Replaced(number),
                    Err(cause) => {
                        arrival.discard();
                        conversation.job = Job::None;
                        conversation.fail(&cause, 1);
                    }
                }
            }
            Job::Replaced(number) => match self.replacement_outcome(*number) {
                Some(Ok(())) => session.end(0),
                Some(Err(cause)) => conversation.fail(&cause, 1),
                None => {}
            },
            Job::Attached {
                id,
                pending,
                input_ended,
                window,
            } => {
                let running = self.containers.iter_mut().find(|c| c.bundle.id == *id);
                if let Some(running) = running {
                    let is_terminal = running.bundle.config.process.terminal;
                    if let (true, Some(terminal), Some(size)) =
                        (is_terminal, &running.stdin, *window)
                    {
                        exec::set_window(terminal, size);
                        *window = None;
                    }
                    // A terminal is not closed from here: that would hang up.
                    if !is_terminal || running.stdin.is_some() {
                        feed(&mut running.stdin, pending, *input_ended && !is_terminal);
                    }
                }
                let mut open = false;
                for (_, stream) in &mut self.streams {
                    if !stream.held || self.journals[stream.journal].id != *id {
                        continue;
                    }
                    if session.has_room() {
                        let journal = &mut self.journals[stream.journal];
                        stream.pump(journal, |output, bytes| session.say(kind(output), bytes));
                    }
                    open |= !stream.ended;
                }
                if let (Some(main), false) = (&self.main, open) {
                    if let Some(trouble) = &main.trouble {
                        session.say(Kind::Stderr, format!("{id}: {trouble}\n").as_bytes());
                    }
                    session.end(main.status);
                }
            }
            Job::Service { id, up } => {
                let service = self.services.find(id);
                let outcome = match service.map(|service| (service, &service.state)) {
                    Some((service, _)) if *up && service.is_up() => Some(Ok(())),
                    Some((_, State::Ended(_))) if !*up => Some(Ok(())),
                    Some((_, State::Ended(how))) => Some(Err(format!("{id}: {how}"))),
                    None => Some(Err(format!("{id} is gone"))),
                    _ => None,
                };
                match outcome {
                    Some(Ok(())) => session.end(0),
                    Some(Err(why)) => conversation.fail(&Error::new(why), 1),
                    None => {}
                }
            }
        }
    }

    /// Notes the end of a program of a conversation.
    pub(super) fn program_ended(&mut self, pid: Pid, status: WaitStatus) {
        for conversation in &mut self.conversations {
            if let Job::Program(program) = &mut conversation.job
                && program.pid == pid
            {
                program.exit = Some(exit_code(status));
            }
        }
    }
}

impl Conversation {
    fn fail(&mut self, cause: &Error, status: u8) {
        self.session
            .say(Kind::Stderr, format!("{cause}\n").as_bytes());
        self.session.end(status);
    }

    /// Takes what a client sends to its program.
    fn take(&mut self, kind: Kind, bytes: &[u8]) {
        // Who has ended takes nothing more.
        if self.session.has_ended() {
            return;
        }
        if let Job::Attached {
            pending,
            input_ended,
            window,
            ..
        } = &mut self.job
        {
            match kind {
                Kind::Stdin => {
                    *input_ended |= bytes.is_empty();
                    pending.extend(bytes);
                }
                Kind::Window => *window = size(bytes),
                _ => {}
            }
        }
        if let (Kind::Stdin, Job::Arrival(arrival, failed, is_whole)) = (kind, &mut self.job) {
            *is_whole |= bytes.is_empty();
            if failed.is_none() {
                *failed = arrival.feed(bytes).err();
            }
        }
        let Job::Program(program) = &mut self.job else {
            return;
        };
        match (kind, bytes) {
            (Kind::Stdin, []) => program.input_ended = true,
            (Kind::Stdin, _) => program.pending.extend(bytes),
            (Kind::Window, _) if program.terminal => {
                if let (Some(terminal), Some(size)) = (&program.stdin, size(bytes)) {
                    exec::set_window(terminal, size);
                }
            }
            (Kind::Signal, [number]) if program.exit.is_none() => {
                send(program.pid, i32::from(*number));
            }
            _ => {}
        }
    }

    /// Returns how much of its input nobody has taken yet.
    fn waiting(&self) -> usize {
        match &self.job {
            Job::Program(program) => program.pending.len(),
            Job::Attached { pending, .. } => pending.len(),
            _ => 0,
        }
    }

    /// Ends a conversation whose client is gone; returns whether there is another to come.
    fn hang_up(&mut self) -> bool {
        self.abandon();
        self.session.reset()
    }

    /// Leaves what nobody waits for any more; a program is told as by a terminal that is closed.
    fn abandon(&mut self) {
        if let Job::Program(program) = &self.job
            && program.exit.is_none()
        {
            send(program.pid, libc::SIGHUP);
        }
        if let Job::Arrival(arrival, ..) = &self.job {
            arrival.discard();
        }
        self.job = Job::None;
    }
}

impl Session {
    fn answer(&mut self, text: &str) {
        self.say(Kind::Stdout, text.as_bytes());
        self.end(0);
    }
}

/// Reads the arguments of `replace`.
fn replacement<'a>(words: &[&'a str]) -> Option<(&'a str, &'a str, Wanted)> {
    let (mut name, mut directory) = (None, None);
    let mut wanted = Wanted {
        wait: READY_WAIT,
        stop_first: false,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--into" => directory = Some(*words.next()?),
            "--wait" => {
                wanted.wait = Duration::from_secs(words.next()?.parse::<u32>().ok()?.into());
            }
            "--stop-first" => wanted.stop_first = true,
            word if !word.starts_with('-') && name.is_none() => name = Some(word),
            _ => return None,
        }
    }
    Some((name?, directory?, wanted))
}

/// Reads rows and columns.
fn size(bytes: &[u8]) -> Option<session::Window> {
    let [r0, r1, c0, c1] = bytes.try_into().ok()?;
    Some((u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1])))
}

fn kind(output: Output) -> Kind {
    match output {
        Output::Stdout => Kind::Stdout,
        Output::Stderr => Kind::Stderr,
    }
}

fn not_running(name: &str) -> Error {
    Error::new(format!("{name} does not run"))
}

pub(super) fn send(pid: Pid, signal: i32) {
    // One that has just ended needs none.
    let _ = crate::sys::kill(pid, signal);
}
