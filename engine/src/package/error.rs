//! Why a directory has no reference.

use std::io;
use std::path::{Path, PathBuf};

use crate::spec::{SpecError, SpecErrors};

/// Why a directory is no package, or has no tag.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file or directory of the package cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its `build.yml` is wrong.
    #[error(transparent)]
    BuildYml(#[from] SpecErrors),
    /// The tag that was asked for is none.
    #[error("{0}")]
    Tag(String),
    /// The organisation is empty.
    #[error("the organisation of the image is empty")]
    NoOrganisation,
    /// There is no git to ask.
    #[error("cannot run git: {0}")]
    NoGit(io::Error),
    /// Git did not do what it should.
    #[error("git {command} failed in {}: {said}", directory.display())]
    Git {
        /// What it was to do.
        command: &'static str,
        /// Where.
        directory: PathBuf,
        /// Its words, or its exit code.
        said: String,
    },
    /// What is to be hashed is not in the commit.
    #[error("{} is not in the commit {commit}", path.display())]
    NotCommitted {
        /// The directory.
        path: PathBuf,
        /// The commit.
        commit: String,
    },
    /// There is no such commit.
    #[error("there is no commit {commit} in the git repository {}", repository.display())]
    NoCommit {
        /// The commit.
        commit: String,
        /// The top of the work tree.
        repository: PathBuf,
    },
    /// `extra-sources` names a directory that git does not know.
    #[error("the extra source {} is in no git repository", .0.display())]
    SourceWithoutGit(PathBuf),
    /// The directory that is to be hashed does not hold the package.
    #[error("{} does not hold the package {}", path.display(), package.display())]
    HashPath {
        /// The directory that is to be hashed.
        path: PathBuf,
        /// The package.
        package: PathBuf,
    },
}

impl PackageError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "a package is a directory with a build.yml"
            }
            Self::NoGit(error) if error.kind() == io::ErrorKind::NotFound => {
                "install git (Debian: apt-get install git): a package's tag is its tree in git"
            }
            Self::NotCommitted { .. } | Self::NoCommit { .. } => {
                "commit it first: the tag of a package is the hash of what git has of it"
            }
            Self::Git { said, .. } if said.contains("dubious ownership") => {
                "if you trust it, say so to git: git config --global --add safe.directory DIRECTORY"
            }
            Self::BuildYml(errors) => {
                return errors.errors().first().and_then(|error| error.hint.clone());
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<SpecError> for PackageError {
    fn from(error: SpecError) -> Self {
        Self::BuildYml(error.into())
    }
}
