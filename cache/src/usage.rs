//! Who uses what: the sizes of systems and of kinds of steps.
//!
//! Enters: the cache. Leaves: [`Usage`], for people who wonder what fills their disk.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::Result;
use crate::inventory::Inventory;
use crate::{Cache, Digest, Key};

/// A system that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemUsage {
    /// What identifies it.
    pub key: Key,
    /// What people call it.
    pub label: String,
    /// When it was last built or found unchanged, nanoseconds since 1970.
    pub used_ns: i64,
    /// Steps of its newest build that are still known.
    pub actions: u64,
    /// What all it reaches takes on the disk, in bytes.
    pub bytes: u64,
    /// What nothing else reaches of that.
    pub own_bytes: u64,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepUsage {
    /// Its key.
    pub key: Key,
    /// Its kind, such as `layer`.
    pub kind: String,
    /// What people call it.
    pub label: String,
    /// When a build last relied on it, nanoseconds since 1970.
    pub used_ns: i64,
    /// How long its work took, nanoseconds.
    pub cost_ns: u64,
    /// What its objects take on the disk, in bytes.
    pub bytes: u64,
}

/// The steps of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindUsage {
    /// How many.
    pub actions: u64,
    /// What their objects take on the disk, in bytes; one that steps share counts for the first.
    pub bytes: u64,
    /// How long their work took together, nanoseconds.
    pub cost_ns: u64,
}

/// Who uses what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Systems, the one used last first.
    pub systems: Vec<SystemUsage>,
    /// Steps, the largest first.
    pub steps: Vec<StepUsage>,
    /// Kinds of steps.
    pub kinds: BTreeMap<String, KindUsage>,
    /// What all objects take on the disk, in bytes.
    pub bytes: u64,
    /// What no step's record names of that: what steps that run every time have made.
    pub unnamed_bytes: u64,
    /// What no system's newest build reaches of it, by a record.
    pub unreached_bytes: u64,
}

impl Cache {
    /// Adds up who uses what.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let mut inventory = Inventory::take(self)?;
        inventory.date(self);
        let of: HashMap<Key, &[Digest]> = inventory
            .actions
            .iter()
            .map(|entry| (entry.key, entry.outputs.as_slice()))
            .collect();
        let reached: Vec<(u64, HashSet<Digest>)> = inventory
            .builds
            .iter()
            .map(|built| {
                let known = built.build.actions.iter().filter_map(|key| of.get(key));
                let count = known.clone().count() as u64;
                (count, known.flat_map(|outputs| *outputs).copied().collect())
            })
            .collect();
        let mut reachers: HashMap<Digest, usize> = HashMap::new();
        for digest in reached.iter().flat_map(|(_, digests)| digests) {
            *reachers.entry(*digest).or_default() += 1;
        }
        let systems = inventory.builds.iter().zip(&reached);
        let systems = systems
            .map(|(built, (actions, digests))| SystemUsage {
                key: built.key,
                label: built.build.label.clone(),
                used_ns: built.used_ns,
                actions: *actions,
                bytes: inventory.bytes_of(digests),
                own_bytes: inventory.bytes_of(digests.iter().filter(|it| reachers[*it] == 1)),
            })
            .collect();
        let mut kinds: BTreeMap<String, KindUsage> = BTreeMap::new();
        let mut counted: HashSet<&Digest> = HashSet::new();
        for entry in &inventory.actions {
            let kind = kinds.entry(entry.kind.clone()).or_default();
            let new = entry.outputs.iter().filter(|it| counted.insert(*it));
            kind.bytes += inventory.bytes_of(new);
            kind.actions += 1;
            kind.cost_ns = kind.cost_ns.saturating_add(entry.cost_ns);
        }
        let mut steps: Vec<StepUsage> = inventory
            .actions
            .iter()
            .map(|entry| StepUsage {
                key: entry.key,
                kind: entry.kind.clone(),
                label: entry.label.clone(),
                used_ns: entry.used_ns,
                cost_ns: entry.cost_ns,
                bytes: inventory.bytes_of(&entry.outputs),
            })
            .collect();
        steps.sort_by(|a, b| (b.bytes, &a.kind, &a.label).cmp(&(a.bytes, &b.kind, &b.label)));
        let bytes = inventory.bytes();
        let unnamed = inventory
            .objects
            .values()
            .filter(|object| object.users == 0);
        Ok(Usage {
            systems,
            steps,
            kinds,
            bytes,
            unnamed_bytes: unnamed.map(|object| object.bytes).sum(),
            unreached_bytes: bytes - inventory.bytes_of(reachers.keys()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Build, KeyBuilder};

    #[test]
    fn what_is_shared_is_nobody_s_own() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let put = |name: &str, contents: &[&[u8]]| {
            let outputs = contents.iter().map(|bytes| {
                let digest = cache.put(bytes).unwrap();
                (name.to_owned(), digest, bytes.len() as u64)
            });
            let key = KeyBuilder::new("test", 1).field("name", name).finish();
            let action = Action {
                kind: "test".into(),
                label: name.into(),
                outputs: outputs.collect(),
                ..Action::default()
            };
            cache.put_action(&key, &action).unwrap();
            key
        };
        let (big, small, loose) = ([1; 50_000], [2; 5000], [3; 7000]);
        let (a, b) = (put("a", &[&big, &small]), put("b", &[&small]));
        put("c", &[&loose]);
        for (at_ns, label, actions) in [(1, "one", vec![a, b]), (2, "two", vec![b, a, b])] {
            let build = Build {
                at_ns,
                label: label.into(),
                actions,
                ..Build::default()
            };
            let key = KeyBuilder::new("system", 1).field("x", label).finish();
            cache.put_build(&key, &build).unwrap();
        }
        let third = Build {
            actions: vec![b],
            ..Build::default()
        };
        cache.put_build(&a, &third).unwrap();
        let usage = cache.usage().unwrap();
        let labels: Vec<_> = usage.systems.iter().map(|it| it.label.as_str()).collect();
        assert_eq!(labels, ["two", "one", ""]);
        let [two, one, third] = [0, 1, 2].map(|at| &usage.systems[at]);
        assert_eq!((two.bytes, two.own_bytes), (one.bytes, 0));
        assert!(third.bytes >= 5000 && third.bytes < two.bytes && third.own_bytes == 0);
        assert!(usage.unreached_bytes >= 7000);
        assert_eq!(usage.bytes, usage.unreached_bytes + two.bytes);
        assert_eq!(usage.kinds["test"].actions, 3);
        assert_eq!(usage.kinds["test"].bytes, usage.bytes);
        assert_eq!(usage.steps[0].label, "a");
    }
}
