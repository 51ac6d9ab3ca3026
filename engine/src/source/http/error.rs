//! What a request that fails says.
//!
//! Enters: ureq's errors and servers' answers. Leaves: an [`HttpError`] that names URL, status or
//! cause and the attempts, and knows whether another one is worth it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::HeaderMap;

/// Longest single wait that a `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

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
    /// A break; worth another attempt.
    Broken,
    /// No answer in time; worth another attempt.
    Silent,
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

    pub(in super::super) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status == 408 || *status == 429 || *status >= 500,
            Self::Connection { kind, .. } => {
                use ConnectionFailure::{Broken, Silent, Unreachable};
                matches!(kind, Broken | Silent | Unreachable)
            }
            _ => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            // The form with a date needs a trusted clock; backoff serves as well.
            Self::Status { headers, .. } => {
                let seconds = headers.get("retry-after")?.to_str().ok()?.trim();
                Some(Duration::from_secs(seconds.parse().ok()?).min(RETRY_AFTER_MAX))
            }
            _ => None,
        }
    }

    pub(in super::super) fn with_attempts(mut self, made: u32) -> Self {
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

/// Turns ureq's errors into ours, deciding what is worth another attempt.
pub(in super::super) fn connection(url: String, error: ureq::Error) -> HttpError {
    use ConnectionFailure::{Broken, Fatal, Silent, Tls, Unreachable};
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
        ureq::Error::Timeout(_) => Silent,
        ureq::Error::BodyStalled => Broken,
        _ => Fatal,
    };
    let cause = match error {
        ureq::Error::Io(cause) => cause.to_string(),
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "no address in time".to_owned(),
        ureq::Error::Timeout(ureq::Timeout::Connect) => "no connection in time".to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        other => other.to_string(),
    };
    HttpError::Connection {
        url,
        cause,
        kind,
        attempts: 1,
    }
}
