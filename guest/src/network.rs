//! The machine's own network: `ip=` from the kernel command line, or DHCP on the first Ethernet
//! interface, beside everything else.
//!
//! The rules, simplest first:
//! - `kiln.net=off`: nothing. `ip=off` or `ip=none` mean the same.
//! - a container that runs a network program ([`PROGRAMS`]) in the machine's network has it to itself;
//! - `ip=ADDRESS:SERVER:GATEWAY:MASK:HOST:DEVICE:AUTOCONF:DNS:DNS` (the kernel's
//!   `Documentation/admin-guide/nfs/nfsroot.rst`) is set once;
//! - otherwise DHCP. `kiln.net=wait` holds services back until there is an address.
//!
//! Of IPv6 the kernel takes care, and DHCPv6 ([`crate::lease6`]) where routers ask for it; where
//! nobody answers to DHCP, an address or a DNS server by IPv6 is as good as an address.
//!
//! One descriptor and one deadline are all it wants from the event loop.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cmdline::Cmdline;
use crate::dhcp::{self, Kind, Reply, Request};
use crate::error::{Context, Error, Result};
use crate::lease6;
use crate::resolver::Resolver;
use crate::routers::Routers;
use crate::{netlink, say, sys};

/// Programs that configure the network; a container that runs one turns ours off.
pub(crate) const PROGRAMS: [&str; 8] = [
    "dhcpcd",
    "dhclient",
    "udhcpc",
    "ip",
    "ifup",
    "systemd-networkd",
    "NetworkManager",
    "connmand",
];

/// Waits between repeated requests: first, then doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(16);
/// Requests without answer after which IPv6 is enough.
const LONELY_MIN: u32 = 3;
/// Requests without answer before an offer is given up.
const REQUESTS_MAX: u32 = 4;
/// Shortest wait between attempts to renew (RFC 2131, 4.4.5).
const RENEW_WAIT_MIN: Duration = Duration::from_secs(60);

/// An Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its index.
    pub(crate) index: u32,
    /// Its hardware address.
    pub(crate) mac: [u8; 6],
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing.
    Off,
    /// DHCP, on a named interface or the first.
    Dhcp(Option<String>),
    /// Fixed.
    Static(Static),
}

/// A fixed configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Static {
    /// Interface; the first if none.
    pub(crate) device: Option<String>,
    /// Address and prefix length.
    pub(crate) address: (Ipv4Addr, u8),
    /// Default gateway.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// DNS servers.
    pub(crate) nameservers: Vec<Ipv4Addr>,
    /// Host name.
    pub(crate) hostname: Option<String>,
}

impl Plan {
    /// Reads `ip=`.
    pub(crate) fn of(cmdline: &Cmdline) -> Result<Self> {
        let Some(value) = cmdline.value("ip") else {
            return Ok(Self::Dhcp(None));
        };
        Self::parse(value).context(|| format!("ip={value}"))
    }

    fn parse(value: &str) -> Result<Self> {
        let fields: Vec<&str> = value.split(':').collect();
        let field = |n: usize| fields.get(n).copied().filter(|f| !f.is_empty());
        if let [word] = fields[..]
            && word.parse::<Ipv4Addr>().is_err()
        {
            return Self::word(word, None);
        }
        let address = |n: usize| -> Result<Option<Ipv4Addr>> {
            let parse = |f: &str| f.parse().context(|| format!("field {}: {f:?}", n + 1));
            field(n).map(parse).transpose()
        };
        let device = field(5).map(str::to_owned);
        let Some(own) = address(0)? else {
            return Self::word(field(6).unwrap_or("dhcp"), device);
        };
        let prefix = match address(3)? {
            Some(mask) => dhcp::prefix(&mask.octets())
                .ok_or_else(|| Error::new(format!("{mask} is not a netmask")))?,
            None => dhcp::classful(own),
        };
        let nameservers = [address(7)?, address(8)?];
        Ok(Self::Static(Static {
            device,
            address: (own, prefix),
            gateway: address(2)?,
            nameservers: nameservers.into_iter().flatten().collect(),
            hostname: field(4).map(str::to_owned),
        }))
    }

