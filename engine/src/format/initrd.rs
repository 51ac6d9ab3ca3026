//! What an initrd holds, whoever made it: its members and their files, read as the kernel reads
//! them (Linux, Documentation/driver-api/early-userspace/buffer-format.rst): newc archives, plain
//! or compressed, one after the other, with zeros between them.
//!
//! Enters: bytes. Leaves: a word to a [`Visitor`] about each file and each member. Nothing is kept,
//! so memory does not depend on the initrd.

use std::io::{self, BufRead, BufReader, Read};

use super::cpio::NAME_MAX_BYTES;
use super::padding;

const HEADER_BYTES: usize = 110;
const BUFFER_BYTES: usize = 64 << 10;
/// Enough of a member to tell what it is.
const MAGIC_BYTES: usize = 6;

/// Who is told what an initrd holds.
pub trait Visitor {
    /// A file, directory, link or node of the current member, with the length of its data. The data
    /// of hard links stands with one of their names.
    fn entry(&mut self, path: &[u8], len: u64);
    /// The current member is over; it takes so many bytes of the initrd.
    fn member(&mut self, len: u64);
}

/// Why an initrd cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("offset {offset}: {reason}")]
pub struct InitrdError {
    /// Where the member begins that cannot be read.
    pub offset: u64,
    /// Why not.
    pub reason: String,
}

/// Reads an initrd to its end.
///
/// # Errors
/// When it is not one, is damaged, or compressed in a way that is not read (gzip and zstd are).
pub fn visit(reader: impl Read, visitor: &mut dyn Visitor) -> Result<(), InitrdError> {
    let mut input = Input::new(reader);
    loop {
        let begin = input.offset();
        if !skip_zeros(&mut input).map_err(failed(begin))? {
            return Ok(());
        }
        let begin = input.offset();
        let at = failed(begin);
        let mut magic = [0; MAGIC_BYTES];
        let known = input.peek(&mut magic).map_err(at)?;
        match &magic[..known] {
            [b'0', b'7', b'0', b'7', b'0', _] => archive(&mut input, visitor).map_err(at)?,
            [0x1f, 0x8b, ..] => {
                archives(flate2::bufread::GzDecoder::new(&mut input), visitor).map_err(at)?;
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = zstd::Decoder::with_buffer(&mut input).map_err(at)?;
                archives(decoder.single_frame(), visitor).map_err(at)?;
            }
            other => {
                return Err(InitrdError {
                    offset: begin,
                    reason: format!("neither an archive nor gzip nor zstd: {other:02x?}"),
                });
            }
        }
        visitor.member(input.offset() - begin);
    }
}

fn failed(offset: u64) -> impl Fn(io::Error) -> InitrdError + Copy {
    move |error| InitrdError {
        offset,
        reason: error.to_string(),
    }
}

/// Reads a decompressed member: archives, to the end of it.
fn archives(reader: impl Read, visitor: &mut dyn Visitor) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    while skip_zeros(&mut reader)? {
        archive(&mut reader, visitor)?;
    }
    Ok(())
}

/// Passes over zeros; returns whether anything comes after them.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        let found = zeros < buffer.len();
        reader.consume(zeros);
        if found {
            return Ok(true);
        }
    }
}

/// Reads one archive to its trailer.
fn archive(reader: &mut impl Read, visitor: &mut dyn Visitor) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header)?;
        if !matches!(&header[..6], b"070701" | b"070702") {
            return Err(malformed("an entry of an archive has no newc header"));
        }
        let (len, name_len) = (field(&header, 54)?, field(&header, 94)?);
        if !(1..=NAME_MAX_BYTES as u64).contains(&name_len) {
            return Err(malformed("the name of an entry is too long"));
        }
        let mut name = vec![0; usize::try_from(name_len).unwrap_or(0)];
        reader.read_exact(&mut name)?;
        pass(reader, padding(HEADER_BYTES as u64 + name_len, 4))?;
        let name = name.strip_suffix(b"\0").unwrap_or(&name);
        pass(reader, len + padding(len, 4))?;
        if name == b"TRAILER!!!" {
            return Ok(());
        }
        visitor.entry(name, len);
    }
}

/// Reads a field of eight hexadecimal digits.
fn field(header: &[u8; HEADER_BYTES], at: usize) -> io::Result<u64> {
    let text = std::str::from_utf8(&header[at..at + 8]).ok();
    let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| malformed("a field of an entry's header is not a number"))
}

