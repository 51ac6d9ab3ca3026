//! What tests stand on: a space of their own, images made by umoci, a registry by Debian.

pub(crate) mod attest;
pub(crate) mod disk;
pub(crate) mod docker;
pub(crate) mod images;
pub(crate) mod layout;
pub(crate) mod loopback;
pub(crate) mod registry;
#[path = "../../engine/tests/source/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A temporary directory with a cache of its own.
pub(crate) struct Space {
    directory: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Space {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Returns a command that runs kiln here, with nothing of the caller's settings.
    pub(crate) fn command(&self) -> Command {
        self.command_in(&[])
    }

    /// As [`Space::command`], by way of a program that runs another, such as `env`.
    pub(crate) fn command_in(&self, wrapper: &[&str]) -> Command {
        let words = [wrapper, &[env!("CARGO_BIN_EXE_kiln")]].concat();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.directory.path())
            .env("KILN_CACHE", self.path("cache"))
            .env("HOME", self.path("home"))
            // Where machines are found; kiln does not make it.
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("NO_COLOR", "1")
            .env_remove("DOCKER_CONFIG")
            .env_remove("DOCKER_HOST")
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub(crate) fn kiln(&self, args: &[&str]) -> Said {
        said(self.command().args(args))
    }

    /// Returns the names in a directory of this space, in order.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        names(&self.path(directory))
    }

    /// Runs kiln and expects success.
    pub(crate) fn build(&self, args: &[&str]) -> Said {
        let said = self.kiln(&[&["build"], args].concat());
        assert_eq!(
            said.code,
            Some(0),
            "kiln build {args:?} failed:\n{}",
            said.stderr
        );
        said
    }
}

/// Returns the names in a directory, in order.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = fs::read_dir(directory).unwrap().map(name);
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn said(command: &mut Command) -> Said {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Said {
        code: status.code(),
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs a program and expects success; says what to install when it is not there.
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; install the Debian package that has it (tests/run does)")
        });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One entry of a tar, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarEntry {
    pub(crate) kind: tar::EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) link: String,
    pub(crate) content: Vec<u8>,
}

/// Reads a tar; a path that occurs twice fails the test.
pub(crate) fn read_tar(path: &Path) -> BTreeMap<String, TarEntry> {
    use std::io::Read;
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        let name = entry
            .path()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches('/')
            .to_owned();
        let kind = header.entry_type();
        let (mode, uid, gid) = (
            header.mode().unwrap() & 0o7777,
            header.uid().unwrap(),
            header.gid().unwrap(),
        );
        let mtime = header.mtime().unwrap();
        let link = entry.link_name().unwrap();
        let link = link
            .map(|link| link.to_str().unwrap().to_owned())
            .unwrap_or_default();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let entry = TarEntry {
            kind,
            mode,
            uid,
            gid,
            mtime,
            link,
            content,
        };
        assert!(
            found.insert(name.clone(), entry).is_none(),
            "{name} stands there twice"
        );
    }
    found
}
