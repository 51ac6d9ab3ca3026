//! Proof for registries: anonymous, basic and bearer tokens.
//!
//! Enters: a registry's 401 and its challenges. Leaves: the value of an `Authorization` header,
//! kept until it expires. See the distribution project's token and OAuth 2 specifications.
//!
//! Who gets to see a password or refresh token:
//! - nobody over plain http, but for this machine and hosts that the user listed as insecure;
//! - the registry itself, when it asks for basic proof;
//! - the token service that the registry names, when the registry's answer came over a channel that
//!   nobody else can have written (verified https, or this machine), or when it is the same host.
//!   A registry could ask for the password directly, so naming a service gains it nothing.
//!
//! A challenge that comes after a redirect to another host is never answered. Whatever the
//! challenge says, a token is asked for one repository alone, and for pushing only when an upload
//! is what the user asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::Deserialize;
use ureq::http::{HeaderMap, Uri};

use super::challenge::{self, Challenge};
use super::credentials::{Credential, Credentials};
use super::http::{Http, HttpError, is_listed, is_loopback};

/// Bytes of a token service's answer.
const ANSWER_SIZE_MAX: u64 = 256 << 10;
/// How long a token lives when the service does not say (token specification).
const LIFETIME_DEFAULT: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token is not used this close to its end.
const LIFETIME_MARGIN: Duration = Duration::from_secs(10);

/// Where a registry, or a mirror of one, is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    /// `SCHEME://HOST[:PORT]`.
    pub(super) base: String,
    /// `HOST[:PORT]` under which credentials are kept.
    pub(super) host: String,
    /// What a mirror puts before repositories: empty, or ends with a slash.
    pub(super) prefix: String,
    /// Whether passwords may be sent there.
    pub(super) secrets: bool,
    /// Whether only the host itself can have written its answers.
    pub(super) genuine: bool,
    /// What a token is asked for: `pull`, or `pull,push` for uploads.
    pub(super) rights: &'static str,
}

/// Why a registry's wish for proof was not met.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    /// There is no proof to give, or it was refused.
    #[error("{0}")]
    Denied(String),
    /// The token service failed.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// Proofs in use, by endpoint and repository.
#[derive(Debug)]
pub(super) struct Auth {
    http: Http,
    credentials: Credentials,
    known: Mutex<BTreeMap<(String, String), Proof>>,
}

