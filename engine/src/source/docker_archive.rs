//! Docker archives: the tar that `docker save` and skopeo's `docker-archive:` write.
//!
//! Enters: a tar with `manifest.json` (and configs and layers beside it), and perhaps one of its
//! repository tags. Leaves: an [`ImageSource`]. The archive has no manifest with digests, so one is
//! made, deterministically: a layer stored uncompressed is named by its diff id, which the config
//! states and which the unpacker verifies; a compressed one by its name under `blobs/sha256/`, as
//! newer dockers write, or else by reading it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::json;

use super::ImageSource;
use super::error::{SourceError, SourceErrorKind};
use super::exact::Exact;
use super::manifest::{
    CONFIG_SIZE_MAX, LAYERS_MAX, LayerDescriptor, MANIFEST_SIZE_MAX, OCI_CONFIG, OCI_LAYER_GZIP,
    OCI_LAYER_TAR, OCI_LAYER_ZSTD, OCI_MANIFEST, ResolvedImage, parse_config,
};
use super::oci_layout::{open_file, read_bounded};
use super::platform::Platform;
use super::reference::Reference;
use super::resolve::check_platform;
use super::tar_index::{self, Member, TarError, TarIndex};
use crate::digest::Sha256;

/// An image in a docker archive.
#[derive(Debug)]
pub struct DockerArchive {
    path: PathBuf,
    reference: Option<String>,
    name: String,
    opened: Mutex<Option<Arc<Opened>>>,
}

/// What was learnt about the chosen image.
#[derive(Debug)]
struct Opened {
    image: ResolvedImage,
    platform: Option<Platform>,
    /// Where each of the image's layers lies.
    members: Vec<Member>,
}

