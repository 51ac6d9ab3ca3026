//! A program of `exec`: between its streams and a conversation.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, WaitStatus};

use crate::container::STATUS_BYTES_MAX;
use crate::exec::Executed;
use crate::session::{Kind, Session};

/// A program of `exec`.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) pid: Pid,
    /// Closed when the client's input has ended.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) pending: VecDeque<u8>,
    pub(super) input_ended: bool,
    outputs: Vec<(Kind, OwnedFd)>,
    status: Option<OwnedFd>,
    error: Vec<u8>,
    pub(super) terminal: bool,
    pub(super) exit: Option<u8>,
}

impl Program {
    pub(super) fn new(executed: Executed) -> Self {
        let outputs = [
            Some((Kind::Stdout, executed.stdout)),
            executed.stderr.map(|stderr| (Kind::Stderr, stderr)),
        ];
        Self {
            pid: executed.pid,
            stdin: Some(executed.stdin),
            pending: VecDeque::new(),
            input_ended: false,
            outputs: outputs.into_iter().flatten().collect(),
            status: Some(executed.status),
            error: Vec::new(),
            terminal: executed.terminal,
            exit: None,
        }
    }

    pub(super) fn waits<'a>(&'a self, has_room: bool, all: &mut Vec<(BorrowedFd<'a>, PollFlags)>) {
        if has_room {
            let outputs = self.outputs.iter();
            all.extend(outputs.map(|(_, fd)| (fd.as_fd(), PollFlags::IN)));
        }
        all.extend(self.status.iter().map(|fd| (fd.as_fd(), PollFlags::IN)));
        if let (Some(stdin), false) = (&self.stdin, self.pending.is_empty()) {
            all.push((stdin.as_fd(), PollFlags::OUT));
        }
    }

    pub(super) fn advance(&mut self, session: &mut Session) {
        self.take_status();
        // Of a terminal the other end stays open: its size and its signals go through it.
        let ends = self.input_ended && !self.terminal;
        feed(&mut self.stdin, &mut self.pending, ends);
        let mut buffer = [0; 16 << 10];
        self.outputs.retain(|(kind, fd)| {
            while session.has_room() {
                match rustix::io::read(fd, &mut buffer) {
                    Ok(n @ 1..) => session.say(*kind, &buffer[..n]),
                    Err(Errno::AGAIN) => return true,
                    Err(Errno::INTR) => {}
                    // A terminal that nobody has open any more is an error.
                    Ok(0) | Err(_) => return false,
                }
            }
            true
        });
        if let (Some(exit), None, true) = (self.exit, &self.status, session.has_room()) {
            if !self.error.is_empty() {
                self.error.push(b'\n');
                session.say(Kind::Stderr, &self.error);
            }
            session.end(exit);
        }
    }

    fn take_status(&mut self) {
        let Some(status) = &self.status else { return };
        let mut buffer = [0; STATUS_BYTES_MAX];
        match rustix::io::read(status, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => self.status = None,
            Ok(length) => self.error.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Writes what waits to a standard input, and closes it at its end.
pub(super) fn feed(stdin: &mut Option<OwnedFd>, pending: &mut VecDeque<u8>, ended: bool) {
    let Some(fd) = &stdin else {
        pending.clear();
        return;
    };
    let mut closed = ended;
    while !pending.is_empty() {
        let (head, _) = pending.as_slices();
        match rustix::io::write(fd, head) {
            Ok(n) => drop(pending.drain(..n)),
            Err(Errno::AGAIN) => return,
            Err(Errno::INTR) => {}
            // It does not want to hear more.
            Err(_) => {
                pending.clear();
                closed = true;
            }
        }
    }
    if closed {
        *stdin = None;
    }
}

/// Returns what a shell makes of a wait status.
pub(super) fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code & 0xff).unwrap_or(255)
}
