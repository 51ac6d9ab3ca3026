//! Objects: immutable bytes named by their BLAKE3 digest.
//!
//! One way in: an [`ObjectWriter`] streams to `tmp/`, hashing as it goes; `commit` renames it to
//! its name (an object that is already there is success). One way out: [`Cache::open_object`],
//! read by `pread` or, for larger indexes, mapped.
//!
//! # Durability without syncing
//!
//! Nothing is synced when written: after a power cut an object may be short, empty or wrong. Its
//! name says what it should be, so it can be hashed; the mark says when that is not needed. The
//! mark is the file's **mtime**, which a content-addressed file has no other use for:
//!
//! ```text
//! fresh   = time(blake3 derive_key("kiln object mark 1", "fresh",   boot id, digest, inode, size))
//! durable = time(blake3 derive_key("kiln object mark 1", "durable",          digest, inode, size))
//! time    = 1 + 30 bits seconds, 10⁷ values of 100 ns: the past, and exact on every file system
//! ```
//!
//! Opening compares the mtime of the `fstat` that gives the size with both. *fresh* for this boot:
//! its bytes are at least in the page cache. *durable*: it was read back from the disk once. Else
//! it is hashed; wrong → moved to `quarantine/` and reported as [`CacheError::MissingObject`], so
//! that its step is done again; right → marked. It becomes *durable* after an `fdatasync`, which
//! costs next to nothing for a file of an earlier boot, as all its pages are clean; a file whose
//! ctime is of this boot (copied or unpacked just now, its pages dirty) is marked *fresh* instead.
//! The clock chooses only between these two, which are both sound.
//!
//! - Whoever writes to an object by hand, or truncates it, changes mtime or size: the mark is gone.
//! - A copy (`cp`, `tar`, `rsync`, another disk) has another inode: hashed once. A moved directory
//!   keeps its marks.
//! - Read-only media and other users' objects cannot be marked: hashed once per process.
//! - On file systems that machines share, *fresh* means nothing to the others; they mark *durable*
//!   at once (a close flushes to the server), and do not undo each other's marks.
//! - A disk pulled out of a running machine is not a reboot; only a changed size is noticed.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, Seek, Write};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use crate::boot;
use crate::error::{CacheError, Result, is_damage, is_stale};
use crate::temporary::Temporary;
use crate::tier::Trouble;
use crate::{Cache, Digest};

/// Objects of more bytes are mapped: the system calls, page faults and the change of the address
/// space cost as much as reading some pages does.
const MAPPED_BYTES_MIN: u64 = 16 << 10;

/// An object being written. Dropped without [`commit`](Self::commit), it leaves nothing.
///
/// Buffers of 256 KiB and more run at the speed of hashing and writing; there is no buffer inside.
pub struct ObjectWriter<'a> {
    cache: &'a Cache,
    temporary: Temporary,
    hasher: blake3::Hasher,
    len: u64,
    expected: u64,
}

impl ObjectWriter<'_> {
    /// Returns the bytes written so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns true when nothing was written yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tells how many bytes are expected in all, for the message when the disk is full.
    pub const fn expect_len(&mut self, bytes: u64) {
        self.expected = bytes;
    }

    /// Returns the name that it has if it ends here.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }

    /// Gives the object its name, and holds it.
    ///
    /// # Errors
    /// When the file cannot be moved into place.
    pub fn commit(self) -> Result<Digest> {
        let digest = Digest::from(self.hasher.finalize());
        let target = self.cache.object_path(&digest);
        self.cache.hold(&[digest])?;
        // One there that would have to be hashed is replaced: this one is known to be right.
        if let Ok(there) = fs::symlink_metadata(&target)
            && there.len() == self.len
            && self.cache.trusts(&digest, &there)
        {
            return Ok(digest);
        }
        self.cache.mark_fresh(&digest, self.temporary.file())?;
        self.temporary.publish(&target)?;
        Ok(digest)
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.len + bytes.len() as u64;
        self.temporary
            .write(bytes, self.expected.saturating_sub(end))
            .map_err(CacheError::into_io)?;
        self.hasher.update(bytes);
        self.len = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An open object.
#[derive(Debug)]
pub struct Object {
    digest: Digest,
    file: File,
    len: u64,
    /// Of an object in a tier: what went wrong there, and whether it can be mapped.
    tier: Option<(Trouble, bool)>,
}

impl Object {
    /// Returns the object's name.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns its size in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns true for the object of no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the object is shorter, or the system says so. What cannot be read of a tier is
    /// [`CacheError::MissingObject`]: the tier is used no more, and the step is to be done again.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|error| self.lost(error))
    }

    /// Maps the whole object, to begin at a multiple of 16. For indexes: mapped packs would count
    /// as resident memory. A small object is read instead, which is cheaper, and so is one of a
    /// tier on another machine: a mapping cannot say that it went away.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn map(&self) -> io::Result<Mapping> {
        let is_mapped = !matches!(&self.tier, Some((_, false)));
        let map = match is_mapped && self.len > MAPPED_BYTES_MIN {
            true => map::whole(&self.file),
            false => map::read(&self.file, self.len),
        };
        map.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: io::Error) -> io::Error {
        let Some((trouble, _)) = &self.tier else {
            return match is_stale(&error) {
                true => CacheError::MissingObject(self.digest).into_io(),
                false => error,
            };
        };
        // Only the first one is told.
        let _ = trouble.set(format!("object {}: {error}", self.digest));
        CacheError::MissingObject(self.digest).into_io()
    }
}

