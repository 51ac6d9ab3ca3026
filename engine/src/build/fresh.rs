//! The no-op path: is everything as the last build left it?
//!
//! Enters: a request. Leaves: the report of the last build with the same meaning, when every file
//! it read and wrote is as it was, and every package of LinuxKit's that it names has the tag it
//! had. No YAML is parsed, no cache opened, no thread started.

use std::path::{Path, PathBuf};

use kiln_cache::{Cache, Digest, Key, KeyBuilder};
use kiln_cache::{FileStamp, Stamp};
use serde::{Deserialize, Serialize};

use super::packages::Resolved;
use super::{BuildError, Description, Destination, OutputFile, Report, Request};

/// What a stamp keeps of a report.
#[derive(Serialize, Deserialize)]
struct Kept {
    outputs: Vec<(String, String, u64)>,
    cmdline: Option<String>,
    packages: Vec<Resolved>,
}

/// What a build read.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) files: Vec<FileStamp>,
    /// Optional files that were not there.
    pub(super) absent: Vec<PathBuf>,
    /// Packages and their references.
    pub(super) packages: Vec<Resolved>,
}

/// Returns the key of a request's stamp; none when it means something else every time.
fn key(request: &Request) -> Option<Key> {
    let dated = request
        .sbom
        .as_ref()
        .is_some_and(|sbom| sbom.created.is_some());
    // An engine's images change without any file that could be looked at.
    let stampable =
        !dated && request.docker.is_none() && !matches!(request.destination, Destination::Stdout);
    stampable.then(|| system(request)).flatten()
}

/// Returns the key of a request's meaning, where that can be told.
pub(super) fn system(request: &Request) -> Option<Key> {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    let descriptions: Option<Vec<_>> = request
        .descriptions
        .iter()
        .map(|description| match description {
            Description::File(path) => Some([b"file", &*bytes(&absolute(path)?)].concat()),
            Description::Text { name, bytes, .. } => {
                let digest = Digest::of(bytes);
                Some([b"text", &digest.as_bytes()[..], name.as_bytes()].concat())
            }
        })
        .collect();
    let sbom = request.sbom.as_ref();
    let mut key = KeyBuilder::new("build", 4)
        .field("program", &request.program)
        .list("descriptions", descriptions?)
        .list(
            "formats",
            request.formats.iter().map(|format| format.name()),
        )
        .field("architecture", &request.architecture)
        .number("decompress", request.decompress_kernel.into())
        .list(
            "sbom",
            sbom.iter()
                .flat_map(|sbom| [sbom.format.name(), sbom.file.as_str()]),
        )
        // Stamps end with the epoch of their cache.
        .field("cache", bytes(&absolute(&request.cache)?))
        // Sources of files are relative to it.
        .field("directory", bytes(&std::env::current_dir().ok()?));
    match &request.destination {
        Destination::Directory { directory, name } => {
            key = key
                .field("directory", bytes(&absolute(directory)?))
                .field("name", name);
        }
        Destination::File(path) => key = key.field("file", bytes(&absolute(path)?)),
        Destination::Stdout => key = key.field("file", "-"),
    }
    Some(key.finish())
}

/// Returns the report of an unchanged system.
pub(super) fn fresh(request: &Request) -> Option<Report> {
    if request.pull {
        return None;
    }
    let key = key(request)?;
    let stamp = Cache::read_stamp(&request.cache, &key)?;
    stamp.check().ok()?;
    let kept: Kept = serde_json::from_slice(&stamp.payload).ok()?;
    if !kept.packages.iter().all(Resolved::holds) {
        return None;
    }
    Cache::use_stamp(&request.cache, &key);
    Some(Report {
        outputs: kept
            .outputs
            .into_iter()
            .map(|(path, role, bytes)| OutputFile {
                path: path.into(),
                role,
                bytes,
                written: 0,
            })
            .collect(),
        cmdline: kept.cmdline,
        up_to_date: true,
        ..Report::default()
    })
}

/// Writes the stamp of a finished build. `outputs` are stamps of what it wrote, as it wrote it:
/// another build may have put something else there meanwhile.
pub(super) fn remember(
    request: &Request,
    cache: &Cache,
    inputs: &mut Inputs,
    report: &Report,
    outputs: Vec<FileStamp>,
) -> Result<(), BuildError> {
    let Some(key) = key(request) else {
        return Ok(());
    };
    let paths: Option<Vec<_>> = report
        .outputs
        .iter()
        .map(|output| {
            Some((
                output.path.to_str()?.to_owned(),
                output.role.clone(),
                output.bytes,
            ))
        })
        .collect();
    // A path that is no text is built every time.
    let Some(paths) = paths else { return Ok(()) };
    let kept = Kept {
        outputs: paths,
        cmdline: report.cmdline.clone(),
        packages: std::mem::take(&mut inputs.packages),
    };
    // So is one of a package.
    let Ok(payload) = serde_json::to_vec(&kept) else {
        return Ok(());
    };
    let stamp = Stamp {
        inputs: std::mem::take(&mut inputs.files),
        absent: std::mem::take(&mut inputs.absent),
        outputs,
        payload,
    };
    cache.put_stamp(&key, &stamp)?;
    Ok(())
}
