//! DHCP packets (RFC 2131, 2132, 3442): what we send, and what we believe of an answer.
//!
//! Anyone on the link can send anything: a reply is read only if addressed to our transaction and
//! hardware address, every option is checked for its length, lists are cut to named limits, and a
//! text goes into a configuration file only if it is a plain domain name.

use std::net::Ipv4Addr;

/// DNS servers kept; the C library reads three.
pub(crate) const NAMESERVERS_MAX: usize = 3;
/// Classless routes kept.
pub(crate) const ROUTES_MAX: usize = 16;
/// Longest domain name (RFC 1035).
const DOMAIN_BYTES_MAX: usize = 253;
/// Shortest lease honoured, in seconds; a shorter one would only be a busy loop.
const LEASE_SECONDS_MIN: u32 = 10;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const BOOTP_BYTES: usize = 236;
const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// Message types (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Client: is there a server?
    Discover = 1,
    /// Server: take this.
    Offer = 2,
    /// Client: I take it, or keep it.
    Request = 3,
    /// Server: it is yours.
    Ack = 5,
    /// Server: no.
    Nak = 6,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Discover or Request.
    pub(crate) kind: Kind,
    /// Transaction.
    pub(crate) xid: u32,
    /// Hardware address.
    pub(crate) mac: [u8; 6],
    /// Our address, while renewing; unspecified otherwise.
    pub(crate) current: Ipv4Addr,
    /// The address asked for, when answering an offer.
    pub(crate) wanted: Option<Ipv4Addr>,
    /// The server chosen, when answering an offer.
    pub(crate) server: Option<Ipv4Addr>,
    /// Seconds since we began.
    pub(crate) seconds: u16,
}

/// What a server said, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Offer, Ack or Nak.
    pub(crate) kind: Kind,
    /// The address for us.
    pub(crate) address: Ipv4Addr,
    /// Prefix length; classful if the server gave no mask.
    pub(crate) prefix: u8,
    /// Server identifier.
    pub(crate) server: Ipv4Addr,
    /// Seconds the lease lasts; `u32::MAX` is forever.
    pub(crate) lease: u32,
    /// Seconds until renewal (T1) and rebinding (T2).
    pub(crate) timers: (u32, u32),
    /// Routes: destination, prefix, gateway. Option 121 replaces option 3.
    pub(crate) routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// DNS servers.
    pub(crate) nameservers: Vec<Ipv4Addr>,
    /// Domain to search.
    pub(crate) domain: Option<String>,
    /// MTU of the link.
    pub(crate) mtu: Option<u32>,
}