/// The bytes of an object, read-only.
#[derive(Debug)]
pub struct Mapping(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    /// The bytes from there on.
    Read(Vec<u8>, usize),
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes, start) => &bytes[*start..],
        }
    }
}

mod map {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    use super::{Bytes, Mapping};

    /// Maps a file that is not empty (`mmap` refuses that).
    pub(super) fn whole(file: &File) -> io::Result<Mapping> {
        // SAFETY: objects are immutable: written under tmp/, renamed once, never opened for
        // writing again. Whoever truncates a file of the cache by hand gets SIGBUS, as with any
        // mapped file.
        unsafe { memmap2::Mmap::map(file) }.map(|map| Mapping(Bytes::Mapped(map)))
    }

    /// Reads a file instead.
    pub(super) fn read(file: &File, len: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; len + 16];
        let start = bytes.as_ptr().align_offset(16).min(16);
        bytes.truncate(start + len);
        file.read_exact_at(&mut bytes[start..], 0)?;
        Ok(Mapping(Bytes::Read(bytes, start)))
    }
}

/// The mtime of an object: of this boot, or of none when durable.
fn mark(boot: Option<&str>, digest: &Digest, metadata: &Metadata) -> SystemTime {
    let mut hasher = blake3::Hasher::new_derive_key("kiln object mark 1");
    hasher.update(digest.as_bytes());
    hasher.update(&metadata.ino().to_le_bytes());
    hasher.update(&metadata.len().to_le_bytes());
    hasher.update(if boot.is_some() { b"fresh" } else { b"durable" });
    hasher.update(boot.unwrap_or_default().as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    let seconds = 1 + u64::from(u32::from_le_bytes([a, b, c, d]) >> 2);
    let ticks = u32::from_le_bytes([e, f, g, h]) % 10_000_000;
    SystemTime::UNIX_EPOCH + Duration::new(seconds, ticks * 100)
}

impl Cache {
    /// Starts a new object.
    ///
    /// # Errors
    /// When the temporary file cannot be made.
    pub fn object_writer(&self) -> Result<ObjectWriter<'_>> {
        Ok(ObjectWriter {
            cache: self,
            temporary: self.create_temporary()?,
            hasher: blake3::Hasher::new(),
            len: 0,
            expected: 0,
        })
    }

    /// Stores bytes that are in memory already, and holds them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.object_path(&digest);
        self.hold(&[digest])?;
        if let Ok(there) = fs::symlink_metadata(&path)
            && there.len() == bytes.len() as u64
            && self.trusts(&digest, &there)
        {
            return Ok(digest);
        }
        let mut temporary = self.create_temporary()?;
        temporary.write(bytes, 0)?;
        self.mark_fresh(&digest, temporary.file())?;
        temporary.publish(&path)?;
        Ok(digest)
    }

    /// Opens an object.
    ///
    /// # Errors
    /// [`CacheError::MissingObject`] when it is not there, or was damaged and is now set aside.
    pub fn open_object(&self, digest: &Digest) -> Result<Object> {
        self.open_checked(digest, None)
    }

    /// Opens an object whose size a record tells. One of another size is set aside unread.
    ///
    /// # Errors
    /// [`CacheError::MissingObject`] when it is not there, or was damaged and is now set aside.
    pub fn open_sized(&self, digest: &Digest, size: u64) -> Result<Object> {
        self.open_checked(digest, Some(size))
    }

    fn open_checked(&self, digest: &Digest, size: Option<u64>) -> Result<Object> {
        let own = self.open_own(digest, size);
        if self.tiers.is_empty() || !matches!(own, Err(CacheError::MissingObject(_))) {
            return own;
        }
        let other = self.in_tiers(|tier, trouble| {
            let mut object = tier.open_own(digest, size)?;
            object.tier = Some((trouble.clone(), tier.is_local()));
            Ok(Some(object))
        });
        other.map_or(own, Ok)
    }

    fn open_own(&self, digest: &Digest, size: Option<u64>) -> Result<Object> {
        let path = self.object_path(digest);
        let missing = || CacheError::MissingObject(*digest);
        let mut opened = File::open(&path);
        if matches!(&opened, Err(error) if error.kind() == io::ErrorKind::NotFound)
            && self.comes_back(&path)
        {
            opened = File::open(&path);
        }
        let file = match opened {
            Ok(file) => file,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || is_damage(&error)
                    || is_stale(&error) =>
            {
                return Err(missing());
            }
            Err(error) => return Err(CacheError::io("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(CacheError::io("stat", &path))?;
        let len = metadata.len();
        let whole = metadata.is_file()
            && size.is_none_or(|size| size == len)
            && (self.trusts(digest, &metadata) || self.verify(digest, &path, &file, &metadata)?);
        if !whole {
            self.quarantine(digest, &path, &metadata);
            return Err(missing());
        }
        Ok(Object {
            digest: *digest,
            file,
            len,
            tier: None,
        })
    }

    /// Reads a whole small object.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let object = self.open_object(digest)?;
        let mut bytes = vec![0; usize::try_from(object.len).unwrap_or(usize::MAX)];
        object
            .read_exact_at(&mut bytes, 0)
            .map_err(CacheError::io("read", &self.object_path(digest)))?;
        Ok(bytes)
    }

    /// Returns true when the object is there (its content is not looked at).
    #[must_use]
    pub fn has_object(&self, digest: &Digest) -> bool {
        let has = |cache: &Self| cache.object_path(digest).exists();
        has(self)
            || self
                .in_tiers(|tier, _| Ok(has(tier).then_some(())))
                .is_some()
    }

    /// Returns true when the object is there with this size (its content is not looked at).
    #[must_use]
    pub fn has_object_sized(&self, digest: &Digest, size: u64) -> bool {
        let has = |cache: &Self| {
            fs::symlink_metadata(cache.object_path(digest))
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
        };
        has(self)
            || self
                .in_tiers(|tier, _| Ok(has(tier).then_some(())))
                .is_some()
    }

    /// Returns true when the object is there with this size and its mark says that it is whole:
    /// it need not be opened. Other machines' changes are seen by opening only.
    pub(crate) fn is_marked(&self, digest: &Digest, size: u64) -> bool {
        self.is_local()
            && fs::symlink_metadata(self.object_path(digest)).is_ok_and(|metadata| {
                metadata.is_file() && metadata.len() == size && self.trusts(digest, &metadata)
            })
    }

    /// True when the mark says that nothing can have been lost since the object was written.
    fn trusts(&self, digest: &Digest, metadata: &Metadata) -> bool {
        metadata.modified().is_ok_and(|modified| {
            modified == mark(None, digest, metadata)
                || modified == mark(Some(&self.boot.id), digest, metadata)
        })
    }

    /// Marks a file that this process has written.
    fn mark_fresh(&self, digest: &Digest, file: &File) -> Result<()> {
        let path = || self.object_path(digest);
        let metadata = file
            .metadata()
            .map_err(|error| CacheError::io("stat", &path())(error))?;
        let time = mark(Some(&self.boot.id), digest, &metadata);
        file.set_times(FileTimes::new().set_modified(time))
            .map_err(|error| CacheError::io("mark", &path())(error))
    }

    /// Hashes an object without a mark; marks it when it is right.
    fn verify(
        &self,
        digest: &Digest,
        path: &Path,
        mut file: &File,
        metadata: &Metadata,
    ) -> Result<bool> {
        let memo = (*digest, metadata.ino());
        let hashed = || self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        if hashed().contains(&memo) {
            return Ok(true);
        }
        let mut hasher = blake3::Hasher::new();
        match hasher.update_reader(file) {
            Ok(_) => {}
            Err(error) if is_damage(&error) => return Ok(false),
            Err(error) => return Err(CacheError::io("read", path)(error)),
        }
        file.rewind().map_err(CacheError::io("read", path))?;
        if Digest::from(hasher.finalize()) != *digest {
            return Ok(false);
        }
        if self.is_read_only || !self.mark_verified(digest, file, metadata) {
            hashed().insert(memo);
        }
        Ok(true)
    }

    /// Returns false when this file is not for us to mark.
    fn mark_verified(&self, digest: &Digest, file: &File, metadata: &Metadata) -> bool {
        let ctime = boot::nanoseconds(metadata.ctime(), metadata.ctime_nsec());
        let dirty = self.is_local() && ctime >= self.boot.since_ns;
        let boot = dirty.then_some(self.boot.id.as_str());
        let time = mark(boot, digest, metadata);
        (dirty || file.sync_data().is_ok())
            && file.set_times(FileTimes::new().set_modified(time)).is_ok()
    }

    /// Moves a damaged object away, unless another one has taken its place meanwhile. Where that
    /// is not possible, the next writer of this object replaces it.
    pub(crate) fn quarantine(&self, digest: &Digest, path: &Path, damaged: &Metadata) {
        if self.is_read_only {
            return;
        }
        let directory = self.root().join("quarantine");
        if fs::symlink_metadata(path).is_ok_and(|there| there.ino() == damaged.ino()) {
            let to = directory.join(format!("{digest}-{:016x}", boot::random()));
            let _ = fs::create_dir_all(&directory);
            let _ = fs::rename(path, to);
        }
    }
}
