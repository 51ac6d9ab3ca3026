//! `kiln metadata`: a disc for LinuxKit's metadata package to read.

use std::os::unix::ffi::OsStrExt;

use crate::args::MetadataCommand;
use crate::failure::Failure;
use kiln_engine::build::BuildError;
use kiln_engine::format::metadata_iso;

pub(super) fn run(command: &MetadataCommand) -> Result<(), Failure> {
    let MetadataCommand::Create(create) = command;
    metadata_iso::write(&create.file, create.data.as_bytes())
        .map_err(|error| Failure::of_build(BuildError::from(error), &create.file, 0))
}
