//! What one tree has that another has not.
//!
//! Enters: two flattened trees. Leaves: a third, which laid over the first by Linux's overlayfs
//! (`Documentation/filesystems/overlayfs.rst`) shows the second: what is new or different, with
//! the directories above it, and a character device 0/0 where something is gone.

use std::collections::{BTreeSet, HashMap};

use kiln_cache::{Cache, Digest};

use super::{Entry, EntryRef, Kind, Tree, TreeError, TreePath, TreeWriter, path};

/// Stores what leads from `old` to `new`; returns its name and size.
///
/// # Errors
/// When a tree cannot be read, or the cache cannot be written.
pub fn difference(cache: &Cache, old: &Digest, new: &Digest) -> Result<(Digest, u64), TreeError> {
    let (old, new) = (Tree::open(cache, old)?, Tree::open(cache, new)?);
    let (old_names, new_names) = (names(&old), names(&new));
    let mut taken: BTreeSet<usize> = new.position(b"").into_iter().collect();
    let mut gone = Vec::new();
    let (mut left, mut right) = (old.iter().peekable(), new.iter().enumerate().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(before), Some((_, after))) => path::compare(before.path(), after.path()),
        };
        let before = order.is_le().then(|| left.next()).flatten();
        let after = order.is_ge().then(|| right.next()).flatten();
        let stays_directory = match (&before, &after) {
            (Some(before), Some((_, after))) => {
                before.kind() != Kind::Directory || after.kind() == Kind::Directory
            }
            _ => before.is_none(),
        };
        match (&before, after) {
            (Some(before), Some((index, after))) => {
                let same_names = old_names.of(before) == new_names.of(&after);
                if !same_names || !is_same(before, &after) {
                    take(&new, index, &mut taken);
                }
            }
            (None, Some((index, _))) => take(&new, index, &mut taken),
            (Some(before), None) => gone.push(before.path().to_vec()),
            (None, None) => {}
        }
        // What was below it is hidden with it.
        if let (Some(before), false) = (before, stays_directory) {
            while left
                .next_if(|next| path::is_under(next.path(), before.path()))
                .is_some()
            {}
        }
    }
    let mut writer = TreeWriter::new();
    for path in gone {
        if let Some(parent) = path::parent(&path).and_then(|parent| new.position(parent)) {
            take(&new, parent, &mut taken);
        }
        let path = TreePath::from_clean(&path);
        writer.add(&Entry::new(path, Kind::CharDevice, 0))?;
    }
    for index in taken {
        let entry = new.get(index);
        writer.copy(&entry, entry.group())?;
    }
    writer.finish(cache)
}

/// Takes an entry, and the directories above it.
fn take(tree: &Tree, index: usize, taken: &mut BTreeSet<usize>) {
    let mut next = Some(index);
    while let Some(index) = next.filter(|index| taken.insert(*index)) {
        next = path::parent(tree.get(index).path()).and_then(|parent| tree.position(parent));
    }
}

/// Names of files that have several: an overlay does not keep them together across layers.
struct Names<'a>(HashMap<u32, Vec<&'a [u8]>>);

fn names(tree: &Tree) -> Names<'_> {
    let mut all: HashMap<u32, Vec<&[u8]>> = HashMap::new();
    for entry in tree.iter().filter(|entry| entry.group() != 0) {
        all.entry(entry.group()).or_default().push(entry.path());
    }
    Names(all)
}

impl Names<'_> {
    fn of(&self, entry: &EntryRef<'_>) -> &[&[u8]] {
        self.0.get(&entry.group()).map_or(&[], Vec::as_slice)
    }
}

