//! An output that is there already, changed where it differs only.
//!
//! Enters: the output's path, the segments it holds, those it should hold. Leaves: the changed
//! file under its name, or the word that a fresh one must be written. Nothing else about the
//! output may be assumed than what is checked here: a regular file of the right length, one link.
//!
//! On file systems that share blocks (`FICLONE`: btrfs, XFS) a clone is edited and renamed over
//! the old file. Elsewhere the old file itself is, after a write lease has shown that nobody has
//! it open and a rename has taken it out of everyone's reach: no reader ever sees it half done.
//! Segments before and after a change stay where they are: `FALLOC_FL_COLLAPSE_RANGE` and
//! `FALLOC_FL_INSERT_RANGE` (ext4, XFS) move the rest by whole blocks without copying it. Where
//! they are missing, or the lengths are not whole blocks, or little follows, everything from the
//! first changed segment on is written anew, in place.
//!
//! The price of editing in place: a process killed in the middle leaves no output (its temporary
//! file is swept by the next build), and a failing disk takes the old output with it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_cache::Cache;
use rustix::fs::{FallocateFlags, Mode, OFlags};

use super::assemble::{PlacedSegment, Staged, check, temporary, write_at};
use super::lease::Lease;
use super::{ALIGN_BYTES, FormatError, Segment, padding};

/// A shorter rest is written again rather than moved: moving flushes it to the disk first, and
/// drops it from the page cache.
const MOVE_MIN_BYTES: u64 = 16 << 20;

/// What lies between two changes is written again when it is less than this part of the least
/// that is moved.
const JOIN_DIVISOR: u64 = 16;

/// How often the rest is moved; then it is written.
const MOVES_MAX: usize = 32;

/// Tries to turn the file at `path` into `new`. Returns false when a fresh file must be written.
pub(super) fn splice(
    cache: &Cache,
    path: &Path,
    old: &[PlacedSegment],
    new: &[Segment],
) -> Result<bool, FormatError> {
    splice_moving(cache, path, old, new, MOVE_MIN_BYTES)
}

/// [`splice`], moving rests of at least `move_min` bytes.
pub(super) fn splice_moving(
    cache: &Cache,
    path: &Path,
    old: &[PlacedSegment],
    new: &[Segment],
    move_min: u64,
) -> Result<bool, FormatError> {
    let edits = edits(old, new);
    if edits.iter().all(|edit| edit.keep == 0) {
        return Ok(false);
    }
    let edits = joined(edits, new, move_min / JOIN_DIVISOR);
    let old_len = old.last().map_or(0, |last| last.offset + last.segment.len);
    let Ok(file) = open_alone(path, old_len) else {
        return Ok(false);
    };
    if edits.iter().all(Edit::is_empty) {
        return Ok(true);
    }
    let changed: Vec<Segment> = edits
        .iter()
        .flat_map(|edit| &new[edit.new.clone()])
        .copied()
        .collect();
    check(cache, &changed)?;
    let scratch = Staged::create(path)?;
    if rustix::fs::ioctl_ficlone(scratch.file(), &file).is_ok() {
        apply(cache, scratch.file(), path, &edits, new, move_min)?;
        return scratch.publish().map(|()| true);
    }
    // A full disk must show while the output is still whole.
    let new_len: u64 = new.iter().map(|segment| segment.len).sum();
    scratch.reserve(new_len.saturating_sub(old_len))?;
    drop(scratch);
    let Some(staged) = take_away(path, &file) else {
        return Ok(false);
    };
    // Whatever goes wrong now, a fresh file has a better chance than this one.
    if apply(cache, staged.file(), path, &edits, new, move_min).is_err() {
        return Ok(false);
    }
    staged.publish().map(|()| true)
}

/// A change: after `keep` unchanged bytes, `removed` bytes give way to the segments `new`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    keep: u64,
    removed: u64,
    new: Range<usize>,
}

impl Edit {
    /// Length of what comes, in bytes.
    fn len(&self, new: &[Segment]) -> u64 {
        let segments = &new[self.new.clone()];
        segments.iter().map(|segment| segment.len).sum()
    }

    fn is_empty(&self) -> bool {
        self.removed == 0 && self.new.is_empty()
    }
}