    fn word(word: &str, device: Option<String>) -> Result<Self> {
        match word {
            "dhcp" | "on" | "any" => Ok(Self::Dhcp(device)),
            "off" | "none" => Ok(Self::Off),
            _ => Err(Error::new(format!("unknown word {word:?}"))),
        }
    }
}

/// Where a DHCP client is (RFC 2131, figure 5).
#[derive(Debug)]
enum State {
    /// Waiting for an interface.
    NoInterface,
    /// Looking for a server.
    Selecting,
    /// Asking for what was offered.
    Requesting(Reply),
    /// Has an address.
    Bound(Lease),
    /// Static, or given up for good.
    Done,
}

/// An address we hold.
#[derive(Debug, Clone)]
struct Lease {
    reply: Reply,
    renew: Instant,
    rebind: Instant,
    end: Instant,
}

/// The way out for requests.
#[derive(Debug)]
enum Socket {
    /// Whole packets, while there is no address.
    Packet(OwnedFd),
    /// To the server that gave the lease.
    Unicast(UdpSocket),
}

/// The network client.
#[derive(Debug)]
pub(crate) struct Network {
    plan: Plan,
    state: State,
    interface: Option<Interface>,
    socket: Option<Socket>,
    deadline: Option<Instant>,
    xid: u32,
    wait: Duration,
    tries: u32,
    began: Instant,
    resolver: Resolver,
    routers: Option<Routers>,
    /// The client of DHCPv6, where there is an interface.
    six: Option<lease6::Client>,
}

impl Network {
    /// Starts: with an interface at once, without one when it appears.
    pub(crate) fn start(plan: Plan, now: Instant) -> Self {
        let random = RandomState::new().hash_one("kiln xid");
        let mut network = Self {
            plan,
            state: State::NoInterface,
            interface: None,
            socket: None,
            deadline: None,
            xid: random as u32,
            wait: RETRY_FIRST,
            tries: 0,
            began: now,
            resolver: Resolver::default(),
            routers: None,
            six: None,
        };
        network.interface_appeared(now);
        network
    }

