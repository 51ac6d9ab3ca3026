//! DHCPv6 packets (RFC 8415, 3646): what we send, and what we believe of an answer.
//!
//! Anyone on the link can send anything: a reply is read only if it is to our transaction and our
//! identifier and its options fill it exactly, lists are cut to named limits, and a domain goes into
//! a configuration file only if it is a plain name.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::dhcp;

/// DNS servers kept; the C library reads three.
const NAMESERVERS_MAX: usize = 3;
/// Domains kept; the C library's limit.
const DOMAINS_MAX: usize = 6;
/// Longest identifier of a server (RFC 8415, 11.1).
const DUID_BYTES_MAX: usize = 130;
/// A lifetime without end.
pub(crate) const FOREVER: u32 = u32::MAX;
/// Shortest time to renewal honoured, in seconds; a shorter one would only be a busy loop.
const RENEW_SECONDS_MIN: u32 = 10;

/// Message types (7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Client: is there a server?
    Solicit = 1,
    /// Server: I have this.
    Advertise = 2,
    /// Client: I take it.
    Request = 3,
    /// Client, to its server: I keep it.
    Renew = 5,
    /// Client, to every server: I keep it.
    Rebind = 6,
    /// Server: so it is.
    Reply = 7,
    /// Client: somebody else has it.
    Decline = 9,
    /// Client: I want no address, only what else you know.
    Inform = 11,
}

/// Option codes (21, and RFC 3646).
mod code {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const WANTED: u16 = 6;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const DNS: u16 = 23;
    pub(super) const DOMAINS: u16 = 24;
    pub(super) const REFRESH: u16 = 32;
    pub(super) const SOLICIT_MAX: u16 = 82;
    pub(super) const INFORM_MAX: u16 = 83;
}

/// Status codes (21.13).
pub(crate) mod status {
    /// All is well; also of a message that says nothing.
    pub(crate) const SUCCESS: u16 = 0;
    /// Try again.
    pub(crate) const UNSPECIFIED: u16 = 1;
    /// The server knows nothing of our address.
    pub(crate) const NO_BINDING: u16 = 3;
    /// Send to all servers, which we always do.
    pub(crate) const USE_MULTICAST: u16 = 5;
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// Not one of the servers' two.
    pub(crate) kind: Kind,
    /// Transaction.
    pub(crate) xid: [u8; 3],
    /// Hardware address.
    pub(crate) mac: [u8; 6],
    /// Whom it is for; everybody if none.
    pub(crate) server: Option<&'a [u8]>,
    /// The address it is about.
    pub(crate) address: Option<Ipv6Addr>,
    /// Time since the first message of this transaction.
    pub(crate) elapsed: Duration,
}

/// An address for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    /// The address.
    pub(crate) address: Ipv6Addr,
    /// Seconds for which it is used for new connections, and for any.
    pub(crate) lifetimes: (u32, u32),
    /// Seconds until renewal (T1) and rebinding (T2); [`FOREVER`]: never.
    pub(crate) timers: (u32, u32),
}

/// What a server said, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Advertise or Reply.
    pub(crate) kind: Kind,
    /// Who said it.
    pub(crate) server: Vec<u8>,
    /// The message's status, or that of its address.
    pub(crate) status: u16,
    /// The higher the better.
    pub(crate) preference: u8,
    /// It answers a Solicit without more ado.
    pub(crate) is_rapid: bool,
    /// An address.
    pub(crate) granted: Option<Granted>,
    /// The address that we asked for is not ours any more.
    pub(crate) is_withdrawn: bool,
    /// DNS servers.
    pub(crate) nameservers: Vec<Ipv6Addr>,
    /// Domains to search.
    pub(crate) domains: Vec<String>,
    /// Seconds after which to ask for them again.
    pub(crate) refresh: Option<u32>,
    /// Longest waits, in seconds, between Solicits and between Informs.
    pub(crate) waits_max: (Option<u32>, Option<u32>),
}

