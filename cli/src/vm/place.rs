//! Where a running machine is found: a directory of sockets that only this user can enter.
//!
//! `$XDG_RUNTIME_DIR/kiln/NAME`, or `/tmp/kiln-UID/NAME` on systems without one: socket addresses
//! are short (108 bytes, unix(7)), and what runs does not survive a reboot. A machine is alive
//! while its monitor answers on `qmp.sock` (QEMU) or `api.sock`; what the dead leave is removed by
//! whoever meets it. Two may meet it, and a new machine may have taken the name by then: so a
//! [`Place`] is a certain directory, and not whatever has its path.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};

use super::monitor::Monitor;

/// Virtio ports for conversations with the guest: so many at the same time.
pub(crate) const PORTS: usize = 8;

/// One machine's directory.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    directory: PathBuf,
    name: String,
    /// The directory itself. No other gets its inode while this is open.
    itself: Option<Arc<fs::File>>,
}

/// What is known of a machine beside its sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// What was booted, for people.
    pub(crate) system: String,
    /// What runs it.
    pub(crate) monitor: Monitor,
    /// Seconds since 1970.
    pub(crate) began: u64,
    /// Published ports, for people.
    pub(crate) publish: Vec<String>,
    /// What it was built from, if it was.
    pub(crate) source: Option<Source>,
}

/// What a machine was built from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// Absolute paths.
    pub(crate) descriptions: Vec<PathBuf>,
    pub(crate) architecture: String,
    pub(crate) cache: PathBuf,
    /// The trees of its services, by name.
    pub(crate) trees: BTreeMap<String, String>,
}

impl Source {
    fn to_json(&self) -> Value {
        json!({
            "descriptions": self.descriptions,
            "architecture": self.architecture,
            "cache": self.cache,
            "trees": self.trees,
        })
    }

    fn of_json(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let trees = value["trees"].as_object()?.iter();
        Some(Self {
            descriptions: value["descriptions"]
                .as_array()?
                .iter()
                .filter_map(|path| text(path).map(PathBuf::from))
                .collect(),
            architecture: text(&value["architecture"])?,
            cache: text(&value["cache"])?.into(),
            trees: trees
                .filter_map(|(name, tree)| Some((name.clone(), text(tree)?)))
                .collect(),
        })
    }
}

impl Place {
    /// Makes a place for a new machine. The name gets a number when one of that name runs.
    ///
    /// # Errors
    /// When the directory cannot be made, or belongs to somebody else.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        let root = root()?;
        let _alone = alone(&root)?;
        let name = plain(name);
        for number in 1.. {
            let name = match number {
                1 => name.clone(),
                _ => format!("{name}-{number}"),
            };
            let directory = root.join(&name);
            if directory.exists() {
                let there = Self::at(&directory, &name);
                if there.is_taken() {
                    continue;
                }
                let _ = fs::remove_dir_all(&directory);
            }
            DirBuilder::new().mode(0o700).create(&directory)?;
            return Ok(Self::at(&directory, &name));
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Returns the place at a directory, as that is now.
    pub(crate) fn at(directory: &Path, name: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            itself: fs::File::open(directory).ok().map(Arc::new),
        }
    }

    /// Returns the machines that run, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        let root = root()?;
        let _alone = alone(&root)?;
        for entry in fs::read_dir(&root)? {
            let directory = entry?.path();
            if !directory.is_dir() {
                continue;
            }
            let name = directory.file_name().unwrap_or_default();
            let place = Self::at(&directory, &name.to_string_lossy());
            if place.is_alive() {
                all.push(place);
            } else if !place.is_taken() {
                let _ = fs::remove_dir_all(&place.directory);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Returns the machine's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns QEMU's own socket.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.directory.join("qmp.sock")
    }

    /// Returns the own socket of another monitor than QEMU.
    pub(crate) fn api(&self) -> PathBuf {
        self.directory.join("api.sock")
    }

    /// Returns the socket behind which the guest's vsock is, where the monitor has one.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.directory.join("vsock.sock")
    }

    /// Returns the monitor's configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    /// Returns the pipe to the console of a monitor that has no socket for it.
    pub(crate) fn console_input(&self) -> PathBuf {
        self.directory.join("console.in")
    }

    /// Returns the pipe in which a monitor says what becomes of the machine.
    pub(crate) fn events(&self) -> PathBuf {
        self.directory.join("events")
    }

    /// Returns the console's socket.
    pub(crate) fn console(&self) -> PathBuf {
        self.directory.join("console.sock")
    }

    /// Returns the file with everything the console showed.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// Returns the file of what the monitor itself has to say.
    pub(crate) fn monitor_log(&self) -> PathBuf {
        self.directory.join("monitor.log")
    }

    /// Returns the file of what it notes besides, if it notes anything.
    pub(crate) fn notes(&self) -> PathBuf {
        self.directory.join("notes.log")
    }

    /// Returns the socket of a virtio port.
    pub(crate) fn port(&self, number: usize) -> PathBuf {
        self.directory.join(format!("control.{number}"))
    }

