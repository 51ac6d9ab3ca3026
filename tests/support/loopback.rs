//! A registry in the test's process: it serves the layouts of a space, and misbehaves when told.
//!
//! Enters: OCI layouts made by [`Space::image`], a rule that spoils answers. Leaves: answers, and
//! the paths that were asked for. The layout `NAME` is the repository `NAME`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Space;
pub(crate) use super::server::{Reply, Request, Server};

/// Makes a bad answer of a good one.
type Rule = dyn Fn(&Request, Reply) -> Reply + Send + Sync;

/// A running registry; it ends with the test.
pub(crate) struct Loopback {
    server: Server,
    layouts: PathBuf,
    rule: Arc<Mutex<Option<Arc<Rule>>>>,
}

impl Space {
    /// Starts a registry that serves this space's images.
    pub(crate) fn loopback(&self) -> Loopback {
        let layouts = self.path("oci");
        let rule: Arc<Mutex<Option<Arc<Rule>>>> = Arc::default();
        let (served, ruled) = (layouts.clone(), Arc::clone(&rule));
        let server = Server::start(move |request| {
            let reply = answer(&served, request);
            let rule = ruled.lock().unwrap().clone();
            match rule {
                Some(rule) => rule(request, reply),
                None => reply,
            }
        });
        Loopback {
            server,
            layouts,
            rule,
        }
    }
}

impl Loopback {
    /// Returns the reference of an image here.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}:latest", self.server.host())
    }

    fn manifest(&self, name: &str) -> Value {
        let layout = self.layouts.join(name);
        serde_json::from_slice(&blob(&layout, &tagged(&layout)).unwrap()).unwrap()
    }

    /// Returns the digest of an image's config.
    pub(crate) fn config(&self, name: &str) -> String {
        let manifest = self.manifest(name);
        manifest["config"]["digest"].as_str().unwrap().to_owned()
    }

    /// Returns the digests of an image's layers.
    pub(crate) fn layers(&self, name: &str) -> Vec<String> {
        let manifest = self.manifest(name);
        let layers = manifest["layers"].as_array().unwrap();
        layers
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Spoils answers from now on.
    pub(crate) fn misbehave(
        &self,
        rule: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) {
        *self.rule.lock().unwrap() = Some(Arc::new(rule));
    }

    /// Answers well again.
    pub(crate) fn behave(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// Returns the paths asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.server.paths()
    }

    /// Returns a function that waits until a path that ends with `end` was asked for.
    pub(crate) fn once_asked(&self, end: &str) -> impl Fn() + Send + Sync + 'static {
        let (log, end) = (self.server.log(), end.to_owned());
        move || {
            let began = Instant::now();
            while !log
                .lock()
                .unwrap()
                .iter()
                .any(|one| one.path.ends_with(&end))
            {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "nobody asks for {end}"
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn tagged(layout: &Path) -> String {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

fn blob(layout: &Path, digest: &str) -> Option<Vec<u8>> {
    fs::read(layout.join("blobs").join(digest.replace(':', "/"))).ok()
}

/// Answers as a good registry does.
fn answer(layouts: &Path, request: &Request) -> Reply {
    let words: Vec<&str> = request.path.split('/').collect();
    let (layout, digest) = match words[..] {
        ["", "v2", ""] => return Reply::ok("{}"),
        // Every tag is the one image.
        ["", "v2", name, "manifests", tag] if !tag.contains(':') => {
            let layout = layouts.join(name);
            let digest = tagged(&layout);
            (layout, digest)
        }
        ["", "v2", name, "manifests" | "blobs", digest] => (layouts.join(name), digest.to_owned()),
        _ => return Reply::status(404),
    };
    let Some(bytes) = blob(&layout, &digest) else {
        return Reply::status(404);
    };
    let reply = Reply::range(&bytes, request);
    if request.path.contains("/manifests/") {
        return reply.header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
    }
    reply
}
