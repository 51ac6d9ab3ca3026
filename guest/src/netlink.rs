//! The little of rtnetlink(7) that PID 1 needs: links up, made and moved; addresses; routes.
//!
//! Every call opens a socket, sends one request and reads its acknowledgement, so that it acts on
//! the network namespace of the caller at that moment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::error::{Context, Error, Result};
use crate::spec::Interface;

/// Builds one netlink message (`struct nlmsghdr`, a fixed header, attributes), native endian.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1u32.to_ne_bytes());
        bytes.extend_from_slice(header);
        Self { bytes }
    }

    /// Appends an attribute (`struct rtattr`), padded to four bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.nest(kind);
        self.bytes.extend_from_slice(value);
        self.close(start)
    }

    /// Opens an attribute that holds others; returns what [`Self::close`] wants.
    fn nest(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) -> &mut Self {
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Opens a netlink socket of a protocol, subscribed to `groups` (a bit mask), non-blocking if
/// asked.
pub(crate) fn socket(protocol: i32, groups: u32, flags: SocketFlags) -> Result<OwnedFd> {
    let protocol = std::num::NonZeroU32::new(protocol as u32).map(rustix::net::Protocol::from_raw);
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags | SocketFlags::CLOEXEC,
        protocol,
    )
    .context(|| "netlink socket")?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups)).context(|| "netlink socket")?;
    Ok(socket)
}

/// Sends a request to a kernel protocol and returns the first datagram of the answer.
fn exchange(protocol: i32, request: &[u8]) -> Result<Vec<u8>> {
    let socket = socket(protocol, 0, SocketFlags::empty())?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, request, SendFlags::empty(), &kernel).context(|| "netlink")?;
    let mut answer = vec![0; 16 << 10];
    let (length, _) = rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty())
        .context(|| "netlink")?;
    answer.truncate(length);
    Ok(answer)
}

/// Reads the errno of an acknowledgement (`struct nlmsgerr`).
fn acknowledged(answer: &[u8]) -> Result<()> {
    let kind = answer.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let code = answer
        .get(16..20)
        .map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    match (kind, code) {
        (Some(kind), Some(0)) if i32::from(kind) == libc::NLMSG_ERROR => Ok(()),
        (Some(kind), Some(code)) if i32::from(kind) == libc::NLMSG_ERROR => Err(Error::new(
            std::io::Error::from_raw_os_error(code.saturating_neg()).to_string(),
        )),
        _ => Err(Error::new("netlink: not an acknowledgement")),
    }
}

fn request(message: Message) -> Result<()> {
    acknowledged(&exchange(libc::NETLINK_ROUTE, &message.finish())?)
}

/// Asks the kernel to say on a socket what it says of every interface's IPv6 when that changes.
pub(crate) fn ask_for_links6(socket: &OwnedFd) -> Result<()> {
    let mut header = link_header(0, 0, 0);
    header[0] = libc::AF_INET6 as u8;
    let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16, &header);
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, &message.finish(), SendFlags::empty(), &kernel)
        .context(|| "netlink")?;
    Ok(())
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Brings an interface up, with an MTU if one is given.
pub(crate) fn link_up(index: u32, mtu: Option<u32>) -> Result<()> {
    let up = libc::IFF_UP as u32;
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, up, up));
    if let Some(mtu) = mtu {
        message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
    }
    request(message)
}

