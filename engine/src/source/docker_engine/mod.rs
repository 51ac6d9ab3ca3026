//! Images of a local Docker engine (Docker Engine API 1.41, "ImageInspect" and "ImageGet").
//!
//! Enters: the engine's socket, and an image of a registry. Leaves: an [`ImageSource`] that is the
//! engine's image once [`EngineImage::inspect`] has found one, and the registry's otherwise. The
//! engine's id of an image is the digest of its config, or of its index where containerd keeps
//! images; what it saves is checked against that, so an id means the same bytes for ever. The
//! archive is written to a file of its own, which goes with the source.

mod http;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

pub use self::http::EngineError;
use self::http::{GaveUp, get};
use super::docker_archive::DockerArchive;
use super::error::{SourceError, SourceErrorKind};
use super::manifest::{LayerDescriptor, ResolvedImage};
use super::oci_layout::OciLayout;
use super::platform::Platform;
use super::reference::Reference;
use super::resolve::{Documents, check_platform};
use super::{ImageSource, Located};
use crate::digest::Sha256;

/// Bytes of what an engine says about an image.
const INSPECT_MAX: u64 = 8 << 20;
/// Bytes of an error's message.
const MESSAGE_MAX: u64 = 16 << 10;
/// An engine collects an image before it sends the first byte of it.
const SAVE_SILENCE: Duration = Duration::from_secs(600);
/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A Docker engine at a socket.
#[derive(Debug)]
pub struct DockerEngine {
    socket: PathBuf,
    idle: Duration,
    /// Nobody listens there, and that was said.
    absent: AtomicBool,
}

/// What is known of an image of the engine's.
#[derive(Debug, Deserialize)]
struct Inspected {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Architecture", default)]
    architecture: String,
    #[serde(rename = "Os", default)]
    os: String,
    #[serde(rename = "Variant", default)]
    variant: String,
}

impl DockerEngine {
    /// Names the engine at `socket`; nothing is asked yet. `idle` limits its silence.
    #[must_use]
    pub fn new(socket: PathBuf, idle: Duration) -> Self {
        Self {
            socket,
            idle,
            absent: AtomicBool::new(false),
        }
    }

    fn place(&self) -> String {
        format!("the Docker engine at {}", self.socket.display())
    }

    /// Asks what an image is. `None`: there is none.
    fn inspect(&self, name: &str, gave_up: GaveUp<'_>) -> Result<Option<Inspected>, EngineError> {
        let answer = get(
            &self.socket,
            &format!("/images/{name}/json"),
            self.idle,
            gave_up,
        )?;
        match answer.status {
            200 => {
                let bytes = answer.body.read_all(INSPECT_MAX)?;
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|error| EngineError::Malformed(error.to_string()))
            }
            404 => Ok(None),
            status => Err(refused(status, answer.body.read_all(MESSAGE_MAX))),
        }
    }

    /// Writes the archive of an image to a new file.
    fn save(&self, id: &Sha256, path: &Path, watch: &Watch<'_>) -> Result<(), SourceErrorKind> {
        let engine = |error: EngineError| self.failed(format!("image {id}"), error);
        let file = |error: io::Error| SourceErrorKind::Io {
            path: path.to_owned(),
            error,
        };
        let silence = self.idle.max(SAVE_SILENCE);
        let answer = get(
            &self.socket,
            &format!("/images/{id}/get"),
            silence,
            watch.gave_up,
        );
        let mut answer = answer.map_err(engine)?;
        if answer.status != 200 {
            let message = answer.body.read_all(MESSAGE_MAX);
            return Err(engine(refused(answer.status, message)));
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(file)?;
        }
        let mut output = File::create_new(path).map_err(file)?;
        let (mut buffer, mut done) = (vec![0; BUFFER_BYTES], 0);
        loop {
            if (watch.gave_up)() {
                return Err(engine(EngineError::Broken(io::Error::other("given up"))));
            }
            let read = match answer.body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) => return Err(engine(http::broken(error))),
            };
            output.write_all(&buffer[..read]).map_err(file)?;
            done += read as u64;
            (watch.progress)(done);
        }
    }

    fn failed(&self, what: String, error: EngineError) -> SourceErrorKind {
        SourceErrorKind::Read {
            what,
            place: self.place(),
            error: io::Error::other(error),
        }
    }
}

