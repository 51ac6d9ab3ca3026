//! A terminal on one side, a machine's console on the other.
//!
//! A monitor makes a socket of the console; or it has only its own standard streams for that, and
//! these are a named pipe and a file, so that whoever comes later can be the console too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, inotify, mknodat};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::monitor::{self, Monitor};
use super::place::Place;
use crate::ui::printer;

/// Ctrl-], as telnet's and virsh's.
const ESCAPE: u8 = 0x1d;

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
    /// As its monitor gives it.
    Socket(UnixStream),
    /// A monitor's standard output, and its standard input.
    Streams {
        shown: File,
        /// Tells of more in `shown`.
        changes: OwnedFd,
        input: File,
        /// The monitor: a file does not say that nothing more will come.
        monitor: OwnedFd,
    },
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
    /// When it is not there.
    pub(crate) fn open(monitor: Monitor, place: &Place) -> io::Result<Self> {
        if monitor != Monitor::Firecracker {
            return UnixStream::connect(place.console()).map(Self::Socket);
        }
        let shown = place.console_log();
        let changes =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&changes, &shown, inotify::WatchFlags::MODIFY)?;
        // A guest that does not read its console must not keep us.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(nonblock);
        Ok(Self::Streams {
            shown: File::open(shown)?,
            changes,
            input: options.open(place.console_input())?,
            monitor: monitor::process_of(place)?,
        })
    }

    /// Returns what becomes readable when there is something to show.
    fn changes(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(stream) => stream.as_fd(),
            Self::Streams { changes, .. } => changes.as_fd(),
        }
    }

    /// Returns what becomes readable when the machine has ended, if that is another thing.
    fn end(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(_) => None,
            Self::Streams { monitor, .. } => Some(monitor.as_fd()),
        }
    }

    /// Types; false when the machine is gone.
    fn write(&mut self, typed: &[u8]) -> bool {
        match self {
            Self::Socket(stream) => stream.write_all(typed).is_ok(),
            // What does not fit is lost, as on a serial line.
            Self::Streams { input, .. } => {
                let _ = input.write(typed);
                true
            }
        }
    }

    /// Reads some of what there is to show; nothing when that is all for now, an error when the
    /// machine is gone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) => match stream.read(buffer) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                other => other,
            },
            Self::Streams { shown, changes, .. } => {
                // The events say nothing that reading does not.
                let _ = rustix::io::read(changes, &mut buffer[..]);
                shown.read(buffer)
            }
        }
    }
}

/// Relays until one side ends; `cancelled` is asked whenever a signal has come.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn attach(mut console: Console, cancelled: impl Fn() -> bool) -> io::Result<End> {
    let raw = Raw::new();
    let is_terminal = raw.is_some();
    let mut buffer = [0; 16 << 10];
    let mut input_open = true;
    let stdin = io::stdin();
    // Of a file there may be something already.
    let mut has_more = matches!(console, Console::Streams { .. });
    loop {
        if cancelled() {
            return Ok(End::Signal);
        }
        let input = input_open.then(|| stdin.as_fd());
        let all = [Some(console.changes()), console.end(), input];
        let mut fds: Vec<PollFd<'_>> = all
            .iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let now = rustix::time::Timespec::default();
        match poll(&mut fds, has_more.then_some(&now)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let [changed, ended, typed] = all.map(|fd| fd.is_some() && ready.next() == Some(true));
        if typed {
            let count = rustix::io::read(&stdin, &mut buffer).unwrap_or(0);
            input_open = count > 0;
            let typed = &buffer[..count];
            if is_terminal && typed.contains(&ESCAPE) {
                return Ok(End::Escape);
            }
            if !console.write(typed) {
                return Ok(End::Machine);
            }
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