/// Our identifier: DUID-LL (11.4), the same as long as the machine has this card.
fn duid(mac: [u8; 6]) -> [u8; 10] {
    let mut all = [0, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    all[4..].copy_from_slice(&mac);
    all
}

/// The identifier of our one association (IAID), as stable.
fn association(mac: [u8; 6]) -> [u8; 4] {
    [mac[2], mac[3], mac[4], mac[5]]
}

fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

impl Request<'_> {
    /// Returns the message.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.kind as u8];
        out.extend_from_slice(&self.xid);
        put(&mut out, code::CLIENT, &duid(self.mac));
        if let Some(server) = self.server {
            put(&mut out, code::SERVER, server);
        }
        let hundredths = u16::try_from(self.elapsed.as_millis() / 10).unwrap_or(u16::MAX);
        put(&mut out, code::ELAPSED, &hundredths.to_be_bytes());
        if self.kind == Kind::Solicit {
            put(&mut out, code::RAPID_COMMIT, &[]);
        }
        if self.kind != Kind::Inform {
            // Of T1 and T2 we have no wish.
            let mut own = [&association(self.mac)[..], &[0; 8]].concat();
            if let Some(address) = self.address {
                // Nor of lifetimes.
                let wish = [&address.octets()[..], &[0; 8]].concat();
                put(&mut own, code::ADDRESS, &wish);
            }
            put(&mut out, code::IA_NA, &own);
        }
        let wanted = [
            code::DNS,
            code::DOMAINS,
            code::SOLICIT_MAX,
            code::REFRESH,
            code::INFORM_MAX,
        ];
        let wanted = match self.kind {
            Kind::Decline => &[],
            Kind::Inform => &wanted[..],
            _ => &wanted[..3],
        };
        if !wanted.is_empty() {
            let bytes: Vec<u8> = wanted.iter().flat_map(|it| it.to_be_bytes()).collect();
            put(&mut out, code::WANTED, &bytes);
        }
        out
    }
}

