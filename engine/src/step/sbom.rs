//! The bill of materials, step by step: what images attest, rewritten once, and put together.
//!
//! Enters: a [`Plan`] and where its components are. Leaves: `attestation` (objects `0`, `1`, …: the
//! statements of an image), `bill` (an object per list) and `sbom` (object `document`). An image
//! without attestations costs nothing here; a changed one is taken apart alone.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use kiln_cache::{Action, Cache, Digest, Key, KeyBuilder, ObjectWriter};
use serde_json::{Map, Value};

use super::image::{Image, Resolve, located};
use super::root::{Origin, Source};
use super::system::{Init, Plan};
use super::{Known, Lane, Next, Results, Reuse, Scope, Step, StepError, Task};
use crate::digest::Sha256;
use crate::image_store::store::{self, Store};
use crate::sbom::document::{self, Head, Lists, Section, What};
use crate::sbom::place::Place;
use crate::sbom::statement::{self, List, STATEMENT_MAX_BYTES, Sink};
use crate::sbom::{Format, Options};
use crate::source::LayerDescriptor;
use crate::system::volumes::volume_path;

/// Changes when the same facts may be written in another way.
const SBOM_VERSION: u32 = 1;
/// Statements of one image; each may be as large as one.
const STATEMENTS_MAX: usize = 8;
/// Bytes read and written at once: objects have no buffer of their own.
const BUFFER_BYTES: usize = 256 << 10;
/// What people can do about someone else's document.
const HINT: &str = "the image's author can say more; --no-sbom builds without a bill of materials";

/// A component, by the name its ids begin with, and where its files are in the system.
pub(crate) struct Component {
    pub(crate) key: String,
    pub(crate) path: String,
    /// `None`: kiln's own init.
    pub(crate) origin: Option<Origin>,
}

/// Returns the components outside the container sections: kernel, init and volumes.
pub(crate) fn components(plan: &Plan) -> Vec<Component> {
    let component = |key: String, path: String, origin: Option<&Origin>| Component {
        key,
        path,
        origin: origin.cloned(),
    };
    let mut out = Vec::new();
    if let Some(kernel) = &plan.kernel {
        out.push(component(
            "kernel".into(),
            String::new(),
            Some(&kernel.origin),
        ));
    }
    for (index, init) in plan.init.iter().enumerate() {
        let origin = match init {
            Init::Kiln(_) => None,
            Init::Origin(origin) => Some(origin),
        };
        out.push(component(format!("init/{index}"), String::new(), origin));
    }
    // A layout's files are images of their own.
    for (volume, content) in plan.spec.volumes.iter().zip(&plan.volumes) {
        let name = &volume.name.value;
        if let Some(origin) = content.origin() {
            let path = format!("{}/lower", volume_path(name));
            out.push(component(format!("volumes/{name}"), path, Some(origin)));
        }
    }
    out
}

/// Returns the steps that fetch what images attest.
pub(crate) fn attestations<'a>(origins: impl Iterator<Item = &'a Origin>) -> Vec<Arc<dyn Step>> {
    let step = |origin: &Origin| match &origin.source {
        Source::Image(image) => Some(Arc::new(Attestation(image.clone())) as Arc<dyn Step>),
        _ => None,
    };
    origins.filter_map(step).collect()
}

