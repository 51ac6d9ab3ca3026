//! `kiln push`: an image from a layout, an archive or the cache to a name in a registry.
//!
//! Enters: where the image is, and the name. Leaves: the image there with the digest it has here,
//! or a refusal. Nothing is merged: what the name leads to afterwards is what was named. A layout's
//! index goes with all that it lists; with a platform it is that one manifest, which attestations
//! cannot stand beside.

use std::sync::Arc;

use super::export::media_type;
use super::gather::{Gathered, gather};
use super::push::Pushed;
use super::store::Store;
use super::upload::Held;
use super::{Images, failed};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::source::docker_archive::DockerArchive;
use crate::source::manifest::{Document, parse};
use crate::source::oci_layout::OciLayout;
use crate::source::resolve::{Documents, Kind};
use crate::source::{ImageName, ImageSource, Platform, Reference, SourceErrorKind};
use crate::step::StepError;

/// What to do when a copy lacks something.
const INCOMPLETE: &str = "--platform OS/ARCH pushes one platform alone";

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct SendOptions {
    /// The only platform that goes; all without.
    pub platform: Option<Platform>,
    /// Whether a name that leads to something else is changed.
    pub replace: bool,
}

/// What is to be sent.
struct Parcel {
    /// The document that the name is to lead to.
    top: Vec<u8>,
    gathered: Vec<Gathered>,
    held: Held,
}

impl Images<'_> {
    /// Pushes the image that `from` names to `to`.
    ///
    /// # Errors
    /// When there is no such image, or it is not whole; when `to` leads to something else and is
    /// not to be replaced; when the registry refuses.
    pub fn send(
        &self,
        from: &ImageName,
        to: &Reference,
        options: &SendOptions,
    ) -> Result<Pushed, BuildError> {
        if to.digest().is_some() {
            return Err(BuildError::usage(
                format!("{to} is a digest: only a tag can be pushed to"),
                "name a tag: NAME:TAG",
            ));
        }
        let platform = options.platform.as_ref();
        let parcel = match from {
            ImageName::Registry(reference) => self.of_cache(reference, platform)?,
            ImageName::OciLayout { path, tag } => {
                of_layout(OciLayout::new(path.clone(), tag.clone()), platform)?
            }
            ImageName::OciArchive { path, tag } => {
                of_layout(OciLayout::archive(path.clone(), tag.clone()), platform)?
            }
            ImageName::DockerArchive { path, reference } => of_archive(
                DockerArchive::new(path.clone(), reference.clone()),
                platform,
            )?,
            ImageName::Directory(path) => {
                return Err(BuildError::usage(
                    format!("{} is a directory of files, not an image", path.display()),
                    "make it a layer of an image first, with umoci or a Dockerfile",
                ));
            }
        };
        self.deliver(&parcel, to, options.replace)
    }

    fn deliver(
        &self,
        parcel: &Parcel,
        to: &Reference,
        replace: bool,
    ) -> Result<Pushed, BuildError> {
        let key = to.key();
        let fail = |kind: SourceErrorKind| failed(&key, kind);
        let tag = to.tag().unwrap_or("latest");
        let digest = Sha256::of(&parcel.top);
        let target = Arc::new(self.registry.image(to));
        match target.there(tag).map_err(fail)? {
            Some((there, _)) if there == digest => return Ok(Pushed::Kept(to.clone(), digest)),
            Some((there, _)) if !replace => {
                let text = format!("the registry has {there} under this name, not {digest}");
                let error = StepError::new(format!("image {key}"), text);
                return Err(error
                    .hint("choose another name or tag, or replace what is there with --override")
                    .into());
            }
            _ => {}
        }
        self.upload(&target, &parcel.gathered, &parcel.held)?;
        target
            .put_manifest(tag, &parcel.top, &media_type(&parcel.top))
            .map_err(fail)?;
        Ok(Pushed::Sent(to.clone(), digest))
    }

    fn of_cache(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Parcel, BuildError> {
        let names = match platform {
            Some(platform) => vec![self.one(reference, platform)?],
            None => self.named(reference)?,
        };
        let own: Reference = names[0]
            .name
            .parse()
            .map_err(|error| StepError::new(format!("image {reference}"), error))?;
        self.complete_all(&own, &names)?;
        let fail = |kind: SourceErrorKind| failed(&own.key(), kind);
        let store = Store::new(&self.cache);
        let held = Held::Cache;
        if platform.is_some() {
            let manifest = &names[0].found.manifest;
            let top = store.read(Kind::Manifest, manifest).map_err(fail)?;
            let gathered = vec![gather(&store, manifest, None, None).map_err(fail)?];
            return Ok(Parcel {
                top,
                gathered,
                held,
            });
        }
        let local = self.entries(&store, &names).map_err(fail)?;
        if !local.is_whole() {
            let text = "the cache does not have all that the name leads to";
            let error = StepError::new(format!("image {}", own.key()), text);
            return Err(error.hint(INCOMPLETE).into());
        }
        Ok(Parcel {
            top: local.document(&[]),
            gathered: local.gathered(&store).map_err(fail)?,
            held,
        })
    }
}

fn of_layout(layout: OciLayout, platform: Option<&Platform>) -> Result<Parcel, BuildError> {
    let name = layout.name();
    let fail = |kind: SourceErrorKind| failed(&name, kind);
    let (top, stated) = match platform {
        Some(platform) => {
            let found = layout.resolve(platform);
            (found.map_err(|error| fail(*error.kind))?, None)
        }
        None => layout.sole().map_err(fail)?,
    };
    let gathered = gather(&layout, &top, stated.as_deref(), None).map_err(fail)?;
    if let Err(kind) = check_whole(&layout, &gathered) {
        let error = StepError::new(format!("image {name}"), kind.of(&name));
        return Err(error.hint(INCOMPLETE).into());
    }
    let bytes = layout.read(Kind::Manifest, &top).map_err(fail)?;
    Ok(Parcel {
        top: bytes,
        gathered: vec![gathered],
        held: Held::Source(Arc::new(layout)),
    })
}

/// Checks that everything listed is there, before anything is sent.
fn check_whole(layout: &OciLayout, gathered: &Gathered) -> Result<(), SourceErrorKind> {
    let missing = |what: String| SourceErrorKind::Unsupported {
        what,
        reason: format!("is listed but not in {}", layout.place()),
    };
    for (digest, bytes) in &gathered.documents {
        let Document::Index(entries) = parse(bytes, None, &Kind::Manifest.name(digest))? else {
            continue;
        };
        for entry in entries {
            if !layout.has(&entry.digest) {
                let what = Kind::Manifest.name(&entry.digest);
                return Err(missing(match entry.platform {
                    Some(platform) => format!("{what} ({platform})"),
                    None => what,
                }));
            }
        }
    }
    match gathered.blobs.iter().find(|blob| !layout.has(&blob.digest)) {
        Some(blob) => Err(missing(format!("blob {}", blob.digest))),
        None => Ok(()),
    }
}

/// A docker archive has no manifest with digests; the one that is sent is the one that builds and
/// imports make of it.
fn of_archive(archive: DockerArchive, platform: Option<&Platform>) -> Result<Parcel, BuildError> {
    let name = archive.name();
    let fail = |error: crate::source::SourceError| failed(&name, *error.kind);
    if let Some(platform) = platform {
        archive.resolve(platform).map_err(fail)?;
    }
    let (image, platform) = archive.only().map_err(fail)?;
    let gathered = Gathered::of_image(&image, platform);
    Ok(Parcel {
        top: image.manifest,
        gathered: vec![gathered],
        held: Held::Source(Arc::new(archive)),
    })
}