/// Returns whether two entries of one path are the same to whoever looks, but for their names.
fn is_same(one: &EntryRef<'_>, other: &EntryRef<'_>) -> bool {
    one.kind() == other.kind()
        && one.mode() == other.mode()
        && (one.uid(), one.gid()) == (other.uid(), other.gid())
        && one.mtime() == other.mtime()
        && one.size() == other.size()
        && one.content_digest() == other.content_digest()
        && one.link() == other.link()
        && one.device() == other.device()
        && one.xattr_bytes() == other.xattr_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A directory, or a file with a mode that tells it apart.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Thing {
        Directory(u16),
        File(u16),
    }

    type Model = BTreeMap<Vec<u8>, Thing>;

    /// Makes a tree; what lies below a file is left out, as a file system would.
    fn tree(cache: &Cache, things: &[(String, Thing)]) -> (Digest, Model) {
        let mut model = Model::new();
        model.insert(Vec::new(), Thing::Directory(0o755));
        for (name, thing) in things {
            let parents: Vec<Vec<u8>> = name
                .match_indices('/')
                .map(|(at, _)| name.as_bytes()[..at].to_vec())
                .collect();
            let fits = |parent| !matches!(model.get(parent), Some(Thing::File(_)));
            if model.contains_key(name.as_bytes()) || !parents.iter().all(fits) {
                continue;
            }
            for parent in parents {
                model.entry(parent).or_insert(Thing::Directory(0o755));
            }
            model.insert(name.as_bytes().to_vec(), thing.clone());
        }
        let mut writer = TreeWriter::new();
        for (name, thing) in &model {
            let (kind, mode) = match thing {
                Thing::Directory(mode) => (Kind::Directory, *mode),
                Thing::File(mode) => (Kind::File, *mode),
            };
            writer
                .add(&Entry::new(TreePath::from_clean(name), kind, mode))
                .unwrap();
        }
        (writer.finish(cache).unwrap().0, model)
    }

    /// Lays a tree over a model, as overlayfs would.
    fn lay(cache: &Cache, below: &Model, above: &Digest) -> Model {
        let mut model = below.clone();
        let above = Tree::open(cache, above).unwrap();
        for entry in above.iter() {
            let path = entry.path().to_vec();
            if let Some(parent) = path::parent(&path) {
                assert!(above.find(parent).is_some(), "nothing above {path:?}");
            }
            let remove = |model: &mut Model| {
                model.retain(|name, _| *name != path && !path::is_under(name, &path));
            };
            match entry.kind() {
                Kind::CharDevice => {
                    assert!(model.contains_key(&path), "{path:?} was never there");
                    remove(&mut model);
                }
                Kind::Directory => {
                    model.insert(path, Thing::Directory(entry.mode()));
                }
                _ => {
                    remove(&mut model);
                    model.insert(path, Thing::File(entry.mode()));
                }
            }
        }
        model
    }

    fn things() -> impl Strategy<Value = Vec<(String, Thing)>> {
        let name = "[ab](/[ab]){0,3}";
        let thing = (any::<bool>(), 0_u16..2).prop_map(|(directory, mode)| match directory {
            true => Thing::Directory(0o700 + mode),
            false => Thing::File(mode),
        });
        proptest::collection::vec((name, thing), 0..12)
    }

    proptest! {
        #[test]
        fn over_the_old_it_shows_the_new(old in things(), new in things()) {
            let space = tempfile::tempdir().unwrap();
            let cache = Cache::open(space.path()).unwrap();
            let ((old, below), (new, wanted)) = (tree(&cache, &old), tree(&cache, &new));
            let (change, _) = difference(&cache, &old, &new).unwrap();
            prop_assert_eq!(lay(&cache, &below, &change), wanted);
            // Nothing changed, nothing said.
            let (none, _) = difference(&cache, &new, &new).unwrap();
            prop_assert_eq!(Tree::open(&cache, &none).unwrap().len(), 1);
        }
    }

    #[test]
    fn names_of_one_file_stay_together() {
        let space = tempfile::tempdir().unwrap();
        let cache = Cache::open(space.path()).unwrap();
        let make = |names: &[&str]| {
            let mut writer = TreeWriter::new();
            writer
                .add(&Entry::new(TreePath::default(), Kind::Directory, 0o755))
                .unwrap();
            for name in ["a", "b", "c"] {
                let mut entry =
                    Entry::new(TreePath::from_clean(name.as_bytes()), Kind::File, 0o644);
                entry.group = u32::from(names.contains(&name));
                writer.add(&entry).unwrap();
            }
            writer.finish(&cache).unwrap().0
        };
        let change = |old: &[&str], new: &[&str]| {
            let (change, _) = difference(&cache, &make(old), &make(new)).unwrap();
            let change = Tree::open(&cache, &change).unwrap();
            let names = change
                .iter()
                .map(|e| String::from_utf8_lossy(e.path()).into_owned());
            names.skip(1).collect::<Vec<_>>().join("")
        };
        assert_eq!(change(&["a", "b"], &["a", "b"]), "");
        assert_eq!(change(&["a", "b"], &["a", "b", "c"]), "abc");
        assert_eq!(change(&["a", "b"], &[]), "ab");
    }
}
