//! Requests to metadata servers: connections, time limits, redirects.
//!
//! In: a host, a path, headers. Out: a body, or why there is none. Plain HTTP/1.1, one connection
//! for each request, at most two seconds each. Until the network is there, a machine that has a
//! network device waits for it; a host that did not answer one provider is not asked by the next
//! one, since most of them live at the same address and a wait for each would be the whole boot.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::http::{self, Answer};
use crate::error::{Context, Error, Result};
use crate::jobs::dns::Resolver;

/// LinuxKit's limit for one request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a machine with a network device may be without a network.
const NETWORK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks at the network.
const NETWORK_PAUSE: Duration = Duration::from_millis(100);
/// Redirects followed, all on the same host.
const REDIRECTS_MAX: usize = 3;

/// A header: name and value.
pub(super) type Header<'a> = (&'a str, &'a str);

/// How servers are reached.
#[derive(Debug)]
pub(super) struct Client {
    /// Finds addresses of names.
    pub(super) resolver: Resolver,
    /// Stands in for every server, in tests.
    pub(super) server: Option<SocketAddr>,
    /// Ports that only root may use.
    pub(super) low_ports: RangeInclusive<u16>,
    /// When to stop waiting for the network.
    patience: Instant,
    /// Hosts that did not answer.
    silent: RefCell<Vec<String>>,
}

impl Client {
    /// Prepares; `sys` says whether the machine has a network device.
    pub(super) fn new(sys: &Path) -> Self {
        let interfaces = std::fs::read_dir(sys.join("class/net"));
        let has_device = interfaces
            .into_iter()
            .flatten()
            .flatten()
            .any(|interface| interface.path().join("device").exists());
        let wait = if has_device {
            NETWORK_WAIT_MAX
        } else {
            Duration::ZERO
        };
        Self {
            resolver: Resolver::default(),
            server: None,
            low_ports: 1..=1023,
            patience: Instant::now() + wait,
            silent: RefCell::default(),
        }
    }

