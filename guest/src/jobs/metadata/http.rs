//! What an HTTP/1.1 server answered (RFC 9112), read from bytes.
//!
//! In: what has arrived so far. Out: status, body and where a redirect leads, or "not yet". Only
//! what metadata services send: bodies with a length, in chunks, or up to the end of the stream.

use crate::error::{Error, Result};

/// Largest answer read, head included; the largest userdata of any provider is 256 KiB (GCP).
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Largest head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Status code.
    pub(super) status: u16,
    /// `Location`, of a redirect.
    pub(super) location: Option<String>,
    /// The body, chunks joined.
    pub(super) body: Vec<u8>,
}

/// How the end of a body is told.
enum Framing {
    Length(usize),
    Chunks,
    EndOfStream,
}

/// Parses what has arrived; `ended` says that no more will. `None`: more is needed.
pub(super) fn parse(bytes: &[u8], ended: bool) -> Result<Option<Answer>> {
    let parsed = head_and_body(bytes, ended)?;
    if parsed.is_none() {
        if ended {
            return Err(Error::new("the answer ends before its end"));
        }
        if bytes.len() >= ANSWER_BYTES_MAX {
            return Err(Error::new(format!(
                "the answer exceeds {ANSWER_BYTES_MAX} bytes"
            )));
        }
    }
    Ok(parsed)
}

fn head_and_body(mut bytes: &[u8], ended: bool) -> Result<Option<Answer>> {
    let (head, body, status) = loop {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return match bytes.len() {
                0..=HEAD_BYTES_MAX => Ok(None),
                _ => Err(Error::new("the answer's head does not end")),
            };
        };
        let head = String::from_utf8_lossy(&bytes[..end]);
        bytes = &bytes[end + 4..];
        match status(head.lines().next().unwrap_or_default())? {
            // The real answer follows.
            100..200 => {}
            status => break (head, bytes, status),
        }
    };
    let (mut framing, mut location) = (Framing::EndOfStream, None);
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            return Err(Error::new(format!("{line:?} is no header")));
        };
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Error::new(format!("transfer encoding {value:?}")));
            }
            framing = Framing::Chunks;
        } else if name.eq_ignore_ascii_case("content-length") && !matches!(framing, Framing::Chunks)
        {
            let length = value.parse().ok().filter(|l| *l <= ANSWER_BYTES_MAX);
            let length = length.ok_or_else(|| Error::new(format!("a body of {value:?} bytes")))?;
            framing = Framing::Length(length);
        } else if name.eq_ignore_ascii_case("location") {
            location = Some(value.to_owned());
        }
    }
    if matches!(status, 204 | 304) {
        framing = Framing::Length(0);
    }
    let body = match framing {
        Framing::Length(length) => body.get(..length).map(<[u8]>::to_vec),
        Framing::Chunks => chunks(body)?,
        Framing::EndOfStream => ended.then(|| body.to_vec()),
    };
    Ok(body.map(|body| Answer {
        status,
        location,
        body,
    }))
}

fn status(line: &str) -> Result<u16> {
    let code = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    code.filter(|code| (100..600).contains(code))
        .ok_or_else(|| Error::new(format!("{line:?} is no HTTP/1.1 answer")))
}

/// Joins chunks; `None` until the last, empty one is there. Trailers are not looked at.
fn chunks(mut bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&bytes[..end]);
        let digits = line.split(';').next().unwrap_or_default().trim_ascii();
        let size = usize::from_str_radix(digits, 16)
            .ok()
            .filter(|s| *s <= ANSWER_BYTES_MAX);
        let size = size.ok_or_else(|| Error::new(format!("a chunk of {digits:?} bytes")))?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Ok(Some(body));
        }
        let (Some(chunk), Some(end)) = (bytes.get(..size), bytes.get(size..size + 2)) else {
            return Ok(None);
        };
        if end != b"\r\n" {
            return Err(Error::new("a chunk is longer than it says"));
        }
        body.extend_from_slice(chunk);
        bytes = &bytes[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Answer {
        parse(text.as_bytes(), true).unwrap().unwrap()
    }

    #[test]
    fn bodies_with_a_length_in_chunks_and_to_the_end() {
        let length = "HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\nabcdef";
        assert_eq!(whole(length).body, b"abc");
        assert_eq!(parse(&length.as_bytes()[..40], false).unwrap(), None);
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n\
                      3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(whole(chunks).body, b"abc0123456789");
        assert_eq!(
            parse(&chunks.as_bytes()[..chunks.len() - 9], false).unwrap(),
            None
        );
        let stream = "HTTP/1.0 404 Not Found\r\n\r\nno";
        assert_eq!(parse(stream.as_bytes(), false).unwrap(), None);
        assert_eq!(
            (whole(stream).status, whole(stream).body),
            (404, b"no".to_vec())
        );
        assert_eq!(
            whole("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n").status,
            204
        );
        let moved = whole("HTTP/1.1 301 Moved\r\nLocation: /x/\r\n\r\n");
        assert_eq!(moved.location.as_deref(), Some("/x/"));
    }

    #[test]
    fn lies_are_refused() {
        for (text, why) in [
            ("SSH-2.0-OpenSSH\r\n\r\n", "no HTTP/1.1 answer"),
            ("HTTP/1.1 2000 OK\r\n\r\n", "no HTTP/1.1 answer"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
                "99999999",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "-1"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
                "before its end",
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "gzip"),
            ("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "no header"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
                "fffffffff",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
                "longer",
            ),
        ] {
            let error = parse(text.as_bytes(), true).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let endless = vec![b'a'; HEAD_BYTES_MAX + 1];
        assert!(parse(&endless, false).is_err());
        let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        long.resize(ANSWER_BYTES_MAX, b'a');
        assert!(
            parse(&long, false)
                .unwrap_err()
                .to_string()
                .contains("exceeds")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>, ended: bool) {
            let _ = parse(&bytes, ended);
        }

        #[test]
        fn any_head_and_body_are_fine(head in "(?s).{0,60}", body: Vec<u8>, chunked: bool) {
            let how = if chunked { "transfer-encoding: chunked" } else { "x: y" };
            let mut bytes = format!("HTTP/1.1 200 OK\r\n{how}\r\n{head}\r\n\r\n").into_bytes();
            bytes.extend_from_slice(&body);
            let _ = parse(&bytes, true);
        }

        #[test]
        fn chunks_join_to_what_was_cut(parts in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..40), 0..6)) {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for part in &parts {
                bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(parse(&bytes, false).unwrap(), None);
            bytes.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(parse(&bytes, false).unwrap().unwrap().body, parts.concat());
        }
    }
}
