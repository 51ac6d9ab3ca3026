//! Compressors for initrd members, with all cores on one member.
//!
//! Enters: bytes. Leaves: bytes that Linux's initramfs unpacker reads, the same on any number of
//! cores: zstd always through its multithreaded interface with a fixed job size and overlap (the
//! bytes differ between none and one worker, not between one and many), gzip in fixed chunks that
//! each know the 32 KiB before them, as pigz does it. Memory: a few jobs per core.

use std::io::{self, Write};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use kiln_cache::{Cache, CacheError, ObjectWriter};
use rayon::prelude::*;
use zstd::stream::write::Encoder as ZstdEncoder;
use zstd::zstd_safe::CParameter;

use super::read::{Feeder, ToWriter};
use super::{ALIGN_BYTES, Form, FormatError, Segment, padding};

/// zstd's level, its own default.
const ZSTD_LEVEL: i32 = 3;
/// A zstd job: what one worker compresses at a time.
const ZSTD_JOB_BYTES: u32 = 4 << 20;
/// zstd's overlap code: 6 is an eighth of the window reloaded at the start of a job.
const ZSTD_OVERLAP: u32 = 6;
/// gzip's level, its default.
const GZIP_LEVEL: u32 = 6;
/// What one core deflates at a time.
const GZIP_CHUNK_BYTES: usize = 512 << 10;
/// How far deflate looks back.
const GZIP_WINDOW_BYTES: usize = 32 << 10;

/// Version of the bytes: raised whenever the same input may be compressed differently, a new
/// version of a compression library included.
pub const VERSION: u32 = 1;

/// How an initrd's members are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// Not at all: members are recipes, and no byte of a file is read to make them.
    None,
    /// gzip (RFC 1952), which every kernel with initrd support of the last decades reads.
    Gzip,
    /// zstd (RFC 8878), for kernels with `CONFIG_RD_ZSTD`.
    Zstd,
}

impl Compressor {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What a [`Feeder`] writes to when it compresses.
pub(super) enum Stream<W: Write> {
    Zstd(ZstdEncoder<'static, W>),
    Gzip(Gzip<W>),
}

impl<W: Write> Stream<W> {
    fn zstd(writer: W, workers: usize) -> io::Result<Self> {
        let mut encoder = ZstdEncoder::new(writer, ZSTD_LEVEL)?;
        encoder.multithread(u32::try_from(workers.max(1)).unwrap_or(1))?;
        encoder.set_parameter(CParameter::JobSize(ZSTD_JOB_BYTES))?;
        encoder.set_parameter(CParameter::OverlapSizeLog(ZSTD_OVERLAP))?;
        encoder.include_checksum(true)?;
        Ok(Self::Zstd(encoder))
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(gzip) => gzip.finish(),
        }
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Gzip(gzip) => gzip.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Feeds a compressor whose output becomes an object, padded with zeros to 4 KiB.
/// `compressor` is not [`Compressor::None`], which needs no stream: it is taken as gzip.
pub(super) fn to_object(
    cache: &Cache,
    compressor: Compressor,
    feed: impl FnOnce(&mut Feeder<'_, ToWriter<Stream<ObjectWriter<'_>>>>) -> Result<(), FormatError>,
) -> Result<Segment, FormatError> {
    let failed = |source| FormatError::Compress {
        compressor: compressor.name(),
        source,
    };
    let object = cache.object_writer()?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let stream = match compressor {
        Compressor::Zstd => Stream::zstd(object, workers).map_err(failed)?,
        Compressor::Gzip | Compressor::None => Stream::Gzip(Gzip::new(object).map_err(failed)?),
    };
    let mut feeder = Feeder::new(cache, ToWriter(stream));
    let fed = feed(&mut feeder).and_then(|()| feeder.finish());
    // A compressor's only stream is the object.
    let in_cache = |error| match error {
        FormatError::Stream(source) => CacheError::io("write", cache.root())(source).into(),
        other => other,
    };
    let mut object = fed
        .and_then(|stream| stream.0.finish().map_err(FormatError::Stream))
        .map_err(in_cache)?;
    let fill = usize::try_from(padding(object.len(), ALIGN_BYTES)).unwrap_or_default();
    object
        .write_all(&vec![0; fill])
        .map_err(CacheError::io("write", cache.root()))?;
    let len = object.len();
    Ok(Segment {
        digest: object.commit()?,
        len,
        form: Form::Bytes,
    })
}

/// One gzip member, deflated by all cores.
pub(super) struct Gzip<W: Write> {
    writer: W,
    /// The end of what was written before `chunks`.
    before: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    batch: usize,
    crc: Crc,
}

impl<W: Write> Gzip<W> {
    fn new(mut writer: W) -> io::Result<Self> {
        // Magic, deflate, no flags, no time, no level, unknown system.
        writer.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        Ok(Self {
            writer,
            before: Vec::new(),
            chunks: Vec::new(),
            batch: 2 * rayon::current_num_threads(),
            crc: Crc::new(),
        })
    }