    /// Returns whether there is nothing more to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        let is_lonely = matches!(self.state, State::Selecting) && self.tries >= LONELY_MIN;
        let six = self.six.as_ref();
        let has_six = !self.resolver.announced.is_empty()
            || !self.resolver.told.servers.is_empty()
            || six.is_some_and(|six| six.address().is_some());
        matches!(self.state, State::Bound(_) | State::Done)
            || is_lonely && has_six && six.is_none_or(lease6::Client::is_settled)
    }

    /// Returns what to poll for reading.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let socket = self.socket.iter().map(|socket| match socket {
            Socket::Packet(fd) => fd.as_fd(),
            Socket::Unicast(udp) => udp.as_fd(),
        });
        let routers = self.routers.iter().map(|it| it.socket.as_fd());
        let six = self.six.iter().filter_map(lease6::Client::fd);
        socket.chain(routers).chain(six)
    }

    /// Returns when [`Self::advance`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let six = self.six.as_ref().and_then(lease6::Client::deadline);
        [self.deadline, six].into_iter().flatten().min()
    }

    /// Looks for the interface again.
    pub(crate) fn interface_appeared(&mut self, now: Instant) {
        if !matches!(self.state, State::NoInterface) {
            return;
        }
        let wanted = match &self.plan {
            Plan::Off => {
                self.state = State::Done;
                return;
            }
            Plan::Dhcp(device) => device.clone(),
            Plan::Static(fixed) => fixed.device.clone(),
        };
        let Some(interface) = find_interface(Path::new("/sys/class/net"), wanted.as_deref()) else {
            return;
        };
        // Before the link is up, so that nothing a router says is missed. Without it there is no
        // IPv6, or no DNS server by it.
        if matches!(self.plan, Plan::Dhcp(_)) {
            self.routers = Routers::open(interface.index).ok();
            self.six = Some(lease6::Client::new(interface.clone(), now));
        }
        if let Err(cause) = netlink::link_up(interface.index, None) {
            say!("{}: {cause}", interface.name);
        }
        self.interface = Some(interface.clone());
        if let Plan::Static(fixed) = &self.plan {
            self.resolver.servers.clone_from(&fixed.nameservers);
            match set_static(&interface, fixed).and_then(|()| self.resolver.write()) {
                Ok(()) => say_address(&interface, fixed.address, "ip= on the command line"),
                Err(cause) => say!("{}: {cause}", interface.name),
            }
            self.state = State::Done;
            return;
        }
        self.select(now);
    }

    /// Reads what arrived and does what is due.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(reply) = self.receive() {
            self.hear(reply, now);
        }
        self.advance_six(now);
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.timeout(now);
        }
    }

    /// What routers say, and servers of DHCPv6.
    fn advance_six(&mut self, now: Instant) {
        let (Some(routers), Some(six), Some(interface)) =
            (&mut self.routers, &mut self.six, &self.interface)
        else {
            return;
        };
        let mut changed = routers.listen(six.address());
        if changed {
            self.resolver.announced = routers.servers(&interface.name);
        }
        if routers.take_duplicate() {
            six.decline(now);
        }
        six.hear_router(routers.asks(), now);
        if six.advance(now) {
            self.resolver.told = six.told().clone();
            changed = true;
        }
        if changed && let Err(cause) = self.resolver.write() {
            say!("{cause}");
        }
    }

    fn select(&mut self, now: Instant) {
        self.state = State::Selecting;
        self.xid = self.xid.wrapping_add(1);
        self.wait = RETRY_FIRST;
        self.tries = 0;
        self.began = now;
        self.open_packet_socket();
        self.transmit(now);
    }

    fn open_packet_socket(&mut self) {
        let Some(interface) = &self.interface else {
            return;
        };
        if matches!(self.socket, Some(Socket::Packet(_))) {
            return;
        }
        self.socket = match sys::packet_socket(interface.index) {
            Ok(fd) => Some(Socket::Packet(fd)),
            Err(cause) => {
                say!("{}: packet socket for DHCP: {cause}", interface.name);
                None
            }
        };
    }

    /// Sends what the state calls for and sets the time of the next try.
    fn transmit(&mut self, now: Instant) {
        self.deadline = Some(now + self.wait);
        self.wait = (self.wait * 2).min(RETRY_LAST);
        self.tries += 1;
        if let Some(request) = self.request(now)
            && let Err(cause) = self.send(&request)
            && self.tries == 1
        {
            say!("dhcp: send: {cause}");
        }
    }

    fn request(&self, now: Instant) -> Option<Request> {
        let mut request = Request {
            kind: Kind::Request,
            xid: self.xid,
            mac: self.interface.as_ref()?.mac,
            current: Ipv4Addr::UNSPECIFIED,
            wanted: None,
            server: None,
            seconds: u16::try_from((now - self.began).as_secs()).unwrap_or(u16::MAX),
        };
        match &self.state {
            State::Selecting => request.kind = Kind::Discover,
            State::Requesting(offer) => {
                request.wanted = Some(offer.address);
                request.server = Some(offer.server);
            }
            State::Bound(lease) => request.current = lease.reply.address,
            State::NoInterface | State::Done => return None,
        }
        Some(request)
    }

    fn send(&self, request: &Request) -> std::io::Result<()> {
        match (&self.socket, &self.interface) {
            (Some(Socket::Packet(fd)), Some(interface)) => {
                sys::send_broadcast(fd.as_fd(), interface.index, &request.packet())
            }
            (Some(Socket::Unicast(udp)), _) => udp.send(&request.payload()).map(drop),
            _ => Ok(()),
        }
    }

    fn receive(&self) -> Option<Reply> {
        let mac = self.interface.as_ref()?.mac;
        let mut buffer = [0; 2048];
        // Only replies to us count; the rest of the link's traffic is passed over.
        loop {
            let payload = match self.socket.as_ref()? {
                Socket::Packet(fd) => {
                    let length = rustix::io::read(fd, &mut buffer).ok()?;
                    dhcp::unwrap_packet(&buffer[..length])
                }
                Socket::Unicast(udp) => {
                    let length = udp.recv(&mut buffer).ok()?;
                    Some(&buffer[..length])
                }
            };
            if let Some(reply) = payload.and_then(|p| dhcp::parse(p, self.xid, mac)) {
                return Some(reply);
            }
        }
    }

    fn hear(&mut self, reply: Reply, now: Instant) {
        match (&self.state, reply.kind) {
            (State::Selecting, Kind::Offer) => {
                self.state = State::Requesting(reply);
                self.wait = RETRY_FIRST;
                self.tries = 0;
                self.transmit(now);
            }
            (State::Requesting(offer), Kind::Ack) if offer.server == reply.server => {
                self.bind(reply, now);
            }
            // A rebound lease may come from any server.
            (State::Bound(_), Kind::Ack) => self.bind(reply, now),
            (State::Requesting(offer), Kind::Nak) if offer.server == reply.server => {
                self.select(now);
            }
            (State::Bound(_), Kind::Nak) => self.lose("refused by the server", now),
            _ => {}
        }
    }

    fn bind(&mut self, reply: Reply, now: Instant) {
        let Some(interface) = self.interface.clone() else {
            return;
        };
        let previous = match &self.state {
            State::Bound(lease) => Some(lease.reply.clone()),
            _ => None,
        };
        let renewed = previous
            .as_ref()
            .is_some_and(|p| p.address == reply.address);
        if let Some(old) = previous.filter(|_| !renewed) {
            let _ = netlink::remove_address(interface.index, old.address.into(), old.prefix);
        }
        self.resolver.servers.clone_from(&reply.nameservers);
        self.resolver.domain.clone_from(&reply.domain);
        let set = set_lease(&interface, &reply).and_then(|()| self.resolver.write());
        if let Err(cause) = set {
            say!("{}: {cause}", interface.name);
        }
        if !renewed {
            let from = format!("DHCP server {}, lease {} s", reply.server, reply.lease);
            say_address(&interface, (reply.address, reply.prefix), &from);
        }
        let after = |seconds: u32| now + Duration::from_secs(u64::from(seconds));
        let lease = Lease {
            renew: after(reply.timers.0),
            rebind: after(reply.timers.1),
            end: after(reply.lease),
            reply,
        };
        let forever = lease.reply.lease == u32::MAX;
        self.deadline = (!forever).then_some(lease.renew);
        self.state = State::Bound(lease);
        // Open only while talking: it would hear every packet of the link.
        self.socket = None;
    }

    fn timeout(&mut self, now: Instant) {
        match &self.state {
            State::Selecting => self.transmit(now),
            State::Requesting(_) if self.tries >= REQUESTS_MAX => self.select(now),
            State::Requesting(_) => self.transmit(now),
            State::Bound(lease) => self.renew(&lease.clone(), now),
            State::NoInterface | State::Done => self.deadline = None,
        }
    }

    /// Asks the server from T1 on, everyone from T2 on, and gives the address up at the end.
    fn renew(&mut self, lease: &Lease, now: Instant) {
        if now >= lease.end {
            return self.lose("lease ran out", now);
        }
        let rebinding = now >= lease.rebind;
        if self.socket.is_none() {
            self.xid = self.xid.wrapping_add(1);
            self.began = now;
            self.tries = 0;
        }
        if rebinding {
            self.open_packet_socket();
        } else if self.socket.is_none() {
            match unicast(&lease.reply) {
                Ok(udp) => self.socket = Some(Socket::Unicast(udp)),
                Err(cause) => say!("dhcp: renew: {cause}"),
            }
        }
        self.transmit(now);
        let until = if rebinding { lease.end } else { lease.rebind };
        let half = (until - now) / 2;
        self.deadline = Some((now + half.max(RENEW_WAIT_MIN)).min(until));
    }

    fn lose(&mut self, why: &str, now: Instant) {
        if let (State::Bound(lease), Some(interface)) = (&self.state, &self.interface) {
            let address = lease.reply.address;
            say!("{}: {address} given up: {why}", interface.name);
            let _ = netlink::remove_address(interface.index, address.into(), lease.reply.prefix);
        }
        self.socket = None;
        self.select(now);
    }
}

