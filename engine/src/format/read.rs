//! Segments back into bytes.
//!
//! Enters: segments. Leaves: buffers of up to 1 MiB in output order. Memory: the taker's buffers,
//! one literal block, at most [`OPEN_MAX`] open objects.

use std::collections::HashMap;
use std::sync::Arc;

use kiln_cache::{Cache, Digest, Object};

use super::recipe::{Recipe, Sink};
use super::{Form, FormatError, Segment};

/// The size of a full buffer.
pub const BUFFER_BYTES: usize = 1 << 20;
/// The most objects a reader keeps open: Debian systems have a pack per package, and 1024 is a
/// common limit for a process.
const OPEN_MAX: usize = 256;

/// Keeps packs open.
pub struct Packs<'a> {
    cache: &'a Cache,
    open: HashMap<Digest, Arc<Object>>,
}

impl<'a> Packs<'a> {
    /// Returns a set with nothing open.
    #[must_use]
    pub fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            open: HashMap::new(),
        }
    }

    /// Opens an object, or returns the open one.
    ///
    /// # Errors
    /// When it is missing.
    pub fn get(&mut self, digest: &Digest) -> Result<Arc<Object>, FormatError> {
        if let Some(object) = self.open.get(digest) {
            return Ok(Arc::clone(object));
        }
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        let object = Arc::new(self.cache.open_object(digest)?);
        self.open.insert(*digest, Arc::clone(&object));
        Ok(object)
    }
}

/// Takes an output's bytes in order.
pub trait Take {
    /// Takes the filled part of a buffer and returns an empty one of at least
    /// [`BUFFER_BYTES`] capacity.
    ///
    /// # Errors
    /// When the bytes cannot be written.
    fn bytes(&mut self, buffer: Vec<u8>) -> Result<Vec<u8>, FormatError>;
}

/// Gathers pieces into buffers for a [`Take`].
pub struct Feeder<'a, T: Take> {
    packs: Packs<'a>,
    take: T,
    buffer: Vec<u8>,
    len: u64,
}

impl<'a, T: Take> Feeder<'a, T> {
    /// Returns a feeder for `take`.
    #[must_use]
    pub fn new(cache: &'a Cache, take: T) -> Self {
        Self {
            packs: Packs::new(cache),
            take,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            len: 0,
        }
    }

    /// Feeds a whole segment.
    ///
    /// # Errors
    /// When an object is missing, damaged or of another length, or the taker fails.
    pub fn segment(&mut self, cache: &Cache, segment: &Segment) -> Result<(), FormatError> {
        let wrong = |found| FormatError::WrongLength {
            digest: segment.digest,
            expected: segment.len,
            found,
        };
        if segment.form == Form::Bytes {
            let found = self.packs.get(&segment.digest)?.len();
            if found != segment.len {
                return Err(wrong(found));
            }
            return self.range(&segment.digest, 0, segment.len);
        }
        let recipe = Recipe::open(cache, &segment.digest)?;
        if recipe.len() != segment.len {
            return Err(wrong(recipe.len()));
        }
        recipe.replay(self)
    }

    fn flush(&mut self) -> Result<(), FormatError> {
        if !self.buffer.is_empty() {
            self.buffer = self.take.bytes(std::mem::take(&mut self.buffer))?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns the room in the buffer, making some when there is none.
    fn room(&mut self) -> Result<usize, FormatError> {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(BUFFER_BYTES - self.buffer.len())
    }

    /// Gives the taker what is left and returns it.
    ///
    /// # Errors
    /// When the taker fails.
    pub fn finish(mut self) -> Result<T, FormatError> {
        self.flush()?;
        Ok(self.take)
    }
}

impl<T: Take> Sink for Feeder<'_, T> {
    fn literal(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.room()?;
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(head);
            bytes = tail;
        }
        Ok(())
    }

    fn range(&mut self, pack: &Digest, mut offset: u64, mut len: u64) -> Result<(), FormatError> {
        let object = self.packs.get(pack)?;
        let wanted = len;
        let unreadable = |source, offset| FormatError::Unreadable {
            digest: *pack,
            offset,
            len: wanted,
            source,
        };
        if offset.checked_add(len).is_none_or(|end| end > object.len()) {
            return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into(), offset));
        }
        self.len += len;
        while len > 0 {
            let room = self.room()?;
            let step = room.min(usize::try_from(len).unwrap_or(usize::MAX));
            let start = self.buffer.len();
            self.buffer.resize(start + step, 0);
            object
                .read_exact_at(&mut self.buffer[start..], offset)
                .map_err(|source| unreadable(source, offset))?;
            offset += step as u64;
            len -= step as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, mut len: u64) -> Result<(), FormatError> {
        self.len += len;
        while len > 0 {
            let room = self.room()?;
            let step = room.min(usize::try_from(len).unwrap_or(usize::MAX));
            self.buffer.resize(self.buffer.len() + step, 0);
            len -= step as u64;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// A [`Take`] that writes everything to a stream.
pub struct ToWriter<W>(pub W);

impl<W: std::io::Write> Take for ToWriter<W> {
    fn bytes(&mut self, buffer: Vec<u8>) -> Result<Vec<u8>, FormatError> {
        self.0.write_all(&buffer).map_err(FormatError::Stream)?;
        Ok(buffer)
    }
}

/// Writes a segment's bytes to `writer`.
///
/// # Errors
/// When an object is missing or damaged, or the writer fails.
pub fn copy_segment(
    cache: &Cache,
    segment: &Segment,
    writer: impl std::io::Write,
) -> Result<(), FormatError> {
    let mut feeder = Feeder::new(cache, ToWriter(writer));
    feeder.segment(cache, segment)?;
    feeder.finish().map(drop)
}
