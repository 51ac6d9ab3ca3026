//! A port is handed from one process to another while clients come: both listen on it, then new
//! connections are steered to one of the two, and nobody is refused.
//!
//! Sockets that listen on one address with `SO_REUSEPORT` are a group (socket(7)), out of which a
//! classic BPF program picks one for each connection, by its number in the group: in the order in
//! which they came. The old socket is given the option afterwards, through pidfd_getfd(2); of the
//! new service every socket has it before bind(2), by [`bpf::reuse_ports`](crate::bpf). What still
//! waits in the queue of a socket that is closed goes to the others (`tcp_migrate_req`, Linux
//! 5.14).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::error::{Context, Result};
use crate::sockets::{self, Held, Protocol, Socket};
use crate::{say, sys};

/// The sysctl by which what waits in a queue is not lost with it.
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Processes that listen: a process, and its control group.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    pub(crate) pid: Pid,
    pub(crate) group: Option<PathBuf>,
}

/// A socket of somebody else's that is open here too.
#[derive(Debug)]
struct Borrowed {
    socket: Socket,
    fd: OwnedFd,
}

/// Whom new connections go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Old,
    New,
}

impl Party {
    pub(crate) fn new(pid: Pid, group: Option<&Path>) -> Self {
        Self {
            pid,
            group: group.map(Path::to_owned),
        }
    }

    fn sockets(&self, wanted: impl Fn(&Socket) -> bool) -> Vec<Held> {
        sockets::of(self.pid, self.group.as_deref(), wanted)
    }

    fn listeners(&self) -> Vec<Borrowed> {
        let all = self.sockets(|socket| socket.listens);
        all.into_iter().filter_map(borrow).collect()
    }

    /// Returns on how many sockets this party listens.
    pub(crate) fn count(&self) -> usize {
        self.sockets(|socket| socket.listens).len()
    }

    /// Lets others listen where this party does.
    pub(crate) fn share(&self) -> Result<()> {
        let listeners = self.listeners();
        let is_theirs = |port| listeners.iter().any(|it| it.socket.port == port);
        // Connections, too: a port is taken as long as one without the option is bound to it.
        let connected = self.sockets(|socket| !socket.listens && is_theirs(socket.port));
        let connected = connected.into_iter().filter_map(borrow);
        for it in connected.chain(self.listeners()) {
            rustix::net::sockopt::set_socket_reuseport(&it.fd, true)
                .context(|| format!("share port {}", it.socket.port))?;
        }
        // Of our network namespace, which is theirs unless they joined another.
        if let Err(cause) = fs::write(MIGRATE, "1") {
            say!("{MIGRATE}: {cause}");
        }
        Ok(())
    }

    /// Returns whether nobody is connected where this party listens.
    pub(crate) fn is_idle(&self) -> bool {
        let all = self.sockets(|socket| socket.protocol == Protocol::Tcp);
        let (listening, others): (Vec<&Socket>, Vec<&Socket>) =
            all.iter().map(|held| &held.socket).partition(|s| s.listens);
        let is_client = |socket: &&Socket| listening.iter().any(|l| l.port == socket.port);
        listening.iter().all(|socket| socket.queue == 0)
            && !others
                .iter()
                .any(|socket| socket.is_busy && is_client(socket))
    }
}

/// Opens a socket of somebody else's here, too; none if it is gone.
fn borrow(held: Held) -> Option<Borrowed> {
    let process = pidfd_open(held.process, PidfdFlags::empty()).ok()?;
    let fd = pidfd_getfd(&process, held.descriptor, PidfdGetfdFlags::empty()).ok()?;
    let socket = held.socket;
    Some(Borrowed { socket, fd })
}

/// Steers new connections, wherever both parties listen. Returns to how many sockets.
pub(crate) fn steer(old: &Party, new: &Party, to: To) -> usize {
    let (before, after) = (old.listeners(), new.listeners());
    let mut steered = 0;
    for (index, listener) in after.iter().enumerate() {
        let is_same = |other: &&Borrowed| same_group(&other.socket, &listener.socket);
        // Once for each group.
        if after[..index].iter().any(|other| is_same(&other)) {
            continue;
        }
        let first = before.iter().filter(is_same).count();
        let count = after.iter().filter(is_same).count();
        if first == 0 {
            continue;
        }
        let (from, among) = match to {
            To::Old => (0, first),
            To::New => (first, count),
        };
        let by_hash = listener.socket.protocol == Protocol::Udp;
        let fd = listener.fd.as_fd();
        match sys::steer_connections(fd, from as u32, among as u32, by_hash) {
            Ok(()) => steered += among,
            Err(cause) => say!("steer port {}: {cause}", listener.socket.port),
        }
    }
    steered
}

/// Leaves it to the kernel again whom connections go to.
pub(crate) fn let_go(party: &Party) {
    for listener in party.listeners() {
        // One that was not steered needs none.
        let _ = sys::leave_connections(listener.fd.as_fd());
    }
}

fn same_group(one: &Socket, other: &Socket) -> bool {
    one.protocol == other.protocol && one.address == other.address && one.port == other.port
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    /// Listens on a port that is shared.
    fn listener(port: u16) -> TcpListener {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::sockopt::set_socket_reuseport(&fd, true).unwrap();
        let address = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        bind(&fd, &address).unwrap();
        listen(&fd, 64).unwrap();
        fd.into()
    }

    #[test]
    fn connections_go_where_they_are_steered() {
        // The old one has not heard of sharing until it is given the option from outside.
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = old.local_addr().unwrap().port();
        rustix::net::sockopt::set_socket_reuseport(&old, true).unwrap();
        let new = listener(port);
        for fd in [&old, &new] {
            fd.set_nonblocking(true).unwrap();
        }
        let comes_to = |wanted: &TcpListener| {
            for _ in 0..20 {
                let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (accepted, _) = wanted.accept().unwrap();
                drop(accepted);
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            }
        };
        sys::steer_connections(new.as_fd(), 0, 1, false).unwrap();
        comes_to(&old);
        sys::steer_connections(new.as_fd(), 1, 1, false).unwrap();
        comes_to(&new);
        drop(old);
        comes_to(&new);
        sys::leave_connections(new.as_fd()).unwrap();
        comes_to(&new);
    }
}
