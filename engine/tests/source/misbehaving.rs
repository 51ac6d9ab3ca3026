//! Images from a registry that misbehaves, asks for proof, or lies.

use std::io::Read;
use std::time::Duration;

use kiln_engine::digest::Sha256;
use kiln_engine::source::registry::{Registry, RegistryImage, RegistryOptions};
use kiln_engine::source::{
    Credential, Credentials, ImageSource, LayerDescriptor, Mirror, Platform, SourceErrorKind,
};
use serde_json::json;

use crate::server::{Reply, Request, Server};
use crate::support::{Shelf, error, http, image, noise};

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn sample(server: &Server, tag: &str) -> RegistryImage {
    image(
        &server.host(),
        &format!("team/app:{tag}"),
        RegistryOptions::default(),
    )
}

/// Resolves, reads the image and its only layer.
fn pull(image: &RegistryImage) -> Result<Vec<u8>, String> {
    let digest = image.resolve(&amd64()).map_err(|error| error.to_string())?;
    let resolved = image.image(&digest).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut layer = image
        .layer(&resolved.layers[0])
        .map_err(|error| error.to_string())?;
    layer
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn credentials(host: &str, user: &str, password: &str) -> RegistryOptions {
    let credential = Credential::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    RegistryOptions {
        credentials: Credentials::default().with(host, credential),
        ..RegistryOptions::default()
    }
}

#[test]
fn only_the_wanted_platform_is_fetched() {
    let shelf = Shelf::sample();
    let (multi, single) = (shelf.tagged("multi"), shelf.tagged("single"));
    let served = shelf.clone();
    let server = Server::start(move |request| served.answer(request));
    let image = sample(&server, "multi");
    assert!(pull(&image).unwrap() == shelf.layers[0]);
    pull(&image).unwrap();
    let paths = server.paths();
    // The probe, the tag, manifest, config, and twice the layer: what is known is not asked again.
    assert_eq!(paths.len(), 7, "{paths:?}");
    assert_eq!(
        paths[..3],
        [
            "/v2/",
            "/v2/team/app/manifests/multi",
            &format!("/v2/team/app/manifests/{single}")
        ]
    );
    assert!(
        server.requests()[1]
            .header("accept")
            .contains("manifest.list.v2")
    );
    let by_digest = format!("team/app:ignored@{multi}");
    let pinned = self::image(&server.host(), &by_digest, RegistryOptions::default());
    assert_eq!(pinned.resolve(&amd64()).unwrap(), single);
    assert_eq!(pinned.name(), format!("{}/team/app@{multi}", server.host()));
    let error = image
        .resolve(&"linux/s390x".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("no manifest for linux/s390x; there are: linux/amd64, linux/arm64"),
        "{error}"
    );
    let error = sample(&server, "single")
        .resolve(&"linux/arm64".parse().unwrap())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("is for linux/amd64, not for linux/arm64"),
        "{error}"
    );
}

#[test]
fn a_missing_tag_names_those_there_are() {
    let shelf = Shelf::sample();
    let server = Server::start(move |request| shelf.answer(request));
    let error = pull(&sample(&server, "nope")).unwrap_err();
    let host = server.host();
    assert_eq!(
        error,
        format!(
            "image {host}/team/app:nope: tag \"nope\" not found in {host}/team/app; there are: multi, single"
        )
    );
    let missing = image(&host, "other/app", RegistryOptions::default());
    let error = pull(&missing).unwrap_err();
    assert!(
        error.contains("manifest latest: ") && error.contains("404 (repository name not known)"),
        "{error}"
    );
}

#[test]
fn wrong_bytes_are_refused_by_name() {
    let shelf = Shelf::sample();
    let digest = shelf.tagged("single");
    let server = Server::start(move |request| {
        if request.path.ends_with(&digest.to_string()) {
            Reply::ok("{}")
        } else {
            shelf.answer(request)
        }
    });
    let error = pull(&sample(&server, "multi")).unwrap_err();
    assert!(
        error.contains(&format!("manifest {digest}: the digest of what http://")),
        "{error}"
    );
    assert!(error.ends_with(&Sha256::of(b"{}").to_string()), "{error}");
}

#[test]
fn layers_survive_breaks_and_must_have_their_size() {
    let shelf = Shelf::sample();
    let expected = shelf.layers[0].clone();
    let layer = Sha256::of(&expected).to_string();
    let server = Server::start(move |request| {
        let reply = shelf.answer(request);
        match request.nth {
            0 if request.path.ends_with(&layer) => reply.cut_after(70_000).header("ETag", "\"a\""),
            1 if request.path.ends_with(&layer) => Reply::status(500),
            _ => reply.header("ETag", "\"b\""),
        }
    });
    let image = sample(&server, "single");
    assert!(pull(&image).unwrap() == expected);
    let diff_id = Sha256::of(&expected);
    let wrong = |size: u64| LayerDescriptor {
        digest: diff_id,
        size,
        media_type: "",
        diff_id,
    };
    let error = image.layer(&wrong(7)).err().unwrap().to_string();
    assert!(
        error.contains(&format!("layer {diff_id}: http://")),
        "{error}"
    );
    assert!(
        error.ends_with("holds 200005 bytes instead of 7"),
        "{error}"
    );
}

