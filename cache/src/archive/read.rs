//! Reading archives, of anybody.
//!
//! Enters: a stream. Leaves: objects that are what their names say, and actions whose objects are
//! all there; then, when the stream is cut or wrong, an error that says where, with all that came
//! before it kept. What the cache has already is passed over, so an import that was cut goes on
//! when it is run again. Names become digests and keys, never paths. Memory: one buffer, zstd's
//! window (at most [`WINDOW_LOG_MAX`]), one action's record (at most 64 MiB).

use std::cell::Cell;
use std::io::{self, BufReader, Read, Write};

use zstd::stream::read::Decoder;

use super::header::{self, BLOCK_BYTES, Entry};
use super::{BUFFER_BYTES, FORMAT, Progress, SKIPPABLE, TITLE, padding};
use crate::error::CacheError;
use crate::record::{self, Kind};
use crate::{Action, Cache, Digest, Key};

/// The largest window of a zstd stream that is read: 16 MiB. Archives are written with 2 MiB.
pub const WINDOW_LOG_MAX: u32 = 24;

/// The largest record that is believed to be one: a decoded one can be six times as large.
const ACTION_BYTES_MAX: u64 = 16 << 20;
/// The longest title that is read.
const TITLE_BYTES_MAX: usize = 64;

/// What an import has brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// New actions.
    pub actions: u64,
    /// New objects.
    pub objects: u64,
    /// The sizes of the new objects together, in bytes.
    pub bytes: u64,
    /// Actions that were there already.
    pub known: u64,
}

/// Why an import ended early.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct ImportError {
    /// What came before, and is kept.
    pub imported: Imported,
    /// What is wrong.
    #[source]
    pub failure: ImportFailure,
}

/// What can be wrong with an archive. Offsets are those of the tar inside, in bytes.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    /// It does not begin as an archive does.
    #[error("not an archive of a kiln cache")]
    NotAnArchive,
    /// It was made by a newer kiln.
    #[error("an archive of format {found}; this kiln reads format {FORMAT}")]
    Newer {
        /// Its format number.
        found: u32,
    },
    /// It ends too early.
    #[error("the archive is cut off (at byte {offset} of the tar in it)")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// It is not what this code writes.
    #[error("the archive is damaged at byte {offset} of the tar in it: {reason}")]
    Damaged {
        /// The entry's first byte, or where decompression failed.
        offset: u64,
        /// What is there.
        reason: &'static str,
    },
    /// The stream cannot be read.
    #[error("cannot read the archive: {0}")]
    Input(#[source] io::Error),
    /// The cache cannot be written to.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The caller gave up.
    #[error("interrupted")]
    Cancelled,
}

/// Bytes that [`is_archive`] needs to see.
pub const RECOGNISED_BYTES: usize = SKIPPABLE.len() + 4 + TITLE.len();

/// True when a stream that begins with `head` is an archive, of whatever format.
#[must_use]
pub fn is_archive(head: &[u8]) -> bool {
    head.strip_prefix(&SKIPPABLE)
        .and_then(|rest| rest.get(4..))
        .is_some_and(|rest| rest.starts_with(TITLE))
}

/// Remembers whether an error came from the stream itself.
struct Source<'f, R> {
    inner: R,
    failed: &'f Cell<bool>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        let is_error = |error: &io::Error| error.kind() != io::ErrorKind::Interrupted;
        if read.as_ref().is_err_and(is_error) {
            self.failed.set(true);
        }
        read
    }
}

/// Reads until `buffer` is full or the stream ends; returns how much.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads the skippable frame.
fn title(source: &mut impl Read) -> Result<(), ImportFailure> {
    let mut head = [0; SKIPPABLE.len() + 4];
    let mut text = [0; TITLE_BYTES_MAX];
    let got = fill(source, &mut head).map_err(ImportFailure::Input)?;
    let [.., a, b, c, d] = head;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if got < head.len() || !head.starts_with(&SKIPPABLE) || len > text.len() {
        return Err(ImportFailure::NotAnArchive);
    }
    let got = fill(source, &mut text[..len]).map_err(ImportFailure::Input)?;
    let number = text[..got]
        .strip_prefix(TITLE)
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
    match number {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(ImportFailure::Newer { found }),
        None => Err(ImportFailure::NotAnArchive),
    }
}

struct Reader<'a, 'p, R: Read> {
    cache: &'a Cache,
    tar: Decoder<'static, BufReader<R>>,
    /// Set when the stream below failed, not what stands in it.
    failed: &'a Cell<bool>,
    offset: u64,
    /// Where the entry began that is being read.
    entry: u64,
    imported: Imported,
    done: u64,
    progress: Progress<'p>,
}

impl<R: Read> Reader<'_, '_, R> {
    const fn damaged(&self, reason: &'static str) -> ImportFailure {
        let offset = self.entry;
        ImportFailure::Damaged { offset, reason }
    }

