//! A way to a guest's vsock port through its monitor: a "hybrid vsock", which is a Unix socket where
//! one asks for a port (Firecracker's `docs/vsock.md`, "Host-Initiated Connections"; Cloud
//! Hypervisor's `docs/vsock.md` is the same).
//!
//! Enters: the monitor's socket. Leaves: a stream to kiln-init.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A guest's number on its vsock: the first that is nobody's (vsock(7)). It is seen by no other machine.
pub(crate) const GUEST_CID: u32 = 3;
/// Where kiln-init listens (`VSOCK_PORT` of `guest/src/session.rs`).
const PORT: u32 = 1010;
/// A monitor says at once that nobody listens, once the guest has the driver. Before that it may say
/// nothing.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// `OK ` and a number of 32 bits.
const ANSWER_BYTES_MAX: usize = 32;
/// A guest that boots does not listen yet.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Connects to kiln-init; none when it did not listen within `patience`.
///
/// # Errors
/// When the monitor is gone, or talks nonsense.
pub(crate) fn connect(
    socket: &Path,
    patience: Option<Duration>,
    cancelled: impl Fn() -> bool,
) -> io::Result<Option<UnixStream>> {
    let began = Instant::now();
    loop {
        if cancelled() || patience.is_some_and(|patience| began.elapsed() > patience) {
            return Ok(None);
        }
        let stream = UnixStream::connect(socket)?;
        match ask(stream) {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
            // It has hung up, or says nothing.
            Err(_) => std::thread::sleep(TRY_EVERY),
        }
    }
}

fn ask(mut stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
    // What follows the line is the guest's.
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < ANSWER_BYTES_MAX {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    if !line.starts_with(b"OK ") {
        let line = String::from_utf8_lossy(&line);
        let message = format!("its vsock answers {:?} and not OK", line.trim_end());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A monitor that gives these answers, one a connection.
    fn monitor(socket: &Path, answers: &'static [&'static str]) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 13];
                stream.read_exact(&mut asked).unwrap();
                assert_eq!(&asked, b"CONNECT 1010\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        })
    }

    #[test]
    fn it_is_asked_until_somebody_listens() {
        let space = tempfile::tempdir().unwrap();
        let socket = space.path().join("vsock.sock");
        let answers = &["", "OK", "OK 1073741824\nhello"];
        let monitor = monitor(&socket, answers);
        let mut stream = connect(&socket, None, || false).unwrap().unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello");
        monitor.join().unwrap();
        // It is gone.
        assert!(connect(&socket, None, || false).is_err());
    }

    #[test]
    fn patience_and_nonsense_end_it() {
        let space = tempfile::tempdir().unwrap();
        let socket = space.path().join("vsock.sock");
        let monitor = monitor(&socket, &["", "HTTP/1.1 400 Bad Request, and much more\n"]);
        let none = Duration::from_millis(1);
        assert!(connect(&socket, Some(none), || false).unwrap().is_none());
        let error = connect(&socket, None, || false).unwrap_err();
        assert!(error.to_string().contains("HTTP/1.1 400"), "{error}");
        monitor.join().unwrap();
        assert!(connect(&socket, None, || true).unwrap().is_none());
    }
}