/// Returns the changes that turn `old` into `new`, keeping as many bytes as possible.
fn edits(old: &[PlacedSegment], new: &[Segment]) -> Vec<Edit> {
    let (mut i, mut j, mut keep) = (0, 0, 0);
    let mut out = Vec::new();
    let end = (old.len(), new.len());
    for (in_old, in_new) in common(old, new).into_iter().chain([end]) {
        if (in_old, in_new) != (i, j) {
            let gone = &old[i..in_old];
            out.push(Edit {
                keep: std::mem::take(&mut keep),
                removed: gone.iter().map(|placed| placed.segment.len).sum(),
                new: j..in_new,
            });
        }
        if let Some(kept) = new.get(in_new) {
            keep += kept.len;
        }
        (i, j) = (in_old + 1, in_new + 1);
    }
    out.push(Edit {
        keep,
        removed: 0,
        new: new.len()..new.len(),
    });
    out
}

/// Makes one of changes that have less than `join` bytes between them.
fn joined(edits: Vec<Edit>, new: &[Segment], join: u64) -> Vec<Edit> {
    let mut out: Vec<Edit> = Vec::new();
    for edit in edits {
        match out.last_mut() {
            Some(last) if !edit.is_empty() && edit.keep < join => {
                last.removed += edit.keep + edit.removed;
                last.new.end = edit.new.end;
            }
            _ => out.push(edit),
        }
    }
    debug_assert!(out.last().is_none_or(|last| last.new.end == new.len()));
    out
}

/// Returns what both have in order, as pairs of indices: of all such lists one of the most bytes.
///
/// The heaviest chain among the pairs of equal segments (Hunt and Szymanski 1977, weighted): outputs
/// may have tens of thousands of segments, nearly all of them different from each other.
fn common(old: &[PlacedSegment], new: &[Segment]) -> Vec<(usize, usize)> {
    let mut places: HashMap<&Segment, Vec<usize>> = HashMap::new();
    for (at, segment) in new.iter().enumerate() {
        places.entry(segment).or_default().push(at);
    }
    // The heaviest chain that ends before each place of `new`, as a Fenwick tree of maxima.
    let mut best: Vec<(u64, Option<usize>)> = vec![(0, None); new.len() + 1];
    let mut pairs: Vec<(usize, usize, Option<usize>)> = Vec::new();
    for (i, placed) in old.iter().enumerate() {
        let found = places.get(&placed.segment).into_iter().flatten();
        // From behind: no chain has two pairs of one old segment.
        for j in found.rev().copied() {
            let mut before = (0, None);
            let mut at = j;
            while at > 0 {
                before = before.max(best[at]);
                at &= at - 1;
            }
            let chain = (before.0 + placed.segment.len, Some(pairs.len()));
            pairs.push((i, j, before.1));
            let mut at = j + 1;
            while at < best.len() {
                if best[at].0 < chain.0 {
                    best[at] = chain;
                }
                at += at & at.wrapping_neg();
            }
        }
    }
    let mut chain = Vec::new();
    let mut at = best
        .iter()
        .max_by_key(|best| best.0)
        .and_then(|best| best.1);
    while let Some((i, j, before)) = at.map(|at| pairs[at]) {
        chain.push((i, j));
        at = before;
    }
    chain.reverse();
    chain
}

