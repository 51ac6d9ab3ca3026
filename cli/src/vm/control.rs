//! A conversation with the guest over one of its virtio ports, or over its vsock: a pipe with a
//! terminal.
//!
//! The guest understands the command and makes its output; what is said is described in
//! `guest/src/session.rs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::termios::tcgetwinsize;
use serde_json::json;

use super::console::Raw;
use super::place::{PORTS, Place};
use super::vsock;

/// Longest frame.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// Longest request that is understood, in bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Standard input that may be on its way, in bytes.
const WINDOW_BYTES: u64 = 256 << 10;
/// Begins a mark, or stands for itself.
const ESCAPE: u8 = 0xff;

/// Who is asked to end answers within this, or does not understand.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// After this a request is sent again, until it is answered. So often signals are looked at, too.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Ctrl-]: three within [`LEAVE_WITHIN`] leave a program that has the terminal, as they leave
/// systemd-nspawn. One alone is the program's.
const LEAVE: u8 = 0x1d;
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STDIN: u8 = 3;
const WINDOW: u8 = 4;
const END: u8 = 6;
const BEGIN: u8 = 7;
const TAKEN: u8 = 8;

/// Where a command says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The command has ended with this.
    Status(u8),
    /// The guest did not begin to answer: until it runs kiln-init there is nobody to hear us.
    Silence,
    /// A signal, or somebody at the terminal, wanted it to end.
    Left,
}

/// What a conversation goes over.
#[derive(Debug)]
enum Line {
    /// A virtio port, and what keeps others from it.
    Port(
        UnixStream,
        #[expect(dead_code, reason = "a lock while it lives")] File,
    ),
    /// The monitor's socket to the guest's vsock: a connection is made when the guest listens.
    Vsock(PathBuf),
}

/// A line to a machine that is ours while this lives.
#[derive(Debug)]
pub(crate) struct Port {
    line: Line,
    /// The answer begins with it: before that come the last words to whoever was here before.
    number: u64,
    /// The request, to be sent again: who comes right after another may not be heard.
    request: Vec<u8>,
    /// What comes from there is the command's standard input.
    pub(crate) input: Option<OwnedFd>,
}

impl Port {
    /// Takes the machine's vsock, or the first port that nobody uses.
    ///
    /// # Errors
    /// When all are in use, or the machine is gone.
    pub(crate) fn open(place: &Place) -> io::Result<Self> {
        let line = match place.vsock() {
            vsock if vsock.exists() => Line::Vsock(vsock),
            _ => free_port(place)?,
        };
        Ok(Self {
            line,
            number: u64::from(std::process::id()) << 32 | u64::from(nanoseconds()),
            request: Vec::new(),
            input: None,
        })
    }

    /// Prepares a command; returns whether it gets a terminal.
    ///
    /// # Errors
    /// When it is too long.
    pub(crate) fn request(&mut self, args: &[String], wants_terminal: bool) -> io::Result<bool> {
        let size = tcgetwinsize(io::stdin()).ok().filter(|_| wants_terminal);
        let terminal = size.map(|size| [size.ws_row, size.ws_col]);
        let request = json!({"args": args, "terminal": terminal, "number": self.number});
        let request = request.to_string();
        if request.len() > REQUEST_BYTES_MAX {
            return Err(io::Error::other(format!(
                "its arguments are longer than {REQUEST_BYTES_MAX} bytes"
            )));
        }
        self.request = [&[ESCAPE, 1][..], &escaped(request.as_bytes()), b"\n"].concat();
        Ok(terminal.is_some())
    }

    /// Sends the command and relays to the standard streams until it has ended, or was not answered
    /// in `patience`. A terminal is made `raw` when it is answered: until then Ctrl-C is a signal.
    ///
    /// # Errors
    /// When the machine is gone, hangs up in the middle, or talks nonsense.
    pub(crate) fn relay(
        &mut self,
        raw: bool,
        patience: Option<Duration>,
        cancelled: impl Fn() -> bool,
    ) -> io::Result<End> {
        self.relay_to(raw, patience, cancelled, |output, bytes| match output {
            Output::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Output::Stderr => io::stderr().lock().write_all(bytes),
        })
    }

