//! The beginning of a file, and numbers at places in it that may lie behind its end.

/// Control characters that text has: tab, line feed, form feed, carriage return.
const OF_TEXT: [u8; 4] = [b'\t', b'\n', b'\x0c', b'\r'];
/// As much of a file decides whether it is text.
const TEXT_MAX: usize = 4 << 10;

#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a>(pub(super) &'a [u8]);

impl Head<'_> {
    pub(super) fn has(self, at: usize, magic: &[u8]) -> bool {
        self.0
            .get(at..)
            .is_some_and(|bytes| bytes.starts_with(magic))
    }

    pub(super) fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    pub(super) fn le16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn le32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn le64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn be32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(super) fn be64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// Returns whether it is UTF-8 without control characters; the last character may be cut off.
    pub(super) fn is_text(self) -> bool {
        let bytes = &self.0[..self.0.len().min(TEXT_MAX)];
        let is_utf8 = match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none() && bytes.len() == TEXT_MAX,
        };
        is_utf8
            && bytes
                .iter()
                .all(|byte| !byte.is_ascii_control() || OF_TEXT.contains(byte))
    }
}
