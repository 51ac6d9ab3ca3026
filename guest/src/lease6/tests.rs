//! The client against Debian's servers, each in a network of its own at the other end of a wire. The
//! kernel is the real one; hours pass by telling the client so.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::routers::Routers;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PATIENCE: Duration = Duration::from_secs(30);
const NAMES: &str = "--dhcp-option=option6:dns-server,[fd00:6::53] \
                     --dhcp-option=option6:domain-search,ex.org,b.ex.org";

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The other end of the wire.
struct Far {
    shell: Child,
    directory: tempfile::TempDir,
}

impl Far {
    /// Lays the wire, in a new network of this thread.
    fn new() -> (Self, Interface) {
        crate::sys::unshare(rustix::thread::UnshareFlags::NEWNET).expect("root runs this test");
        let shell = Command::new("unshare")
            .args(["-n", "sh"])
            .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .spawn()
            .expect("unshare is in Debian's util-linux");
        let mut far = Self {
            shell,
            directory: tempfile::tempdir().unwrap(),
        };
        let pid = far.shell.id();
        // Not before it has a network of its own.
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = || fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let began = Instant::now();
        while theirs() == own {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        run(&format!(
            "ip link add wan0 address 52:54:00:12:34:56 type veth peer name lan0 netns {pid}"
        ));
        far.tell("sysctl -qw net.ipv6.conf.lan0.accept_dad=0");
        far.tell("ip addr add fd00:6::1/64 dev lan0 nodad; ip link set lan0 up");
        // SAFETY: a terminated string goes in, a number comes out.
        let index = unsafe { libc::if_nametoindex(c"wan0".as_ptr()) };
        let interface = Interface {
            name: "wan0".into(),
            index,
            mac: MAC,
        };
        (far, interface)
    }

    /// Has its shell do something.
    fn tell(&mut self, command: &str) {
        let stdin = self.shell.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}").unwrap();
    }

    /// Starts dnsmasq, as a router as well.
    fn dnsmasq(&mut self, arguments: &str) {
        let place = self.directory.path().display().to_string();
        self.tell(&format!(
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=lan0 \
             --user=root --enable-ra --pid-file= --dhcp-leasefile={place}/leases {arguments} {NAMES} \
             --log-facility={place}/log &"
        ));
    }

    /// Starts ISC's dhcpd, whose addresses are renewed after 100 seconds and lost after 400.
    fn dhcpd(&mut self) {
        let place = self.directory.path().display().to_string();
        let conf = "default-lease-time 400; preferred-lifetime 300;\n\
                    option dhcp-renewal-time 100; option dhcp-rebinding-time 200;\n\
                    option dhcp6.name-servers fd00:6::54;\n\
                    subnet6 fd00:6::/64 { range6 fd00:6::200 fd00:6::2ff; }\n";
        fs::write(format!("{place}/conf"), conf).unwrap();
        fs::write(format!("{place}/isc"), "").unwrap();
        self.tell(&format!(
            "dhcpd -6 -d -cf {place}/conf -lf {place}/isc -pf {place}/pid --no-pid lan0 \
             2>{place}/log &"
        ));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.tell("kill -CONT $!; kill $!; exit");
        let _ = self.shell.wait();
    }
}

/// The client with what it lives by.
struct Near {
    routers: Routers,
    client: Client,
    /// How far it is ahead of the clock.
    ahead: Duration,
}

impl Near {
    fn new(interface: &Interface) -> Self {
        Self {
            routers: Routers::open(interface.index).unwrap(),
            client: Client::new(interface.clone(), Instant::now()),
            ahead: Duration::ZERO,
        }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Lives until it is as wanted.
    fn until(&mut self, far: &Far, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            let client = &self.client;
            let log = far.log();
            assert!(began.elapsed() < PATIENCE, "not {what}: {client:?}\n{log}");
            std::thread::sleep(Duration::from_millis(10));
            let now = self.now();
            self.routers.listen(self.client.address());
            if self.routers.take_duplicate() {
                self.client.decline(now);
            }
            self.client.hear_router(self.routers.asks(), now);
            self.client.advance(now);
        }
    }

    fn end(&self) -> Option<Instant> {
        self.client.lease.as_ref()?.end
    }
}

/// What the kernel has.
fn addresses() -> String {
    run("ip -6 -o addr show dev wan0 scope global")
}

