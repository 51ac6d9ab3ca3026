//! A terminal on one side, a machine's console on the other.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::ui::printer;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

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

/// Relays until one side ends; `cancelled` is asked whenever a signal has come.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn attach(mut console: UnixStream, cancelled: impl Fn() -> bool) -> io::Result<End> {
    let raw = Raw::new();
    let is_terminal = raw.is_some();
    let mut buffer = [0; 16 << 10];
    let mut input_open = true;
    let stdin = io::stdin();
    loop {
        if cancelled() {
            return Ok(End::Signal);
        }
        let mut fds = vec![PollFd::new(&console, PollFlags::IN)];
        if input_open {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.get(1) == Some(&true) {
            let count = rustix::io::read(&stdin, &mut buffer).unwrap_or(0);
            input_open = count > 0;
            let typed = &buffer[..count];
            if is_terminal && typed.contains(&ESCAPE) {
                return Ok(End::Escape);
            }
            if console.write_all(typed).is_err() {
                return Ok(End::Machine);
            }
        }
        if ready[0] {
            match console.read(&mut buffer) {
                Ok(0) => return Ok(End::Machine),
                Ok(count) => {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(&buffer[..count])?;
                    stdout.flush()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(End::Machine),
            }
        }
    }
}
