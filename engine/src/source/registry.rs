//! Images in registries, over the distribution API v2.
//!
//! Enters: a reference. Leaves: an [`ImageSource`]. A digest resolves by itself, a tag by what the
//! registry says now; of an index only the wanted platform's manifest, config and layers are
//! fetched. Digests are computed, `Docker-Content-Digest` is never trusted. Mirrors are asked
//! first, and the registry itself whenever a mirror fails; [`Registry::take_notes`] tells.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::auth::{Auth, AuthError, Endpoint};
use super::credentials::Credentials;
use super::download::Download;
use super::endpoint::{EndpointError, Endpoints, Mirror};
use super::error::{SourceError, SourceErrorKind};
use super::exact::Exact;
use super::http::{ConnectionFailure, Http, HttpError, Response};
use super::manifest::{ACCEPT, LayerDescriptor, MANIFEST_SIZE_MAX, ResolvedImage};
use super::platform::Platform;
use super::reference::Reference;
use super::resolve::{self, Documents, Kept, Kind};
use super::{ImageSource, Located};
use crate::digest::Sha256;

/// Bytes of a list of tags that is read for a message.
const TAGS_SIZE_MAX: u64 = 1 << 20;
/// Notes kept until somebody takes them.
const NOTES_MAX: usize = 64;

/// What the caller decides about registries; insecure hosts are part of [`Http`]'s options.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Mirrors, asked in order before the registry itself.
    pub mirrors: Vec<Mirror>,
    /// Where credentials are looked up.
    pub credentials: Credentials,
}

/// Access to all registries; connections, tokens and what was learnt about hosts are shared.
#[derive(Clone)]
pub struct Registry {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) http: Http,
    pub(super) auth: Auth,
    pub(super) endpoints: Endpoints,
    notes: Mutex<Vec<String>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("endpoints", &self.shared.endpoints)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Makes an access; nothing is opened or read before the first request.
    #[must_use]
    pub fn new(http: Http, options: RegistryOptions) -> Self {
        let auth = Auth::new(http.clone(), options.credentials);
        let endpoints = Endpoints::new(options.mirrors);
        Self {
            shared: Arc::new(Shared {
                http,
                auth,
                endpoints,
                notes: Mutex::default(),
            }),
        }
    }

    /// Names an image; nothing is asked yet.
    #[must_use]
    pub fn image(&self, reference: &Reference) -> RegistryImage {
        RegistryImage {
            registry: self.clone(),
            repository: reference.repository(),
            name: reference.key(),
            reference: reference.clone(),
            kept: Kept::default(),
            tagged: Mutex::default(),
        }
    }

    /// Takes what happened since the last call that did not end the build but should be told:
    /// mirrors that failed.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(
            &mut self
                .shared
                .notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn note(&self, note: String) {
        let mut notes = self
            .shared
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX && !notes.contains(&note) {
            notes.push(note);
        }
    }
}

