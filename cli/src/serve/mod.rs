//! A file server for machines that boot over the network.
//!
//! Enters: a listening socket and a directory. Leaves: files, by HTTP/1.1 (RFC 9110, RFC 9112) GET
//! and HEAD, one line a request to whoever listens. Whoever asks may be anybody: connections, the
//! size of a request, and the time it and each piece of the answer may take are bounded, memory is
//! the same for every file.

mod files;
mod request;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use files::{Answer, Body};
use request::{Head, HeadError, Method};

/// Connections at the same time; more are sent away.
const CONNECTIONS_MAX: usize = 128;
/// How often the wish to end is looked at.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// How long others may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the end of an answer, or the connection, to the end of the next request's head.
    pub(crate) head: Duration,
    /// For each piece of an answer to be taken.
    pub(crate) piece: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(15),
            piece: Duration::from_secs(30),
        }
    }
}

/// One request that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// Who asked.
    pub(crate) peer: SocketAddr,
    /// Method and target as they were written; empty when they could not be read.
    pub(crate) request: String,
    /// The status of the answer.
    pub(crate) status: u16,
    /// Bytes of the body that were sent.
    pub(crate) bytes: u64,
    /// Whether the other side took all of them.
    pub(crate) is_whole: bool,
}

/// Serves `root` until `end` is set.
///
/// # Errors
/// When nobody can be listened to any more.
pub(crate) fn serve(
    listener: &TcpListener,
    root: &Path,
    patience: Patience,
    end: &AtomicBool,
    log: impl Fn(&Served) + Send + Sync + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let root: Arc<Path> = root.into();
    let log = Arc::new(log);
    let open = Arc::new(AtomicUsize::new(0));
    while !end.load(Ordering::Relaxed) {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A signal ends it early, or the tick does.
                let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&TICK));
                continue;
            }
            // The other side went away again, or there are no descriptors left for a while.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            // Whoever does not take it at once does not get it.
            let _ = stream.set_nonblocking(true);
            let _ = (&stream).write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
            continue;
        }
        let (root, log) = (Arc::clone(&root), Arc::clone(&log));
        let slot = Slot::take(&open);
        let thread = std::thread::Builder::new().name("connection".into());
        // Without a thread the connection closes: what else is there to do.
        let _ = thread.spawn(move || {
            let _slot = slot;
            let _ = connection(&stream, peer, &root, patience, &*log);
        });
    }
    Ok(())
}

/// One of the connections that there may be.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers the requests of one connection, one after another.
fn connection(
    stream: &TcpStream,
    peer: SocketAddr,
    root: &Path,
    patience: Patience,
    log: &dyn Fn(&Served),
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(patience.piece))?;
    let mut input = Vec::new();
    loop {
        let (request, answer, method, stays) = match head(stream, &mut input, patience.head)? {
            Ok(Some(head)) => {
                let answer = match head.method {
                    Method::Other => Answer::error(405),
                    Method::Get | Method::Head => {
                        files::answer(root, &head.target, head.range.as_deref())
                    }
                };
                let stays = head.stays && answer.status != 405;
                (head.line, answer, head.method, stays)
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                let answer = Answer::error(error.status());
                (String::new(), answer, Method::Get, false)
            }
        };
        let status = answer.status;
        let length = answer.body.length();
        let sent = send(stream, answer, method, stays);
        let bytes = *sent.as_ref().unwrap_or(&0);
        let is_whole = sent.is_ok() && (bytes == length || method == Method::Head);
        log(&Served {
            peer,
            request,
            status,
            bytes,
            is_whole,
        });
        if !stays || !is_whole {
            return finish(stream, patience);
        }
    }
}

/// Closes a connection so that the answer arrives: what still comes in is taken and dropped, for
/// a moment, or the other side would be told that the connection broke.
fn finish(stream: &TcpStream, patience: Patience) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    let until = Instant::now() + patience.head.min(Duration::from_secs(1));
    let mut dropped = [0; 4096];
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut reader = stream;
        if reader.read(&mut dropped)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads the next request's head; `None` when none comes. What follows it stays in `input`.
fn head(
    stream: &TcpStream,
    input: &mut Vec<u8>,
    patience: Duration,
) -> io::Result<Result<Option<Head>, HeadError>> {
    let until = Instant::now() + patience;
    let mut piece = [0; 4096];
    loop {
        match Head::parse(input) {
            Ok(Some((head, length))) => {
                input.drain(..length);
                return Ok(Ok(Some(head)));
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        let late = match input.is_empty() {
            true => Ok(None),
            false => Err(HeadError::Late),
        };
        let Some(left) = until.checked_duration_since(Instant::now()) else {
            return Ok(late);
        };
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut reader = stream;
        match reader.read(&mut piece) {
            Ok(0) => return Ok(Ok(None)),
            Ok(length) => input.extend_from_slice(&piece[..length]),
            Err(error) if is_timeout(&error) => return Ok(late),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Sends an answer; returns how many bytes of its body.
fn send(stream: &TcpStream, answer: Answer, method: Method, stays: bool) -> io::Result<u64> {
    let mut stream = stream;
    let mut head = answer.head();
    if !stays {
        head += "Connection: close\r\n";
    }
    head += "\r\n";
    stream.write_all(head.as_bytes())?;
    if method == Method::Head {
        return Ok(0);
    }
    match answer.body {
        Body::Text(text) => {
            stream.write_all(text.as_bytes())?;
            Ok(text.len() as u64)
        }
        // The kernel copies it; a file that shrinks meanwhile ends the connection.
        Body::File(file, length) => io::copy(&mut file.take(length), &mut stream),
    }
}
