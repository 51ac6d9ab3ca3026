//! Where a registry is reached: its hosts, mirrors and schemes.
//!
//! Enters: a reference's host, the mirrors and the hosts listed as insecure. Leaves: endpoints in
//! the order to try. Registries speak https. Loopback hosts may speak plain http, which is tried
//! first there; hosts listed as insecure may do so too, after https without verification. Every
//! other host never sees plain http, but for a mirror whose URL says so, and then no password.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ureq::http::Uri;
use ureq::http::uri::Authority;

use super::auth::Endpoint;
use super::http::{ConnectionFailure, Http, HttpError, is_listed, is_loopback};
use super::reference::{DOCKER_HUB, is_docker_hub};

/// The host that serves Docker Hub's API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Another place to ask first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The registry it mirrors (`docker.io` covers all names of Docker Hub); `None`: all that have
    /// no mirror of their own.
    pub registry: Option<String>,
    /// `http://` or `https://` URL; its path stands before repositories (`/v2/PATH/REPOSITORY`).
    pub url: String,
}

impl FromStr for Mirror {
    type Err = EndpointError;

    /// Reads `[REGISTRY=]URL`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let is_url = |text: &str| text.starts_with("http://") || text.starts_with("https://");
        match text.split_once('=') {
            _ if is_url(text) => Ok(Self {
                registry: None,
                url: text.to_owned(),
            }),
            Some((registry, url)) if is_url(url) && !registry.is_empty() => Ok(Self {
                registry: Some(registry.to_owned()),
                url: url.to_owned(),
            }),
            _ => Err(EndpointError::Mirror(text.to_owned())),
        }
    }
}

/// A mirror or registry that cannot be reached as it is written.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A mirror's URL is none.
    #[error("mirror \"{0}\" must start with http:// or https:// and name a host")]
    Mirror(String),
    /// Neither http nor https answers.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// Endpoints as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    mirrors: Vec<Mirror>,
    /// `http` or `https`, by host.
    schemes: Mutex<BTreeMap<String, &'static str>>,
    /// Mirrors that could not be reached: not asked again, for each would cost a timeout.
    down: Mutex<BTreeSet<String>>,
}

impl Endpoints {
    pub(super) fn new(mirrors: Vec<Mirror>) -> Self {
        Self {
            mirrors,
            ..Self::default()
        }
    }

    /// Returns a registry's mirrors, in the order written.
    pub(super) fn mirrors(&self, http: &Http, host: &str) -> Result<Vec<Endpoint>, EndpointError> {
        let is_own = |mirror: &&Mirror| {
            let registry = mirror.registry.as_deref();
            registry.is_some_and(|name| name == host || is_docker_hub(name) && is_docker_hub(host))
        };
        let mut chosen: Vec<&Mirror> = self.mirrors.iter().filter(is_own).collect();
        if chosen.is_empty() {
            chosen = self
                .mirrors
                .iter()
                .filter(|mirror| mirror.registry.is_none())
                .collect();
        }
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints = chosen
            .into_iter()
            .map(|mirror| mirror_endpoint(http, &mirror.url));
        let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
        Ok(endpoints
            .into_iter()
            .filter(|endpoint| !down.contains(&endpoint.base))
            .collect())
    }

    /// Returns the registry itself; finds out how it speaks where that is not certain.
    pub(super) fn registry(&self, http: &Http, host: &str) -> Result<Endpoint, EndpointError> {
        let is_hub = is_docker_hub(host);
        let address = if is_hub { DOCKER_HUB_API } else { host };
        let scheme = self.scheme(http, address)?;
        let mut endpoint = endpoint(http, scheme, address);
        if is_hub {
            endpoint.host = DOCKER_HUB.to_owned();
        }
        Ok(endpoint)
    }

    /// Notes that an endpoint cannot be reached.
    pub(super) fn mark_down(&self, endpoint: &Endpoint) {
        self.down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.base.clone());
    }

    fn scheme(&self, http: &Http, address: &str) -> Result<&'static str, EndpointError> {
        let loopback = is_loopback(without_port(address));
        if !loopback && !is_insecure(http, address) {
            return Ok("https");
        }
        let known = self
            .schemes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(address)
            .copied();
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let order = if loopback {
            ["http", "https"]
        } else {
            ["https", "http"]
        };
        let mut first_error = None;
        for scheme in order {
            match probe(http, scheme, address) {
                Ok(()) => {
                    let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
                    schemes.insert(address.to_owned(), scheme);
                    return Ok(scheme);
                }
                Err(error) => {
                    // Of both, the one that speaks of a TLS failure tells more.
                    if first_error.is_none() || is_tls_failure(&error) {
                        first_error = Some(error);
                    }
                }
            }
        }
        match first_error {
            Some(error) => Err(error.into()),
            None => Ok("https"),
        }
    }
}

