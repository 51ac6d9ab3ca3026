//! Outputs: segments become files under their final names.
//!
//! Enters: the result of the graph. Leaves: files, and a note per file of what it holds, so that
//! the next build changes only what differs.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_cache::{Action, Cache, Digest, Key, KeyBuilder, lock_file_unless};
use kiln_cache::{FileStamp, Stamp};
use rustix::io::Errno;

use super::{BuildError, Destination, Format, OutputFile, Request};
use crate::event::{Event, Listener};
use crate::format::assemble::sweep;
use crate::format::{PlacedSegment, Segment, Target, assemble};
use crate::step::segment::{Output, Stored};

/// Checks what can be checked before any work.
pub(super) fn check(request: &Request) -> Result<(), BuildError> {
    if request.descriptions.is_empty() {
        return Err(BuildError::usage(
            "no YAML file is given",
            "kiln build FILE.yml",
        ));
    }
    if request.formats.is_empty() {
        return Err(BuildError::usage(
            "no format is given",
            "--format tar, for one",
        ));
    }
    if let Some(sbom) = &request.sbom
        && let Err(why) = sbom.path()
    {
        // LinuxKit's words for the first.
        let message = match sbom.file.as_str() {
            "" => "bill of materials: filename must be specified".to_owned(),
            file => format!("bill of materials: {file:?} {why}"),
        };
        return Err(BuildError::usage(
            message,
            "--sbom-output usr/share/sbom.json, or --no-sbom for none",
        ));
    }
    match &request.destination {
        Destination::Directory { directory, .. } => {
            let metadata = fs::metadata(directory).map_err(BuildError::output(directory))?;
            if !metadata.is_dir() {
                return Err(BuildError::usage(
                    format!("{} is not a directory", directory.display()),
                    "make it first, or name another with --dir",
                ));
            }
        }
        Destination::File(_) | Destination::Stdout => {
            if let Destination::File(path) = &request.destination {
                check_file(path)?;
            }
            if request.formats.len() > 1 || request.formats[0] == Format::KernelInitrd {
                let names: Vec<_> = request.formats.iter().map(|format| format.name()).collect();
                return Err(BuildError::usage(
                    format!("{} is more than one file", names.join(",")),
                    "write to a directory with --dir, or choose one format of one file: tar, tar-kernel-initrd",
                ));
            }
        }
    }
    Ok(())
}

/// Returns the path of a destination that is no place for a file: it leads to a device, a pipe or a
/// socket.
pub(super) fn stream(destination: &Destination) -> Option<&Path> {
    let Destination::File(path) = destination else {
        return None;
    };
    let metadata = fs::metadata(path).ok()?;
    (!metadata.is_file() && !metadata.is_dir()).then_some(path)
}

/// Returns where a file is written: a link to a file stays, and what it leads to is replaced.
fn place(path: &Path) -> Result<PathBuf, BuildError> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    match is_link.then(|| fs::canonicalize(path)) {
        Some(Ok(target)) => Ok(target),
        _ => std::path::absolute(path).map_err(BuildError::output(path)),
    }
}

/// Checks that a file can have this name.
fn check_file(path: &Path) -> Result<(), BuildError> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent =
        fs::metadata(parent.unwrap_or(Path::new("."))).map_err(BuildError::output(path))?;
    if !parent.is_dir() {
        return Err(BuildError::output(path)(Errno::NOTDIR.into()));
    }
    if path.is_dir() {
        return Err(BuildError::output(path)(Errno::ISDIR.into()));
    }
    Ok(())
}

/// Waits until no other kiln, whatever its cache, writes to the directory of `path`: each note then
/// tells of the file it was made for. A directory that cannot be locked is not.
fn lock_directory(
    path: &Path,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Option<File>, BuildError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let Ok(file) = File::open(directory) else {
        return Ok(None);
    };
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        let shown = directory.display();
        let text = format!("another kiln writes to {shown}: waiting for it");
        listener.event(&Event::Warning(text));
    }
    match lock_file_unless(&file, || cancel.load(Ordering::Relaxed)) {
        Ok(true) => Ok(Some(file)),
        Ok(false) => Err(BuildError::Cancelled),
        Err(_) => Ok(None),
    }
}

/// Names the note of an output file.
fn note(path: &Path) -> Key {
    KeyBuilder::new("output", 1)
        .field("path", path.as_os_str().as_encoded_bytes())
        .finish()
}

