//! What containers print, for programs that ask LinuxKit's memlogd (`pkg/memlogd`): `logread`, the
//! service `logwrite`.
//!
//! In: the journals, and clients of a stream socket that say what they want with one byte. Out: a
//! JSON object for each line, oldest first. Only where the image is among those of `init`; as with
//! LinuxKit no log files are written then, which is left to `logwrite`. Its other socket, by which
//! programs hand in descriptors to be read, is not here.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::PollFlags;
use serde_json::Value;

use super::report::stamp;
use crate::error::{Context, Result};
use crate::log::Journal;

/// The program, which is not run, and its socket.
const PROGRAM: &str = "/usr/bin/memlogd";
const SOCKET: &str = "/run/memlogdq.sock";
/// Clients at a time, and bytes made for one before it has taken them.
const CLIENTS_MAX: usize = 16;
const PENDING_BYTES_MAX: usize = 64 << 10;

/// The socket and who has connected.
#[derive(Debug)]
pub(super) struct Memlog {
    listener: UnixListener,
    clients: Vec<Client>,
}

/// Who asks.
#[derive(Debug)]
struct Client {
    socket: UnixStream,
    asked: Option<Asked>,
    /// What it has not taken yet.
    pending: Vec<u8>,
}

/// What it gets.
#[derive(Debug)]
struct Asked {
    /// Of each journal, the next line.
    next: Vec<u64>,
    /// And the first that it does not get, unless it follows.
    end: Option<Vec<u64>>,
}

impl Memlog {
    /// Opens the socket where it is wanted.
    pub(super) fn open() -> Result<Option<Self>> {
        Self::open_at(Path::new(PROGRAM), Path::new(SOCKET))
    }

    fn open_at(program: &Path, socket: &Path) -> Result<Option<Self>> {
        if !program.exists() {
            return Ok(None);
        }
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).context(|| socket.display())?;
        listener.set_nonblocking(true).context(|| SOCKET)?;
        let clients = Vec::new();
        Ok(Some(Self { listener, clients }))
    }

    /// Returns what to poll for.
    pub(super) fn waits(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listens = self.clients.len() < CLIENTS_MAX;
        let listener = listens.then(|| (self.listener.as_fd(), PollFlags::IN));
        let clients = self.clients.iter().map(|client| {
            let flags = match client.pending.is_empty() {
                true => PollFlags::IN,
                false => PollFlags::IN | PollFlags::OUT,
            };
            (client.socket.as_fd(), flags)
        });
        listener.into_iter().chain(clients)
    }

    /// Takes new clients, and gives all of them what there is.
    pub(super) fn advance(&mut self, journals: &[Journal]) {
        while self.clients.len() < CLIENTS_MAX
            && let Ok((socket, _)) = self.listener.accept()
        {
            if socket.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    socket,
                    asked: None,
                    pending: Vec::new(),
                });
            }
        }
        let stays = |client: &mut Client| client.advance(journals).unwrap_or(false);
        self.clients.retain_mut(stays);
    }
}

impl Client {
    /// Returns whether there may be more to do for it.
    fn advance(&mut self, journals: &[Journal]) -> std::io::Result<bool> {
        let mut said = [0];
        match self.socket.read(&mut said) {
            Ok(0) => return Ok(false),
            Ok(_) if self.asked.is_none() => self.asked = Asked::read(said[0], journals),
            Ok(_) => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
            Err(cause) => return Err(cause),
        }
        let Some(asked) = &mut self.asked else {
            // It has said nothing yet, or what makes no sense.
            return Ok(said == [0]);
        };
        loop {
            let mut is_done = false;
            while self.pending.len() < PENDING_BYTES_MAX && !is_done {
                is_done = !asked.take_line(journals, &mut self.pending);
            }
            if self.pending.is_empty() {
                return Ok(asked.end.is_none());
            }
            match self.socket.write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(cause) => return Err(cause),
            }
        }
    }
}

impl Asked {
    /// Reads a mode: the lines there are (0), those to come (1), both (2).
    fn read(mode: u8, journals: &[Journal]) -> Option<Self> {
        let ends = || journals.iter().map(|it| it.ring.end()).collect();
        let (next, end) = match mode {
            0 => (Vec::new(), Some(ends())),
            1 => (ends(), None),
            2 => (Vec::new(), None),
            _ => return None,
        };
        Some(Self { next, end })
    }

