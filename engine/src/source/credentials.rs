//! Credentials as docker, podman and skopeo keep them.
//!
//! Enters: the path of a `config.json` or `auth.json`, given by the caller, and a host. Leaves: a
//! user and password, an identity token or a registry token. The file's `credHelpers` and
//! `credsStore` name programs (`docker-credential-NAME`, the docker-credential-helpers protocol);
//! they run only when a registry asks for proof, and not for long.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::Deserialize;

use super::reference::is_docker_hub;

/// Bytes of a credentials file.
const FILE_SIZE_MAX: u64 = 1 << 20;
/// Bytes of a helper's answer.
const ANSWER_SIZE_MAX: u64 = 256 << 10;
/// How long a helper may take: some ask a cloud service.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);
/// The name under which docker keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Proof for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User and password.
    Password {
        /// The user.
        user: String,
        /// The password, or an access token in its place.
        password: String,
    },
    /// An OAuth 2 refresh token, exchanged for access tokens.
    IdentityToken(String),
    /// A bearer token that is sent as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::RegistryToken(_) => "RegistryToken(..)",
        })
    }
}

/// Where credentials are looked up.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    path: Option<PathBuf>,
    fixed: BTreeMap<String, Credential>,
    file: Arc<OnceLock<Result<ConfigFile, String>>>,
}

/// The parts of `config.json` that are read.
#[derive(Clone, Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(..)")
    }
}

impl Credentials {
    /// Looks up in docker's `config.json` or podman's `auth.json`; a missing file holds none.
    #[must_use]
    pub fn from_file(path: PathBuf) -> Self {
        Self {
            path: Some(path),
            ..Self::default()
        }
    }

    /// Adds a credential for a host (`host` or `host:port`), before any file's.
    #[must_use]
    pub fn with(mut self, host: &str, credential: Credential) -> Self {
        self.fixed.insert(host.to_owned(), credential);
        self
    }

    /// Returns the credential for a repository of a host.
    ///
    /// # Errors
    /// When the file or a helper named for the host cannot be used, in words.
    pub fn lookup(&self, host: &str, repository: &str) -> Result<Option<Credential>, String> {
        if let Some(credential) = self.fixed.get(host) {
            return Ok(Some(credential.clone()));
        }
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let file = self.file.get_or_init(|| read(path));
        let file = file
            .as_ref()
            .map_err(|reason| format!("{}: {reason}", path.display()))?;
        let helper = find(&file.helpers, host, "").or(file.store.as_ref());
        let mut trouble = None;
        if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
            let server = if is_docker_hub(host) {
                DOCKER_HUB_KEY
            } else {
                host
            };
            match ask(helper, server, HELPER_TIMEOUT) {
                Ok(Some(credential)) => return Ok(Some(credential)),
                Ok(None) => {}
                Err(reason) => trouble = Some(reason),
            }
        }
        match (find(&file.auths, host, repository), trouble) {
            (Some(entry), _) if entry.is_present() => entry
                .credential()
                .map_err(|reason| format!("{}: {host}: {reason}", path.display())),
            (_, Some(reason)) => Err(reason),
            _ => Ok(None),
        }
    }
}

impl Entry {
    /// `docker login` with a store leaves empty entries behind.
    fn is_present(&self) -> bool {
        [
            &self.auth,
            &self.username,
            &self.identitytoken,
            &self.registrytoken,
        ]
        .into_iter()
        .any(|field| field.as_ref().is_some_and(|text| !text.is_empty()))
    }

    fn credential(&self) -> Result<Option<Credential>, String> {
        let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = filled(&self.auth) {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(auth.trim())
                .map_err(|_| "auth is not base64".to_owned())?;
            let text = String::from_utf8(bytes).map_err(|_| "auth is not UTF-8".to_owned())?;
            let Some((user, password)) = text.split_once(':') else {
                return Err("auth holds no user:password".to_owned());
            };
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credential::Password {
                user: user.to_owned(),
                password,
            }));
        }
        let (user, password) = (
            filled(&self.username),
            self.password.clone().unwrap_or_default(),
        );
        Ok(user.map(|user| Credential::Password { user, password }))
    }
}

fn read(path: &std::path::Path) -> Result<ConfigFile, String> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ConfigFile::default());
        }
        other => other.map_err(|error| error.to_string())?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_SIZE_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    // serde's message may quote a value, and values here are secrets: only the place is told.
    serde_json::from_slice(&bytes).map_err(|error| {
        format!(
            "not a docker config, line {} column {}",
            error.line(),
            error.column()
        )
    })
}

/// Finds the entry for a host, the most specific repository prefix first (podman's namespaces).
fn find<'a, T>(entries: &'a BTreeMap<String, T>, host: &str, repository: &str) -> Option<&'a T> {
    let mut wanted = format!("{host}/{repository}");
    loop {
        let wanted_name = wanted.trim_end_matches('/');
        let is_wanted = |key: &String| {
            let key = bare(key);
            key == wanted_name || (wanted_name == host && is_docker_hub(host) && is_docker_hub(key))
        };
        if let Some((_, entry)) = entries.iter().find(|(key, _)| is_wanted(key)) {
            return Some(entry);
        }
        let shorter = wanted_name.rsplit_once('/')?.0.to_owned();
        wanted = shorter;
    }
}

