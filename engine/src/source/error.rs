//! What goes wrong between an image's name and its bytes.
//!
//! Every error names the image, the thing at fault and what is there instead.

use std::io;
use std::path::PathBuf;

use super::http::HttpError;
use super::platform::Platform;
use crate::digest::Sha256;

/// Names listed in one message; more are counted.
const LISTED_MAX: usize = 12;

/// An image that cannot be had, and why.
#[derive(Debug, thiserror::Error)]
#[error("image {image}: {kind}")]
pub struct SourceError {
    /// The image, as [`super::ImageSource::name`] prints it.
    pub image: String,
    /// What went wrong.
    pub kind: Box<SourceErrorKind>,
}

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum SourceErrorKind {
    /// A request failed.
    #[error("{what}: {error}")]
    Http {
        /// What was asked for.
        what: String,
        /// The failure.
        error: HttpError,
    },
    /// The registry refuses access.
    #[error("{what}: access denied by {host}: {reason}")]
    Denied {
        /// What was asked for.
        what: String,
        /// The registry's host.
        host: String,
        /// With which credentials, and what it said.
        reason: String,
    },
    /// No image of that platform in the index.
    #[error("no manifest for {wanted}; there are: {}", listed(available))]
    NoPlatform {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms of the index.
        available: Vec<String>,
    },
    /// A single image of another platform.
    #[error("is for {is}, not for {wanted}")]
    WrongPlatform {
        /// The platform asked for.
        wanted: Platform,
        /// The platform the image's config states.
        is: String,
    },
    /// A tag, name or blob that is not there.
    #[error("{what} not found in {place}; there are: {}", listed(available))]
    NotFound {
        /// What was looked for.
        what: String,
        /// Where.
        place: String,
        /// What is there instead.
        available: Vec<String>,
    },
    /// No name given, and more than one image to choose from.
    #[error("{place} holds several images, name one of: {}", listed(available))]
    Ambiguous {
        /// Where.
        place: String,
        /// The names there.
        available: Vec<String>,
    },
    /// Bytes that are not what their format says.
    #[error("{what}: {reason}")]
    Malformed {
        /// The document or file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Well-formed, but nothing kiln can use.
    #[error("{what}: {reason}")]
    Unsupported {
        /// The document or layer.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Bytes that are not those of the digest.
    #[error("{what}: the digest of what {place} holds is {is}")]
    Digest {
        /// The document, with the digest it should have.
        what: String,
        /// Where the bytes came from.
        place: String,
        /// The digest they have.
        is: Sha256,
    },
    /// Bytes that are not as many as the descriptor says.
    #[error("{what}: {place} holds {is} bytes instead of {wanted}")]
    Size {
        /// The document or layer.
        what: String,
        /// Where the bytes came from.
        place: String,
        /// Bytes there are, as far as known.
        is: String,
        /// Bytes there should be.
        wanted: u64,
    },
    /// A stream broke off.
    #[error("{what}: {place}: {error}")]
    Read {
        /// The layer.
        what: String,
        /// Where the bytes came from.
        place: String,
        /// What the stream said.
        error: io::Error,
    },
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl SourceErrorKind {
    /// Ties the failure to an image.
    #[must_use]
    pub fn of(self, image: impl Into<String>) -> SourceError {
        SourceError {
            image: image.into(),
            kind: Box::new(self),
        }
    }

    pub(super) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what: what.into(),
            reason: reason.into(),
        }
    }

    pub(super) fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            reason: reason.into(),
        }
    }
}

/// Prints names for a message, not too many.
pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text = names
        .iter()
        .take(LISTED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", names.len() - LISTED_MAX));
    }
    text
}
