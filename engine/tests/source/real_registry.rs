//! Debian's docker-registry on loopback, filled by skopeo: plain, with passwords, with TLS.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kiln_engine::digest::Sha256;
use kiln_engine::source::http::{ConnectionFailure, HttpError, HttpOptions, is_loopback};
use kiln_engine::source::registry::RegistryOptions;
use kiln_engine::source::{Credentials, ImageSource, Platform, SourceErrorKind};
use serde_json::{Value, json};

use crate::support::{Shelf, image, image_with, options, run, tool};

/// `user:secret:1`, bcrypt with few rounds.
const HTPASSWD: &str = "user:$2b$04$abcdefghijklmnopqrstuuLdY4wmx4VwIImgTn2NDEazUN2VZO2Da\n";

/// A running docker-registry; ends when dropped.
struct RealRegistry {
    child: Child,
    host: String,
}

impl RealRegistry {
    fn start(directory: &Path, extra: &Value) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": directory.join("registry")}},
            "http": {"addr": host},
        });
        for (section, value) in extra.as_object().unwrap() {
            for (key, value) in value.as_object().unwrap() {
                config[section][key] = value.clone();
            }
        }
        let path = directory.join("config.yml");
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).unwrap();
        let log = std::fs::File::create(directory.join("registry.log")).unwrap();
        let child = tool("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { child, host };
        let started = Instant::now();
        while std::net::TcpStream::connect(&registry.host).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "docker-registry did not start"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        registry
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the sample repository as a layout, to be pushed.
fn sample_layout(directory: &Path) -> (Shelf, PathBuf) {
    let shelf = Shelf::sample();
    let path = directory.join("layout");
    std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    for (digest, bytes) in &shelf.blobs {
        std::fs::write(
            path.join("blobs/sha256").join(&digest["sha256:".len()..]),
            bytes,
        )
        .unwrap();
    }
    std::fs::write(
        path.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
    let entries: Vec<Value> = shelf
        .tags
        .iter()
        .map(|(tag, (digest, media_type))| {
            json!({"mediaType": media_type, "digest": digest, "size": shelf.blobs[digest].len(),
                "annotations": {"org.opencontainers.image.ref.name": tag}})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": entries});
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
    (shelf, path)
}

fn push(layout: &Path, host: &str, extra: &[&str]) {
    for tag in ["multi", "single"] {
        run(tool("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
            ])
            .args(extra)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{host}/team/app:{tag}")));
    }
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn pull(source: &dyn ImageSource, wanted: &str) -> Result<Vec<u8>, String> {
    let digest = source
        .resolve(&platform(wanted))
        .map_err(|error| error.to_string())?;
    let image = source.image(&digest).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut layer = source
        .layer(&image.layers[0])
        .map_err(|error| error.to_string())?;
    layer
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    assert_eq!(Sha256::of(&bytes), image.layers[0].diff_id);
    Ok(bytes)
}

#[test]
fn images_come_over_plain_http_on_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let registry = RealRegistry::start(directory.path(), &json!({}));
    let (shelf, layout) = sample_layout(directory.path());
    push(&layout, &registry.host, &[]);
    let named = |name: &str| image(&registry.host, name, RegistryOptions::default());
    let multi = named("team/app:multi");
    assert!(pull(&multi, "linux/amd64").unwrap() == shelf.layers[0]);
    assert!(pull(&multi, "linux/arm64/v8").unwrap() == shelf.layers[1]);
    assert_eq!(
        multi.resolve(&platform("linux/amd64")).unwrap(),
        shelf.tagged("single")
    );
    assert!(pull(&named("team/app:single"), "linux/amd64").unwrap() == shelf.layers[0]);
    let error = pull(&named("team/app:nope"), "linux/amd64").unwrap_err();
    assert!(error.ends_with("there are: multi, single"), "{error}");
    let error = pull(&named("no/such"), "linux/amd64").unwrap_err();
    assert!(error.contains("404 (manifest unknown)"), "{error}");
    assert!(is_loopback("localhost"));
}

#[test]
fn passwords_come_from_the_docker_config() {
    let directory = tempfile::tempdir().unwrap();
    let htpasswd = directory.path().join("htpasswd");
    std::fs::write(&htpasswd, HTPASSWD).unwrap();
    let auth = json!({"auth": {"htpasswd": {"realm": "kiln", "path": htpasswd}}});
    let registry = RealRegistry::start(directory.path(), &auth);
    let (shelf, layout) = sample_layout(directory.path());
    push(&layout, &registry.host, &["--dest-creds", "user:secret:1"]);
    let config = directory.path().join("config.json");
    let with = |auth: &str| {
        let json = json!({"auths": {&registry.host: {"auth": auth}}});
        std::fs::write(&config, json.to_string()).unwrap();
        let credentials = Credentials::from_file(config.clone());
        let options = RegistryOptions {
            credentials,
            ..RegistryOptions::default()
        };
        pull(
            &image(&registry.host, "team/app:single", options),
            "linux/amd64",
        )
    };
    assert!(with("dXNlcjpzZWNyZXQ6MQ==").unwrap() == shelf.layers[0]);
    let error = with("dXNlcjp3cm9uZw==").unwrap_err();
    assert!(
        error.contains(&format!("access denied by {}", registry.host)),
        "{error}"
    );
    assert!(error.contains("401 (authentication required)"), "{error}");
    let anonymous = image(
        &registry.host,
        "team/app:single",
        RegistryOptions::default(),
    );
    let error = pull(&anonymous, "linux/amd64").unwrap_err();
    assert!(
        error.ends_with("it asks for a password; none is known"),
        "{error}"
    );
}

/// Makes a CA and a certificate for 127.0.0.1.
fn certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        run(tool("openssl")
            .args(arguments.split_whitespace())
            .current_dir(directory));
    };
    std::fs::write(directory.join("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {new_key} -keyout ca.key -out ca.pem -subj /CN=kiln-test -days 2"
    ));
    openssl(&format!(
        "req {new_key} -keyout leaf.key -out leaf.csr -subj /CN=registry"
    ));
    openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.pem",
    );
}

#[test]
fn tls_is_verified_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let tls = json!({"http": {"tls": {"certificate": file("leaf.pem"), "key": file("leaf.key")}}});
    let registry = RealRegistry::start(directory.path(), &tls);
    let (shelf, layout) = sample_layout(directory.path());
    push(&layout, &registry.host, &[]);
    let pull_with = |options: HttpOptions| {
        let source = image_with(
            options,
            &registry.host,
            "team/app:multi",
            RegistryOptions::default(),
        );
        let result = pull(&source, "linux/amd64");
        (result, source.resolve(&platform("linux/amd64")))
    };
    let own_ca = HttpOptions {
        ca_files: vec![file("ca.pem")],
        ..options()
    };
    assert!(pull_with(own_ca).0.unwrap() == shelf.layers[0]);
    let (error, again) = pull_with(options());
    let error = error.unwrap_err();
    assert!(
        error.contains("invalid peer certificate: UnknownIssuer"),
        "{error}"
    );
    assert!(error.contains("https://127.0.0.1"), "{error}");
    let is_tls = |kind: &SourceErrorKind| match kind {
        SourceErrorKind::Http { error, .. } => {
            matches!(error, HttpError::Connection { kind, .. } if *kind == ConnectionFailure::Tls)
        }
        _ => false,
    };
    assert!(is_tls(&again.unwrap_err().kind));
    let insecure = HttpOptions {
        insecure: vec![registry.host.clone()],
        ..options()
    };
    assert!(pull_with(insecure).0.unwrap() == shelf.layers[0]);
}
