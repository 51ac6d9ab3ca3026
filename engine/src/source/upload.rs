//! Uploads to a registry: blobs and manifests (OCI distribution specification 1.1, "Pushing").
//!
//! Enters: blobs as streams that can be opened again, and manifests. Leaves: the same in the
//! registry itself, never in a mirror. A blob that is there already is not sent; one that fails for
//! a reason that may pass is sent again, a few times.

use std::io::{self, Read};

use super::auth::Endpoint;
use super::endpoint::EndpointError;
use super::error::{SourceError, SourceErrorKind};
use super::http::{HttpError, Response, location};
use super::manifest::{ACCEPT, MANIFEST_SIZE_MAX};
use super::registry::RegistryImage;
use crate::digest::Sha256;

/// Times a blob or manifest is sent.
const ATTEMPTS: u32 = 3;

/// Opens a blob from its beginning.
pub(crate) type Open<'a> = &'a dyn Fn() -> Result<Box<dyn Read + Send>, SourceError>;

impl RegistryImage {
    fn target(&self) -> Result<Endpoint, SourceErrorKind> {
        let shared = &self.registry.shared;
        let host = self.reference.host();
        let endpoint = shared.endpoints.registry(&shared.http, host);
        let mut endpoint = endpoint.map_err(|error| match error {
            EndpointError::Http(error) => SourceErrorKind::Http {
                what: format!("registry {host}"),
                error,
            },
            EndpointError::Mirror(_) => {
                SourceErrorKind::malformed(format!("registry {host}"), error.to_string())
            }
        })?;
        endpoint.rights = "pull,push";
        Ok(endpoint)
    }

    /// Returns what the tag leads to in the registry itself; `None` when there is no such tag.
    pub(crate) fn there(&self, tag: &str) -> Result<Option<(Sha256, Vec<u8>)>, SourceErrorKind> {
        let what = format!("manifest {tag}");
        let endpoint = self.target()?;
        let object = format!("manifests/{tag}");
        let shared = &self.registry.shared;
        let answer = shared.get(&endpoint, &self.repository, &what, &object, Some(ACCEPT), 0);
        match answer {
            Ok(answer) => match answer.read_all(MANIFEST_SIZE_MAX) {
                Ok(bytes) => Ok(Some((Sha256::of(&bytes), bytes))),
                Err(error) => Err(SourceErrorKind::Http { what, error }),
            },
            Err(SourceErrorKind::Http {
                error: HttpError::Status { status: 404, .. },
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob, unless it is there. Returns whether it was sent.
    pub(crate) fn put_blob(
        &self,
        digest: &Sha256,
        size: u64,
        open: Open<'_>,
    ) -> Result<bool, SourceErrorKind> {
        let what = format!("blob {digest}");
        let endpoint = self.target()?;
        let base = format!("{}/v2/{}/blobs", endpoint.base, self.repository);
        self.persistent(|| {
            let head = self.send(&endpoint, "HEAD", &format!("{base}/{digest}"), None, None);
            match head {
                Ok(_) => return Ok(false),
                Err(Trouble::Http(HttpError::Status { status: 404, .. })) => {}
                // Only to what it has does a registry lead (distribution spec, pulling blobs).
                Err(Trouble::Http(HttpError::Status {
                    status: 301 | 302 | 303 | 307 | 308,
                    ..
                })) => return Ok(false),
                Err(error) => return Err(error),
            }
            let start = format!("{base}/uploads/");
            let begun = self.send(&endpoint, "POST", &start, None, None)?;
            let (place, own) = location(&start, &begun.headers)?;
            let joint = if place.contains('?') { '&' } else { '?' };
            let url = format!(
                "{place}{joint}digest={}",
                digest.to_string().replace(':', "%3A")
            );
            let body = Some((open, size));
            // A token is the registry's own business, not that of a store it sends us to.
            let endpoint = own.then_some(&endpoint);
            match endpoint {
                Some(endpoint) => self.send(endpoint, "PUT", &url, None, body)?,
                None => self.raw("PUT", &url, None, None, body)?,
            };
            Ok(true)
        })
        .map_err(|error| self.explained(&endpoint, &what, error))
    }

    /// Uploads a manifest or index under a tag or its digest.
    pub(crate) fn put_manifest(
        &self,
        tag: &str,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<(), SourceErrorKind> {
        let what = format!("manifest {tag}");
        let endpoint = self.target()?;
        let url = format!("{}/v2/{}/manifests/{tag}", endpoint.base, self.repository);
        let held = bytes.to_vec();
        let open = move || Ok(Box::new(io::Cursor::new(held.clone())) as Box<dyn Read + Send>);
        self.persistent(|| {
            let body: Option<(Open<'_>, u64)> = Some((&open, bytes.len() as u64));
            self.send(&endpoint, "PUT", &url, Some(media_type), body)
                .map(drop)
        })
        .map_err(|error| self.explained(&endpoint, &what, error))
    }

    /// Tries again what may work the next time.
    fn persistent<T>(&self, attempt: impl Fn() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let mut made = 1;
        loop {
            match attempt() {
                Err(Trouble::Http(error)) if error.is_transient() && made < ATTEMPTS => {
                    std::thread::sleep(self.registry.shared.http.backoff(made));
                    made += 1;
                }
                Err(Trouble::Http(error)) => return Err(Trouble::Http(error.with_attempts(made))),
                other => return other,
            }
        }
    }

    fn explained(&self, endpoint: &Endpoint, what: &str, error: Trouble) -> SourceErrorKind {
        let shared = &self.registry.shared;
        match error {
            Trouble::Http(error) => shared.failed(endpoint, &self.repository, what, error),
            Trouble::Source(error) => *error.kind,
            Trouble::Kind(kind) => kind,
        }
    }

    /// One authenticated request.
    fn send(
        &self,
        endpoint: &Endpoint,
        method: &str,
        url: &str,
        media_type: Option<&str>,
        body: Option<(Open<'_>, u64)>,
    ) -> Result<Response, Trouble> {
        let shared = &self.registry.shared;
        let known = shared.auth.known(endpoint, &self.repository);
        match self.raw(method, url, known.as_deref(), media_type, body) {
            Err(Trouble::Http(HttpError::Status {
                status: 401,
                headers,
                ..
            })) => {
                shared.auth.forget(endpoint, &self.repository);
                let proof = shared.auth.answer(endpoint, &self.repository, &headers);
                let proof =
                    proof.map_err(|error| Trouble::Kind(shared.refused(endpoint, url, error)))?;
                self.raw(method, url, Some(&proof), media_type, body)
            }
            other => other,
        }
    }

    fn raw(
        &self,
        method: &str,
        url: &str,
        proof: Option<&str>,
        media_type: Option<&str>,
        body: Option<(Open<'_>, u64)>,
    ) -> Result<Response, Trouble> {
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(proof.map(|proof| ("Authorization", proof)));
        match media_type {
            Some(media_type) => headers.push(("Content-Type", media_type)),
            None if body.is_some() => headers.push(("Content-Type", "application/octet-stream")),
            None => {}
        }
        let (mut stream, length): (Box<dyn Read + Send>, u64) = match body {
            Some((open, length)) => (open().map_err(Trouble::Source)?, length),
            None => (Box::new(io::empty()), 0),
        };
        let http = &self.registry.shared.http;
        Ok(http.send_body(method, url, &headers, &mut stream, length)?)
    }
}

/// Which side of an upload failed.
enum Trouble {
    Http(HttpError),
    Source(SourceError),
    Kind(SourceErrorKind),
}

impl From<HttpError> for Trouble {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}
