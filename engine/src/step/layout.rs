//! Volumes that hold an image as an OCI layout instead of its files (`format: oci`).
//!
//! Enters: an image and the platforms that are wanted of it. Leaves: `contents` (objects `document`;
//! values `top`, `blobs`) and `layout` (object `tree`): `oci-layout`, `index.json` and `blobs/` (OCI
//! image-spec, `image-layout.md`). Blobs are objects of the cache that the tree points at, so
//! nothing is copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyBuilder};
use serde::Serialize;
use serde_json::json;

use super::scheduler::NotKept;
use super::{Known, Lane, Next, Results, Reuse, Step, StepError, Task};
use crate::digest::Sha256;
use crate::image_store::fetch::Fetch;
use crate::image_store::gather::{Blob, Gathered, gather};
use crate::image_store::name::{Name, name_key};
use crate::image_store::store::{self, Store};
use crate::source::resolve::{Documents, Kept, Kind};
use crate::source::{ImageSource, Platform, SourceErrorKind};
use crate::tree::TreePath;
use crate::tree::generate::{Body, Node, generate};

/// Changes when the tree of the same contents may change.
const LAYOUT_VERSION: u32 = 1;
/// What a lock calls the platform of a whole image.
pub(crate) const EVERY_PLATFORM: &str = "*";
/// Architectures that are looked for in an image of which all are wanted.
const COMMON: &[&str] = &[
    "amd64", "arm64", "riscv64", "arm", "386", "ppc64le", "s390x",
];
/// The marker file, as LinuxKit writes it.
const MARKER: &str = "{\n\t\t\"imageLayoutVersion\": \"1.0.0\"\n\t}";

/// A source of which all platforms can be read.
pub(crate) trait Shelf: ImageSource + Documents {}
impl<T: ImageSource + Documents> Shelf for T {}

/// An image to be kept as a layout.
pub(crate) struct Layout {
    /// What `index.json` calls it.
    pub(crate) name: String,
    /// Where its bytes come from.
    pub(crate) source: Arc<dyn Shelf>,
    /// The platforms wanted of an index; all when empty.
    pub(crate) platforms: Vec<Platform>,
    /// The system's own platform, to ask for when all are wanted.
    pub(crate) own: Platform,
    /// Whether the name is looked up anew.
    pub(crate) refresh: bool,
}

impl Layout {
    fn key(&self, kind: &str) -> Key {
        KeyBuilder::new(kind, LAYOUT_VERSION)
            .field("image", ImageSource::name(&*self.source))
            .list("platforms", self.platforms.iter().map(Platform::to_string))
            .finish()
    }

    fn local(&self) -> bool {
        !self.source.inputs().is_empty()
    }

    /// Returns the platform that the name is looked up for.
    fn first(&self) -> &Platform {
        self.platforms.first().unwrap_or(&self.own)
    }

    /// Returns the keys under which the cache may keep what the name leads to.
    pub(crate) fn name_keys(&self) -> Vec<Key> {
        let name = ImageSource::name(&*self.source);
        let likely = self.likely();
        likely.iter().map(|it| name_key(&name, it)).collect()
    }

    /// Returns what the name leads to, as far as that is known: a digest says so itself, and the
    /// cache keeps what builds, pulls and imports found.
    fn known(&self, cache: &Cache) -> Result<Option<Sha256>, CacheError> {
        if self.local() {
            return Ok(None);
        }
        if let Some(digest) = self.source.digest() {
            return Ok(Some(digest));
        }
        if self.refresh {
            return Ok(None);
        }
        for key in self.name_keys() {
            if let Some(name) = cache.action(&key)?.as_ref().and_then(Name::read) {
                return Ok(Some(name.top));
            }
        }
        Ok(None)
    }

    /// Returns the platforms by which the name may be known. Of an index that is wanted whole it
    /// may be any: the system's own need not be in it.
    fn likely(&self) -> Vec<Platform> {
        let mut likely = vec![self.first().clone()];
        if self.platforms.is_empty() {
            let common = COMMON.iter().map(|it| Platform::new("linux", it, None));
            likely.extend(common);
        }
        likely
    }

    /// Asks the source what the name leads to, and keeps it.
    fn look_up(&self, cache: &Cache) -> Result<Sha256, SourceErrorKind> {
        let mut missing = None;
        let mut located = None;
        for platform in self.likely() {
            match self.source.locate(&platform) {
                Ok(found) => {
                    located = Some((platform, found));
                    break;
                }
                Err(error) if matches!(*error.kind, SourceErrorKind::NoPlatform { .. }) => {
                    missing.get_or_insert(*error.kind);
                }
                Err(error) => return Err(*error.kind),
            }
        }
        let top = match (self.source.top(), &located, missing) {
            (Some((top, _)), _, _) => top,
            (None, Some((_, found)), _) => found.manifest,
            (None, None, Some(kind)) => return Err(kind),
            (None, None, None) => unreachable!("one platform at least was asked for"),
        };
        if let Some((platform, found)) = located.filter(|_| !self.local()) {
            let name = Name {
                name: ImageSource::name(&*self.source),
                ..Name::of(&platform, found, top)
            };
            name.keep(cache).map_err(|error| kept_badly(&error))?;
        }
        Ok(top)
    }