fn unicast(reply: &Reply) -> Result<UdpSocket> {
    let open = || -> std::io::Result<UdpSocket> {
        let udp = UdpSocket::bind((reply.address, 68))?;
        udp.connect((reply.server, 67))?;
        udp.set_nonblocking(true)?;
        Ok(udp)
    };
    open().context(|| format!("{} to {}", reply.address, reply.server))
}

fn say_address(interface: &Interface, address: (Ipv4Addr, u8), from: &str) {
    say!("{}: {}/{} ({from})", interface.name, address.0, address.1);
}

fn set_static(interface: &Interface, fixed: &Static) -> Result<()> {
    let (address, prefix) = fixed.address;
    netlink::add_address(interface.index, address, prefix, None).context(|| "address")?;
    if let Some(gateway) = fixed.gateway {
        let everywhere = (Ipv4Addr::UNSPECIFIED, 0);
        netlink::add_route(interface.index, everywhere, Some(gateway), None)
            .context(|| format!("route by {gateway}"))?;
    }
    if let Some(hostname) = &fixed.hostname {
        rustix::system::sethostname(hostname.as_bytes()).context(|| "hostname")?;
    }
    Ok(())
}

fn set_lease(interface: &Interface, reply: &Reply) -> Result<()> {
    if reply.mtu.is_some() {
        netlink::link_up(interface.index, reply.mtu).context(|| "MTU")?;
    }
    let lifetime = (reply.lease != u32::MAX).then_some(reply.lease);
    netlink::add_address(interface.index, reply.address, reply.prefix, lifetime)
        .context(|| "address")?;
    for (destination, prefix, gateway) in &reply.routes {
        let destination = (*destination, *prefix);
        // RFC 3442: gateway 0.0.0.0 means the destination is on the link.
        let gateway = Some(*gateway).filter(|g| !g.is_unspecified());
        if let Some(gateway) = gateway
            && !on_link(gateway, (reply.address, reply.prefix))
        {
            // Clouds hand out a /32 with a gateway outside of it.
            netlink::add_route(interface.index, (gateway, 32), None, None)
                .context(|| format!("route to gateway {gateway}"))?;
        }
        netlink::add_route(interface.index, destination, gateway, Some(reply.address))
            .context(|| format!("route to {}/{}", destination.0, destination.1))?;
    }
    Ok(())
}