impl Shared {
    /// One authenticated GET below `/v2/REPOSITORY/`. Errors call it `what`.
    pub(super) fn get(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        what: &str,
        object: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Response, SourceErrorKind> {
        let url = format!(
            "{}/v2/{}{repository}/{object}",
            endpoint.base, endpoint.prefix
        );
        let send = |proof: Option<&str>| {
            let mut headers: Vec<(&str, &str)> = Vec::new();
            headers.extend(accept.map(|accept| ("Accept", accept)));
            headers.extend(proof.map(|proof| ("Authorization", proof)));
            self.http.get(&url, &headers, from)
        };
        let known = self.auth.known(endpoint, repository);
        let first = match send(known.as_deref()) {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let is_own = |url: &str| {
            url.strip_prefix(&endpoint.base)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        match first {
            // Only the registry itself may ask for proof, not where it redirects to.
            HttpError::Status {
                status: 401,
                url,
                headers,
                ..
            } if is_own(&url) => {
                self.auth.forget(endpoint, repository);
                let proof = self
                    .auth
                    .answer(endpoint, repository, &headers)
                    .map_err(|error| self.refused(endpoint, what, error))?;
                send(Some(&proof)).map_err(|error| self.failed(endpoint, repository, what, error))
            }
            error => Err(self.failed(endpoint, repository, what, error)),
        }
    }

    pub(super) fn refused(
        &self,
        endpoint: &Endpoint,
        what: &str,
        error: AuthError,
    ) -> SourceErrorKind {
        let what = what.to_owned();
        match error {
            AuthError::Denied(reason) => SourceErrorKind::Denied {
                what,
                host: endpoint.host.clone(),
                reason,
            },
            AuthError::Http(error) => SourceErrorKind::Http { what, error },
        }
    }

    pub(super) fn failed(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        what: &str,
        error: HttpError,
    ) -> SourceErrorKind {
        let what = what.to_owned();
        if matches!(error.status(), Some(401 | 403)) {
            self.auth.forget(endpoint, repository);
            return SourceErrorKind::Denied {
                what,
                host: endpoint.host.clone(),
                reason: error.to_string(),
            };
        }
        SourceErrorKind::Http { what, error }
    }
}

/// An image in a registry.
#[derive(Debug)]
pub struct RegistryImage {
    pub(super) registry: Registry,
    pub(super) reference: Reference,
    pub(super) repository: String,
    name: String,
    kept: Kept,
    /// What the tag led to when it was last looked up.
    tagged: Mutex<Option<Sha256>>,
}

impl RegistryImage {
    /// Returns the endpoints to ask, mirrors first.
    fn endpoints(&self) -> Result<Vec<Endpoint>, SourceErrorKind> {
        let shared = &self.registry.shared;
        let host = self.reference.host();
        let fail = |error: EndpointError| match error {
            EndpointError::Http(error) => SourceErrorKind::Http {
                what: format!("registry {host}"),
                error,
            },
            EndpointError::Mirror(_) => {
                SourceErrorKind::malformed(format!("registry {host}"), error.to_string())
            }
        };
        let mut endpoints = shared.endpoints.mirrors(&shared.http, host).map_err(fail)?;
        match shared.endpoints.registry(&shared.http, host) {
            Ok(endpoint) => endpoints.push(endpoint),
            // An offline registry is no matter as long as a mirror answers.
            Err(error) if endpoints.is_empty() => return Err(fail(error)),
            Err(error) => self.registry.note(error.to_string()),
        }
        Ok(endpoints)
    }

    /// Tries endpoints in order; the last one's failure is the error.
    fn try_each<T>(
        &self,
        endpoints: &[Endpoint],
        attempt: impl Fn(&Endpoint) -> Result<T, SourceErrorKind>,
    ) -> Result<T, SourceErrorKind> {
        let mut result = Err(SourceErrorKind::malformed(
            self.name.clone(),
            "no endpoint to ask",
        ));
        for (at, endpoint) in endpoints.iter().enumerate() {
            result = attempt(endpoint);
            let Err(error) = &result else { break };
            if at + 1 < endpoints.len() {
                self.registry
                    .note(format!("mirror {} failed: {error}", endpoint.base));
                if is_down(error) {
                    self.registry.shared.endpoints.mark_down(endpoint);
                }
            }
        }
        result
    }

    fn get(
        &self,
        endpoint: &Endpoint,
        what: &str,
        object: &str,
        accept: Option<&str>,
    ) -> Result<Response, SourceErrorKind> {
        self.registry
            .shared
            .get(endpoint, &self.repository, what, object, accept, 0)
    }

    fn find(&self, platform: &Platform) -> Result<Located, SourceErrorKind> {
        if let Some(digest) = self.reference.digest() {
            return resolve::resolve(self, digest, None, platform);
        }
        let tag = self.reference.tag().unwrap_or("latest");
        let (what, object) = (format!("manifest {tag}"), format!("manifests/{tag}"));
        let (bytes, media_type) = self
            .try_each(&self.endpoints()?, |endpoint| {
                let response = self.get(endpoint, &what, &object, Some(ACCEPT))?;
                let media_type = response.header("content-type").map(str::to_owned);
                let bytes = response.read_all(MANIFEST_SIZE_MAX);
                let fail = |error| SourceErrorKind::Http {
                    what: what.clone(),
                    error,
                };
                Ok((bytes.map_err(fail)?, media_type))
            })
            .map_err(|error| self.with_tags(tag, error))?;
        let digest = Sha256::of(&bytes);
        self.kept.put(digest, Arc::new(bytes));
        *self.tagged.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
        resolve::resolve(self, &digest, media_type.as_deref(), platform)
    }

    /// Says which tags there are, when the one asked for is not.
    fn with_tags(&self, tag: &str, error: SourceErrorKind) -> SourceErrorKind {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        match &error {
            SourceErrorKind::Http {
                error: HttpError::Status { status: 404, .. },
                ..
            } => {}
            _ => return error,
        }
        let read = || {
            let endpoint = self.endpoints().ok()?.pop()?;
            let bytes = self
                .get(&endpoint, "tags", "tags/list?n=100", None)
                .ok()?
                .read_all(TAGS_SIZE_MAX)
                .ok()?;
            serde_json::from_slice::<Tags>(&bytes).ok()?.tags
        };
        match read() {
            Some(mut available) if !available.is_empty() => {
                available.sort();
                let place = format!("{}/{}", self.reference.host(), self.repository);
                SourceErrorKind::NotFound {
                    what: format!("tag \"{tag}\""),
                    place,
                    available,
                }
            }
            // No such repository, or no permission to list: the 404 itself says it best.
            _ => error,
        }
    }

    fn stream(&self, layer: &LayerDescriptor) -> Result<Exact, SourceErrorKind> {
        let what = format!("layer {}", layer.digest);
        let object = format!("blobs/{}", layer.digest);
        let endpoints = self.endpoints()?;
        let shared = Arc::clone(&self.registry.shared);
        // The first endpoint that opens the layer streams it; after a break, so may any other.
        let (at, first) = self.try_each(&endpoints, |endpoint| {
            let at = endpoints
                .iter()
                .position(|one| one == endpoint)
                .unwrap_or_default();
            self.get(endpoint, &what, &object, None)
                .map(|response| (at, response))
        })?;
        let place = first.url.clone();
        let (repository, name) = (self.repository.clone(), what.clone());
        let mut first = Some(first);
        let mut opened = at;
        let open = move |from| {
            if let Some(first) = first.take() {
                return Ok(without_etag(first));
            }
            opened += 1;
            let mut result = Err(HttpError::Answer {
                url: String::new(),
                reason: "no endpoint".into(),
            });
            for turn in 0..endpoints.len() {
                let endpoint = &endpoints[(opened + turn) % endpoints.len()];
                result = match shared.get(endpoint, &repository, &name, &object, None, from) {
                    Ok(response) => return Ok(without_etag(response)),
                    Err(SourceErrorKind::Http { error, .. }) => Err(error),
                    Err(error) => Err(HttpError::Answer {
                        url: endpoint.base.clone(),
                        reason: error.to_string(),
                    }),
                };
            }
            result
        };
        let download =
            Download::new(&self.registry.shared.http, Box::new(open)).map_err(|error| {
                SourceErrorKind::Http {
                    what: what.clone(),
                    error,
                }
            })?;
        if let Some(total) = download.total().filter(|&total| total != layer.size) {
            return Err(SourceErrorKind::Size {
                what,
                place,
                is: total.to_string(),
                wanted: layer.size,
            });
        }
        Ok(Exact::new(
            Box::new(download),
            &self.name,
            layer.digest,
            layer.size,
            place,
        ))
    }
}

/// A blob is its digest: that another server names its version differently means nothing.
fn without_etag(mut response: Response) -> Response {
    response.headers.remove("etag");
    response
}

fn is_down(error: &SourceErrorKind) -> bool {
    matches!(
        error,
        SourceErrorKind::Http {
            error: HttpError::Connection {
                kind: ConnectionFailure::Unreachable | ConnectionFailure::Tls,
                ..
            },
            ..
        }
    )
}

impl Documents for RegistryImage {
    fn read(&self, kind: Kind, digest: &Sha256) -> Result<Vec<u8>, SourceErrorKind> {
        let (object, accept) = match kind {
            Kind::Manifest => (format!("manifests/{digest}"), Some(ACCEPT)),
            Kind::Config => (format!("blobs/{digest}"), None),
        };
        self.try_each(&self.endpoints()?, |endpoint| {
            let response = self.get(endpoint, &kind.name(digest), &object, accept)?;
            let place = response.url.clone();
            let fail = |error| SourceErrorKind::Http {
                what: kind.name(digest),
                error,
            };
            let bytes = response.read_all(kind.size_max()).map_err(fail)?;
            // Checked here too, so that a mirror's wrong answer leads to the next endpoint.
            let is = Sha256::of(&bytes);
            if is == *digest {
                Ok(bytes)
            } else {
                Err(SourceErrorKind::Digest {
                    what: kind.name(digest),
                    place,
                    is,
                })
            }
        })
    }

    fn place(&self) -> String {
        format!("{}/{}", self.reference.host(), self.repository)
    }

    fn kept(&self) -> &Kept {
        &self.kept
    }
}

impl ImageSource for RegistryImage {
    fn resolve(&self, platform: &Platform) -> Result<Sha256, SourceError> {
        self.locate(platform).map(|found| found.manifest)
    }

    fn locate(&self, platform: &Platform) -> Result<Located, SourceError> {
        self.find(platform).map_err(|kind| kind.of(&self.name))
    }

    fn statements(&self, attestation: &Sha256) -> Result<Vec<LayerDescriptor>, SourceError> {
        resolve::statements(self, attestation).map_err(|kind| kind.of(&self.name))
    }

    fn image(&self, manifest: &Sha256) -> Result<ResolvedImage, SourceError> {
        resolve::image(self, manifest).map_err(|kind| kind.of(&self.name))
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        match self.stream(layer) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(kind) => Err(kind.of(&self.name)),
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn digest(&self) -> Option<Sha256> {
        self.reference.digest().copied()
    }

    fn top(&self) -> Option<(Sha256, Arc<Vec<u8>>)> {
        let tagged = *self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = self.digest().or(tagged)?;
        self.kept.get(&digest).map(|bytes| (digest, bytes))
    }
}
