//! A layer becomes a pack and a tree, in one pass over its bytes.
//!
//! Enters: a stream, compressed or not. Leaves: two objects, and the proof that the stream was
//! the one that was promised. Two threads share the work over a few fixed buffers: one reads,
//! checks the compressed bytes and inflates; the other checks the uncompressed bytes, writes the
//! pack and indexes. Memory does not depend on the layer but for its index.

use std::io::{self, BufRead, Read, Write};
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
    let (full_sender, full) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
    let (empty_sender, empty) = mpsc::channel::<Vec<u8>>();
    for _ in 0..BUFFERS {
        let _ = empty_sender.send(Vec::with_capacity(BUFFER_BYTES));
    }
    std::thread::scope(|threads| {
        let inflater = threads.spawn(move || {
            let input = Hashed::new(input, progress);
            inflate(input, &options.expect, cancel, &full_sender, &empty)
        });
        let indexed = index(cache, options, &full, &empty_sender);
        // An indexer that failed stops the other side by hanging up.
        drop(full);
        drop(empty_sender);
        let inflated = inflater.join().unwrap_or(Err(UnpackError::Cancelled));
        match (inflated, indexed) {
            // A stream that broke also looks truncated to the indexer: the first cause counts.
            (Err(error), Ok(_)) | (Err(error), Err(UnpackError::Tar(_))) => Err(error),
            (_, Err(error)) => Err(error),
            (Ok(()), Ok(indexed)) => indexed.commit(cache, options),
        }
    })
}

/// A reader that hashes what passes.
struct Hashed<'a, R> {
    inner: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    hasher: sha2::Sha256,
    count: u64,
    progress: &'a (dyn Fn(u64) + Sync),
    /// A failure of the input, which a decompressor would rename.
    broken: Option<io::Error>,
}

impl<'a, R: Read> Hashed<'a, R> {
    fn new(inner: R, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER_BYTES],
            at: 0,
            end: 0,
            hasher: sha2::Sha256::new(),
            count: 0,
            progress,
            broken: None,
        }
    }
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Hashed<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            let count = loop {
                match self.inner.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        let kind = error.kind();
                        self.broken = Some(error);
                        return Err(kind.into());
                    }
                    Ok(count) => break count,
                }
            };
            (self.at, self.end) = (0, count);
            self.hasher.update(&self.buffer[..count]);
            self.count += count as u64;
            (self.progress)(self.count);
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// The first thread: bytes as they come → uncompressed buffers.
fn inflate<R: Read>(
    mut input: Hashed<'_, R>,
    expect: &Expect,
    cancel: &AtomicBool,
    full: &mpsc::SyncSender<Vec<u8>>,
    empty: &mpsc::Receiver<Vec<u8>>,
) -> Result<(), UnpackError> {
    let magic = match input.fill_buf() {
        Ok(bytes) => [0, 1, 2, 3].map(|at| bytes.get(at).copied().unwrap_or_default()),
        Err(_) => return Err(read_error(&mut input)),
    };
    let (compression, result) = match magic {
        [0x1f, 0x8b, ..] => {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(&mut input);
            ("gzip", pump(&mut decoder, cancel, full, empty))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(&mut input).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
            (
                "zstd",
                decoder.and_then(|mut decoder| pump(&mut decoder, cancel, full, empty)),
            )
        }
        _ => ("", pump(&mut input, cancel, full, empty)),
    };
    match result {
        Ok(Pumped::All) => {}
        Ok(Pumped::HungUp) => return Ok(()),
        Ok(Pumped::Cancelled) => return Err(UnpackError::Cancelled),
        Err(_) if input.broken.is_some() => return Err(read_error(&mut input)),
        Err(source) => {
            return Err(UnpackError::Inflate {
                compression,
                offset: input.count,
                source,
            });
        }
    }
    if let Some(expected) = expect.size.filter(|size| *size != input.count) {
        return Err(UnpackError::Size {
            expected,
            found: input.count,
        });
    }
    let found = Sha256::from_bytes(input.hasher.finalize().into());
    if let Some(expected) = expect.digest.filter(|digest| *digest != found) {
        return Err(UnpackError::Digest {
            what: "digest",
            witness: "manifest",
            expected,
            found,
        });
    }
    Ok(())
}

fn read_error<R>(input: &mut Hashed<'_, R>) -> UnpackError {
    let source = input
        .broken
        .take()
        .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
    UnpackError::Read {
        offset: input.count,
        source,
    }
}

enum Pumped {
    All,
    HungUp,
    Cancelled,
}

fn pump(
    from: &mut dyn Read,
    cancel: &AtomicBool,
    full: &mpsc::SyncSender<Vec<u8>>,
    empty: &mpsc::Receiver<Vec<u8>>,
) -> io::Result<Pumped> {
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Ok(Pumped::Cancelled);
        }
        let Ok(mut buffer) = empty.recv() else {
            return Ok(Pumped::HungUp);
        };
        buffer.resize(BUFFER_BYTES, 0);
        let mut filled = 0;
        while filled < BUFFER_BYTES {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        let last = filled < BUFFER_BYTES;
        if full.send(buffer).is_err() {
            return Ok(Pumped::HungUp);
        }
        if last {
            return Ok(Pumped::All);
        }
    }
}

/// The second thread: uncompressed buffers → pack and index.
fn index<'c>(
    cache: &'c Cache,
    options: &Options<'c>,
    full: &mpsc::Receiver<Vec<u8>>,
    empty: &mpsc::Sender<Vec<u8>>,
) -> Result<Indexed<'c>, UnpackError> {
    let mut pack = cache.object_writer()?;
    let mut parser = Parser::new();
    let mut indexer = Indexer::new(options);
    let mut hasher = sha2::Sha256::new();
    while let Ok(buffer) = full.recv() {
        hasher.update(&buffer);
        pack.write_all(&buffer)
            .map_err(CacheError::io("write", cache.root()))?;
        parser.feed(&buffer, &mut |member| indexer.take(member))?;
        let _ = empty.send(buffer);
    }
    parser.finish()?;
    Ok(Indexed {
        pack,
        indexer,
        diff_id: Sha256::from_bytes(hasher.finalize().into()),
    })
}

struct Indexed<'c> {
    pack: kiln_cache::ObjectWriter<'c>,
    indexer: Indexer<'c>,
    diff_id: Sha256,
}

impl Indexed<'_> {
    fn commit(self, cache: &Cache, options: &Options<'_>) -> Result<Unpacked, UnpackError> {
        let found = self.diff_id;
        if let Some(expected) = options.expect.diff_id.filter(|diff_id| *diff_id != found) {
            return Err(UnpackError::Digest {
                what: "diff_id",
                witness: "image's configuration",
                expected,
                found,
            });
        }
        let pack_size = self.pack.len();
        let pack = self.pack.commit()?;
        let (tree, tree_size) = self.indexer.finish(cache, pack)?;
        Ok(Unpacked {
            pack,
            pack_size,
            tree,
            tree_size,
            diff_id: found,
        })
    }
}
