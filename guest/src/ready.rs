//! Whether a service can be relied on, looked at from outside: a listening port, a file in its
//! root, or a word from itself (sd_notify(3)).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use rustix::thread::LinkNameSpaceType;

use crate::error::{Context, Result};
use crate::rootfs::Inside;
use crate::sockets::{self, Protocol, Socket};

/// The first time between two looks; each one is twice as long.
pub(crate) const LOOK_MIN: Duration = Duration::from_millis(5);
/// The longest time between two looks.
pub(crate) const LOOK_MAX: Duration = Duration::from_millis(200);

/// Words taken from a service before the others get their turn.
const DATAGRAMS_MAX: usize = 16;

/// Returns whether a process of a control group (or this one, without a group) listens on a TCP
/// port of its network namespace.
pub(crate) fn listens(pid: Pid, group: Option<&Path>, port: u16) -> bool {
    let wanted =
        |socket: &Socket| socket.listens && socket.protocol == Protocol::Tcp && socket.port == port;
    !sockets::of(pid, group, wanted).is_empty()
}

/// Returns whether a path exists in the root of a process; links of it lead nowhere else.
pub(crate) fn has_file(pid: Pid, path: &str) -> bool {
    let root = format!("/proc/{}/root", pid.as_raw_nonzero());
    Inside::open(Path::new(&root)).is_ok_and(|inside| inside.has(Path::new(path)))
}

/// A socket on which a service says that it is ready.
#[derive(Debug)]
pub(crate) struct Notify {
    /// Readable when it has said something.
    pub(crate) socket: OwnedFd,
}

impl Notify {
    /// Returns the value of `NOTIFY_SOCKET`: an abstract name (unix(7)), since there may be no
    /// directory for a file.
    pub(crate) fn address(id: &str) -> String {
        format!("@kiln/notify/{id}")
    }

    /// Opens the socket of a service in the network namespace of its process, where abstract
    /// names live.
    pub(crate) fn open(id: &str, pid: Pid) -> Result<Self> {
        let kind = Some(LinkNameSpaceType::Network);
        let own = fs::File::open("/proc/self/ns/net").context(|| "own network namespace")?;
        let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
        let its = fs::File::open(&path).context(|| path)?;
        rustix::thread::move_into_link_name_space(its.as_fd(), kind)
            .context(|| "enter the network namespace")?;
        let bound = bind(&Self::address(id));
        rustix::thread::move_into_link_name_space(own.as_fd(), kind)
            .context(|| "return to the network namespace")?;
        Ok(Self {
            socket: bound.context(|| "NOTIFY_SOCKET")?,
        })
    }

    /// Reads all that was said; returns whether it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut ready = false;
        for _ in 0..DATAGRAMS_MAX {
            let received = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty());
            let Ok((length, _)) = received else { break };
            let said = &buffer[..length.min(buffer.len())];
            ready |= said
                .split(|byte| *byte == b'\n')
                .any(|line| line == b"READY=1");
        }
        ready
    }
}

fn bind(address: &str) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let name = address.trim_start_matches('@');
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_listening_port_is_seen() {
        let own = rustix::process::getpid();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(listens(own, None, port), "{address}");
            drop(listener);
            assert!(!listens(own, None, port), "{address}");
        }
    }

    #[test]
    fn a_word_is_heard() {
        let id = format!("test-{}", std::process::id());
        let notify = Notify {
            socket: bind(&Notify::address(&id)).unwrap(),
        };
        assert!(!notify.is_ready());
        let socket = UnixDatagram::unbound().unwrap();
        let name = format!("kiln/notify/{id}");
        let address =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
                .unwrap();
        socket.send_to_addr(b"STATUS=warming up", &address).unwrap();
        assert!(!notify.is_ready());
        socket
            .send_to_addr(b"STATUS=up\nREADY=1", &address)
            .unwrap();
        assert!(notify.is_ready());
    }
}