#[test]
fn an_endless_layer_ends() {
    let shelf = Shelf::sample();
    let layer = Sha256::of(&shelf.layers[0]).to_string();
    let server = Server::start(move |request| {
        let reply = shelf.answer(request);
        if request.path.ends_with(&layer) {
            reply.endless()
        } else {
            reply
        }
    });
    let error = pull(&sample(&server, "single")).unwrap_err();
    assert!(
        error.contains("holds more bytes instead of 200005"),
        "{error}"
    );
}

#[test]
fn old_and_foreign_manifests_are_refused() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/team/app/manifests/old" => Reply::ok(r#"{"schemaVersion": 1, "signatures": []}"#)
            .header(
                "Content-Type",
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
            ),
        "/v2/team/app/manifests/html" => Reply::ok("<html>log in</html>"),
        "/v2/team/app/manifests/large" => Reply::ok(noise(5 << 20)),
        _ => Reply::ok("{}"),
    });
    for (tag, words) in [
        ("old", "schema 1"),
        ("html", "no manifest"),
        ("large", "longer than 4194304 bytes"),
        ("empty", "neither an image nor an index"),
    ] {
        let error = pull(&sample(&server, tag)).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

/// A registry that wants `Bearer good`, and its token service on the same server.
fn guarded(shelf: Shelf, token: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    let port = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let known = std::sync::Arc::clone(&port);
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return token(request);
        }
        if request.header("authorization") == "Bearer good" {
            return shelf.answer(request);
        }
        let host = known.lock().unwrap();
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"the registry\",scope=\"repository:victim/x:push\""
        );
        Reply::status(401).header("WWW-Authenticate", challenge)
    });
    *port.lock().unwrap() = server.host();
    server
}

fn tokens(server: &Server) -> Vec<Request> {
    server
        .requests()
        .into_iter()
        .filter(|request| request.path.starts_with("/token"))
        .collect()
}

#[test]
fn one_token_serves_a_whole_pull() {
    let shelf = Shelf::sample();
    let server = guarded(shelf, |_| {
        Reply::ok(json!({"token": "good", "expires_in": 300}).to_string())
    });
    pull(&sample(&server, "multi")).unwrap();
    let tokens = tokens(&server);
    assert_eq!(tokens.len(), 1);
    // Whatever scope the challenge names, kiln asks for what it needs.
    assert_eq!(
        tokens[0].path,
        "/token?service=the%20registry&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(tokens[0].header("authorization"), "");
}

#[test]
fn passwords_go_to_the_token_service() {
    let server = guarded(Shelf::sample(), |request| {
        if request.header("authorization") == "Basic bWU6c2VjcmV0" {
            Reply::ok(json!({"access_token": "good"}).to_string())
        } else {
            Reply::status(401)
        }
    });
    let host = server.host();
    pull(&image(
        &host,
        "team/app:single",
        credentials(&host, "me", "secret"),
    ))
    .unwrap();
    let error = pull(&image(
        &host,
        "team/app:single",
        credentials(&host, "me", "wrong"),
    ))
    .unwrap_err();
    assert!(
        error.contains(&format!("manifest single: access denied by {host}")),
        "{error}"
    );
    assert!(
        error.ends_with("/token answers 401 to the known credentials"),
        "{error}"
    );
    let denied = sample(&server, "single").resolve(&amd64()).unwrap_err();
    assert!(matches!(*denied.kind, SourceErrorKind::Denied { .. }));
}

#[test]
fn identity_tokens_are_posted() {
    let server = guarded(Shelf::sample(), |request| {
        let wanted = "grant_type=refresh_token&service=the";
        if request.method == "POST"
            && request.body.starts_with(wanted)
            && request.body.ends_with("&refresh_token=id")
        {
            Reply::ok(json!({"access_token": "good"}).to_string())
        } else {
            Reply::status(400)
        }
    });
    let host = server.host();
    let credentials = Credentials::default().with(&host, Credential::IdentityToken("id".into()));
    let options = RegistryOptions {
        credentials,
        ..RegistryOptions::default()
    };
    pull(&image(&host, "team/app:single", options)).unwrap();
}

#[test]
fn a_token_that_expires_in_mid_layer_is_renewed() {
    let shelf = Shelf::sample();
    let expected = shelf.layers[0].clone();
    let layer = Sha256::of(&expected).to_string();
    let refused = std::sync::atomic::AtomicBool::new(false);
    let served = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return Reply::ok(json!({"token": "good"}).to_string());
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
        let deny = Reply::status(401).header("WWW-Authenticate", challenge);
        if request.header("authorization") != "Bearer good" {
            return deny;
        }
        match shelf.answer(request) {
            reply if request.path.ends_with(&layer) && request.from() == 0 => {
                reply.cut_after(80_000)
            }
            _ if request.from() > 0 && !refused.swap(true, std::sync::atomic::Ordering::SeqCst) => {
                deny
            }
            reply => reply,
        }
    });
    assert!(pull(&sample(&served, "single")).unwrap() == expected);
    assert_eq!(tokens(&served).len(), 2);
}

