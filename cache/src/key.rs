//! Step keys: what a step's inputs are called.
//!
//! `key = blake3 derive_key("kiln step 1", kind, version, fields…)`. Every field is framed
//! (name, length, bytes; all integers little-endian, 8 bytes), so that no two different lists of
//! fields give the same bytes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::Digest;
use crate::digest::ParseDigestError;

/// The domain that separates step keys from every other use of BLAKE3.
const CONTEXT: &str = "kiln step 1";

/// The name of a step with its inputs; prints as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// Returns the raw key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Wraps a finished key, as read from a record.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // It is a hash: a part tells as much apart as the whole.
        let (part, _) = self.0.split_at(8);
        state.write(part);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl FromStr for Key {
    type Err = ParseDigestError;

    /// Keys and digests are written alike.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|digest: Digest| Self(*digest.as_bytes()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Collects the fields of a key.
pub struct KeyBuilder(blake3::Hasher);

impl KeyBuilder {
    /// Starts the key of a step of `kind`; `version` changes when the kind's output for the same
    /// input may change.
    #[must_use]
    pub fn new(kind: &str, version: u32) -> Self {
        let mut this = Self(blake3::Hasher::new_derive_key(CONTEXT));
        this.frame(kind.as_bytes());
        this.0.update(&u64::from(version).to_le_bytes());
        this
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds a named field.
    #[must_use]
    pub fn field(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.frame(name.as_bytes());
        self.frame(bytes.as_ref());
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, name: &str, value: u64) -> Self {
        self.field(name, value.to_le_bytes())
    }

    /// Adds an input object.
    #[must_use]
    pub fn digest(self, name: &str, digest: &Digest) -> Self {
        self.field(name, digest.as_bytes())
    }

    /// Adds a list; its length is part of the key.
    #[must_use]
    pub fn list<T: AsRef<[u8]>>(mut self, name: &str, items: impl IntoIterator<Item = T>) -> Self {
        self.frame(name.as_bytes());
        let mut count = 0_u64;
        for item in items {
            self.frame(item.as_ref());
            count += 1;
        }
        self.0.update(&u64::MAX.to_le_bytes());
        self.0.update(&count.to_le_bytes());
        self
    }

    /// Returns the key.
    #[must_use]
    pub fn finish(&self) -> Key {
        Key(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_framed() {
        let one = KeyBuilder::new("k", 1).field("a", "bc").finish();
        let two = KeyBuilder::new("k", 1).field("ab", "c").finish();
        let three = KeyBuilder::new("k", 2).field("a", "bc").finish();
        let list = KeyBuilder::new("k", 1).list("a", ["bc"]).finish();
        let split = KeyBuilder::new("k", 1).list("a", ["b", "c"]).finish();
        let all = [one, two, three, list, split];
        for (i, left) in all.iter().enumerate() {
            for right in &all[i + 1..] {
                assert_ne!(left, right);
            }
        }
    }
}
