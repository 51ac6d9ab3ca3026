//! HTTP/1.1 over a Unix socket (RFC 9112), as much as a Docker engine speaks.
//!
//! Enters: a socket and a path. Leaves: a status and a body that ends where the engine says. One
//! request a connection. Heads, chunk sizes and trailers are bounded, silence ends after a while,
//! and a body that stops early is an error: nothing is taken for whole because the socket closed.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a head, or of the trailers after the last chunk.
const HEAD_MAX: usize = 64 << 10;
/// Bytes of the line that begins a chunk.
const CHUNK_LINE_MAX: usize = 1 << 10;
/// Interim answers (1xx) before the final one.
const INTERIM_MAX: usize = 8;
/// How often a silent engine's caller is asked whether it has given up.
const TICK: Duration = Duration::from_millis(200);

/// Tells whether the caller has given up.
pub(super) type GaveUp<'a> = &'a (dyn Fn() -> bool + Sync);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody listens at the socket, or not to this user.
    #[error("{0}")]
    Connect(io::Error),
    /// The connection broke, was silent for too long, or ended too early.
    #[error("the engine's answer broke off: {0}")]
    Broken(io::Error),
    /// What came is no HTTP that kiln understands.
    #[error("the engine's answer is damaged: {0}")]
    Malformed(String),
    /// The engine refused.
    #[error("the engine answers {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What it says about it.
        message: String,
    },
}

/// Says what a read failed of.
pub(super) fn broken(error: io::Error) -> EngineError {
    error.downcast().unwrap_or_else(EngineError::Broken)
}

fn malformed(text: impl Into<String>) -> EngineError {
    EngineError::Malformed(text.into())
}

/// An answer.
pub(super) struct Answer<R: Read> {
    pub(super) status: u16,
    pub(super) body: Body<R>,
}

