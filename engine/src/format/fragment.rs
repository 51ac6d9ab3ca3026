//! A component's entries: flattened trees, each placed under a prefix.
//!
//! Enters: digests of trees. Leaves: their entries in one path order, parents first. Parts are
//! disjoint; where two have the same path all the same, the later part's entry counts.

use std::cmp::Ordering;

use kiln_cache::{Cache, Digest};

use super::FormatError;
use crate::tree::path::{self, TreePath};
use crate::tree::{EntryRef, Tree};

/// What one component brings into the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// What people call it.
    pub name: String,
    /// Value of the tar record `LINUXKIT.source`.
    pub source: String,
    /// Value of the tar record `LINUXKIT.location`.
    pub location: String,
    /// Its trees.
    pub parts: Vec<Part>,
}

/// A flattened tree placed under a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// Where the tree's root goes; the root for none.
    pub prefix: TreePath,
    /// The tree: no whiteouts and no hard-link kinds, groups instead.
    pub tree: Digest,
    /// True when its files may be one inode with identical files elsewhere: container roots,
    /// which are read-only or lower layers of an overlay. What is written in place must not be.
    pub shared: bool,
}

/// An entry of a fragment: which part, which entry of the part's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index in [`Fragment::parts`].
    pub part: u32,
    /// Index in the part's tree.
    pub index: u32,
}

/// A fragment whose trees are mapped.
pub struct OpenFragment {
    parts: Vec<(TreePath, Tree)>,
}

impl OpenFragment {
    /// Maps the trees of `parts`.
    ///
    /// # Errors
    /// When one is missing or malformed.
    pub fn open(cache: &Cache, parts: &[Part]) -> Result<Self, FormatError> {
        let parts = parts
            .iter()
            .map(|part| Ok((part.prefix.clone(), Tree::open(cache, &part.tree)?)))
            .collect::<Result<_, FormatError>>()?;
        Ok(Self { parts })
    }

    /// Returns the prefix and tree of part `index`.
    #[must_use]
    pub fn part(&self, index: usize) -> (&TreePath, &Tree) {
        let (prefix, tree) = &self.parts[index];
        (prefix, tree)
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Returns the entry at `place`.
    #[must_use]
    pub fn entry(&self, place: Place) -> EntryRef<'_> {
        self.parts[place.part as usize].1.get(place.index as usize)
    }

    /// Replaces `path` by the output path of the entry at `place`.
    pub fn path_into(&self, place: Place, path: &mut Vec<u8>) {
        let (prefix, tree) = &self.parts[place.part as usize];
        path.clear();
        path.extend_from_slice(prefix.as_bytes());
        let rest = tree.get(place.index as usize).path();
        if !path.is_empty() && !rest.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(rest);
    }

    /// Returns all entries in path order, one per path.
    #[must_use]
    pub fn order(&self) -> Vec<Place> {
        let total = self.parts.iter().map(|(_, tree)| tree.len()).sum();
        let mut heads: Vec<Head> = (0..self.parts.len())
            .map(|part| Head::new(self, part))
            .collect();
        let mut order = Vec::with_capacity(total);
        while let Some(first) = self.smallest(&heads) {
            order.push(heads[first].place);
            // The same path in earlier parts gives way to the later part.
            for other in 0..first {
                if heads[other].more && heads[other].path == heads[first].path {
                    heads[other].advance(self);
                }
            }
            heads[first].advance(self);
        }
        order
    }

    /// Returns the head with the smallest path; of equal ones the last.
    fn smallest(&self, heads: &[Head]) -> Option<usize> {
        let mut best: Option<usize> = None;
        for (index, head) in heads.iter().enumerate() {
            let wins = head.more
                && best.is_none_or(|best| {
                    path::compare(&head.path, &heads[best].path) != Ordering::Greater
                });
            if wins {
                best = Some(index);
            }
        }
        best
    }
}

/// The next entry of one part, with its path.
struct Head {
    place: Place,
    path: Vec<u8>,
    more: bool,
}

impl Head {
    fn new(fragment: &OpenFragment, part: usize) -> Self {
        let mut head = Self {
            place: Place {
                part: u32::try_from(part).unwrap_or(u32::MAX),
                index: 0,
            },
            path: Vec::new(),
            more: true,
        };
        head.load(fragment);
        head
    }

    fn advance(&mut self, fragment: &OpenFragment) {
        self.place.index += 1;
        self.load(fragment);
    }

    fn load(&mut self, fragment: &OpenFragment) {
        let tree = &fragment.parts[self.place.part as usize].1;
        self.more = (self.place.index as usize) < tree.len();
        // A single part is in order already; its paths are not compared.
        if self.more && fragment.parts.len() > 1 {
            fragment.path_into(self.place, &mut self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::support::tree_of;

    #[test]
    fn merges_in_path_order_parents_first() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let part = |prefix: &str, paths: &[&str]| Part {
            prefix: TreePath::parse(prefix.as_bytes()).unwrap(),
            tree: tree_of(&cache, paths),
            shared: false,
        };
        let parts = [
            part(
                "",
                &["c/", "c/s/", "c/s/a/", "c/s/a/config.json", "c/s/a/tmp/"],
            ),
            part("c/s/a/rootfs", &["/", "bin/", "bin/sh"]),
            part("", &["c/s/a/config.json"]),
        ];
        let open = OpenFragment::open(&cache, &parts).unwrap();
        let mut path = Vec::new();
        let order: Vec<(String, u32)> = open
            .order()
            .into_iter()
            .map(|place| {
                open.path_into(place, &mut path);
                (String::from_utf8(path.clone()).unwrap(), place.part)
            })
            .collect();
        let expected = [
            ("c", 0),
            ("c/s", 0),
            ("c/s/a", 0),
            ("c/s/a/config.json", 2),
            ("c/s/a/rootfs", 1),
            ("c/s/a/rootfs/bin", 1),
            ("c/s/a/rootfs/bin/sh", 1),
            ("c/s/a/tmp", 0),
        ];
        assert_eq!(order, expected.map(|(path, part)| (path.to_owned(), part)));
    }
}
