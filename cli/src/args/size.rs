//! `kiln size`.

use std::path::PathBuf;

use clap::Args;

/// The long help.
pub(crate) const ABOUT: &str = "\
Show what takes how much room in a system

SYSTEM is the prefix of what a build has written, or an initrd, whoever made it. Each part is shown \
with the room it takes in the file, compressed, and unpacked in the machine's memory.

  kiln size hello
  kiln size hello-initrd.img";

/// `kiln size`.
#[derive(Debug, Args)]
pub(crate) struct Size {
    /// A prefix of outputs, or an initrd
    #[arg(value_name = "SYSTEM")]
    pub(crate) system: PathBuf,
}
