//! What is wrong with a description, and what is merely odd.
//!
//! [`SpecError`] carries everything an excerpt needs; rendering it is the command line's work.

use std::fmt;

use super::position::Position;

/// No more errors than this are reported for one file.
pub const ERRORS_MAX: usize = 20;

/// Collecting stops here; more than [`ERRORS_MAX`], because they are found out of order.
const ERRORS_KEPT: usize = 100;

/// Errors on their way to being sorted. Hostile input must not grow it without bound.
#[derive(Debug, Default)]
pub(crate) struct ErrorList(Vec<SpecError>);

impl ErrorList {
    /// Adds an error; makes it only when there is room.
    pub(crate) fn push(&mut self, error: impl FnOnce() -> SpecError) {
        if !self.is_full() {
            self.0.push(error());
        }
    }

    /// Tells that further errors would be dropped.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= ERRORS_KEPT
    }

    /// Sorts and keeps the first [`ERRORS_MAX`]; `Ok` when there is nothing wrong.
    pub(crate) fn finish(mut self) -> Result<(), SpecErrors> {
        self.0.sort();
        self.0.dedup();
        self.0.truncate(ERRORS_MAX);
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(SpecErrors(self.0))
        }
    }
}

/// One thing wrong at one place of a description; prints as `FILE:LINE:COL: message`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct SpecError {
    /// The display name of the file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// How many characters to underline, at least 1.
    pub len: usize,
    /// What is wrong, lower case, without position.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line itself; empty when the place is too far to the right to show.
    pub line_text: String,
}

impl SpecError {
    /// Adds advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Everything found wrong, sorted by position; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecErrors(Vec<SpecError>);

impl SpecErrors {
    /// Returns the errors, first position first.
    #[must_use]
    pub fn errors(&self) -> &[SpecError] {
        &self.0
    }
}

impl From<SpecError> for SpecErrors {
    fn from(error: SpecError) -> Self {
        Self(vec![error])
    }
}

/// One error per line.
impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

/// Something accepted, but probably not meant; prints as its message without position.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Warning {
    /// `trust` is accepted for compatibility and has no effect.
    #[error("trust has no effect: images are verified by digest, not by signature")]
    TrustIgnored {
        /// The `trust` key's value.
        at: Position,
    },
    /// A container name with upper case, which some container runtimes refuse.
    #[error("container name \"{name}\" has upper case letters; some runtimes refuse that")]
    UpperCaseName {
        /// The name.
        name: String,
        /// Where it was given.
        at: Position,
    },
    /// `capabilities.add` or `binds.add` beside the plain key, which replaces everything.
    #[error("{container}: {key}.add is ignored because {key} is given and replaces the whole list")]
    AddIgnored {
        /// The container's name.
        container: String,
        /// `capabilities` or `binds`.
        key: &'static str,
        /// The ignored list.
        at: Position,
    },
    /// `capabilities.add` or `binds.add` in an image label, where it means nothing.
    #[error("{container}: {key}.add in the image label is ignored; only a YAML entry can add")]
    LabelAddIgnored {
        /// The container's name.
        container: String,
        /// `capabilities` or `binds`.
        key: &'static str,
        /// The place in the label.
        at: Position,
    },
    /// The image asks for a user; LinuxKit's contract runs it as root all the same.
    #[error("{container}: the image's user \"{user}\" is ignored, the container runs as root")]
    UserIgnored {
        /// The container's name.
        container: String,
        /// The image's `User`.
        user: String,
        /// The container's entry.
        at: Position,
    },
}

impl Warning {
    /// Returns where the cause was written.
    #[must_use]
    pub const fn at(&self) -> &Position {
        match self {
            Self::TrustIgnored { at }
            | Self::UpperCaseName { at, .. }
            | Self::AddIgnored { at, .. }
            | Self::LabelAddIgnored { at, .. }
            | Self::UserIgnored { at, .. } => at,
        }
    }

    /// Returns what to do about it, where there is something.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AddIgnored { .. } => Some("move its items into the plain list"),
            Self::UserIgnored { .. } => Some("set uid and gid in the entry"),
            _ => None,
        }
    }
}