    /// Returns whether its monitor answers, or is there and too busy to.
    pub(crate) fn is_alive(&self) -> bool {
        let connect = |path: PathBuf| -> rustix::io::Result<()> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
        };
        let answers = |path| matches!(connect(path), Ok(()) | Err(Errno::AGAIN));
        self.is_there() && (answers(self.qmp()) || answers(self.api()))
    }

    /// Returns whether its directory is still the one at its path.
    pub(crate) fn is_there(&self) -> bool {
        let itself = self.itself.as_ref().and_then(|file| file.metadata().ok());
        let itself = itself.zip(fs::symlink_metadata(&self.directory).ok());
        itself.is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// Returns whether it is alive or about to be: a place is made a moment before its monitor.
    fn is_taken(&self) -> bool {
        let young = fs::metadata(&self.directory)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() < 10));
        self.is_alive() || young
    }

    /// Writes down what there is to know.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn describe(&self, about: &About) -> io::Result<()> {
        let value = json!({
            "system": about.system,
            "monitor": about.monitor.word(),
            "began": about.began,
            "publish": about.publish,
            "source": about.source.as_ref().map(Source::to_json),
        });
        fs::write(self.directory.join("about.json"), format!("{value}\n"))
    }

    /// Returns what is known; empty when nothing is.
    pub(crate) fn about(&self) -> About {
        let text = fs::read_to_string(self.directory.join("about.json")).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let publish = value["publish"].as_array().into_iter().flatten();
        About {
            system: value["system"].as_str().unwrap_or_default().to_owned(),
            monitor: Monitor::of_word(value["monitor"].as_str().unwrap_or_default()),
            began: value["began"].as_u64().unwrap_or(0),
            publish: publish
                .filter_map(|p| p.as_str().map(str::to_owned))
                .collect(),
            source: Source::of_json(&value["source"]),
        }
    }

    /// Returns the socket of a shared directory's server.
    pub(crate) fn share(&self, number: usize) -> PathBuf {
        self.directory.join(format!("share.{number}"))
    }

    /// Returns the file of what that server has to say.
    pub(crate) fn share_log(&self, number: usize) -> PathBuf {
        self.directory.join(format!("share.{number}.log"))
    }

    /// Returns the image of a disc with data for the machine.
    pub(crate) fn disc(&self) -> PathBuf {
        self.directory.join("data.iso")
    }

    /// Returns the file of the firmware's variables.
    pub(crate) fn variables(&self) -> PathBuf {
        self.directory.join("variables.fd")
    }

    /// Returns the directory that the machine sees as an EFI system partition.
    pub(crate) fn system_partition(&self) -> PathBuf {
        self.directory.join("esp")
    }

    /// Returns a file for the beginning of a disk.
    pub(crate) fn head(&self) -> PathBuf {
        self.directory.join("head")
    }

    /// Returns the file of a description that came from nowhere.
    pub(crate) fn description(&self) -> PathBuf {
        self.directory.join("system.yml")
    }

    /// Removes everything of it, and nothing of another machine that has its name by now.
    pub(crate) fn remove(&self) {
        let alone = self.directory.parent().map(alone);
        if matches!(alone, Some(Ok(_))) && self.is_there() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Keeps others from making and removing places while it lives.
fn alone(root: &Path) -> io::Result<fs::File> {
    let lock = fs::File::create(root.join(".lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Returns the directory of all machines, made if missing.
fn root() -> io::Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let root = match given.filter(|path| path.is_dir()) {
        Some(runtime) => runtime.join("kiln"),
        None => PathBuf::from(format!("/tmp/kiln-{uid}")),
    };
    own_directory(&root, uid)?;
    Ok(root)
}

/// Makes a directory for this user alone; another's of that name, or a link, is refused.
fn own_directory(path: &Path, uid: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} is not a directory of this user alone",
        path.display()
    )))
}

/// Returns a name that is one plain path component, and short.
fn plain(name: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(|c| keep(*c)).take(40).collect();
    match name.trim_start_matches(['.', '-']) {
        "" => "machine".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert_eq!(plain("my system"), "mysystem");
        assert_eq!(plain("../../etc"), "etc");
        assert_eq!(plain("--x"), "x");
        assert_eq!(plain("::"), "machine");
    }

    #[test]
    fn a_machine_that_has_the_name_now_is_another() {
        let space = tempfile::tempdir().unwrap();
        let directory = space.path().join("box");
        fs::create_dir(&directory).unwrap();
        let [first, same] = [(); 2].map(|()| Place::at(&directory, "box"));
        same.remove();
        assert!(!directory.exists());
        fs::create_dir(&directory).unwrap();
        let second = Place::at(&directory, "box");
        let _listener = std::os::unix::net::UnixListener::bind(second.qmp()).unwrap();
        assert!(second.is_alive() && !first.is_alive());
        first.remove();
        assert!(second.is_alive());
        second.remove();
        assert!(!directory.exists());
    }

    #[test]
    fn what_is_written_down_is_read() {
        let space = tempfile::tempdir().unwrap();
        let place = Place::at(space.path(), "box");
        assert_eq!(place.about(), About::default());
        let about = About {
            system: "box.yml".into(),
            monitor: Monitor::Firecracker,
            began: 9,
            publish: vec!["1:2".into()],
            source: Some(Source {
                descriptions: vec!["/a/box.yml".into()],
                architecture: "amd64".into(),
                cache: "/c".into(),
                trees: [("web".to_owned(), "00".to_owned())].into(),
            }),
        };
        place.describe(&about).unwrap();
        assert_eq!(place.about(), about);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let space = tempfile::tempdir().unwrap();
        let path = space.path().join("kiln");
        let uid = rustix::process::geteuid().as_raw();
        own_directory(&path, uid).unwrap();
        own_directory(&path, uid).unwrap();
        assert!(own_directory(&path, uid + 1).is_err());
        let link = space.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(own_directory(&link, uid).is_err());
        fs::set_permissions(
            &path,
            <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755),
        )
        .unwrap();
        assert!(own_directory(&path, uid).is_err());
    }
}
