//! Objects: immutable bytes named by their BLAKE3 digest.
//!
//! One way in: an [`ObjectWriter`] streams to `tmp/`, hashing as it goes; `commit` renames it to
//! its name (an object that is already there is success). One way out: [`Cache::open_object`],
//! read by `pread` or, for indexes, mapped.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::unix::fs::FileExt;

use crate::error::{CacheError, Result};
use crate::temporary::Temporary;
use crate::{Cache, Digest};

/// An object being written. Dropped without [`commit`](Self::commit), it leaves nothing.
pub struct ObjectWriter<'a> {
    cache: &'a Cache,
    temporary: Temporary,
    file: File,
    hasher: blake3::Hasher,
    len: u64,
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

    /// Gives the object its name.
    ///
    /// # Errors
    /// When the file cannot be moved into place.
    pub fn commit(self) -> Result<Digest> {
        let digest = Digest::from(self.hasher.finalize());
        let target = self.cache.object_path(&digest);
        if target.exists() {
            return Ok(digest);
        }
        self.temporary.publish(&target)?;
        Ok(digest)
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
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

    /// Returns the open file, for `copy_file_range` and the like.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the object is shorter, or the system says so.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Maps the whole object. For indexes: mapped packs would count as resident memory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn map(&self) -> io::Result<Mapping> {
        map::whole(&self.file, self.len).map(Mapping)
    }
}

/// A read-only mapping of an object.
#[derive(Debug)]
pub struct Mapping(Option<memmap2::Mmap>);

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

mod map {
    use std::fs::File;
    use std::io;

    /// Maps a file; an empty one needs no mapping (and `mmap` refuses it).
    pub(super) fn whole(file: &File, len: u64) -> io::Result<Option<memmap2::Mmap>> {
        if len == 0 {
            return Ok(None);
        }
        // SAFETY: objects are immutable: written under tmp/, renamed once, never opened for
        // writing again. Whoever truncates a file of the cache by hand gets SIGBUS, as with any
        // mapped file.
        unsafe { memmap2::Mmap::map(file) }.map(Some)
    }
}

impl Cache {
    /// Starts a new object.
    ///
    /// # Errors
    /// When the temporary file cannot be made.
    pub fn object_writer(&self) -> Result<ObjectWriter<'_>> {
        let (temporary, file) = self.create_temporary()?;
        Ok(ObjectWriter {
            cache: self,
            temporary,
            file,
            hasher: blake3::Hasher::new(),
            len: 0,
        })
    }

    /// Stores bytes that are in memory already.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.object_path(&digest).exists() {
            return Ok(digest);
        }
        let mut writer = self.object_writer()?;
        let written = writer.write_all(bytes);
        writer.temporary.wrote(written)?;
        writer.commit()
    }

    /// Opens an object.
    ///
    /// # Errors
    /// [`CacheError::MissingObject`] when it is not there.
    pub fn open_object(&self, digest: &Digest) -> Result<Object> {
        let path = self.object_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CacheError::MissingObject(*digest));
            }
            Err(error) => return Err(CacheError::io("open", &path)(error)),
        };
        let len = file
            .metadata()
            .map_err(CacheError::io("stat", &path))?
            .len();
        Ok(Object {
            digest: *digest,
            file,
            len,
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
        self.object_path(digest).exists()
    }
}