/// Asks for a path. The path must be one already: nothing is escaped here.
pub(super) fn get<'a>(
    socket: &Path,
    path: &str,
    idle: Duration,
    gave_up: GaveUp<'a>,
) -> Result<Answer<Patient<'a>>, EngineError> {
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("a path that cannot be asked for"));
    }
    let mut stream = UnixStream::connect(socket).map_err(EngineError::Connect)?;
    stream
        .set_read_timeout(Some(TICK))
        .and_then(|()| stream.set_write_timeout(Some(idle)))
        .map_err(EngineError::Connect)?;
    let agent = concat!("kiln/", env!("CARGO_PKG_VERSION"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .map_err(EngineError::Broken)?;
    let patient = Patient {
        stream,
        idle,
        gave_up,
    };
    answer(BufReader::with_capacity(HEAD_MAX, patient))
}

/// Reads an answer's head.
fn answer<R: Read>(mut input: BufReader<R>) -> Result<Answer<R>, EngineError> {
    for _ in 0..=INTERIM_MAX {
        let mut left = HEAD_MAX;
        let line = line(&mut input, &mut left)?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().filter(|status| status.len() == 3);
        let status = status.and_then(|status| status.parse::<u16>().ok());
        let Some(status) = status.filter(|_| version.starts_with("HTTP/1.")) else {
            return Err(malformed("it does not begin with an HTTP status"));
        };
        let framing = framing(&mut input, &mut left)?;
        if (100..200).contains(&status) {
            continue;
        }
        let left = match framing {
            _ if status == 204 || status == 304 => Left::Length(0),
            (Some(_), true) => return Err(malformed("it has a length and is in chunks")),
            (Some(length), false) => Left::Length(length),
            (None, true) => Left::Chunk {
                left: 0,
                first: true,
            },
            (None, false) => return Err(malformed("it does not say where its body ends")),
        };
        return Ok(Answer {
            status,
            body: Body { input, left },
        });
    }
    Err(malformed("too many interim answers"))
}

/// Reads the headers to their end: the length, and whether the body is in chunks.
fn framing(input: &mut impl BufRead, left: &mut usize) -> Result<(Option<u64>, bool), EngineError> {
    let (mut length, mut chunked) = (None, false);
    loop {
        let line = line(input, left)?;
        if line.is_empty() {
            return Ok((length, chunked));
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(malformed("a header without a colon"));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let stated = value.parse::<u64>().ok().filter(|_| digits);
            let stated = stated.ok_or_else(|| malformed("its length is no number"))?;
            if length.is_some_and(|length| length != stated) {
                return Err(malformed("it has two lengths"));
            }
            length = Some(stated);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case("chunked") {
                return Err(malformed("it is transferred in an unknown way"));
            }
            chunked = true;
        }
    }
}

/// Reads a line without its end, and takes its length from what may still come.
fn line(input: &mut impl BufRead, left: &mut usize) -> Result<String, EngineError> {
    let mut bytes = Vec::new();
    let max = *left as u64;
    input
        .take(max)
        .read_until(b'\n', &mut bytes)
        .map_err(EngineError::Broken)?;
    *left -= bytes.len();
    if bytes.pop() != Some(b'\n') {
        return Err(match *left {
            0 => malformed("a head or line without end"),
            _ => EngineError::Broken(ErrorKind::UnexpectedEof.into()),
        });
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| malformed("its head is no text"))
}

/// A body, read to its end and no further.
pub(super) struct Body<R: Read> {
    input: BufReader<R>,
    left: Left,
}

enum Left {
    /// Bytes.
    Length(u64),
    /// Bytes of this chunk; whether no chunk has come yet.
    Chunk {
        left: u64,
        first: bool,
    },
    End,
}

impl<R: Read> Body<R> {
    /// Reads it whole, at most `max` bytes.
    pub(super) fn read_all(self, max: u64) -> Result<Vec<u8>, EngineError> {
        let mut bytes = Vec::new();
        self.take(max + 1).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 > max {
            return Err(malformed(format!("its body is longer than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Begins the next chunk: its size, after the end of the one before.
    fn begin_chunk(&mut self, first: bool) -> Result<u64, EngineError> {
        let mut left = CHUNK_LINE_MAX;
        if !first && !line(&mut self.input, &mut left)?.is_empty() {
            return Err(malformed("a chunk is longer than it says"));
        }
        let text = line(&mut self.input, &mut left)?;
        let digits = text.split(';').next().unwrap_or_default().trim_end();
        let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = u64::from_str_radix(digits, 16).ok().filter(|_| hex);
        let size = size.ok_or_else(|| malformed("a chunk's size is no number"))?;
        if size == 0 {
            let mut left = HEAD_MAX;
            while !line(&mut self.input, &mut left)?.is_empty() {}
        }
        Ok(size)
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Left::Chunk { left: 0, first } = self.left {
            self.left = match self.begin_chunk(first).map_err(io::Error::other)? {
                0 => Left::End,
                left => Left::Chunk { left, first: false },
            };
        }
        let left = match &mut self.left {
            Left::End | Left::Length(0) => return Ok(0),
            Left::Length(left) | Left::Chunk { left, .. } => left,
        };
        let most = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        *left -= read as u64;
        Ok(read)
    }
}

/// A socket that may be silent for a while, but not for ever, nor after the caller gave up.
pub(super) struct Patient<'a> {
    stream: UnixStream,
    idle: Duration,
    gave_up: GaveUp<'a>,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        loop {
            let error = match self.stream.read(buffer) {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut if (self.gave_up)() => {
                    // Not `Interrupted`: that would be tried again.
                    return Err(io::Error::other("given up"));
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut if began.elapsed() >= self.idle => {
                    let text = format!("silent for {} s", self.idle.as_secs_f32());
                    return Err(io::Error::new(ErrorKind::TimedOut, text));
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                _ => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<(u16, Vec<u8>), EngineError> {
        let bytes = text.as_ref();
        let answer = answer(BufReader::new(bytes))?;
        Ok((answer.status, answer.body.read_all(100)?))
    }

    fn refused(text: impl AsRef<[u8]>) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn lengths_and_chunks_are_read_to_their_end() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
        assert_eq!(read(length).unwrap(), (200, b"abc".to_vec()));
        let chunks = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n\
                      3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\nrest";
        assert_eq!(read(chunks).unwrap(), (404, b"abcde".to_vec()));
        assert_eq!(read("HTTP/1.1 204 OK\r\n\r\n").unwrap(), (204, Vec::new()));
    }

    #[test]
    fn heads_end() {
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(20_000));
        assert!(refused(endless).contains("without end"));
        assert!(refused("H".repeat(100_000)).contains("without end"));
        assert!(refused("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)).contains("interim"));
        assert!(refused("SSH-2.0\r\n").contains("HTTP status"));
        assert!(refused("HTTP/1.1 200 OK\r\nX: y").contains("broke off"));
        assert!(refused(b"HTTP/1.1 200 \xff\r\n").contains("no text"));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for (headers, reason) in [
            ("Content-Length: 5\r\n\r\nabc", "broke off"),
            (
                "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
                "two lengths",
            ),
            ("Content-Length: -1\r\n\r\n", "no number"),
            ("Content-Length: +3\r\n\r\nabc", "no number"),
            ("Content-Length: 99999999999999999999\r\n\r\n", "no number"),
            (
                "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
                "and is in chunks",
            ),
            ("Transfer-Encoding: gzip\r\n\r\nabc", "unknown way"),
            ("X: y\r\n\r\nabc", "where its body ends"),
            ("no colon\r\n\r\n", "without a colon"),
            ("Content-Length: 101\r\n\r\n", "broke off"),
        ] {
            let said = refused(format!("HTTP/1.1 200 OK\r\n{headers}"));
            assert!(said.contains(reason), "{headers:?}: {said}");
        }
        let long = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{}",
            "x".repeat(200)
        );
        assert!(refused(long).contains("longer than 100 bytes"));
    }

    #[test]
    fn chunks_that_lie_are_refused() {
        for (body, reason) in [
            ("5\r\nabc", "broke off"),
            ("3\r\nabc\r\n", "broke off"),
            ("3\r\nabc\r\n0\r\n", "broke off"),
            ("3\r\nabcd\r\n0\r\n\r\n", "longer than it says"),
            ("x\r\nabc", "no number"),
            ("\r\nabc", "no number"),
            ("+3\r\nabc", "no number"),
            ("ffffffffffffffffff\r\nabc", "no number"),
        ] {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let said = refused(format!("{head}{body}"));
            assert!(said.contains(reason), "{body:?}: {said}");
        }
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(refused(format!("{head}{}", "1".repeat(5000))).contains("without end"));
        let trailers = format!("{head}0\r\n{}", "X: y\r\n".repeat(20_000));
        assert!(refused(trailers).contains("without end"));
    }
}