    /// Reads every index and manifest below `top`, from the cache where it has them.
    fn gather(&self, cache: &Cache, top: &Sha256) -> Result<Gathered, SourceErrorKind> {
        let from = Shelves {
            store: Store::new(cache),
            source: &*self.source,
        };
        if self.platforms.is_empty() {
            return gather(&from, top, None, None);
        }
        let mut whole = Gathered::default();
        for platform in &self.platforms {
            let one = gather(&from, top, None, Some(platform))?;
            whole.documents.extend(one.documents);
            whole.configs.extend(one.configs);
            whole.blobs.extend(one.blobs);
        }
        Ok(whole)
    }

    /// Returns what the name leads to.
    pub(crate) fn top(self: &Arc<Self>, got: &Results<'_>) -> Known<Sha256> {
        let step: Arc<dyn Step> = Arc::new(Contents(self.clone()));
        match got.get(&*step) {
            None => Ok(Err(vec![step])),
            Some(found) => contents(&found, &self.name).map(|found| Ok(found.top)),
        }
    }
}

fn kept_badly(error: &CacheError) -> SourceErrorKind {
    SourceErrorKind::Unsupported {
        what: "the image's name".to_owned(),
        reason: format!("cannot be kept: {error}"),
    }
}

/// The cache's documents, and behind them the source's.
struct Shelves<'a> {
    store: Store<'a>,
    source: &'a dyn Shelf,
}

impl Documents for Shelves<'_> {
    fn read(&self, kind: Kind, digest: &Sha256) -> Result<Vec<u8>, SourceErrorKind> {
        match self.store.has(digest) {
            true => self.store.read(kind, digest),
            false => self.source.read(kind, digest),
        }
    }

    fn place(&self) -> String {
        self.source.place()
    }

    fn kept(&self) -> &Kept {
        self.source.kept()
    }

    fn has(&self, digest: &Sha256) -> bool {
        self.store.has(digest) || Documents::has(self.source, digest)
    }
}

/// What [`Contents`] found.
struct Found {
    top: Sha256,
    /// Documents and configs, with their objects and sizes.
    documents: BTreeMap<Sha256, (Digest, u64)>,
    blobs: Vec<Blob>,
}

/// Finds and keeps the documents of an image.
struct Contents(Arc<Layout>);

impl Step for Contents {
    fn kind(&self) -> &'static str {
        "contents"
    }

    fn label(&self) -> String {
        self.0.name.clone()
    }

    fn id(&self) -> Key {
        self.0.key("contents")
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let layout = self.0.clone();
        let context = format!("image {}", layout.name);
        let known = layout
            .known(got.cache)
            .map_err(StepError::in_context(context.clone()))?;
        if known.is_none() && got.is_recall && !layout.local() {
            return Err(StepError::new(context, NotKept));
        }
        let reuse = match known {
            Some(_) => Reuse::Always,
            None => Reuse::Never,
        };
        let id = self.id();
        let key = move |top: Option<Sha256>| {
            KeyBuilder::new("contents", LAYOUT_VERSION)
                .field("id", id.as_bytes())
                .field("top", top.map(|top| top.to_string()).unwrap_or_default())
                .finish()
        };
        Ok(Next::Run(Task {
            key: key(known),
            lane: Lane::Network,
            reuse,
            work: Box::new(move |scope| {
                let context = || format!("image {}", layout.name);
                let fail = |kind: SourceErrorKind| StepError::new(context(), kind.of(&layout.name));
                let top = match known {
                    Some(top) => top,
                    None => layout.look_up(scope.cache).map_err(fail)?,
                };
                let gathered = layout.gather(scope.cache, &top).map_err(fail)?;
                let mut outputs = Vec::new();
                for (digest, bytes) in gathered.documents.iter().chain(&gathered.configs) {
                    let (_, object) =
                        store::put(scope.cache, bytes).map_err(StepError::in_context(context()))?;
                    outputs.push((digest.to_string(), object, bytes.len() as u64));
                }
                let line = |blob: &Blob| format!("{} {}\n", blob.digest, blob.size);
                let blobs: String = gathered.blobs.iter().map(line).collect();
                let action = Action {
                    kind: "contents".to_owned(),
                    label: layout.name.clone(),
                    outputs,
                    values: vec![
                        ("top".into(), top.to_string().into_bytes()),
                        ("blobs".into(), blobs.into_bytes()),
                    ],
                    ..Action::default()
                };
                // Now it is known: whoever asks next finds it.
                if known.is_none() && !layout.local() {
                    let kept = scope.cache.put_action(&key(Some(top)), &action);
                    kept.map_err(StepError::in_context(context()))?;
                }
                Ok(action)
            }),
        }))
    }
}

