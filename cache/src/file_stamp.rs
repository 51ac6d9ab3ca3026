//! One file as `stat` shows it, and how it differs later.
//!
//! **The order that makes this sound**: first the clock is read, then `stat` is called
//! ([`FileStamp::begin`]), then the content is read. Whoever changes the file after the `stat`
//! changes its ctime, unless the change falls into the same tick of the file system's clock. So a
//! file whose ctime is younger than [`GRANULARITY_NS`] is *racy*: at the check its content is
//! hashed, not trusted. On local file systems that tick is known: they stamp files with the
//! kernel's `CLOCK_REALTIME_COARSE` (or, lately, something finer), so there a file is racy only
//! until that clock has left its ctime behind: 1 to 10 ms.
//!
//! Paths are followed through symbolic links: what counts is the file the build would read.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Digest;
use crate::boot::{is_local, nanoseconds, now_ns};

/// The coarsest tick of a clock that stamps files, with room: kernels tick every 1–10 ms.
pub const GRANULARITY_NS: i64 = 20_000_000;

/// The same where time stamps are whole seconds (FAT ticks every two).
const COARSE_GRANULARITY_NS: i64 = 2_000_000_000;

/// What a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file, or anything else that is not a directory.
    File,
    /// A directory. Its digest covers the names in it, not what they lead to.
    Directory,
}

/// A file as it was when a build read or wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    /// Where it was; absolute, or the check depends on the working directory.
    pub path: PathBuf,
    /// What it was.
    pub kind: FileKind,
    /// `st_mode`, type bits included.
    pub mode: u32,
    /// Size in bytes; 0 for directories, whose size means nothing.
    pub size: u64,
    /// Last change of content, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of anything, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// BLAKE3 of the content; for a directory, of its sorted names.
    pub digest: Digest,
    /// True when the file may have changed again within the same tick: hashed, not trusted.
    pub racy: bool,
}

/// A file that was looked at and not yet read; the digest of what was read completes it.
#[derive(Debug, Clone)]
pub struct Unread(FileStamp);

impl Unread {
    /// Completes the stamp with the digest of the content that was read.
    #[must_use]
    pub fn read_as(mut self, digest: Digest) -> FileStamp {
        self.0.digest = digest;
        self.0
    }

    /// Returns the size seen, in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.0.size
    }
}

impl FileStamp {
    /// Looks at `path`, to be called before its content is read.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn begin(path: &Path) -> io::Result<Unread> {
        let clock = Clock::read();
        let mut stamp = Self::from_metadata(path, &fs::metadata(path)?);
        stamp.racy = stamp.is_young(clock);
        Ok(Unread(stamp))
    }

    /// Looks at `path` and hashes it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let unread = Self::begin(path)?;
        let digest = hash(path, unread.0.kind)?;
        Ok(unread.read_as(digest))
    }

    /// Reads a whole small file together with its stamp; at most `max` bytes.
    ///
    /// # Errors
    /// When it cannot be read or is larger.
    pub fn read(path: &Path, max: u64) -> io::Result<(Self, Vec<u8>)> {
        let unread = Self::begin(path)?;
        let mut bytes = Vec::new();
        File::open(path)?
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {max} bytes"),
            ));
        }
        let digest = Digest::of(&bytes);
        Ok((unread.read_as(digest), bytes))
    }

    /// Stamps an output that this process has finished writing, whose digest it knows. Waits
    /// until the file is no longer racy (1 to 10 ms on local disks, 20 ms elsewhere, 2 s on FAT),
    /// so that nobody has to hash gigabytes at the next check. Who writes gigabytes and does not
    /// hash them may give the digest of anything that stands for them: it is compared only if
    /// the file stays racy, whose time stamps come from a clock ahead of ours; the output then
    /// counts as changed.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn of_output(path: &Path, digest: Digest) -> io::Result<Self> {
        let first = Self::begin(path)?.read_as(digest);
        let mut stamp = first.clone();
        let until = now_ns().saturating_add(first.granularity());
        while stamp.racy && now_ns() <= until {
            std::thread::sleep(Duration::from_millis(1));
            let again = Self::begin(path)?.read_as(digest);
            if again.same_stat(&first).is_err() {
                // Someone else writes to it: its new state is not known to have this digest.
                return Ok(first);
            }
            stamp = again;
        }
        Ok(stamp)
    }

    fn from_metadata(path: &Path, metadata: &Metadata) -> Self {
        let kind = if metadata.is_dir() {
            FileKind::Directory
        } else {
            FileKind::File
        };
        Self {
            path: path.to_owned(),
            kind,
            mode: metadata.mode(),
            size: match kind {
                FileKind::File => metadata.len(),
                FileKind::Directory => 0,
            },
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            digest: Digest::from_bytes([0; 32]),
            racy: true,
        }
    }

    /// Returns the tick of the clock that stamped this file, as far as can be told.
    const fn granularity(&self) -> i64 {
        if self.ctime_ns % 1_000_000_000 == 0 && self.mtime_ns % 1_000_000_000 == 0 {
            COARSE_GRANULARITY_NS
        } else {
            GRANULARITY_NS
        }
    }

    /// True when a change at that time could have left the ctime as it is. Times in the future
    /// count as young: they come from another clock. (mtime is not asked: anybody can set it.)
    fn is_young(&self, clock: Clock) -> bool {
        let granularity = self.granularity();
        if self.ctime_ns <= clock.now_ns.saturating_sub(granularity) {
            return false;
        }
        let ticked = granularity == GRANULARITY_NS
            && self.ctime_ns < clock.coarse_ns
            && is_local(&self.path);
        !ticked
    }

    fn same_stat(&self, is: &Self) -> std::result::Result<(), Change> {
        if self.kind != is.kind {
            return Err(Change::Kind);
        }
        if self.size != is.size {
            return Err(Change::Size {
                was: self.size,
                is: is.size,
            });
        }
        if self.inode != is.inode {
            return Err(Change::Replaced);
        }
        if self.mode != is.mode {
            return Err(Change::Mode {
                was: self.mode,
                is: is.mode,
            });
        }
        if self.mtime_ns != is.mtime_ns || self.ctime_ns != is.ctime_ns {
            return Err(Change::Modified);
        }
        Ok(())
    }

    /// Compares with the file as it is now. True when a racy file was hashed, found equal and is
    /// not racy any more.
    pub(crate) fn check(&self) -> std::result::Result<bool, Change> {
        let clock = Clock::read();
        let metadata = fs::metadata(&self.path).map_err(Change::from)?;
        self.same_stat(&Self::from_metadata(&self.path, &metadata))?;
        if !self.racy {
            return Ok(false);
        }
        if hash(&self.path, self.kind).map_err(Change::from)? != self.digest {
            return Err(Change::Content);
        }
        Ok(!self.is_young(clock))
    }
}

