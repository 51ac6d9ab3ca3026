//! Images of the cache pushed to registries: Debian's registry and skopeo judge; a server in the
//! test's process asks for proof and fails once.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::support::layout::Layout;
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

/// An index of two platforms and an attestation, in a layout under the tag `two`; returns its
/// directory, the index's digest and arm64's manifest's.
fn two_platforms(space: &Space) -> (String, String, String) {
    let directory = space.path("two");
    let layout = Layout::new(&directory);
    let empty = json!({});
    let amd64 = layout.image("linux/amd64", b"not looked at: amd64", &empty);
    let arm64 = layout.image("linux/arm64", b"not looked at: arm64", &empty);
    let mut attestation = layout.image("unknown/unknown", b"in-toto", &empty);
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": amd64["digest"],
    });
    let index = layout.index(&[amd64, arm64.clone(), attestation]);
    layout.finish(&[("two", index.clone())]);
    let text = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
    (
        directory.to_str().unwrap().to_owned(),
        text(&index),
        text(&arm64),
    )
}

#[test]
fn layouts_archives_and_cached_images_keep_their_digests() {
    let space = Space::new();
    let registry = space.registry();
    let (directory, index, arm64) = two_platforms(&space);
    let to = |name: &str| format!("{}/team/{name}", registry.host);
    let layout = format!("oci:{directory}");
    kiln(&space, &["push", &layout, &to("layout:1")]);
    assert_eq!(digest(&raw(&to("layout:1"))), index);
    // All that the index lists is there.
    let copy = format!("oci:{}:x", space.path("copied").display());
    let from = format!("docker://{}", to("layout:1"));
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--all",
            "--src-tls-verify=false",
            &from,
            &copy,
        ],
    );
    kiln(
        &space,
        &[
            "push",
            "--platform",
            "linux/arm64",
            "oci:two:two",
            &to("arm:1"),
        ],
    );
    assert_eq!(digest(&raw(&to("arm:1"))), arm64);
    tool(
        "tar",
        &[
            "-C",
            &directory,
            "-cf",
            space.path("two.tar").to_str().unwrap(),
            ".",
        ],
    );
    kiln(&space, &["push", "oci-archive:two.tar", &to("archive:1")]);
    assert_eq!(digest(&raw(&to("archive:1"))), index);
    kiln(
        &space,
        &["cache", "import", "--name", &to("cached:1"), &directory],
    );
    kiln(&space, &["push", &to("cached:1"), &to("other:2")]);
    assert_eq!(digest(&raw(&to("other:2"))), index);

    let one = image(&space, "one", "one", "amd64");
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci:{one}:latest"),
            &format!("docker-archive:{}:x:1", space.path("one.tar").display()),
        ],
    );
    kiln(&space, &["push", "docker-archive:one.tar", &to("docker:1")]);
    let pushed: Value = serde_json::from_str(&raw(&to("docker:1"))).unwrap();
    kiln(&space, &["cache", "import", "one.tar"]);
    let listed = String::from_utf8(space.kiln(&["cache", "ls"]).stdout).unwrap();
    assert!(listed.contains(&digest(&raw(&to("docker:1")))), "{listed}");
    assert_eq!(pushed["layers"].as_array().unwrap().len(), 1);
}

#[test]
fn a_name_is_replaced_only_when_told_and_by_what_is_whole() {
    let space = Space::new();
    let registry = space.registry();
    let name = format!("{}/team/app:1", registry.host);
    let (directory, index, arm64) = two_platforms(&space);
    let one = format!("oci:{}", image(&space, "one", "one", "amd64"));
    kiln(&space, &["push", &one, &name]);
    let first = raw(&name);
    let again = kiln(&space, &["push", &one, &name]);
    assert!(again.contains("Kept"), "{again}");
    let refused = |args: &[&str], why: &str| {
        let said = space.kiln(&[&["push"], args].concat());
        assert_ne!(said.code, Some(0), "{args:?}");
        assert!(said.stderr.contains(why), "{args:?}: {}", said.stderr);
        assert_eq!(raw(&name), first);
    };
    refused(&["oci:two", &name], "--override");
    refused(&["oci:two:no", &name], "there are: two");
    refused(&["two", &name], "oci:two");
    refused(&["nothing/here:1", &name], "is not in the cache");
    refused(
        &["aws", "-bucket", "x", "disk.img"],
        "the provider's own tool",
    );
    let blob = |digest: &str| {
        Path::new(&directory)
            .join("blobs")
            .join(digest.replace(':', "/"))
    };
    let manifest: Value = serde_json::from_slice(&fs::read(blob(&arm64)).unwrap()).unwrap();
    let layer = blob(manifest["layers"][0]["digest"].as_str().unwrap());
    fs::write(&layer, b"not looked at: ARM64").unwrap();
    refused(
        &["--override", "oci:two", &name],
        "the digest of its bytes is",
    );
    fs::remove_file(&layer).unwrap();
    refused(&["--override", "oci:two", &name], "--platform");
    fs::write(&layer, b"not looked at: arm64").unwrap();
    kiln(&space, &["push", "--override", "oci:two", &name]);
    assert_eq!(digest(&raw(&name)), index);
}
