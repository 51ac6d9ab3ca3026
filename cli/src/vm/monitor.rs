//! The programs that run machines, and what they are asked while they do.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use super::api;
use super::place::{PORTS, Place};
use super::qmp;

/// One that works accepts a connection at once.
const ACCEPT_MAX: Duration = Duration::from_millis(200);
/// How long one has to end when it was asked to: as a rule it is milliseconds.
const QUIT_MAX: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A program that runs machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Monitor {
    #[default]
    Qemu,
    Firecracker,
    CloudHypervisor,
}

/// What a monitor is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Press the power button: the guest ends in order.
    PowerButton,
    /// End at once.
    Quit,
}

impl Monitor {
    /// Returns its name, for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::Firecracker => "Firecracker",
            Self::CloudHypervisor => "Cloud Hypervisor",
        }
    }

    /// Returns the modules with which a guest has its bus, and hears `kiln vm`.
    pub(crate) const fn modules(self) -> [&'static str; 2] {
        match self {
            Self::Qemu => ["virtio_pci", "virtio_console"],
            // Its devices are on no bus but announced by ACPI (`device_manager/mmio.rs`: LNRO0005).
            Self::Firecracker => ["virtio_mmio", "vmw_vsock_virtio_transport"],
            Self::CloudHypervisor => ["virtio_pci", "vmw_vsock_virtio_transport"],
        }
    }

    /// Returns its name, for files and flags.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// Returns the monitor of a name that was written down; machines without one are QEMU's.
    pub(crate) fn of_word(word: &str) -> Self {
        let all = [Self::Firecracker, Self::CloudHypervisor];
        let found = all.into_iter().find(|monitor| monitor.word() == word);
        found.unwrap_or_default()
    }

    /// Asks the monitor of a machine to do something.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub(crate) fn ask(self, place: &Place, what: Ask) -> io::Result<()> {
        if !place.is_there() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let api = place.api();
        let asked = match (self, what) {
            (Self::Qemu, _) => qmp::ask(&place.qmp(), what),
            // `docs/api_requests/actions.md`: it has no power button.
            (Self::Firecracker, Ask::PowerButton) => {
                let action = json!({"action_type": "SendCtrlAltDel"});
                api::put(&api, "/actions", Some(&action))
            }
            // It knows no request to end.
            (Self::Firecracker, Ask::Quit) => {
                let process = process_of(place)?;
                Ok(pidfd_send_signal(process, Signal::KILL)?)
            }
            // `docs/api.md`.
            (Self::CloudHypervisor, Ask::PowerButton) => {
                api::put(&api, "/api/v1/vm.power-button", None)
            }
            (Self::CloudHypervisor, Ask::Quit) => api::put(&api, "/api/v1/vmm.shutdown", None),
        };
        asked.map_err(|error| match error.kind() {
            // What a limit of time on a socket is.
            io::ErrorKind::WouldBlock => {
                let message = format!("{} does not answer", self.name());
                io::Error::new(io::ErrorKind::TimedOut, message)
            }
            _ => error,
        })
    }

    /// Ends a machine at once: when its monitor does not do so, by a signal that cannot be ignored.
    ///
    /// # Errors
    /// When nobody is found who could be ended.
    pub(crate) fn end(self, place: &Place) -> io::Result<()> {
        let process = match process_of(place) {
            Err(_) if !place.is_alive() => return Ok(()),
            process => process?,
        };
        if self.ask(place, Ask::Quit).is_ok() {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            if poll(&mut ended, Some(&QUIT_MAX))? > 0 {
                return Ok(());
            }
        }
        match pidfd_send_signal(process, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Returns whether the machine runs: its monitor answers before it has set the machine up.
    pub(crate) fn has_begun(self, place: &Place) -> bool {
        let state = match self {
            // Its sockets are enough.
            Self::Qemu => return true,
            // `InstanceInfo` of `firecracker.yaml`.
            Self::Firecracker => api::get(&place.api(), "/"),
            // `VmInfo` of `cloud-hypervisor.yaml`.
            Self::CloudHypervisor => api::get(&place.api(), "/api/v1/vm.info"),
        };
        state.is_ok_and(|state| state["state"] == "Running")
    }
}

/// Finds the process behind a machine's own sockets (`SO_PEERCRED` of unix(7) is who listens there).
/// One that hangs accepts nobody, and the queue before one of its sockets may be full.
///
/// # Errors
/// When there is none.
pub(crate) fn process_of(place: &Place) -> io::Result<OwnedFd> {
    if !place.is_there() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let own = [place.qmp(), place.api()];
    let ports = (0..PORTS).map(|number| place.port(number));
    let mut all = own.into_iter().chain(ports);
    let connected = all.find_map(|path| connect(&path, ACCEPT_MAX).ok());
    let connected = connected.ok_or(io::ErrorKind::ConnectionRefused)?;
    let process = socket_peercred(connected)?;
    Ok(pidfd_open(process.pid, PidfdFlags::empty())?)
}

/// Connects to a monitor's socket; within this time it also reads and writes, or that fails with
/// [`io::ErrorKind::WouldBlock`] (`SO_RCVTIMEO` and `SO_SNDTIMEO` of socket(7)).
///
/// # Errors
/// When there is no such socket, or nobody there.
pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let (unix, stream) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(unix, stream, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn names_are_read_and_written() {
        for monitor in [
            Monitor::Qemu,
            Monitor::Firecracker,
            Monitor::CloudHypervisor,
        ] {
            assert_eq!(Monitor::of_word(monitor.word()), monitor);
        }
        // Of a machine that an older kiln started.
        assert_eq!(Monitor::of_word(""), Monitor::Qemu);
    }

    #[test]
    fn each_is_asked_in_its_own_words() {
        let space = tempfile::tempdir().unwrap();
        let place = Place::at(space.path(), "a");
        let listener = UnixListener::bind(place.api()).unwrap();
        for (monitor, request) in [
            (Monitor::Firecracker, "PUT /actions HTTP/1.1\r\n"),
            (
                Monitor::CloudHypervisor,
                "PUT /api/v1/vm.power-button HTTP/1.1\r\n",
            ),
        ] {
            let place = place.clone();
            let asks = std::thread::spawn(move || monitor.ask(&place, Ask::PowerButton));
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; request.len()];
            stream.read_exact(&mut asked).unwrap();
            assert_eq!(String::from_utf8_lossy(&asked), request);
            // Gone without a word: that is no yes.
            drop(stream);
            assert!(asks.join().unwrap().is_err());
        }
    }

    /// Starts a process that listens at `socket`, and does nothing else.
    fn listen(place: &Place, socket: &Path) -> std::process::Child {
        let script = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); \
                      s.bind(sys.argv[1]); s.listen(); time.sleep(600)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(socket)
            .spawn()
            .unwrap();
        while !place.is_alive() {
            assert!(child.try_wait().unwrap().is_none(), "python3 has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// Firecracker knows no request to end, and a QEMU that hangs answers none.
    #[test]
    fn a_monitor_that_cannot_be_asked_is_ended_by_its_process() {
        use std::os::unix::process::ExitStatusExt;
        for monitor in [Monitor::Firecracker, Monitor::Qemu] {
            let space = tempfile::tempdir().unwrap();
            let place = Place::at(space.path(), "a");
            let socket = match monitor {
                Monitor::Qemu => place.qmp(),
                _ => place.api(),
            };
            let mut child = listen(&place, &socket);
            monitor.end(&place).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(9));
            // That is nothing to complain about.
            monitor.end(&place).unwrap();
            assert!(monitor.ask(&place, Ask::Quit).is_err());
        }
    }

    /// A machine that has the name by now is nobody's to end who meant the one before.
    #[test]
    fn another_machine_of_that_name_is_left_alone() {
        let space = tempfile::tempdir().unwrap();
        let directory = space.path().join("a");
        std::fs::create_dir(&directory).unwrap();
        let first = Place::at(&directory, "a");
        std::fs::remove_dir(&directory).unwrap();
        std::fs::create_dir(&directory).unwrap();
        let second = Place::at(&directory, "a");
        let mut child = listen(&second, &second.api());
        Monitor::Firecracker.end(&first).unwrap();
        assert!(Monitor::Firecracker.ask(&first, Ask::Quit).is_err());
        assert!(child.try_wait().unwrap().is_none());
        Monitor::Firecracker.end(&second).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_full_queue_is_passed_by() {
        let space = tempfile::tempdir().unwrap();
        let place = Place::at(space.path(), "a");
        let listeners = [place.qmp(), place.port(1)].map(|path| {
            let socket = UnixListener::bind(path).unwrap();
            rustix::net::listen(&socket, 0).unwrap();
            socket
        });
        let _waits = connect(&place.qmp(), ACCEPT_MAX).unwrap();
        assert!(connect(&place.qmp(), ACCEPT_MAX).is_err());
        assert!(process_of(&place).is_ok());
        let _waits = connect(&place.port(1), ACCEPT_MAX);
        assert!(process_of(&place).is_err());
        let error = Monitor::Qemu.ask(&place, Ask::PowerButton).unwrap_err();
        assert_eq!(error.to_string(), "QEMU does not answer");
        drop(listeners);
    }
}
