//! The programs that run machines, and what they are asked while they do.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use super::api;
use super::place::Place;
use super::qmp;

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
        let api = place.api();
        match (self, what) {
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

/// Finds the process behind a machine's own socket (`SO_PEERCRED` of unix(7) is who listens there).
///
/// # Errors
/// When there is none.
pub(crate) fn process_of(place: &Place) -> io::Result<OwnedFd> {
    let stream = UnixStream::connect(place.api())?;
    let process = rustix::net::sockopt::socket_peercred(&stream)?;
    Ok(pidfd_open(process.pid, PidfdFlags::empty())?)
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

    /// The process that listens at a socket is found and ended, as Firecracker is.
    #[test]
    fn a_monitor_without_a_request_for_it_is_ended_by_its_process() {
        let space = tempfile::tempdir().unwrap();
        let place = Place::at(space.path(), "a");
        let script = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); \
                      s.bind(sys.argv[1]); s.listen(); time.sleep(600)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(place.api())
            .spawn()
            .unwrap();
        while !place.is_alive() {
            assert!(child.try_wait().unwrap().is_none(), "python3 has ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Monitor::Firecracker.ask(&place, Ask::Quit).unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(Monitor::Firecracker.ask(&place, Ask::Quit).is_err());
    }
}