    /// Fills `buffer` or says why not.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImportFailure> {
        match fill(&mut self.tar, buffer) {
            Ok(got) => {
                self.offset += got as u64;
                let offset = self.offset;
                let is_full = got == buffer.len();
                is_full
                    .then_some(())
                    .ok_or(ImportFailure::Truncated { offset })
            }
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn unreadable(&self, error: io::Error) -> ImportFailure {
        let offset = self.offset;
        match error.kind() {
            _ if self.failed.get() => ImportFailure::Input(error),
            io::ErrorKind::UnexpectedEof => ImportFailure::Truncated { offset },
            _ => ImportFailure::Damaged {
                offset,
                reason: "it does not decompress",
            },
        }
    }

    /// Reads one entry; false at the end of the archive.
    fn entry(&mut self, buffer: &mut [u8]) -> Result<bool, ImportFailure> {
        self.entry = self.offset;
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block)?;
        if block == [0; BLOCK_BYTES] {
            self.end(block)?;
            return Ok(false);
        }
        let Some((entry, size)) = header::decode(&block) else {
            return Err(self.damaged("an entry that is no object and no action"));
        };
        match entry {
            Entry::Object(digest) => self.object(&digest, size, buffer)?,
            Entry::Action(key) => self.action(&key, size)?,
        }
        let padding = &mut block[..padding(size)];
        self.fill(padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.damaged("something between two entries"));
        }
        Ok(true)
    }

    /// Reads the second block of zeros, and that nothing follows.
    fn end(&mut self, mut block: [u8; BLOCK_BYTES]) -> Result<(), ImportFailure> {
        self.fill(&mut block)?;
        if block != [0; BLOCK_BYTES] {
            return Err(self.damaged("one block of zeros, where two end a tar"));
        }
        self.entry = self.offset;
        // An error is the frame's end being cut off, its checksum included.
        match self.tar.read(&mut block[..1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something after the end")),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    /// Passes the content of an entry to `take`, part by part.
    fn content(
        &mut self,
        size: u64,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<(), ImportFailure>,
    ) -> Result<(), ImportFailure> {
        let mut left = size;
        while left > 0 {
            let step = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.fill(&mut buffer[..step])?;
            take(&buffer[..step])?;
            left -= step as u64;
            self.done += step as u64;
            if !(self.progress)(self.done) {
                return Err(ImportFailure::Cancelled);
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        digest: &Digest,
        size: u64,
        buffer: &mut [u8],
    ) -> Result<(), ImportFailure> {
        let cache = self.cache;
        // Its action comes later: until then nothing else keeps it.
        cache.hold(&[*digest])?;
        // By its name alone: the size is what the archive says.
        if cache
            .open_object(digest)
            .is_ok_and(|there| there.len() == size)
        {
            return self.content(size, buffer, |_| Ok(()));
        }
        let mut object = cache.object_writer()?;
        object.expect_len(size);
        self.content(size, buffer, |part| {
            let written = object.write_all(part);
            written.map_err(|error| CacheError::io("write", cache.root())(error).into())
        })?;
        if object.digest() != *digest {
            return Err(self.damaged("an object that is not what its name says"));
        }
        object.commit()?;
        self.imported.objects += 1;
        self.imported.bytes += size;
        Ok(())
    }

    fn action(&mut self, key: &Key, size: u64) -> Result<(), ImportFailure> {
        if size > ACTION_BYTES_MAX {
            return Err(self.damaged("an action larger than any"));
        }
        // Grows with what comes, not with what is promised.
        let mut bytes = Vec::new();
        let mut buffer = [0; 8 << 10];
        self.content(size, &mut buffer, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        let action = record::unseal(Kind::Action, key, &bytes).and_then(Action::decode);
        let Some(action) = action else {
            return Err(self.damaged("an action that is not what its name says"));
        };
        if !self.cache.sound(&action)? {
            return Err(self.damaged("an action without its objects"));
        }
        let known = self.cache.action(key)?;
        if known.is_some_and(|known| self.cache.complete(&known)) {
            self.imported.known += 1;
            return Ok(());
        }
        self.cache.put_action(key, &action)?;
        self.imported.actions += 1;
        Ok(())
    }
}

impl Cache {
    /// Takes in an archive.
    ///
    /// # Errors
    /// When it is cut off or damaged, cannot be read, or the cache cannot be written to. What came
    /// before is kept and counted in the error.
    pub fn import<R: Read>(
        &self,
        source: R,
        progress: Progress<'_>,
    ) -> Result<Imported, ImportError> {
        let nothing = |failure| ImportError {
            imported: Imported::default(),
            failure,
        };
        let failed = Cell::new(false);
        let mut source = Source {
            inner: source,
            failed: &failed,
        };
        title(&mut source).map_err(nothing)?;
        let decoder = Decoder::new(source).and_then(|mut decoder| {
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(decoder)
        });
        let mut reader = Reader {
            cache: self,
            tar: decoder.map_err(|error| nothing(ImportFailure::Input(error)))?,
            failed: &failed,
            offset: 0,
            entry: 0,
            imported: Imported::default(),
            done: 0,
            progress,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match reader.entry(&mut buffer) {
                Ok(true) => {}
                Ok(false) => return Ok(reader.imported),
                Err(failure) => {
                    return Err(ImportError {
                        imported: reader.imported,
                        failure,
                    });
                }
            }
        }
    }
}
