//! Readers that check what passes through them, and readers that inflate it.
//!
//! Enters: a stream of known hash and length. Leaves: its bytes; and an error at the end when it
//! was another stream. Decoders run with a memory limit: the data is hostile until then.

use std::io::{self, BufReader, Read};

use liblzma::stream::{CONCATENATED, Stream};
use sha2::Digest as _;

use crate::digest::Sha256;

/// Most memory an xz decoder may use, in bytes: `xz -9` needs 65 MiB.
pub const XZ_MEMORY: u64 = 80 << 20;
/// Largest zstd window, as a power of two: 128 MiB, what `zstd --ultra -22` may use.
pub const ZSTD_WINDOW: u32 = 27;

/// Stream compressions of Debian's archives and packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip, perhaps of several members.
    Gzip,
    /// xz, perhaps of several streams.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Reads it off the end of a name; none when the ending is unknown or there is none.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "gz" => Some(Self::Gzip),
            "xz" => Some(Self::Xz),
            "zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Inflates a stream.
    ///
    /// # Errors
    /// When a decoder cannot be made.
    pub fn inflate<'r, R: Read + 'r>(self, reader: R) -> io::Result<Inflate<R>> {
        let reader = BufReader::with_capacity(1 << 16, reader);
        Ok(match self {
            Self::None => Inflate::None(reader),
            Self::Gzip => Inflate::Gzip(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Inflate::Xz(liblzma::bufread::XzDecoder::new_stream(reader, stream))
            }
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Inflate::Zstd(decoder)
            }
        })
    }
}

/// An inflating reader that can give its source back.
pub enum Inflate<R: Read> {
    /// Not compressed.
    None(BufReader<R>),
    /// gzip.
    Gzip(flate2::bufread::MultiGzDecoder<BufReader<R>>),
    /// xz.
    Xz(liblzma::bufread::XzDecoder<BufReader<R>>),
    /// Zstandard.
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Inflate<R> {
    /// The source; what the decoder has read ahead is lost.
    pub fn into_inner(self) -> R {
        match self {
            Self::None(reader) => reader.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Xz(decoder) => decoder.into_inner().into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(reader) => reader.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Xz(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// A reader that hashes and counts what passes.
pub struct Checked<R> {
    reader: R,
    hash: sha2::Sha256,
    count: u64,
}

/// A stream that was not what the index said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is {found_size} bytes of {found}, the index says {size} bytes of {sha256}")]
pub struct Mismatch {
    /// Expected hash.
    pub sha256: Sha256,
    /// Expected length.
    pub size: u64,
    /// Hash of what came.
    pub found: Sha256,
    /// Length of what came.
    pub found_size: u64,
}

impl<R: Read> Checked<R> {
    /// Wraps a reader.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            hash: sha2::Sha256::new(),
            count: 0,
        }
    }

    /// Reads what is left and compares.
    ///
    /// # Errors
    /// A reader that fails, or a [`Mismatch`] inside an [`io::Error`].
    pub fn finish(mut self, sha256: Sha256, size: u64) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        let found = Sha256::from_bytes(self.hash.finalize().into());
        if found != sha256 || self.count != size {
            let found_size = self.count;
            let mismatch = Mismatch {
                sha256,
                size,
                found,
                found_size,
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, mismatch));
        }
        Ok(())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buf)?;
        self.hash.update(&buf[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn tool(name: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn inflates_what_the_tools_deflate() {
        let plain: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        for (compression, name, args) in [
            (Compression::Gzip, "gzip", &["-c"][..]),
            (Compression::Xz, "xz", &["-9e", "-c"]),
            (Compression::Zstd, "zstd", &["-c", "--ultra", "-22"]),
            (Compression::None, "cat", &[]),
        ] {
            let (first, second) = plain.split_at(1234);
            let packed = [tool(name, args, first), tool(name, args, second)].concat();
            let mut out = Vec::new();
            compression
                .inflate(&packed[..])
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert!(out == plain, "{name}: two members are one stream");
            if compression != Compression::None {
                let cut = &packed[..packed.len() - 3];
                assert!(
                    compression
                        .inflate(cut)
                        .unwrap()
                        .read_to_end(&mut out)
                        .is_err(),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn refuses_to_use_much_memory() {
        let packed = tool("xz", &["--lzma2=dict=256MiB", "-c"], b"x");
        let error = Compression::Xz
            .inflate(&packed[..])
            .unwrap()
            .read_to_end(&mut Vec::new());
        assert!(error.is_err());
    }

    #[test]
    fn tells_another_stream() {
        let read = |bytes: &[u8], size| Checked::new(bytes).finish(Sha256::of(b"abc"), size);
        assert!(read(b"abc", 3).is_ok());
        let error = read(b"abd", 3).unwrap_err().to_string();
        assert!(error.starts_with("it is 3 bytes of sha256:"), "{error}");
        assert!(read(b"abc", 4).is_err());
    }
}
