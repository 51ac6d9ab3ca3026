//! Actions: what a key produced. The truth of the cache: small files, each with its own checksum.
//!
//! ```text
//! "kiln action 1\n"   14 bytes
//! blake3 of the rest  32 bytes
//! kind, label         strings: u32 length, bytes
//! cost                u64, nanoseconds
//! outputs             u32 count; name string, digest 32, size u64
//! values              u32 count; name string, value bytes (u32 length)
//! edges               u32 count; key 32
//! ```
//! Integers are little-endian. A file that does not check is treated as absent.

use std::fs;
use std::io;

use crate::error::{CacheError, Result};
use crate::layout::publish;
use crate::{Cache, Digest, Key};

const MAGIC: &[u8; 14] = b"kiln action 1\n";

/// The record of one finished step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    /// The step's kind, such as `layer`.
    pub kind: String,
    /// What people call this step, such as an image reference. Not part of any key.
    pub label: String,
    /// How long the work took, in nanoseconds.
    pub cost_ns: u64,
    /// Objects by role: name, digest, size in bytes.
    pub outputs: Vec<(String, Digest, u64)>,
    /// Small results by role.
    pub values: Vec<(String, Vec<u8>)>,
    /// Keys of the steps this one took its inputs from.
    pub edges: Vec<Key>,
}

impl Action {
    /// Returns the object with this role.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Digest> {
        self.outputs
            .iter()
            .find(|output| output.0 == name)
            .map(|output| &output.1)
    }

    /// Returns the small result with this role.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.values
            .iter()
            .find(|value| value.0 == name)
            .map(|value| value.1.as_slice())
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        put_bytes(&mut body, self.kind.as_bytes());
        put_bytes(&mut body, self.label.as_bytes());
        body.extend(self.cost_ns.to_le_bytes());
        put_count(&mut body, self.outputs.len());
        for (name, digest, size) in &self.outputs {
            put_bytes(&mut body, name.as_bytes());
            body.extend(digest.as_bytes());
            body.extend(size.to_le_bytes());
        }
        put_count(&mut body, self.values.len());
        for (name, value) in &self.values {
            put_bytes(&mut body, name.as_bytes());
            put_bytes(&mut body, value);
        }
        put_count(&mut body, self.edges.len());
        for edge in &self.edges {
            body.extend(edge.as_bytes());
        }
        let mut out = MAGIC.to_vec();
        out.extend(Digest::of(&body).as_bytes());
        out.extend(body);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (checksum, body) = rest.split_at_checked(32)?;
        if Digest::of(body).as_bytes() != checksum {
            return None;
        }
        let mut reader = Reader(body);
        let mut action = Self {
            kind: reader.string()?,
            label: reader.string()?,
            cost_ns: reader.u64()?,
            ..Self::default()
        };
        for _ in 0..reader.u32()? {
            action.outputs.push((
                reader.string()?,
                Digest::from_bytes(reader.array()?),
                reader.u64()?,
            ));
        }
        for _ in 0..reader.u32()? {
            action
                .values
                .push((reader.string()?, reader.bytes()?.to_vec()));
        }
        for _ in 0..reader.u32()? {
            action.edges.push(Key::from_bytes(reader.array()?));
        }
        reader.0.is_empty().then_some(action)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

impl Cache {
    /// Returns what `key` produced, when that is known.
    ///
    /// # Errors
    /// When the record exists but cannot be read. A damaged record counts as absent.
    pub fn action(&self, key: &Key) -> Result<Option<Action>> {
        let path = self.action_path(key);
        match fs::read(&path) {
            Ok(bytes) => Ok(Action::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CacheError::io("read", &path)(error)),
        }
    }

    /// Records what `key` produced. The objects must be committed already.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_action(&self, key: &Key, action: &Action) -> Result<()> {
        let path = self.temporary();
        fs::write(&path, action.encode()).map_err(CacheError::io("write", &path))?;
        publish(&path, &self.action_path(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyBuilder;

    #[test]
    fn a_damaged_record_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache")).unwrap();
        let key = KeyBuilder::new("test", 1).finish();
        assert_eq!(cache.action(&key).unwrap(), None);
        let action = Action {
            kind: "test".into(),
            label: "x".into(),
            cost_ns: 7,
            outputs: vec![("tree".into(), Digest::of(b"t"), 1)],
            values: vec![("v".into(), vec![0, 1])],
            edges: vec![key],
        };
        cache.put_action(&key, &action).unwrap();
        assert_eq!(cache.action(&key).unwrap(), Some(action));
        let path = cache.action_path(&key);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(cache.action(&key).unwrap(), None);
            let mut flipped = whole.clone();
            flipped[cut] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(cache.action(&key).unwrap(), None);
        }
    }
}
