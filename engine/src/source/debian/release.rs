//! `InRelease`: the table of contents of one suite.
//!
//! Enters: a signed text (see [`super::signed`]). Leaves: a [`Release`] that says which index
//! files exist, how long they are and what they hash to. Fields: Debian's repository format
//! (wiki.debian.org/DebianRepository/Format).

use std::collections::BTreeMap;

use deb822_fast::borrowed::{BorrowedParagraph, BorrowedParser};

use super::signed::ago;
use crate::digest::Sha256;

/// Longest `InRelease` that is read, in bytes (Debian's are below 300 kB).
pub const RELEASE_LIMIT: u64 = 8 << 20;

/// Why a release is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The text is signed, but says something unusable.
    #[error("{field}: {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It is a release of something else.
    #[error("it is the release of {found}, not of {wanted}")]
    Suite {
        /// What was asked for.
        wanted: String,
        /// What it says it is.
        found: String,
    },
    /// It is too old to be believed.
    #[error("it expired {}: it was valid until {valid_until}, and now is {now}", ago(*.now - *.valid_until))]
    Expired {
        /// `Valid-Until`, in seconds since 1970.
        valid_until: i64,
        /// The time given by the caller, likewise.
        now: i64,
    },
    /// A component or architecture it does not have.
    #[error(
        "it has no packages of component \"{component}\" for {architecture} (components: {components})"
    )]
    NoIndex {
        /// Component.
        component: String,
        /// Debian architecture.
        architecture: String,
        /// What it has.
        components: String,
    },
}

/// One index file in a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// Path below `dists/SUITE/`.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Hash of its bytes.
    pub sha256: Sha256,
    /// Length of what it inflates to, when the release says so.
    pub plain_size: Option<u64>,
}

/// What a signed release says.
#[derive(Debug, Clone)]
pub struct Release {
    /// `Suite`, such as `oldstable`.
    pub suite: String,
    /// `Codename`, such as `bookworm`.
    pub codename: String,
    /// `Date`, in seconds since 1970.
    pub date: i64,
    /// `Valid-Until`, likewise.
    pub valid_until: Option<i64>,
    /// `Acquire-By-Hash`.
    pub by_hash: bool,
    /// `Components`.
    pub components: Vec<String>,
    /// Whether packages for all architectures are listed in an index of their own.
    separate_all: bool,
    files: BTreeMap<String, (u64, Sha256)>,
}

impl Release {
    /// Reads a (verified) release text.
    ///
    /// # Errors
    /// Missing or malformed fields.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let bad = |field, why: &str| ReleaseError::Field {
            field,
            why: why.to_owned(),
        };
        let stanzas = BorrowedParser::new(text)
            .parse_all()
            .map_err(|error| bad("Release", &error.to_string()))?;
        let [stanza] = stanzas.as_slice() else {
            return Err(bad("Release", "it is not one stanza"));
        };
        let words = |name| -> Vec<String> {
            let joined = joined(stanza, name).unwrap_or_default();
            joined.split_ascii_whitespace().map(str::to_owned).collect()
        };
        let one = |name| joined(stanza, name).unwrap_or_default().trim().to_owned();
        let yes = |name| one(name).eq_ignore_ascii_case("yes");
        let all = words("Architectures").iter().any(|name| name == "all");
        Ok(Self {
            suite: one("Suite"),
            codename: one("Codename"),
            date: date(stanza, "Date")?.ok_or_else(|| bad("Date", "it is missing"))?,
            valid_until: date(stanza, "Valid-Until")?,
            by_hash: yes("Acquire-By-Hash"),
            components: words("Components"),
            separate_all: all
                && !words("No-Support-for-Architecture-all")
                    .iter()
                    .any(|word| word == "Packages"),
            files: files(stanza)?,
        })
    }

    /// Checks that this is the release of `suite` and, where wanted, that it has not expired at
    /// `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`ReleaseError::Suite`], [`ReleaseError::Expired`].
    pub fn check(&self, suite: &str, now: Option<i64>) -> Result<(), ReleaseError> {
        // "buster/updates" called itself "buster"; apt looks at the first part, too.
        let short = suite.split('/').next().unwrap_or(suite);
        if ![&self.suite, &self.codename]
            .iter()
            .any(|name| *name == suite || *name == short)
        {
            let found = format!("{} ({})", self.codename, self.suite);
            return Err(ReleaseError::Suite {
                wanted: suite.to_owned(),
                found,
            });
        }
        match (self.valid_until, now) {
            (Some(valid_until), Some(now)) if valid_until < now => {
                Err(ReleaseError::Expired { valid_until, now })
            }
            _ => Ok(()),
        }
    }

    /// Returns the package indexes of a component: the architecture's, and that of `all` where
    /// it is separate. The best compressed form of each.
    ///
    /// # Errors
    /// [`ReleaseError::NoIndex`].
    pub fn indexes(
        &self,
        component: &str,
        architecture: &str,
    ) -> Result<Vec<IndexFile>, ReleaseError> {
        let own = self
            .index(component, architecture)
            .ok_or_else(|| ReleaseError::NoIndex {
                component: component.to_owned(),
                architecture: architecture.to_owned(),
                components: self.components.join(", "),
            })?;
        let all = self
            .separate_all
            .then(|| self.index(component, "all"))
            .flatten();
        Ok(std::iter::once(own).chain(all).collect())
    }

    fn index(&self, component: &str, architecture: &str) -> Option<IndexFile> {
        let base = format!("{component}/binary-{architecture}/Packages");
        let plain_size = self.files.get(&base).map(|&(size, _)| size);
        ["xz", "gz", ""].iter().find_map(|ext| {
            let path = match *ext {
                "" => base.clone(),
                ext => format!("{base}.{ext}"),
            };
            let &(size, sha256) = self.files.get(&path)?;
            Some(IndexFile {
                path,
                size,
                sha256,
                plain_size,
            })
        })
    }
}

