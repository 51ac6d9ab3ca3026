//! HTTP GET as every source uses it: proxies, own CAs, redirects, retries, idle timeouts.
//!
//! Enters: a URL and headers. Leaves: the status, headers and body stream of a final 2xx answer, or
//! an error that names URL, status or cause, and the number of attempts. Reading a body through a
//! broken connection is [`super::download`]'s work. Proxies and certificates are options, not
//! environment (but rustls-native-certs honours `SSL_CERT_FILE` and `SSL_CERT_DIR`, as OpenSSL does). The TLS set-up (system roots, own CAs) costs milliseconds and
//! happens with the first https request, never before.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::uri::Authority;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Longest single wait that a `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Longest single wait of the exponential backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Sum of all waits of one request.
const WAIT_TOTAL_MAX: Duration = Duration::from_secs(90);
/// Attempts when nobody listens or the name does not resolve: these rarely mend themselves.
const UNREACHABLE_ATTEMPTS: u32 = 2;
/// Bytes of an error answer's body that are kept for the message.
const ERROR_BODY_MAX: u64 = 16 << 10;
/// Size of a file of CA certificates.
const CA_FILE_SIZE_MAX: u64 = 16 << 20;

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
    /// Proxy URL for http targets.
    pub http: Option<String>,
    /// Proxy URL for https targets.
    pub https: Option<String>,
    /// Hosts reached directly: names, which include their subdomains, or `*`.
    pub no_proxy: Vec<String>,
}

/// A request that did not come to a 2xx answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The text is no http or https URL.
    #[error("{url}: {reason}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of CA certificates cannot be used.
    #[error("{}: {reason}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server answered with something else than success.
    #[error("{url}: {status}{}{}", Said(body), Attempts(*attempts))]
    Status {
        /// The URL that answered, after redirects.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Headers of the answer.
        headers: Box<HeaderMap>,
        /// Beginning of the answer's body, at most 16 KiB.
        body: Vec<u8>,
        /// Attempts made.
        attempts: u32,
    },
    /// No answer, or a broken one.
    #[error("{url}: {cause}{}", Attempts(*attempts))]
    Connection {
        /// The URL asked for.
        url: String,
        /// What the connection said.
        cause: String,
        /// What kind of failure it was.
        kind: ConnectionFailure,
        /// Attempts made.
        attempts: u32,
    },
    /// The server's answer contradicts the request or an earlier answer.
    #[error("{url}: {reason}")]
    Answer {
        /// The URL asked for.
        url: String,
        /// The contradiction.
        reason: String,
    },
}

/// Why a connection failed, as far as anyone decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFailure {
    /// Nobody listens, or the name does not resolve.
    Unreachable,
    /// The TLS handshake failed: no TLS spoken, or a certificate refused.
    Tls,
    /// Silence or a break; worth another attempt.
    Broken,
    /// Not worth another attempt.
    Fatal,
}

impl HttpError {
    /// Returns the HTTP status, when there was an answer.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status == 408 || *status == 429 || *status >= 500,
            Self::Connection { kind, .. } => {
                matches!(
                    kind,
                    ConnectionFailure::Broken | ConnectionFailure::Unreachable
                )
            }
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            // The form with a date needs a trusted clock; backoff serves as well.
            Self::Status { headers, .. } => {
                let seconds = headers.get("retry-after")?.to_str().ok()?.trim();
                Some(Duration::from_secs(seconds.parse().ok()?).min(RETRY_AFTER_MAX))
            }
            _ => None,
        }
    }

    fn with_attempts(mut self, made: u32) -> Self {
        if let Self::Status { attempts, .. } | Self::Connection { attempts, .. } = &mut self {
            *attempts = made;
        }
        self
    }
}

/// Prints the part of an error body that a person can use.
struct Said<'a>(&'a [u8]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match serde_json::from_slice::<RegistryErrors>(self.0) {
            Ok(said) => said
                .errors
                .into_iter()
                .next()
                .map(|error| error.message)
                .unwrap_or_default(),
            // Else only short plain text: a page of HTML helps nobody.
            Err(_) => match std::str::from_utf8(self.0) {
                Ok(text) if !text.trim_start().starts_with(['<', '{', '[']) => text.to_owned(),
                _ => String::new(),
            },
        };
        let shown: String = text.trim().chars().take(200).map(printable).collect();
        if shown.is_empty() {
            Ok(())
        } else {
            write!(f, " ({shown})")
        }
    }
}

