//! `cache export`: an image of the cache as a file or a stream.
//!
//! Enters: a reference and a platform. Leaves, the same bytes every time, one of
//! - `oci`: the tar of an OCI image layout (1.1) with the one image, named in both annotations;
//! - `docker`: a docker archive (`manifest.json`, config, uncompressed layers), as `docker load` and
//!   skopeo read it;
//! - `filesystem`: the flattened image.
//!
//! Blobs that the cache lacks are fetched and kept. A file appears whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use kiln_cache::{Action, Digest, Key, KeyBuilder, Object};
use serde_json::json;

use super::gather::gather;
use super::store::{Store, open};
use super::{Images, failed};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::format::assemble::Staged;
use crate::format::output::tar_segments;
use crate::format::{Fragment, Part, Segment, Target, assemble, share, tar};
use crate::source::manifest::OCI_MANIFEST;
use crate::source::{ImageSource, Platform, Reference, ResolvedImage};
use crate::step::image::Image;
use crate::step::layer::{Layer, layer_key};
use crate::step::{Lane, Next, Results, Reuse, Step, StepError, Task};
use crate::tree::TreePath;
use crate::tree::flatten::{Finish, flatten};

const BLOCK: usize = 512;
/// The largest number of 11 octal digits.
const OCTAL_11_MAX: u64 = 0o777_7777_7777;
/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What to export to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// The tar of an OCI image layout.
    Oci,
    /// A docker archive.
    Docker,
    /// A tar of the flattened image.
    Filesystem,
}

