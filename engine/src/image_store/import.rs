//! `cache import`: images out of a file, a directory or a stream.
//!
//! Enters: an OCI layout (directory, or tar, plain or gzip) or a docker archive (the same). Leaves:
//! blobs and names. Names stand in the annotations `io.containerd.image.name` and
//! `org.opencontainers.image.ref.name` (OCI image layout 1.1, annotations) or in `RepoTags`; one
//! word such as `latest` is a tag and no name. What comes as a stream or compressed is first written
//! to a file, which the next process removes should this one be killed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::gather::{Found, Gathered, gather};
use super::name::Name;
use super::pull::Pulled;
use super::store::Store;
use super::{Images, failed, name};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::event::Event;
use crate::source::docker_archive::DockerArchive;
use crate::source::manifest::Descriptor;
use crate::source::oci_layout::OciLayout;
use crate::source::resolve::Documents;
use crate::source::{ImageSource, Platform, Reference, SourceError, SourceErrorKind};
use crate::step::StepError;

/// Bytes copied at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is removed when dropped.
struct Spooled(PathBuf);

impl Drop for Spooled {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_file(&self.0);
    }
}

impl Images<'_> {
    /// Imports all images of `path`; `-` is `stdin`. `name` names the only one.
    ///
    /// # Errors
    /// When nothing in it can be imported, or something in it is damaged.
    pub fn import(
        &self,
        path: &Path,
        stdin: &mut dyn Read,
        name: Option<&Reference>,
    ) -> Result<Vec<Pulled>, BuildError> {
        if path == Path::new("-") {
            let spooled = self.spool(stdin, path)?;
            return self.file(&spooled.0, name, "standard input");
        }
        let shown = path.display().to_string();
        let metadata = fs::metadata(path).map_err(BuildError::file(path))?;
        if metadata.is_dir() {
            let path = std::path::absolute(path).map_err(BuildError::file(path))?;
            let layout = Arc::new(OciLayout::new(path, None));
            return self.layout(&layout, name, &shown);
        }
        self.file(path, name, &shown)
    }

    fn file(
        &self,
        path: &Path,
        name: Option<&Reference>,
        shown: &str,
    ) -> Result<Vec<Pulled>, BuildError> {
        let mut file = File::open(path).map_err(BuildError::file(path))?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic).map_err(BuildError::file(path))?;
        if magic[..read] == [0x1f, 0x8b] {
            let file = File::open(path).map_err(BuildError::file(path))?;
            let plain = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
            let spooled = self.spool(&mut { plain }, path)?;
            return self.plain(&spooled.0, name, shown);
        }
        self.plain(path, name, shown)
    }

    fn plain(
        &self,
        path: &Path,
        name: Option<&Reference>,
        shown: &str,
    ) -> Result<Vec<Pulled>, BuildError> {
        let layout = Arc::new(OciLayout::archive(path.to_owned(), None));
        match layout.entries() {
            Ok(_) => self.layout(&layout, name, shown),
            Err(no_layout) => match DockerArchive::tags(path) {
                Ok(images) => self.docker(path, &images, name, shown),
                // A tar without manifest.json is no docker archive: then it is a broken layout.
                Err(SourceErrorKind::NotFound { .. }) => Err(failed(shown, no_layout)),
                Err(error) => Err(failed(shown, error)),
            },
        }
    }

    fn layout(
        &self,
        layout: &Arc<OciLayout>,
        name: Option<&Reference>,
        shown: &str,
    ) -> Result<Vec<Pulled>, BuildError> {
        let entries = layout.entries().map_err(|kind| failed(shown, kind))?;
        let mut imported = Vec::new();
        let mut unnamed = Vec::new();
        if name.is_some() && entries.len() != 1 {
            return Err(several(shown, entries.len()));
        }
        for entry in &entries {
            let Some(reference) = name.cloned().or_else(|| name_of(entry)) else {
                unnamed.push(match &entry.ref_name {
                    Some(tag) => tag.clone(),
                    None => entry.digest.to_string(),
                });
                continue;
            };
            imported.extend(self.entry(layout, entry, &reference)?);
        }
        if imported.is_empty() {
            return Err(nothing(shown, &unnamed));
        }
        self.skipped(shown, &unnamed);
        Ok(imported)
    }

    fn entry(
        &self,
        layout: &Arc<OciLayout>,
        entry: &Descriptor,
        reference: &Reference,
    ) -> Result<Option<Pulled>, BuildError> {
        let key = reference.key();
        let stated = entry.media_type.as_deref();
        let mut gathered =
            gather(&**layout, &entry.digest, stated, None).map_err(|kind| failed(&key, kind))?;
        // Of an index, incomplete images are other platforms' leavings; alone, it is damage.
        if gathered.images.iter().any(|image| image.complete) {
            gathered.images.retain(|image| image.complete);
            gathered.blobs.retain(|blob| layout.has(&blob.digest));
        }
        let source: Arc<dyn ImageSource> = layout.clone();
        self.keep(&key, &source, &gathered)?;
        let documents = gathered.documents.iter().chain(&gathered.configs);
        let documents: usize = documents.map(|(_, bytes)| bytes.len()).sum();
        let bytes = gathered.blobs.iter().map(|blob| blob.size).sum::<u64>() + documents as u64;
        self.renamed(&key, entry.digest, &gathered.images, bytes)
    }

    /// Gives images a name, and takes it from what it meant before.
    fn renamed(
        &self,
        key: &str,
        top: Sha256,
        images: &[Found],
        bytes: u64,
    ) -> Result<Option<Pulled>, BuildError> {
        let store = Store::new(&self.cache);
        let mut records: Vec<Name> = Vec::new();
        let known = images
            .iter()
            .filter_map(|image| Some((image.platform.clone()?, image.manifest)));
        for (platform, _) in known.clone() {
            // Builds ask for a machine, whatever its variant.
            let plain = Platform::new(&platform.os, &platform.architecture, None);
            for wanted in [plain, platform] {
                let best = known
                    .clone()
                    .filter_map(|(is, manifest)| Some((is.rank(&wanted)?, manifest)))
                    .min_by_key(|(rank, _)| *rank);
                if let Some((_, manifest)) = best
                    && !records.iter().any(|record| record.platform == wanted)
                {
                    // What the index says beside it; a single image has nothing beside.
                    let located = store.resolve(&top, &wanted);
                    let located = located.filter(|found| found.manifest == manifest);
                    records.push(Name {
                        name: key.to_owned(),
                        platform: wanted,
                        found: located.unwrap_or_else(|| manifest.into()),
                        top,
                    });
                }
            }
        }
        if records.is_empty() {
            return Ok(None);
        }
        let platforms = records
            .iter()
            .map(|record| record.platform.clone())
            .collect();
        let others: Vec<Name> = name::all(&self.cache)?
            .into_iter()
            .filter(|old| old.name == key)
            .filter(|old| !records.iter().any(|new| new.platform == old.platform))
            .collect();
        if !others.is_empty() {
            self.forget(&others)?;
        }
        self.record(&records)?;
        self.release(&others)?;
        Ok(Some(Pulled {
            name: key.to_owned(),
            top,
            platforms,
            bytes,
        }))
    }

    fn docker(
        &self,
        path: &Path,
        images: &[Vec<String>],
        name: Option<&Reference>,
        shown: &str,
    ) -> Result<Vec<Pulled>, BuildError> {
        if name.is_some() && images.len() != 1 {
            return Err(several(shown, images.len()));
        }
        let mut imported = Vec::new();
        let mut unnamed = Vec::new();
        let fail = |error: SourceError| failed(shown, *error.kind);
        for tags in images {
            let tags = match name {
                Some(name) => vec![(None, name.clone())],
                None => tags
                    .iter()
                    .filter_map(|tag| Some((Some(tag.clone()), tag.parse().ok()?)))
                    .collect(),
            };
            if tags.is_empty() {
                unnamed.push("one without a tag".to_owned());
            }
            for (tag, reference) in tags {
                let archive = Arc::new(DockerArchive::new(path.to_owned(), tag));
                let (image, platform) = archive.only().map_err(fail)?;
                // What states no machine is for any; this one is what it was saved on.
                let platform = platform.or_else(|| Some(host()));
                let gathered = Gathered::of_image(&image, platform);
                let key = reference.key();
                let source: Arc<dyn ImageSource> = archive;
                self.keep(&key, &source, &gathered)?;
                let bytes = gathered.blobs.iter().map(|blob| blob.size).sum();
                imported.extend(self.renamed(
                    &key,
                    image.manifest_digest,
                    &gathered.images,
                    bytes,
                )?);
            }
        }
        if imported.is_empty() {
            return Err(nothing(shown, &unnamed));
        }
        self.skipped(shown, &unnamed);
        Ok(imported)
    }

    fn skipped(&self, shown: &str, unnamed: &[String]) {
        for one in unnamed {
            let text = format!("{shown}: skipped {one}: it has no full name");
            self.listener.event(&Event::Warning(text));
        }
    }

    fn spool(&self, input: &mut dyn Read, shown: &Path) -> Result<Spooled, BuildError> {
        use std::io::Write;
        let path = self.cache.temporary();
        let spooled = Spooled(path.clone());
        let mut file = File::create_new(&path).map_err(BuildError::output(&path))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(BuildError::Cancelled);
            }
            match input.read(&mut buffer) {
                Ok(0) => return Ok(spooled),
                Ok(read) => file
                    .write_all(&buffer[..read])
                    .map_err(BuildError::output(&path))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BuildError::file(shown)(error)),
            }
        }
    }
}

fn host() -> Platform {
    Platform::new("linux", std::env::consts::ARCH, None)
}

/// Returns an entry's full name, if it has one.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let full = |text: &String| text.contains(['/', ':', '@']);
    let full_name = entry.full_name.as_ref();
    let ref_name = entry.ref_name.as_ref().filter(|text| full(text));
    full_name
        .into_iter()
        .chain(ref_name)
        .find_map(|text| text.parse().ok())
}

fn nothing(shown: &str, unnamed: &[String]) -> BuildError {
    let (text, hint) = match unnamed {
        [] => (
            "holds no image".to_owned(),
            "it must be an OCI layout or a docker archive",
        ),
        _ => (
            format!(
                "nothing to import: no image in it has a full name, only {}",
                unnamed.join(", ")
            ),
            "give its image a name: kiln cache import --name NAME FILE",
        ),
    };
    StepError::new(shown.to_owned(), text).hint(hint).into()
}

fn several(shown: &str, count: usize) -> BuildError {
    BuildError::usage(
        format!("--name names one image, and {shown} has {count}"),
        "leave --name out: the images have names of their own",
    )
}
