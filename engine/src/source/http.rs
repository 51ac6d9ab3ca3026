//! HTTP as every source uses it, GET above all: proxies, own CAs, redirects, retries, idle timeouts.
//!
//! Enters: a URL and headers. Leaves: the status, headers and body stream of a final 2xx answer, or
//! an error that names URL, status or cause, and the number of attempts. Reading a body through a
//! broken connection is [`super::download`]'s work. Proxies and certificates are options, not
//! environment (but rustls-native-certs honours `SSL_CERT_FILE` and `SSL_CERT_DIR`, as OpenSSL
//! does).

mod agent;
mod error;
mod forward;
mod resolver;
mod url;

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Uri};

use agent::Agents;
pub(super) use error::connection;
pub use error::{ConnectionFailure, HttpError};
pub(super) use url::is_listed;
pub use url::is_loopback;
use url::{parse_url, redirected, same_origin, shown};

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Longest single wait of the exponential backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Sum of all waits of one request.
const WAIT_TOTAL_MAX: Duration = Duration::from_secs(90);
/// Attempts when nobody listens or the name does not resolve: these rarely mend themselves.
const UNREACHABLE_ATTEMPTS: u32 = 2;
/// Bytes of an error answer's body that are kept for the message.
const ERROR_BODY_MAX: u64 = 16 << 10;

/// What the caller decides about HTTP; the engine reads no environment.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// PEM files whose certificates are trusted beside the system's roots.
    pub ca_files: Vec<PathBuf>,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
    /// Attempts per request, the first included; at least one is made.
    pub attempts: u32,
    /// First wait between attempts; doubles each time, at most 8 s.
    pub backoff: Duration,
    /// Limit for name resolution, and again for connecting with its TLS handshake.
    pub timeout_connect: Duration,
    /// Longest silence of a server: between two reads of a body, and half of what it may take to
    /// send the headers of its answer.
    pub timeout_idle: Duration,
    /// Proxies.
    pub proxy: ProxyOptions,
    /// Hosts (`host` or `host:port`) whose certificates are not verified.
    pub insecure: Vec<String>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            ca_files: Vec::new(),
            user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
            attempts: 5,
            backoff: Duration::from_millis(250),
            timeout_connect: Duration::from_secs(15),
            timeout_idle: Duration::from_secs(30),
            proxy: ProxyOptions::default(),
            insecure: Vec::new(),
        }
    }
}

/// Proxies by scheme of the target; loopback hosts never go through one.
#[derive(Clone, Debug, Default)]
pub struct ProxyOptions {
    /// Proxy URL for http targets (`http://[USER:PASSWORD@]HOST:PORT`).
    pub http: Option<String>,
    /// Proxy URL for https targets.
    pub https: Option<String>,
    /// Hosts reached directly: names, which include their subdomains, or `*`.
    pub no_proxy: Vec<String>,
}

/// Returns where an answer to `url` says to go on (`Location`), and whether that is the same origin.
pub(super) fn location(url: &str, headers: &HeaderMap) -> Result<(String, bool), HttpError> {
    let from = parse_url(url)?;
    let to = redirected(&from, headers)?;
    Ok((to.to_string(), same_origin(&from, &to)))
}

/// A successful answer.
pub struct Response {
    /// HTTP status, 200 to 299, or 304.
    pub status: u16,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// The URL that answered, after redirects.
    pub url: String,
    /// Bytes in `body`, when the server says.
    pub length: Option<u64>,
    /// Offset in the resource at which `body` starts: 0 when the server ignored the range.
    pub from: u64,
    /// The body; a read fails after `timeout_idle` of silence.
    pub body: Box<dyn Read + Send>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("url", &self.url)
            .field("length", &self.length)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl Response {
    /// Returns a header's value, when it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// When the connection fails, or the body is longer than `size_max_bytes`.
    pub fn read_all(self, size_max_bytes: u64) -> Result<Vec<u8>, HttpError> {
        let url = self.url;
        if self.length.is_some_and(|length| length > size_max_bytes) {
            return Err(too_long(url, size_max_bytes));
        }
        let mut bytes = Vec::new();
        let mut body = self.body.take(size_max_bytes + 1);
        if let Err(error) = body.read_to_end(&mut bytes) {
            return Err(connection(url, error.into()));
        }
        if bytes.len() as u64 > size_max_bytes {
            return Err(too_long(url, size_max_bytes));
        }
        if let Some(length) = self.length.filter(|&length| length != bytes.len() as u64) {
            let error = format!("the body ends after {} of {length} bytes", bytes.len());
            return Err(connection(url, ureq::Error::Io(io::Error::other(error))));
        }
        Ok(bytes)
    }
}

fn too_long(url: String, size_max_bytes: u64) -> HttpError {
    HttpError::Answer {
        url,
        reason: format!("the answer is longer than {size_max_bytes} bytes"),
    }
}

/// An HTTP client: cheap to clone, shared by threads; connections are kept and reused.
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
}

