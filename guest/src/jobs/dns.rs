//! Names to IPv4 addresses: one A query over UDP (RFC 1035), for jobs only.
//!
//! In: a name and resolv.conf(5). Out: its first address. The C library's resolver loads parts of
//! itself at run time, which a static program cannot. Anyone may answer: a reply counts only from
//! the server asked, with our id and our question; pointers are not followed, only stepped over.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::devices::random;
use super::udp;
use crate::error::{Context, Error, Result};

/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Servers and search domains taken from resolv.conf; the C library's limits.
const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;
/// Length of the fixed part of a message.
const HEADER_BYTES: usize = 12;

/// Who to ask.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    /// resolv.conf.
    pub(super) conf: PathBuf,
    /// The servers' port.
    pub(super) port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            conf: "/etc/resolv.conf".into(),
            port: 53,
        }
    }
}

impl Resolver {
    /// Returns the address of a name; of an address, itself.
    pub(super) fn resolve(&self, name: &str) -> Result<Ipv4Addr> {
        if let Ok(address) = name.parse() {
            return Ok(address);
        }
        let text = fs::read_to_string(&self.conf).context(|| self.conf.display())?;
        let (servers, domains) = configuration(&text);
        if servers.is_empty() {
            return Err(Error::new(format!(
                "{}: no nameserver",
                self.conf.display()
            )));
        }
        let mut last = Error::new(format!("{name}: no such name"));
        for candidate in candidates(name, &domains) {
            for server in &servers {
                match ask((*server, self.port).into(), &candidate) {
                    Ok(Some(address)) => return Ok(address),
                    Ok(None) => break,
                    Err(cause) => last = Error::new(format!("{name}: {server}: {cause}")),
                }
            }
        }
        Err(last)
    }

    /// Returns whether there is anyone to ask yet.
    pub(super) fn is_ready(&self) -> bool {
        let text = fs::read_to_string(&self.conf).unwrap_or_default();
        !configuration(&text).0.is_empty()
    }
}

/// Reads the nameservers and search domains of a resolv.conf(5).
fn configuration(text: &str) -> (Vec<Ipv4Addr>, Vec<&str>) {
    let (mut servers, mut domains) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                servers.extend(words.next().and_then(|w| w.parse::<Ipv4Addr>().ok()));
            }
            Some("search" | "domain") => domains = words.take(DOMAINS_MAX).collect(),
            _ => {}
        }
    }
    servers.truncate(SERVERS_MAX);
    (servers, domains)
}

/// A name with a dot is asked for as it is; one without, in the search domains first.
fn candidates(name: &str, domains: &[&str]) -> Vec<String> {
    let name = name.trim_end_matches('.');
    let mut all = Vec::new();
    if !name.contains('.') {
        all.extend(
            domains
                .iter()
                .map(|d| format!("{name}.{}", d.trim_matches('.'))),
        );
    }
    all.push(name.to_owned());
    all
}

/// Asks one server. `None`: there is no such name or address.
fn ask(server: SocketAddr, name: &str) -> Result<Option<Ipv4Addr>> {
    let mut id = [0; 2];
    random(&mut id)?;
    let query = query(id, name)?;
    let mut found = Ok(None);
    udp::ask(server, &query, TIMEOUT, &mut |reply| {
        let answer = answer(reply, &query);
        let is_ours = answer.is_some();
        found = answer.unwrap_or(Ok(None));
        is_ours
    })?;
    found
}

/// Writes a recursive query for the A records of a name.
fn query(id: [u8; 2], name: &str) -> Result<Vec<u8>> {
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|l| (1..64).contains(l));
        let length = length.ok_or_else(|| Error::new(format!("{name:?} is no host name")))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    if message.len() > HEADER_BYTES + 254 {
        return Err(Error::new(format!("{name:?} is no host name")));
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(message)
}

/// Reads a reply to `query`; `None` if it is a reply to something else.
fn answer(reply: &[u8], query: &[u8]) -> Option<Result<Option<Ipv4Addr>>> {
    let question = query.get(HEADER_BYTES..)?;
    let is_ours = reply.get(..2) == query.get(..2)
        && reply.get(2)? & 0x80 != 0
        && reply
            .get(HEADER_BYTES..HEADER_BYTES + question.len())?
            .eq_ignore_ascii_case(question);
    if !is_ours {
        return None;
    }
    match reply.get(3)? & 15 {
        0 => {}
        // NXDOMAIN.
        3 => return Some(Ok(None)),
        code => return Some(Err(Error::new(format!("refused with code {code}")))),
    }
    let count = u16::from_be_bytes([*reply.get(6)?, *reply.get(7)?]);
    // Aliases come first and the addresses of what they lead to behind them, so the first address
    // is the answer whatever name it stands under.
    let address = address(reply.get(query.len()..)?, count);
    Some(Ok(address))
}

