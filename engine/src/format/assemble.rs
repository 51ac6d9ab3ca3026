//! Segments into an output: a file that appears whole, or a stream.
//!
//! Enters: segments, the target, what the last build put there. Leaves: where each segment now
//! stands. One thread reads packs into buffers while another writes them: on two cores that is
//! twice as fast as `copy_file_range`, which copies with one. A file is written under a temporary
//! name in its own directory and renamed: whoever has the old one open keeps it, a failure leaves
//! it untouched.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use kiln_cache::Cache;
use rustix::fs::FallocateFlags;

use super::read::{BUFFER_BYTES, Feeder, Take, ToWriter};
use super::recipe::Recipe;
use super::splice::splice;
use super::{Form, FormatError, Segment};

/// Buffers between the reading and the writing thread.
const BUFFERS: usize = 4;

/// Where an output goes.
pub enum Target<'a> {
    /// A file.
    Path(&'a Path),
    /// A stream, such as standard output.
    Writer(&'a mut dyn Write),
}

/// A segment and where it stands in an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedSegment {
    /// The segment.
    pub segment: Segment,
    /// Offset of its first byte.
    pub offset: u64,
}

/// Writes an output of `segments`. `previous` says what the file at the target holds now, when
/// the caller knows (the file's stat is what the last build recorded): it lets the file be
/// changed where it differs only. The bytes do not depend on it.
///
/// # Errors
/// When an object is missing or damaged, or the output cannot be written; a file that was there
/// is then as it was.
pub fn assemble(
    cache: &Cache,
    segments: &[Segment],
    target: Target<'_>,
    previous: Option<&[PlacedSegment]>,
) -> Result<Vec<PlacedSegment>, FormatError> {
    let placed = place(segments);
    match target {
        Target::Writer(writer) => {
            let mut feeder = Feeder::new(cache, ToWriter(&mut *writer));
            for segment in segments {
                feeder.segment(cache, segment)?;
            }
            feeder.finish()?;
            writer.flush().map_err(FormatError::Stream)?;
        }
        Target::Path(path) => {
            let spliced = match previous {
                Some(previous) => splice(cache, path, previous, segments)?,
                None => false,
            };
            if !spliced {
                fresh(cache, path, segments)?;
            }
        }
    }
    Ok(placed)
}

/// Returns the segments with their offsets.
#[must_use]
pub fn place(segments: &[Segment]) -> Vec<PlacedSegment> {
    let mut offset = 0;
    segments
        .iter()
        .map(|segment| {
            let placed = PlacedSegment {
                segment: *segment,
                offset,
            };
            offset += segment.len;
            placed
        })
        .collect()
}

/// Replaces a small file, whole or not at all.
///
/// # Errors
/// When it cannot be written; a file that was there is then as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    let staged = Staged::create(path)?;
    staged
        .file()
        .write_all_at(bytes, 0)
        .map_err(FormatError::output("write", path))?;
    staged.publish()
}

fn fresh(cache: &Cache, path: &Path, segments: &[Segment]) -> Result<(), FormatError> {
    let staged = Staged::create(path)?;
    let len = segments.iter().map(|segment| segment.len).sum();
    staged.reserve(len)?;
    write_at(cache, staged.file(), path, 0, segments)?;
    staged.publish()
}

/// Checks that everything needed to write `segments` is there and whole.
pub(super) fn check(cache: &Cache, segments: &[Segment]) -> Result<(), FormatError> {
    for segment in segments {
        if segment.form == Form::Bytes {
            cache.open_object(&segment.digest)?;
            continue;
        }
        for pack in Recipe::open(cache, &segment.digest)?.packs() {
            cache.open_object(pack)?;
        }
    }
    Ok(())
}