fn pass(reader: &mut impl Read, len: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(len), &mut io::sink())? {
        passed if passed == len => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A buffered reader that knows where it is, and can look ahead.
struct Input<R> {
    reader: R,
    buffer: Vec<u8>,
    /// What of the buffer has been read.
    read: usize,
    /// Offset of the buffer's end.
    end: u64,
}

impl<R: Read> Input<R> {
    fn new(reader: R) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self {
            reader,
            buffer,
            read: 0,
            end: 0,
        }
    }

    fn offset(&self) -> u64 {
        self.end - (self.buffer.len() - self.read) as u64
    }

    /// Copies what comes next, without reading it; returns how much there was.
    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.buffer.len() - self.read < into.len() && self.more()? > 0 {}
        let ahead = &self.buffer[self.read..];
        let len = ahead.len().min(into.len());
        into[..len].copy_from_slice(&ahead[..len]);
        Ok(len)
    }

    /// Adds to the buffer; returns how much.
    fn more(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.read);
        self.read = 0;
        let room = (BUFFER_BYTES - self.buffer.len()) as u64;
        let added = (&mut self.reader)
            .take(room)
            .read_to_end(&mut self.buffer)?;
        self.end += added as u64;
        Ok(added)
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut ahead = self.fill_buf()?;
        let len = ahead.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.buffer.len() {
            self.more()?;
        }
        Ok(&self.buffer[self.read..])
    }

    fn consume(&mut self, len: usize) {
        self.read = (self.read + len).min(self.buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Told(Vec<(String, u64)>, Vec<u64>);

    impl Visitor for Told {
        fn entry(&mut self, path: &[u8], len: u64) {
            self.0.push((path.escape_ascii().to_string(), len));
        }

        fn member(&mut self, len: u64) {
            self.1.push(len);
        }
    }

    fn told(bytes: &[u8]) -> Result<Told, InitrdError> {
        let mut told = Told::default();
        visit(bytes, &mut told).map(|()| told)
    }

    /// An archive as GNU cpio makes it.
    fn cpio(files: &[(&str, usize)]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        for (name, len) in files {
            std::fs::write(directory.path().join(name), vec![b'x'; *len]).unwrap();
        }
        let mut child = Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio: apt-get install cpio");
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(names.join("\n").as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn members_of_every_kind_are_read() {
        let (one, two, three) = (
            cpio(&[("a", 1)]),
            cpio(&[("b", 70_000), ("c", 0)]),
            cpio(&[]),
        );
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&two).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&[two.as_slice(), three.as_slice()].concat()[..], 1).unwrap();
        let zeros = [0; 100_000];
        let all = [&one[..], &zeros, &gzip, &zstd, &zeros[..3], &gzip].concat();
        let told = told(&all).unwrap();
        let names: Vec<&str> = told.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "b", "c", "b", "c"]);
        assert_eq!((told.0[0].1, told.0[3].1, told.0[4].1), (1, 70_000, 0));
        let packed = gzip.len() as u64;
        // GNU cpio pads to 512 bytes, which the next member's zeros swallow.
        assert!(told.1[0] <= one.len() as u64);
        assert_eq!(told.1[1..], [packed, zstd.len() as u64, packed]);
    }

    #[test]
    fn what_is_none_is_said_with_its_place() {
        let good = cpio(&[("a", 1)]);
        let error = |bytes: &[u8]| told(bytes).unwrap_err().to_string();
        assert_eq!(
            error(b"\0\0\0\0BZh91A"),
            "offset 4: neither an archive nor gzip nor zstd: [42, 5a, 68, 39, 31, 41]"
        );
        assert_eq!(error(&good[..100]), "offset 0: failed to fill whole buffer");
        let mut long = good.clone();
        long[94..102].copy_from_slice(b"FFFFFFFF");
        assert!(error(&long).ends_with("the name of an entry is too long"));
        let mut wrong = good;
        wrong[54..62].copy_from_slice(b"+0000001");
        assert!(error(&wrong).ends_with("is not a number"));
        assert_eq!(told(&[]).unwrap(), Told::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>, at in 0_usize..600, byte: u8) {
            static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| cpio(&[("a", 9), ("b", 3)]));
            let _ = told(&bytes);
            let mut archive = GOOD.clone();
            let at = at % archive.len();
            archive[at] = byte;
            let _ = told(&archive);
        }
    }
}
