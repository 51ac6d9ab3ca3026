//! Connections: which agent serves a request, with which proxy and which trusted roots.
//!
//! Enters: the options and a target. Leaves: a ureq agent. The TLS set-up (the system's roots and
//! own CA files) costs milliseconds; it is made with the first https request, never before.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

use super::forward::forward_agent;
use super::resolver::Remembering;
use super::url::{host, is_bypassed, is_listed, is_loopback, without_userinfo};
use super::{HttpError, HttpOptions};

/// Size of a file of CA certificates.
const CA_FILE_SIZE_MAX: u64 = 16 << 20;

/// What needs an agent of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    https: bool,
    verified: bool,
    proxied: bool,
}

/// Agents in use.
#[derive(Default)]
pub(super) struct Agents(Mutex<BTreeMap<Route, ureq::Agent>>);

impl Agents {
    /// Returns the agent for a target, made when it is the first of its kind.
    pub(super) fn get(
        &self,
        options: &HttpOptions,
        target: &Uri,
    ) -> Result<ureq::Agent, HttpError> {
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
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&route) {
            return Ok(agent.clone());
        }
        let agent = new_agent(options, route, proxy)?;
        agents.insert(route, agent.clone());
        Ok(agent)
    }
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
    let forwarded = !route.https
        && proxy
            .as_ref()
            .is_some_and(|proxy| proxy.protocol() == ureq::ProxyProtocol::Http);
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
        .proxy(proxy.clone().filter(|_| !forwarded))
        .user_agent(&options.user_agent)
        .tls_config(tls.build())
        .timeout_resolve(Some(options.timeout_connect))
        .timeout_connect(Some(options.timeout_connect))
        .timeout_per_read(Some(options.timeout_idle))
        .timeout_per_write(Some(options.timeout_idle))
        .timeout_recv_response(Some(options.timeout_idle * 2))
        .max_idle_connections_per_host(8)
        .build();
    match proxy {
        Some(proxy) if forwarded => Ok(forward_agent(config, &proxy)),
        _ => Ok(ureq::Agent::with_parts(
            config,
            DefaultConnector::default(),
            Remembering::<DefaultResolver>::default(),
        )),
    }
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
