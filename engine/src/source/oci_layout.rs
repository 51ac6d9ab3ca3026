//! OCI image layouts: directories with `index.json` and blobs named by their digest.
//!
//! Enters: a directory and perhaps a tag (`org.opencontainers.image.ref.name`, or a digest).
//! Leaves: an [`ImageSource`]. See the OCI image layout specification 1.1. Documents are verified
//! when read; a blob's path is made from a typed digest, so it cannot lead elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{SourceError, SourceErrorKind};
use super::exact::Exact;
use super::manifest::{
    Descriptor, Document, LayerDescriptor, MANIFEST_SIZE_MAX, ResolvedImage, parse,
};
use super::platform::Platform;
use super::reference::Reference;
use super::resolve::{self, Documents, Kept, Kind};
use super::{ImageSource, Located};
use crate::digest::Sha256;

/// Bytes of the `oci-layout` marker.
const MARKER_SIZE_MAX: u64 = 64 << 10;

/// An image in a layout.
#[derive(Debug)]
pub struct OciLayout {
    path: PathBuf,
    tag: Option<String>,
    name: String,
    kept: Kept,
}

impl OciLayout {
    /// Names an image in the layout at `path`; nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf, tag: Option<String>) -> Self {
        let name = match &tag {
            Some(tag) => format!("oci:{}:{tag}", path.display()),
            None => format!("oci:{}", path.display()),
        };
        Self {
            path,
            tag,
            name,
            kept: Kept::default(),
        }
    }

    fn index_path(&self) -> PathBuf {
        self.path.join("index.json")
    }

    fn blob_path(&self, digest: &Sha256) -> PathBuf {
        self.path.join("blobs").join("sha256").join(digest.hex())
    }

    fn entries(&self) -> Result<Vec<Descriptor>, SourceErrorKind> {
        self.check_marker()?;
        let path = self.index_path();
        let what = path.display().to_string();
        let bytes = read_file(&path, MANIFEST_SIZE_MAX)?;
        match parse(&bytes, None, &what)? {
            Document::Index(entries) => Ok(entries),
            Document::Image(_) => Err(SourceErrorKind::malformed(
                what,
                "is a manifest, not an index",
            )),
        }
    }

    fn check_marker(&self) -> Result<(), SourceErrorKind> {
        #[derive(Deserialize)]
        struct Marker {
            #[serde(rename = "imageLayoutVersion")]
            version: String,
        }
        let path = self.path.join("oci-layout");
        let bytes = match read_file(&path, MARKER_SIZE_MAX) {
            Err(SourceErrorKind::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                let what = self.path.display().to_string();
                return Err(SourceErrorKind::unsupported(
                    what,
                    "no OCI layout: it has no file oci-layout",
                ));
            }
            other => other?,
        };
        let what = path.display().to_string();
        let marker: Marker = serde_json::from_slice(&bytes)
            .map_err(|error| SourceErrorKind::malformed(what.clone(), error.to_string()))?;
        if !marker.version.starts_with("1.") {
            return Err(SourceErrorKind::unsupported(
                what,
                format!("layout version {:?}", marker.version),
            ));
        }
        Ok(())
    }

    fn find(&self, platform: &Platform) -> Result<Located, SourceErrorKind> {
        let entries = self.entries()?;
        if let Some(digest) = self
            .tag
            .as_deref()
            .and_then(|tag| tag.parse::<Sha256>().ok())
        {
            return resolve::resolve(self, &digest, None, platform);
        }
        let names = names(&entries);
        let place = self.path.display().to_string();
        let chosen: Vec<Descriptor> = match &self.tag {
            None if names.len() > 1 => {
                return Err(SourceErrorKind::Ambiguous {
                    place,
                    available: names,
                });
            }
            None => entries,
            Some(tag) => entries
                .into_iter()
                .filter(|entry| is_named(entry, tag))
                .collect(),
        };
        if chosen.is_empty() {
            let what = match &self.tag {
                Some(tag) => format!("tag \"{tag}\""),
                None => "an image".to_owned(),
            };
            return Err(SourceErrorKind::NotFound {
                what,
                place,
                available: names,
            });
        }
        resolve::resolve_entries(self, &chosen, platform)
    }

    fn open(&self, what: &str, digest: &Sha256) -> Result<(File, u64), SourceErrorKind> {
        let path = self.blob_path(digest);
        open_file(&path).map_err(|error| match error {
            SourceErrorKind::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                SourceErrorKind::unsupported(
                    what,
                    format!(
                        "is not in {} (an incomplete copy, or another platform's)",
                        self.path.display()
                    ),
                )
            }
            other => other,
        })
    }
}