fn on_link(address: Ipv4Addr, network: (Ipv4Addr, u8)) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(network.1)).unwrap_or(0);
    (address.to_bits() ^ network.0.to_bits()) & mask == 0
}

/// Finds an interface by name, or the Ethernet one with the smallest index that is a device (not
/// a bridge or a veth).
fn find_interface(sys: &Path, wanted: Option<&str>) -> Option<Interface> {
    let read = |name: &str, file: &str| fs::read_to_string(sys.join(name).join(file)).ok();
    let names = fs::read_dir(sys)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| match wanted {
            Some(wanted) => name == wanted,
            None => {
                let is_ethernet = read(name, "type").is_some_and(|t| t.trim() == "1");
                is_ethernet && sys.join(name).join("device").exists()
            }
        })
        .filter_map(|name| {
            let index = read(&name, "ifindex")?.trim().parse().ok()?;
            let mac = parse_mac(read(&name, "address")?.trim())?;
            Some(Interface { name, index, mac })
        })
        .min_by_key(|interface| interface.index)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut octets = text.split(':').map(|o| u8::from_str_radix(o, 16).ok());
    let mac = [(); 6].map(|()| octets.next().flatten());
    if octets.next().is_some() || mac.contains(&None) {
        return None;
    }
    Some(mac.map(Option::unwrap_or_default))
}