/// Returns the document; or what is needed before it is known.
pub(crate) fn document(
    options: &Options,
    components: &[Component],
    got: &Results<'_>,
) -> Known<(Digest, u64)> {
    let mut sections = Vec::new();
    let mut bills: Vec<Vec<Arc<dyn Step>>> = Vec::new();
    for component in components {
        let place = Place::new(&component.key, &component.path);
        let mut bill = Vec::new();
        let what = match component.origin.as_ref().map(|origin| &origin.source) {
            None => What::Kiln,
            Some(Source::Directory(_)) => What::Directory,
            Some(Source::Debian(packages)) => match packages.solution(got)? {
                Ok(packages) => What::Debian(packages),
                Err(need) => return Ok(Err(need)),
            },
            Some(Source::Image(image)) => {
                let resolve: Arc<dyn Step> = Arc::new(Resolve(image.clone()));
                let attestation: Arc<dyn Step> = Arc::new(Attestation(image.clone()));
                let need = vec![resolve, attestation];
                let Ok(done) = got.all(&need) else {
                    return Ok(Err(need));
                };
                for (index, (_, statement, size)) in done[1].outputs.iter().enumerate() {
                    bill.push(Arc::new(Bill {
                        image: image.source.name(),
                        place: place.nth(index),
                        statement: (*statement, *size),
                        format: options.format,
                    }) as Arc<dyn Step>);
                }
                What::Image {
                    manifest: located(&done[0])?.manifest,
                    architecture: image.platform.architecture.clone(),
                    // What is found in files of this machine is nowhere else.
                    reference: match image.source.is_published() {
                        true => image.source.name().parse().ok(),
                        false => None,
                    },
                }
            }
        };
        let name = match &component.origin {
            Some(origin) => origin.name.clone(),
            None => "kiln-init".to_owned(),
        };
        sections.push(Section { place, name, what });
        bills.push(bill);
    }
    let all: Vec<_> = bills.iter().flatten().cloned().collect();
    if got.all(&all).is_err() {
        return Ok(Err(all));
    }
    let mut lists = Vec::new();
    for bill in &bills {
        let mut found = Vec::new();
        for action in got.all(bill).unwrap_or_default() {
            found.extend(
                action
                    .outputs
                    .iter()
                    .map(|(list, digest, _)| (list.clone(), *digest)),
            );
        }
        lists.push(found);
    }
    let step: Arc<dyn Step> = Arc::new(Compose {
        options: options.clone(),
        sections: Arc::new(sections),
        lists,
    });
    let Some(composed) = got.get(&*step) else {
        return Ok(Err(vec![step]));
    };
    let found = composed.outputs.first();
    found
        .map(|(_, digest, size)| Ok((*digest, *size)))
        .ok_or_else(|| StepError::new("sbom", "the cache's record of it has no document"))
}

/// Fetches the SPDX documents that BuildKit attested for an image.
struct Attestation(Arc<Image>);

impl Step for Attestation {
    fn kind(&self) -> &'static str {
        "attestation"
    }

    fn label(&self) -> String {
        self.0.source.name()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("attestation", 1)
            .field("image", self.0.source.name())
            .field("platform", self.0.platform.to_string())
            .finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let resolve: Arc<dyn Step> = Arc::new(Resolve(self.0.clone()));
        let Some(resolved) = got.get(&*resolve) else {
            return Ok(Next::Need(vec![resolve]));
        };
        let attestations = located(&resolved)?.attestations;
        if attestations.is_empty() {
            return Ok(Next::Done(Action::default()));
        }
        let image = self.0.clone();
        Ok(Next::Run(Task {
            // Their digests say it all, wherever they come from.
            key: KeyBuilder::new("attestation", 1)
                .list("digests", attestations.iter().map(Sha256::to_string))
                .finish(),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("image {}: its attestation", image.source.name());
                let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
                    StepError::new(context.clone(), error).hint(HINT)
                };
                let mut outputs = Vec::new();
                for attestation in &attestations {
                    let statements = match Store::new(scope.cache).statements(attestation) {
                        Some(statements) => Ok(statements),
                        None => image.source.statements(attestation),
                    };
                    for layer in statements.map_err(|error| failed(error.into()))? {
                        if outputs.len() == STATEMENTS_MAX {
                            let why = format!("holds more than {STATEMENTS_MAX} SPDX documents");
                            return Err(failed(why.into()));
                        }
                        let digest = fetch(scope, &image, &layer).map_err(&failed)?;
                        outputs.push((outputs.len().to_string(), digest, layer.size));
                    }
                }
                Ok(Action {
                    outputs,
                    ..Action::default()
                })
            }),
        }))
    }
}