/// Returns the names of a layout's images, in order, each once.
fn names(entries: &[Descriptor]) -> Vec<String> {
    let mut names = Vec::new();
    for name in entries.iter().filter_map(|entry| entry.ref_name.as_ref()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// A name matches as written, or when both are spellings of one reference.
fn is_named(entry: &Descriptor, tag: &str) -> bool {
    let key = |text: &str| {
        text.parse::<Reference>()
            .ok()
            .map(|reference| reference.key())
    };
    entry.ref_name.as_deref().is_some_and(|name| {
        // Two plain tags would parse as names of repositories, so only fuller names are compared.
        name == tag || (name.contains('/') && key(name).is_some_and(|name| key(tag) == Some(name)))
    })
}

impl Documents for OciLayout {
    fn read(&self, kind: Kind, digest: &Sha256) -> Result<Vec<u8>, SourceErrorKind> {
        let what = kind.name(digest);
        let (file, size) = self.open(&what, digest)?;
        read_bounded(file, size, kind.size_max(), &self.blob_path(digest))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn kept(&self) -> &Kept {
        &self.kept
    }
}

impl ImageSource for OciLayout {
    fn resolve(&self, platform: &Platform) -> Result<Sha256, SourceError> {
        self.locate(platform).map(|found| found.manifest)
    }

    fn locate(&self, platform: &Platform) -> Result<Located, SourceError> {
        self.find(platform).map_err(|kind| kind.of(&self.name))
    }

    fn statements(&self, attestation: &Sha256) -> Result<Vec<LayerDescriptor>, SourceError> {
        resolve::statements(self, attestation).map_err(|kind| kind.of(&self.name))
    }

    fn image(&self, manifest: &Sha256) -> Result<ResolvedImage, SourceError> {
        resolve::image(self, manifest).map_err(|kind| kind.of(&self.name))
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        let what = format!("layer {}", layer.digest);
        let path = self.blob_path(&layer.digest).display().to_string();
        let (file, _) = self
            .open(&what, &layer.digest)
            .map_err(|kind| kind.of(&self.name))?;
        Ok(Box::new(Exact::new(
            Box::new(file),
            &self.name,
            layer.digest,
            layer.size,
            path,
        )))
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn inputs(&self) -> Vec<PathBuf> {
        vec![self.index_path()]
    }
}

/// Opens a regular file; anything else could block or never end.
pub(super) fn open_file(path: &Path) -> Result<(File, u64), SourceErrorKind> {
    let fail = |error: io::Error| SourceErrorKind::Io {
        path: path.to_owned(),
        error,
    };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        return Err(fail(io::Error::other("not a regular file")));
    }
    Ok((File::open(path).map_err(fail)?, metadata.len()))
}

fn read_file(path: &Path, size_max: u64) -> Result<Vec<u8>, SourceErrorKind> {
    let (file, size) = open_file(path)?;
    read_bounded(file, size, size_max, path)
}

pub(super) fn read_bounded(
    reader: impl Read,
    size: u64,
    size_max: u64,
    path: &Path,
) -> Result<Vec<u8>, SourceErrorKind> {
    let mut bytes = Vec::new();
    if size <= size_max {
        let read = reader.take(size_max + 1).read_to_end(&mut bytes);
        read.map_err(|error| SourceErrorKind::Io {
            path: path.to_owned(),
            error,
        })?;
    }
    if size.max(bytes.len() as u64) > size_max {
        let reason = format!("is longer than the {size_max} bytes allowed");
        return Err(SourceErrorKind::malformed(
            path.display().to_string(),
            reason,
        ));
    }
    Ok(bytes)
}