struct Shared {
    options: HttpOptions,
    agents: Agents,
}

/// One exchange, redirects included.
struct Request<'a> {
    headers: &'a [(&'a str, &'a str)],
    from: u64,
    /// Form fields: the request is a POST.
    form: Option<&'a [(&'a str, &'a str)]>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// Makes a client; nothing is opened, read or checked before the first request.
    #[must_use]
    pub fn new(options: HttpOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                options,
                agents: Agents::default(),
            }),
        }
    }

    /// Returns the options the client was made with.
    #[must_use]
    pub fn options(&self) -> &HttpOptions {
        &self.shared.options
    }

    /// Asks for `url`; `from` > 0 asks for the bytes from that offset on (see [`Response::from`]).
    ///
    /// Tries again, waiting longer each time or as `Retry-After` says, after 408, 429, 5xx and
    /// failed connections. Redirects are followed; `Authorization` goes to the origin it was meant
    /// for alone, and never from https to http.
    ///
    /// # Errors
    /// [`HttpError::Status`] for every answer but 2xx (and 304, which only a conditional request
    /// gets); the other kinds when there is no usable answer.
    pub fn get(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        from: u64,
    ) -> Result<Response, HttpError> {
        self.attempt(
            url,
            &Request {
                headers,
                from,
                form: None,
            },
            self.options().attempts,
        )
    }

    /// As [`Http::get`], but one attempt only.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub fn get_once(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response, HttpError> {
        self.attempt(
            url,
            &Request {
                headers,
                from: 0,
                form: None,
            },
            1,
        )
    }

    /// Posts form fields (OAuth 2 token requests).
    ///
    /// # Errors
    /// As [`Http::get`].
    pub fn post_form(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        form: &[(&str, &str)],
    ) -> Result<Response, HttpError> {
        let request = Request {
            headers,
            from: 0,
            form: Some(form),
        };
        self.attempt(url, &request, self.options().attempts)
    }

    /// Sends a request with a body of known length, once. Redirects are not followed: they are
    /// errors like any other status but 2xx.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub(super) fn send_body(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &mut dyn Read,
        length: u64,
    ) -> Result<Response, HttpError> {
        let target = parse_url(url)?;
        let agent = self.shared.agents.get(self.options(), &target)?;
        let mut builder = ureq::http::Request::builder()
            .method(method)
            .uri(target.clone());
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let bad = |error: ureq::http::Error| HttpError::Url {
            url: shown(&target),
            reason: error.to_string(),
        };
        let answer = if method == "HEAD" {
            agent.run(builder.body(()).map_err(bad)?)
        } else {
            let builder = builder.header("Content-Length", length);
            agent.run(
                builder
                    .body(ureq::SendBody::from_reader(body))
                    .map_err(bad)?,
            )
        };
        let answer = answer.map_err(|error| connection(shown(&target), error))?;
        let request = Request {
            headers: &[],
            from: 0,
            form: None,
        };
        finish(&target, &request, answer)
    }

    fn attempt(
        &self,
        url: &str,
        request: &Request<'_>,
        attempts: u32,
    ) -> Result<Response, HttpError> {
        let started = Instant::now();
        let mut made = 0;
        loop {
            let error = match self.exchange(url, request) {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            made += 1;
            let unreachable = matches!(
                error,
                HttpError::Connection {
                    kind: ConnectionFailure::Unreachable,
                    ..
                }
            );
            let limit = if unreachable {
                attempts.min(UNREACHABLE_ATTEMPTS)
            } else {
                attempts
            };
            let wait = error.retry_after().unwrap_or_else(|| self.backoff(made));
            if made >= limit || !error.is_transient() || started.elapsed() + wait > WAIT_TOTAL_MAX {
                return Err(error.with_attempts(made));
            }
            std::thread::sleep(wait);
        }
    }

    /// Returns the wait after `failures` failures in a row.
    #[must_use]
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(16));
        self.options()
            .backoff
            .saturating_mul(doubled)
            .min(BACKOFF_MAX)
    }

    /// One attempt: the request and its redirects.
    fn exchange(&self, url: &str, request: &Request<'_>) -> Result<Response, HttpError> {
        let origin = parse_url(url)?;
        let mut target = origin.clone();
        for _ in 0..=REDIRECTS_MAX {
            let same_origin = same_origin(&origin, &target);
            let answer = self.send(&target, request, same_origin)?;
            let status = answer.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return finish(&target, request, answer);
            }
            if request.form.is_some() {
                // A form holds a secret; no registry redirects its token service.
                let reason = format!("status {status} redirects a POST request");
                return Err(HttpError::Answer {
                    url: shown(&target),
                    reason,
                });
            }
            target = redirected(&target, answer.headers())?;
        }
        let reason = format!(
            "more than {REDIRECTS_MAX} redirects, the last one to {}",
            shown(&target)
        );
        Err(HttpError::Answer {
            url: url.to_owned(),
            reason,
        })
    }

    fn send(
        &self,
        target: &Uri,
        request: &Request<'_>,
        same_origin: bool,
    ) -> Result<ureq::http::Response<ureq::Body>, HttpError> {
        let agent = self.shared.agents.get(self.options(), target)?;
        let url = target.to_string();
        let result = match request.form {
            Some(form) => {
                with_headers(agent.post(&url), request, same_origin).send_form(form.iter().copied())
            }
            None => with_headers(agent.get(&url), request, same_origin).call(),
        };
        result.map_err(|error| connection(shown(target), error))
    }
}