/// Returns the host name of a machine without one: LinuxKit's, from the first interface.
pub(crate) fn default_hostname() -> Option<String> {
    let address = fs::read_to_string("/sys/class/net/eth0/address").ok()?;
    Some(format!("linuxkit-{}", address.trim().replace(':', "")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_of_ip() {
        assert_eq!(Plan::parse("dhcp").unwrap(), Plan::Dhcp(None));
        assert_eq!(Plan::parse("off").unwrap(), Plan::Off);
        assert_eq!(
            Plan::parse(":::::eth1:dhcp").unwrap(),
            Plan::Dhcp(Some("eth1".to_owned()))
        );
        assert!(Plan::parse("bootp7").is_err());
        assert_eq!(Plan::of(&Cmdline::default()).unwrap(), Plan::Dhcp(None));
    }

    #[test]
    fn static_addresses() {
        let Plan::Static(fixed) =
            Plan::parse("10.0.2.9::10.0.2.2:255.255.255.0:box:eth0:off:10.0.2.3").unwrap()
        else {
            panic!("not static")
        };
        assert_eq!(fixed.address, (Ipv4Addr::new(10, 0, 2, 9), 24));
        assert_eq!(fixed.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(fixed.nameservers, [Ipv4Addr::new(10, 0, 2, 3)]);
        assert_eq!(fixed.hostname.as_deref(), Some("box"));
        assert!(Plan::parse("10.0.2.9::10.0.2.2:255.0.255.0").is_err());
        let error = Plan::parse("10.0.2.9::gate").unwrap_err().to_string();
        assert!(error.contains("field 3"), "{error}");
    }

    #[test]
    fn the_first_device_with_an_ethernet_address() {
        let sys = tempfile::tempdir().unwrap();
        let interface = |name: &str, index: &str, kind: &str, device: bool| {
            let path = sys.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("type"), kind).unwrap();
            fs::write(path.join("ifindex"), index).unwrap();
            fs::write(path.join("address"), "52:54:00:12:34:56\n").unwrap();
            if device {
                fs::create_dir(path.join("device")).unwrap();
            }
        };
        interface("lo", "1\n", "772\n", false);
        interface("docker0", "2\n", "1\n", false);
        interface("eth10", "4\n", "1\n", true);
        interface("eth9", "3\n", "1\n", true);
        let found = find_interface(sys.path(), None).unwrap();
        assert_eq!((found.name.as_str(), found.index), ("eth9", 3));
        assert_eq!(found.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(
            find_interface(sys.path(), Some("docker0")).unwrap().index,
            2
        );
        assert_eq!(find_interface(sys.path(), Some("eth1")), None);
        assert_eq!(parse_mac("52:54:00:12:34"), None);
        assert_eq!(parse_mac("52:54:00:12:34:56:78"), None);
    }

    #[test]
    fn what_is_on_the_link() {
        let network = (Ipv4Addr::new(10, 0, 2, 15), 24);
        assert!(on_link(Ipv4Addr::new(10, 0, 2, 2), network));
        assert!(!on_link(Ipv4Addr::new(10, 0, 3, 2), network));
        assert!(!on_link(Ipv4Addr::new(10, 0, 2, 2), (network.0, 32)));
    }

    proptest! {
        #[test]
        fn any_ip_word_is_fine(value in ".{0,60}") {
            let _ = Plan::parse(&value);
        }
    }
}