fn printable(character: char) -> char {
    if character.is_control() {
        ' '
    } else {
        character
    }
}

/// How registries say what is wrong (distribution specification, error codes).
#[derive(serde::Deserialize)]
struct RegistryErrors {
    errors: Vec<RegistryError>,
}

#[derive(serde::Deserialize)]
struct RegistryError {
    #[serde(default)]
    message: String,
}

struct Attempts(u32);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 1 {
            write!(f, ", after {} attempts", self.0)
        } else {
            Ok(())
        }
    }
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
    agents: Mutex<BTreeMap<Route, ureq::Agent>>,
}

/// What needs an agent of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    https: bool,
    verified: bool,
    proxied: bool,
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
                agents: Mutex::default(),
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
        let agent = self.agent(target)?;
        let url = target.to_string();
        let result = match request.form {
            Some(form) => {
                with_headers(agent.post(&url), request, same_origin).send_form(form.iter().copied())
            }
            None => with_headers(agent.get(&url), request, same_origin).call(),
        };
        result.map_err(|error| connection(shown(target), error))
    }

    fn agent(&self, target: &Uri) -> Result<ureq::Agent, HttpError> {
        let options = self.options();
        let https = target.scheme_str() == Some("https");
        let authority = target.authority();
        let verified = !authority.is_some_and(|authority| is_listed(&options.insecure, authority));
        let proxy = if https {
            &options.proxy.https
        } else {
            &options.proxy.http
        };
        let direct =
            is_loopback(host(target)) || is_bypassed(&options.proxy.no_proxy, host(target));
        let proxy = proxy
            .as_deref()
            .filter(|proxy| !proxy.is_empty() && !direct);
        let route = Route {
            https,
            verified,
            proxied: proxy.is_some(),
        };
        let mut agents = self
            .shared
            .agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&route) {
            return Ok(agent.clone());
        }
        let agent = new_agent(options, route, proxy)?;
        agents.insert(route, agent.clone());
        Ok(agent)
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

fn new_agent(
    options: &HttpOptions,
    route: Route,
    proxy: Option<&str>,
) -> Result<ureq::Agent, HttpError> {
    let proxy = match proxy {
        None => None,
        Some(url) => Some(ureq::Proxy::new(url).map_err(|error| HttpError::Url {
            url: without_userinfo(url),
            reason: format!("unusable as a proxy: {error}"),
        })?),
    };
    let tls = TlsConfig::builder().disable_verification(!route.verified);
    let tls = if route.https && route.verified {
        tls.root_certs(RootCerts::Specific(Arc::new(root_certificates(
            &options.ca_files,
        )?)))
    } else {
        tls
    };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(proxy)
        .user_agent(&options.user_agent)
        .tls_config(tls.build())
        .timeout_resolve(Some(options.timeout_connect))
        .timeout_connect(Some(options.timeout_connect))
        .timeout_per_read(Some(options.timeout_idle))
        .timeout_per_write(Some(options.timeout_idle))
        .timeout_recv_response(Some(options.timeout_idle * 2))
        .max_idle_connections_per_host(8)
        .build();
    Ok(config.into())
}

fn root_certificates(ca_files: &[PathBuf]) -> Result<Vec<Certificate<'static>>, HttpError> {
    // Errors of single system files are not fatal: a host without a store still has `ca_files`,
    // and a handshake that lacks its root fails by name.
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<_> = system
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    for path in ca_files {
        let bad = |reason: String| HttpError::CaFile {
            path: path.clone(),
            reason,
        };
        let file = std::fs::File::open(path).map_err(|error| bad(error.to_string()))?;
        let mut pem = Vec::new();
        file.take(CA_FILE_SIZE_MAX)
            .read_to_end(&mut pem)
            .map_err(|error| bad(error.to_string()))?;
        let before = roots.len();
        for item in parse_pem(&pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => roots.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(bad(format!("not valid PEM: {error}"))),
            }
        }
        if roots.len() == before {
            return Err(bad("holds no PEM certificate".to_owned()));
        }
    }
    Ok(roots)
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

