//! Sockets of a container, looked at from outside: the tables of its network namespace
//! (`/proc/PID/net/tcp`, proc(5)) and who of its control group has them open.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rustix::process::Pid;

/// `TCP_LISTEN` (`include/net/tcp_states.h`), as the tables write it.
const LISTEN: &str = "0A";
/// Of UDP: bound, and connected to nobody.
const UNCONNECTED: &str = "07";

/// Which of the tables a socket is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// A socket of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) protocol: Protocol,
    /// Family and address, as the table writes them: sockets of one group have it in common.
    pub(crate) address: String,
    pub(crate) port: u16,
    /// It waits for whoever comes.
    pub(crate) listens: bool,
    /// Somebody is connected, or was until just now.
    pub(crate) is_busy: bool,
    /// Connections that have come and are not accepted yet.
    pub(crate) queue: u32,
    inode: String,
}

/// A socket that a process has open.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) socket: Socket,
    pub(crate) process: Pid,
    /// Its descriptor there.
    pub(crate) descriptor: i32,
}

/// Returns the sockets that processes of a control group (or this one, without a group) have open
/// and that `wanted` takes; each once.
pub(crate) fn of(pid: Pid, group: Option<&Path>, wanted: impl Fn(&Socket) -> bool) -> Vec<Held> {
    let number = pid.as_raw_nonzero();
    let mut sockets = HashMap::new();
    for (name, protocol) in [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ] {
        let table = fs::read_to_string(format!("/proc/{number}/net/{name}"));
        let all = parse(&table.unwrap_or_default(), protocol, name.ends_with('6'));
        let all = all.into_iter().filter(&wanted);
        sockets.extend(all.map(|socket| (socket.inode.clone(), socket)));
    }
    if sockets.is_empty() {
        return Vec::new();
    }
    let processes = match group {
        Some(group) => fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default(),
        None => number.to_string(),
    };
    let mut held = Vec::new();
    let processes = processes.lines().filter_map(|process| process.parse().ok());
    for process in processes.filter_map(Pid::from_raw) {
        let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero()));
        for entry in open.into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[");
            let inode = inode.map(|inode| inode.trim_end_matches(']'));
            let descriptor = entry.file_name().to_string_lossy().parse();
            if let (Some(socket), Ok(descriptor)) =
                (inode.and_then(|inode| sockets.remove(inode)), descriptor)
            {
                held.push(Held {
                    socket,
                    process,
                    descriptor,
                });
            }
        }
    }
    held
}

/// Reads a table; lines that are none are passed over.
fn parse(table: &str, protocol: Protocol, is_v6: bool) -> Vec<Socket> {
    let read = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, port) = fields.nth(1)?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let queue = fields.next()?.split_once(':')?.1;
        let inode = fields.nth(4)?;
        let listens = match protocol {
            Protocol::Tcp => state == LISTEN,
            Protocol::Udp => state == UNCONNECTED,
        };
        Some(Socket {
            protocol,
            address: format!("{}{address}", if is_v6 { "6 " } else { "4 " }),
            port: u16::from_str_radix(port, 16).ok()?,
            listens,
            is_busy: protocol == Protocol::Tcp && !listens,
            queue: u32::from_str_radix(queue, 16).ok()?,
            inode: inode.to_owned(),
        })
    };
    table.lines().skip(1).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn sockets_are_seen_with_what_they_do() {
        let own = rustix::process::getpid();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let here = |socket: &Socket| socket.port == port && socket.protocol == Protocol::Tcp;
            let all = of(own, None, here);
            assert_eq!(all.len(), 1, "{address}");
            assert!(all[0].socket.listens && !all[0].socket.is_busy);
            assert_eq!(all[0].socket.queue, 0);
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            // What is not accepted yet belongs to nobody.
            let all = of(own, None, here);
            assert_eq!((all.len(), all[0].socket.queue), (1, 1), "{address}");
            let (_accepted, _) = listener.accept().unwrap();
            let all = of(own, None, here);
            let busy: Vec<bool> = all.iter().map(|held| held.socket.is_busy).collect();
            assert_eq!(busy.iter().filter(|busy| **busy).count(), 1, "{address}");
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let all = of(own, None, |s| s.port == port && s.protocol == Protocol::Udp);
        assert!(all.len() == 1 && all[0].socket.listens);
        // Somebody else's does not count.
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.procs"), "1\n").unwrap();
        assert!(of(own, Some(directory.path()), |s| s.port == port).is_empty());
    }

    proptest! {
        #[test]
        fn any_table_is_fine(table in "([ -~]{0,60}\n){0,5}") {
            let _ = parse(&table, Protocol::Tcp, false);
        }
    }
}