fn with_headers<S>(
    mut builder: ureq::RequestBuilder<S>,
    request: &Request<'_>,
    same_origin: bool,
) -> ureq::RequestBuilder<S> {
    for (name, value) in request.headers {
        if same_origin || !name.eq_ignore_ascii_case("authorization") {
            builder = builder.header(*name, *value);
        }
    }
    if request.from > 0 {
        builder = builder.header("Range", format!("bytes={}-", request.from));
    }
    // What is stored is what is hashed: no transfer in another encoding.
    builder.header("Accept-Encoding", "identity")
}

fn finish(
    target: &Uri,
    request: &Request<'_>,
    answer: ureq::http::Response<ureq::Body>,
) -> Result<Response, HttpError> {
    let url = shown(target);
    let (head, body) = answer.into_parts();
    let status = head.status.as_u16();
    let length = body.content_length();
    let reader = body.into_with_config().limit(u64::MAX).reader();
    if !head.status.is_success() && status != 304 {
        let mut said = Vec::new();
        // The status is the error; a body that cannot be read adds nothing to it.
        let _ = reader.take(ERROR_BODY_MAX).read_to_end(&mut said);
        let headers = Box::new(head.headers);
        return Err(HttpError::Status {
            url,
            status,
            headers,
            body: said,
            attempts: 1,
        });
    }
    let from = if status == 206 {
        let start = head
            .headers
            .get("content-range")
            .and_then(|value| value.to_str().ok());
        match start.and_then(range_start) {
            Some(start) if start == request.from => start,
            _ => {
                let reason = format!(
                    "asked for bytes from {}, but the answer's range is {start:?}",
                    request.from
                );
                return Err(HttpError::Answer { url, reason });
            }
        }
    } else {
        0
    };
    Ok(Response {
        status,
        headers: head.headers,
        url,
        length,
        from,
        body: Box::new(reader),
    })
}

/// Returns the first offset of a `Content-Range: bytes FIRST-LAST/TOTAL` (RFC 9110, 14.4).
fn range_start(value: &str) -> Option<u64> {
    value
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .trim()
        .parse()
        .ok()
}
