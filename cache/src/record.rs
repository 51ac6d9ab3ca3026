//! Records: small self-checksummed files named by a key. Actions, stamps and builds are records.
//!
//! ```text
//! "kiln record 1\n"  14 bytes
//! kind               8 bytes, zero-padded: "action", "stamp", "build"
//! checksum           32 bytes: blake3 derive_key("kiln record 1", kind, key, body)
//! body               the rest; at most [`BODY_BYTES_MAX`]
//! ```
//!
//! The key is part of the checksum: a record found under another's name does not check. A record
//! that does not check, for whatever reason, counts as absent: its step is done again and the
//! record replaced. Integers are little-endian; a string is its length (u32) and its bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{CacheError, Result, is_damage, is_stale};
use crate::{Cache, Digest, Key};

const MAGIC: &[u8; 14] = b"kiln record 1\n";
const CONTEXT: &str = "kiln record 1";
const KIND_BYTES: usize = 8;
const HEAD_BYTES: usize = MAGIC.len() + KIND_BYTES + 32;

/// The largest body written or read: 64 MiB, a stamp of some 500,000 files.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// More than most records have.
const USUAL_BYTES: usize = 4096;

/// What a record is about; part of its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Action,
    Stamp,
    Build,
}

impl Kind {
    const fn name(self) -> &'static [u8; KIND_BYTES] {
        match self {
            Self::Action => b"action\0\0",
            Self::Stamp => b"stamp\0\0\0",
            Self::Build => b"build\0\0\0",
        }
    }
}

fn checksum(kind: Kind, key: &Key, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    // Both fixed in length: no framing needed.
    hasher.update(kind.name());
    hasher.update(key.as_bytes());
    hasher.update(body);
    hasher.finalize().into()
}

/// Puts the head in front of `body`.
pub(crate) fn seal(kind: Kind, key: &Key, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend(MAGIC);
    out.extend(kind.name());
    out.extend(checksum(kind, key, body));
    out.extend(body);
    out
}

/// Returns the body when the record is whole and is this key's.
pub(crate) fn unseal<'a>(kind: Kind, key: &Key, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(kind.name())?;
    let (sum, body) = rest.split_at_checked(32)?;
    (checksum(kind, key, body) == sum).then_some(body)
}

/// Reads the file of a record; `None` when it is absent, or the medium is damaged there. Damage of
/// the content is for [`unseal`] to find.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    // Most are small, and there may be many: with room at once two reads will do.
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    let read = File::open(path).and_then(|file| {
        let limit = HEAD_BYTES + BODY_BYTES_MAX + 1;
        file.take(limit as u64).read_to_end(&mut bytes)
    });
    match read {
        // A longer file is none of ours.
        Ok(len) => Ok((len <= HEAD_BYTES + BODY_BYTES_MAX).then_some(bytes)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || is_damage(&error) || is_stale(&error) =>
        {
            Ok(None)
        }
        Err(error) => Err(CacheError::io("read", path)(error)),
    }
}

impl Cache {
    /// Writes a record under its final name, replacing an older one, all or nothing.
    pub(crate) fn put_record(&self, kind: Kind, key: &Key, path: &Path, body: &[u8]) -> Result<()> {
        if body.len() > BODY_BYTES_MAX {
            return Err(CacheError::io("write", path)(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "a record of {} bytes, of at most {BODY_BYTES_MAX}",
                    body.len()
                ),
            )));
        }
        let mut temporary = self.create_temporary()?;
        temporary.write(&seal(kind, key, body), 0)?;
        temporary.publish(path)
    }
}

/// Builds the body of a record.
#[derive(Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// A count too large for its field makes a body that is refused for its size.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn digest(&mut self, digest: &Digest) {
        self.raw(digest.as_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads the body of a record back. Nothing is allocated on the word of a length field alone.
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    pub(crate) fn string(&mut self) -> Option<String> {
        std::str::from_utf8(self.bytes()?).ok().map(str::to_owned)
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_bytes)
    }

    pub(crate) fn key(&mut self) -> Option<Key> {
        self.array().map(Key::from_bytes)
    }

    /// A list whose items each take at least one byte.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }

    /// Returns `value` when nothing is left over.
    pub(crate) fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::KeyBuilder;

    proptest! {
        #[test]
        fn only_the_same_bytes_unseal(
            body in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<proptest::sample::Index>(),
            flip in 1_u8..,
        ) {
            let key = KeyBuilder::new("test", 1).finish();
            let other = KeyBuilder::new("test", 2).finish();
            let mut bytes = seal(Kind::Build, &key, &body);
            prop_assert_eq!(unseal(Kind::Build, &key, &bytes), Some(&body[..]));
            prop_assert_eq!(unseal(Kind::Build, &other, &bytes), None);
            prop_assert_eq!(unseal(Kind::Stamp, &key, &bytes), None);
            let at = at.index(bytes.len());
            prop_assert_eq!(unseal(Kind::Build, &key, &bytes[..at]), None);
            bytes[at] ^= flip;
            prop_assert_eq!(unseal(Kind::Build, &key, &bytes), None);
        }

        #[test]
        fn any_bytes_are_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let key = KeyBuilder::new("test", 1).finish();
            prop_assert_eq!(unseal(Kind::Action, &key, &bytes), None);
            let mut headed = MAGIC.to_vec();
            headed.extend(Kind::Action.name());
            headed.extend(bytes);
            prop_assert_eq!(unseal(Kind::Action, &key, &headed), None);
        }
    }

    #[test]
    fn a_record_has_a_largest_size() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let key = KeyBuilder::new("test", 1).finish();
        let build = crate::Build {
            payload: vec![0; BODY_BYTES_MAX],
            ..crate::Build::default()
        };
        assert!(cache.put_build(&key, &build).is_err());
        // A file nobody wrote: sparse, and larger than anybody's memory.
        let path = room.path().join("huge");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_file(&path).unwrap(), None);
    }
}
