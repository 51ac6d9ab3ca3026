//! A layer becomes a pack and a tree, in one pass over its bytes.
//!
//! Enters: a stream, compressed or not. Leaves: two objects, and the proof that the stream was
//! the one that was promised. Two threads share the work over a few fixed buffers: one reads
//! and inflates; the other checks the bytes, compressed and uncompressed, writes the pack and
//! indexes. Memory does not depend on the layer but for its index.

use std::io::{self, BufRead, Read, Write};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use kiln_cache::{Cache, CacheError, Digest};
use sha2::Digest as _;

use super::TreeError;
use super::TreePath;
use super::layer::Indexer;
use super::tar::{MemberKind, Parser, TarError};
use crate::digest::Sha256;

/// Size of a buffer between the two threads, and of reads.
const BUFFER_BYTES: usize = 256 << 10;
/// Buffers between the two threads.
const BUFFERS: usize = 4;
/// How much of a stream tells its compression.
const MAGIC_BYTES: usize = 4;
/// The largest zstd window: what `zstd --long` uses, and no layer needs more.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What the stream must be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect {
    /// Digest of the bytes as they come.
    pub digest: Option<Sha256>,
    /// Their number.
    pub size: Option<u64>,
    /// Digest of the uncompressed bytes.
    pub diff_id: Option<Sha256>,
}

/// Says where an entry goes, `None` to leave it out.
pub type MapPath<'a> = &'a (dyn Fn(&TreePath, MemberKind) -> Option<TreePath> + Sync);

/// How to unpack.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// What the stream must be.
    pub expect: Expect,
    /// Whether `.wh.` names are file names like any other: outside of images, they are.
    pub literal_whiteouts: bool,
    /// Moves paths.
    pub map: Option<MapPath<'a>>,
}

