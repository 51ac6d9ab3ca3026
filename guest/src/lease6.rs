//! The DHCPv6 client (RFC 8415): an address when a router says that addresses are managed, else
//! what the servers know of DNS when it says that there is other configuration.
//!
//! In: what routers ask for, packets, the time. Out: an address on the interface, and who is to be
//! asked for names. Nobody waits for it; without a router it sends nothing and opens nothing.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::dhcp6::{self, FOREVER, Granted, Kind, Reply, Request, status};
use crate::network::Interface;
use crate::resolver::Told;
use crate::routers::Asks;
use crate::{netlink, say};

/// All relay agents and servers of the link.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
/// Seconds (7.6): longest wait before the first message, and between any two.
const DELAY_MAX_MILLIS: u64 = 1000;
const WAIT_MAX: u32 = 3600;
/// What a server may make of that.
const WAITS: std::ops::RangeInclusive<u32> = 60..=86_400;
/// Seconds between Informs.
const REFRESH: u32 = 86_400;
const REFRESH_MIN: u32 = 600;
/// Messages without answer: Requests, Declines, and those after which nobody waits for us.
const REQUESTS_MAX: u32 = 10;
const DECLINES_MAX: u32 = 4;
const LONELY_MIN: u32 = 3;
/// Of servers whose choice this is, no other is waited for.
const PREFERENCE_MAX: u8 = 255;
const PREFIX: u8 = 128;

/// What we are at.
#[derive(Debug, Clone)]
enum State {
    /// No router has asked for anything.
    Idle,
    /// Looking for a server; the best so far.
    Soliciting(Option<Reply>),
    /// Asking for what this one has.
    Requesting(Reply),
    /// Has an address.
    Bound,
    /// Asks its server to keep it, then everyone.
    Renewing,
    Rebinding,
    /// Says to a server that somebody else has this address.
    Declining(Vec<u8>, Ipv6Addr),
    /// Asking for DNS servers only.
    Informing,
    /// Has them.
    Informed,
}

/// An address we hold.
#[derive(Debug)]
struct Lease {
    server: Vec<u8>,
    granted: Granted,
    rebind: Option<Instant>,
    end: Option<Instant>,
}

/// The client of one interface.
#[derive(Debug)]
pub(crate) struct Client {
    interface: Interface,
    state: State,
    lease: Option<Lease>,
    /// Open only while talking.
    socket: Option<UdpSocket>,
    deadline: Option<Instant>,
    xid: [u8; 3],
    began: Instant,
    wait: u64,
    tries: u32,
    /// Longest waits of Solicits and Informs, in seconds.
    waits_max: (u32, u32),
    random: RandomState,
    drawn: u64,
    told: Told,
}

impl Client {
    /// Begins, with nothing to do.
    pub(crate) fn new(interface: Interface, now: Instant) -> Self {
        Self {
            interface,
            state: State::Idle,
            lease: None,
            socket: None,
            deadline: None,
            xid: [0; 3],
            began: now,
            wait: 0,
            tries: 0,
            waits_max: (WAIT_MAX, WAIT_MAX),
            random: RandomState::new(),
            drawn: 0,
            told: Told::default(),
        }
    }

    /// Returns what to poll for reading.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Returns when [`Self::advance`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the address held.
    pub(crate) fn address(&self) -> Option<Ipv6Addr> {
        Some(self.lease.as_ref()?.granted.address)
    }