#[test]
fn unsafe_token_services_see_nothing() {
    for realm in [
        "http://evil.example/token",
        "https://user@evil.example/",
        "gopher://x",
        "",
        "/token",
    ] {
        let server = Server::start(move |_| {
            Reply::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
        });
        let host = server.host();
        let error = pull(&image(
            &host,
            "team/app",
            credentials(&host, "me", "secret"),
        ))
        .unwrap_err();
        assert!(error.contains("its token service"), "{realm}: {error}");
        assert!(
            server
                .requests()
                .iter()
                .all(|request| request.header("authorization").is_empty())
        );
    }
}

#[test]
fn tokens_must_fit_a_header() {
    for body in [
        "{\"token\": \"a\\r\\nX-Evil: 1\"}",
        "{\"token\": \"\"}",
        "{}",
        "not json",
    ] {
        let server = guarded(Shelf::sample(), move |_| Reply::ok(body));
        let error = pull(&sample(&server, "single")).unwrap_err();
        assert!(
            error.contains("answers no token") || error.contains("cannot stand in a header"),
            "{error}"
        );
    }
}

#[test]
fn a_redirect_cannot_ask_for_proof() {
    let thief =
        Server::start(|_| Reply::status(401).header("WWW-Authenticate", "Basic realm=\"give\""));
    let (shelf, target) = (Shelf::sample(), thief.url("/blob"));
    let server = Server::start(move |request| match request.header("authorization") {
        "" => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        _ if request.path.contains("/blobs/") => {
            Reply::status(307).header("Location", target.clone())
        }
        _ => shelf.answer(request),
    });
    let host = server.host();
    let error = pull(&image(
        &host,
        "team/app:multi",
        credentials(&host, "me", "secret"),
    ))
    .unwrap_err();
    assert!(error.contains("access denied"), "{error}");
    assert!(!thief.requests().is_empty());
    assert!(
        thief
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_empty())
    );
}

#[test]
fn strange_proofs_are_refused() {
    let server =
        Server::start(|_| Reply::status(401).header("WWW-Authenticate", "Negotiate, NTLM"));
    let error = pull(&sample(&server, "x")).unwrap_err();
    assert!(
        error.contains("no proof kiln can give (offered: negotiate, ntlm)"),
        "{error}"
    );
    let server = Server::start(|_| Reply::status(401));
    assert!(
        pull(&sample(&server, "x"))
            .unwrap_err()
            .contains("offered: none")
    );
}

#[test]
fn a_failing_mirror_is_told_and_passed_over() {
    let shelf = Shelf::sample();
    let expected = shelf.layers[0].clone();
    let served = shelf.clone();
    let origin = Server::start(move |request| served.answer(request));
    let broken = Server::start(|_| Reply::status(404).body("no such thing"));
    let gone = Server::start(|_| Reply::close()).url("");
    let layer = Sha256::of(&expected).to_string();
    // Serves its prefix, but wrong manifests, and breaks every layer.
    let lying = Server::start(move |request| {
        let mut request = request.clone();
        request.path = request.path.replace("/v2/cache/", "/v2/");
        if request.path.contains("/manifests/sha256:") {
            return Reply::ok("{}");
        }
        let reply = shelf.answer(&request);
        if request.path.ends_with(&layer) {
            reply.cut_after(1000)
        } else {
            reply
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    let mirror = |url: String| Mirror {
        registry: Some(origin.host()),
        url,
    };
    let mirrors = vec![
        mirror(broken.url("")),
        mirror(gone),
        mirror(lying.url("/cache")),
    ];
    let registry = Registry::new(
        http(),
        RegistryOptions {
            mirrors,
            ..RegistryOptions::default()
        },
    );
    let image = registry.image(&format!("{}/team/app:multi", origin.host()).parse().unwrap());
    assert!(pull(&image).unwrap() == expected);
    let notes = registry.take_notes().join("\n");
    for words in ["404 (no such thing)", "refused", "the digest of what"] {
        assert!(notes.contains(words), "{words} is not in {notes}");
    }
    assert!(
        lying
            .paths()
            .iter()
            .all(|path| path.starts_with("/v2/cache/team/app/"))
    );
    // The layer's first bytes came from the mirror, the rest from the registry.
    let resumed: Vec<usize> = origin
        .requests()
        .iter()
        .filter(|one| one.path.contains("/blobs/"))
        .map(Request::from)
        .collect();
    assert_eq!(resumed.last(), Some(&1000));
}

#[test]
fn server_errors_name_image_and_url() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::ok("{}"),
        _ => Reply::status(500).body(error("UNKNOWN", "disk full")),
    });
    let host = server.host();
    assert_eq!(
        pull(&sample(&server, "x")).unwrap_err(),
        format!(
            "image {host}/team/app:x: manifest x: http://{host}/v2/team/app/manifests/x: 500 (disk full), after 3 attempts"
        )
    );
}
