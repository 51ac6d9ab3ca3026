//! Images of the cache pushed to registries: Debian's registry and skopeo judge; a server in the
//! test's process asks for proof and fails once.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::support::loopback::{Reply, Server};
use super::support::{Space, tool};

fn raw(reference: &str) -> String {
    let image = format!("docker://{reference}");
    tool(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &image],
    )
}

fn digest(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let line = tool("sha256sum", &[file.path().to_str().unwrap()]);
    format!("sha256:{}", &line[..64])
}

fn kiln(space: &Space, args: &[&str]) -> String {
    let said = space.kiln(args);
    assert_eq!(said.code, Some(0), "{args:?}: {}", said.stderr);
    said.stderr
}

/// Makes an image for an architecture; returns its layout.
fn image(space: &Space, name: &str, content: &str, architecture: &str) -> String {
    space
        .image(name)
        .layer(&[("!init", content)])
        .config(&["--architecture", architecture])
        .layout()
}

#[test]
fn a_tag_is_pushed_once_and_changed_when_told() {
    let space = Space::new();
    let registry = space.registry();
    let name = format!("{}/a/one:1", registry.host);
    let one = image(&space, "one", "one", "amd64");
    kiln(&space, &["cache", "import", "--name", &name, &one]);
    kiln(&space, &["cache", "push", &name]);
    let first = raw(&name);
    let listed = String::from_utf8(space.kiln(&["cache", "ls"]).stdout).unwrap();
    assert!(listed.contains(&digest(&first)), "{listed}");
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--src-tls-verify=false",
            &format!("docker://{name}"),
            &format!("oci:{}:x", space.path("copied").display()),
        ],
    );

    let two = image(&space, "two", "two", "amd64");
    kiln(&space, &["cache", "import", "--name", &name, &two]);
    assert!(kiln(&space, &["cache", "push", &name]).contains("Kept"));
    assert_eq!(raw(&name), first);
    kiln(&space, &["cache", "push", "--override", &name]);
    assert_ne!(raw(&name), first);
    let other = format!("{}/b/other:2", registry.host);
    kiln(&space, &["cache", "push", "--remote-name", &other, &name]);
    assert_eq!(raw(&other), raw(&name));
}

#[test]
fn platforms_there_are_kept_beside_those_of_the_cache() {
    let space = Space::new();
    let registry = space.registry();
    let name = format!("{}/a/one:1", registry.host);
    // One layout with an index of two platforms, as build tools write it.
    let layout = image(&space, "amd", "amd", "amd64");
    let mut entries = Vec::new();
    for (at, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let of = match at {
            0 => layout.clone(),
            _ => image(&space, "arm", "arm", architecture),
        };
        if of != layout {
            tool(
                "cp",
                &["-rT", &format!("{of}/blobs"), &format!("{layout}/blobs")],
            );
        }
        let index = fs::read_to_string(Path::new(&of).join("index.json")).unwrap();
        let index: Value = serde_json::from_str(&index).unwrap();
        let mut entry = index["manifests"][0].clone();
        entry.as_object_mut().unwrap().remove("annotations");
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": entries});
    let index = index.to_string();
    let path = format!("{layout}/blobs/{}", digest(&index).replace(':', "/"));
    fs::write(path, &index).unwrap();
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": index_type, "digest": digest(&index), "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }]});
    fs::write(Path::new(&layout).join("index.json"), top.to_string()).unwrap();
    kiln(&space, &["cache", "import", &layout]);
    kiln(&space, &["cache", "push", &name]);
    assert_eq!(raw(&name), index);

    let new = image(&space, "new", "new", "amd64");
    kiln(&space, &["cache", "import", "--name", &name, &new]);
    kiln(
        &space,
        &["cache", "push", "--override", "--with-arch-tags", &name],
    );
    let merged: Value = serde_json::from_str(&raw(&name)).unwrap();
    let amd64 = digest(&raw(&format!("{name}-amd64")));
    assert_eq!(merged["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(merged["manifests"][0]["digest"], amd64);
    assert_eq!(merged["manifests"][1], entries[1]);
}

#[test]
fn pushing_rights_are_asked_for_and_a_failed_blob_is_sent_again() {
    let space = Space::new();
    let failed = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let host = request.header("host").to_owned();
        if request.path.starts_with("/token") {
            return Reply::ok(r#"{"token": "let-me"}"#);
        }
        if request.path == "/v2/" {
            return Reply::ok("{}");
        }
        if request.header("authorization") != "Bearer let-me" {
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
            return Reply::status(401).header("WWW-Authenticate", challenge);
        }
        match request.method.as_str() {
            "POST" => Reply::status(202).header("Location", "/v2/a/one/blobs/uploads/1?x=y"),
            "PUT"
                if request.path.contains("/uploads/")
                    && failed.fetch_add(1, Ordering::Relaxed) == 0 =>
            {
                Reply::status(503)
            }
            "PUT" => Reply::status(201),
            _ => Reply::status(404),
        }
    });
    let name = format!("{}/a/one:1", server.host());
    let one = image(&space, "one", "one", "amd64");
    kiln(&space, &["cache", "import", "--name", &name, &one]);
    kiln(&space, &["cache", "push", &name]);
    let requests = server.requests();
    let token = requests
        .iter()
        .find(|one| one.path.starts_with("/token"))
        .unwrap();
    assert!(
        token.path.contains("repository%3Aa%2Fone%3Apull%2Cpush"),
        "{}",
        token.path
    );
    let sent = |end: &str| {
        let is_sent = |one: &&super::support::loopback::Request| {
            one.method == "PUT" && one.path.contains(end)
        };
        requests.iter().filter(is_sent).count()
    };
    // Config and layer, one of them twice; the manifest by digest, then by tag.
    assert_eq!(sent("/uploads/1?x=y&digest=sha256%3A"), 3);
    assert_eq!(sent("/manifests/"), 2);
    let last = requests.last().unwrap();
    assert!(last.path.ends_with("/manifests/1"), "{}", last.path);
}
