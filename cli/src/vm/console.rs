//! A terminal on one side, a machine's console on the other.
//!
//! A monitor makes a socket of the console; or it has only its own standard streams for that, and
//! these are a named pipe and a file, so that whoever comes later can be the console too; or only a
//! file, when nobody was to be the console.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, inotify, mknodat};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::monitor::{self, Monitor};
use super::place::Place;
use super::{control, log};
use crate::ui::printer;

/// Ctrl-], as telnet's and virsh's.
const ESCAPE: u8 = 0x1d;

/// Typed bytes that wait for a machine to take them.
const PENDING_BYTES_MAX: usize = 64 << 10;

/// A signal that comes right before we wait is seen after this.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine has ended.
    Machine,
    /// Somebody typed Ctrl-].
    Escape,
    /// A signal wants it to end.
    Signal,
}

/// A terminal that hands on every key; as it was before when dropped.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Takes the terminal of standard input, when it is one.
    pub(crate) fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        printer::terminal_is_raw(true);
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Output that is still on its way was made for the raw terminal.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
        printer::terminal_is_raw(false);
    }
}

/// The console of a machine.
#[derive(Debug)]
pub(crate) enum Console {
    /// As its monitor gives it, and what keeps others from it where it is for one at a time.
    Socket(
        UnixStream,
        #[expect(dead_code, reason = "a lock while it lives")] Option<File>,
    ),
    /// A file of what it shows, and a pipe to a monitor's standard input if it has one.
    Streams {
        shown: File,
        /// Tells of more in `shown`.
        changes: OwnedFd,
        input: Option<File>,
        /// The monitor: a file does not say that nothing more will come.
        monitor: OwnedFd,
    },
}

/// Tells one socket from another that takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made(u64, i64, i64);

impl Made {
    /// Returns it of a machine's console, when that is a socket.
    pub(crate) fn of(place: &Place) -> Option<Self> {
        let metadata = std::fs::metadata(place.console()).ok()?;
        Some(Self(
            metadata.ino(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ))
    }
}

impl Console {
    /// Makes the standard input and output of a monitor.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(crate) fn make(place: &Place) -> io::Result<(File, File)> {
        let (input, shown) = (place.console_input(), place.console_log());
        mknodat(CWD, &input, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Open on both sides, so that it never ends and nobody waits to open it.
        let input = OpenOptions::new().read(true).write(true).open(input)?;
        Ok((input, File::create(shown)?))
    }

    /// Connects to the console of a machine.
    ///
    /// # Errors
    /// When it is not there, or somebody else's.
    pub(crate) fn open(monitor: Monitor, place: &Place) -> io::Result<Self> {
        let socket = place.console();
        if !socket.exists() {
            return Self::follow(place);
        }
        // QEMU lets a second one wait until the first has gone, without a word.
        let claim = match monitor {
            Monitor::Qemu => Some(control::claim(&socket)?.ok_or_else(taken)?),
            Monitor::Firecracker | Monitor::CloudHypervisor => None,
        };
        let stream = UnixStream::connect(socket)?;
        // A guest that does not read its console must not keep us.
        stream.set_nonblocking(true)?;
        Ok(Self::Socket(stream, claim))
    }

    fn follow(place: &Place) -> io::Result<Self> {
        let shown = place.console_log();
        let changes =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&changes, &shown, inotify::WatchFlags::MODIFY)?;
        Ok(Self::Streams {
            shown: File::open(shown)?,
            changes,
            input: input(&place.console_input())?,
            monitor: monitor::process_of(place)?,
        })
    }