fn refused(status: u16, body: Result<Vec<u8>, EngineError>) -> EngineError {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let said = body
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Said>(&bytes).ok());
    let message = said.map_or_else(|| "no reason".to_owned(), |said| said.message);
    EngineError::Status { status, message }
}

/// Who watches a transfer.
pub(crate) struct Watch<'a> {
    pub(crate) gave_up: GaveUp<'a>,
    /// Hears how many bytes have come.
    pub(crate) progress: &'a dyn Fn(u64),
}

/// What an engine says when asked for an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It has it, under this id.
    There(Sha256),
    /// It does not.
    Missing,
    /// It has none that serves, or there is no engine; people should know.
    Unusable(String),
    /// The same, and it was said.
    Silent,
}

/// An image that a Docker engine may have.
pub struct EngineImage {
    engine: Arc<DockerEngine>,
    reference: Reference,
    /// Where it is otherwise.
    registry: Arc<dyn ImageSource>,
    chosen: Mutex<Option<Chosen>>,
    /// Whether the engine has it: known without waiting for a transfer.
    is_engines: AtomicBool,
}

/// An image that the engine has.
struct Chosen {
    id: Sha256,
    /// Where its archive is to be.
    path: PathBuf,
    saved: Option<Arc<dyn ImageSource>>,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        // Mostly it was never made; what cannot be removed is swept later.
        let _ = fs::remove_file(&self.path);
    }
}

impl EngineImage {
    /// Ties an image of a registry to the engine that is asked first.
    #[must_use]
    pub fn new(
        engine: Arc<DockerEngine>,
        reference: Reference,
        registry: Arc<dyn ImageSource>,
    ) -> Self {
        Self {
            engine,
            reference,
            registry,
            chosen: Mutex::default(),
            is_engines: AtomicBool::new(false),
        }
    }