/// Turns ureq's errors into ours, deciding what is worth another attempt.
pub(super) fn connection(url: String, error: ureq::Error) -> HttpError {
    use ConnectionFailure::{Broken, Fatal, Tls, Unreachable};
    let kind = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Unreachable,
        ureq::Error::Io(cause) => match cause.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Unreachable,
            // rustls reports through complete_io as InvalidData.
            io::ErrorKind::InvalidData => Tls,
            _ => Broken,
        },
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => Tls,
        ureq::Error::Timeout(_) | ureq::Error::BodyStalled => Broken,
        _ => Fatal,
    };
    let cause = match error {
        ureq::Error::Io(cause) => cause.to_string(),
        ureq::Error::Timeout(at) => format!("no answer in time ({at})"),
        other => other.to_string(),
    };
    HttpError::Connection {
        url,
        cause,
        kind,
        attempts: 1,
    }
}

fn parse_url(text: &str) -> Result<Uri, HttpError> {
    let bad = |reason: &str| HttpError::Url {
        url: without_userinfo(text),
        reason: reason.to_owned(),
    };
    let url: Uri = text.parse().map_err(|_| bad("not a URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(bad("not an http or https URL"));
    }
    if host(&url).is_empty() {
        return Err(bad("names no host"));
    }
    Ok(url)
}

/// Returns the URL that a redirect's `Location` leads to (RFC 3986, 5.2, for http URLs).
fn redirected(from: &Uri, headers: &HeaderMap) -> Result<Uri, HttpError> {
    let bad = |reason: String| HttpError::Answer {
        url: shown(from),
        reason,
    };
    let location = headers
        .get("location")
        .and_then(|value| value.to_str().ok());
    let Some(location) = location.map(|text| text.split('#').next().unwrap_or_default()) else {
        return Err(bad("a redirect without a location".to_owned()));
    };
    let scheme = from.scheme_str().unwrap_or_default();
    let authority = from.authority().map_or("", Authority::as_str);
    let text = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = from
            .path()
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    let target = parse_url(&text).map_err(|_| bad("a redirect to no http URL".to_owned()))?;
    if scheme == "https" && target.scheme_str() != Some("https") {
        return Err(bad(format!("a redirect from https to {}", shown(&target))));
    }
    Ok(target)
}

fn same_origin(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme()
        && host(one).eq_ignore_ascii_case(host(other))
        && port(one) == port(other)
}

fn port(url: &Uri) -> u16 {
    url.port_u16()
        .unwrap_or(if url.scheme_str() == Some("https") {
            443
        } else {
            80
        })
}

fn host(url: &Uri) -> &str {
    url.host().unwrap_or_default()
}

/// Prints a URL without what may be secret: user, password and query (signed URLs).
fn shown(url: &Uri) -> String {
    let authority = url.authority().map_or("", Authority::as_str);
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!(
        "{}://{authority}{}",
        url.scheme_str().unwrap_or_default(),
        url.path()
    )
}

fn without_userinfo(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[start..])
        }
        None => text.to_owned(),
    }
}

/// Tells whether `host` (a name or an address, without port) is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Tells whether a list of `host` or `host:port` names `authority`.
pub(super) fn is_listed(list: &[String], authority: &Authority) -> bool {
    let text = authority.as_str();
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    list.iter().any(|entry| {
        entry.eq_ignore_ascii_case(text) || entry.eq_ignore_ascii_case(authority.host())
    })
}

fn is_bypassed(list: &[String], host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.iter().any(|entry| {
        let name = entry
            .trim()
            .trim_start_matches("*.")
            .trim_start_matches('.')
            .to_ascii_lowercase();
        name == "*"
            || (!name.is_empty()
                && (host == name
                    || host
                        .strip_suffix(&name)
                        .is_some_and(|rest| rest.ends_with('.'))))
    })
}