    /// Returns what servers say about DNS.
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }

    /// Returns whether nothing is asked for that may come soon.
    pub(crate) fn is_settled(&self) -> bool {
        self.kind().is_none() || self.lease.is_some() || self.tries >= LONELY_MIN
    }

    /// Does what routers ask for. What one has asked for, another does not take back.
    pub(crate) fn hear_router(&mut self, asks: Asks, now: Instant) {
        match (asks, &self.state) {
            (Asks::Address, State::Idle | State::Informing | State::Informed) => {
                self.enter_later(State::Soliciting(None), now);
            }
            (Asks::Other, State::Idle) => self.enter_later(State::Informing, now),
            _ => {}
        }
    }

    /// Gives up an address that another machine has, as the kernel has found out.
    pub(crate) fn decline(&mut self, now: Instant) {
        if let Some(lease) = self.lease.take() {
            let address = lease.granted.address;
            self.give_up(address, "another machine has it");
            self.enter(State::Declining(lease.server, address), now);
        }
    }

    /// Reads what arrived and does what is due; returns whether more is known about DNS.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let before = self.told.clone();
        while let Some(reply) = self.receive() {
            self.hear(reply, now);
        }
        while self.deadline.is_some_and(|deadline| deadline <= now) {
            self.due(now);
        }
        if self.kind().is_none() {
            self.socket = None;
        }
        before != self.told
    }

    fn kind(&self) -> Option<Kind> {
        match self.state {
            State::Soliciting(_) => Some(Kind::Solicit),
            State::Requesting(_) => Some(Kind::Request),
            State::Renewing => Some(Kind::Renew),
            State::Rebinding => Some(Kind::Rebind),
            State::Declining(..) => Some(Kind::Decline),
            State::Informing => Some(Kind::Inform),
            State::Idle | State::Bound | State::Informed => None,
        }
    }

    /// Begins a transaction, whose first message is due at once.
    fn enter(&mut self, state: State, now: Instant) {
        let [a, b, c, ..] = self.draw().to_be_bytes();
        self.xid = [a, b, c];
        self.state = state;
        self.tries = 0;
        self.deadline = Some(now);
    }

    /// Begins one that many machines may begin at the same time.
    fn enter_later(&mut self, state: State, now: Instant) {
        self.enter(state, now);
        let delay = self.draw() % DELAY_MAX_MILLIS;
        self.deadline = Some(now + Duration::from_millis(delay));
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash_one(self.drawn)
    }

    /// Goes on where a deadline has been reached.
    fn due(&mut self, now: Instant) {
        let (rebind, end) = match &self.lease {
            Some(lease) => (lease.rebind, lease.end),
            None => (None, None),
        };
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match &self.state {
            State::Bound | State::Renewing | State::Rebinding if is_over(end) => {
                self.lose("lease ran out", now);
            }
            State::Bound => self.enter(State::Renewing, now),
            State::Renewing if is_over(rebind) => self.enter(State::Rebinding, now),
            State::Soliciting(Some(offer)) => self.enter(State::Requesting(offer.clone()), now),
            State::Requesting(_) if self.tries >= REQUESTS_MAX => {
                self.enter(State::Soliciting(None), now);
            }
            State::Declining(..) if self.tries >= DECLINES_MAX => {
                self.enter_later(State::Soliciting(None), now);
            }
            State::Informed => self.enter_later(State::Informing, now),
            State::Idle => self.deadline = None,
            State::Renewing => self.transmit(rebind, now),
            State::Rebinding => self.transmit(end, now),
            _ => self.transmit(None, now),
        }
    }

    /// Sends what the state calls for, and sets the time of the next try (15).
    fn transmit(&mut self, until: Option<Instant>, now: Instant) {
        let Some(kind) = self.kind() else {
            return;
        };
        if self.tries == 0 {
            self.began = now;
        }
        if let Err(cause) = self.send(kind, now)
            // Before its own address is there, nothing can be sent.
            && cause.raw_os_error() != Some(libc::EADDRNOTAVAIL)
            && self.tries == 0
        {
            say!("dhcpv6: send: {cause}");
        }
        let (first, longest) = match kind {
            Kind::Request => (1, 30),
            Kind::Renew | Kind::Rebind => (10, 600),
            Kind::Inform => (1, self.waits_max.1),
            _ => (1, self.waits_max.0),
        };
        // In thousandths: between 0.9 and 1.1, of a Solicit's first never below 1.
        let chance = 900 + self.draw() % 201;
        let longest = u64::from(longest) * 1000;
        self.wait = match self.tries {
            0 if kind == Kind::Solicit => first * chance.max(1001),
            0 => first * chance,
            _ => self.wait * (1000 + chance) / 1000,
        };
        if self.wait > longest {
            self.wait = longest * chance / 1000;
        }
        self.tries += 1;
        let next = now + Duration::from_millis(self.wait);
        self.deadline = Some(until.map_or(next, |until| next.min(until)));
    }

    fn send(&mut self, kind: Kind, now: Instant) -> std::io::Result<()> {
        let leased = self.lease.as_ref().map(|it| it.granted.address);
        let (server, address) = match &self.state {
            State::Requesting(offer) => (
                Some(&offer.server),
                offer.granted.map(|it| it.address).or(leased),
            ),
            State::Renewing => (self.lease.as_ref().map(|it| &it.server), leased),
            State::Declining(server, address) => (Some(server), Some(*address)),
            _ => (None, leased),
        };
        let request = Request {
            kind,
            xid: self.xid,
            mac: self.interface.mac,
            server: server.map(Vec::as_slice),
            address,
            elapsed: now - self.began,
        };
        let bytes = request.bytes();
        if self.socket.is_none() {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, CLIENT_PORT))?;
            socket.set_nonblocking(true)?;
            self.socket = Some(socket);
        }
        let to = SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.interface.index);
        if let Some(socket) = &self.socket {
            socket.send_to(&bytes, to)?;
        }
        Ok(())
    }

    /// Takes the next reply to us off the socket; others are passed over.
    fn receive(&self) -> Option<Reply> {
        let socket = self.socket.as_ref()?;
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).ok()?;
            // Who is not on our link has no say.
            let SocketAddr::V6(from) = from else {
                continue;
            };
            if from.scope_id() != self.interface.index {
                continue;
            }
            let (mac, current) = (self.interface.mac, self.address());
            if let Some(reply) = dhcp6::parse(&buffer[..length], self.xid, mac, current) {
                return Some(reply);
            }
        }
    }

    fn hear(&mut self, reply: Reply, now: Instant) {
        let take = |own: &mut u32, said: Option<u32>| {
            *own = said.filter(|it| WAITS.contains(it)).unwrap_or(*own);
        };
        take(&mut self.waits_max.0, reply.waits_max.0);
        take(&mut self.waits_max.1, reply.waits_max.1);
        let is_good = reply.status == status::SUCCESS && reply.granted.is_some();
        match (&mut self.state, reply.kind) {
            (State::Soliciting(best), Kind::Advertise) if is_good => {
                if reply.preference == PREFERENCE_MAX || self.tries > 1 {
                    self.enter(State::Requesting(reply), now);
                } else if best
                    .as_ref()
                    .is_none_or(|it| it.preference < reply.preference)
                {
                    *best = Some(reply);
                }
            }
            (State::Soliciting(_), Kind::Reply) if is_good && reply.is_rapid => {
                self.bind(reply, now);
            }
            (State::Requesting(offer), Kind::Reply) if offer.server == reply.server => {
                match reply.status {
                    _ if is_good => self.bind(reply, now),
                    status::UNSPECIFIED | status::USE_MULTICAST => {}
                    _ => self.enter_later(State::Soliciting(None), now),
                }
            }
            (State::Renewing | State::Rebinding, Kind::Reply) => match reply.status {
                _ if is_good => self.bind(reply, now),
                status::NO_BINDING => self.enter(State::Requesting(reply), now),
                _ if reply.is_withdrawn => self.lose("withdrawn by the server", now),
                _ => {}
            },
            (State::Declining(..), Kind::Reply) => {
                self.enter_later(State::Soliciting(None), now);
            }
            (State::Informing, Kind::Reply) if reply.status == status::SUCCESS => {
                self.take_names(&reply);
                self.state = State::Informed;
                let refresh = reply.refresh.unwrap_or(REFRESH).max(REFRESH_MIN);
                self.deadline = after(refresh, now);
            }
            _ => {}
        }
    }

    fn take_names(&mut self, reply: &Reply) {
        let name = &self.interface.name;
        let servers = reply.nameservers.iter();
        self.told = Told {
            servers: servers
                .map(|it| match it.is_unicast_link_local() {
                    true => format!("{it}%{name}"),
                    false => it.to_string(),
                })
                .collect(),
            domains: reply.domains.clone(),
        };
    }

    fn bind(&mut self, reply: Reply, now: Instant) {
        let Some(granted) = reply.granted else {
            return;
        };
        let (address, (preferred, valid)) = (granted.address, granted.lifetimes);
        let previous = self.address();
        if let Some(old) = previous.filter(|old| *old != address) {
            let _ = netlink::remove_address(self.interface.index, old.into(), PREFIX);
        }
        let name = &self.interface.name;
        let set = netlink::add_address6(self.interface.index, address, (preferred, valid));
        match set {
            Err(cause) => say!("{name}: {address}: {cause}"),
            Ok(()) if previous == Some(address) => {}
            Ok(()) if valid == FOREVER => say!("{name}: {address}/{PREFIX} (DHCPv6)"),
            Ok(()) => say!("{name}: {address}/{PREFIX} (DHCPv6, lease {valid} s)"),
        }
        self.take_names(&reply);
        self.lease = Some(Lease {
            server: reply.server,
            granted,
            rebind: after(granted.timers.1, now),
            end: after(valid, now),
        });
        self.state = State::Bound;
        self.deadline = after(granted.timers.0, now).or(after(valid, now));
    }

    fn lose(&mut self, why: &str, now: Instant) {
        if let Some(lease) = self.lease.take() {
            self.give_up(lease.granted.address, why);
        }
        self.enter_later(State::Soliciting(None), now);
    }

    fn give_up(&self, address: Ipv6Addr, why: &str) {
        say!("{}: {address} given up: {why}", self.interface.name);
        // The kernel may have removed it already.
        let _ = netlink::remove_address(self.interface.index, address.into(), PREFIX);
    }
}

/// Returns when so many seconds will have passed.
fn after(seconds: u32, now: Instant) -> Option<Instant> {
    (seconds != FOREVER).then(|| now + Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests;