impl Request {
    /// Returns the BOOTP payload.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut out = vec![0; BOOTP_BYTES];
        // op = request, htype = Ethernet, hlen.
        out[..3].copy_from_slice(&[1, 1, 6]);
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        out[12..16].copy_from_slice(&self.current.octets());
        out[28..34].copy_from_slice(&self.mac);
        out.extend_from_slice(&MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            out.extend_from_slice(&[code, value.len() as u8]);
            out.extend_from_slice(value);
        };
        option(53, &[self.kind as u8]);
        option(61, &[&[1], &self.mac[..]].concat());
        if let Some(wanted) = self.wanted {
            option(50, &wanted.octets());
        }
        if let Some(server) = self.server {
            option(54, &server.octets());
        }
        option(57, &1500u16.to_be_bytes());
        // Mask, router, DNS, domain, MTU, classless routes (which must come before router).
        option(55, &[1, 121, 3, 6, 15, 26, 51, 54, 58, 59]);
        out.push(255);
        // Some relays drop anything shorter than a BOOTP packet of RFC 951.
        out.resize(out.len().max(300), 0);
        out
    }

    /// Returns the payload in IPv4 and UDP headers, from nobody to everybody.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let payload = self.payload();
        let udp_length = (UDP_BYTES + payload.len()) as u16;
        let mut ip = [0u8; IP_BYTES];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(IP_BYTES as u16 + udp_length).to_be_bytes());
        ip[8] = 64;
        ip[9] = 17;
        ip[16..20].copy_from_slice(&[255; 4]);
        let sum = checksum(0, &ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut udp = [0u8; UDP_BYTES];
        udp[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
        let datagram = [&udp[..], &payload].concat();
        let sum = udp_checksum(&ip, &datagram);
        let mut packet = [&ip[..], &datagram].concat();
        packet[IP_BYTES + 6..IP_BYTES + 8].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

/// The Internet checksum (RFC 1071), started with a partial sum.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The UDP checksum over the pseudo header; 0 means "none" on the wire, so it is sent as 0xffff.
fn udp_checksum(ip: &[u8], datagram: &[u8]) -> u16 {
    let addresses = !checksum(0, &ip[12..20]);
    let start = u32::from(addresses) + 17 + datagram.len() as u32;
    match checksum(start, datagram) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Returns the payload of an IPv4 packet that carries UDP to the DHCP client port.
pub(crate) fn unwrap_packet(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let packet = packet.get(..total)?;
    let ip = packet.get(..header).filter(|h| h.len() >= IP_BYTES)?;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    if ip[0] >> 4 != 4 || ip[9] != 17 || fragment != 0 || checksum(0, ip) != 0 {
        return None;
    }
    let udp = packet.get(header..)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let udp = udp.get(..length).filter(|u| u.len() >= UDP_BYTES)?;
    let port = u16::from_be_bytes([udp[2], udp[3]]);
    // The checksum is not verified: a virtual link may leave it to hardware that does not exist
    // (the guest then sees partial sums). The link layer has its own.
    (port == CLIENT_PORT).then(|| &udp[UDP_BYTES..])
}

/// Reads a reply to our transaction; anything else is none.
pub(crate) fn parse(payload: &[u8], xid: u32, mac: [u8; 6]) -> Option<Reply> {
    let fixed = payload.get(..BOOTP_BYTES)?;
    let is_reply = fixed[0] == 2 && fixed[1] == 1 && fixed[2] == 6;
    if !is_reply || fixed[4..8] != xid.to_be_bytes() || fixed[28..34] != mac {
        return None;
    }
    let options = payload.get(BOOTP_BYTES..)?.strip_prefix(&MAGIC)?;
    let find = |code| option(options, code);
    let kind = match find(53)?.as_slice() {
        [2] => Kind::Offer,
        [5] => Kind::Ack,
        [6] => Kind::Nak,
        _ => return None,
    };
    let address = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    let usable = !address.is_unspecified()
        && !address.is_broadcast()
        && !address.is_multicast()
        && !address.is_loopback();
    if kind != Kind::Nak && !usable {
        return None;
    }
    let number = |code| Some(u32::from_be_bytes(find(code)?.try_into().ok()?));
    let lease = number(51).unwrap_or(u32::MAX).max(LEASE_SECONDS_MIN);
    Some(Reply {
        kind,
        address,
        prefix: find(1)
            .as_deref()
            .and_then(prefix)
            .unwrap_or_else(|| classful(address)),
        server: *addresses(&find(54)?, 1).first()?,
        lease,
        timers: timers(lease, number(58), number(59)),
        routes: routes(find(121).as_deref(), find(3).as_deref()),
        nameservers: addresses(&find(6).unwrap_or_default(), NAMESERVERS_MAX),
        domain: find(15).as_deref().and_then(domain),
        mtu: find(26)
            .and_then(|v| Some(u32::from(u16::from_be_bytes(v.try_into().ok()?))))
            .filter(|mtu| *mtu >= 576),
    })
}

/// Returns an option's value; parts of a split option are joined (RFC 3396).
fn option(mut options: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    while let Some((code, rest)) = options.split_first() {
        match code {
            0 => options = rest,
            255 => break,
            code => {
                let Some((length, rest)) = rest.split_first() else {
                    break;
                };
                let Some(value) = rest.get(..usize::from(*length)) else {
                    break;
                };
                if *code == wanted {
                    found.get_or_insert_default().extend_from_slice(value);
                }
                options = &rest[value.len()..];
            }
        }
    }
    found
}

fn addresses(value: &[u8], limit: usize) -> Vec<Ipv4Addr> {
    let (all, _) = value.as_chunks::<4>();
    all.iter()
        .map(|octets| Ipv4Addr::from(*octets))
        .filter(|a| !a.is_unspecified() && !a.is_broadcast())
        .take(limit)
        .collect()
}

/// Returns the length of a contiguous mask.
pub(crate) fn prefix(mask: &[u8]) -> Option<u8> {
    let bits = u32::from_be_bytes(mask.try_into().ok()?);
    let length = bits.leading_ones();
    (length > 0 && bits.count_ones() == length).then_some(length as u8)
}

/// Returns the prefix length of an address's class.
pub(crate) fn classful(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// Returns T1 and T2 with the defaults of RFC 2131, in order and within the lease.
fn timers(lease: u32, t1: Option<u32>, t2: Option<u32>) -> (u32, u32) {
    let default = (lease / 2, lease / 8 * 7);
    let (t1, t2) = (t1.unwrap_or(default.0), t2.unwrap_or(default.1));
    if 0 < t1 && t1 < t2 && t2 < lease {
        (t1, t2)
    } else {
        default
    }
}

/// Routes of option 121 (RFC 3442) if there are any, else the first gateway of option 3.
fn routes(classless: Option<&[u8]>, routers: Option<&[u8]>) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
    let parsed = classless.map(classless_routes).unwrap_or_default();
    if !parsed.is_empty() {
        return parsed;
    }
    addresses(routers.unwrap_or_default(), 1)
        .into_iter()
        .map(|gateway| (Ipv4Addr::UNSPECIFIED, 0, gateway))
        .collect()
}

fn classless_routes(mut value: &[u8]) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
    let mut all = Vec::new();
    while let Some((&prefix, rest)) = value.split_first() {
        let significant = usize::from(prefix.div_ceil(8));
        let (Some(destination), Some(gateway)) = (
            rest.get(..significant),
            rest.get(significant..significant + 4),
        ) else {
            break;
        };
        if prefix > 32 || all.len() == ROUTES_MAX {
            break;
        }
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(destination);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let destination = Ipv4Addr::from_bits(u32::from_be_bytes(octets) & mask);
        let gateway = [gateway[0], gateway[1], gateway[2], gateway[3]];
        all.push((destination, prefix, Ipv4Addr::from(gateway)));
        value = &rest[significant + 4..];
    }
    all
}

/// Accepts a plain domain name only: it goes into resolv.conf.
pub(crate) fn domain(value: &[u8]) -> Option<String> {
    let text = value.strip_suffix(b"\0").unwrap_or(value);
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let fits = !text.is_empty() && text.len() <= DOMAIN_BYTES_MAX && text.iter().all(plain);
    fits.then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn request() -> Request {
        Request {
            kind: Kind::Request,
            xid: 0x1234_5678,
            mac: MAC,
            current: Ipv4Addr::UNSPECIFIED,
            wanted: Some(Ipv4Addr::new(10, 0, 2, 15)),
            server: Some(Ipv4Addr::new(10, 0, 2, 2)),
            seconds: 3,
        }
    }

    /// A reply like QEMU's, with more options.
    fn reply(extra: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BOOTP_BYTES];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&0x1234_5678u32.to_be_bytes());
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes[28..34].copy_from_slice(&MAC);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[53, 1, 5, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0]);
        bytes.extend_from_slice(&[3, 4, 10, 0, 2, 2, 6, 4, 10, 0, 2, 3, 51, 4, 0, 1, 81, 128]);
        bytes.extend_from_slice(extra);
        bytes.push(255);
        bytes
    }

    fn parsed(extra: &[u8]) -> Reply {
        parse(&reply(extra), 0x1234_5678, MAC).unwrap()
    }

    #[test]
    fn a_plain_lease() {
        let lease = parsed(&[15, 7, b'e', b'x', b'.', b'o', b'r', b'g', 0, 26, 2, 5, 0xdc]);
        assert_eq!(
            (lease.kind, lease.prefix, lease.lease),
            (Kind::Ack, 24, 86_400)
        );
        assert_eq!(lease.timers, (43_200, 75_600));
        assert_eq!(
            lease.routes,
            [(Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 0, 2, 2))]
        );
        assert_eq!(lease.nameservers, [Ipv4Addr::new(10, 0, 2, 3)]);
        assert_eq!(lease.domain.as_deref(), Some("ex.org"));
        assert_eq!(lease.mtu, Some(1500));
    }

    #[test]
    fn lies_are_not_believed() {
        assert_eq!(parse(&reply(&[]), 1, MAC), None);
        assert_eq!(parse(&reply(&[]), 0x1234_5678, [0; 6]), None);
        assert_eq!(parsed(&[15, 3, b'a', b'\n', b'b']).domain, None);
        assert_eq!(
            parsed(&[58, 4, 255, 255, 255, 255]).timers,
            (43_200, 75_600)
        );
        assert_eq!(parsed(&[26, 2, 0, 1]).mtu, None);
        assert_eq!(prefix(&[255, 0, 255, 0]), None);
        assert_eq!(prefix(&[0, 0, 0, 0]), None);
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let lease = parsed(&[121, 13, 0, 10, 0, 2, 9, 20, 10, 17, 255, 10, 0, 2, 8]);
        assert_eq!(
            lease.routes,
            [
                (Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 0, 2, 9)),
                (
                    Ipv4Addr::new(10, 17, 240, 0),
                    20,
                    Ipv4Addr::new(10, 0, 2, 8)
                ),
            ]
        );
    }

    #[test]
    fn our_packet_is_a_correct_one() {
        let packet = request().packet();
        assert_eq!(checksum(0, &packet[..IP_BYTES]), 0);
        let (ip, udp) = packet.split_at(IP_BYTES);
        let start = u32::from(!checksum(0, &ip[12..20])) + 17 + udp.len() as u32;
        assert_eq!(checksum(start, udp), 0);
        // The only thing between it and a client is the port.
        assert_eq!(unwrap_packet(&packet), None);
        let mut to_client = packet.clone();
        to_client[IP_BYTES + 2..IP_BYTES + 4].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        assert_eq!(unwrap_packet(&to_client), Some(&request().payload()[..]));
    }

    proptest! {
        #[test]
        fn any_packet_is_fine(bytes: Vec<u8>, xid: u32) {
            let _ = (unwrap_packet(&bytes), parse(&bytes, xid, MAC));
        }

        #[test]
        fn any_options_are_fine(extra in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(lease) = parse(&reply(&extra), 0x1234_5678, MAC) {
                prop_assert!(lease.nameservers.len() <= NAMESERVERS_MAX);
                prop_assert!(lease.routes.len() <= ROUTES_MAX);
                prop_assert!((1..=32).contains(&lease.prefix));
                prop_assert!(lease.timers.0 <= lease.timers.1 && lease.timers.1 < lease.lease);
            }
        }

        #[test]
        fn damaged_replies_are_fine(at in 0usize..290, byte: u8) {
            let mut bytes = reply(&[121, 8, 16, 10, 17, 10, 0, 2, 8, 0]);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse(&bytes, 0x1234_5678, MAC);
        }

        #[test]
        fn masks(length in 1u32..=32) {
            let mask = u32::MAX << (32 - length);
            prop_assert_eq!(prefix(&mask.to_be_bytes()), Some(length as u8));
        }
    }
}
