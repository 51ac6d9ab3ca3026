//! The tar headers of archives (POSIX.1-2001, `ustar`): a name and a size, all else fixed.
//!
//! There is one way to write a header, and only that is read.

use crate::{Digest, Key};

pub(super) const BLOCK_BYTES: usize = 512;

/// The largest number of 11 octal digits, 8 GiB - 1; larger sizes are written in GNU's base 256.
const OCTAL_MAX: u64 = 0o777_7777_7777;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Object(Digest),
    Action(Key),
}

impl Entry {
    fn name(self) -> String {
        match self {
            Self::Object(digest) => format!("objects/{digest}"),
            Self::Action(key) => format!("actions/{key}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let (room, hex) = name.split_once('/')?;
        let digest: Digest = hex.parse().ok()?;
        match room {
            "objects" => Some(Self::Object(digest)),
            // Keys and digests are written alike.
            "actions" => Some(Self::Action(Key::from_bytes(*digest.as_bytes()))),
            _ => None,
        }
    }
}

/// Returns the header of an entry.
pub(super) fn encode(entry: Entry, size: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, entry.name().as_bytes());
    put(100, b"0000444\0"); // mode
    put(108, b"0000000\0"); // uid
    put(116, b"0000000\0"); // gid
    if size <= OCTAL_MAX {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0"); // mtime
    put(148, b"        "); // checksum, as it counts in itself
    put(156, b"0"); // a regular file
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Reads a header; `None` for any that [`encode`] does not write.
pub(super) fn decode(block: &[u8; BLOCK_BYTES]) -> Option<(Entry, u64)> {
    let end = block[..100].iter().position(|byte| *byte == 0)?;
    let entry = Entry::parse(std::str::from_utf8(&block[..end]).ok()?)?;
    let field = &block[124..136];
    let size = match field.first() {
        Some(0x80) => u64::from_be_bytes(field[4..].try_into().ok()?),
        _ => u64::from_str_radix(std::str::from_utf8(&field[..11]).ok()?, 8).ok()?,
    };
    (encode(entry, size) == *block).then_some((entry, size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_writes_and_nothing_else(
            name in any::<[u8; 32]>(),
            is_object in any::<bool>(),
            size in prop_oneof![any::<u64>(), 0..=OCTAL_MAX, Just(OCTAL_MAX), Just(OCTAL_MAX + 1)],
            at in 0..BLOCK_BYTES,
            flip in 1_u8..,
        ) {
            let entry = match is_object {
                true => Entry::Object(Digest::from_bytes(name)),
                false => Entry::Action(Key::from_bytes(name)),
            };
            let mut block = encode(entry, size);
            prop_assert_eq!(decode(&block), Some((entry, size)));
            block[at] ^= flip;
            prop_assert_eq!(decode(&block), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), BLOCK_BYTES)) {
            let block: [u8; BLOCK_BYTES] = bytes.try_into().unwrap();
            prop_assert_eq!(decode(&block), None);
        }
    }

    #[test]
    fn tar_reads_it() {
        let entry = Entry::Object(Digest::of(b"kiln"));
        for size in [0, 4, OCTAL_MAX, OCTAL_MAX + 1, u64::MAX >> 1] {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&encode(entry, size));
            assert_eq!(header.size().unwrap(), size);
            assert_eq!(header.path().unwrap().to_str(), Some(&*entry.name()));
            assert!(header.entry_type().is_file());
            assert!(header.as_ustar().is_some());
            let sum = header.cksum().unwrap();
            header.set_cksum();
            assert_eq!(header.cksum().unwrap(), sum);
        }
    }
}
