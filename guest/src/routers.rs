//! What IPv6 routers say besides addresses and routes: DNS servers (RFC 8106), and whether there is
//! DHCPv6 (RFC 4861, 4.2).
//!
//! The kernel takes addresses and routes from router advertisements by itself (SLAAC, RFC 4862); what
//! it has no use for it hands on as netlink messages (`include/uapi/linux/rtnetlink.h`): options as
//! `RTM_NEWNDUSEROPT`, flags with the interface. So it does with addresses that another machine of
//! the link turns out to have (RFC 4862, 5.4).

use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SocketFlags};

use crate::error::Result;
use crate::netlink;

/// `RTNLGRP_ND_USEROPT`, `RTNLGRP_IPV6_IFINFO` and `RTNLGRP_IPV6_IFADDR` as a mask.
const GROUPS: u32 = 1 << 19 | 1 << 11 | 1 << 8;
/// `RTM_NEWNDUSEROPT`.
const USER_OPTIONS: u16 = 68;
/// Bytes of `struct nlmsghdr`, and with `struct nduseroptmsg`, `ifinfomsg`, `ifaddrmsg`.
const HEADER: usize = 16;
const OPTIONS: usize = HEADER + 16;
const LINK: usize = HEADER + 16;
const ADDRESS: usize = HEADER + 8;
/// `IFLA_INET6_FLAGS`, `IF_RA_MANAGED` and `IF_RA_OTHERCONF` (`include/net/if_inet6.h`).
const INET6_FLAGS: u16 = 1;
const MANAGED: u32 = 0x40;
const OTHER: u32 = 0x80;
/// `IFA_F_DADFAILED`.
const DUPLICATE: u8 = 8;
/// The option for DNS servers (RFC 8106, 5.1).
const RDNSS: u8 = 25;
/// No resolver asks more.
const SERVERS_MAX: usize = 3;

/// What routers want DHCPv6 for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// For nothing.
    Nothing,
    /// For DNS servers and the like.
    Other,
    /// For addresses.
    Address,
}

/// Listens to what routers say.
#[derive(Debug)]
pub(crate) struct Routers {
    /// Readable when one has said something.
    pub(crate) socket: OwnedFd,
    /// The index of our interface.
    interface: u32,
    servers: Vec<(Ipv6Addr, u32)>,
    asks: Asks,
    has_duplicate: bool,
}

/// What the kernel hands on, each with the index of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// A server that there is, or is no more.
    Server(Ipv6Addr, u32, bool),
    /// The flags of the last router.
    Flags(u32, u32),
    /// An address that somebody else has.
    Duplicate(Ipv6Addr, u32),
}

impl Routers {
    /// Begins to listen, for an interface.
    pub(crate) fn open(interface: u32) -> Result<Self> {
        let socket = netlink::socket(libc::NETLINK_ROUTE, GROUPS, SocketFlags::NONBLOCK)?;
        // A kernel with a network of its own before us has heard routers already.
        netlink::ask_for_links6(&socket)?;
        Ok(Self {
            socket,
            interface,
            servers: Vec::new(),
            asks: Asks::Nothing,
            has_duplicate: false,
        })
    }

    /// Takes what was said, with an address we have from DHCPv6; returns whether other servers are
    /// known now.
    pub(crate) fn listen(&mut self, own: Option<Ipv6Addr>) -> bool {
        let mut changed = false;
        // As much as the kernel says at once (`NLMSG_GOODSIZE`).
        let mut buffer = [0; 8192];
        while let Ok((length, _)) =
            rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
        {
            for said in parse(&buffer[..length.min(buffer.len())]) {
                changed |= self.take(said, own);
            }
        }
        changed
    }

    /// Returns what the last router wants of us.
    pub(crate) fn asks(&self) -> Asks {
        self.asks
    }

    /// Returns whether our address was found to be somebody else's, once.
    pub(crate) fn take_duplicate(&mut self) -> bool {
        std::mem::take(&mut self.has_duplicate)
    }

