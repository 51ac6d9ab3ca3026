//! lz4's legacy frames, which is how Linux compresses itself with lz4 (Debian's kernels).
//!
//! Enters: the frame (lz4's doc/lz4_Frame_format.md, "Legacy frame": magic, then blocks of u32
//! length and data that unpack to 8 MiB at most). Leaves: the bytes. Blocks are as in lz4's
//! doc/lz4_Block_format.md.

use std::io::{self, Read};

const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const BLOCK_MAX_BYTES: usize = 8 << 20;

/// Unpacks a legacy frame. Memory: one block.
pub(super) struct LegacyDecoder<R> {
    reader: R,
    stored: Vec<u8>,
    block: Vec<u8>,
    at: usize,
    started: bool,
}

impl<R: Read> LegacyDecoder<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self {
            reader,
            stored: Vec::new(),
            block: Vec::new(),
            at: 0,
            started: false,
        }
    }

    /// Unpacks the next block; an empty one at the end.
    fn next_block(&mut self) -> io::Result<()> {
        self.block.clear();
        self.at = 0;
        let mut word = [0; 4];
        loop {
            if self.reader.read_exact(&mut word).is_err() {
                return Ok(());
            }
            // A new frame may follow, as `cat` makes them.
            if word != MAGIC {
                break;
            }
            self.started = true;
        }
        let len = u32::from_le_bytes(word) as usize;
        // The kernel's build appends the unpacked size: no block has so few bytes after it.
        if !self.started || len > BLOCK_MAX_BYTES + BLOCK_MAX_BYTES / 255 + 16 {
            return Ok(());
        }
        self.stored.clear();
        let read = self
            .reader
            .by_ref()
            .take(len as u64)
            .read_to_end(&mut self.stored)?;
        if read < len {
            // Nothing at all after a length is that appended size; a part of a block is damage.
            return match read {
                0 => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        unpack(&self.stored, &mut self.block)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged lz4 block"))
    }
}

impl<R: Read> Read for LegacyDecoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            self.next_block()?;
        }
        let len = out.len().min(self.block.len() - self.at);
        out[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Unpacks one block, `None` when it is damaged.
fn unpack(mut input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    loop {
        let token;
        (token, input) = input.split_first()?;
        let literals = length(usize::from(token >> 4), &mut input)?;
        let head;
        (head, input) = input.split_at_checked(literals)?;
        out.extend_from_slice(head);
        if input.is_empty() {
            return (out.len() <= BLOCK_MAX_BYTES).then_some(());
        }
        let distance;
        (distance, input) = input.split_at_checked(2)?;
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        let len = length(usize::from(token & 15), &mut input)? + 4;
        let start = out.len().checked_sub(distance).filter(|_| distance > 0)?;
        if out.len() + len > BLOCK_MAX_BYTES {
            return None;
        }
        if distance >= len {
            out.extend_from_within(start..start + len);
        } else {
            // The copy reads what it writes.
            for at in start..start + len {
                out.push(out[at]);
            }
        }
    }
}

/// Returns a length of 4 bits, with the bytes that follow when they are full.
fn length(nibble: usize, input: &mut &[u8]) -> Option<usize> {
    let mut len = nibble;
    if nibble == 15 {
        loop {
            let (byte, rest) = input.split_first()?;
            *input = rest;
            len += usize::from(*byte);
            if *byte != 255 {
                break;
            }
        }
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        LegacyDecoder::new(bytes).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn unpacks_literals_and_overlapping_copies() {
        // "abc", then 12 bytes from 3 back, then "de"; the size that kernels append.
        let block = [0x38, b'a', b'b', b'c', 3, 0, 0x20, b'd', b'e'];
        let mut frame = MAGIC.to_vec();
        frame.extend(9_u32.to_le_bytes());
        frame.extend(block);
        assert_eq!(decode(&frame).unwrap(), b"abcabcabcabcabcde");
        frame.extend(17_u32.to_le_bytes());
        assert_eq!(decode(&frame).unwrap(), b"abcabcabcabcabcde");
        assert!(decode(&frame[..12]).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = MAGIC.to_vec();
            frame.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            frame.extend(bytes);
            let _ = decode(&frame);
        }
    }
}