/// `struct ifaddrmsg` for a global address.
fn address_message(kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) -> Message {
    let (family, octets) = match &address {
        IpAddr::V4(address) => (libc::AF_INET, &address.octets()[..]),
        IpAddr::V6(address) => (libc::AF_INET6, &address.octets()[..]),
    };
    let mut header = [family as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    message
        .attribute(libc::IFA_LOCAL, octets)
        .attribute(libc::IFA_ADDRESS, octets);
    message
}

/// `struct ifa_cacheinfo`: preferred, valid, created, updated.
fn lifetimes(preferred: u32, valid: u32) -> [u8; 16] {
    let mut cache = [0; 16];
    cache[..4].copy_from_slice(&preferred.to_ne_bytes());
    cache[4..8].copy_from_slice(&valid.to_ne_bytes());
    cache
}

/// Gives an interface an IPv4 address; one that is there already gets its lifetime renewed.
///
/// With a lifetime (in seconds) the kernel drops the address by itself if nobody renews it.
pub(crate) fn add_address(
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
    lifetime: Option<u32>,
) -> Result<()> {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let mut message = address_message(libc::RTM_NEWADDR, flags, index, address.into(), prefix);
    if prefix < 31 {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
        message.attribute(libc::IFA_BROADCAST, &broadcast.octets());
    }
    if let Some(seconds) = lifetime {
        message.attribute(libc::IFA_CACHEINFO, &lifetimes(seconds, seconds));
    }
    request(message)
}

/// Gives an interface an IPv6 address alone, without a route to others; one that is there already
/// gets its lifetimes (in seconds) renewed. The kernel looks first whether another machine has it.
pub(crate) fn add_address6(
    index: u32,
    address: Ipv6Addr,
    (preferred, valid): (u32, u32),
) -> Result<()> {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let mut message = address_message(libc::RTM_NEWADDR, flags, index, address.into(), 128);
    message
        .attribute(libc::IFA_CACHEINFO, &lifetimes(preferred, valid))
        .attribute(libc::IFA_FLAGS, &libc::IFA_F_NOPREFIXROUTE.to_ne_bytes());
    request(message)
}

/// Takes an address away.
pub(crate) fn remove_address(index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    request(address_message(
        libc::RTM_DELADDR,
        0,
        index,
        address,
        prefix,
    ))
}

/// Adds or replaces an IPv4 route; without a gateway the destination is on the link.
pub(crate) fn add_route(
    index: u32,
    destination: (Ipv4Addr, u8),
    gateway: Option<Ipv4Addr>,
    source: Option<Ipv4Addr>,
) -> Result<()> {
    let scope = if gateway.is_some() {
        libc::RT_SCOPE_UNIVERSE
    } else {
        libc::RT_SCOPE_LINK
    };
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let header = [
        libc::AF_INET as u8,
        destination.1,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let mut message = Message::new(libc::RTM_NEWROUTE, flags, &header);
    if destination.1 > 0 {
        message.attribute(libc::RTA_DST, &destination.0.octets());
    }
    if let Some(gateway) = gateway {
        message.attribute(libc::RTA_GATEWAY, &gateway.octets());
    }
    if let Some(source) = source {
        message.attribute(libc::RTA_PREFSRC, &source.octets());
    }
    message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
    request(message)
}

/// Makes or moves an interface of `runtime.json` into the namespace of a process, with LinuxKit's
/// rules (`pkg/init/cmd/service/prepare.go`): a veth or `createInRoot` is made here and moved, any
/// other kind is made there, none at all moves an existing one.
pub(crate) fn give_interface(interface: &Interface, pid: Pid) -> Result<()> {
    if interface.name.is_empty() {
        return Err(Error::new("an interface needs a name"));
    }
    let is_veth =
        interface.add == "veth" || (interface.add.is_empty() && !interface.peer.is_empty());
    if is_veth {
        if interface.peer.is_empty() {
            return Err(Error::new("a veth needs a peer"));
        }
        make_link(&interface.name, "veth", Some(&interface.peer), None)?;
    } else if !interface.add.is_empty() {
        if !interface.create_in_root {
            return make_link(&interface.name, &interface.add, None, Some(pid));
        }
        make_link(&interface.name, &interface.add, None, None)?;
    }
    move_link(&interface.name, pid)
}

fn name_bytes(name: &str) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/']) {
        return Err(Error::new(format!("{name:?} is not an interface name")));
    }
    Ok([name.as_bytes(), b"\0"].concat())
}

fn pid_bytes(pid: Pid) -> [u8; 4] {
    pid.as_raw_nonzero().get().to_ne_bytes()
}

/// `VETH_INFO_PEER` (`include/uapi/linux/veth.h`).
const VETH_INFO_PEER: u16 = 1;

