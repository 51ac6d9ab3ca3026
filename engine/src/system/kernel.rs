//! The kernel image: which initrds it can unpack.
//!
//! Enters: the text of its configuration (a file such as Debian's `boot/config-*`), or the image
//! itself, in which its embedded copy (`CONFIG_IKCONFIG`, kernel/configs.c) is looked for, or else
//! the zstd decompressor (lib/decompress_unzstd.c), which is there for initrds only. Leaves: the
//! compressor for initrd members. zstd when the kernel is known to read it, gzip otherwise; never
//! a guess.
//!
//! Images: x86 bzImage (Documentation/arch/x86/boot.rst), EFI zboot (drivers/firmware/efi/libstub/
//! zboot-header.S), `Image.gz`, and anything uncompressed (ELF, arm64 and RISC-V `Image`).

use std::collections::HashSet;
use std::io::{self, BufReader, Read};

use liblzma::read::XzDecoder;
use liblzma::stream::Stream;

use crate::format::Compressor;

/// How much of an image's start its headers may need.
const HEAD_BYTES: usize = 4096;
/// The most that is read of a decompressed kernel; real ones have up to some 100 MB.
pub const KERNEL_MAX_BYTES: u64 = 1 << 30;
/// The longest configuration; real ones have up to some 300 KB.
const CONFIG_MAX_BYTES: u64 = 8 << 20;
/// The most memory that unpacking xz or lzma may take.
const XZ_MEMORY_MAX_BYTES: u64 = 256 << 20;
/// An image without a header, which may be ELF or a compressed kernel.
const UNCOMPRESSED: &str = "uncompressed";
const CONFIG_START: &[u8] = b"IKCFG_ST";
/// Marks that are tried; a kernel has one.
const MARKS_MAX: usize = 16;
/// What only a kernel's `unzstd` says. (A compressed kernel's wrapper has another copy of it, for
/// the kernel itself; that is not looked into.)
const UNZSTD: &[u8] = b"ZSTD-compressed data has an incomplete frame header";

/// Why a kernel cannot be looked into, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The image cannot be read, or its compressed part is damaged.
    #[error("kernel: cannot read {what}: {source}")]
    Read {
        /// Which part.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The image's headers point outside the image.
    #[error("kernel: truncated {what} image: its payload begins at offset {offset}, after its end")]
    Truncated {
        /// The image's format.
        what: &'static str,
        /// Where the payload should begin.
        offset: u64,
    },
    /// The image is compressed in a way that is not read here.
    #[error(
        "kernel: the {what} image's payload is compressed with {compression}, which is not read"
    )]
    Unsupported {
        /// The image's format.
        what: &'static str,
        /// The compression, by name or by its first bytes.
        compression: String,
    },
    /// The kernel has no initrd support at all.
    #[error("kernel: CONFIG_BLK_DEV_INITRD is not set, so it cannot start from an initrd")]
    NoInitrd,
}

/// A kernel's configuration: the options that are built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    built_in: HashSet<String>,
}

impl KernelConfig {
    /// Reads the text of a `.config`. Returns `None` for text without any `CONFIG_` line.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut any = false;
        let mut built_in = HashSet::new();
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.strip_prefix(b"# ").unwrap_or(line).trim_ascii_end();
            let Some(option) = line.strip_prefix(b"CONFIG_") else {
                continue;
            };
            any = true;
            if let Some(name) = option.strip_suffix(b"=y") {
                built_in.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
        any.then_some(Self { built_in })
    }

    /// Returns true when the option (without `CONFIG_`) is `y`.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.built_in.contains(option)
    }
}

/// What tells which initrds a kernel unpacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Evidence {
    /// Its configuration.
    Config(KernelConfig),
    /// No configuration, but its zstd decompressor.
    Unzstd,
    /// Neither.
    #[default]
    Nothing,
}

