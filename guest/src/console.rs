//! The console: lines enter at once, leave when the terminal takes them, and never block.
//!
//! A serial line at 9600 baud, or a host that has stopped reading, must not stop PID 1: what does
//! not fit in a bounded queue is dropped and counted, and the count is shown when there is room.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

/// Bytes kept for a console that does not take them.
const QUEUE_BYTES_MAX: usize = 256 << 10;

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    out: None,
    queue: VecDeque::new(),
    dropped: 0,
});

/// `kiln.debug` was given.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// The queue and the terminal behind it.
#[derive(Debug)]
pub(crate) struct Console {
    out: Option<OwnedFd>,
    queue: VecDeque<u8>,
    dropped: u64,
}

/// Prints one `kiln: ` line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::say(format_args!($($arg)*)) };
}

/// Prints one `kiln: ` line if the command line has `kiln.debug`.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => {
        if $crate::console::is_verbose() {
            $crate::console::say(format_args!($($arg)*))
        }
    };
}

/// Turns [`debug!`] on.
pub(crate) fn set_verbose() {
    VERBOSE.store(true, Ordering::Relaxed);
}

/// Returns whether [`debug!`] prints.
pub(crate) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Prints one `kiln: ` line; see [`say!`].
pub(crate) fn say(text: fmt::Arguments<'_>) {
    line("kiln: ", text.to_string().as_bytes());
}

/// Queues a line with its prefix and hands over what the terminal takes now.
pub(crate) fn line(prefix: &str, text: &[u8]) {
    let mut console = lock();
    console.push(&[prefix.as_bytes(), text, b"\n"]);
    console.drain();
}

/// Points the three standard descriptors at `/dev/null`, so that none of ours can land on them and
/// no container inherits the console. Needs `/dev`.
pub(crate) fn close_standard_streams() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
        // If one of them was closed, `null` is now that very descriptor and has to stay.
        if null.as_raw_fd() <= 2 {
            std::mem::forget(null);
        }
    }
}

/// Opens `/dev/console` in place of whatever was used before. Needs `/dev`.
pub(crate) fn open() {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let out = rustix::fs::open("/dev/console", flags, Mode::empty());
    let mut console = lock();
    // No console at all (console= names nothing) is a legal machine: logs still go to files.
    console.out = out.ok();
    console.drain();
}

/// Opens it if there is something to say.
pub(crate) fn open_if_waiting() {
    if !lock().queue.is_empty() {
        open();
    }
}

/// Uses a descriptor as the console; for running outside of PID 1.
pub(crate) fn open_fd(out: OwnedFd) {
    lock().out = Some(out);
}

/// In a forked process that prints lines of its own: leaves what waits to PID 1. Returns the
/// descriptor that has to stay open.
pub(crate) fn forked() -> Option<RawFd> {
    let mut console = lock();
    console.queue.clear();
    console.out.as_ref().map(AsRawFd::as_raw_fd)
}

/// Locks the console, for waiting on it and draining it.
pub(crate) fn lock() -> MutexGuard<'static, Console> {
    CONSOLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until everything is out, at most `limit`: the last thing before power-off.
pub(crate) fn flush(limit: Duration) {
    let end = Instant::now() + limit;
    loop {
        let mut console = lock();
        console.drain();
        let left = end.saturating_duration_since(Instant::now());
        let Some(out) = console.waiting() else { return };
        if left.is_zero() {
            return;
        }
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(left.subsec_nanos().min(100_000_000)),
        };
        let _ = poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&timeout));
    }
}

impl Console {
    fn push(&mut self, parts: &[&[u8]]) {
        if self.dropped > 0 && self.queue.len() < QUEUE_BYTES_MAX / 2 {
            let note = format!(
                "kiln: console too slow, {} bytes not shown (see /var/log)\n",
                self.dropped
            );
            self.queue.extend(note.as_bytes());
            self.dropped = 0;
        }
        let size: usize = parts.iter().map(|p| p.len()).sum();
        if self.dropped > 0 || self.queue.len() + size > QUEUE_BYTES_MAX {
            self.dropped += size as u64;
            return;
        }
        for part in parts {
            self.queue.extend(*part);
        }
    }

    /// Writes what the terminal takes without blocking.
    pub(crate) fn drain(&mut self) {
        while !self.queue.is_empty() {
            let (head, _) = self.queue.as_slices();
            let Some(out) = &self.out else { return };
            match rustix::io::write(out, head) {
                Ok(0) => return,
                Ok(n) => drop(self.queue.drain(..n)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // The terminal is gone; keeping its bytes would only fill the queue.
                Err(_) => self.queue.clear(),
            }
        }
    }

    /// Returns the terminal if bytes wait for it.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        match &self.out {
            Some(out) if !self.queue.is_empty() => Some(out.as_fd()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn console(out: OwnedFd) -> Console {
        Console {
            out: Some(out),
            queue: VecDeque::new(),
            dropped: 0,
        }
    }

    #[test]
    fn a_stuck_terminal_costs_bounded_memory_and_says_so() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut console = console(writer);
        for _ in 0..100_000 {
            console.push(&[b"0123456789"]);
            console.drain();
        }
        assert!(console.queue.len() <= QUEUE_BYTES_MAX);
        assert!(console.dropped > 0);

        let mut seen = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let mut read_until_drained = |console: &mut Console| {
            while console.waiting().is_some() {
                let n = reader.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..n]);
                console.drain();
            }
        };
        read_until_drained(&mut console);
        console.push(&[b"end\n"]);
        console.drain();
        read_until_drained(&mut console);
        drop(console);
        reader.read_to_end(&mut seen).unwrap();
        let text = String::from_utf8(seen).unwrap();
        assert!(text.contains("console too slow"), "no note of the loss");
        assert!(text.ends_with("end\n"));
    }
}
