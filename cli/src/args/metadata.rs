//! `kiln metadata`: LinuxKit's disc of metadata.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `kiln metadata`.
#[derive(Debug, Subcommand)]
pub(crate) enum MetadataCommand {
    /// Write an ISO 9660 image with one file, config, that holds DATA
    Create(MetadataCreate),
}

/// `kiln metadata create`.
#[derive(Debug, Args)]
pub(crate) struct MetadataCreate {
    /// The image to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What the file config holds, to the byte: no newline is added
    #[arg(value_name = "DATA", allow_hyphen_values = true)]
    pub(crate) data: OsString,
}