/// Fetches and verifies one statement, without holding it in memory.
fn fetch(
    scope: &Scope<'_>,
    image: &Image,
    layer: &LayerDescriptor,
) -> Result<Digest, Box<dyn std::error::Error + Send + Sync>> {
    if layer.size > STATEMENT_MAX_BYTES {
        let why = format!(
            "is {} bytes long; {STATEMENT_MAX_BYTES} are allowed",
            layer.size
        );
        return Err(format!("statement {} {why}", layer.digest).into());
    }
    let blob = match store::object(scope.cache, &layer.digest)? {
        Some(blob) => return Ok(blob),
        None => image.source.layer(layer)?,
    };
    let progress = |done| scope.progress(done, Some(layer.size));
    let stored = store::stream(
        scope.cache,
        &layer.digest,
        layer.size,
        blob,
        scope.cancel,
        &progress,
    );
    let stored = stored.map_err(|error| format!("statement {}: {error}", layer.digest))?;
    Ok(stored.outputs[0].1)
}

/// Takes one statement apart, for its place in the system.
struct Bill {
    image: String,
    place: Place,
    statement: (Digest, u64),
    format: Format,
}

impl Step for Bill {
    fn kind(&self) -> &'static str {
        "bill"
    }

    fn label(&self) -> String {
        self.image.clone()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("bill", SBOM_VERSION)
            .digest("statement", &self.statement.0)
            .field("component", self.place.own())
            .field("ids", self.place.named(""))
            .field("path", self.place.root())
            .field("format", self.format.name())
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (digest, size) = self.statement;
        let place = self.place.clone();
        let (image, format) = (self.image.clone(), self.format);
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("image {image}: its SPDX document");
                let object = scope
                    .cache
                    .open_sized(&digest, size)
                    .map_err(StepError::in_context(context.clone()))?;
                let bytes = object
                    .map()
                    .map_err(StepError::in_context(context.clone()))?;
                let mut taken = Taken {
                    cache: scope.cache,
                    format,
                    lists: BTreeMap::new(),
                };
                let left_out = statement::read(&bytes, &place, &mut taken)
                    .map_err(|error| StepError::new(context.clone(), error).hint(HINT))?;
                if let Some(first) = left_out.first {
                    scope.warn(format!(
                        "{context} holds {} elements that are not valid SPDX and are left out; the first: {first}",
                        left_out.count
                    ));
                }
                let mut outputs = Vec::new();
                for (list, writer) in taken.lists {
                    let object = writer.into_inner().map_err(io::IntoInnerError::into_error);
                    let object = object.map_err(StepError::in_context(context.clone()))?;
                    let size = object.len();
                    let digest = object
                        .commit()
                        .map_err(StepError::in_context(context.clone()))?;
                    outputs.push((list.name().to_owned(), digest, size));
                }
                Ok(Action {
                    outputs,
                    ..Action::default()
                })
            }),
        }))
    }
}

/// What was taken from a document: an object per list, elements separated by commas.
struct Taken<'c> {
    cache: &'c Cache,
    format: Format,
    lists: BTreeMap<List, io::BufWriter<ObjectWriter<'c>>>,
}

impl Sink for Taken<'_> {
    fn element(&mut self, list: List, element: Map<String, Value>) -> io::Result<()> {
        let Some((list, element)) = self.format.element(list, element) else {
            return Ok(());
        };
        let mut text = serde_json::to_vec(&element)?;
        use std::collections::btree_map::Entry;
        let object = match self.lists.entry(list) {
            Entry::Occupied(there) => {
                text.insert(0, b',');
                there.into_mut()
            }
            Entry::Vacant(new) => {
                let object = self.cache.object_writer().map_err(io::Error::other)?;
                new.insert(io::BufWriter::with_capacity(BUFFER_BYTES, object))
            }
        };
        object.write_all(&text)
    }
}