    /// Appends the oldest line that is due; false if there is none.
    fn take_line(&mut self, journals: &[Journal], out: &mut Vec<u8>) -> bool {
        self.next.resize(journals.len(), 0);
        let due = journals.iter().enumerate().filter_map(|(index, journal)| {
            let (number, line) = journal.ring.get(self.next[index])?;
            let end = self.end.as_ref().map(|end| end.get(index).copied());
            let is_due = end.is_none_or(|end| number < end.unwrap_or(0));
            is_due.then_some((index, number, line))
        });
        let Some((index, number, line)) = due.min_by_key(|(_, _, line)| line.time) else {
            return false;
        };
        self.next[index] = number + 1;
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes)).to_string();
        let time = stamp(line.time);
        for part in [
            "{\"time\":",
            &text(time.trim_ascii_end()),
            ",\"source\":",
            &text(journals[index].source(line.output).as_bytes()),
            ",\"msg\":",
            &text(&line.text),
            "}\n",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::bundle::Phase;
    use crate::log::Output;

    fn speak(journal: &mut Journal, output: Output, text: &str) {
        journal.line(output, text.as_bytes());
    }

    #[test]
    fn clients_get_what_they_ask_for() {
        let directory = tempfile::tempdir().unwrap();
        let (program, socket) = (directory.path().join("m"), directory.path().join("s"));
        assert!(Memlog::open_at(&program, &socket).unwrap().is_none());
        fs::write(&program, "").unwrap();
        let mut memlog = Memlog::open_at(&program, &socket).unwrap().unwrap();
        let mut journals = vec![
            Journal::new("web", Phase::Service, false, false),
            Journal::new("000-a", Phase::Onboot, false, false),
        ];
        speak(&mut journals[1], Output::Stderr, "first");
        speak(&mut journals[0], Output::Stdout, "sec\"ond");
        speak(&mut journals[1], Output::Stdout, "third");
        let client = |mode: u8| {
            let mut client = UnixStream::connect(&socket).unwrap();
            client.write_all(&[mode]).unwrap();
            client
        };
        let (mut dump, follow, both) = (client(0), client(1), client(2));
        let mut bad = client(9);
        let silent = UnixStream::connect(&socket).unwrap();
        memlog.advance(&journals);
        speak(&mut journals[0], Output::Stderr, "fourth");
        journals.push(Journal::new("late", Phase::Service, false, false));
        speak(&mut journals[2], Output::Stderr, "fifth");
        memlog.advance(&journals);
        assert_eq!(memlog.clients.len(), 3);
        drop(silent);
        memlog.advance(&journals);
        assert_eq!(memlog.clients.len(), 2);

        let mut text = String::new();
        dump.read_to_string(&mut text).unwrap();
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let said = |line: &str| {
            let value = value(line);
            format!("{} {}", value["source"], value["msg"]).replace('"', "")
        };
        let all: Vec<String> = text.lines().map(said).collect();
        let first = [
            "onboot.000-a first",
            "web.out sec\\ond",
            "onboot.000-a.out third",
        ];
        assert_eq!(all, first);
        let time = value(text.lines().next().unwrap());
        assert!(time["time"].as_str().unwrap().ends_with('Z'), "{time}");
        let read = |client, count: usize| -> Vec<String> {
            let lines = BufReader::new(client).lines().take(count);
            lines.map(|line| said(&line.unwrap())).collect()
        };
        assert_eq!(read(follow, 2), ["web fourth", "late fifth"]);
        let rest = ["web fourth", "late fifth"];
        assert_eq!(read(both, 5), [&first[..], &rest[..]].concat());
        assert_eq!(bad.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_slow_client_costs_little() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let mut memlog = Memlog::open_at(directory.path(), &socket).unwrap().unwrap();
        let mut journals = [Journal::new("web", Phase::Service, false, false)];
        let mut slow = UnixStream::connect(&socket).unwrap();
        slow.write_all(&[2]).unwrap();
        for number in 0..5000 {
            speak(&mut journals[0], Output::Stdout, &"x".repeat(500));
            memlog.advance(&journals);
            assert!(
                memlog.clients[0].pending.len() < PENDING_BYTES_MAX + 1000,
                "{number}"
            );
        }
        // It has lost lines in between, and gets the last one.
        speak(&mut journals[0], Output::Stdout, "last");
        let mut lines = BufReader::new(slow).lines();
        let mut read = 0;
        loop {
            memlog.advance(&journals);
            read += 1;
            if lines.next().unwrap().unwrap().contains("last") {
                break;
            }
        }
        assert!(read < 5000, "{read}");
    }
}