/// Tells whether a registry speaks `scheme`, without any proof. Any answer will do, but 400 over
/// http: that is how TLS servers answer it.
fn probe(http: &Http, scheme: &str, address: &str) -> Result<(), HttpError> {
    match http.get_once(&format!("{scheme}://{address}/v2/"), &[]) {
        Ok(_) => Ok(()),
        Err(HttpError::Status { status, .. }) if !(status == 400 && scheme == "http") => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_tls_failure(error: &HttpError) -> bool {
    matches!(
        error,
        HttpError::Connection {
            kind: ConnectionFailure::Tls,
            ..
        }
    )
}

fn endpoint(http: &Http, scheme: &str, address: &str) -> Endpoint {
    let loopback = is_loopback(without_port(address));
    let insecure = is_insecure(http, address);
    Endpoint {
        base: format!("{scheme}://{address}"),
        host: address.to_owned(),
        prefix: String::new(),
        secrets: scheme == "https" || loopback || insecure,
        genuine: loopback || scheme == "https" && !insecure,
        rights: "pull",
    }
}

fn mirror_endpoint(http: &Http, url: &str) -> Result<Endpoint, EndpointError> {
    let bad = || EndpointError::Mirror(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let scheme = uri
        .scheme_str()
        .filter(|scheme| matches!(*scheme, "http" | "https"));
    let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
        return Err(bad());
    };
    if authority.as_str().contains('@') || authority.host().is_empty() || uri.query().is_some() {
        return Err(bad());
    }
    let mut endpoint = endpoint(http, scheme, authority.as_str());
    let path = uri.path().trim_matches('/');
    let path = path
        .strip_prefix("v2/")
        .unwrap_or(if path == "v2" { "" } else { path });
    endpoint.prefix = if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    };
    Ok(endpoint)
}

fn is_insecure(http: &Http, address: &str) -> bool {
    let authority = address.parse::<Authority>();
    authority.is_ok_and(|authority| is_listed(&http.options().insecure, &authority))
}

fn without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::http::HttpOptions;

    fn http() -> Http {
        Http::new(HttpOptions {
            insecure: vec!["lab.example".into()],
            ..HttpOptions::default()
        })
    }

    #[test]
    fn only_some_hosts_may_see_secrets() {
        let seen = |scheme, address| {
            let endpoint = endpoint(&http(), scheme, address);
            (endpoint.secrets, endpoint.genuine)
        };
        assert_eq!(seen("https", "r.example"), (true, true));
        assert_eq!(seen("http", "r.example"), (false, false));
        assert_eq!(seen("http", "127.0.0.1:5000"), (true, true));
        assert_eq!(seen("http", "[::1]:5000"), (true, true));
        assert_eq!(seen("http", "lab.example:80"), (true, false));
        assert_eq!(seen("https", "lab.example"), (true, false));
    }

    #[test]
    fn mirrors_are_chosen_by_registry() {
        let mirror = |registry: Option<&str>, url: &str| Mirror {
            registry: registry.map(str::to_owned),
            url: url.to_owned(),
        };
        let endpoints = Endpoints::new(vec![
            mirror(Some("docker.io"), "https://hub.example/proxy/hub/"),
            mirror(None, "http://any.example:8080"),
        ]);
        let bases = |host| -> Vec<String> {
            let mirrors = endpoints.mirrors(&http(), host).unwrap();
            mirrors
                .into_iter()
                .map(|one| format!("{}/v2/{}", one.base, one.prefix))
                .collect()
        };
        assert_eq!(
            bases("index.docker.io"),
            ["https://hub.example/v2/proxy/hub/"]
        );
        assert_eq!(bases("other.example"), ["http://any.example:8080/v2/"]);
        let first = endpoints.mirrors(&http(), "other.example").unwrap();
        endpoints.mark_down(&first[0]);
        assert!(bases("other.example").is_empty());
        for bad in [
            "hub.example",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x?y",
        ] {
            let endpoints = Endpoints::new(vec![mirror(None, bad)]);
            assert!(
                endpoints.mirrors(&http(), "other.example").is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn docker_hub_has_its_own_hosts() {
        let endpoints = Endpoints::default();
        let hub = endpoints.registry(&http(), "docker.io").unwrap();
        assert_eq!(
            (hub.base.as_str(), hub.host.as_str()),
            ("https://registry-1.docker.io", "docker.io")
        );
    }
}