/// Where to.
pub enum ExportTarget<'t> {
    /// A file, replaced when all is well.
    File(&'t Path),
    /// A stream.
    Stream(&'t mut dyn Write),
}

impl Images<'_> {
    /// Exports an image. `name` is what it is called in the archive, instead of its own name.
    ///
    /// # Errors
    /// When it is not in the cache, a missing blob cannot be fetched, or the target not written.
    pub fn export(
        &self,
        reference: &Reference,
        platform: &Platform,
        format: ExportFormat,
        name: Option<&Reference>,
        target: ExportTarget<'_>,
    ) -> Result<(), BuildError> {
        let found = self.one(reference, platform)?;
        let registry: Reference = found
            .name
            .parse()
            .map_err(|error| StepError::new(format!("image {}", found.name), error))?;
        let source: Arc<dyn ImageSource> = Arc::new(self.registry.image(&registry));
        let image = match Store::new(&self.cache).image(&found.found.manifest) {
            Some(image) => image,
            None => source
                .image(&found.found.manifest)
                .map_err(|error| failed(&found.name, *error.kind))?,
        };
        let called = name.unwrap_or(&registry);
        match format {
            ExportFormat::Oci => {
                self.complete(&found.name, &source, &image)?;
                let entries = self.oci_members(&image, &found.platform, called)?;
                write(target, |out| self.archive(entries, out))
            }
            ExportFormat::Docker => {
                let layers = self.unpacked(&source, &found.platform, &image)?;
                let entries = self.docker_members(&image, &layers, called)?;
                write(target, |out| self.archive(entries, out))
            }
            ExportFormat::Filesystem => {
                let layers = self.unpacked(&source, &found.platform, &image)?;
                let trees = layers.into_iter().map(|layer| layer.tree).collect();
                self.filesystem(&found.name, trees, target)
            }
        }
    }

    /// Fetches the blobs that are not here.
    pub(super) fn complete(
        &self,
        name: &str,
        source: &Arc<dyn ImageSource>,
        image: &ResolvedImage,
    ) -> Result<(), BuildError> {
        self.keep(
            name,
            source,
            &super::gather::Gathered::of_image(image, None),
        )
    }

    fn oci_members(
        &self,
        image: &ResolvedImage,
        platform: &Platform,
        name: &Reference,
    ) -> Result<Vec<Member>, BuildError> {
        let store = Store::new(&self.cache);
        let gathered = gather(&store, &image.manifest_digest, None, None)
            .map_err(|kind| failed(&name.key(), kind))?;
        let platform = gathered
            .images
            .first()
            .and_then(|image| image.platform.clone())
            .unwrap_or_else(|| platform.clone());
        let mut described = json!({
            "architecture": platform.architecture,
            "os": platform.os,
        });
        if let Some(variant) = &platform.variant {
            described["variant"] = json!(variant);
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type(&image.manifest),
                "digest": image.manifest_digest.to_string(),
                "size": image.manifest.len(),
                "annotations": {
                    "io.containerd.image.name": name.key(),
                    "org.opencontainers.image.ref.name": name.key(),
                },
                "platform": described,
            }],
        });
        let mut members = vec![
            Member::bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            Member::bytes("index.json", index.to_string().into_bytes()),
        ];
        let blobs = gathered.blobs.iter().map(|blob| blob.digest);
        let documents = gathered.documents.iter().chain(&gathered.configs);
        let mut digests: Vec<Sha256> = blobs.chain(documents.map(|(digest, _)| *digest)).collect();
        digests.sort_unstable();
        for digest in digests {
            members.push(Member {
                name: format!("blobs/sha256/{}", digest.hex()),
                content: Content::Blob(digest),
            });
        }
        Ok(members)
    }

    fn docker_members(
        &self,
        image: &ResolvedImage,
        layers: &[Unpacked],
        name: &Reference,
    ) -> Result<Vec<Member>, BuildError> {
        let config = format!("{}.json", Sha256::of(&image.config).hex());
        let layer_name =
            |layer: &crate::source::LayerDescriptor| format!("{}.tar", layer.diff_id.hex());
        // Docker has names of tags only.
        let tag = format!(
            "{}/{}:{}",
            name.host(),
            name.repository(),
            name.tag().unwrap_or("latest")
        );
        let manifest = json!([{
            "Config": config,
            "RepoTags": [tag],
            "Layers": image.layers.iter().map(layer_name).collect::<Vec<_>>(),
        }]);
        let mut members = vec![
            Member::bytes("manifest.json", manifest.to_string().into_bytes()),
            Member::bytes(&config, image.config.clone()),
        ];
        for (layer, unpacked) in image.layers.iter().zip(layers) {
            let name = layer_name(layer);
            // The empty layer, say, may stand in an image many times.
            if !members.iter().any(|member| member.name == name) {
                members.push(Member {
                    name,
                    content: Content::Object(unpacked.pack, unpacked.pack_size),
                });
            }
        }
        Ok(members)
    }

    /// Unpacks what builds have not unpacked yet.
    fn unpacked(
        &self,
        source: &Arc<dyn ImageSource>,
        platform: &Platform,
        resolved: &ResolvedImage,
    ) -> Result<Vec<Unpacked>, BuildError> {
        let image = Arc::new(Image {
            engine: None,
            source: source.clone(),
            platform: platform.clone(),
            pinned: Some(resolved.manifest_digest.into()),
            refresh: false,
        });
        let step = |layer: &crate::source::LayerDescriptor| {
            Arc::new(Layer::new(image.clone(), *layer)) as Arc<dyn Step>
        };
        self.run(resolved.layers.iter().map(step).collect())?;
        let mut layers = Vec::new();
        for layer in &resolved.layers {
            let context = || StepError::new(format!("layer {}", layer.digest), "it went missing");
            let action = self.cache.action(&layer_key(layer))?;
            let action = action.ok_or_else(context)?;
            let role = |name: &str| action.outputs.iter().find(|output| output.0 == name);
            let (pack, tree) = role("pack").zip(role("tree")).ok_or_else(context)?;
            layers.push(Unpacked {
                pack: pack.1,
                pack_size: pack.2,
                tree: tree.1,
            });
        }
        Ok(layers)
    }

    fn filesystem(
        &self,
        name: &str,
        trees: Vec<Digest>,
        target: ExportTarget<'_>,
    ) -> Result<(), BuildError> {
        let step = Arc::new(Filesystem {
            name: name.to_owned(),
            trees,
        });
        let result = self.run(vec![step])?;
        let segment = result.outputs.first().map(|(_, digest, _)| *digest);
        let segment = segment.ok_or_else(|| StepError::new(name, "it went missing"))?;
        let len = crate::format::recipe::Recipe::open(&self.cache, &segment)?.len();
        let segment = Segment {
            digest: segment,
            len,
            form: crate::format::Form::Recipe,
        };
        let segments = tar_segments(&self.cache, &[segment])?;
        let target = match target {
            ExportTarget::File(path) => Target::Path(path),
            ExportTarget::Stream(out) => Target::Writer(out),
        };
        assemble(&self.cache, &segments, target, None)?;
        Ok(())
    }

    /// Writes an archive of members.
    fn archive(&self, members: Vec<Member>, out: &mut dyn Write) -> Result<(), Failed> {
        for member in members {
            let (size, mut content): (u64, Box<dyn Read>) = match member.content {
                Content::Bytes(bytes) => (bytes.len() as u64, Box::new(io::Cursor::new(bytes))),
                Content::Blob(digest) => {
                    let blob = open(&self.cache, &digest).map_err(BuildError::from)?;
                    let blob = blob.ok_or_else(|| {
                        BuildError::from(StepError::new(
                            format!("blob {digest}"),
                            "it went missing",
                        ))
                    })?;
                    (blob.len(), Box::new(blob))
                }
                Content::Object(digest, size) => {
                    let object = self.cache.open_sized(&digest, size);
                    let object = object.map_err(BuildError::from)?;
                    (size, Box::new(Reading { object, offset: 0 }))
                }
            };
            out.write_all(&header(&member.name, size))?;
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let read = content.read(&mut buffer).map_err(|error| {
                    BuildError::from(StepError::new(member.name.clone(), error))
                })?;
                if read == 0 {
                    break;
                }
                out.write_all(&buffer[..read])?;
            }
            let padding = size.next_multiple_of(BLOCK as u64) - size;
            out.write_all(&[0; BLOCK][..usize::try_from(padding).unwrap_or(0)])?;
        }
        out.write_all(&[0; 2 * BLOCK])?;
        Ok(())
    }
}