    /// Gets a body; any status but 200 is an error.
    pub(super) fn get(&self, host: &str, path: &str, headers: &[Header<'_>]) -> Result<Vec<u8>> {
        ok(self.request("GET", host, path, headers, false)?, host, path)
    }

    /// Like [`Client::get`], from a port that only root may use.
    pub(super) fn get_as_root(&self, host: &str, path: &str) -> Result<Vec<u8>> {
        ok(self.request("GET", host, path, &[], true)?, host, path)
    }

    /// Asks a host that may not exist for the first time: the answer, if its status is 200. One
    /// that did not answer is not asked again.
    pub(super) fn probe(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[Header<'_>],
    ) -> Result<Vec<u8>> {
        if self.silent.borrow().iter().any(|silent| silent == host) {
            return Err(Error::new(format!("{host}: did not answer before")));
        }
        match self.request(method, host, path, headers, false) {
            Ok(answer) => ok(answer, host, path),
            Err(cause) => {
                self.silent.borrow_mut().push(host.to_owned());
                Err(cause)
            }
        }
    }

    fn request(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[Header<'_>],
        as_root: bool,
    ) -> Result<Answer> {
        let mut path = path.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("User-Agent: kiln\r\nConnection: close\r\n\r\n");
            if method == "PUT" {
                // A body of no bytes has to say so.
                head.insert_str(head.len() - 2, "Content-Length: 0\r\n");
            }
            let answer = self
                .connect(host, as_root)
                .and_then(|stream| exchange(stream, head.as_bytes()))
                .context(|| host)?;
            let leads = matches!(answer.status, 301 | 302 | 307 | 308);
            match answer.location.as_deref().filter(|_| leads) {
                Some(location) => path = path_on(host, location)?,
                None => return Ok(answer),
            }
        }
        Err(Error::new(format!("{host}{path}: redirects without end")))
    }

    fn connect(&self, host: &str, as_root: bool) -> Result<TcpStream> {
        loop {
            let waits = Instant::now() < self.patience;
            if self.server.is_none()
                && waits
                && host.parse::<std::net::Ipv4Addr>().is_err()
                && !self.resolver.is_ready()
            {
                std::thread::sleep(NETWORK_PAUSE);
                continue;
            }
            let address = match self.server {
                Some(address) => address,
                None => (self.resolver.resolve(host)?, 80).into(),
            };
            match connect(address, as_root.then(|| self.low_ports.clone())) {
                Err(Errno::NETUNREACH) if waits => std::thread::sleep(NETWORK_PAUSE),
                connected => return connected.context(|| "connect"),
            }
        }
    }
}

fn ok(answer: Answer, host: &str, path: &str) -> Result<Vec<u8>> {
    match answer.status {
        200 => Ok(answer.body),
        status => Err(Error::new(format!("{host}{path}: status {status}"))),
    }
}

/// Returns the path of a redirect that stays on the host.
fn path_on(host: &str, location: &str) -> Result<String> {
    let own = location
        .strip_prefix("http://")
        .and_then(|rest| rest.strip_prefix(host));
    let path = own.unwrap_or(location);
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if path.starts_with('/') && !path.starts_with("//") && is_plain {
        return Ok(path.to_owned());
    }
    Err(Error::new(format!("{host}: redirects to {location:?}")))
}

/// Connects, from the highest free one of the ports given.
fn connect(
    address: SocketAddr,
    from: Option<RangeInclusive<u16>>,
) -> std::result::Result<TcpStream, Errno> {
    let socket = || {
        let flags = SocketFlags::CLOEXEC;
        net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
    };
    let mut stream = socket()?;
    if let Some(ports) = from {
        let mut free = None;
        for port in ports.rev() {
            stream = socket()?;
            match net::bind(&stream, &SocketAddr::from(([0, 0, 0, 0], port))) {
                Ok(()) => free = Some(port),
                Err(Errno::ADDRINUSE) => continue,
                Err(cause) => return Err(cause),
            }
            break;
        }
        free.ok_or(Errno::ADDRINUSE)?;
    }
    // For connect(2) too, which then says EINPROGRESS (socket(7)).
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(TIMEOUT))?;
    match net::connect(&stream, &address) {
        Ok(()) => Ok(stream.into()),
        Err(Errno::INPROGRESS) => Err(Errno::TIMEDOUT),
        Err(cause) => Err(cause),
    }
}

/// Sends a request and reads until the answer is whole.
fn exchange(mut stream: TcpStream, request: &[u8]) -> Result<Answer> {
    stream.write_all(request).context(|| "send")?;
    let end = Instant::now() + TIMEOUT;
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(format!("no whole answer in {TIMEOUT:?}")));
        }
        stream.set_read_timeout(Some(left)).context(|| "timeout")?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(cause) => return Err(cause).context(|| "receive"),
        };
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some(answer) = http::parse(&bytes, count == 0)? {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Server, answer};
    use super::*;

    fn client(server: &Server) -> Client {
        let mut client = Client::new(Path::new("/nonexistent"));
        client.server = Some(server.address);
        client
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let server = Server::start(|request| match request.path.as_str() {
            "/a" => "HTTP/1.1 301 Moved\r\nLocation: /b/\r\n\r\n".into(),
            "/b/" => "HTTP/1.1 302 Found\r\nLocation: http://meta/c\r\n\r\n".into(),
            "/c" => answer("here"),
            "/out" => "HTTP/1.1 302 Found\r\nLocation: http://other/c\r\n\r\n".into(),
            "/out2" => "HTTP/1.1 302 Found\r\nLocation: //other/c\r\n\r\n".into(),
            _ => format!("HTTP/1.1 302 Found\r\nLocation: {}\r\n\r\n", request.path),
        });
        let client = client(&server);
        assert_eq!(client.get("meta", "/a", &[]).unwrap(), b"here");
        for (path, why) in [
            ("/out", "redirects to \"http://other"),
            ("/out2", "redirects to \"//other"),
            ("/x", "without end"),
        ] {
            let error = client.get("meta", path, &[]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn who_did_not_answer_is_not_asked_again() {
        let server = Server::start(|_| String::new());
        let client = client(&server);
        let probe = |host: &str| client.probe("GET", host, "/", &[]).unwrap_err().to_string();
        assert!(probe("meta").contains("ends before its end"));
        assert!(probe("meta").contains("did not answer before"));
        assert!(probe("other").contains("ends before its end"));
        assert_eq!(server.requests().len(), 2);
    }

    #[test]
    fn a_server_that_says_nothing_costs_two_seconds() {
        let server = Server::start(|_| {
            std::thread::sleep(Duration::from_secs(4));
            String::new()
        });
        let began = Instant::now();
        let error = client(&server)
            .get("meta", "/", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no whole answer"), "{error}");
        assert!((2..4).contains(&began.elapsed().as_secs()));
    }

    #[test]
    fn a_machine_with_a_network_device_waits_for_the_network() {
        let root = tempfile::tempdir().unwrap();
        let mut client = Client::new(root.path());
        assert!(client.patience <= Instant::now(), "no device, no wait");
        std::fs::create_dir_all(root.path().join("class/net/eth0/device")).unwrap();
        client = Client::new(root.path());
        client.resolver = crate::jobs::dns::tests::server(root.path(), 9, |query| {
            let mut message = crate::jobs::dns::tests::reply(query, [0; 4]);
            message[3] |= 3;
            vec![message]
        });
        let conf = client.resolver.conf.clone();
        let text = std::fs::read(&conf).unwrap();
        std::fs::write(&conf, "").unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            std::fs::write(&conf, text).unwrap();
        });
        let began = Instant::now();
        let error = client.get("meta.test", "/", &[]).unwrap_err().to_string();
        assert!(error.contains("no such name"), "{error}");
        assert!((300..5000).contains(&began.elapsed().as_millis()));
    }

    #[test]
    fn root_speaks_from_the_highest_free_port() {
        let server = Server::start(|_| answer("x"));
        let mut client = client(&server);
        // Some port that a test may use; the next one is taken.
        let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        client.low_ports = port - 50..=port;
        client.get_as_root("meta", "/").unwrap();
        let from = server.requests()[0].from.port();
        assert!((port - 50..port).contains(&from), "{from} of {port}");
    }
}