#[derive(Clone)]
struct Proof {
    header: String,
    until: Option<Instant>,
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Auth {
    pub(super) fn new(http: Http, credentials: Credentials) -> Self {
        Self {
            http,
            credentials,
            known: Mutex::default(),
        }
    }

    /// Returns the header's value to send at once, when one is known and fresh.
    pub(super) fn known(&self, endpoint: &Endpoint, repository: &str) -> Option<String> {
        let key = key(endpoint, repository);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = known.get(&key)?;
        if proof.until.is_some_and(|until| until <= Instant::now()) {
            known.remove(&key);
            return None;
        }
        Some(proof.header.clone())
    }

    /// Forgets a proof that was refused.
    pub(super) fn forget(&self, endpoint: &Endpoint, repository: &str) {
        let key = key(endpoint, repository);
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// Answers the challenges of a 401.
    pub(super) fn answer(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        headers: &HeaderMap,
    ) -> Result<String, AuthError> {
        let values = headers.get_all("www-authenticate").iter();
        let challenges: Vec<Challenge> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let offers = |scheme: &str| {
            challenges
                .iter()
                .find(|challenge| challenge.scheme == scheme)
        };
        let proof = match (offers("bearer"), offers("basic")) {
            (Some(bearer), _) => self.bearer(endpoint, repository, bearer)?,
            (None, Some(_)) => self.basic(endpoint, repository)?,
            (None, None) => {
                let schemes: Vec<&str> = challenges.iter().map(|one| one.scheme.as_str()).collect();
                return Err(AuthError::Denied(format!(
                    "it asks for no proof kiln can give (offered: {})",
                    if schemes.is_empty() {
                        "none".to_owned()
                    } else {
                        schemes.join(", ")
                    }
                )));
            }
        };
        let header = proof.header.clone();
        let key = key(endpoint, repository);
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, proof);
        Ok(header)
    }

    fn credential(
        &self,
        endpoint: &Endpoint,
        repository: &str,
    ) -> Result<Option<Credential>, String> {
        self.credentials.lookup(&endpoint.host, repository)
    }

    fn basic(&self, endpoint: &Endpoint, repository: &str) -> Result<Proof, AuthError> {
        if !endpoint.secrets {
            return Err(AuthError::Denied(
                "it asks for a password over plain http".to_owned(),
            ));
        }
        let credential = self
            .credential(endpoint, repository)
            .map_err(AuthError::Denied)?;
        let header = match credential {
            Some(Credential::Password { user, password }) => basic_header(&user, &password),
            Some(Credential::RegistryToken(token)) => format!("Bearer {token}"),
            Some(Credential::IdentityToken(_)) => {
                return Err(AuthError::Denied(
                    "it asks for a password, but an identity token is all that is known".to_owned(),
                ));
            }
            None => {
                return Err(AuthError::Denied(
                    "it asks for a password; none is known".to_owned(),
                ));
            }
        };
        Ok(Proof {
            header: checked(header)?,
            until: None,
        })
    }

    fn bearer(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        challenge: &Challenge,
    ) -> Result<Proof, AuthError> {
        let realm = challenge
            .parameters
            .get("realm")
            .map(String::as_str)
            .unwrap_or_default();
        let realm_uri = self.check_realm(realm)?;
        let service = challenge
            .parameters
            .get("service")
            .map(String::as_str)
            .unwrap_or_default();
        let realm_host = realm_uri.host().unwrap_or_default();
        let may_see = may_see(endpoint, realm_host);
        // A helper that fails matters only when there is no way without it.
        let (credential, trouble) = match self.credential(endpoint, repository) {
            Ok(credential) => (credential.filter(|_| may_see), None),
            Err(reason) => (None, Some(reason)),
        };
        if let Some(Credential::RegistryToken(token)) = credential {
            return Ok(Proof {
                header: checked(format!("Bearer {token}"))?,
                until: None,
            });
        }
        let scope = format!(
            "repository:{}{repository}:{}",
            endpoint.prefix, endpoint.rights
        );
        let result = self.token(realm, service, &scope, credential.as_ref());
        result.map_err(|error| match (error, trouble) {
            (HttpError::Status { status, .. }, Some(reason)) => {
                AuthError::Denied(format!("the token service answers {status}, and {reason}"))
            }
            (
                HttpError::Status {
                    url,
                    status: status @ (400 | 401 | 403),
                    ..
                },
                None,
            ) => {
                let with = if credential.is_some() {
                    "the known credentials"
                } else {
                    "no credentials"
                };
                AuthError::Denied(format!("{url} answers {status} to {with}"))
            }
            (error, _) => AuthError::Http(error),
        })
    }

    /// A token service is reached over https, or where plain http is fine.
    fn check_realm(&self, realm: &str) -> Result<Uri, AuthError> {
        let shown: String = realm
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        let bad = |reason: &str| AuthError::Denied(format!("its token service {shown:?} {reason}"));
        let uri: Uri = realm.parse().map_err(|_| bad("is no URL"))?;
        let authority = uri.authority().ok_or_else(|| bad("is no URL"))?;
        if authority.as_str().contains('@') {
            return Err(bad("names a user"));
        }
        let plain_is_fine =
            is_loopback(authority.host()) || is_listed(&self.http.options().insecure, authority);
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if plain_is_fine => Ok(uri),
            _ => Err(bad("is not reached over https")),
        }
    }