/// Chooses the compressor of initrd members for a kernel.
///
/// # Errors
/// [`KernelError::NoInitrd`] when the configuration rules an initrd out.
pub fn compressor(evidence: &Evidence) -> Result<Compressor, KernelError> {
    let config = match evidence {
        Evidence::Config(config) => config,
        Evidence::Unzstd => return Ok(Compressor::Zstd),
        Evidence::Nothing => return Ok(Compressor::Gzip),
    };
    if !config.has("BLK_DEV_INITRD") {
        return Err(KernelError::NoInitrd);
    }
    Ok(if config.has("RD_ZSTD") {
        Compressor::Zstd
    } else if config.has("RD_GZIP") {
        Compressor::Gzip
    } else {
        // An archive that is not compressed is always read.
        Compressor::None
    })
}

/// Looks into a kernel image. Memory: a few buffers and what the decompressor's window needs.
///
/// # Errors
/// When the image is damaged or compressed in a way that is not read here.
pub fn look_into(image: impl Read) -> Result<Evidence, KernelError> {
    let payload = payload(image)?;
    let what = payload.what;
    let found = search(payload.reader.take(KERNEL_MAX_BYTES))
        .map_err(|source| KernelError::Read { what, source })?;
    Ok(match found {
        Evidence::Unzstd if payload.kind == PayloadKind::Unknown => Evidence::Nothing,
        found => found,
    })
}

/// What is inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// A kernel that was compressed.
    Unpacked,
    /// A kernel that was not.
    Plain,
    /// The image itself, which may be a wrapper of an unknown kind around a kernel.
    Unknown,
}

/// The kernel proper of an image, unpacked as it is read.
pub struct Payload<'a> {
    /// What the image is.
    pub what: &'static str,
    /// What is inside.
    pub kind: PayloadKind,
    /// The bytes.
    pub reader: Box<dyn Read + 'a>,
}

/// Opens the compressed part of a kernel image; an image that has none is taken as it is.
///
/// # Errors
/// When the headers point outside the image or the compression is unknown.
pub fn payload<'a>(mut image: impl Read + 'a) -> Result<Payload<'a>, KernelError> {
    let failed = |source| KernelError::Read {
        what: "the image",
        source,
    };
    let mut head = Vec::with_capacity(HEAD_BYTES);
    image
        .by_ref()
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(failed)?;
    let (what, place) = locate(&head);
    let mut whole = io::Cursor::new(head).chain(image);
    let Some((offset, len)) = place else {
        return open(what, Box::new(whole), true);
    };
    let skipped = io::copy(&mut whole.by_ref().take(offset), &mut io::sink()).map_err(failed)?;
    if skipped < offset {
        return Err(KernelError::Truncated { what, offset });
    }
    open(what, Box::new(whole.take(len)), false)
}

/// Returns what kind of image a file is that begins so, when that of a kernel. ELF could be any
/// program.
#[must_use]
pub fn kind_of_image(head: &[u8]) -> Option<&'static str> {
    Some(locate(head).0).filter(|what| *what != UNCOMPRESSED)
}

/// Returns what the image is, and where its payload lies: offset and length.
fn locate(head: &[u8]) -> (&'static str, Option<(u64, u64)>) {
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?;
        Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
    };
    let at = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if at(0x1fe, &[0x55, 0xaa]) && at(0x202, b"HdrS") {
        // The payload fields came with boot protocol 2.08.
        let version = head
            .get(0x206..0x208)
            .map(|v| u16::from_le_bytes([v[0], v[1]]));
        if version.is_none_or(|version| version < 0x208) {
            return ("bzImage", None);
        }
        let setup = match head[0x1f1] {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let place = number(0x248)
            .zip(number(0x24c))
            .map(|(offset, len)| ((setup + 1) * 512 + offset, len));
        return ("bzImage", place);
    }
    if at(0, b"MZ") && at(4, b"zimg") {
        return ("EFI zboot", number(8).zip(number(12)));
    }
    // The arm64 and RISC-V header (Documentation/arch/arm64/booting.rst, riscv/boot-image-header.rst).
    if at(0x38, b"ARM\x64") || at(0x38, b"RSC\x05") {
        return ("Image", None);
    }
    (UNCOMPRESSED, None)
}