/// One element of `manifest.json`.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    /// Names an image in the archive at `path`; nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf, reference: Option<String>) -> Self {
        let name = match &reference {
            Some(reference) => format!("docker-archive:{}:{reference}", path.display()),
            None => format!("docker-archive:{}", path.display()),
        };
        Self {
            path,
            reference,
            name,
            opened: Mutex::default(),
        }
    }

    /// Returns the repository tags of each image in an archive, in its order.
    pub(crate) fn tags(path: &std::path::Path) -> Result<Vec<Vec<String>>, SourceErrorKind> {
        let mut archive = Archive::open(path)?;
        let bytes = archive.read("manifest.json", MANIFEST_SIZE_MAX)?;
        let entries: Vec<Entry> = serde_json::from_slice(&bytes)
            .map_err(|error| archive.malformed(format!("manifest.json: {error}")))?;
        Ok(entries
            .into_iter()
            .map(|entry| entry.tags.unwrap_or_default())
            .collect())
    }

    /// Returns the chosen image and the platform its config states.
    pub(crate) fn only(&self) -> Result<(ResolvedImage, Option<Platform>), SourceError> {
        let opened = self.opened().map_err(|kind| kind.of(&self.name))?;
        Ok((opened.image.clone(), opened.platform.clone()))
    }

    fn opened(&self) -> Result<Arc<Opened>, SourceErrorKind> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(Arc::clone(opened));
        }
        let found = Arc::new(self.open()?);
        *opened = Some(Arc::clone(&found));
        Ok(found)
    }

    fn open(&self) -> Result<Opened, SourceErrorKind> {
        let mut archive = Archive::open(&self.path)?;
        let bytes = archive.read("manifest.json", MANIFEST_SIZE_MAX)?;
        let entries: Vec<Entry> = serde_json::from_slice(&bytes)
            .map_err(|error| archive.malformed(format!("manifest.json: {error}")))?;
        let entry = self.choose(&entries)?;
        let config_bytes = archive.read(&entry.config, CONFIG_SIZE_MAX)?;
        let config = parse_config(&config_bytes, &entry.config)?;
        let names = entry.layers.as_deref().unwrap_or_default();
        if names.len() > LAYERS_MAX || names.len() != config.diff_ids.len() {
            return Err(archive.malformed(format!(
                "{}: {} diff ids for {} layers",
                entry.config,
                config.diff_ids.len(),
                names.len()
            )));
        }
        let mut members = Vec::new();
        let mut layers = Vec::new();
        for (name, diff_id) in names.iter().zip(&config.diff_ids) {
            let member = archive.member(name)?;
            layers.push(archive.layer(name, member, diff_id)?);
            members.push(member);
        }
        let image = synthesise(config_bytes, layers);
        Ok(Opened {
            image,
            platform: config.platform,
            members,
        })
    }

    fn choose<'a>(&self, entries: &'a [Entry]) -> Result<&'a Entry, SourceErrorKind> {
        let place = || self.path.display().to_string();
        let tags = || {
            entries
                .iter()
                .filter_map(|entry| entry.tags.clone())
                .flatten()
                .collect()
        };
        let Some(wanted) = &self.reference else {
            return match entries {
                [entry] => Ok(entry),
                [] => Err(SourceErrorKind::NotFound {
                    what: "an image".to_owned(),
                    place: place(),
                    available: Vec::new(),
                }),
                _ => Err(SourceErrorKind::Ambiguous {
                    place: place(),
                    available: tags(),
                }),
            };
        };
        let key = |text: &str| {
            text.parse::<Reference>()
                .ok()
                .map(|reference| reference.key())
        };
        let wanted_key = key(wanted);
        let is_wanted =
            |tag: &String| tag == wanted || wanted_key.is_some() && key(tag) == wanted_key;
        let found = entries
            .iter()
            .find(|entry| entry.tags.iter().flatten().any(is_wanted));
        found.ok_or_else(|| SourceErrorKind::NotFound {
            what: format!("\"{wanted}\""),
            place: place(),
            available: tags(),
        })
    }

    fn stream(&self, layer: &LayerDescriptor) -> Result<Exact, SourceErrorKind> {
        let opened = self.opened()?;
        let at = opened
            .image
            .layers
            .iter()
            .position(|known| known.digest == layer.digest);
        let Some(member) = at.and_then(|at| opened.members.get(at)) else {
            return Err(SourceErrorKind::NotFound {
                what: format!("layer {}", layer.digest),
                place: self.path.display().to_string(),
                available: opened
                    .image
                    .layers
                    .iter()
                    .map(|layer| layer.digest.to_string())
                    .collect(),
            });
        };
        let (mut file, _) = open_file(&self.path)?;
        file.seek(SeekFrom::Start(member.offset))
            .map_err(|error| SourceErrorKind::Io {
                path: self.path.clone(),
                error,
            })?;
        let place = self.path.display().to_string();
        let bytes = Box::new(file.take(member.size));
        Ok(Exact::new(
            bytes,
            &self.name,
            layer.digest,
            layer.size,
            place,
        ))
    }
}

impl ImageSource for DockerArchive {
    fn resolve(&self, platform: &Platform) -> Result<Sha256, SourceError> {
        let opened = self.opened().map_err(|kind| kind.of(&self.name))?;
        check_platform(opened.platform.as_ref(), platform).map_err(|kind| kind.of(&self.name))?;
        Ok(opened.image.manifest_digest)
    }

    fn image(&self, manifest: &Sha256) -> Result<ResolvedImage, SourceError> {
        let opened = self.opened().map_err(|kind| kind.of(&self.name))?;
        if opened.image.manifest_digest == *manifest {
            return Ok(opened.image.clone());
        }
        Err(SourceErrorKind::Digest {
            what: format!("manifest {manifest}"),
            place: self.path.display().to_string(),
            is: opened.image.manifest_digest,
        }
        .of(&self.name))
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        match self.stream(layer) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(kind) => Err(kind.of(&self.name)),
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn inputs(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }
}

/// The open tar and where its members lie.
struct Archive {
    path: PathBuf,
    file: File,
    index: TarIndex,
}

impl Archive {
    fn open(path: &std::path::Path) -> Result<Self, SourceErrorKind> {
        let (mut file, _) = open_file(path)?;
        let shown = path.display().to_string();
        let mut magic = [0; 6];
        let read = read_start(&mut file, &mut magic).map_err(|error| SourceErrorKind::Io {
            path: path.to_owned(),
            error,
        })?;
        if let Some(compression) = compression(&magic[..read]) {
            return Err(SourceErrorKind::unsupported(
                shown,
                format!(
                    "the archive as a whole is compressed with {compression}; decompress it first"
                ),
            ));
        }
        let index = tar_index::index(&mut file).map_err(|error| match error {
            TarError::Io(error) => SourceErrorKind::Io {
                path: path.to_owned(),
                error,
            },
            TarError::Malformed { .. } => SourceErrorKind::malformed(shown, error.to_string()),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            index,
        })
    }