    /// Deflates the chunks at hand; the last one ends the stream when `end`.
    fn deflate(&mut self, end: bool) -> io::Result<()> {
        let last = self.chunks.len().wrapping_sub(1);
        let done: Vec<(Vec<u8>, Crc)> = self
            .chunks
            .par_iter()
            .enumerate()
            .map(|(index, chunk)| {
                let before = match index {
                    0 => &self.before,
                    _ => &self.chunks[index - 1],
                };
                deflate_chunk(before, chunk, end && index == last)
            })
            .collect::<io::Result<_>>()?;
        for (bytes, crc) in done {
            self.writer.write_all(&bytes)?;
            self.crc.combine(&crc);
        }
        if let Some(chunk) = self.chunks.pop() {
            self.before = chunk;
        }
        self.chunks.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        self.deflate(true)?;
        self.writer.write_all(&self.crc.sum().to_le_bytes())?;
        self.writer.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.writer)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let full = |chunk: &Vec<u8>| chunk.len() >= GZIP_CHUNK_BYTES;
        if self.chunks.last().is_none_or(full) {
            if self.chunks.len() >= self.batch {
                self.deflate(false)?;
            }
            self.chunks.push(Vec::with_capacity(GZIP_CHUNK_BYTES));
        }
        let Some(chunk) = self.chunks.last_mut() else {
            return Ok(0);
        };
        let len = bytes.len().min(GZIP_CHUNK_BYTES - chunk.len());
        chunk.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Deflates a chunk, which may refer to the last 32 KiB of `before`; the result ends at a byte.
fn deflate_chunk(before: &[u8], chunk: &[u8], end: bool) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(chunk);
    let mut deflate = Compress::new(Compression::new(GZIP_LEVEL), false);
    if !before.is_empty() {
        let window = &before[before.len().saturating_sub(GZIP_WINDOW_BYTES)..];
        deflate.set_dictionary(window).map_err(io::Error::other)?;
    }
    let flush = if end {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut out = Vec::with_capacity(chunk.len() / 2 + 64);
    loop {
        let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let room = out.capacity();
        let status = deflate
            .compress_vec(&chunk[taken..], &mut out, flush)
            .map_err(io::Error::other)?;
        // Room left over means that everything, the flush included, is out.
        let done = match status {
            Status::StreamEnd => true,
            _ => !end && out.len() < room,
        };
        if done {
            return Ok((out, crc));
        }
        out.reserve(chunk.len() / 2 + 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..len)
            .map(|index| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Runs, text and noise.
                match index / 7000 % 3 {
                    0 => 0,
                    1 => b"kiln initrd "[index % 12],
                    _ => (state >> 24) as u8,
                }
            })
            .collect()
    }

    fn compress(mut stream: Stream<Vec<u8>>, bytes: &[u8], step: usize) -> Vec<u8> {
        for chunk in bytes.chunks(step) {
            stream.write_all(chunk).unwrap();
        }
        stream.finish().unwrap()
    }

    #[test]
    fn gzip_reads_back_and_does_not_depend_on_batches() {
        for len in [0, 1, GZIP_CHUNK_BYTES, 3 * GZIP_CHUNK_BYTES, 5_000_001] {
            let bytes = sample(len);
            let all: Vec<Vec<u8>> = [1, 2, 7]
                .into_iter()
                .map(|batch| {
                    let mut gzip = Gzip::new(Vec::new()).unwrap();
                    gzip.batch = batch;
                    compress(Stream::Gzip(gzip), &bytes, 100_000 * batch)
                })
                .collect();
            assert!(all[0] == all[1] && all[1] == all[2]);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&all[0][..])
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == bytes);
        }
    }

    #[test]
    fn zstd_does_not_depend_on_workers() {
        let bytes = sample(20_000_000);
        let one = compress(Stream::zstd(Vec::new(), 1).unwrap(), &bytes, 1 << 20);
        for workers in [2, 3, 8] {
            let many = compress(Stream::zstd(Vec::new(), workers).unwrap(), &bytes, 77_777);
            assert!(one == many, "{workers} workers");
        }
        assert!(zstd::decode_all(&one[..]).unwrap() == bytes);
    }
}
