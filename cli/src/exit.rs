//! Exit codes: the part of kiln that scripts read.

/// Everything asked for is done.
pub(crate) const OK: u8 = 0;
/// The build failed: a registry, a package, the disk, the cache.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong; clap exits with the same code.
pub(crate) const USAGE: u8 = 2;
/// The description (YAML) is wrong.
pub(crate) const DESCRIPTION: u8 = 3;
/// Whoever read standard output went away: 128 + SIGPIPE.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// Returns the code of a run that a signal ended: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM.
pub(crate) const fn signal(number: u8) -> u8 {
    128 + number
}

/// The table, for `kiln help build`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done, or nothing to do
  1    the build failed
  2    the command line is wrong
  3    the description (YAML) is wrong
  130  interrupted (Ctrl-C); 143 when terminated, 129 when its terminal was closed
  141  the reader of standard output went away";