    /// Relays as [`relay`](Self::relay), to whoever takes what the command says.
    ///
    /// # Errors
    /// Likewise, and what `take` returns.
    pub(crate) fn relay_to(
        &mut self,
        raw: bool,
        patience: Option<Duration>,
        cancelled: impl Fn() -> bool,
        mut take: impl FnMut(Output, &[u8]) -> io::Result<()>,
    ) -> io::Result<End> {
        let resized = Arc::new(AtomicBool::new(false));
        if raw {
            signal_hook::flag::register(signal_hook::consts::SIGWINCH, resized.clone())?;
        }
        let (mut terminal, mut leave) = (None, Leave::default());
        let (mut input, mut buffer) = (VecDeque::new(), vec![0; 16 << 10]);
        let mut answered = false;
        let (mut sent, mut taken) = (0_u64, 0_u64);
        let mut typed = self.request.clone();
        let began = Instant::now();
        let mut stream = match &self.line {
            Line::Port(stream, _) => stream.try_clone()?,
            Line::Vsock(socket) => match vsock::connect(socket, patience, &cancelled)? {
                Some(stream) => stream,
                None if cancelled() => return Ok(End::Left),
                None => return Ok(End::Silence),
            },
        };
        let mut asked = Instant::now();
        loop {
            if cancelled() {
                return Ok(End::Left);
            }
            if resized.swap(false, Ordering::Relaxed)
                && let Ok(size) = tcgetwinsize(io::stdin())
            {
                let size = [size.ws_row.to_le_bytes(), size.ws_col.to_le_bytes()].concat();
                typed.extend(escaped(&frame(WINDOW, &size)));
            }
            if !answered && patience.is_some_and(|patience| began.elapsed() > patience) {
                return Ok(End::Silence);
            }
            if !answered && asked.elapsed() >= ASK_AGAIN && typed.is_empty() {
                typed.extend(&self.request);
                asked = Instant::now();
            }
            // What is typed waits here until it is taken, and meanwhile answers are read: a program
            // may have to write before it reads on.
            let mut wants = PollFlags::IN;
            wants.set(PollFlags::OUT, !typed.is_empty());
            let mut fds = vec![PollFd::new(&stream, wants)];
            let room = usize::try_from(WINDOW_BYTES - (sent - taken)).unwrap_or(0);
            // A terminal is always read: it must be possible to leave a guest that takes nothing.
            let has_room = typed.is_empty() && room > 0;
            let reads = answered && (has_room || terminal.is_some());
            if let (Some(input), true) = (&self.input, reads) {
                fds.push(PollFd::new(input, PollFlags::IN));
            }
            // A signal may come right before.
            let timeout = ASK_AGAIN.try_into().ok();
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let answers = fds[0].revents().intersects(!PollFlags::OUT);
            if let (Some(input), Some(true)) = (&self.input, ready.get(1)) {
                let most = match terminal {
                    Some(_) => buffer.len(),
                    None => room.min(buffer.len()),
                };
                let count = rustix::io::read(input, &mut buffer[..most]).unwrap_or(0);
                if terminal.is_some() && leave.hears(&buffer[..count]) {
                    return Ok(End::Left);
                }
                // What is typed beyond that is lost. An empty frame would be the end.
                let kept = count.min(room);
                if kept > 0 || count == 0 {
                    typed.extend(escaped(&frame(STDIN, &buffer[..kept])));
                    sent += kept as u64;
                }
                if count == 0 {
                    self.input = None;
                }
            }
            if !typed.is_empty() {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match rustix::net::send(&stream, &typed, flags) {
                    Ok(count) => drop(typed.drain(..count)),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // It is gone; what it has said is still to be read.
                    Err(_) => {
                        typed.clear();
                        self.input = None;
                    }
                }
            }
            if !answers {
                continue;
            }
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.extend(&buffer[..count]);
            if !answered {
                let begin = frame(BEGIN, &self.number.to_le_bytes());
                let Some(at) = find(input.make_contiguous(), &begin) else {
                    input.drain(..input.len().saturating_sub(begin.len()));
                    continue;
                };
                input.drain(..at + begin.len());
                answered = true;
                terminal = raw.then(Raw::new).flatten();
            }
            while let Some((kind, bytes)) = take_frame(&mut input)? {
                match kind {
                    STDOUT => take(Output::Stdout, &bytes)?,
                    STDERR => take(Output::Stderr, &bytes)?,
                    // It does not become less, whatever the guest says.
                    TAKEN => {
                        let now = bytes.try_into().map_or(taken, u64::from_le_bytes);
                        taken = taken.max(now).min(sent);
                    }
                    END => {
                        let status = bytes.first().copied().unwrap_or(u8::MAX);
                        return Ok(End::Status(status));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Listens for the keys that leave a program.
#[derive(Debug, Default)]
struct Leave {
    count: u8,
    began: Option<Instant>,
}

impl Leave {
    /// Returns whether these are, with those before, the keys.
    fn hears(&mut self, typed: &[u8]) -> bool {
        for byte in typed {
            let in_time = |began: Instant| began.elapsed() <= LEAVE_WITHIN;
            if *byte != LEAVE || !self.began.is_some_and(in_time) {
                *self = Self::default();
            }
            if *byte == LEAVE {
                self.began.get_or_insert_with(Instant::now);
                self.count += 1;
            }
            if self.count == 3 {
                return true;
            }
        }
        false
    }
}

/// Takes the first virtio port that nobody uses.
fn free_port(place: &Place) -> io::Result<Line> {
    for number in 0..PORTS {
        let path = place.port(number);
        if let Some(claim) = claim(&path)? {
            return Ok(Line::Port(UnixStream::connect(&path)?, claim));
        }
    }
    Err(io::Error::other(format!(
        "all its {PORTS} lines are in use: end one of the kiln vm commands that are connected"
    )))
}

/// Keeps others of us from a socket that has one client at a time, while what it returns lives; none
/// when another has it.
pub(super) fn claim(socket: &Path) -> io::Result<Option<File>> {
    let mut lock = socket.to_owned().into_os_string();
    lock.push(".lock");
    let lock = File::create(lock)?;
    Ok(lock.try_lock().is_ok().then_some(lock))
}

/// Returns this process's standard input, for a command.
pub(crate) fn stdin() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?)
}

/// Asks kiln-init to power off; false when it does not say yes at once.
pub(crate) fn power_off(place: &Place) -> bool {
    let began = Instant::now();
    let ask = || -> io::Result<End> {
        let mut port = Port::open(place)?;
        port.request(&["poweroff".to_owned()], false)?;
        // Whoever begins to answer may never end.
        port.relay_to(
            false,
            None,
            || began.elapsed() > SHORT_PATIENCE,
            |_, _| Ok(()),
        )
    };
    matches!(ask(), Ok(End::Status(0)))
}

/// Returns some number that is another one each time.
fn nanoseconds() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.subsec_nanos())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(bytes);
    frame
}

/// Returns what is sent in place of these bytes: a mark is in none of them.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        out.push(*byte);
        if *byte == ESCAPE {
            out.push(0);
        }
    }
    out
}

fn take_frame(input: &mut VecDeque<u8>) -> io::Result<Option<(u8, Vec<u8>)>> {
    let header: Vec<u8> = input.iter().take(5).copied().collect();
    let [kind, a, b, c, d] = header[..] else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("the guest talks nonsense"));
    }
    if input.len() < header.len() + length {
        return Ok(None);
    }
    input.drain(..header.len());
    Ok(Some((kind, input.drain(..length).collect())))
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