    fn take(&mut self, said: Said, own: Option<Ipv6Addr>) -> bool {
        match said {
            Said::Server(server, interface, is_one) => {
                return self.take_server(server, interface, is_one);
            }
            Said::Flags(flags, interface) if interface == self.interface => {
                self.asks = match (flags & MANAGED, flags & OTHER) {
                    (0, 0) => Asks::Nothing,
                    (0, _) => Asks::Other,
                    _ => Asks::Address,
                };
            }
            Said::Duplicate(address, interface) => {
                self.has_duplicate |= interface == self.interface && own == Some(address);
            }
            Said::Flags(..) => {}
        }
        false
    }

    fn take_server(&mut self, server: Ipv6Addr, interface: u32, is_one: bool) -> bool {
        let known = self.servers.contains(&(server, interface));
        match (known, is_one) {
            (true, false) => self.servers.retain(|it| *it != (server, interface)),
            (false, true) if self.servers.len() < SERVERS_MAX => {
                self.servers.push((server, interface));
            }
            _ => return false,
        }
        true
    }

    /// Returns the servers as `/etc/resolv.conf` has them: one of the link with the name of its
    /// interface, if that is ours.
    pub(crate) fn servers(&self, name: &str) -> Vec<String> {
        let text = |(server, interface): &(Ipv6Addr, u32)| match (
            server.is_unicast_link_local(),
            *interface == self.interface,
        ) {
            (false, _) => Some(server.to_string()),
            (true, true) => Some(format!("{server}%{name}")),
            (true, false) => None,
        };
        self.servers.iter().filter_map(text).collect()
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Reads what is said out of a datagram.
fn parse(datagram: &[u8]) -> Vec<Said> {
    let mut all = Vec::new();
    let mut rest = datagram;
    while let Some(length) = u32_at(rest, 0) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < HEADER || length > rest.len() {
            break;
        }
        let (message, tail) = rest.split_at(length);
        match u16_at(message, 4) {
            Some(USER_OPTIONS) => options(message, &mut all),
            Some(libc::RTM_NEWLINK) => all.extend(flags(message)),
            Some(libc::RTM_NEWADDR | libc::RTM_DELADDR) => all.extend(duplicate(message)),
            _ => {}
        }
        rest = tail
            .get(length.next_multiple_of(4) - length..)
            .unwrap_or(&[]);
    }
    all
}

/// Returns the value of an attribute.
fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = netlink::attributes(bytes);
    all.find(|(kind, _)| *kind == wanted).map(|(_, it)| it)
}

fn flags(message: &[u8]) -> Option<Said> {
    let interface = u32_at(message, HEADER + 4)?;
    let six = attribute(message.get(LINK..)?, libc::IFLA_PROTINFO)?;
    let flags = u32_at(attribute(six, INET6_FLAGS)?, 0)?;
    Some(Said::Flags(flags, interface))
}

fn duplicate(message: &[u8]) -> Option<Said> {
    let interface = u32_at(message, HEADER + 4)?;
    let address = attribute(message.get(ADDRESS..)?, libc::IFA_ADDRESS)?;
    let address: [u8; 16] = address.try_into().ok()?;
    let is_one = message[HEADER + 2] & DUPLICATE != 0;
    is_one.then_some(Said::Duplicate(address.into(), interface))
}