/// What a layer became.
#[derive(Debug, Clone, Copy)]
pub struct Unpacked {
    /// The pack: the uncompressed bytes.
    pub pack: Digest,
    /// Its size in bytes.
    pub pack_size: u64,
    /// The tree.
    pub tree: Digest,
    /// Its size in bytes.
    pub tree_size: u64,
    /// Digest of the uncompressed bytes.
    pub diff_id: Sha256,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream broke.
    #[error("cannot read it after {offset} bytes")]
    Read {
        /// Bytes read so far, as they come.
        offset: u64,
        /// What broke.
        #[source]
        source: io::Error,
    },
    /// The compressed bytes are damaged.
    #[error("damaged {compression} data near byte {offset}")]
    Inflate {
        /// `gzip` or `zstd`.
        compression: &'static str,
        /// Bytes read so far, as they come.
        offset: u64,
        /// What the decompressor said.
        #[source]
        source: io::Error,
    },
    /// The stream has another digest.
    #[error("its {what} is {found}, not {expected} as its {witness} says")]
    Digest {
        /// `digest` or `diff_id`.
        what: &'static str,
        /// Who promised another.
        witness: &'static str,
        /// What was promised.
        expected: Sha256,
        /// What came.
        found: Sha256,
    },
    /// The stream has another length.
    #[error("it is {found} bytes long, not {expected} as its manifest says")]
    Size {
        /// What was promised.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// It is no tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The index cannot hold it.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The cache cannot take it.
    #[error("{0}")]
    Cache(#[from] CacheError),
    /// The run is being given up.
    #[error("interrupted")]
    Cancelled,
}

/// Unpacks `input`. `progress` hears how many bytes have come.
///
/// # Errors
/// When the stream breaks, is not what was promised, or is no tar. Nothing refers to what was
/// written until then.
pub fn unpack<'c>(
    cache: &'c Cache,
    input: impl Read + Send,
    options: &Options<'c>,
    cancel: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Unpacked, UnpackError> {
    let (chunks, take_chunks) = mpsc::channel();
    let (spent, take_spent) = mpsc::channel();
    let (empty, take_empty) = mpsc::channel();
    for _ in 0..BUFFERS {
        let _ = spent.send(vec![0; BUFFER_BYTES]);
        let _ = empty.send(vec![0; BUFFER_BYTES]);
    }
    std::thread::scope(|threads| {
        let reader = threads.spawn(move || {
            let mut input = Input::new(input, progress, chunks, take_spent);
            let inflated = inflate(&mut input, cancel, &take_empty);
            input.finish(cancel, inflated)
        });
        let indexed = index(cache, options, take_chunks, &spent, empty);
        // An indexer that failed stops the other side by hanging up.
        drop(spent);
        let came = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
        // Damage has many faces: the cause is what comes first here.
        let indexed = indexed?;
        let came = came?;
        let expect = &options.expect;
        if let Some(expected) = expect.size.filter(|size| *size != came.count) {
            return Err(UnpackError::Size {
                expected,
                found: came.count,
            });
        }
        check("digest", "manifest", expect.digest, indexed.digest)?;
        came.inflated?;
        indexed.parsed?;
        check(
            "diff_id",
            "image's configuration",
            expect.diff_id,
            indexed.diff_id,
        )?;
        let pack_size = indexed.pack.len();
        let pack = indexed.pack.commit()?;
        let (tree, tree_size) = indexed.indexer.finish(cache, pack)?;
        Ok(Unpacked {
            pack,
            pack_size,
            tree,
            tree_size,
            diff_id: indexed.diff_id,
        })
    })
}

fn check(
    what: &'static str,
    witness: &'static str,
    expected: Option<Sha256>,
    found: Sha256,
) -> Result<(), UnpackError> {
    match expected.filter(|expected| *expected != found) {
        None => Ok(()),
        Some(expected) => Err(UnpackError::Digest {
            what,
            witness,
            expected,
            found,
        }),
    }
}

/// What the first thread hands to the second: a buffer and how much of it counts.
enum Chunk {
    /// Bytes as they came.
    Raw(Vec<u8>, usize),
    /// Uncompressed bytes.
    Plain(Vec<u8>, usize),
}

/// The stream as the first thread reads it. What has been read goes on to the second thread.
struct Input<'a, R> {
    inner: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    count: u64,
    progress: &'a (dyn Fn(u64) + Sync),
    chunks: mpsc::Sender<Chunk>,
    spent: mpsc::Receiver<Vec<u8>>,
    /// A failure of the stream, which a decompressor would rename.
    broken: Option<io::Error>,
}

/// What the first thread saw.
struct Came {
    count: u64,
    inflated: Result<(), UnpackError>,
}

impl<'a, R: Read> Input<'a, R> {
    fn new(
        inner: R,
        progress: &'a (dyn Fn(u64) + Sync),
        chunks: mpsc::Sender<Chunk>,
        spent: mpsc::Receiver<Vec<u8>>,
    ) -> Self {
        Self {
            inner,
            buffer: spent.recv().unwrap_or_default(),
            at: 0,
            end: 0,
            count: 0,
            progress,
            chunks,
            spent,
            broken: None,
        }
    }

