//! OCI image layouts: `index.json` and blobs named by their digest, in a directory or a tar of one.
//!
//! Enters: a directory or tar and perhaps a tag (`org.opencontainers.image.ref.name`, or a digest).
//! Leaves: an [`ImageSource`]. See the OCI image layout specification 1.1. Documents are verified
//! when read; a blob's path is made from a typed digest, so it cannot lead elsewhere.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::error::{SourceError, SourceErrorKind};
use super::exact::Exact;
use super::manifest::{
    Descriptor, Document, LayerDescriptor, MANIFEST_SIZE_MAX, ResolvedImage, parse,
};
use super::platform::Platform;
use super::reference::Reference;
use super::resolve::{self, Documents, Kept, Kind};
use super::tar_index::{self, TarError, TarIndex};
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
    shelf: Shelf,
}

/// What the layout lies in.
#[derive(Debug)]
enum Shelf {
    Directory,
    /// A tar, and where its members lie once that was looked up.
    Tar(Mutex<Option<Arc<TarIndex>>>),
}

impl OciLayout {
    /// Names an image in the layout at `path`; nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf, tag: Option<String>) -> Self {
        Self::on(Shelf::Directory, "oci", path, tag)
    }

    /// Names an image in the tar of a layout at `path`; nothing is read yet.
    #[must_use]
    pub fn archive(path: PathBuf, tag: Option<String>) -> Self {
        Self::on(Shelf::Tar(Mutex::default()), "oci-archive", path, tag)
    }

    fn on(shelf: Shelf, transport: &str, path: PathBuf, tag: Option<String>) -> Self {
        let name = match &tag {
            Some(tag) => format!("{transport}:{}:{tag}", path.display()),
            None => format!("{transport}:{}", path.display()),
        };
        Self {
            path,
            tag,
            name,
            kept: Kept::default(),
            shelf,
        }
    }

    fn blob_name(digest: &Sha256) -> String {
        format!("blobs/sha256/{}", digest.hex())
    }

    /// Opens a file of the layout, with its size in bytes.
    fn open_file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), SourceErrorKind> {
        let members = match &self.shelf {
            Shelf::Directory => {
                let (file, size) = open_file(&self.path.join(name))?;
                return Ok((Box::new(file), size));
            }
            Shelf::Tar(members) => members,
        };
        let fail = |error| SourceErrorKind::Io {
            path: self.path.join(name),
            error,
        };
        let (mut file, _) = open_file(&self.path)?;
        let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match &*members {
            Some(index) => Arc::clone(index),
            None => {
                let index = tar_index::index(&mut file).map_err(|error| match error {
                    TarError::Io(error) => fail(error),
                    TarError::Malformed { .. } => SourceErrorKind::malformed(
                        self.path.display().to_string(),
                        error.to_string(),
                    ),
                })?;
                Arc::clone(members.insert(Arc::new(index)))
            }
        };
        drop(members);
        let Some(member) = index.get(name) else {
            return Err(fail(io::ErrorKind::NotFound.into()));
        };
        file.seek(SeekFrom::Start(member.offset)).map_err(fail)?;
        Ok((Box::new(file.take(member.size)), member.size))
    }

    fn read_file(&self, name: &str, size_max: u64) -> Result<Vec<u8>, SourceErrorKind> {
        let (file, size) = self.open_file(name)?;
        read_bounded(file, size, size_max, &self.path.join(name))
    }

    /// Returns the entries of the layout's index.
    pub(crate) fn entries(&self) -> Result<Vec<Descriptor>, SourceErrorKind> {
        self.check_marker()?;
        let what = self.path.join("index.json").display().to_string();
        let bytes = self.read_file("index.json", MANIFEST_SIZE_MAX)?;
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
        let bytes = match self.read_file("oci-layout", MARKER_SIZE_MAX) {
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
        match self.stated() {
            Some(digest) => {
                self.check_marker()?;
                resolve::resolve(self, &digest, None, platform)
            }
            None => resolve::resolve_entries(self, &self.chosen()?, platform),
        }
    }

    /// Returns the one document that the tag leads to, whatever platforms it is for, and its media
    /// type where the index states one.
    pub(crate) fn sole(&self) -> Result<(Sha256, Option<String>), SourceErrorKind> {
        if let Some(digest) = self.stated() {
            self.check_marker()?;
            return Ok((digest, None));
        }
        match self.chosen()?.as_slice() {
            [one] => Ok((one.digest, one.media_type.clone())),
            several => Err(SourceErrorKind::Ambiguous {
                place: self.path.display().to_string(),
                available: several.iter().map(|one| one.digest.to_string()).collect(),
            }),
        }
    }

    /// Returns the digest that stands in the tag's place.
    fn stated(&self) -> Option<Sha256> {
        self.tag.as_deref()?.parse().ok()
    }

    /// Returns the entries that the tag means.
    fn chosen(&self) -> Result<Vec<Descriptor>, SourceErrorKind> {
        let entries = self.entries()?;
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
        Ok(chosen)
    }

    fn open(
        &self,
        what: &str,
        digest: &Sha256,
    ) -> Result<(Box<dyn Read + Send>, u64), SourceErrorKind> {
        let opened = self.open_file(&Self::blob_name(digest));
        opened.map_err(|error| match error {
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
        let path = self.path.join(Self::blob_name(digest));
        read_bounded(file, size, kind.size_max(), &path)
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn kept(&self) -> &Kept {
        &self.kept
    }

    fn has(&self, digest: &Sha256) -> bool {
        self.open_file(&Self::blob_name(digest)).is_ok()
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
        let path = self.path.join(Self::blob_name(&layer.digest));
        let (file, _) = self
            .open(&what, &layer.digest)
            .map_err(|kind| kind.of(&self.name))?;
        Ok(Box::new(Exact::new(
            file,
            &self.name,
            layer.digest,
            layer.size,
            path.display().to_string(),
        )))
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn top(&self) -> Option<(Sha256, Arc<Vec<u8>>)> {
        let entries = self.entries().ok()?;
        let is_meant = |entry: &&Descriptor| {
            let tag = self.tag.as_deref();
            tag.is_none_or(|tag| is_named(entry, tag) || entry.digest.to_string() == tag)
        };
        let mut meant = entries.iter().filter(is_meant);
        let (first, more) = (meant.next()?, meant.next());
        let document = resolve::document(self, Kind::Manifest, &first.digest).ok()?;
        more.is_none().then_some((first.digest, document))
    }

    fn inputs(&self) -> Vec<PathBuf> {
        match self.shelf {
            Shelf::Directory => vec![self.path.join("index.json")],
            Shelf::Tar(_) => vec![self.path.clone()],
        }
    }
}

/// Opens a regular file; anything else could block or never end.
pub(crate) fn open_file(path: &Path) -> Result<(File, u64), SourceErrorKind> {
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
