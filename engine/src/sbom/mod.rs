//! The bill of materials: what the system is made of, in SPDX 2.3 or CycloneDX 1.6.
//!
//! Enters: the SPDX documents that images carry (BuildKit's attestations) and the Debian packages
//! kiln installed. Leaves: one JSON document, the same for the same system: no clock, no chance.
//! LinuxKit's contract for it is kept where it is sound (`docs/linuxkit.md` lists the rest).
//!
//! In reading order: [`place`] gives ids and paths their place in the system; [`rules`] says what an
//! element may hold; [`statement`] takes an image's document apart; [`document`] writes the whole;
//! [`cyclonedx`] and [`purl`] are other spellings. [`crate::step::sbom`] does it once.

mod cyclonedx;
pub(crate) mod document;
pub(crate) mod place;
mod purl;
mod rules;
pub(crate) mod statement;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use statement::List;

use crate::tree::TreePath;
use crate::tree::generate::MTIME;

/// The form of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// SPDX 2.3, as LinuxKit writes it.
    #[default]
    Spdx,
    /// CycloneDX 1.6.
    CycloneDx,
}

impl Format {
    /// All forms.
    pub const ALL: [Self; 2] = [Self::Spdx, Self::CycloneDx];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spdx => "spdx",
            Self::CycloneDx => "cyclonedx",
        }
    }

    /// Returns the form with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Returns where the document is in the system unless it is said otherwise.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Spdx => "sbom.spdx.json",
            Self::CycloneDx => "sbom.cdx.json",
        }
    }

    /// Returns an element as this form has it, and the list it goes to.
    pub(crate) fn element(
        self,
        list: List,
        element: Map<String, Value>,
    ) -> Option<(List, Map<String, Value>)> {
        match (self, list) {
            (Self::Spdx, _) => Some((list, element)),
            (Self::CycloneDx, List::Packages) => Some((list, cyclonedx::package(&element))),
            (Self::CycloneDx, List::Files) => Some((List::Packages, cyclonedx::file(&element))),
            (Self::CycloneDx, _) => None,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The form.
    pub format: Format,
    /// Its path in the system.
    pub file: String,
    /// When it was created, in seconds since 1970; `None`: the time of everything in a system, as
    /// LinuxKit has it, so that the same system has the same document.
    pub created: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        Self::of(Format::default())
    }
}

impl Options {
    /// Returns what a form has by default.
    #[must_use]
    pub fn of(format: Format) -> Self {
        Self {
            format,
            file: format.file_name().to_owned(),
            created: None,
        }
    }

    /// Returns its path in the system.
    ///
    /// # Errors
    /// Why there can be no such file.
    pub(crate) fn path(&self) -> Result<TreePath, String> {
        let path = TreePath::parse(self.file.as_bytes()).map_err(|error| error.to_string())?;
        match path.is_root() {
            true => Err("names no file".to_owned()),
            false => Ok(path),
        }
    }

    /// Returns when it was created, `YYYY-MM-DDThh:mm:ssZ`.
    pub(crate) fn created(&self) -> String {
        let at = jiff::Timestamp::from_second(self.created.unwrap_or(MTIME));
        at.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
    }
}
