//! Writing archives.
//!
//! Enters: the keys of actions. Leaves: a stream with those that are complete, and their objects.
//! Memory: one buffer, and what zstd needs for each of its threads (some 20 MB).

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};

use zstd::stream::write::Encoder;
use zstd::zstd_safe::CParameter;

use super::header::{self, Entry};
use super::{BUFFER_BYTES, FORMAT, Progress, SKIPPABLE, TITLE, padding};
use crate::error::CacheError;
use crate::record::{self, Kind};
use crate::{Action, Cache, Digest, Key};

/// zstd's level: made once and read a few times, at the speed of a network.
const LEVEL: i32 = 3;
/// A zstd job: what one thread compresses at a time. Fixed, as the bytes depend on it.
const JOB_BYTES: u32 = 4 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Actions.
    pub actions: u64,
    /// Objects.
    pub objects: u64,
    /// The sizes of the objects together, in bytes.
    pub bytes: u64,
    /// Actions that were left out: not known, or an object of theirs is missing or damaged.
    pub left_out: u64,
}

/// Why an archive is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The cache cannot be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The stream cannot be written to.
    #[error("cannot write the archive: {0}")]
    Output(#[source] io::Error),
    /// The caller gave up.
    #[error("interrupted")]
    Cancelled,
}

struct Writer<'a, 'p, W: Write> {
    cache: &'a Cache,
    out: Encoder<'static, W>,
    written: HashSet<Digest>,
    exported: Exported,
    progress: Progress<'p>,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<'_, '_, W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.out.write_all(bytes).map_err(ExportError::Output)
    }

    fn pad(&mut self, size: u64) -> Result<(), ExportError> {
        self.put(&[0; header::BLOCK_BYTES][..padding(size)])
    }

    fn action(&mut self, key: &Key) -> Result<(), ExportError> {
        let cache = self.cache;
        let Some(action) = self.sound(key)? else {
            self.exported.left_out += 1;
            return Ok(());
        };
        for (_, digest, size) in &action.outputs {
            if self.written.insert(*digest) {
                self.object(cache, digest, *size)?;
            }
        }
        let bytes = record::seal(Kind::Action, key, &action.encode());
        self.put(&header::encode(Entry::Action(*key), bytes.len() as u64))?;
        self.put(&bytes)?;
        self.pad(bytes.len() as u64)?;
        self.exported.actions += 1;
        Ok(())
    }

    /// Returns an action whose objects are whole, and will stay so while this goes on.
    fn sound(&self, key: &Key) -> Result<Option<Action>, CacheError> {
        let Some(action) = self.cache.action(key)? else {
            return Ok(None);
        };
        let digests: Vec<_> = action.outputs.iter().map(|output| output.1).collect();
        self.cache.hold(&digests)?;
        Ok(self.cache.sound(&action)?.then_some(action))
    }

    fn object(&mut self, cache: &Cache, digest: &Digest, size: u64) -> Result<(), ExportError> {
        let object = cache.open_sized(digest, size)?;
        self.put(&header::encode(Entry::Object(*digest), size))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while at < size {
            let step = (size - at).min(BUFFER_BYTES as u64);
            let part = &mut buffer[..usize::try_from(step).unwrap_or(BUFFER_BYTES)];
            object
                .read_exact_at(part, at)
                .map_err(CacheError::io("read", &cache.object_path(digest)))?;
            self.put(part)?;
            at += step;
            self.exported.bytes += step;
            if !(self.progress)(self.exported.bytes) {
                return Err(ExportError::Cancelled);
            }
        }
        self.buffer = buffer;
        self.exported.objects += 1;
        self.pad(size)
    }
}

impl Cache {
    /// Writes the actions of `keys` with their objects to `out`, compressed by `threads` threads
    /// (at least one). Actions that are not complete are left out and counted.
    ///
    /// # Errors
    /// When an object cannot be read, `out` cannot be written to, or `progress` says to stop. What
    /// was written until then reads as a truncated archive.
    pub fn export<W: Write>(
        &self,
        keys: &BTreeSet<Key>,
        threads: usize,
        mut out: W,
        progress: Progress<'_>,
    ) -> Result<Exported, ExportError> {
        let title = [TITLE, format!("{FORMAT}\n").as_bytes()].concat();
        let len = u32::try_from(title.len()).unwrap_or(u32::MAX);
        let frame = [&SKIPPABLE[..], &len.to_le_bytes(), &title].concat();
        out.write_all(&frame).map_err(ExportError::Output)?;
        let mut writer = Writer {
            cache: self,
            out: encoder(out, threads).map_err(ExportError::Output)?,
            written: HashSet::new(),
            exported: Exported::default(),
            progress,
            buffer: vec![0; BUFFER_BYTES],
        };
        for key in keys {
            writer.action(key)?;
        }
        writer.put(&[0; 2 * header::BLOCK_BYTES])?;
        let mut out = writer.out.finish().map_err(ExportError::Output)?;
        out.flush().map_err(ExportError::Output)?;
        Ok(writer.exported)
    }
}

fn encoder<W: Write>(out: W, threads: usize) -> io::Result<Encoder<'static, W>> {
    let mut encoder = Encoder::new(out, LEVEL)?;
    // Never none: the bytes differ between none and one, not between one and many.
    encoder.multithread(u32::try_from(threads.max(1)).unwrap_or(1))?;
    encoder.set_parameter(CParameter::JobSize(JOB_BYTES))?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}