/// Writes the document.
struct Compose {
    options: Options,
    sections: Arc<Vec<Section>>,
    /// Each section's lists: name and object.
    lists: Vec<Vec<(String, Digest)>>,
}

impl Step for Compose {
    fn kind(&self) -> &'static str {
        "sbom"
    }

    fn label(&self) -> String {
        self.options.format.name().to_owned()
    }

    fn id(&self) -> Key {
        let mut key = KeyBuilder::new("sbom", SBOM_VERSION)
            .field("kiln", document::VERSION)
            .field("format", self.options.format.name())
            .field("created", self.options.created());
        for (section, lists) in self.sections.iter().zip(&self.lists) {
            key = key
                .field("id", section.place.own())
                .field("path", section.place.root())
                .field("name", &section.name);
            key = match &section.what {
                What::Image {
                    manifest,
                    architecture,
                    reference,
                } => key
                    .field("manifest", manifest.as_bytes())
                    .field("architecture", architecture)
                    .list("reference", reference.iter().map(ToString::to_string)),
                What::Debian(packages) => packages.iter().fold(key, |key, package| {
                    key.field("package", &package.name)
                        .field("version", &package.version)
                        .field("architecture", &package.architecture)
                        .field("sha256", package.sha256.as_bytes())
                        .field("control", &package.control)
                        .list("urls", &package.urls)
                }),
                What::Directory => key.field("directory", ""),
                What::Kiln => key.field("kiln-init", ""),
            };
            for (list, digest) in lists {
                key = key.field("list", list).digest("elements", digest);
            }
        }
        key.finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let key = self.id();
        let (options, sections) = (self.options.clone(), self.sections.clone());
        let lists = self.lists.clone();
        Ok(Next::Run(Task {
            key,
            lane: Lane::Cpu,
            // The clock's documents are of no use to anyone else.
            reuse: match options.created {
                Some(_) => Reuse::Never,
                None => Reuse::Always,
            },
            work: Box::new(move |scope| {
                let failed = |error: CacheOrIo| StepError::new("sbom", error);
                let mut object = scope.cache.object_writer().map_err(|e| failed(e.into()))?;
                let head = Head {
                    format: options.format,
                    created: &options.created(),
                    identity: key.as_bytes(),
                };
                let lists = Stored {
                    cache: scope.cache,
                    lists: &lists,
                };
                let mut out = io::BufWriter::with_capacity(BUFFER_BYTES, &mut object);
                document::write(&head, &sections, &lists, &mut out)
                    .and_then(|()| out.flush())
                    .map_err(|e| failed(e.into()))?;
                drop(out);
                let size = object.len();
                let digest = object.commit().map_err(|e| failed(e.into()))?;
                Ok(Action {
                    outputs: vec![("document".into(), digest, size)],
                    ..Action::default()
                })
            }),
        }))
    }
}

type CacheOrIo = Box<dyn std::error::Error + Send + Sync>;

/// The lists of all sections, in the cache.
struct Stored<'a> {
    cache: &'a Cache,
    lists: &'a [Vec<(String, Digest)>],
}

impl Lists for Stored<'_> {
    fn open(&self, section: usize, list: List) -> io::Result<Vec<Box<dyn Read + '_>>> {
        let found = self.lists.get(section).into_iter().flatten();
        found
            .filter(|(name, _)| name == list.name())
            .map(|(_, digest)| {
                let object = self.cache.open_object(digest).map_err(io::Error::other)?;
                Ok(Box::new(Reader { object, at: 0 }) as Box<dyn Read>)
            })
            .collect()
    }
}

/// Reads an object from front to back.
struct Reader {
    object: kiln_cache::Object,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.object.len() - self.at).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        self.object.read_exact_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