/// Returns the first A record of `count` records.
fn address(mut records: &[u8], count: u16) -> Option<Ipv4Addr> {
    for _ in 0..count {
        records = skip_name(records)?;
        let fixed = records.get(..10)?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = records.get(10..10 + length)?;
        if fixed[..4] == [0, 1, 0, 1] {
            let octets: [u8; 4] = data.try_into().ok()?;
            return Some(octets.into());
        }
        records = records.get(10 + length..)?;
    }
    None
}

/// Steps over a name, which ends with an empty label or a pointer.
fn skip_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        match *bytes.first()? {
            0 => return bytes.get(1..),
            length @ 1..64 => bytes = bytes.get(1 + usize::from(length)..)?,
            192.. => return bytes.get(2..),
            _ => return None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::*;

    /// Answers `count` queries with what `reply` makes of each; returns a resolver that asks it.
    pub(in crate::jobs) fn server(
        directory: &std::path::Path,
        count: usize,
        reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for _ in 0..count {
                let mut buffer = [0; 600];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                for message in reply(&buffer[..length]) {
                    socket.send_to(&message, from).unwrap();
                }
            }
        });
        let conf = directory.join("resolv.conf");
        fs::write(&conf, "# x\nsearch a.test b.test\nnameserver 127.0.0.1\n").unwrap();
        Resolver { conf, port }
    }

    /// A reply to a query with an alias before the address.
    pub(in crate::jobs) fn reply(query: &[u8], octets: [u8; 4]) -> Vec<u8> {
        let mut message = query.to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        message[7] = 2;
        message.extend_from_slice(&[192, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'x', 192, 12]);
        message.extend_from_slice(&[1, b'x', 192, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        message.extend_from_slice(&octets);
        message
    }

    #[test]
    fn the_address_behind_an_alias_from_who_was_asked() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = server(directory.path(), 1, |query| {
            let mut other_id = reply(query, [6, 6, 6, 6]);
            other_id[0] ^= 1;
            let mut other_name = reply(query, [6, 6, 6, 6]);
            other_name[13] = b'z';
            vec![vec![1], other_id, other_name, reply(query, [10, 1, 2, 3])]
        });
        assert_eq!(
            resolver.resolve("meta.internal").unwrap(),
            Ipv4Addr::new(10, 1, 2, 3)
        );
        assert_eq!(
            resolver.resolve("9.8.7.6").unwrap(),
            Ipv4Addr::new(9, 8, 7, 6)
        );
    }

    #[test]
    fn a_short_name_is_looked_for_in_the_search_domains() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = server(directory.path(), 2, |query| {
            let mut message = reply(query, [10, 0, 0, 1]);
            if query.windows(3).any(|w| w == b"\x01a\x04") {
                message[3] |= 3;
            }
            vec![message]
        });
        assert!(resolver.is_ready());
        assert_eq!(
            resolver.resolve("meta").unwrap(),
            Ipv4Addr::new(10, 0, 0, 1)
        );
    }

    #[test]
    fn failures_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = server(directory.path(), 2, |query| {
            let mut message = reply(query, [0; 4]);
            message[3] |= if query.len() > 25 { 3 } else { 5 };
            vec![message]
        });
        let error = |name: &str| resolver.resolve(name).unwrap_err().to_string();
        assert_eq!(error("absent.example"), "absent.example: no such name");
        assert_eq!(error("a.b"), "a.b: 127.0.0.1: refused with code 5");
        assert!(error("a..b").contains("no host name"));
        assert!(error(&"a.".repeat(140)).contains("no host name"));
        fs::write(&resolver.conf, "nameserver ::1\n").unwrap();
        assert!(!resolver.is_ready());
        assert!(error("a.b").contains("no nameserver"));
    }

    proptest! {
        #[test]
        fn any_reply_is_fine(bytes: Vec<u8>, tail: Vec<u8>, count: u16) {
            let query = query([1, 2], "a.b").unwrap();
            let _ = answer(&bytes, &query);
            let mut reply = query.clone();
            reply[2] = 0x80;
            reply[6..8].copy_from_slice(&count.to_be_bytes());
            reply.extend_from_slice(&tail);
            prop_assert!(answer(&reply, &query).is_some());
        }
    }
}
