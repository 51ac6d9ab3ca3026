//! Asking git, as LinuxKit does, about directories that may be anybody's.
//!
//! Enters: absolute directories, commits. Leaves: object names, file names, yes or no. The program
//! `git` is run without a shell; it never writes (no lock, no refreshed index), asks nobody,
//! fetches nothing, and runs neither a file system monitor nor a diff program that a repository
//! configures. (Its clean filters it does run, for tracked files whose time changed: large files
//! kept elsewhere would count as changed without them. Git itself refuses repositories of other
//! users.) Names are separated by NUL. The caller's `GIT_DIR` and the like do not count: what a
//! directory is depends on where it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::PackageError;

/// What `git rev-parse --local-env-vars` lists, but for the configuration, which may have to say
/// that a directory is safe.
const LOCAL_ENVIRONMENT: [&str; 13] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Words of git that are worth a line.
const SAID_MAX_CHARS: usize = 300;

/// A directory in a work tree of git.
pub(super) struct Git<'a> {
    directory: &'a Path,
    /// The top of the work tree.
    top: PathBuf,
}

impl<'a> Git<'a> {
    /// Opens the repository that a directory is in; `None` when there is none.
    pub(super) fn open(directory: &'a Path) -> Result<Option<Self>, PackageError> {
        let mut git = Self {
            directory,
            top: PathBuf::new(),
        };
        let output = git.run("rev-parse", &["--show-toplevel".as_ref()])?;
        if output.status.success() {
            git.top = PathBuf::from(OsString::from_vec(line(output.stdout)));
            return Ok(Some(git));
        }
        // LinuxKit takes every failure for this; a repository that git refuses to read would
        // then be tagged "latest".
        let has_repository = directory
            .ancestors()
            .any(|directory| directory.join(".git").symlink_metadata().is_ok());
        match has_repository {
            true => Err(git.failed("rev-parse", &output)),
            false => Ok(None),
        }
    }

    /// Returns the name of the tree that a directory of the work tree is in a commit.
    pub(super) fn tree(&self, path: &Path, commit: &str) -> Result<String, PackageError> {
        let Ok(inside) = path.strip_prefix(&self.top) else {
            return Err(PackageError::NotCommitted {
                path: path.to_owned(),
                commit: commit.to_owned(),
            });
        };
        // At the top of the work tree this is the commit's own tree.
        if let Some(tree) = self.object(&[commit.as_ref(), ":".as_ref(), inside.as_os_str()])? {
            return Ok(tree);
        }
        match self.object(&[commit.as_ref(), "^{commit}".as_ref()])? {
            Some(_) => Err(PackageError::NotCommitted {
                path: path.to_owned(),
                commit: commit.to_owned(),
            }),
            None => Err(PackageError::NoCommit {
                commit: commit.to_owned(),
                repository: self.top.clone(),
            }),
        }
    }

    /// Returns the object that a revision names, if any.
    fn object(&self, revision: &[&OsStr]) -> Result<Option<String>, PackageError> {
        let revision: OsString = revision.iter().copied().collect();
        // It would be taken for a flag; no revision begins so.
        if revision.as_bytes().starts_with(b"-") {
            return Ok(None);
        }
        let arguments: [&OsStr; 3] = ["--verify".as_ref(), "--quiet".as_ref(), &revision];
        let output = self.run("rev-parse", &arguments)?;
        if !output.status.success() {
            return Ok(None);
        }
        let name = String::from_utf8(line(output.stdout)).unwrap_or_default();
        let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        // SHA-1, or SHA-256 in repositories that were made so.
        Ok((is_hex && matches!(name.len(), 40 | 64)).then_some(name))
    }

    /// Tells whether the work tree differs from HEAD below `path`, or has files there that git
    /// neither tracks nor ignores.
    pub(super) fn is_dirty(&self, path: &Path) -> Result<bool, PackageError> {
        // Not `diff`: it writes the index when it finds a file touched, optional lock or not.
        let arguments: [&OsStr; 6] = [
            "--porcelain".as_ref(),
            "-z".as_ref(),
            "--untracked-files=no".as_ref(),
            "--no-renames".as_ref(),
            "--".as_ref(),
            path.as_os_str(),
        ];
        let output = self.run("status", &arguments)?;
        if !output.status.success() {
            return Err(self.failed("status", &output));
        }
        if !output.stdout.is_empty() {
            return Ok(true);
        }
        Ok(!self
            .untracked(&["--".as_ref(), path.as_os_str()])?
            .is_empty())
    }

    /// Returns the files below the directory, relative to it: first the tracked ones, then those
    /// that are neither tracked nor ignored. LinuxKit reads what git prints for people, so it
    /// does not find files whose names git quotes; they must not count here either, or the tag
    /// would be another than that of the image LinuxKit has built.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, PackageError> {
        let mut files = self.list(&[])?;
        files.extend(self.untracked(&[])?);
        files.retain(|name| !is_quoted(name));
        Ok(files)
    }

    fn untracked(&self, more: &[&OsStr]) -> Result<Vec<PathBuf>, PackageError> {
        let arguments: [&OsStr; 2] = ["--exclude-standard".as_ref(), "--others".as_ref()];
        self.list(&[&arguments[..], more].concat())
    }

    fn list(&self, arguments: &[&OsStr]) -> Result<Vec<PathBuf>, PackageError> {
        let arguments = [&["-z".as_ref()], arguments].concat();
        let output = self.run("ls-files", &arguments)?;
        if !output.status.success() {
            return Err(self.failed("ls-files", &output));
        }
        let names = output.stdout.split(|byte| *byte == 0);
        Ok(names
            .filter(|name| !name.is_empty())
            .map(|name| PathBuf::from(OsStr::from_bytes(name)))
            .collect())
    }

    fn run(&self, command: &str, arguments: &[&OsStr]) -> Result<Output, PackageError> {
        let mut git = Command::new("git");
        for name in LOCAL_ENVIRONMENT {
            git.env_remove(name);
        }
        git.arg("-C")
            .arg(self.directory)
            .args(["--no-pager", "--literal-pathspecs"])
            .args(["-c", "core.fsmonitor=false"])
            .args(["-c", "core.hooksPath=/dev/null"])
            .arg(command)
            .args(arguments)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(PackageError::NoGit)
    }

    fn failed(&self, command: &'static str, output: &Output) -> PackageError {
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().find(|line| !line.trim().is_empty());
        let said: String = match first {
            Some(line) => line.trim().chars().take(SAID_MAX_CHARS).collect(),
            None => output.status.to_string(),
        };
        PackageError::Git {
            command,
            directory: self.directory.to_owned(),
            said,
        }
    }
}

/// Tells whether git quotes a name that it prints (`core.quotePath`).
fn is_quoted(name: &Path) -> bool {
    let mut bytes = name.as_os_str().as_bytes().iter();
    bytes.any(|byte| matches!(byte, ..b' ' | b'"' | b'\\' | 0x7f..))
}

/// Takes git's own line break off.
fn line(mut output: Vec<u8>) -> Vec<u8> {
    if output.last() == Some(&b'\n') {
        output.pop();
    }
    output
}