    fn token(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
        credential: Option<&Credential>,
    ) -> Result<Proof, HttpError> {
        let response = if let Some(Credential::IdentityToken(token)) = credential {
            let form = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", "kiln"),
                ("scope", scope),
                ("refresh_token", token),
            ];
            self.http.post_form(realm, &[], &form)?
        } else {
            let joint = if realm.contains('?') { '&' } else { '?' };
            let url = format!(
                "{realm}{joint}service={}&scope={}",
                encoded(service),
                encoded(scope)
            );
            match credential {
                Some(Credential::Password { user, password }) => {
                    let header = basic_header(user, password);
                    self.http.get(&url, &[("Authorization", &header)], 0)?
                }
                _ => self.http.get(&url, &[], 0)?,
            }
        };
        let url = response.url.clone();
        let bytes = response.read_all(ANSWER_SIZE_MAX)?;
        let bad = |reason: &str| HttpError::Answer {
            url: url.clone(),
            reason: reason.to_owned(),
        };
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| bad("answers no token"))?;
        let token = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token);
        let token = token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| bad("answers no token"))?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("answers a token that cannot stand in a header"));
        }
        let until = Some(Instant::now() + lifetime(answer.expires_in));
        Ok(Proof {
            header: format!("Bearer {token}"),
            until,
        })
    }
}

fn key(endpoint: &Endpoint, repository: &str) -> (String, String) {
    let place = format!("{} {}", endpoint.base, endpoint.rights);
    (place, repository.to_owned())
}

/// Tells whether a token service may be sent what is known for an endpoint (see the module's head).
fn may_see(endpoint: &Endpoint, realm_host: &str) -> bool {
    let is_same = |base: Uri| {
        base.host()
            .is_some_and(|host| host.eq_ignore_ascii_case(realm_host))
    };
    endpoint.secrets && (endpoint.genuine || endpoint.base.parse().is_ok_and(is_same))
}

fn lifetime(seconds: Option<f64>) -> Duration {
    let stated = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let stated = stated.unwrap_or(LIFETIME_DEFAULT).min(LIFETIME_MAX);
    stated.saturating_sub(LIFETIME_MARGIN).max(stated / 2)
}

fn basic_header(user: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {pair}")
}

fn checked(header: String) -> Result<String, AuthError> {
    if header
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        Ok(header)
    } else {
        Err(AuthError::Denied(
            "the known token cannot stand in a header".to_owned(),
        ))
    }
}

/// Percent-encodes a query's value (RFC 3986, 2.3: all but unreserved characters).
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_keep_a_margin() {
        let seconds = |stated| lifetime(stated).as_secs_f64();
        assert_eq!(seconds(None), 50.0);
        assert_eq!(seconds(Some(300.0)), 290.0);
        assert_eq!(seconds(Some(4.0)), 2.0);
        assert_eq!(seconds(Some(-1.0)), 50.0);
        assert_eq!(seconds(Some(1e300)), 50.0);
        assert_eq!(seconds(Some(1e9)), 24.0 * 3600.0 - 10.0);
    }

    #[test]
    fn a_channel_others_can_write_to_names_no_stranger() {
        let endpoint = |base: &str, secrets, genuine| Endpoint {
            base: base.to_owned(),
            host: String::new(),
            prefix: String::new(),
            secrets,
            genuine,
            rights: "pull",
        };
        let https = endpoint("https://r.example", true, true);
        assert!(may_see(&https, "auth.example") && may_see(&https, "r.example"));
        let insecure = endpoint("http://r.example:5000", true, false);
        assert!(may_see(&insecure, "R.example") && !may_see(&insecure, "auth.example"));
        let plain_mirror = endpoint("http://r.example", false, false);
        assert!(!may_see(&plain_mirror, "r.example"));
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            encoded("repository:a/b:pull&x=é"),
            "repository%3Aa%2Fb%3Apull%26x%3D%C3%A9"
        );
    }

    #[test]
    fn realms_must_be_safe() {
        let auth = Auth::new(
            Http::new(super::super::http::HttpOptions::default()),
            Credentials::default(),
        );
        for realm in [
            "",
            "x",
            "/token",
            "http://evil.example/token",
            "ftp://a/b",
            "https://u:p@a/b",
        ] {
            assert!(
                matches!(auth.check_realm(realm), Err(AuthError::Denied(_))),
                "{realm}"
            );
        }
        for realm in ["https://auth.example/token", "http://127.0.0.1:5001/token"] {
            assert!(auth.check_realm(realm).is_ok(), "{realm}");
        }
    }
}
