//! Directories of this machine that a guest sees: a virtiofsd for each.
//!
//! Enters: directories. Leaves: sockets for the monitor. A virtiofsd ends when its monitor does; one
//! whose monitor never came is ended here. A directory that is only to be read is kept so on this
//! side: a guest that does what it wants is the reason why it is a machine.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::place::Place;
use super::process::die_with_us;
use super::readonly;

/// Where QEMU's packages put it: no place that `PATH` names.
const PROGRAMS: [&str; 4] = [
    "virtiofsd",
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
];

/// It makes its socket at once, or has something to say.
const START_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A directory for the program of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Of this machine.
    pub(crate) directory: PathBuf,
    /// Where the program sees it.
    pub(crate) path: String,
    pub(crate) readonly: bool,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, readonly) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (directory, path) = rest
            .rsplit_once(':')
            .ok_or_else(|| "expected DIR:PATH, such as ./data:/data".to_owned())?;
        if directory.is_empty() || !path.starts_with('/') {
            return Err(format!("\"{path}\" does not begin with /"));
        }
        Ok(Self {
            directory: directory.into(),
            path: path.to_owned(),
            readonly,
        })
    }
}

/// A directory to be shared, and whether it is only read.
pub(crate) type Shared = (PathBuf, bool);

/// The program, and whether it can keep a directory from being written to by itself.
type Server = (&'static str, bool);

/// Servers that no monitor has connected to yet.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    children: Vec<Child>,
    /// Looked for once.
    server: Option<Server>,
}

impl Shares {
    /// Serves directories to a machine, in order.
    ///
    /// # Errors
    /// When one is none, or cannot be served; with a text that says which.
    pub(crate) fn start(
        shared: &[Shared],
        place: &Place,
        detached: bool,
    ) -> Result<Self, (String, io::Error)> {
        let mut shares = Self::default();
        for (index, (directory, readonly)) in shared.iter().enumerate() {
            let started = shares.serve(directory, *readonly, place, index, detached);
            started.map_err(|error| (format!("cannot share {}", directory.display()), error))?;
        }
        Ok(shares)
    }

    fn serve(
        &mut self,
        directory: &Path,
        readonly: bool,
        place: &Place,
        index: usize,
        detached: bool,
    ) -> io::Result<()> {
        let directory = directory
            .canonicalize()
            .map_err(|error| match error.kind() {
                // Docker would make a volume of that name.
                io::ErrorKind::NotFound => io::Error::other(
                    "there is no such directory; make it first (a bare name is one, too)",
                ),
                _ => error,
            })?;
        if !directory.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (socket, log) = (place.share(index), place.share_log(index));
        let mut socket_path = OsString::from("--socket-path=");
        socket_path.push(&socket);
        // A comma would end the option.
        let mut source = OsString::from("source=");
        source.push(&directory);
        if source.to_string_lossy().contains(',') {
            return Err(io::Error::other("virtiofsd takes no path with a comma"));
        }
        let file = File::create(&log)?;
        let (program, knows_readonly) = match self.server {
            Some(server) => server,
            None => *self.server.insert(find()?),
        };
        let mut command = Command::new(program);
        command
            .args([socket_path, "-o".into(), source])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C on our terminal is not for it.
            .process_group(0);
        match readonly {
            true if knows_readonly => drop(command.arg("--readonly")),
            true => readonly::confine(&mut command, &directory)?,
            false => {}
        }
        // Last: a change of credentials has the kernel forget it.
        if !detached {
            die_with_us(&mut command);
        }
        let mut child = command.spawn().map_err(|error| match readonly {
            true if !knows_readonly => io::Error::other(format!(
                "it cannot be made read-only for {program}, which has no --readonly: {error}"
            )),
            _ => error,
        })?;
        let began = Instant::now();
        while !socket.exists() {
            let ended = child.try_wait()?.is_some();
            if ended || began.elapsed() > START_MAX {
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("virtiofsd: {}", said.trim())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.children.push(child);
        Ok(())
    }

    /// Leaves the servers to their monitor.
    pub(crate) fn hand_over(mut self) {
        self.children.clear();
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Finds virtiofsd. The one in Rust knows read-only directories since its version 1.13; QEMU's own
/// never did.
fn find() -> io::Result<Server> {
    for program in PROGRAMS {
        match Command::new(program).arg("--help").output() {
            Ok(help) => {
                let help = String::from_utf8_lossy(&help.stdout);
                return Ok((program, help.contains("--readonly")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(
        "virtiofsd is not installed (Debian's package virtiofsd, or qemu-system-common up to version 12)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read() {
        let volume = |directory: &str, path: &str, readonly| Volume {
            directory: directory.into(),
            path: path.to_owned(),
            readonly,
        };
        for (text, expected) in [
            ("./a:/b", volume("./a", "/b", false)),
            ("/x:y:/b:ro", volume("/x:y", "/b", true)),
            ("a:/b:rw", volume("a", "/b", false)),
        ] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for wrong in ["", "/a", "a:b", ":/b", "name:"] {
            assert!(wrong.parse::<Volume>().is_err(), "{wrong}");
        }
    }
}
