//! A name for what systems are made from, for the cache of a CI provider.
//!
//! Enters: requests. Leaves: a text that is the same wherever the same is asked for. It covers
//! what the descriptions say (not how they are laid out), their locks, the files of the host that
//! they name, architecture, formats, the bill of materials, and this kiln: its version, its cache
//! format and the init it carries. It does not cover where anything lies, the machine, the time, or
//! what a tag means now: no server is asked.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kiln_cache::file_stamp::FileStamp;
use kiln_cache::layout::FORMAT;
use kiln_cache::{Key, KeyBuilder};

use super::plan::{self, Planned};
use super::{BuildError, Request};
use crate::event::Listener;
use crate::lockfile::Lock;
use crate::step::root::Source;
use crate::step::system::{Init, VolumeContent};
use crate::system::metadata::dry_run;
use crate::tree::directory;
use crate::tree::generate::Body;

/// Changes when the same systems may get another key.
const IDENTITY_VERSION: u32 = 1;

/// Returns what all keys for an architecture begin with: `kiln-FORMAT-ARCHITECTURE-`.
#[must_use]
pub fn cache_key_prefix(architecture: &str) -> String {
    format!("kiln-{FORMAT}-{architecture}-")
}

/// Returns the key of systems together: the prefix and 32 hex digits.
///
/// # Errors
/// When a description is wrong, or a file that it names cannot be read.
pub fn cache_key(requests: &[Request], listener: &dyn Listener) -> Result<String, BuildError> {
    let mut systems = Vec::new();
    for request in requests {
        systems.push(identity(request, listener)?);
    }
    // Their order means nothing.
    systems.sort_unstable();
    systems.dedup();
    let key = KeyBuilder::new("cache key", IDENTITY_VERSION)
        .list("systems", systems.iter().map(Key::as_bytes))
        .finish();
    let architecture = requests.first().map_or("", |first| &first.architecture);
    let hex = key.to_string();
    Ok(cache_key_prefix(architecture) + &hex[..32])
}

fn identity(request: &Request, listener: &dyn Listener) -> Result<Key, BuildError> {
    let request = Request {
        docker: None,
        ..request.clone()
    };
    let planned = plan::plan(&request, listener)?;
    let plan = &planned.plan;
    let sbom = plan.sbom.iter();
    let mut key = KeyBuilder::new("system", IDENTITY_VERSION)
        .field("version", env!("CARGO_PKG_VERSION"))
        .number("format", u64::from(FORMAT))
        .field("architecture", &request.architecture)
        .list("formats", plan.formats.iter().map(|format| format.name()))
        .number("decompress", request.decompress_kernel.into())
        .list(
            "sbom",
            sbom.flat_map(|sbom| [sbom.format.name(), sbom.file.as_str()]),
        )
        .field("description", dry_run(&plan.spec))
        .field("lock", lock(&planned)?);
    for init in &plan.init {
        if let Init::Kiln(guest) = init {
            key = key.digest("guest", &kiln_cache::Digest::of(guest));
        }
    }
    for node in &plan.files {
        if let Body::Host(_, digest) = &node.body {
            key = key.digest("file", digest);
        }
    }
    for origin in plan.origins() {
        match &origin.source {
            Source::Directory(path) => key = add_directory(key, path)?,
            Source::Image(image) => key = add_inputs(key, &image.source.inputs())?,
            Source::Debian(packages) => {
                if let Some(keyring) = &packages.request.keyring {
                    key = add_inputs(key, std::slice::from_ref(keyring))?;
                }
            }
        }
    }
    for content in &plan.volumes {
        if let VolumeContent::Layout(layout) = content {
            key = add_inputs(key, &layout.source.inputs())?;
        }
    }
    Ok(key.finish())
}

/// Returns the lock in the form that kiln writes.
fn lock(planned: &Planned) -> Result<String, BuildError> {
    let Some(path) = &planned.lock_path else {
        return Ok(String::new());
    };
    match fs::read_to_string(path) {
        Ok(text) => Lock::parse(&text)
            .map(|lock| lock.render())
            .map_err(|source| BuildError::Lock {
                path: path.clone(),
                source,
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(BuildError::file(path)(error)),
    }
}

/// Adds the content of files; of a directory, its names.
fn add_inputs(mut key: KeyBuilder, paths: &[impl AsRef<Path>]) -> Result<KeyBuilder, BuildError> {
    for path in paths {
        let path = path.as_ref();
        let stamp = FileStamp::of(path).map_err(BuildError::file(path))?;
        key = key.digest("input", &stamp.digest);
    }
    Ok(key)
}

/// Adds what a directory holds, as a system takes it: paths below it, permissions, contents.
fn add_directory(mut key: KeyBuilder, root: &Path) -> Result<KeyBuilder, BuildError> {
    let failed = |error: directory::DirectoryError| {
        let error = io::Error::other(error);
        BuildError::file(root)(error)
    };
    for path in directory::files(root).map_err(failed)? {
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let metadata = fs::symlink_metadata(&path).map_err(BuildError::file(&path))?;
        key = key
            .field("path", relative.as_os_str().as_encoded_bytes())
            .number("mode", metadata.permissions().mode().into());
        if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(BuildError::file(&path))?;
            key = key.field("target", target.as_os_str().as_encoded_bytes());
        } else if metadata.is_file() {
            key = add_inputs(key, &[&path])?;
        }
    }
    Ok(key)
}