/// Writes all outputs. Returns them, and a stamp of each file.
pub(super) fn write(
    request: &Request,
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    result: &Action,
    stdout: &mut dyn Write,
) -> Result<(Vec<OutputFile>, Vec<FileStamp>), BuildError> {
    let outputs: Vec<Output> = serde_json::from_slice(result.value("outputs").unwrap_or_default())
        .map_err(|error| BuildError::usage(format!("outputs: {error}"), "this is a bug in kiln"))?;
    let (mut files, mut stamps) = (Vec::new(), Vec::new());
    for output in &outputs {
        let segments: Vec<Segment> = output.segments.iter().filter_map(Stored::segment).collect();
        let bytes = segments.iter().map(|segment| segment.len).sum();
        let path = match &request.destination {
            Destination::Directory { directory, name } => {
                directory.join(format!("{name}{}", output.suffix))
            }
            Destination::File(path) => path.clone(),
            Destination::Stdout => {
                assemble(cache, &segments, Target::Writer(stdout), None)?;
                files.push(OutputFile {
                    path: "-".into(),
                    role: output.role.clone(),
                    bytes,
                    written: bytes,
                });
                continue;
            }
        };
        listener.event(&Event::Writing {
            path: path.display().to_string(),
            bytes,
        });
        let absolute = place(&path)?;
        let _lock = lock_directory(&absolute, listener, cancel)?;
        let (written, stamp) = one(cache, &absolute, &segments, &output.segments)?;
        stamps.push(stamp);
        files.push(OutputFile {
            path,
            role: output.role.clone(),
            bytes,
            written,
        });
    }
    if let Destination::Directory { directory, name } = &request.destination {
        remove_stale(cache, request, directory, name, &files)?;
    }
    Ok((files, stamps))
}

/// Writes one file, unless it is there already. Returns how many bytes differed, and its stamp.
fn one(
    cache: &Cache,
    path: &Path,
    segments: &[Segment],
    stored: &[Stored],
) -> Result<(u64, FileStamp), BuildError> {
    let note = note(path);
    let mut before = cache.stamp(&note).filter(|stamp| stamp.check().is_ok());
    let previous: Option<Vec<Stored>> = before
        .as_ref()
        .and_then(|stamp| serde_json::from_slice(&stamp.payload).ok());
    if previous.as_deref() == Some(stored)
        && let Some(stamp) = before.as_mut().and_then(|stamp| stamp.outputs.pop())
    {
        sweep(path);
        return Ok((0, stamp));
    }
    let placed = previous.as_ref().map(|previous| {
        crate::format::assemble::place(
            &previous
                .iter()
                .filter_map(Stored::segment)
                .collect::<Vec<_>>(),
        )
    });
    let payload = serde_json::to_vec(stored).unwrap_or_default();
    let now: Vec<PlacedSegment> = assemble(cache, segments, Target::Path(path), placed.as_deref())?;
    let there: HashSet<&Segment> = placed.iter().flatten().map(|old| &old.segment).collect();
    let written = now
        .iter()
        .filter(|placed| !there.contains(&placed.segment))
        .map(|placed| placed.segment.len)
        .sum();
    let file =
        FileStamp::of_output(path, Digest::of(&payload)).map_err(BuildError::output(path))?;
    let stamp = Stamp {
        inputs: Vec::new(),
        absent: Vec::new(),
        outputs: vec![file.clone()],
        payload,
    };
    cache.put_stamp(&note, &stamp)?;
    Ok((written, file))
}

/// Removes files that an earlier build of this name wrote and this one does not: a kernel beside
/// an initrd that goes with another would boot the wrong system. Only what kiln wrote, as it wrote
/// it.
fn remove_stale(
    cache: &Cache,
    request: &Request,
    directory: &Path,
    name: &str,
    files: &[OutputFile],
) -> Result<(), BuildError> {
    if !request.formats.contains(&Format::KernelInitrd) {
        return Ok(());
    }
    for suffix in ["-kernel", "-initrd.img", "-cmdline"] {
        let path = directory.join(format!("{name}{suffix}"));
        let absolute = place(&path)?;
        let ours = cache
            .stamp(&note(&absolute))
            .is_some_and(|stamp| stamp.check().is_ok());
        if ours && !files.iter().any(|file| file.path == path) {
            fs::remove_file(&path).map_err(BuildError::output(&path))?;
        }
    }
    Ok(())
}
