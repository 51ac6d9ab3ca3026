//! Actions: what a key produced. The truth of the cache: records `actions/ab/…`.
//!
//! Body (see [`crate::record`] for the head):
//!
//! ```text
//! kind, label   strings
//! cost          u64, nanoseconds
//! outputs       u32 count; name string, digest 32, size u64
//! values        u32 count; name string, value string
//! edges         u32 count; key 32
//! ```

use crate::error::{CacheError, Result};
use crate::record::{self, Decoder, Encoder, Kind};
use crate::{Cache, Digest, Key};

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

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes(self.kind.as_bytes());
        out.bytes(self.label.as_bytes());
        out.u64(self.cost_ns);
        out.count(self.outputs.len());
        for (name, digest, size) in &self.outputs {
            out.bytes(name.as_bytes());
            out.digest(digest);
            out.u64(*size);
        }
        out.count(self.values.len());
        for (name, value) in &self.values {
            out.bytes(name.as_bytes());
            out.bytes(value);
        }
        out.count(self.edges.len());
        for edge in &self.edges {
            out.raw(edge.as_bytes());
        }
        out.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut body = Decoder::new(body);
        let action = Self {
            kind: body.string()?,
            label: body.string()?,
            cost_ns: body.u64()?,
            outputs: body.list(|body| Some((body.string()?, body.digest()?, body.u64()?)))?,
            values: body.list(|body| Some((body.string()?, body.bytes()?.to_vec())))?,
            edges: body.list(Decoder::key)?,
        };
        body.end(action)
    }
}

impl Cache {
    /// Returns what `key` produced, when that is known. A tier is asked when this cache has no
    /// record of it, or lacks an object that the record names and the tier does not.
    ///
    /// # Errors
    /// When the record exists but cannot be read. A damaged record counts as absent.
    pub fn action(&self, key: &Key) -> Result<Option<Action>> {
        let own = self.own_action(key)?;
        if self.tiers.is_empty() || own.as_ref().is_some_and(|own| self.complete(own)) {
            return Ok(own);
        }
        let complete = |action: &Action| self.complete(action);
        let other = self.in_tiers(|tier, _| Ok(tier.own_action(key)?.filter(complete)));
        // Whole by itself, it is kept: what was decided once does not change when the tier goes.
        if let Some(other) = other.as_ref().filter(|other| other.outputs.is_empty()) {
            match self.put_action(key, other) {
                Ok(()) | Err(CacheError::Unwritable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(other.or(own))
    }

    /// As [`action`](Self::action), of this cache alone.
    pub(crate) fn own_action(&self, key: &Key) -> Result<Option<Action>> {
        let bytes = record::read_file(&self.action_path(key))?;
        Ok(bytes.and_then(|bytes| Action::decode(record::unseal(Kind::Action, key, &bytes)?)))
    }

    /// Records what `key` produced. The objects must be committed already.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_action(&self, key: &Key, action: &Action) -> Result<()> {
        self.put_record(Kind::Action, key, &self.action_path(key), &action.encode())
    }

    /// Returns true when every object of the action is there with its recorded size. An action
    /// that is not complete is a miss: its step is to be done again.
    #[must_use]
    pub fn complete(&self, action: &Action) -> bool {
        action
            .outputs
            .iter()
            .all(|(_, digest, size)| self.has_object_sized(digest, *size))
    }

    /// Like [`complete`](Self::complete), and every object may be used: one that has to be hashed
    /// (see [`crate::object`]) is hashed now, and set aside when it is damaged. Costs a `stat`
    /// per object otherwise. The objects are held (see
    /// [`hold`](Self::hold)): who looks actions up with this meets a missing object later only if
    /// someone removes it by hand.
    ///
    /// # Errors
    /// When an object cannot be read for another reason than damage.
    pub fn sound(&self, action: &Action) -> Result<bool> {
        let objects: Vec<Digest> = action.outputs.iter().map(|output| output.1).collect();
        self.hold(&objects)?;
        for (_, digest, size) in &action.outputs {
            if self.is_marked(digest, *size) {
                continue;
            }
            match self.open_sized(digest, *size) {
                Ok(_) => {}
                Err(CacheError::MissingObject(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::KeyBuilder;

    /// Records are read-only files.
    fn replace(path: &std::path::Path, bytes: &[u8]) {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

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
            replace(&path, &whole[..cut]);
            assert_eq!(cache.action(&key).unwrap(), None);
            let mut flipped = whole.clone();
            flipped[cut] ^= 1;
            replace(&path, &flipped);
            assert_eq!(cache.action(&key).unwrap(), None);
        }
    }

    fn any_action() -> impl Strategy<Value = Action> {
        use proptest::collection::vec;
        let digest = any::<[u8; 32]>().prop_map(Digest::from_bytes);
        (
            ".{0,8}",
            ".{0,8}",
            any::<u64>(),
            vec((".{0,8}", digest, any::<u64>()), 0..4),
            vec((".{0,8}", vec(any::<u8>(), 0..20)), 0..4),
            vec(any::<[u8; 32]>().prop_map(Key::from_bytes), 0..4),
        )
            .prop_map(|(kind, label, cost_ns, outputs, values, edges)| Action {
                kind,
                label,
                cost_ns,
                outputs,
                values,
                edges,
            })
    }

    proptest! {
        #[test]
        fn encodes_what_it_decodes(
            action in any_action(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let bytes = action.encode();
            prop_assert_eq!(Action::decode(&bytes[..cut.index(bytes.len())]), None);
            prop_assert_eq!(Action::decode(&bytes), Some(action));
        }

        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(action) = Action::decode(&bytes) {
                prop_assert_eq!(action.encode(), bytes);
            }
        }

        /// What passes the checksum may still be anybody's: lengths that promise gigabytes.
        #[test]
        fn changed_bytes_decode_or_not(
            action in any_action(),
            at in any::<proptest::sample::Index>(),
            value in any::<[u8; 4]>(),
        ) {
            let mut bytes = action.encode();
            let at = at.index(bytes.len() - 3);
            bytes[at..at + 4].copy_from_slice(&value);
            if let Some(action) = Action::decode(&bytes) {
                prop_assert_eq!(action.encode(), bytes);
            }
        }
    }
}