    /// Asks the engine. When it has the image, this source is the engine's from now on, and its
    /// archive will be at `path`.
    pub(crate) fn inspect(
        &self,
        platform: &Platform,
        path: PathBuf,
        gave_up: GaveUp<'_>,
    ) -> Result<Asked, SourceError> {
        if self.engine.absent.load(Ordering::Relaxed) {
            return Ok(Asked::Silent);
        }
        let name = self.reference.canonical();
        let found = match self.engine.inspect(&name, gave_up) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Asked::Missing),
            Err(EngineError::Connect(error)) => {
                if self.engine.absent.swap(true, Ordering::Relaxed) {
                    return Ok(Asked::Silent);
                }
                return Ok(Asked::Unusable(format!(
                    "no Docker engine at {} ({error}); images come from the cache and from \
                     registries",
                    self.engine.socket.display()
                )));
            }
            Err(error) => return Err(self.engine.failed("its id".into(), error).of(self.name())),
        };
        let id: Sha256 = found.id.parse().map_err(|_| {
            let text: String = found.id.chars().take(100).collect();
            let error = EngineError::Malformed(format!("the id {text:?} is no digest"));
            self.engine.failed("its id".into(), error).of(self.name())
        })?;
        let variant = Some(found.variant.as_str()).filter(|variant| !variant.is_empty());
        // It says what it likes, and people read it.
        let short = |text: &str| text.chars().take(40).collect::<String>();
        let variant = variant.map(short);
        let (os, architecture) = (short(&found.os), short(&found.architecture));
        let is = Platform::new(&os, &architecture, variant.as_deref());
        let recorded = !found.os.is_empty() && !found.architecture.is_empty();
        if check_platform(recorded.then_some(&is), platform).is_err() {
            return Ok(Asked::Unusable(format!(
                "the Docker engine's image {name} is for {is}, not for {platform}; it comes from \
                 the cache or its registry"
            )));
        }
        self.is_engines.store(true, Ordering::Relaxed);
        *self.lock() = Some(Chosen {
            id,
            path,
            saved: None,
        });
        Ok(Asked::There(id))
    }

    /// Returns the image that was found, as the engine saves it.
    pub(crate) fn saved(
        &self,
        platform: &Platform,
        watch: &Watch<'_>,
    ) -> Result<ResolvedImage, SourceError> {
        let source = self.source(watch)?;
        let manifest = source.resolve(platform)?;
        source.image(&manifest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Chosen>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where the bytes are: the engine's archive, fetched now if it was not before.
    fn source(&self, watch: &Watch<'_>) -> Result<Arc<dyn ImageSource>, SourceError> {
        let mut chosen = self.lock();
        let Some(chosen) = chosen.as_mut() else {
            return Ok(self.registry.clone());
        };
        if let Some(saved) = &chosen.saved {
            return Ok(saved.clone());
        }
        let fail = |kind: SourceErrorKind| kind.of(self.name());
        let saved = self.engine.save(&chosen.id, &chosen.path, watch);
        let source = saved.and_then(|()| open(&self.engine, &chosen.path, &chosen.id, watch));
        match source {
            Ok(source) => {
                chosen.saved = Some(source.clone());
                Ok(source)
            }
            Err(kind) => {
                // It may be asked for again, and the file must be new then.
                let _ = fs::remove_file(&chosen.path);
                Err(fail(kind))
            }
        }
    }

    fn source_unwatched(&self) -> Result<Arc<dyn ImageSource>, SourceError> {
        self.source(&Watch {
            gave_up: &|| false,
            progress: &|_| {},
        })
    }
}

/// Opens an archive that must hold what `id` names: the config of its image, or a document of the
/// layout that it is as well.
fn open(
    engine: &DockerEngine,
    path: &Path,
    id: &Sha256,
    watch: &Watch<'_>,
) -> Result<Arc<dyn ImageSource>, SourceErrorKind> {
    let archive = DockerArchive::new(path.to_owned(), None);
    let (image, _) = archive.only().map_err(|error| SourceErrorKind::Read {
        what: format!("the archive of image {id}"),
        place: engine.place(),
        error: io::Error::other(error),
    })?;
    let config = Sha256::of(&image.config);
    if config == *id {
        for layer in &image.layers {
            check_layer(engine, &archive, layer, watch)?;
        }
        return Ok(Arc::new(archive));
    }
    let layout = OciLayout::archive(path.to_owned(), Some(id.to_string()));
    // With a digest in the tag's place, all below it is verified.
    match layout.has(id) {
        true => Ok(Arc::new(layout)),
        false => Err(SourceErrorKind::Digest {
            what: format!("image {id}"),
            place: engine.place(),
            is: config,
        }),
    }
}

/// Checks a layer against the config that lists it: what is recorded of an id is for ever.
fn check_layer(
    engine: &DockerEngine,
    archive: &DockerArchive,
    layer: &LayerDescriptor,
    watch: &Watch<'_>,
) -> Result<(), SourceErrorKind> {
    let what = || format!("layer {}", layer.diff_id);
    if layer.digest != layer.diff_id {
        return Err(SourceErrorKind::unsupported(
            what(),
            "is compressed, and its id does not say how",
        ));
    }
    let fail = |error| SourceErrorKind::Read {
        what: what(),
        place: engine.place(),
        error,
    };
    let bytes = archive.layer(layer);
    let bytes = bytes.map_err(|error| fail(io::Error::other(error)))?;
    let is = Sha256::of_reader(bytes, watch.gave_up).map_err(fail)?;
    match is == layer.diff_id {
        true => Ok(()),
        false => Err(SourceErrorKind::Digest {
            what: what(),
            place: engine.place(),
            is,
        }),
    }
}

impl ImageSource for EngineImage {
    fn resolve(&self, platform: &Platform) -> Result<Sha256, SourceError> {
        self.source_unwatched()?.resolve(platform)
    }

    fn locate(&self, platform: &Platform) -> Result<Located, SourceError> {
        self.source_unwatched()?.locate(platform)
    }

    fn statements(&self, attestation: &Sha256) -> Result<Vec<LayerDescriptor>, SourceError> {
        self.source_unwatched()?.statements(attestation)
    }

    fn image(&self, manifest: &Sha256) -> Result<ResolvedImage, SourceError> {
        self.source_unwatched()?.image(manifest)
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        self.source_unwatched()?.layer(layer)
    }

    fn name(&self) -> String {
        self.registry.name()
    }

    fn digest(&self) -> Option<Sha256> {
        self.registry.digest()
    }

    fn top(&self) -> Option<(Sha256, Arc<Vec<u8>>)> {
        self.registry.top()
    }

    fn is_published(&self) -> bool {
        !self.is_engines.load(Ordering::Relaxed)
    }
}