/// Opens the output for writing, when it is a regular file of this length with one name.
fn open_alone(path: &Path, len: u64) -> io::Result<File> {
    // Without waiting for a lease that someone else may hold.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = file.metadata()?;
    if !stat.is_file() || stat.nlink() != 1 || stat.len() != len {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(file)
}

/// Renames the output away, when nobody has it open; then nobody can open it any more.
fn take_away(path: &Path, file: &File) -> Option<Staged> {
    let ours = file.try_clone().ok()?;
    // Both descriptors are one open file, so the lease does not mind.
    ours.try_lock().ok()?;
    let lease = Lease::take(file).ok()?;
    let staged = temporary(path);
    fs::rename(path, &staged).ok()?;
    let still_alone = || -> io::Result<bool> {
        let (here, there) = (file.metadata()?, fs::symlink_metadata(&staged)?);
        let same = (here.dev(), here.ino()) == (there.dev(), there.ino());
        Ok(same && here.nlink() == 1 && lease.is_undisturbed())
    };
    if !still_alone().unwrap_or(false) {
        let _ = fs::rename(&staged, path);
        return None;
    }
    Some(Staged::adopt(ours, staged, path))
}

/// Applies the changes, front to back: everything before the one at hand is final.
fn apply(
    cache: &Cache,
    file: &File,
    path: &Path,
    edits: &[Edit],
    new: &[Segment],
    move_min: u64,
) -> Result<(), FormatError> {
    let mut at = 0;
    let mut rest: u64 = edits.iter().map(|edit| edit.keep).sum();
    let mut moves = 0;
    for edit in edits {
        at += edit.keep;
        rest -= edit.keep;
        let len = edit.len(new);
        let mut fits = edit.removed == len;
        if !fits && rest >= move_min && moves < MOVES_MAX {
            moves += 1;
            fits = shift(file, at, edit.removed, len);
        }
        if rest > 0 && !fits {
            let tail = &new[edit.new.start..];
            let tail_len: u64 = tail.iter().map(|segment| segment.len).sum();
            write_at(cache, file, path, at, tail)?;
            return file
                .set_len(at + tail_len)
                .map_err(FormatError::output("truncate", path));
        }
        write_at(cache, file, path, at, &new[edit.new.clone()])?;
        at += len;
    }
    file.set_len(at)
        .map_err(FormatError::output("truncate", path))
}

/// Makes the `removed` bytes at `at` into `len` bytes, moving the rest of the file by whole blocks.
/// Returns false when that cannot be done.
fn shift(file: &File, at: u64, removed: u64, len: u64) -> bool {
    let by = removed.abs_diff(len);
    // The range may start anywhere among the bytes that go away: what they become is written next.
    let start = at + padding(at, ALIGN_BYTES);
    let (flags, end) = if len > removed {
        (FallocateFlags::INSERT_RANGE, start)
    } else {
        (FallocateFlags::COLLAPSE_RANGE, start + by)
    };
    by.is_multiple_of(ALIGN_BYTES)
        && end <= at + removed
        && rustix::fs::fallocate(file, flags, start, by).is_ok()
}

#[cfg(test)]
mod tests {
    use kiln_cache::Digest;
    use proptest::prelude::*;

    use super::super::{Form, assemble::place};
    use super::*;

    fn segments(numbers: &[u8]) -> Vec<Segment> {
        let segment = |number: &u8| Segment {
            digest: Digest::of(&[*number]),
            len: 1 + u64::from(*number) * 3,
            form: Form::Bytes,
        };
        numbers.iter().map(segment).collect()
    }

    /// The most bytes in common, by looking at all.
    fn most(old: &[Segment], new: &[Segment]) -> u64 {
        let mut best = vec![vec![0; new.len() + 1]; old.len() + 1];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                let skip: u64 = best[i + 1][j].max(best[i][j + 1]);
                let take = best[i + 1][j + 1] + new[j].len;
                best[i][j] = if old[i] == new[j] {
                    skip.max(take)
                } else {
                    skip
                };
            }
        }
        best[0][0]
    }

    proptest! {
        #[test]
        fn the_most_is_kept_and_the_rest_exchanged(
            old in proptest::collection::vec(0..9_u8, 0..14),
            new in proptest::collection::vec(0..9_u8, 0..14),
            join in 0..20_u64,
        ) {
            let (old, new) = (segments(&old), segments(&new));
            let edits = edits(&place(&old), &new);
            prop_assert_eq!(edits.iter().map(|edit| edit.keep).sum::<u64>(), most(&old, &new));
            let edits = joined(edits, &new, join);
            // Played, they give the new from the old.
            let (mut from, mut at, mut played) = (0, 0, Vec::new());
            for edit in &edits {
                let mut keep = edit.keep;
                while keep > 0 {
                    prop_assert_eq!(old[from], new[at]);
                    keep -= old[from].len;
                    played.push(old[from]);
                    (from, at) = (from + 1, at + 1);
                }
                let mut removed = edit.removed;
                while removed > 0 {
                    removed -= old[from].len;
                    from += 1;
                }
                prop_assert_eq!(edit.new.start, at);
                played.extend(&new[edit.new.clone()]);
                at = edit.new.end;
            }
            prop_assert_eq!((from, at), (old.len(), new.len()));
            prop_assert_eq!(played, new);
        }
    }

    #[test]
    fn tens_of_thousands_are_compared_at_once() {
        let many = |first: u32| -> Vec<Segment> {
            let segment = |number: u32| Segment {
                digest: Digest::of(&number.to_le_bytes()),
                len: 4096,
                form: Form::Recipe,
            };
            (first..first + 50_000).map(segment).collect()
        };
        // A table of all pairs would take 20 GB.
        let edits = edits(&place(&many(0)), &many(1));
        assert_eq!(
            edits.iter().map(|edit| edit.keep).sum::<u64>(),
            49_999 * 4096
        );
    }
}
