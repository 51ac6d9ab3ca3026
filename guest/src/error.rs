//! Errors of PID 1: one sentence for a person at a console, nothing to match on.
//!
//! Everything that fails here ends as a line on the console or as the text a child sends its
//! parent, so an error is the thing at fault, then the cause.

use std::fmt;

/// What went wrong: the thing at fault first, then why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error(String);

/// Result whose error is a console line.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error of a finished sentence (lower case, no full stop).
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Joins what was attempted and why it failed. Out of line: there are hundreds of callers, each
    /// with types of its own, and none of them is in a hurry.
    #[cold]
    #[inline(never)]
    fn of(what: &dyn fmt::Display, cause: &dyn fmt::Display) -> Self {
        Self(format!("{what}: {cause}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Adds what was being attempted to a failure.
pub(crate) trait Context<T> {
    /// Puts `what()` and a colon in front of the cause.
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::of(&what(), &cause))
    }
}