fn joined(stanza: &BorrowedParagraph<'_>, name: &str) -> Option<String> {
    stanza.get_field(name).map(|field| field.lines().join("\n"))
}

/// Reads an RFC 2822 date; Debian writes the zone as `UTC`.
fn date(stanza: &BorrowedParagraph<'_>, name: &'static str) -> Result<Option<i64>, ReleaseError> {
    let Some(text) = joined(stanza, name) else {
        return Ok(None);
    };
    let text = text.trim();
    let zoned = match text
        .strip_suffix(" UTC")
        .or_else(|| text.strip_suffix(" GMT"))
    {
        Some(start) => format!("{start} +0000"),
        None => text.to_owned(),
    };
    match jiff::fmt::rfc2822::parse(&zoned) {
        Ok(at) => Ok(Some(at.timestamp().as_second())),
        Err(error) => Err(ReleaseError::Field {
            field: name,
            why: format!("\"{text}\" is not a date: {error}"),
        }),
    }
}

fn files(stanza: &BorrowedParagraph<'_>) -> Result<BTreeMap<String, (u64, Sha256)>, ReleaseError> {
    let bad = |why: String| ReleaseError::Field {
        field: "SHA256",
        why,
    };
    let field = stanza
        .get_field("SHA256")
        .ok_or_else(|| bad("it is missing".to_owned()))?;
    let mut files = BTreeMap::new();
    for line in field.lines().iter().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_ascii_whitespace();
        let (Some(hash), Some(size), Some(path), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad(format!("\"{line}\" is not HASH SIZE PATH")));
        };
        let sha256 = Sha256::from_hex(hash).map_err(|error| bad(error.to_string()))?;
        let size = size
            .parse()
            .map_err(|_| bad(format!("\"{size}\" is not a size")))?;
        files.insert(path.to_owned(), (size, sha256));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
Origin: Test
Suite: oldstable
Codename: bookworm
Date: Mon, 23 Nov 2026 11:22:37 UTC
Valid-Until: Mon, 30 Nov 2026 11:22:37 UTC
Acquire-By-Hash: yes
Architectures: all amd64
Components: main
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages
 515e692f2c4121c6fcec444ef100cc18f79a991910615f3a88c8b7becfc94d2f 7 main/binary-amd64/Packages.xz
 9e0b5aabb2465b3d2e7a7fe27f9913846277833f7a2826e7767acccff5b588c5 9 main/binary-all/Packages.gz
- a line with a dash
";

    #[test]
    fn reads_the_fields_that_matter() {
        let text = TEXT.replace("- a line with a dash\n", "");
        let release = Release::parse(&text).unwrap();
        assert_eq!(
            (release.suite.as_str(), release.codename.as_str()),
            ("oldstable", "bookworm")
        );
        assert_eq!(release.date, 1_795_432_957);
        let indexes = release.indexes("main", "amd64").unwrap();
        assert_eq!(indexes[0].path, "main/binary-amd64/Packages.xz");
        assert_eq!((indexes[0].size, indexes[0].plain_size), (7, Some(0)));
        assert_eq!(indexes[1].path, "main/binary-all/Packages.gz");
        let merged = text.replace(
            "SHA256:",
            "No-Support-for-Architecture-all: Packages\nSHA256:",
        );
        assert_eq!(
            Release::parse(&merged)
                .unwrap()
                .indexes("main", "amd64")
                .unwrap()
                .len(),
            1
        );

        let until = release.valid_until.unwrap();
        assert!(release.check("bookworm", Some(until)).is_ok());
        assert!(release.check("oldstable", None).is_ok());
        let error = release
            .check("bookworm", Some(until + 86_400 * 3))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("it expired 3 days ago"), "{error}");
        let error = release.check("trixie", None).unwrap_err().to_string();
        assert_eq!(
            error,
            "it is the release of bookworm (oldstable), not of trixie"
        );
        let error = release.indexes("contrib", "amd64").unwrap_err().to_string();
        assert!(
            error.contains("component \"contrib\" for amd64 (components: main)"),
            "{error}"
        );
        for (from, to) in [
            ("SHA256:", "MD5Sum:"),
            ("23 Nov", "23 Foo"),
            (" 7 ", " x "),
            ("Date:", "Dat:"),
        ] {
            assert!(Release::parse(&text.replace(from, to)).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(SHA256:|Date:|Suite: a|[a0\n -]|\\PC)*") {
            let _ = Release::parse(&text);
        }
    }
}
