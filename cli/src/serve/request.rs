//! The head of a request.
//!
//! Enters: bytes from the network. Leaves: what a file server needs of them.

/// Bytes of a head, headers included.
const HEAD_MAX_BYTES: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// A line for people.
const LINE_MAX_CHARS: usize = 200;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// A file.
    Get,
    /// What there is to say about it.
    Head,
    /// Anything else.
    Other,
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct Head {
    /// Method and target, for people.
    pub(super) line: String,
    pub(super) method: Method,
    /// The path, still encoded, without query.
    pub(super) target: String,
    /// The header of that name, unless it depends on something (`If-Range`).
    pub(super) range: Option<String>,
    /// Whether another request may follow.
    pub(super) stays: bool,
}

/// What cannot be answered, except with a status.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// It is not HTTP.
    Malformed,
    /// It does not end.
    TooLarge,
    /// It does not come.
    Late,
}

impl HeadError {
    pub(super) const fn status(&self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::TooLarge => 431,
            Self::Late => 408,
        }
    }
}

impl Head {
    /// Reads a head and says how long it is; `None` when there is more to come.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX_BYTES => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX_BYTES => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed),
        };
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(HeadError::Malformed);
        };
        let value = |name: &str| {
            let header = request
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(str::trim)
        };
        let has = |name: &str| {
            let mut headers = request.headers.iter();
            headers.any(|header| header.name.eq_ignore_ascii_case(name))
        };
        // A body is not read, so nothing can follow it.
        let has_body =
            has("transfer-encoding") || value("content-length").is_some_and(|length| length != "0");
        let closes = value("connection").is_some_and(|words| {
            let mut words = words.split(',');
            words.any(|word| word.trim().eq_ignore_ascii_case("close"))
        });
        let line: String = format!("{method} {target}");
        let head = Self {
            line: line.chars().take(LINE_MAX_CHARS).collect(),
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => Method::Other,
            },
            target: path(target).to_owned(),
            range: value("range")
                .filter(|_| !has("if-range"))
                .map(str::to_owned),
            stays: request.version == Some(1) && !closes && !has_body,
        };
        Ok(Some((head, length)))
    }
}

/// Takes query and authority off a target.
fn path(target: &str) -> &str {
    let target = match target.strip_prefix("http://") {
        None => target,
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
    };
    target.split(['?', '#']).next().unwrap_or_default()
}