#[test]
fn where_a_router_says_managed_there_is_an_address() {
    let (mut far, interface) = Far::new();
    far.dnsmasq("--dhcp-range=fd00:6::100,fd00:6::1ff,64,2m");
    let mut near = Near::new(&interface);
    netlink::link_up(interface.index, None).unwrap();
    near.until(&far, "bound", |it| it.client.address().is_some());
    assert_eq!(near.routers.asks(), Asks::Address);
    let first = near.client.address().unwrap();
    let held = addresses();
    assert!(held.contains(&format!("{first}/128")), "{held}");
    let told = near.client.told();
    assert_eq!(told.servers, ["fd00:6::53"]);
    assert_eq!(told.domains, ["ex.org", "b.ex.org"]);
    assert!(near.client.fd().is_none() && near.client.is_settled());

    // Half of two minutes later it is renewed.
    let end = near.end();
    near.ahead += Duration::from_secs(61);
    near.until(&far, "renewed", |it| it.end() > end);
    assert_eq!(near.client.address(), Some(first));
    assert!(matches!(near.client.state, State::Bound));

    // After a restart somebody else has the address that this machine gets again.
    run(&format!("ip addr del {first}/128 dev wan0"));
    far.tell(&format!("ip addr add {first}/128 dev lan0 nodad"));
    let mut near = Near::new(&interface);
    near.until(&far, "bound again", |it| it.client.address().is_some());
    assert_eq!(near.client.address(), Some(first));
    near.until(&far, "given another", |it| {
        it.client.address().is_some_and(|address| address != first)
    });
    let held = addresses();
    let second = near.client.address().unwrap();
    assert!(held.contains(&format!("{second}/128")), "{held}");
    assert!(!held.contains(&format!("{first}/")), "{held}");
    let log = far.log();
    assert!(log.contains("DHCPDECLINE"), "{log}");
}

#[test]
fn where_a_router_says_other_there_are_names_only() {
    let (mut far, interface) = Far::new();
    far.dnsmasq("--dhcp-range=fd00:6::,ra-stateless");
    let mut near = Near::new(&interface);
    netlink::link_up(interface.index, None).unwrap();
    near.until(&far, "told", |it| !it.client.told().servers.is_empty());
    assert_eq!(near.routers.asks(), Asks::Other);
    assert_eq!(near.client.told().servers, ["fd00:6::53"]);
    assert_eq!(near.client.told().domains, ["ex.org", "b.ex.org"]);
    assert_eq!(near.client.address(), None);
    assert!(near.client.fd().is_none());
    // A day later it asks again.
    let deadline = near.client.deadline();
    near.ahead += Duration::from_secs(86_500);
    near.until(&far, "told again", |it| {
        matches!(it.client.state, State::Informed) && it.client.deadline() > deadline
    });
}

#[test]
fn an_address_is_asked_for_renewed_rebound_and_lost() {
    let (mut far, interface) = Far::new();
    far.dhcpd();
    let mut near = Near::new(&interface);
    netlink::link_up(interface.index, None).unwrap();
    // It is another one that says so here.
    near.client.hear_router(Asks::Address, Instant::now());
    near.until(&far, "asking", |it| {
        matches!(it.client.state, State::Requesting(_))
    });
    near.until(&far, "bound", |it| it.client.address().is_some());
    let address = near.client.address();
    assert_eq!(near.client.told().servers, ["fd00:6::54"]);
    let lease = near.client.lease.as_ref().unwrap();
    assert_eq!(lease.granted.lifetimes, (300, 400));
    assert_eq!(lease.granted.timers, (100, 200));

    let end = near.end();
    near.ahead += Duration::from_secs(101);
    near.until(&far, "renewed", |it| it.end() > end);

    // Its server does not hear; from T2 on it asks all of them.
    far.tell("kill -STOP $!");
    let end = near.end();
    near.ahead += Duration::from_secs(101);
    near.until(&far, "renewing", |it| {
        matches!(it.client.state, State::Renewing) && it.client.tries > 0
    });
    near.ahead += Duration::from_secs(100);
    near.until(&far, "rebinding", |it| {
        matches!(it.client.state, State::Rebinding) && it.client.tries > 0
    });
    far.tell("kill -CONT $!");
    near.until(&far, "rebound", |it| it.end() > end);
    assert_eq!(near.client.address(), address);
    let log = far.log();
    for said in ["Solicit", "Request", "Renew", "Rebind"] {
        assert!(log.contains(&format!("{said} message from")), "{log}");
    }

    far.tell("kill -STOP $!");
    near.ahead += Duration::from_secs(401);
    near.until(&far, "lost", |it| it.client.address().is_none());
    assert_eq!(addresses(), "");
}

#[test]
fn without_a_router_nothing_is_sent() {
    let (_far, interface) = Far::new();
    let mut near = Near::new(&interface);
    near.client.hear_router(Asks::Nothing, Instant::now());
    assert!(!near.client.advance(Instant::now()));
    assert!(near.client.fd().is_none() && near.client.deadline().is_none());
    assert!(near.client.is_settled());
}
