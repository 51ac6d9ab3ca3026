//! Archives: a selection of a cache as one stream, for a CI provider's cache or another machine.
//!
//! ```text
//! 5b 2a 4d 18                    a skippable frame of zstd (RFC 8878, section 3.1.2)
//! length                         u32, little-endian
//! "kiln cache archive 1\n"       the format, by which an archive is recognised
//! one zstd frame of a tar (POSIX.1-2001 ustar) with two kinds of entries:
//!   objects/HEX                  an object's bytes; HEX is its digest
//!   actions/HEX                  an action's record, as in the cache (see [`crate::record`])
//! ```
//!
//! `zstd -dc FILE | tar t` lists one. Actions are in the order of their keys, each after those of
//! its objects that no earlier one has, so a stream cut anywhere leaves no action without its
//! objects. The same selection of equal records gives the same bytes on any number of cores.
//!
//! [`write`](mod@write) makes them; [`read`] takes nothing on trust.

mod header;
pub mod read;
pub mod write;

pub use read::{ImportError, ImportFailure, Imported, RECOGNISED_BYTES, is_archive};
pub use write::{ExportError, Exported};

/// The format this code writes.
const FORMAT: u32 = 1;

/// The magic number of a skippable frame, the twelfth of the sixteen there are.
const SKIPPABLE: [u8; 4] = [0x5b, 0x2a, 0x4d, 0x18];

/// What the skippable frame says, before the format number and a line feed.
const TITLE: &[u8] = b"kiln cache archive ";

/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Is told the content bytes handled so far; returns false to stop.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Returns the bytes of zeros after a content, up to a full block.
fn padding(size: u64) -> usize {
    let over = size % header::BLOCK_BYTES as u64;
    usize::try_from((header::BLOCK_BYTES as u64 - over) % header::BLOCK_BYTES as u64).unwrap_or(0)
}
