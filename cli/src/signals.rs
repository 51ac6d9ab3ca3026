//! Ctrl-C and SIGTERM: the first one asks the build to stop, the second one ends kiln at once.
//!
//! Handlers only, no thread. SIGPIPE stays ignored (Rust's default): a closed socket must not kill
//! a build, and a closed standard output is reported as such by whoever writes to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
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
        for (signal, number) in [(SIGINT, 2), (SIGTERM, 15)] {
            // Order matters: handlers run in order of registration, and the first looks at what
            // the last one of an earlier signal set.
            flag::register_conditional_default(signal, this.cancel.clone())?;
            flag::register_usize(signal, this.signal.clone(), number)?;
            flag::register(signal, this.cancel.clone())?;
        }
        Ok(this)
    }

    /// Returns the flag that the engine looks at.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.cancel
    }

    /// Returns the number of the signal that came, SIGINT's when none did.
    pub(crate) fn number(&self) -> u8 {
        match self.signal.load(Ordering::Relaxed) {
            15 => 15,
            _ => 2,
        }
    }
}