    fn malformed(&self, reason: String) -> SourceErrorKind {
        SourceErrorKind::malformed(self.path.display().to_string(), reason)
    }

    fn io(&self, error: io::Error) -> SourceErrorKind {
        SourceErrorKind::Io {
            path: self.path.clone(),
            error,
        }
    }

    fn member(&self, name: &str) -> Result<Member, SourceErrorKind> {
        self.index
            .get(name)
            .ok_or_else(|| SourceErrorKind::NotFound {
                what: format!("file \"{}\"", name.chars().take(120).collect::<String>()),
                place: self.path.display().to_string(),
                available: self.index.names().map(str::to_owned).collect(),
            })
    }

    fn seek(&mut self, member: Member) -> Result<io::Take<&mut File>, SourceErrorKind> {
        let sought = self.file.seek(SeekFrom::Start(member.offset));
        sought.map_err(|error| self.io(error))?;
        Ok((&mut self.file).take(member.size))
    }

    fn read(&mut self, name: &str, size_max: u64) -> Result<Vec<u8>, SourceErrorKind> {
        let member = self.member(name)?;
        let path = self.path.join(name);
        read_bounded(self.seek(member)?, member.size, size_max, &path)
    }

    fn layer(
        &mut self,
        name: &str,
        member: Member,
        diff_id: &Sha256,
    ) -> Result<LayerDescriptor, SourceErrorKind> {
        let mut magic = [0; 6];
        let read = self
            .seek(member)
            .map(|mut bytes| read_start(&mut bytes, &mut magic))?;
        let read = read.map_err(|error| self.io(error))?;
        let compression = compression(&magic[..read]);
        let media_type = match compression {
            None => OCI_LAYER_TAR,
            Some("gzip") => OCI_LAYER_GZIP,
            Some("zstd") => OCI_LAYER_ZSTD,
            Some(other) => {
                return Err(SourceErrorKind::unsupported(
                    format!("layer {name}"),
                    format!("is compressed with {other}, expected gzip, zstd or nothing"),
                ));
            }
        };
        let named = name
            .strip_prefix("blobs/sha256/")
            .and_then(|hex| Sha256::from_hex(hex).ok());
        let digest = match (compression, named) {
            (None, _) => *diff_id,
            (Some(_), Some(named)) => named,
            (Some(_), None) => self.digest(member)?,
        };
        Ok(LayerDescriptor {
            digest,
            size: member.size,
            media_type,
            diff_id: *diff_id,
        })
    }

    fn digest(&mut self, member: Member) -> Result<Sha256, SourceErrorKind> {
        let bytes = self.seek(member)?;
        Sha256::of_reader(bytes, &|| false).map_err(|error| self.io(error))
    }
}

fn read_start(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn compression(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        _ => None,
    }
}

/// Makes the OCI manifest that the archive lacks; field order is fixed, so equal archives have
/// equal digests.
fn synthesise(config: Vec<u8>, layers: Vec<LayerDescriptor>) -> ResolvedImage {
    let listed = layers.iter().map(|layer| {
        json!({
            "mediaType": layer.media_type,
            "digest": layer.digest.to_string(),
            "size": layer.size,
        })
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG,
            "digest": Sha256::of(&config).to_string(),
            "size": config.len(),
        },
        "layers": listed.collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    ResolvedImage {
        manifest_digest: Sha256::of(&manifest),
        manifest,
        config,
        layers,
    }
}
