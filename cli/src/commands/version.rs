//! `kiln version`.

use crate::args::Version;
use crate::failure::Failure;

/// The commit this was built from, when it was built in a git work tree.
const COMMIT: Option<&str> = option_env!("KILN_COMMIT");

pub(super) fn run(arguments: &Version) -> Result<(), Failure> {
    let number = env!("CARGO_PKG_VERSION");
    super::print(&match (arguments.short, arguments.commit, COMMIT) {
        (true, ..) => format!("{number}\n"),
        (_, true, Some(commit)) => format!("{commit}\n"),
        (_, true, None) => {
            let message = "the commit is not known: this kiln was not built in a git work tree";
            return Err(Failure::failed(message, None, None));
        }
        (_, _, Some(commit)) => format!("kiln version {number}\ncommit: {commit}\n"),
        (_, _, None) => format!("kiln version {number}\n"),
    })
}