/// Writes to a target: whole, or not at all where that can be.
fn write(
    target: ExportTarget<'_>,
    body: impl FnOnce(&mut dyn Write) -> Result<(), Failed>,
) -> Result<(), BuildError> {
    let to = |path: &Path, failed: Failed| match failed {
        Failed::Write(error) => BuildError::output(path)(error),
        Failed::Other(error) => error,
    };
    match target {
        ExportTarget::Stream(out) => {
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
            body(&mut out)
                .and_then(|()| out.flush().map_err(Failed::Write))
                .map_err(|failed| to(Path::new("-"), failed))
        }
        ExportTarget::File(path) => {
            let staged = Staged::create(path)?;
            let mut out: BufWriter<&File> = BufWriter::with_capacity(BUFFER_BYTES, staged.file());
            body(&mut out)
                .and_then(|()| out.flush().map_err(Failed::Write))
                .map_err(|failed| to(path, failed))?;
            drop(out);
            Ok(staged.publish()?)
        }
    }
}

/// Which side of an export failed.
enum Failed {
    Write(io::Error),
    Other(BuildError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Self {
        Self::Other(error)
    }
}

/// A layer's objects.
struct Unpacked {
    pack: Digest,
    pack_size: u64,
    tree: Digest,
}

/// A file of an archive.
struct Member {
    name: String,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    Blob(Sha256),
    Object(Digest, u64),
}

impl Member {
    fn bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            content: Content::Bytes(bytes),
        }
    }
}

/// Reads an object from its beginning.
struct Reading {
    object: Object,
    offset: u64,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.object.len() - self.offset;
        let read = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        self.object
            .read_exact_at(&mut buffer[..read], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Returns the ustar header (POSIX.1-2017, pax) of a regular file, mode 0644, root, time 0. Names
/// here are shorter than 100 bytes; sizes beyond 8 GiB are written in base 256, as GNU tar does.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= OCTAL_11_MAX {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Returns a manifest's media type: what it says itself, else OCI's.
pub(super) fn media_type(manifest: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(manifest).ok();
    let own = parsed
        .as_ref()
        .and_then(|value| value["mediaType"].as_str());
    match own {
        Some(own) if !own.is_empty() => own.to_owned(),
        // Docker's manifests always state theirs.
        _ => OCI_MANIFEST.to_owned(),
    }
}

/// Flattens layers into the tar of a file system.
struct Filesystem {
    name: String,
    trees: Vec<Digest>,
}

impl Step for Filesystem {
    fn kind(&self) -> &'static str {
        "filesystem"
    }

    fn label(&self) -> String {
        self.name.clone()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("filesystem", tar::VERSION)
            .list("trees", self.trees.iter().map(Digest::as_bytes))
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (name, trees) = (self.name.clone(), self.trees.clone());
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = || format!("file system of {name}");
                let (tree, tree_size) = flatten(scope.cache, &trees, &Finish::default())
                    .map_err(StepError::in_context(context()))?;
                let fragment = Fragment {
                    name: name.clone(),
                    source: String::new(),
                    location: String::new(),
                    parts: vec![Part {
                        prefix: TreePath::default(),
                        tree,
                        shared: false,
                    }],
                };
                let plan = share(scope.cache, std::slice::from_ref(&fragment))
                    .map_err(StepError::in_context(context()))?;
                // Without provenance it is one.
                let segments = tar::segments(scope.cache, &fragment, &plan.fragments[0])
                    .map_err(StepError::in_context(context()))?;
                let segment = segments[0];
                let object = scope
                    .cache
                    .open_object(&segment.digest)
                    .map_err(StepError::in_context(context()))?;
                Ok(Action {
                    outputs: vec![
                        ("segment".into(), segment.digest, object.len()),
                        ("tree".into(), tree, tree_size),
                    ],
                    ..Action::default()
                })
            }),
        }))
    }
}
