//! `kiln migrate`.

use std::path::PathBuf;

use clap::Args;

use super::Sources;

/// `kiln migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The descriptions of one system, in order, as `build` takes them
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// What a build would use; nothing is looked up.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// The long help.
pub(super) const ABOUT: &str = "\
Check descriptions made for LinuxKit: what must be changed, and what kiln does otherwise.

Nothing is built or looked up, so what images say in their labels is not checked. The code is 0 \
when the description builds as it is, and 1 when something must be changed first.

  kiln migrate system.yml
  kiln migrate base.yml site.yml        as `kiln build base.yml site.yml` would take them";
