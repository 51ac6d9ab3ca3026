//! HTTP and downloads against a server that breaks.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use kiln_engine::source::download::download;
use kiln_engine::source::http::{Http, HttpError, HttpOptions, ProxyOptions};

use crate::server::{Reply, Request, Server};
use crate::support::{error, http, noise, options};

const SIZE: usize = 300_000;

fn fetch(server: &Server) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    download(&http(), &server.url("/x"), &[])
        .map_err(io::Error::other)?
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn get_error(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (HttpError, usize) {
    let server = Server::start(handler);
    let error = http().get(&server.url("/x"), &[], 0).unwrap_err();
    (error, server.requests().len())
}

#[test]
fn transient_failures_are_tried_again() {
    let server = Server::start(|request| match request.nth {
        0 => Reply::status(429).header("Retry-After", "0"),
        1 => Reply::status(503),
        _ => Reply::ok("fine"),
    });
    let response = http().get(&server.url("/x"), &[], 0).unwrap();
    assert_eq!(response.length, Some(4));
    assert_eq!(response.read_all(4).unwrap(), b"fine");
    assert_eq!(server.requests()[0].header("accept-encoding"), "identity");
    assert!(
        server.requests()[0]
            .header("user-agent")
            .starts_with("kiln/")
    );
}

#[test]
fn attempts_end_and_are_counted() {
    let (error, requests) = get_error(|_| Reply::status(500).body("out of order\n"));
    assert_eq!(requests, 3);
    assert!(
        error
            .to_string()
            .ends_with("/x: 500 (out of order), after 3 attempts"),
        "{error}"
    );
    let (error, requests) = get_error(|_| Reply::close());
    assert_eq!(requests, 3);
    assert!(error.to_string().ends_with(", after 3 attempts"), "{error}");
}

#[test]
fn refusals_are_final() {
    for status in [400, 401, 403, 404, 410] {
        let (failure, requests) =
            get_error(move |_| Reply::status(status).body(error("CODE", "what the registry says")));
        assert_eq!((failure.status(), requests), (Some(status), 1));
        assert!(
            failure.to_string().contains("(what the registry says)"),
            "{failure}"
        );
    }
}

#[test]
fn silence_ends() {
    let started = Instant::now();
    let (error, requests) = get_error(|_| Reply::hang());
    assert_eq!(requests, 3);
    assert!(error.to_string().contains("no answer in time"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_absurd_retry_after_is_capped_by_patience() {
    let server = Server::start(|_| Reply::status(429).header("Retry-After", "999999"));
    let client = Http::new(HttpOptions {
        attempts: 1,
        ..options()
    });
    assert_eq!(
        client.get(&server.url("/x"), &[], 0).unwrap_err().status(),
        Some(429)
    );
}

#[test]
fn a_closed_port_fails_soon() {
    let url = Server::start(|_| Reply::close()).url("/x");
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    let error = http().get(&url, &[], 0).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn breaks_are_resumed_where_they_happened() {
    let server = Server::start(|request| {
        let reply = Reply::range(&noise(SIZE), request).header("ETag", "\"v1\"");
        match request.nth {
            0 => reply.cut_after(100_000),
            1 => reply.hang_after(50_000),
            _ => reply,
        }
    });
    assert!(fetch(&server).unwrap() == noise(SIZE));
    let ranges: Vec<usize> = server.requests().iter().map(Request::from).collect();
    assert_eq!(ranges, [0, 100_000, 150_000]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let server = Server::start(|request| {
        let reply = Reply::ok(noise(SIZE));
        if request.nth == 0 {
            reply.cut_after(100_000)
        } else {
            reply
        }
    });
    assert!(fetch(&server).unwrap() == noise(SIZE));
}

#[test]
fn chunked_bodies_are_resumed_too() {
    let server = Server::start(|request| {
        let reply = Reply::range(&noise(SIZE), request).chunked();
        if request.nth == 0 {
            reply.cut_after(100_000)
        } else {
            reply
        }
    });
    assert!(fetch(&server).unwrap() == noise(SIZE));
    assert_eq!(server.requests()[1].from(), 100_000);
}

#[test]
fn no_progress_ends() {
    let server = Server::start(|request| {
        let reply = Reply::range(&noise(SIZE), request);
        reply.cut_after(100_000_usize.saturating_sub(request.from()))
    });
    let error = fetch(&server).unwrap_err().to_string();
    assert!(
        error.contains("broken after 100000 of 300000 bytes"),
        "{error}"
    );
    assert!(error.contains("after 3 attempts"), "{error}");
    // Two without progress follow the first break, and the failure is told.
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_trickle_of_breaks_ends() {
    let server = Server::start(|request| Reply::range(&noise(SIZE), request).cut_after(10));
    let error = fetch(&server).unwrap_err().to_string();
    assert!(error.contains("broken after 30 of 300000 bytes"), "{error}");
}

#[test]
fn another_version_is_not_appended() {
    let server = Server::start(|request| {
        let reply =
            Reply::range(&noise(SIZE), request).header("ETag", format!("\"{}\"", request.nth));
        reply.cut_after(100_000)
    });
    assert!(
        fetch(&server)
            .unwrap_err()
            .to_string()
            .contains("changed while reading: etag")
    );
    let server = Server::start(|request| {
        Reply::range(&noise(SIZE + request.nth), request).cut_after(100_000)
    });
    let error = fetch(&server).unwrap_err().to_string();
    assert!(
        error.contains("changed while reading: 300000 bytes, then 300001"),
        "{error}"
    );
}

#[test]
fn a_wrong_range_is_refused() {
    let server = Server::start(|request| match request.nth {
        0 => Reply::range(&noise(SIZE), request).cut_after(1000),
        _ => Reply::status(206)
            .header("Content-Range", "bytes 5-9/10")
            .body("x"),
    });
    let error = fetch(&server).unwrap_err().to_string();
    assert!(error.contains("asked for bytes from 1000"), "{error}");
}

#[test]
fn authorization_stays_with_its_origin() {
    let other = Server::start(|_| Reply::ok("there"));
    let target = other.url("/blob?signature=secret");
    let server = Server::start(move |request| match request.path.as_str() {
        "/x" => Reply::status(302).header("Location", "next"),
        "/next" => Reply::status(307).header("Location", target.clone()),
        _ => Reply::status(404),
    });
    let headers = [("Authorization", "Bearer t"), ("Accept", "a/b")];
    let response = http().get(&server.url("/x"), &headers, 0).unwrap();
    assert_eq!(response.url, other.url("/blob"));
    assert_eq!(response.read_all(10).unwrap(), b"there");
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.header("authorization") == "Bearer t")
    );
    let last = &other.requests()[0];
    assert_eq!(last.path, "/blob?signature=secret");
    assert_eq!(
        (last.header("authorization"), last.header("accept")),
        ("", "a/b")
    );
}

#[test]
fn redirects_end_and_must_lead_somewhere() {
    let (error, requests) = get_error(|_| Reply::status(301).header("Location", "/x"));
    assert!(
        error.to_string().contains("more than 10 redirects"),
        "{error}"
    );
    assert_eq!(requests, 11);
    for location in ["ftp://a/b", "file:///etc/passwd", "http://", ""] {
        let (error, _) = get_error(move |_| Reply::status(302).header("Location", location));
        assert!(
            matches!(error, HttpError::Answer { .. } | HttpError::Status { .. }),
            "{location}: {error}"
        );
    }
    assert!(
        get_error(|_| Reply::status(302))
            .0
            .to_string()
            .contains("without a location")
    );
}

#[test]
fn long_answers_are_cut_off() {
    let server = Server::start(|request| match request.path.as_str() {
        "/stated" => Reply::ok(noise(2000)),
        _ => Reply::ok(noise(2000)).endless(),
    });
    for path in ["/stated", "/endless"] {
        let error = http()
            .get(&server.url(path), &[], 0)
            .unwrap()
            .read_all(1000)
            .unwrap_err();
        assert!(
            error.to_string().contains("longer than 1000 bytes"),
            "{error}"
        );
    }
}

#[test]
fn proxies_are_used_but_not_for_this_machine() {
    let proxy = Server::start(|_| Reply::status(403));
    let options = || HttpOptions {
        proxy: ProxyOptions {
            http: Some(proxy.url("")),
            https: Some(proxy.url("")),
            no_proxy: vec!["direct.invalid".into()],
        },
        ..options()
    };
    let client = Http::new(options());
    for url in [
        "https://mirror.invalid/x",
        "https://direct.invalid/x",
        "https://sub.direct.invalid/x",
    ] {
        client.get_once(url, &[]).unwrap_err();
    }
    let asked: Vec<String> = proxy
        .requests()
        .iter()
        .map(|request| format!("{} {}", request.method, request.path))
        .collect();
    assert_eq!(asked, ["CONNECT mirror.invalid:443"]);
    let server = Server::start(|_| Reply::ok("direct"));
    client.get_once(&server.url("/x"), &[]).unwrap();
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn plain_http_is_forwarded_by_name() {
    let proxy = Server::start(|_| Reply::ok("from the proxy"));
    let url = proxy.url("").replace("http://", "http://me:secret@");
    let options = HttpOptions {
        proxy: ProxyOptions {
            http: Some(url),
            ..ProxyOptions::default()
        },
        ..options()
    };
    // `.invalid` never resolves: the proxy is given the name.
    let response = Http::new(options).get("http://mirror.invalid/pool/x?y=z", &[], 7);
    let request = &proxy.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("GET", "http://mirror.invalid/pool/x?y=z")
    );
    assert_eq!(
        (request.header("host"), request.from()),
        ("mirror.invalid", 7)
    );
    assert_eq!(request.header("proxy-authorization"), "Basic bWU6c2VjcmV0");
    assert_eq!(response.unwrap().read_all(100).unwrap(), b"from the proxy");
}

#[test]
fn bad_options_and_urls_are_named() {
    let message = |url: &str, options: HttpOptions| {
        Http::new(options).get(url, &[], 0).unwrap_err().to_string()
    };
    assert!(message("ftp://a/b", options()).contains("not an http or https URL"));
    assert!(message("a b", options()).contains("not a URL"));
    assert!(!message("ftp://user:secret@a/b", options()).contains("secret"));
    let with = |path: &std::path::Path| HttpOptions {
        ca_files: vec![path.into()],
        ..options()
    };
    let missing = message("https://localhost/x", with("/nonexistent.pem".as_ref()));
    assert!(
        missing.starts_with("/nonexistent.pem: No such file"),
        "{missing}"
    );
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    assert!(message("https://localhost/x", with(&empty)).contains("holds no PEM certificate"));
}