/// The options of a message, or of another option.
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Looks whether they fill their room exactly.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let whole: usize = Self(bytes).all().map(|(_, value)| value.len() + 4).sum();
        (whole == bytes.len()).then_some(Self(bytes))
    }

    fn all(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let [a, b, c, d, tail @ ..] = rest else {
                return None;
            };
            let value = tail.get(..usize::from(u16::from_be_bytes([*c, *d])))?;
            rest = &tail[value.len()..];
            Some((u16::from_be_bytes([*a, *b]), value))
        })
    }

    /// Returns the first one of a code.
    fn find(&self, code: u16) -> Option<&'a [u8]> {
        let mut all = self.all();
        all.find(|(it, _)| *it == code).map(|(_, value)| value)
    }

    fn number(&self, code: u16) -> Option<u32> {
        number(self.find(code)?, 0)
    }

    fn status(&self) -> u16 {
        let value = self.find(code::STATUS).and_then(|value| value.get(..2));
        value.map_or(status::SUCCESS, |it| u16::from_be_bytes([it[0], it[1]]))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn addresses(value: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let (all, _) = value.as_chunks::<16>();
    let all = all.iter().map(|octets| Ipv6Addr::from(*octets));
    all.filter(|it| !it.is_unspecified() && !it.is_multicast())
}

/// Reads a reply to our transaction; anything else is none. `current` is the address we asked for.
pub(crate) fn parse(
    packet: &[u8],
    xid: [u8; 3],
    mac: [u8; 6],
    current: Option<Ipv6Addr>,
) -> Option<Reply> {
    let (head, options) = packet.split_at_checked(4)?;
    let kind = match head[0] {
        2 => Kind::Advertise,
        7 => Kind::Reply,
        _ => return None,
    };
    let options = Options::of(options)?;
    let server = options.find(code::SERVER)?;
    if head[1..] != xid
        || options.find(code::CLIENT)? != duid(mac)
        || !(3..=DUID_BYTES_MAX).contains(&server.len())
    {
        return None;
    }
    let mut reply = Reply {
        kind,
        server: server.to_vec(),
        status: options.status(),
        preference: options
            .find(code::PREFERENCE)
            .and_then(|it| it.first().copied())
            .unwrap_or(0),
        is_rapid: options.find(code::RAPID_COMMIT).is_some(),
        granted: None,
        is_withdrawn: false,
        nameservers: addresses(options.find(code::DNS).unwrap_or_default())
            .take(NAMESERVERS_MAX)
            .collect(),
        domains: domains(options.find(code::DOMAINS).unwrap_or_default()),
        refresh: options.number(code::REFRESH),
        waits_max: (
            options.number(code::SOLICIT_MAX),
            options.number(code::INFORM_MAX),
        ),
    };
    let mut own = options.all().filter(|(code, _)| *code == code::IA_NA);
    let own = own.find(|(_, value)| value.starts_with(&association(mac)));
    if let Some((_, value)) = own {
        read_association(value, current, &mut reply)?;
    }
    Some(reply)
}

fn read_association(value: &[u8], current: Option<Ipv6Addr>, reply: &mut Reply) -> Option<()> {
    let timers = (number(value, 4)?, number(value, 8)?);
    let options = Options::of(&value[12..])?;
    if reply.status == status::SUCCESS {
        reply.status = options.status();
    }
    if timers.0 > timers.1 && timers.1 > 0 {
        return Some(());
    }
    for (_, value) in options.all().filter(|(code, _)| *code == code::ADDRESS) {
        let (Some(preferred), Some(valid)) = (number(value, 16), number(value, 20)) else {
            continue;
        };
        let Some(address) = addresses(&value[..16]).next() else {
            continue;
        };
        let is_current = current == Some(address);
        let is_usable = !address.is_loopback() && !address.is_unicast_link_local();
        if preferred > valid || !is_usable {
            continue;
        }
        reply.is_withdrawn |= is_current && valid == 0;
        if valid > 0 && (is_current || reply.granted.is_none()) {
            reply.granted = Some(Granted {
                address,
                lifetimes: (preferred, valid),
                timers: settle(timers, preferred),
            });
        }
    }
    Some(())
}

/// Returns T1 and T2, with the recommended ones (21.4) where the server leaves them to us.
fn settle((first, second): (u32, u32), preferred: u32) -> (u32, u32) {
    let part = |numerator: u64| match preferred {
        FOREVER => FOREVER,
        seconds => (u64::from(seconds) * numerator / 10) as u32,
    };
    let first = if first == 0 { part(5) } else { first }.max(RENEW_SECONDS_MIN);
    let second = if second == 0 { part(8) } else { second };
    (first, second.max(first))
}

/// Reads names (RFC 1035, 3.1, without compression), as far as they are plain.
fn domains(mut bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    let mut name = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let Some(label) = rest.get(..usize::from(length)).filter(|it| it.len() < 64) else {
            break;
        };
        bytes = &rest[label.len()..];
        if !label.is_empty() {
            if !name.is_empty() {
                name.push(b'.');
            }
            name.extend_from_slice(label);
            continue;
        }
        all.extend(dhcp::domain(&name));
        name.clear();
        if all.len() == DOMAINS_MAX {
            break;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const XID: [u8; 3] = [1, 2, 3];
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);

    fn address(address: Ipv6Addr, preferred: u32, valid: u32) -> Vec<u8> {
        let mut value = address.octets().to_vec();
        value.extend(preferred.to_be_bytes());
        value.extend(valid.to_be_bytes());
        let mut out = Vec::new();
        put(&mut out, code::ADDRESS, &value);
        out
    }

    /// A Reply with an association of these parts, and more options.
    fn reply(timers: (u32, u32), parts: &[Vec<u8>], more: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = vec![7, 1, 2, 3];
        put(&mut out, code::CLIENT, &duid(MAC));
        put(&mut out, code::SERVER, &[0, 1, 2, 3]);
        let mut own = association(MAC).to_vec();
        own.extend(timers.0.to_be_bytes());
        own.extend(timers.1.to_be_bytes());
        parts.iter().for_each(|part| own.extend(part));
        put(&mut out, code::IA_NA, &own);
        for (code, value) in more {
            put(&mut out, *code, value);
        }
        out
    }

    fn granted(timers: (u32, u32), parts: &[Vec<u8>]) -> Option<Granted> {
        let reply = parse(&reply(timers, parts, &[]), XID, MAC, Some(OWN));
        reply.unwrap().granted
    }

    #[test]
    fn an_address_and_what_comes_with_it() {
        let dns = [OWN.octets(), Ipv6Addr::UNSPECIFIED.octets()].concat();
        let names = b"\x02ex\x03org\0\x03a b\0\x01x\0\xc0\x00";
        let more: &[(u16, &[u8])] = &[
            (code::DNS, &dns),
            (code::DOMAINS, names),
            (code::PREFERENCE, &[9]),
            (code::SOLICIT_MAX, &[0, 0, 0, 99]),
            (code::RAPID_COMMIT, &[]),
        ];
        let bytes = reply((0, 0), &[address(OWN, 100, 200)], more);
        let reply = parse(&bytes, XID, MAC, None).unwrap();
        assert_eq!(reply.nameservers, [OWN]);
        assert_eq!(reply.domains, ["ex.org", "x"]);
        assert_eq!((reply.preference, reply.is_rapid), (9, true));
        assert_eq!(reply.waits_max, (Some(99), None));
        assert_eq!(reply.server, [0, 1, 2, 3]);
        let granted = reply.granted.unwrap();
        assert_eq!((granted.address, granted.lifetimes), (OWN, (100, 200)));
        assert_eq!(granted.timers, (50, 80));
    }

    #[test]
    fn lies_are_not_believed() {
        let good = reply((0, 0), &[address(OWN, 100, 200)], &[]);
        assert!(parse(&good, [9, 9, 9], MAC, None).is_none());
        assert!(parse(&good, XID, [0; 6], None).is_none());
        assert!(parse(&good[..good.len() - 1], XID, MAC, None).is_none());
        let more: &[(u16, &[u8])] = &[(code::CLIENT, &[1])];
        assert!(parse(&reply((0, 0), &[], more), XID, MAC, None).is_some());
        let mut solicit = good;
        solicit[0] = 1;
        assert!(parse(&solicit, XID, MAC, None).is_none());
        // Preferred longer than valid, T1 after T2, addresses that nobody can have.
        assert_eq!(granted((0, 0), &[address(OWN, 300, 200)]), None);
        assert_eq!(granted((9, 8), &[address(OWN, 100, 200)]), None);
        for bad in ["fe80::1", "ff02::1", "::1", "::"] {
            let part = address(bad.parse().unwrap(), 100, 200);
            assert_eq!(granted((0, 0), &[part]), None, "{bad}");
        }
        assert_eq!(granted((0, 0), &[vec![0, 5, 0, 1, 0]]), None);
    }

    #[test]
    fn times_are_in_order_and_no_busy_loop() {
        let timers = |given, preferred| {
            let part = address(OWN, preferred, FOREVER);
            granted(given, &[part]).unwrap().timers
        };
        assert_eq!(timers((0, 0), 0), (10, 10));
        assert_eq!(timers((1, 2), 100), (10, 10));
        assert_eq!(timers((200, 0), 100), (200, 200));
        assert_eq!(timers((0, 0), FOREVER), (FOREVER, FOREVER));
        assert_eq!(timers((0, 0), FOREVER - 1).0, FOREVER / 2);
    }

    #[test]
    fn our_own_address_comes_first_and_can_be_withdrawn() {
        let parts = [address(OTHER, 9, 90), address(OWN, 9, 90)];
        assert_eq!(granted((0, 0), &parts).unwrap().address, OWN);
        let bytes = reply((0, 0), &[address(OWN, 0, 0), address(OTHER, 9, 90)], &[]);
        let reply = parse(&bytes, XID, MAC, Some(OWN)).unwrap();
        assert!(reply.is_withdrawn);
        assert_eq!(reply.granted.unwrap().address, OTHER);
    }

    #[test]
    fn statuses_of_message_and_address() {
        let mut part = Vec::new();
        put(&mut part, code::STATUS, b"\0\x03no");
        let status = |parts: &[Vec<u8>], more: &[(u16, &[u8])]| {
            let reply = parse(&reply((0, 0), parts, more), XID, MAC, None);
            reply.unwrap().status
        };
        assert_eq!(status(&[], &[]), status::SUCCESS);
        assert_eq!(status(&[part.clone()], &[]), status::NO_BINDING);
        assert_eq!(status(&[part], &[(code::STATUS, &[0, 1])]), 1);
    }

    #[test]
    fn messages_say_who_and_what() {
        let mut request = Request {
            kind: Kind::Solicit,
            xid: XID,
            mac: MAC,
            server: None,
            address: None,
            elapsed: Duration::from_secs(1_000_000),
        };
        let solicit = request.bytes();
        let options = Options::of(&solicit[4..]).unwrap();
        assert_eq!(options.find(code::ELAPSED), Some(&[255, 255][..]));
        assert_eq!(options.find(code::RAPID_COMMIT), Some(&[][..]));
        assert_eq!(options.find(code::IA_NA).unwrap().len(), 12);
        assert_eq!(options.find(code::SERVER), None);
        request.kind = Kind::Decline;
        request.server = Some(&[0, 1, 2]);
        request.address = Some(OWN);
        let decline = request.bytes();
        let options = Options::of(&decline[4..]).unwrap();
        assert_eq!(options.find(code::WANTED), None);
        assert_eq!(options.find(code::SERVER), Some(&[0, 1, 2][..]));
        assert_eq!(options.find(code::IA_NA).unwrap().len(), 12 + 4 + 24);
        request.kind = Kind::Inform;
        let inform = request.bytes();
        let options = Options::of(&inform[4..]).unwrap();
        assert_eq!(options.find(code::IA_NA), None);
        assert_eq!(options.find(code::WANTED).unwrap().len(), 10);
    }

    proptest! {
        #[test]
        fn any_packet_is_fine(
            bytes: Vec<u8>,
            code in 0_u16..90,
            value: Vec<u8>,
            part: Vec<u8>,
        ) {
            let _ = parse(&bytes, XID, MAC, None);
            let whole = reply((1, 2), &[part], &[(code, &value)]);
            if let Some(reply) = parse(&whole, XID, MAC, Some(OWN)) {
                prop_assert!(reply.domains.len() <= DOMAINS_MAX);
                prop_assert!(reply.nameservers.len() <= NAMESERVERS_MAX);
            }
            let cut = whole.len().min(bytes.len());
            let _ = parse(&whole[..cut], XID, MAC, None);
            let _ = domains(&value);
        }
    }
}