    /// Reads the rest, which counts towards the digest of a damaged stream, too.
    fn finish(
        mut self,
        cancel: &AtomicBool,
        inflated: Result<(), UnpackError>,
    ) -> Result<Came, UnpackError> {
        while self.broken.is_none() && !cancel.load(Ordering::Relaxed) {
            self.at = self.end;
            // An error is the stream's, and kept, or the second thread hung up and knows why.
            if self.fill_buf().map_or(true, <[u8]>::is_empty) {
                break;
            }
        }
        if let Some(source) = self.broken.take() {
            return Err(UnpackError::Read {
                offset: self.count,
                source,
            });
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(UnpackError::Cancelled);
        }
        Ok(Came {
            count: self.count,
            inflated,
        })
    }
}

impl<R: Read> Read for Input<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Input<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            if self.end > 0 {
                let hung_up = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                let full = std::mem::take(&mut self.buffer);
                let sent = self.chunks.send(Chunk::Raw(full, self.end));
                (self.at, self.end) = (0, 0);
                sent.map_err(|_| hung_up(mpsc::RecvError))?;
                self.buffer = self.spent.recv().map_err(hung_up)?;
            }
            // The first bytes tell the compression.
            while self.end < MAGIC_BYTES {
                match self.inner.read(&mut self.buffer[self.end..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        let kind = error.kind();
                        self.broken = Some(error);
                        return Err(kind.into());
                    }
                    Ok(0) => break,
                    Ok(count) => {
                        self.end += count;
                        self.count += count as u64;
                    }
                }
            }
            (self.progress)(self.count);
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// The first thread: bytes as they come → uncompressed buffers. Ends early when the second
/// thread wants no more.
fn inflate<R: Read>(
    input: &mut Input<'_, R>,
    cancel: &AtomicBool,
    empty: &mpsc::Receiver<Vec<u8>>,
) -> Result<(), UnpackError> {
    let chunks = input.chunks.clone();
    let pump = |from: &mut dyn Read| pump(from, cancel, &chunks, empty);
    let magic = match input.fill_buf() {
        Ok(bytes) => [0, 1, 2, 3].map(|at| bytes.get(at).copied().unwrap_or_default()),
        Err(_) => return Ok(()),
    };
    let (compression, result) = match magic {
        [0x1f, 0x8b, ..] => {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(&mut *input);
            ("gzip", pump(&mut decoder))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(&mut *input).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
            ("zstd", decoder.and_then(|mut decoder| pump(&mut decoder)))
        }
        _ => ("", pump(input)),
    };
    result.map_err(|source| UnpackError::Inflate {
        compression,
        offset: input.count,
        source,
    })
}

fn pump(
    from: &mut dyn Read,
    cancel: &AtomicBool,
    chunks: &mpsc::Sender<Chunk>,
    empty: &mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while !cancel.load(Ordering::Relaxed) {
        let Ok(mut buffer) = empty.recv() else {
            break;
        };
        let mut filled = 0;
        while filled < BUFFER_BYTES {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let last = filled < BUFFER_BYTES;
        if chunks.send(Chunk::Plain(buffer, filled)).is_err() || last {
            break;
        }
    }
    Ok(())
}

/// What the second thread made.
struct Indexed<'c> {
    pack: kiln_cache::ObjectWriter<'c>,
    indexer: Indexer<'c>,
    /// Of the bytes as they came.
    digest: Sha256,
    /// Of the uncompressed bytes.
    diff_id: Sha256,
    /// Whether they are a tar.
    parsed: Result<(), UnpackError>,
}

/// The second thread: buffers → digests, pack and index. Fails only when the cache does.
fn index<'c>(
    cache: &'c Cache,
    options: &Options<'c>,
    chunks: mpsc::Receiver<Chunk>,
    spent: &mpsc::Sender<Vec<u8>>,
    empty: mpsc::Sender<Vec<u8>>,
) -> Result<Indexed<'c>, UnpackError> {
    let mut pack = cache.object_writer()?;
    let mut parser = Parser::new();
    let mut indexer = Indexer::new(options);
    let mut raw = sha2::Sha256::new();
    let mut plain = sha2::Sha256::new();
    // Taken away when the bytes are no tar: no more of them are of use.
    let mut empty = Some(empty);
    let mut parsed = Ok(());
    for chunk in chunks {
        match chunk {
            Chunk::Raw(buffer, len) => {
                if options.expect.digest.is_some() {
                    raw.update(&buffer[..len]);
                }
                let _ = spent.send(buffer);
            }
            Chunk::Plain(buffer, len) => {
                let Some(back) = &empty else { continue };
                plain.update(&buffer[..len]);
                pack.write_all(&buffer[..len])
                    .map_err(CacheError::io("write", cache.root()))?;
                parsed = parser.feed(&buffer[..len], &mut |member| indexer.take(member));
                if parsed.is_ok() {
                    let _ = back.send(buffer);
                } else {
                    empty = None;
                }
            }
        }
    }
    let parsed = parsed.and_then(|()| parser.finish());
    let digest = |hasher: sha2::Sha256| Sha256::from_bytes(hasher.finalize().into());
    Ok(Indexed {
        pack,
        indexer,
        digest: digest(raw),
        diff_id: digest(plain),
        parsed: parsed.map_err(UnpackError::from),
    })
}