/// The system's clock, and the one that local file systems stamp files with.
#[derive(Clone, Copy)]
struct Clock {
    now_ns: i64,
    coarse_ns: i64,
}

impl Clock {
    fn read() -> Self {
        let coarse = clock_gettime(ClockId::RealtimeCoarse);
        Self {
            now_ns: now_ns(),
            coarse_ns: nanoseconds(coarse.tv_sec, coarse.tv_nsec),
        }
    }
}

/// How a file differs from its stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Change {
    /// It is gone.
    #[error("missing")]
    Missing,
    /// It was not there and is now.
    #[error("new")]
    Appeared,
    /// A file became a directory or the reverse.
    #[error("of another type")]
    Kind,
    /// Another size.
    #[error("{was} bytes then, {is} now")]
    Size {
        /// Bytes then.
        was: u64,
        /// Bytes now.
        is: u64,
    },
    /// Same size, other time stamps.
    #[error("modified")]
    Modified,
    /// Another file under the same name.
    #[error("replaced")]
    Replaced,
    /// Other permissions.
    #[error("mode {was:o} then, {is:o} now")]
    Mode {
        /// `st_mode` then.
        was: u32,
        /// `st_mode` now.
        is: u32,
    },
    /// Nothing that `stat` shows, but another content.
    #[error("modified in the instant it was read")]
    Content,
    /// It cannot be looked at.
    #[error("unreadable: {0}")]
    Unreadable(io::ErrorKind),
}

impl From<io::Error> for Change {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            kind => Self::Unreadable(kind),
        }
    }
}

/// Hashes the content of a file, or the sorted names in a directory (each with its length).
fn hash(path: &Path, kind: FileKind) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    match kind {
        FileKind::File => {
            hasher.update_reader(File::open(path)?)?;
        }
        FileKind::Directory => {
            let mut names = fs::read_dir(path)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort_unstable();
            for name in names {
                hasher.update(&(name.len() as u64).to_le_bytes());
                hasher.update(name.as_bytes());
            }
        }
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &str) {
        fs::write(path, content).unwrap();
    }

    #[test]
    fn young_is_what_its_clock_has_not_left_behind() {
        let path = PathBuf::from("/");
        let at = 1_700_000_000_500_000_000;
        let mut file = FileStamp::from_metadata(&path, &fs::metadata("/").unwrap());
        let clock = |now_ns, coarse_ns| Clock { now_ns, coarse_ns };
        (file.ctime_ns, file.mtime_ns) = (at, at);
        let local = is_local(&path);
        assert!(file.is_young(clock(at, at)));
        assert!(file.is_young(clock(at + 5_000_000, at)));
        assert_eq!(file.is_young(clock(at + 5_000_000, at + 4_000_000)), !local);
        assert!(!file.is_young(clock(at + GRANULARITY_NS, at)));
        assert!(file.is_young(clock(at - 1_000_000_000, at - 1_000_000_000)));
        // Whole seconds: a coarse clock, whatever the kernel's is.
        let at = at - 500_000_000;
        (file.ctime_ns, file.mtime_ns) = (at, at);
        assert!(file.is_young(clock(at + 1_500_000_000, at + 1_500_000_000)));
        assert!(!file.is_young(clock(at + 2_000_000_000, at)));
    }

    #[test]
    fn no_write_after_a_trusted_stamp_goes_unnoticed() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("a.yml");
        let mut trusted = 0;
        for number in 0..200_u32 {
            write(&path, "first.");
            // Every phase of the tick.
            std::thread::sleep(Duration::from_micros(u64::from(number * 37 % 9000)));
            let stamp = FileStamp::of(&path).unwrap();
            trusted += u32::from(!stamp.racy);
            write(&path, "second");
            assert!(
                stamp.check().is_err(),
                "round {number}, racy: {}",
                stamp.racy
            );
        }
        assert!(trusted > 0 || !is_local(room.path()));
    }

    #[test]
    fn a_directory_is_its_names() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("d");
        fs::create_dir(&path).unwrap();
        let before = FileStamp::of(&path).unwrap();
        write(&path.join("a"), "x");
        let after = FileStamp::of(&path).unwrap();
        assert_ne!(before.digest, after.digest);
        assert!(before.check().is_err());
        assert!(after.check().is_ok());
    }
}