/// Unpacks what begins here. `plain` says that bytes of no known compression are the kernel.
fn open<'a>(
    what: &'static str,
    mut reader: Box<dyn Read + 'a>,
    plain: bool,
) -> Result<Payload<'a>, KernelError> {
    let failed = |source| KernelError::Read { what, source };
    let mut magic = Vec::new();
    reader
        .by_ref()
        .take(6)
        .read_to_end(&mut magic)
        .map_err(failed)?;
    let start = magic.clone();
    let whole = io::Cursor::new(magic).chain(reader);
    let mut kind = PayloadKind::Unpacked;
    let lzma = |stream: Result<Stream, liblzma::stream::Error>| {
        stream.map_err(|error| failed(io::Error::other(error)))
    };
    let unsupported = |compression: &str| KernelError::Unsupported {
        what,
        compression: compression.to_owned(),
    };
    let reader: Box<dyn Read + 'a> = match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(BufReader::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::Decoder::new(whole).map_err(failed)?.single_frame())
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = lzma(Stream::new_stream_decoder(XZ_MEMORY_MAX_BYTES, 0))?;
            Box::new(XzDecoder::new_stream(whole, stream))
        }
        [0x5d, 0, 0, ..] => {
            let stream = lzma(Stream::new_lzma_decoder(XZ_MEMORY_MAX_BYTES))?;
            Box::new(XzDecoder::new_stream(whole, stream))
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            Box::new(super::lz4::LegacyDecoder::new(BufReader::new(whole)))
        }
        [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
        [0x89, b'L', b'Z', b'O', ..] => return Err(unsupported("lzo")),
        // An EFI zboot image may hold the kernel as it is.
        [0x7f, b'E', b'L', b'F', ..] => {
            kind = PayloadKind::Plain;
            Box::new(whole)
        }
        [b'M', b'Z', ..] if !plain || what == "Image" => {
            kind = PayloadKind::Plain;
            Box::new(whole)
        }
        _ if plain => {
            kind = match what {
                "Image" => PayloadKind::Plain,
                _ => PayloadKind::Unknown,
            };
            Box::new(whole)
        }
        other => return Err(unsupported(&format!("unknown magic {other:02x?}"))),
    };
    Ok(Payload { what, kind, reader })
}