    /// Returns what becomes readable when there is something to show.
    fn changes(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(stream, _) => stream.as_fd(),
            Self::Streams { changes, .. } => changes.as_fd(),
        }
    }

    /// Returns what becomes readable when the machine has ended, if that is another thing.
    fn end(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(..) => None,
            Self::Streams { monitor, .. } => Some(monitor.as_fd()),
        }
    }

    /// Returns what becomes writable when the machine takes more, if it takes anything.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(stream, _) => Some(stream.as_fd()),
            Self::Streams { input, .. } => input.as_ref().map(AsFd::as_fd),
        }
    }

    /// Returns whether anything can be typed.
    pub(crate) fn has_input(&self) -> bool {
        self.input().is_some()
    }

    /// Types what is taken at once; the rest stays.
    fn write(&self, pending: &mut Vec<u8>) {
        let written = self
            .input()
            .map(|input| rustix::io::retry_on_intr(|| rustix::io::write(input, pending)));
        match written {
            Some(Ok(count)) => drop(pending.drain(..count)),
            Some(Err(Errno::AGAIN)) => {}
            // It is gone; what it has shown is still to be read.
            Some(Err(_)) | None => pending.clear(),
        }
    }

    /// Reads some of what there is to show; nothing when that is all for now, an error when the
    /// machine is gone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream, _) => match stream.read(buffer) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if is_nothing(&error) => Ok(0),
                other => other,
            },
            Self::Streams { shown, changes, .. } => {
                // The events say nothing that reading does not.
                let _ = rustix::io::read(changes, &mut buffer[..]);
                log::skip_hole(shown)?;
                shown.read(buffer)
            }
        }
    }
}

fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    [Interrupted, WouldBlock].contains(&error.kind())
}

fn taken() -> io::Error {
    io::Error::other("another kiln has it, and QEMU's is for one at a time")
}

/// Opens the pipe to a monitor's standard input, when there is one.
fn input(path: &Path) -> io::Result<Option<File>> {
    // A guest that does not read its console must not keep us.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nonblock);
    match options.open(path) {
        Ok(input) => Ok(Some(input)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Relays until one side ends, or it is `cancelled`.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn attach(mut console: Console, cancelled: impl Fn() -> bool) -> io::Result<End> {
    let raw = Raw::new();
    let is_terminal = raw.is_some();
    let mut buffer = [0; 16 << 10];
    let mut input_open = true;
    let stdin = io::stdin();
    let mut pending = Vec::new();
    // Of a file there may be something already.
    let mut has_more = matches!(console, Console::Streams { .. });
    loop {
        if cancelled() {
            return Ok(End::Signal);
        }
        // A terminal is always read: it must be possible to leave a machine that takes nothing.
        let reads = input_open && (pending.is_empty() || is_terminal);
        let all = [
            (Some(console.changes()), PollFlags::IN),
            (console.end(), PollFlags::IN),
            (reads.then(|| stdin.as_fd()), PollFlags::IN),
            (
                console.input().filter(|_| !pending.is_empty()),
                PollFlags::OUT,
            ),
        ];
        let mut fds: Vec<PollFd<'_>> = all
            .iter()
            .filter_map(|(fd, flags)| Some(PollFd::from_borrowed_fd((*fd)?, *flags)))
            .collect();
        let timeout = match has_more {
            true => Duration::ZERO,
            false => LOOK_EVERY,
        };
        match poll(&mut fds, timeout.try_into().ok().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let [changed, ended, typed, _] =
            all.map(|(fd, _)| fd.is_some() && ready.next() == Some(true));
        if typed {
            let count = rustix::io::read(&stdin, &mut buffer).unwrap_or(0);
            input_open = count > 0;
            let typed = &buffer[..count];
            if is_terminal && typed.contains(&ESCAPE) {
                return Ok(End::Escape);
            }
            // What is typed beyond that is lost, as on a serial line.
            if pending.len() < PENDING_BYTES_MAX {
                pending.extend_from_slice(typed);
            }
        }
        if !pending.is_empty() {
            console.write(&mut pending);
        }
        if changed || has_more {
            let Ok(count) = console.read(&mut buffer) else {
                return Ok(End::Machine);
            };
            has_more = count > 0 && matches!(console, Console::Streams { .. });
            let mut stdout = io::stdout().lock();
            stdout.write_all(&buffer[..count])?;
            stdout.flush()?;
        } else if ended {
            return Ok(End::Machine);
        }
    }
}
