//! `@pkg:DIRECTORY` in descriptions: the image of LinuxKit's package in that directory.
//!
//! Enters: a directory, relative to the description's own. Leaves: the canonical reference, and a
//! list of what was found, so that an unchanged build can ask again. Which files decide over a
//! package (the index, refs in two forms, ignore files anywhere, the user's own configuration) is
//! git's to know; asking it costs less than a wrong answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::package::{Options, PackageError, reference};

/// A package directory and its canonical reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolved {
    directory: PathBuf,
    reference: String,
}

impl Resolved {
    /// Tells whether the package still has that reference.
    pub(super) fn holds(&self) -> bool {
        canonical(&self.directory).is_ok_and(|now| now == self.reference)
    }
}

/// The packages of one request; each is looked at once.
#[derive(Default)]
pub(super) struct Packages(BTreeMap<PathBuf, Result<String, (String, Option<String>)>>);

impl Packages {
    /// Returns the reference of the package in `path`, seen from `base`; or what is wrong and
    /// what to do. Without a base there is nothing to see it from.
    pub(super) fn resolve(
        &mut self,
        base: Option<&Path>,
        path: &str,
    ) -> Result<String, (String, Option<String>)> {
        let Some(base) = base else {
            return Err((
                "a description from a URL has no packages beside it".to_owned(),
                Some("save it as a file, or name the package's image".to_owned()),
            ));
        };
        // LinuxKit joins the two, also when the path begins with a slash.
        let directory = base.join(path.trim_start_matches('/'));
        let found = self.0.entry(directory).or_insert_with_key(|directory| {
            canonical(directory).map_err(|error| (error.to_string(), error.hint()))
        });
        found.clone()
    }

    /// Returns what was found.
    pub(super) fn resolved(self) -> Vec<Resolved> {
        let found = self.0.into_iter();
        let resolved = |(directory, found): (PathBuf, Result<String, _>)| {
            Some(Resolved {
                directory,
                reference: found.ok()?,
            })
        };
        found.filter_map(resolved).collect()
    }
}

fn canonical(directory: &Path) -> Result<String, PackageError> {
    reference(directory, &Options::default()).map(|reference| reference.canonical())
}
