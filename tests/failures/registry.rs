//! A registry that refuses, fails, breaks off, keeps silent or lies.
//!
//! One image comes at once, the other is what the test is about: what it answers wrong it answers
//! only after the first one's layer was asked for, so that there is a step that must be kept.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::support::loopback::{Loopback, Reply, Request};
use super::super::support::{Said, Space, read_tar, said};
use super::{assert_failed, assert_goes_on, assert_same, earlier_output, files, finished};

/// Seconds of silence that these tests wait for.
const SILENCE: &str = "0.4";

/// Text that stays long when it is compressed.
fn noise() -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        format!("{:08x}", state >> 32)
    };
    (0..40_000).map(|_| next()).collect()
}

struct Scene {
    space: Space,
    registry: Loopback,
    bad: String,
}

impl Scene {
    fn new() -> Self {
        let space = Space::new();
        space.image("good").layer(&[("srv/good", "good")]);
        space.image("bad").layer(&[("srv/bad", &noise())]);
        let registry = space.loopback();
        Self {
            bad: registry.reference("bad"),
            space,
            registry,
        }
    }

    fn describe(&self) {
        let good = self.registry.reference("good");
        let text = format!("init:\n  - {good}\n  - {}\n", self.bad);
        self.space.write("system.yml", &text);
    }

    fn build(&self) -> Said {
        let mut command = self.space.command();
        command.env("KILN_HTTP_TIMEOUT", SILENCE).args([
            "build",
            "--json",
            "-f",
            "tar",
            "--dir",
            "out",
            "system.yml",
        ]);
        said(&mut command)
    }

    /// Spoils what the bad image's paths that end with `end` answer.
    fn misbehave(
        &self,
        end: &str,
        rule: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) {
        let wait = self.registry.once_asked(&self.registry.layers("good")[0]);
        let end = end.to_owned();
        self.registry.misbehave(move |request, reply| {
            if request.path.starts_with("/v2/bad/") && request.path.ends_with(&end) {
                wait();
                rule(request, reply)
            } else {
                reply
            }
        });
    }
}

/// How the paths of the bad image end that are answered wrong.
type What = fn(&Loopback) -> String;

fn tag(_: &Loopback) -> String {
    "latest".to_owned()
}

fn config(registry: &Loopback) -> String {
    registry.config("bad")
}

fn layer(registry: &Loopback) -> String {
    registry.layers("bad").remove(0)
}

/// Builds with a registry that answers one thing wrong, and then with one that is well. Expects
/// what is promised, and a message with all of `parts`.
fn fails(
    what: What,
    rule: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    parts: &[&str],
) {
    let scene = Scene::new();
    let earlier = earlier_output(&scene.space);
    scene.describe();
    let what = what(&scene.registry);
    scene.misbehave(&what, rule);
    let failed = scene.build();
    assert_failed(&failed, 1, &[&[scene.bad.as_str(), &what], parts].concat());
    assert_same(
        &files(&scene.space.path("out")),
        &earlier,
        "after the failure",
    );
    let good = format!("layer {}", scene.registry.reference("good"));
    let is_kept = finished(&failed, &["ran"])
        .iter()
        .any(|step| step.starts_with(&good));
    assert!(is_kept, "the other image's layer was not finished");
    // The registry is well again.
    scene.registry.behave();
    let before = scene.registry.asked().len();
    let next = scene.build();
    assert_goes_on(&failed, &next);
    let asked = scene.registry.asked().split_off(before);
    assert!(
        !asked.iter().any(|path| path.contains("/good/")),
        "{asked:?}"
    );
    assert!(scene.space.path("out/system.tar").exists());
}

fn denied(status: u16) -> impl Fn(&Request, Reply) -> Reply {
    move |_, _| {
        let body = r#"{"errors": [{"code": "DENIED", "message": "not for you"}]}"#;
        Reply::status(status).body(body)
    }
}

#[test]
fn unauthorized() {
    fails(
        tag,
        denied(401),
        &["manifest latest", "access denied", "hint: ", "log in"],
    );
}

#[test]
fn forbidden() {
    fails(
        layer,
        denied(403),
        &["access denied", "403 (not for you)", "hint: ", "log in"],
    );
}

#[test]
fn a_layer_that_is_gone() {
    fails(layer, |_, _| Reply::status(404), &["404", "hint: "]);
}

