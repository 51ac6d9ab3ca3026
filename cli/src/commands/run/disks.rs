//! The disks and the disc of a machine: flags in, files out.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_engine::build::BuildError;
use kiln_engine::format::metadata_iso;

use crate::args::Run;
use crate::failure::Failure;
use crate::vm::disk::Disk;
use crate::vm::place::Place;

/// Longest `--data-file`, in bytes.
const DATA_MAX: u64 = 16 << 20;

/// Finds or makes the disks. Those without a name are beside the outputs, as LinuxKit has it, unless
/// `--state` says where.
pub(super) fn disks(arguments: &Run, prefix: &Path) -> Result<Vec<Disk>, Failure> {
    let state = arguments.state.clone().unwrap_or_else(|| {
        let mut state: OsString = prefix.as_os_str().to_owned();
        state.push("-state");
        state.into()
    });
    if arguments.disk.iter().any(|disk| disk.is_in_state()) {
        fs::create_dir_all(&state).map_err(|error| {
            let message = format!("cannot make {}", state.display());
            Failure::failed(message, Some(&error), None)
        })?;
    }
    let disks = arguments.disk.iter().enumerate();
    let made = disks.map(|(index, disk)| disk.make(index, &state));
    made.collect::<Result<_, _>>()
        .map_err(|(message, error)| Failure::failed(message, Some(&error), None))
}

/// Writes the disc with `--data`, if there is any.
pub(super) fn disc(arguments: &Run, place: &Place) -> Result<Option<PathBuf>, Failure> {
    let data = match (&arguments.data, &arguments.data_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => {
            let read = match fs::metadata(path) {
                Ok(metadata) if metadata.len() > DATA_MAX => {
                    Err(io::Error::other(format!("larger than {DATA_MAX} bytes")))
                }
                _ => fs::read(path),
            };
            read.map_err(|error| {
                let message = format!("cannot read {}", path.display());
                Failure::failed(message, Some(&error), None)
            })?
        }
        (None, None) => return Ok(None),
    };
    let path = place.disc();
    metadata_iso::write(&path, &data)
        .map_err(|error| Failure::of_build(BuildError::from(error), &path, 0))?;
    Ok(Some(path))
}
