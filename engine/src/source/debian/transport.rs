//! What this room wants of HTTP: one method; and a body that survives broken connections.
//!
//! Enters: a URL. Leaves: its bytes, exactly as many as a signed index says. Redirects, proxies,
//! timeouts and TLS are the transport's business.

use std::io::{self, Read};

/// Attempts at a body that make no progress, before giving up.
const TRIES: u32 = 3;

/// A response body and, where the server tells, the number of bytes it will give.
pub type Body = (Option<u64>, Box<dyn Read + Send>);

/// Fetches URLs.
pub trait Transport: Sync {
    /// Opens `url`, leaving out the first `from` bytes of it.
    ///
    /// # Errors
    /// Anything but a body that starts at `from`.
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError>;
}

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot get {url}: {why}")]
pub struct TransportError {
    /// What was asked for.
    pub url: String,
    /// HTTP status, when a server answered.
    pub status: Option<u16>,
    /// What went wrong.
    pub why: String,
}

impl TransportError {
    /// Whether the server says that there is no such thing.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.status, Some(404 | 410))
    }
}

/// Reads `url` to its end.
///
/// # Errors
/// When it cannot be had, or is longer than `limit` bytes.
pub fn read_all(http: &dyn Transport, url: &str, limit: u64) -> Result<Vec<u8>, TransportError> {
    let fail = |why: String| TransportError {
        url: url.to_owned(),
        status: None,
        why,
    };
    let (_, body) = http.get(url, 0)?;
    let mut bytes = Vec::new();
    body.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(fail(format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// A body of known length that asks again, from where it was, when a connection breaks. It never
/// gives more than that length, and fails when it gets less.
pub struct Resuming<'h> {
    http: &'h dyn Transport,
    url: String,
    size: u64,
    at: u64,
    tries: u32,
    body: Option<Box<dyn Read + Send>>,
}

impl<'h> Resuming<'h> {
    /// Opens the first of `urls` that can be had; it shall be `size` bytes long.
    ///
    /// # Errors
    /// The last error, when none can be had or all announce another length.
    pub fn open(
        http: &'h dyn Transport,
        urls: &[String],
        size: u64,
    ) -> Result<Self, TransportError> {
        let mut last = None;
        for url in urls {
            match http.get(url, 0) {
                Ok((Some(length), _)) if length != size => {
                    last = Some(TransportError {
                        url: url.clone(),
                        status: None,
                        why: format!("it is {length} bytes long, the index says {size}"),
                    });
                }
                Ok((_, body)) => {
                    return Ok(Self {
                        http,
                        url: url.clone(),
                        size,
                        at: 0,
                        tries: 0,
                        body: Some(body),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| TransportError {
            url: String::new(),
            status: None,
            why: "it has no address".to_owned(),
        }))
    }

    fn reconnect(&mut self, why: &io::Error) -> io::Result<()> {
        self.tries += 1;
        self.body = None;
        if self.tries >= TRIES {
            let (at, size, url) = (self.at, self.size, &self.url);
            let text = format!("{url} broke off {TRIES} times at byte {at} of {size}: {why}");
            return Err(io::Error::new(why.kind(), text));
        }
        let (_, body) = self
            .http
            .get(&self.url, self.at)
            .map_err(io::Error::other)?;
        self.body = Some(body);
        Ok(())
    }
}

impl Read for Resuming<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let room = buf.len().min(left);
        if room == 0 {
            return Ok(0);
        }
        loop {
            let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
            let read = match &mut self.body {
                Some(body) => body.read(&mut buf[..room]),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match read {
                Ok(0) => self.reconnect(&gone)?,
                Ok(count) => {
                    self.at += count as u64;
                    self.tries = 0;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.reconnect(&error)?,
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Transports for tests: the real network, and one in memory that can be made to fail.

    use std::collections::BTreeMap;
    use std::io::Cursor;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// The real network.
    pub(crate) struct Net(ureq::Agent);

    impl Net {
        pub(crate) fn new() -> Self {
            let config = ureq::Agent::config_builder()
                .timeout_connect(Some(Duration::from_secs(10)))
                .timeout_global(Some(Duration::from_secs(120)))
                .build();
            Self(config.into())
        }
    }

    impl Transport for Net {
        fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
            let range = format!("bytes={from}-");
            let mut request = self.0.get(url);
            if from > 0 {
                request = request.header("range", &range);
            }
            let response = request.call().map_err(|error| TransportError {
                url: url.to_owned(),
                status: match error {
                    ureq::Error::StatusCode(code) => Some(code),
                    _ => None,
                },
                why: format!("{error} (this test needs the Debian mirrors of the host)"),
            })?;
            let body = response.into_body();
            let length = body.content_length();
            Ok((length, Box::new(body.into_reader())))
        }
    }

    /// Files in memory, by URL. Every body breaks off after `breaks` bytes, when that is set.
    #[derive(Default)]
    pub(crate) struct Memory {
        pub(crate) files: BTreeMap<String, Vec<u8>>,
        pub(crate) breaks: Option<u64>,
        pub(crate) requests: AtomicU32,
        pub(crate) log: Mutex<Vec<String>>,
    }

    impl Transport for Memory {
        fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.log.lock().unwrap().push(url.to_owned());
            let Some(bytes) = self.files.get(url) else {
                let (url, why) = (url.to_owned(), "404 not found".to_owned());
                return Err(TransportError {
                    url,
                    status: Some(404),
                    why,
                });
            };
            let rest = bytes[usize::try_from(from).unwrap()..].to_vec();
            let length = rest.len() as u64;
            let reader = Cursor::new(rest).take(self.breaks.unwrap_or(u64::MAX));
            Ok((Some(length), Box::new(reader)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Memory;
    use super::*;

    fn memory(breaks: Option<u64>) -> Memory {
        let bytes: Vec<u8> = (0..=255).collect();
        Memory {
            files: [("u".to_owned(), bytes)].into(),
            breaks,
            ..Memory::default()
        }
    }

    fn read(http: &Memory, size: u64) -> io::Result<Vec<u8>> {
        let urls = ["absent".to_owned(), "u".to_owned()];
        let mut body = Resuming::open(http, &urls, size).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn resumes_where_it_was() {
        let http = memory(Some(10));
        assert_eq!(read(&http, 256).unwrap(), (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            http.requests.into_inner(),
            27,
            "one that is absent, then one for each ten"
        );
    }

    #[test]
    fn gives_up_when_nothing_comes() {
        let http = memory(Some(0));
        let error = read(&http, 256).unwrap_err().to_string();
        assert!(
            error.contains("u broke off 3 times at byte 0 of 256"),
            "{error}"
        );
    }

    #[test]
    fn refuses_another_length() {
        let error = read(&memory(None), 255).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot get u: it is 256 bytes long, the index says 255"
        );
        let error = read_all(&memory(None), "u", 255).unwrap_err().to_string();
        assert_eq!(error, "cannot get u: it is longer than 255 bytes");
        assert!(read_all(&memory(None), "none", 9).unwrap_err().is_absent());
    }
}