/// `https://index.docker.io/v1/` → `index.docker.io`.
fn bare(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Runs `docker-credential-NAME get`; `None` when it knows no credential for the server.
fn ask(name: &str, server: &str, timeout: Duration) -> Result<Option<Credential>, String> {
    // The name becomes part of a program's: no path, no option.
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let (success, output) =
        run(&program, server, timeout).map_err(|reason| format!("{program}: {reason}"))?;
    if !success {
        let said = String::from_utf8_lossy(&output);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let said: String = said
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        return Err(format!("{program} failed for {server}: {said}"));
    }
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| format!("{program}: answered no credential"))?;
    Ok(match answer.username.as_str() {
        "" => None,
        "<token>" => Some(Credential::IdentityToken(answer.secret)),
        user => Some(Credential::Password {
            user: user.to_owned(),
            password: answer.secret,
        }),
    })
}

fn run(program: &str, input: &str, timeout: Duration) -> Result<(bool, Vec<u8>), String> {
    let started = Instant::now();
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says what is wrong by its exit.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut output = Vec::new();
            let read = stdout.take(ANSWER_SIZE_MAX).read_to_end(&mut output);
            let _ = sender.send(read.map(|_| output));
        });
    }
    let output = receiver.recv_timeout(timeout);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let output = output.map_err(|_| "kept its output open".to_owned())?;
                return Ok((status.success(), output.map_err(|error| error.to_string())?));
            }
            Ok(None) if started.elapsed() < timeout => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", timeout.as_secs_f32()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(json: &str) -> (tempfile::TempDir, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        (directory, Credentials::from_file(path))
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    #[test]
    fn finds_entries_by_host_and_namespace() {
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOmE6Yg=="},
            "localhost:5000": {"username": "u", "password": "p"},
            "other.example": {"identitytoken": "id"}, "other.example/team/a": {"auth": "dGVhbTp4"},
            "registry.example": {"registrytoken": "reg"}, "empty.io": {}, "bad.io": {"auth": "%"}
        }, "HttpHeaders": {"X": "y"}}"#;
        let (_directory, credentials) = file(json);
        let lookup = |host, repository| credentials.lookup(host, repository);
        assert_eq!(
            lookup("docker.io", "library/nginx"),
            Ok(password("hub", "a:b"))
        );
        assert_eq!(
            lookup("registry-1.docker.io", "x"),
            Ok(password("hub", "a:b"))
        );
        assert_eq!(lookup("localhost:5000", "x"), Ok(password("u", "p")));
        assert_eq!(lookup("localhost:5001", "x"), Ok(None));
        assert_eq!(
            lookup("other.example", "team/a/b"),
            Ok(password("team", "x"))
        );
        assert_eq!(
            lookup("other.example", "team/ab"),
            Ok(Some(Credential::IdentityToken("id".into())))
        );
        assert_eq!(
            lookup("registry.example", "x"),
            Ok(Some(Credential::RegistryToken("reg".into())))
        );
        assert_eq!(lookup("empty.io", "x"), Ok(None));
        assert!(
            lookup("bad.io", "x")
                .unwrap_err()
                .contains("bad.io: auth is not base64")
        );
    }

    #[test]
    fn a_missing_file_holds_nothing_and_a_broken_one_tells_no_secret() {
        let credentials = Credentials::from_file("/nonexistent/config.json".into());
        assert_eq!(credentials.lookup("x.io", "y"), Ok(None));
        let (_directory, credentials) = file(r#"{"auths": {"x.io": "c2VjcmV0"}}"#);
        let reason = credentials.lookup("x.io", "y").unwrap_err();
        assert!(
            reason.contains("line 1") && !reason.contains("c2VjcmV0"),
            "{reason}"
        );
        let shown = format!("{:?}", Credential::IdentityToken("hunter2".into()));
        assert!(!shown.contains("hunter2"));
    }

    #[test]
    fn helpers_answer_fail_and_hang() {
        let directory = tempfile::tempdir().unwrap();
        let helper = |name: &str, script: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let second = Duration::from_secs(10);
        let good = helper(
            "good",
            r#"read s; echo "{\"Username\":\"$1\",\"Secret\":\"$s\"}""#,
        );
        let (success, output) = run(&good, "host:1\n", second).unwrap();
        assert!(success);
        assert_eq!(output, b"{\"Username\":\"get\",\"Secret\":\"host:1\"}\n");
        let (success, _) = run(&helper("bad", "exit 1"), "x", second).unwrap();
        assert!(!success);
        let hanging = helper("hanging", "exec sleep 60");
        let reason = run(&hanging, "x", Duration::from_millis(200)).unwrap_err();
        assert!(reason.contains("no answer within 0.2 s"), "{reason}");
        assert!(run("/nonexistent/helper", "x", second).is_err());
        for name in ["", "../x", "a b", "x/y"] {
            assert!(
                ask(name, "x", second).unwrap_err().contains("not the name"),
                "{name}"
            );
        }
    }
}
