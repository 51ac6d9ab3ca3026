//! A body that survives broken connections: what layers and packages are streamed with.
//!
//! Enters: a way to open the resource at an offset. Leaves: its bytes from 0 to the end, as one
//! `Read`. After a break or a silence the rest is asked for by range; a server that ignores ranges
//! sends all again, and what is already known is skipped. Nothing is verified here but that all
//! answers speak of the same resource (length and strong ETag); digests are the reader's work.

use std::io::{self, Read};
use std::time::Duration;

use super::http::{Http, HttpError, Response, connection};

/// Bytes that must arrive for a failure not to count as one more in a row.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Breaks survived in one download, however much arrived between them.
const BREAKS_MAX: u32 = 100;

type Open = Box<dyn FnMut(u64) -> Result<Response, HttpError> + Send>;

/// The bytes of a resource, resumed after failures; errors are [`HttpError`]s inside
/// [`io::Error`]s.
pub struct Download {
    open: Open,
    http: Http,
    body: Option<Box<dyn Read + Send>>,
    url: String,
    /// Bytes handed out.
    offset: u64,
    /// Bytes of the whole resource, when a server said so.
    total: Option<u64>,
    etag: Option<String>,
    /// Bytes of the current body still to be thrown away.
    skip: u64,
    failures: u32,
    breaks: u32,
    /// Offset at the last failure that counted anew.
    mark: u64,
    ended: bool,
}

/// Streams `url` from its first byte.
///
/// # Errors
/// When the first answer is not a success; later failures come from `read`.
pub fn download(http: &Http, url: &str, headers: &[(&str, &str)]) -> Result<Download, HttpError> {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let (client, url) = (http.clone(), url.to_owned());
    let open = move |from| {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        client.get(&url, &headers, from)
    };
    Download::new(http, Box::new(open))
}

impl Download {
    /// Streams what `open` opens at an offset; it is called again after each break.
    ///
    /// # Errors
    /// When the first opening fails.
    pub fn new(http: &Http, mut open: Open) -> Result<Self, HttpError> {
        let first = open(0)?;
        let mut download = Self {
            open,
            http: http.clone(),
            body: None,
            url: first.url.clone(),
            offset: 0,
            total: None,
            etag: None,
            skip: 0,
            failures: 0,
            breaks: 0,
            mark: 0,
            ended: false,
        };
        download.accept(first)?;
        Ok(download)
    }

    /// Returns the size of the whole resource in bytes, when the server said so.
    #[must_use]
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Accepts an answer as the continuation at `self.offset`.
    fn accept(&mut self, response: Response) -> Result<(), HttpError> {
        let changed = |reason: String| HttpError::Answer {
            url: response.url.clone(),
            reason,
        };
        let total = response
            .length
            .map(|length| length.saturating_add(response.from));
        if let (Some(before), Some(now)) = (self.total, total)
            && before != now
        {
            return Err(changed(format!(
                "changed while reading: {before} bytes, then {now}"
            )));
        }
        let etag = response
            .header("etag")
            .filter(|etag| !etag.starts_with("W/"));
        if let (Some(before), Some(now)) = (&self.etag, etag)
            && before != now
        {
            return Err(changed(format!(
                "changed while reading: etag {before}, then {now}"
            )));
        }
        if response.from > self.offset {
            return Err(changed(format!(
                "asked for bytes from {}, got them from {}",
                self.offset, response.from
            )));
        }
        self.etag = self.etag.take().or_else(|| etag.map(str::to_owned));
        self.total = self.total.or(total);
        self.skip = self.offset - response.from;
        self.body = Some(response.body);
        Ok(())
    }

    /// Notes a failure; returns it as an error when it was one too many.
    fn failed(&mut self, error: io::Error) -> io::Result<()> {
        self.body = None;
        if self.offset >= self.mark.saturating_add(PROGRESS_BYTES) {
            self.failures = 0;
            self.mark = self.offset;
        }
        self.failures += 1;
        self.breaks += 1;
        if self.failures >= self.http.options().attempts.max(1) || self.breaks > BREAKS_MAX {
            let at = match self.total {
                Some(total) => format!("{} of {total} bytes", self.offset),
                None => format!("{} bytes", self.offset),
            };
            let mut error = connection(self.url.clone(), error.into());
            if let HttpError::Connection {
                cause, attempts, ..
            } = &mut error
            {
                *cause = format!("broken after {at}: {cause}");
                *attempts = self.failures;
            }
            return Err(io::Error::other(error));
        }
        // The first break is met at once: most are a connection that idled out.
        let wait = if self.failures == 1 {
            Duration::ZERO
        } else {
            self.http.backoff(self.failures - 1)
        };
        std::thread::sleep(wait);
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let response = (self.open)(self.offset).map_err(io::Error::other)?;
        self.accept(response).map_err(io::Error::other)
    }

    /// Reads from the current body; `Ok(0)` is the end of that body, perhaps too early.
    fn read_body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(body) = &mut self.body else {
            return Ok(0);
        };
        let mut rubbish = [0; 16 << 10];
        while self.skip > 0 {
            let wanted = rubbish
                .len()
                .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            let read = body.read(&mut rubbish[..wanted])?;
            if read == 0 {
                return Ok(0);
            }
            self.skip -= read as u64;
        }
        body.read(buffer)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // Everything is here: no request for the zero bytes after the end.
            if self.total == Some(self.offset) {
                self.ended = true;
                if let Some(mut body) = self.body.take() {
                    // Seeing the end is what gives the connection back for reuse.
                    let _ = body.read(&mut [0]);
                }
                return Ok(0);
            }
            if self.body.is_none() {
                self.reopen()?;
            }
            let room = self.total.map_or(u64::MAX, |total| total - self.offset);
            let room = buffer
                .len()
                .min(usize::try_from(room).unwrap_or(usize::MAX));
            match self.read_body(&mut buffer[..room]) {
                Ok(0) if self.total.is_none() && self.skip == 0 => {
                    self.ended = true;
                    return Ok(0);
                }
                Ok(0) => self.failed(io::Error::other("the connection ended too early"))?,
                Ok(read) => {
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failed(error)?,
            }
        }
    }
}