/// Writes `segments` one after the other from `offset` on. `path` is for messages.
pub(super) fn write_at(
    cache: &Cache,
    file: &File,
    path: &Path,
    offset: u64,
    segments: &[Segment],
) -> Result<(), FormatError> {
    thread::scope(|scope| {
        let (full, take_full) = sync_channel(BUFFERS);
        let (empty, take_empty) = channel();
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::with_capacity(BUFFER_BYTES));
        }
        let writer = scope.spawn(move || drain(file, path, offset, &take_full, &empty));
        let take = ToFile {
            full,
            empty: take_empty,
        };
        let mut feeder = Feeder::new(cache, take);
        let fed = segments
            .iter()
            .try_for_each(|segment| feeder.segment(cache, segment))
            .and_then(|()| feeder.finish().map(drop));
        // When the writer failed, its error is the cause and the feeder's only an echo.
        match writer.join() {
            Ok(written) => written.and(fed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Hands buffers to the writing thread.
struct ToFile {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// The writing thread is gone; its own error is what gets reported.
fn hung_up() -> FormatError {
    FormatError::Stream(io::ErrorKind::BrokenPipe.into())
}

impl Take for ToFile {
    fn bytes(&mut self, buffer: Vec<u8>) -> Result<Vec<u8>, FormatError> {
        self.full.send(buffer).map_err(|_| hung_up())?;
        self.empty.recv().map_err(|_| hung_up())
    }
}

/// The writing thread.
fn drain(
    file: &File,
    path: &Path,
    mut at: u64,
    full: &Receiver<Vec<u8>>,
    empty: &Sender<Vec<u8>>,
) -> Result<(), FormatError> {
    while let Ok(mut buffer) = full.recv() {
        file.write_all_at(&buffer, at)
            .map_err(FormatError::output("write", path))?;
        at += buffer.len() as u64;
        buffer.clear();
        let _ = empty.send(buffer);
    }
    Ok(())
}

/// A file under a temporary name beside its final one. Dropped unpublished, it leaves nothing.
///
/// The name is `.NAME.kiln-tmp-PID-N`; whoever owns it holds its `flock`, so that the next build
/// can tell the leavings of the dead from the work of the living.
pub(crate) struct Staged {
    file: File,
    staged: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Staged {
    /// Makes an empty file for the output `path`, and removes what dead builds left there.
    pub(crate) fn create(path: &Path) -> Result<Self, FormatError> {
        // A rename would put a file in the place of /dev/null.
        if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            let text = "a device, pipe or socket is there (- is standard output)";
            return Err(FormatError::output("replace", path)(io::Error::other(text)));
        }
        sweep(path);
        loop {
            let staged = temporary(path);
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&staged)
                .map_err(FormatError::output("create", path))?;
            if is_ours(&file).map_err(FormatError::output("create", path))? {
                return Ok(Self::adopt(file, staged, path));
            }
        }
    }

    /// Takes over a file that was renamed to `staged`.
    pub(super) fn adopt(file: File, staged: PathBuf, path: &Path) -> Self {
        Self {
            file,
            staged,
            path: path.to_owned(),
            published: false,
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Allocates the whole length, so that a full disk shows at once, and in one piece.
    pub(super) fn reserve(&self, len: u64) -> Result<(), FormatError> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                // In tenths of megabytes, rounded up.
                let tenths = len.div_ceil(100_000);
                let needed = format!("disk full: {}.{} MB more needed", tenths / 10, tenths % 10);
                Err(FormatError::output("allocate space for", &self.path)(
                    io::Error::new(io::ErrorKind::StorageFull, needed),
                ))
            }
            // Where it is not supported, writing will do.
            _ => Ok(()),
        }
    }

    /// Gives the file its final name.
    pub(crate) fn publish(mut self) -> Result<(), FormatError> {
        fs::rename(&self.staged, &self.path).map_err(FormatError::output("write", &self.path))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.staged);
        }
    }
}

/// Locks a new file; false when another build's sweep came between, and removes it.
fn is_ours(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(false),
        // Where there are no locks, nobody sweeps.
        _ => Ok(file.metadata()?.nlink() > 0),
    }
}

const MARK: &str = ".kiln-tmp";

/// Returns a temporary name for `path` that no other process or thread uses.
pub(super) fn temporary(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut name = stem(path);
    name.push(format!("-{}-{serial}", std::process::id()));
    path.with_file_name(name)
}

/// Returns `.NAME.kiln-tmp`.
fn stem(path: &Path) -> std::ffi::OsString {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(MARK);
    name
}

/// Removes temporary files of this output whose owner is dead. Failing to is no failure.
pub(crate) fn sweep(path: &Path) {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let stem = stem(path);
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(stem.as_encoded_bytes()) {
            continue;
        }
        // Locked until it is gone: whoever made it a moment ago must see that.
        if let Ok(file) = open_quietly(&entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Opens a regular file for reading, without waiting for anyone's lease.
fn open_quietly(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.mode() & 0o170_000 != 0o100_000 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(file)
}