fn contents(action: &Action, name: &str) -> Result<Found, StepError> {
    let text = |value| std::str::from_utf8(action.value(value)?).ok();
    let read = || {
        let documents = action
            .outputs
            .iter()
            .map(|(digest, object, size)| Some((digest.parse().ok()?, (*object, *size))));
        let blobs = text("blobs")?.lines().map(|line| {
            let (digest, size) = line.split_once(' ')?;
            Some(Blob {
                digest: digest.parse().ok()?,
                size: size.parse().ok()?,
            })
        });
        Some(Found {
            top: text("top")?.parse().ok()?,
            documents: documents.collect::<Option<_>>()?,
            blobs: blobs.collect::<Option<_>>()?,
        })
    };
    read().ok_or_else(|| {
        StepError::new(
            format!("image {name}"),
            "the cache's record of it is damaged",
        )
    })
}

/// Makes the layout's tree.
pub(crate) struct LayoutTree(pub(crate) Arc<Layout>);

impl Step for LayoutTree {
    fn kind(&self) -> &'static str {
        "layout"
    }

    fn label(&self) -> String {
        self.0.name.clone()
    }

    fn id(&self) -> Key {
        self.0.key("layout")
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let layout = self.0.clone();
        let step: Arc<dyn Step> = Arc::new(Contents(layout.clone()));
        let Some(action) = got.get(&*step) else {
            return Ok(Next::Need(vec![step]));
        };
        let found = contents(&action, &layout.name)?;
        let source: Arc<dyn ImageSource> = layout.source.clone();
        let fetch = |blob: &Blob| {
            Arc::new(Fetch {
                source: source.clone(),
                name: layout.name.clone(),
                blob: *blob,
            }) as Arc<dyn Step>
        };
        // A config of what is no image is a document and a blob.
        let missing = found.blobs.iter();
        let missing = missing.filter(|blob| !found.documents.contains_key(&blob.digest));
        let (blobs, steps): (Vec<&Blob>, Vec<_>) = missing.map(|blob| (blob, fetch(blob))).unzip();
        let done = match got.all(&steps) {
            Ok(done) => done,
            Err(need) => return Ok(Next::Need(need)),
        };
        let mut files = found.documents.clone();
        for (blob, action) in blobs.into_iter().zip(done) {
            if let Some((_, object, size)) = action.outputs.first() {
                files.insert(blob.digest, (*object, *size));
            }
        }
        let context = format!("image {}", layout.name);
        let top = found.documents.get(&found.top).copied();
        let (top_object, top_size) = top.ok_or_else(|| {
            StepError::new(context.clone(), "the cache's record of it has no manifest")
        })?;
        let document = got
            .cache
            .read(&top_object)
            .map_err(StepError::in_context(context.clone()))?;
        let index = index_json(&found.top, top_size, &document, &layout.name)
            .map_err(StepError::in_context(context.clone()))?;
        let nodes = nodes(&files, index);
        let key = KeyBuilder::new("layout", LAYOUT_VERSION)
            .field("name", &layout.name)
            .field("top", found.top.as_bytes())
            .list("files", files.keys().map(Sha256::as_bytes))
            .finish();
        Ok(Next::Run(Task {
            key,
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let made = generate(scope.cache, &nodes).map_err(StepError::in_context(context))?;
                Ok(super::generated::action(&made))
            }),
        }))
    }
}

fn nodes(files: &BTreeMap<Sha256, (Digest, u64)>, index: Vec<u8>) -> Vec<Node> {
    let path = |text: &str| TreePath::from_clean(text.as_bytes());
    let file = |name: &str, body| Node::new(path(name), body, 0o644);
    let mut nodes = vec![
        Node::directory(path("")),
        Node::directory(path("blobs")),
        Node::directory(path("blobs/sha256")),
        file("oci-layout", Body::Bytes(MARKER.into())),
        file("index.json", Body::Bytes(index)),
    ];
    nodes.extend(files.iter().map(|(digest, (object, size))| {
        let name = format!("blobs/sha256/{}", digest.hex());
        file(&name, Body::Object(*object, *size))
    }));
    nodes
}

/// Writes `index.json` as LinuxKit does: one descriptor, three spaces.
fn index_json(
    top: &Sha256,
    size: u64,
    document: &[u8],
    name: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(document)?;
    let index_type = "application/vnd.oci.image.index.v1+json";
    let guessed = match kind.manifests {
        Some(_) => index_type,
        None => "application/vnd.oci.image.manifest.v1+json",
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": index_type,
        "manifests": [{
            "mediaType": kind.media_type.as_deref().unwrap_or(guessed),
            "size": size,
            "digest": top.to_string(),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }],
    });
    let mut out = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    index.serialize(&mut serde_json::Serializer::with_formatter(
        &mut out, indent,
    ))?;
    Ok(out)
}
