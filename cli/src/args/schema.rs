//! `kiln schema`.

use clap::Args;

/// `kiln schema`.
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// The schema of an image's org.mobyproject.config label instead
    #[arg(long)]
    pub(crate) label: bool,
}

/// The long help.
pub(super) const ABOUT: &str = "\
Print the JSON Schema (draft-07) of descriptions, for editors and other programs.

  kiln schema > kiln.schema.json

An editor with yaml-language-server checks and completes a description whose first line is

  # yaml-language-server: $schema=./kiln.schema.json";
