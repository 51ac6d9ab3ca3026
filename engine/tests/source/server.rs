//! An HTTP server in the test's process that does as it is told: also badly.
//!
//! The tests of the binary (`tests/support`) use it too.
#![allow(dead_code, reason = "each of the two uses a part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a client sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// Requests for this path before this one.
    pub(crate) nth: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The offset of a `Range: bytes=N-`.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").strip_prefix("bytes=");
        range
            .and_then(|range| range.trim_end_matches('-').parse().ok())
            .unwrap_or(0)
    }
}

/// What the server does.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    fault: Fault,
    chunked: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Closes the connection after so many bytes of the body.
    CutAfter(usize),
    /// Says nothing more after so many bytes of the body.
    HangAfter(usize),
    /// Closes without an answer.
    Close,
    /// Never answers.
    Hang,
    /// Sends the body again and again.
    Endless,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        let fault = Fault::None;
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            fault,
            chunked: false,
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// The whole, or the range that was asked for.
    pub(crate) fn range(body: &[u8], request: &Request) -> Self {
        match request.from() {
            0 => Self::ok(body),
            from if from >= body.len() => Self::status(416),
            from => Self::status(206)
                .header(
                    "Content-Range",
                    format!("bytes {from}-{}/{}", body.len() - 1, body.len()),
                )
                .body(&body[from..]),
        }
    }

    pub(crate) fn close() -> Self {
        Self::status(0).with(Fault::Close)
    }

    pub(crate) fn hang() -> Self {
        Self::status(0).with(Fault::Hang)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Changes the body.
    pub(crate) fn spoilt(mut self, spoil: impl FnOnce(&mut Vec<u8>)) -> Self {
        spoil(&mut self.body);
        self
    }

    pub(crate) fn cut_after(self, bytes: usize) -> Self {
        self.with(Fault::CutAfter(bytes))
    }

    pub(crate) fn hang_after(self, bytes: usize) -> Self {
        self.with(Fault::HangAfter(bytes))
    }

    pub(crate) fn endless(self) -> Self {
        self.with(Fault::Endless)
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    fn with(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log_of_thread, stop_of_thread) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop_of_thread.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log_of_thread));
                let stop = Arc::clone(&stop_of_thread);
                std::thread::spawn(move || serve(stream, &*handler, &log, &stop));
            }
        });
        Self { address, log, stop }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log().lock().unwrap().clone()
    }

    /// What was asked, also from other threads.
    pub(crate) fn log(&self) -> Arc<Mutex<Vec<Request>>> {
        Arc::clone(&self.log)
    }

    /// Paths asked for, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .map(|request| request.path)
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>, stop: &AtomicBool) {
    let Some(mut request) = read_request(&stream) else {
        return;
    };
    {
        let mut log = log.lock().unwrap();
        request.nth = log
            .iter()
            .filter(|before| before.path == request.path)
            .count();
        log.push(request.clone());
    }
    let reply = handler(&request);
    let _ = write_reply(&mut stream, &reply, stop);
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: u64 = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Request {
        method,
        path,
        headers,
        body,
        nth: 0,
    })
}

fn write_reply(stream: &mut TcpStream, reply: &Reply, stop: &AtomicBool) -> std::io::Result<()> {
    match reply.fault {
        Fault::Close => return Ok(()),
        Fault::Hang => {
            sleep_until(stop);
            return Ok(());
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !matches!(reply.fault, Fault::Endless) {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let end = match reply.fault {
        Fault::CutAfter(bytes) | Fault::HangAfter(bytes) => bytes.min(reply.body.len()),
        _ => reply.body.len(),
    };
    if reply.chunked {
        for chunk in reply.body[..end].chunks(1000) {
            write!(stream, "{:x}\r\n", chunk.len())?;
            stream.write_all(chunk)?;
            stream.write_all(b"\r\n")?;
        }
        if matches!(reply.fault, Fault::None) {
            stream.write_all(b"0\r\n\r\n")?;
        }
    } else {
        stream.write_all(&reply.body[..end])?;
    }
    stream.flush()?;
    match reply.fault {
        Fault::HangAfter(_) => sleep_until(stop),
        Fault::Endless => {
            while !stop.load(Ordering::SeqCst) {
                stream.write_all(&reply.body)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn sleep_until(stop: &AtomicBool) {
    let started = Instant::now();
    while !stop.load(Ordering::SeqCst) && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
