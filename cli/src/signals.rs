//! Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed: the first one asks what is being done to
//! stop, a second Ctrl-C or SIGTERM ends kiln at once.
//!
//! Handlers only, no thread. SIGPIPE stays ignored (Rust's default): a closed socket must not kill
//! a build, and a closed standard output is reported as such by whoever writes to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// What signals have said so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interruption {
    cancel: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interruption {
    /// Installs the handlers.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn watch() -> io::Result<Self> {
        let this = Self::default();
        for (signal, number) in [(SIGINT, 2), (SIGTERM, 15), (SIGHUP, 1)] {
            if signal == SIGHUP {
                // nohup(1) has it ignored, and that stays.
                if is_ignored(signal) {
                    continue;
                }
            } else {
                // Order matters: handlers run in order of registration, and the first looks at what
                // the last one of an earlier signal set. SIGHUP is nobody's impatience: it comes from
                // the shell, and again when that has ended.
                flag::register_conditional_default(signal, this.cancel.clone())?;
            }
            flag::register_usize(signal, this.signal.clone(), number)?;
            flag::register(signal, this.cancel.clone())?;
        }
        Ok(this)
    }

    /// Returns whether one has come.
    pub(crate) fn has_come(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Returns the flag that the engine looks at.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.cancel
    }

    /// Returns the number of the signal that came, SIGINT's when none did.
    pub(crate) fn number(&self) -> u8 {
        match self.signal.load(Ordering::Relaxed) {
            1 => 1,
            15 => 15,
            _ => 2,
        }
    }
}

/// Returns whether this process ignores a signal (`SigIgn` of proc_pid_status(5)).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
