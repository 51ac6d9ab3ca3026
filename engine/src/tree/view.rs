//! What a path means in a stack of layers, one lookup at a time.
//!
//! The merge in [`flatten`](super::flatten) sees everything in order; hard links and symbolic
//! links jump.

use super::{EntryRef, Kind, Tree, path};

/// Symbolic links followed in one path before it counts as a loop, as in Linux.
const LINKS_MAX: usize = 40;

/// Finds what `wanted` is in `layers` (bottom first): the layer and the entry's index there.
/// Hard links lead to what they name.
pub(super) fn find(layers: &[Tree], wanted: &[u8]) -> Option<(usize, usize)> {
    for layer in (0..layers.len()).rev() {
        let tree = &layers[layer];
        if let Some(index) = tree.position(wanted) {
            let entry = tree.get(index);
            match entry.kind() {
                Kind::Whiteout if entry.opaque() => {}
                Kind::Whiteout => return None,
                Kind::HardLink => return find(&layers[..layer], entry.link()),
                _ => return Some((layer, index)),
            }
        }
        // Something above it in this layer may hide what lower layers have.
        let mut above = path::parent(wanted);
        while let Some(directory) = above {
            if tree.find(directory).is_some_and(|entry| hides(&entry)) {
                return None;
            }
            above = path::parent(directory);
        }
    }
    None
}

/// Returns true when lower layers' entries under this one are gone.
pub(super) fn hides(entry: &EntryRef<'_>) -> bool {
    entry.kind() != Kind::Directory || entry.opaque()
}

/// Follows the symbolic links in the directories of `wanted` inside `tree`, never leaving its root
/// (`..` stops there). `None` for a loop, or when a directory on the way is a file.
pub fn follow(tree: &Tree, wanted: &[u8]) -> Option<Vec<u8>> {
    let mut left: Vec<Vec<u8>> = components(wanted);
    left.reverse();
    let mut links = 0;
    let mut at: Vec<u8> = Vec::new();
    while let Some(component) = left.pop() {
        if component == b".." {
            at.truncate(path::parent(&at).map_or(0, <[u8]>::len));
            continue;
        }
        let next = path::join(&at, &component);
        let last = left.is_empty();
        match tree.find(&next) {
            Some(entry) if entry.kind() == Kind::Symlink && !last => {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                if entry.link().starts_with(b"/") {
                    at.clear();
                }
                let mut target = components(entry.link());
                target.reverse();
                left.extend(target);
            }
            Some(entry) if entry.kind() != Kind::Directory && !last => return None,
            _ => at = next,
        }
    }
    Some(at)
}

fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/');
    parts
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}