fn options(message: &[u8], all: &mut Vec<Said>) {
    let (Some(length), Some(interface)) =
        (u16_at(message, HEADER + 2), u32_at(message, HEADER + 4))
    else {
        return;
    };
    let options = message.get(OPTIONS..).unwrap_or_default();
    let mut rest = &options[..options.len().min(length.into())];
    // Kind, and length in units of 8 bytes.
    while let [kind, units, ..] = *rest {
        let length = usize::from(units) * 8;
        if length == 0 || length > rest.len() {
            return;
        }
        let (option, tail) = rest.split_at(length);
        if let (RDNSS, Some(lifetime)) = (kind, option.get(4..8)) {
            let servers = option[8..].chunks_exact(16);
            let servers = servers.filter_map(|it| <[u8; 16]>::try_from(it).ok());
            let is_one = lifetime != [0; 4];
            all.extend(servers.map(|it| Said::Server(Ipv6Addr::from(it), interface, is_one)));
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message with options, of interface 2.
    fn message(options: &[u8]) -> Vec<u8> {
        let length = (OPTIONS + options.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(USER_OPTIONS.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend([10, 0]);
        bytes.extend((options.len() as u16).to_ne_bytes());
        bytes.extend(2_u32.to_ne_bytes());
        bytes.resize(OPTIONS, 0);
        bytes.extend(options);
        bytes
    }

    fn rdnss(lifetime: u32, servers: &[Ipv6Addr]) -> Vec<u8> {
        let mut option = vec![RDNSS, 1 + 2 * servers.len() as u8, 0, 0];
        option.extend(lifetime.to_be_bytes());
        servers.iter().for_each(|it| option.extend(it.octets()));
        option
    }

    #[test]
    fn servers_come_and_go() {
        let far: Ipv6Addr = "fec0::3".parse().unwrap();
        let near: Ipv6Addr = "fe80::1".parse().unwrap();
        let mut routers = Routers::open(2).unwrap();
        let mut hear = |options: &[u8]| {
            let mut changed = false;
            for said in parse(&message(options)) {
                changed |= routers.take(said, None);
            }
            (changed, routers.servers("eth0"))
        };
        // Another option comes first.
        let options = [&[31, 1, 0, 0, 0, 0, 0, 0][..], &rdnss(60, &[far, near])].concat();
        let both = vec!["fec0::3".to_owned(), "fe80::1%eth0".to_owned()];
        assert_eq!(hear(&options), (true, both.clone()));
        assert_eq!(hear(&options), (false, both));
        assert_eq!(
            hear(&rdnss(0, &[far])),
            (true, vec!["fe80::1%eth0".to_owned()])
        );
        assert_eq!(
            hear(&[RDNSS, 200]),
            (false, vec!["fe80::1%eth0".to_owned()])
        );
    }

    /// A router on a tap device, which speaks when it is told to.
    const ROUTER: &str = r#"
import fcntl, os, socket, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
# TUNSETIFF, IFF_TAP | IFF_NO_PI
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH", b"tap0", 0x1002))
print("there", flush=True)
sys.stdin.readline()
address = lambda text: socket.inet_pton(socket.AF_INET6, text)
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xc0, 3600, 3600, 0) + address("fd00:1::")
rdnss = struct.pack("!BBHI", 25, 3, 0, 3600) + address("fd00:1::53")
said = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + rdnss
source, to = address("fe80::1"), address("ff02::1")
pseudo = source + to + struct.pack("!II", len(said), 58) + said
total = sum(struct.unpack("!%dH" % (len(pseudo) // 2), pseudo))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
said = said[:2] + struct.pack("!H", ~total & 0xffff) + said[4:]
packet = struct.pack("!IHBB", 6 << 28, len(said), 58, 255) + source + to + said
ethernet = bytes.fromhex("333300000001" "020000000001" "86dd")
os.write(tap, ethernet + packet)
sys.stdin.readline()
"#;

    #[test]
    fn a_router_is_heard_through_the_kernel() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        use std::time::{Duration, Instant};

        // A network of this thread alone.
        crate::sys::unshare(rustix::thread::UnshareFlags::NEWNET).expect("root runs this test");
        let mut router = Command::new("python3")
            .args(["-c", ROUTER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is this test's router");
        let mut line = String::new();
        let mut said = BufReader::new(router.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        let mut tell = router.stdin.take().unwrap();
        let settings = "/proc/sys/net/ipv6/conf/tap0";
        std::fs::write(format!("{settings}/accept_dad"), "0").unwrap();
        let mut routers = Routers::open(2).unwrap();
        // The loopback is the first.
        netlink::link_up(2, None).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        tell.write_all(b"now\n").unwrap();
        let began = Instant::now();
        while !routers.listen(None) {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "nothing was heard"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(routers.servers("tap0"), ["fd00:1::53"]);
        drop(tell);
        router.wait().unwrap();
    }

    proptest! {
        #[test]
        fn any_datagram_is_fine(bytes: Vec<u8>, options: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = parse(&message(&options));
        }
    }
}