fn make_link(name: &str, kind: &str, peer: Option<&str>, namespace: Option<Pid>) -> Result<()> {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0));
    message.attribute(libc::IFLA_IFNAME, &name_bytes(name)?);
    if let Some(pid) = namespace {
        message.attribute(libc::IFLA_NET_NS_PID, &pid_bytes(pid));
    }
    let info = message.nest(libc::IFLA_LINKINFO);
    message.attribute(libc::IFLA_INFO_KIND, kind.as_bytes());
    if let Some(peer) = peer {
        let data = message.nest(libc::IFLA_INFO_DATA);
        let end = message.nest(VETH_INFO_PEER);
        message.bytes.extend_from_slice(&link_header(0, 0, 0));
        message.attribute(libc::IFLA_IFNAME, &name_bytes(peer)?);
        message.close(end);
        message.close(data);
    }
    message.close(info);
    request(message).context(|| format!("make {kind} interface"))
}

fn move_link(name: &str, pid: Pid) -> Result<()> {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0, 0));
    message
        .attribute(libc::IFLA_IFNAME, &name_bytes(name)?)
        .attribute(libc::IFLA_NET_NS_PID, &pid_bytes(pid));
    request(message).context(|| "move the interface")
}

/// Walks attributes (`struct rtattr` or `struct nlattr`): kind and value; stops at damage.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // NLA_F_NESTED and NLA_F_NET_BYTEORDER are not part of the kind.
        Some((kind & 0x3fff, value))
    })
}

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_*` (`include/uapi/linux/genetlink.h`).
mod genl {
    pub(super) const ID_CTRL: u16 = 16;
    pub(super) const CMD_GETFAMILY: u8 = 3;
    pub(super) const ATTR_FAMILY_NAME: u16 = 2;
    pub(super) const ATTR_MCAST_GROUPS: u16 = 7;
    pub(super) const ATTR_GROUP_NAME: u16 = 1;
    pub(super) const ATTR_GROUP_ID: u16 = 2;
}

/// Returns the number of a generic netlink family's multicast group.
pub(crate) fn multicast_group(family: &str, group: &str) -> Result<u32> {
    let header = [genl::CMD_GETFAMILY, 1, 0, 0];
    let mut message = Message::new(genl::ID_CTRL, 0, &header);
    message.attribute(genl::ATTR_FAMILY_NAME, &[family.as_bytes(), b"\0"].concat());
    let answer = exchange(libc::NETLINK_GENERIC, &message.finish())?;
    find_group(&answer, group)
        .ok_or_else(|| Error::new(format!("no generic netlink group {family}/{group}")))
}

fn find_group(answer: &[u8], group: &str) -> Option<u32> {
    let attributes_of = |bytes, wanted| {
        let mut all = attributes(bytes);
        all.find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let groups = attributes_of(answer.get(20..)?, genl::ATTR_MCAST_GROUPS)?;
    let found = attributes(groups).map(|(_, value)| value).find(|one| {
        let name = attributes_of(one, genl::ATTR_GROUP_NAME);
        name.is_some_and(|n| n.strip_suffix(b"\0").unwrap_or(n) == group.as_bytes())
    })?;
    let id = attributes_of(found, genl::ATTR_GROUP_ID)?;
    Some(u32::from_ne_bytes(id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_nest_and_pad() {
        let mut message = Message::new(16, 0, &[]);
        let outer = message.nest(18);
        message.attribute(1, b"veth");
        message.attribute(2, b"x");
        message.close(outer);
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 4 + 8 + 8);
        assert_eq!(bytes[..4], 36u32.to_ne_bytes());
        let (kind, inner) = attributes(&bytes[16..]).next().unwrap();
        assert_eq!(kind, 18);
        assert_eq!(
            attributes(inner).collect::<Vec<_>>(),
            [(1, &b"veth"[..]), (2, b"x")]
        );
    }

    #[test]
    fn errors_are_the_kernels() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        assert!(acknowledged(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        assert!(
            acknowledged(&answer)
                .unwrap_err()
                .to_string()
                .contains("File exists")
        );
        assert!(acknowledged(&[]).is_err());
        assert!(name_bytes("a-name-too-long!").is_err());
    }

    #[test]
    fn generic_netlink_answers_here() {
        // nlctrl's own group exists in every kernel with generic netlink; needs no rights.
        assert!(multicast_group("nlctrl", "notify").unwrap() > 0);
        assert!(multicast_group("no_such_family", "x").is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_fine(bytes: Vec<u8>) {
            let _ = (acknowledged(&bytes), find_group(&bytes, "x"));
            let total: usize = attributes(&bytes).map(|(_, value)| value.len() + 4).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