#[test]
fn too_many_requests() {
    let rule = |_: &Request, _| Reply::status(429).header("Retry-After", "0");
    fails(
        layer,
        rule,
        &["429", "after 5 attempts", "hint: ", "limits requests"],
    );
}

#[test]
fn out_of_order() {
    let rule = |_: &Request, _| {
        Reply::status(500)
            .header("Retry-After", "0")
            .body("disk full")
    };
    fails(
        layer,
        rule,
        &["500 (disk full)", "after 5 attempts", "hint: "],
    );
}

#[test]
fn breaks_again_and_again() {
    let rule = |_: &Request, reply: Reply| reply.cut_after(1000);
    fails(layer, rule, &["broken after", "after 5 attempts", "hint: "]);
}

#[test]
fn stalls_in_the_middle() {
    let rule = |request: &Request, reply: Reply| {
        reply.hang_after(70_000_usize.saturating_sub(request.from()))
    };
    fails(
        layer,
        rule,
        &[
            "broken after 70000 of",
            "no answer in time",
            "hint: ",
            "KILN_HTTP_TIMEOUT",
        ],
    );
}

#[test]
fn never_answers() {
    let scene = Scene::new();
    let earlier = earlier_output(&scene.space);
    scene
        .space
        .write("system.yml", &format!("init:\n  - {}\n", scene.bad));
    scene.registry.misbehave(|_, _| Reply::hang());
    let began = Instant::now();
    let failed = scene.build();
    assert_failed(
        &failed,
        1,
        &[
            &scene.bad,
            "no answer in time",
            "hint: ",
            "KILN_HTTP_TIMEOUT",
        ],
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_same(
        &files(&scene.space.path("out")),
        &earlier,
        "after the failure",
    );
    scene.registry.behave();
    assert_eq!(scene.build().code, Some(0));
}

#[test]
fn a_config_of_another_digest() {
    let rule = |_: &Request, reply: Reply| reply.spoilt(|body| body.push(b' '));
    fails(
        config,
        rule,
        &["config sha256:", "the digest of what", "hint: "],
    );
}

#[test]
fn a_truncated_layer() {
    let rule = |_: &Request, reply: Reply| reply.spoilt(|body| body.truncate(5000));
    fails(layer, rule, &["bytes instead of", "hint: "]);
}

#[test]
fn a_corrupted_layer() {
    let rule = |_: &Request, reply: Reply| {
        reply.spoilt(|body| {
            let middle = body.len() / 2;
            body[middle] ^= 0x55;
        })
    };
    fails(layer, rule, &["digest", "hint: "]);
}

/// Builds with a registry that fails at first only; returns what was asked for the layer, and when.
fn succeeds(
    rule: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Vec<(u64, Instant)> {
    let scene = Scene::new();
    earlier_output(&scene.space);
    scene.describe();
    let log: Arc<Mutex<Vec<(u64, Instant)>>> = Arc::default();
    let noted = Arc::clone(&log);
    scene.misbehave(&layer(&scene.registry), move |request, reply| {
        noted
            .lock()
            .unwrap()
            .push((request.from() as u64, Instant::now()));
        rule(request, reply)
    });
    let said = scene.build();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let tar = read_tar(&scene.space.path("out/system.tar"));
    assert_eq!(tar["srv/bad"].content, noise().as_bytes());
    log.lock().unwrap().clone()
}

#[test]
fn a_server_error_is_tried_again() {
    let asked = succeeds(|request, reply| match request.nth {
        0 => Reply::status(500),
        _ => reply,
    });
    assert_eq!(asked.len(), 2);
}

#[test]
fn retry_after_is_honoured() {
    let asked = succeeds(|request, reply| match request.nth {
        0 => Reply::status(429).header("Retry-After", "1"),
        _ => reply,
    });
    // Without the header, a quarter of a second.
    assert!(asked[1].1 - asked[0].1 >= Duration::from_secs(1));
}

#[test]
fn a_break_is_resumed() {
    let asked = succeeds(|request, reply| match request.nth {
        0 => reply.cut_after(70_000),
        _ => reply,
    });
    let from: Vec<u64> = asked.iter().map(|(from, _)| *from).collect();
    assert_eq!(from, [0, 70_000]);
}
