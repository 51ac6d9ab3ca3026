//! `kiln version`.

use crate::args::Version;
use crate::failure::Failure;

pub(super) fn run(arguments: &Version) -> Result<(), Failure> {
    let number = env!("CARGO_PKG_VERSION");
    super::print(&if arguments.short {
        format!("{number}\n")
    } else {
        format!("kiln version {number}\n")
    })
}