/// Looks for `IKCFG_ST` followed by a gzip stream, and for [`UNZSTD`].
fn search(reader: impl Read) -> io::Result<Evidence> {
    let mut found = Evidence::Nothing;
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let mut window: Vec<u8> = Vec::new();
    for _ in 0..MARKS_MAX {
        let at = loop {
            let mut fresh = Vec::with_capacity(256 << 10);
            reader.by_ref().take(256 << 10).read_to_end(&mut fresh)?;
            if fresh.is_empty() {
                return Ok(found);
            }
            window.extend_from_slice(&fresh);
            if found == Evidence::Nothing && find(&window, UNZSTD).is_some() {
                found = Evidence::Unzstd;
            }
            if let Some(at) = find(&window, CONFIG_START) {
                break at;
            }
            // Either may lie across two reads.
            window.drain(..window.len().saturating_sub(UNZSTD.len() - 1));
        };
        let rest = window.split_off(at + CONFIG_START.len());
        let mut text = Vec::new();
        let candidate = flate2::bufread::GzDecoder::new(io::Cursor::new(&rest).chain(&mut reader))
            .take(CONFIG_MAX_BYTES)
            .read_to_end(&mut text);
        if candidate.is_ok()
            && let Some(config) = KernelConfig::parse(&text)
        {
            return Ok(Evidence::Config(config));
        }
        // Some other use of the mark: what the attempt read beyond `rest` is gone, but a real
        // configuration never follows a false mark that closely.
        window = rest;
    }
    Ok(found)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    // The first byte is rare enough in machine code for this to run at some GB/s.
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        let at = from + at;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    // The oracles `xz` and `lz4` are Debian's packages of those names.
    const TEXT: &str = "# Linux\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n# CONFIG_RD_XZ is not set\nCONFIG_X=m\n";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    /// A "kernel" with a false mark before the real one, which lies across two reads.
    fn kernel() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel
            .extend((0..(256 << 10) - 12_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
        kernel[5000..5008].copy_from_slice(CONFIG_START);
        kernel.extend(CONFIG_START);
        kernel.extend(gzip(TEXT.as_bytes()));
        kernel.extend(b"IKCFG_ED");
        kernel
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x1f1] = 1;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let len = u32::try_from(payload.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
        image.extend([0xcc; 16]);
        image.extend(payload);
        // The kernel's build appends the unpacked size to all but gzip.
        image.extend(7_u32.to_le_bytes());
        image
    }

    fn pipe(command: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let out = std::process::Command::new(command)
            .args(arguments)
            .stdin(file.reopen().unwrap())
            .output()
            .unwrap();
        assert!(out.status.success());
        out.stdout
    }

    #[test]
    fn finds_the_config_in_every_kind_of_image() {
        let kernel = kernel();
        let xz = pipe(
            "xz",
            &["--check=crc32", "--x86", "--lzma2=dict=1MiB", "-c"],
            &kernel,
        );
        let images = [
            kernel.clone(),
            gzip(&kernel),
            bz_image(&gzip(&kernel)),
            bz_image(&zstd::encode_all(&kernel[..], 3).unwrap()),
            bz_image(&xz),
            bz_image(&pipe("xz", &["--format=lzma", "-c"], &kernel)),
            bz_image(&pipe("lz4", &["-l", "-9", "-c"], &kernel)),
            bz_image(&kernel),
        ];
        for (index, image) in images.iter().enumerate() {
            let found = look_into(&image[..]).unwrap();
            let Evidence::Config(config) = &found else {
                panic!("{index}: {found:?}");
            };
            assert!(config.has("RD_ZSTD") && !config.has("RD_XZ") && !config.has("X"));
            assert_eq!(compressor(&found).unwrap(), Compressor::Zstd);
            for cut in [0, 1, 100, 0x220, 0x410, image.len() / 2] {
                // Any answer will do but a panic, or a config that is not there.
                assert!(!matches!(look_into(&image[..cut]), Ok(Evidence::Config(_))));
            }
        }
        let nothing = look_into(&b"\x7fELF no config"[..]).unwrap();
        assert_eq!(nothing, Evidence::Nothing);
        let error = look_into(&bz_image(b"BZh9....")[..]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel: the bzImage image's payload is compressed with bzip2, which is not read"
        );
    }

    #[test]
    fn finds_the_decompressor_when_there_is_no_config() {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.resize((256 << 10) - 20, 7);
        kernel.extend(UNZSTD);
        kernel.extend([0; 5000]);
        let found = look_into(&bz_image(&gzip(&kernel))[..]).unwrap();
        assert_eq!(found, Evidence::Unzstd);
        assert_eq!(compressor(&found).unwrap(), Compressor::Zstd);
        // The wrapper's own copy says nothing about initrds.
        let mut image = bz_image(&gzip(b"\x7fELF"));
        image.extend(UNZSTD);
        assert_eq!(look_into(&image[..]).unwrap(), Evidence::Nothing);
        // An image of an unknown kind may be a wrapper; an arm64 Image is the kernel.
        let mut image = vec![0; 0x400];
        image.extend(UNZSTD);
        assert_eq!(look_into(&image[..]).unwrap(), Evidence::Nothing);
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(look_into(&image[..]).unwrap(), Evidence::Unzstd);
    }

    #[test]
    fn gives_up_on_marks_without_a_config() {
        let kernel = [b"\x7fELF", &*CONFIG_START.repeat(100_000)].concat();
        assert_eq!(look_into(&kernel[..]).unwrap(), Evidence::Nothing);
    }

    #[test]
    fn the_rule_is_zstd_if_known_else_gzip() {
        let parse = |text: &str| KernelConfig::parse(text.as_bytes());
        let choose =
            |text: &str| compressor(&parse(text).map_or(Evidence::Nothing, Evidence::Config));
        assert_eq!(choose(TEXT).unwrap(), Compressor::Zstd);
        assert_eq!(choose("").unwrap(), Compressor::Gzip);
        let old = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\n";
        assert_eq!(choose(old).unwrap(), Compressor::Gzip);
        assert_eq!(
            choose("CONFIG_BLK_DEV_INITRD=y\n").unwrap(),
            Compressor::None
        );
        assert!(matches!(
            choose("# CONFIG_BLK_DEV_INITRD is not set\n"),
            Err(KernelError::NoInitrd)
        ));
    }
}
