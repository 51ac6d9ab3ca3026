//! Flattening: ordered layers become one tree.
//!
//! Enters: trees of layers, bottom first. Leaves: a tree without whiteouts and hard-link kinds.
//! A merge of sorted lists: of one path the topmost layer's entry stays; whiteouts, opaque
//! directories and whatever is no directory hide what lower layers have below them (OCI
//! image-spec, `layer.md`); missing parents are made. An entry whose parent is a symbolic link
//! of another layer goes where the link leads inside the root, as extraction would have it.

use std::collections::HashMap;

use kiln_cache::{Cache, Digest};

use super::view::{self, find};
use super::{Entry, EntryRef, Kind, Tree, TreeError, TreePath, TreeWriter, path};

/// Rounds of moving entries through links before it counts as a loop.
const ROUNDS_MAX: usize = 8;

/// The last rules, for exact paths.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// Entries to leave out. What lies below one stays.
    pub drop: Vec<TreePath>,
    /// Entries to put there in any case. Mode and owner of a file that is there already stay;
    /// a directory that is there stays as it is.
    pub replace: Vec<Entry>,
    /// Entries to put there when nothing is.
    pub add: Vec<Entry>,
}

/// Why layers do not make a tree.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// A tree cannot be read or written.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// A hard link names nothing.
    #[error(
        "\"{path}\" (layer {layer} of {layers}) is a hard link to \"{target}\", which is not there"
    )]
    DanglingLink {
        /// The link.
        path: TreePath,
        /// What it names.
        target: TreePath,
        /// Its layer, counted from 1, bottom first.
        layer: usize,
        /// The number of layers.
        layers: usize,
    },
    /// Something lies below a file.
    #[error("\"{path}\" (layer {layer} of {layers}) lies below \"{below}\", which is no directory")]
    NotADirectory {
        /// The entry.
        path: TreePath,
        /// What it lies below.
        below: TreePath,
        /// Its layer, counted from 1, bottom first.
        layer: usize,
        /// The number of layers.
        layers: usize,
    },
}

/// Flattens `layers`, bottom first. Returns the tree's name and size.
///
/// # Errors
/// When a layer cannot be read, or they contradict each other.
pub fn flatten(
    cache: &Cache,
    layers: &[Digest],
    finish: &Finish,
) -> Result<(Digest, u64), FlattenError> {
    let trees: Vec<Tree> = layers
        .iter()
        .map(|layer| Tree::open(cache, layer))
        .collect::<Result<_, _>>()?;
    let mut merge = Merge::new(&trees, finish)?;
    merge.run()?;
    let moved = std::mem::take(&mut merge.moved);
    let (tree, size) = merge.writer.finish(cache)?;
    if moved.is_empty() {
        return Ok((tree, size));
    }
    relocate(cache, &tree, &trees, moved, ROUNDS_MAX)
}

/// Puts entries that lie behind symbolic links where the links lead; `rounds` bounds links that
/// the moved entries bring along.
fn relocate(
    cache: &Cache,
    base: &Digest,
    trees: &[Tree],
    mut moved: Vec<(usize, usize)>,
    rounds: usize,
) -> Result<(Digest, u64), FlattenError> {
    let below = Tree::open(cache, base)?;
    let mut writer = TreeWriter::new();
    // Lower layers first: of one path, the last stays.
    moved.sort_unstable();
    for (layer, index) in moved {
        let entry = trees[layer].get(index);
        let place = (rounds > 0)
            .then(|| view::follow(&below, entry.path()))
            .flatten();
        let place = place.ok_or_else(|| FlattenError::NotADirectory {
            path: TreePath::from_clean(entry.path()),
            below: TreePath::from_clean(path::parent(entry.path()).unwrap_or_default()),
            layer: layer + 1,
            layers: trees.len(),
        })?;
        // A directory behind a link is there already, or made with its first entry.
        if entry.kind() == Kind::Directory && below.find(&place).is_some() {
            continue;
        }
        let mut entry = entry.to_entry();
        entry.path = TreePath::from_clean(&place);
        (entry.group, entry.opaque) = (0, false);
        writer.add(&entry)?;
    }
    let (top, _) = writer.finish(cache)?;
    let stack = [below, Tree::open(cache, &top)?];
    let none = Finish::default();
    let mut merge = Merge::new(&stack, &none)?;
    merge.run()?;
    let again = std::mem::take(&mut merge.moved);
    let (tree, size) = merge.writer.finish(cache)?;
    if again.is_empty() {
        return Ok((tree, size));
    }
    relocate(cache, &tree, &stack, again, rounds - 1)
}

/// One of [`Finish`]'s rules.
enum Rule<'a> {
    Drop(&'a TreePath),
    Replace(&'a Entry),
    Add(&'a Entry),
}

impl Rule<'_> {
    fn path(&self) -> &TreePath {
        match self {
            Self::Drop(path) => path,
            Self::Replace(entry) | Self::Add(entry) => &entry.path,
        }
    }
}

/// A directory on the way to the current path.
struct Above<'a> {
    path: &'a [u8],
    /// What it is when it is no directory.
    blocked_by: Option<Kind>,
    /// Layers below this one are hidden from here on.
    visible_from: usize,
    /// Layers below this one had it removed, the directory itself included.
    removed_from: usize,
    /// False where only a mark stands: the directory, if there is to be one, is yet to be made.
    made: bool,
}

struct Merge<'a> {
    trees: &'a [Tree],
    heads: Vec<usize>,
    rules: Vec<Rule<'a>>,
    rule: usize,
    above: Vec<Above<'a>>,
    writer: TreeWriter,
    /// Groups by layer and number there; entries that links from other layers name, by index.
    groups: HashMap<(usize, u32), u32>,
    named: HashMap<(usize, usize), u32>,
    groups_count: u32,
    /// Entries behind symbolic links, by layer and index.
    moved: Vec<(usize, usize)>,
}

impl<'a> Merge<'a> {
    fn new(trees: &'a [Tree], finish: &'a Finish) -> Result<Self, FlattenError> {
        let mut rules: Vec<Rule<'a>> = finish.drop.iter().map(Rule::Drop).collect();
        rules.extend(finish.replace.iter().map(Rule::Replace));
        rules.extend(finish.add.iter().map(Rule::Add));
        rules.sort_by(|left, right| left.path().cmp(right.path()));
        let mut merge = Self {
            trees,
            heads: vec![0; trees.len()],
            rules,
            rule: 0,
            above: Vec::new(),
            writer: TreeWriter::new(),
            groups: HashMap::new(),
            named: HashMap::new(),
            groups_count: 0,
            moved: Vec::new(),
        };
        merge.name_link_targets()?;
        Ok(merge)
    }

    /// Gives the targets of links between layers their groups, before any of them passes.
    fn name_link_targets(&mut self) -> Result<(), FlattenError> {
        for (layer, tree) in self.trees.iter().enumerate() {
            for link in tree.iter().filter(|entry| entry.kind() == Kind::HardLink) {
                let target = find(&self.trees[..layer], link.link());
                let Some((below, index)) = target.filter(|(below, index)| {
                    self.trees[*below].get(*index).kind() != Kind::Directory
                }) else {
                    return Err(FlattenError::DanglingLink {
                        path: TreePath::from_clean(link.path()),
                        target: TreePath::from_clean(link.link()),
                        layer: layer + 1,
                        layers: self.trees.len(),
                    });
                };
                let group = self.trees[below].get(index).group();
                if group == 0 && !self.named.contains_key(&(below, index)) {
                    self.groups_count += 1;
                    self.named.insert((below, index), self.groups_count);
                }
            }
        }
        Ok(())
    }

    fn group(&mut self, layer: usize, index: usize, entry: &EntryRef<'_>) -> u32 {
        match entry.group() {
            0 if self.named.is_empty() => 0,
            0 => self.named.get(&(layer, index)).copied().unwrap_or(0),
            group => {
                let count = &mut self.groups_count;
                *self.groups.entry((layer, group)).or_insert_with(|| {
                    *count += 1;
                    *count
                })
            }
        }
    }

    fn head(&self, layer: usize) -> Option<EntryRef<'a>> {
        let tree = &self.trees[layer];
        (self.heads[layer] < tree.len()).then(|| tree.get(self.heads[layer]))
    }

    fn run(&mut self) -> Result<(), FlattenError> {
        while let Some(at) = self.smallest() {
            self.rules_before(Some(at))?;
            self.one_path(at)?;
        }
        self.rules_before(None)
    }

    fn smallest(&self) -> Option<&'a [u8]> {
        let mut best: Option<&'a [u8]> = None;
        for layer in 0..self.trees.len() {
            if let Some(head) = self.head(layer) {
                let path = head.path();
                if best.is_none_or(|best| path::compare(path, best).is_lt()) {
                    best = Some(path);
                }
            }
        }
        best
    }

    /// Leaves directories that do not contain `at`.
    fn climb(&mut self, at: &[u8]) {
        while self
            .above
            .last()
            .is_some_and(|above| !path::is_under(at, above.path))
        {
            self.above.pop();
        }
    }

    /// Layers below this one are hidden in the directory at hand.
    fn visible_from(&self) -> usize {
        self.above.last().map_or(0, |above| above.visible_from)
    }

    /// Decides what the layers' entries at one path come to.
    fn one_path(&mut self, at: &'a [u8]) -> Result<(), FlattenError> {
        self.climb(at);
        let visible_from = self.visible_from();
        let mut chosen: Option<(usize, usize)> = None;
        let mut removed: Option<(usize, usize)> = None;
        let mut hidden_below = visible_from;
        let mut hidden: Option<usize> = None;
        let mut open = true;
        for layer in (0..self.trees.len()).rev() {
            let Some(entry) = self.head(layer).filter(|head| head.path() == at) else {
                continue;
            };
            let index = self.heads[layer];
            self.heads[layer] += 1;
            if !open || layer < visible_from {
                if entry.kind() != Kind::Whiteout {
                    hidden = hidden.or(Some(layer));
                }
                continue;
            }
            if entry.kind() == Kind::Whiteout && !entry.opaque() {
                removed = removed.or(Some((layer, index)));
            }
            let mark = entry.kind() == Kind::Whiteout && entry.opaque();
            if chosen.is_none() && entry.kind() != Kind::Whiteout {
                chosen = Some((layer, index));
            }
            if view::hides(&entry) {
                hidden_below = hidden_below.max(layer);
                // Under an opaque mark the directory itself is still a lower layer's.
                open = mark && chosen.is_none();
            }
        }
        let Some((layer, index)) = chosen else {
            // What it removes is behind a link.
            let behind = self
                .above
                .iter()
                .any(|above| above.blocked_by == Some(Kind::Symlink));
            self.moved.extend(removed.filter(|_| behind));
            if let Some(layer) = hidden {
                self.parents_of_hidden(at, layer)?;
            }
            if hidden_below > visible_from {
                self.above.push(Above {
                    path: at,
                    blocked_by: None,
                    visible_from: hidden_below,
                    removed_from: removed.map_or(0, |(layer, _)| layer),
                    made: false,
                });
            }
            return Ok(());
        };
        self.emit(layer, index, hidden_below)
    }

    fn emit(
        &mut self,
        layer: usize,
        index: usize,
        visible_from: usize,
    ) -> Result<(), FlattenError> {
        let entry = self.trees[layer].get(index);
        let at = entry.path();
        match self
            .above
            .iter()
            .rev()
            .find(|above| above.blocked_by.is_some())
        {
            Some(above) if above.blocked_by == Some(Kind::Symlink) => {
                self.moved.push((layer, index));
                return Ok(());
            }
            Some(above) => {
                return Err(FlattenError::NotADirectory {
                    path: TreePath::from_clean(at),
                    below: TreePath::from_clean(above.path),
                    layer: layer + 1,
                    layers: self.trees.len(),
                });
            }
            None => self.parents(at)?,
        }
        let mut kept = entry.kind();
        match self
            .rules
            .get(self.rule)
            .filter(|rule| rule.path().as_bytes() == at)
        {
            Some(Rule::Drop(_)) => self.rule += 1,
            Some(Rule::Replace(with)) if kept != Kind::Directory => {
                let with = *with;
                self.rule += 1;
                let mut with = with.clone();
                if kept == Kind::File || kept == Kind::HardLink {
                    (with.mode, with.uid, with.gid) = (entry.mode(), entry.uid(), entry.gid());
                }
                kept = with.kind;
                self.writer.add(&with)?;
            }
            Some(_) => {
                self.rule += 1;
                self.put(layer, index, &entry)?;
            }
            None => self.put(layer, index, &entry)?,
        }
        let blocked_by = (kept != Kind::Directory).then_some(kept);
        self.above.push(Above {
            path: at,
            blocked_by,
            visible_from,
            removed_from: 0,
            made: true,
        });
        Ok(())
    }

    /// Writes an entry; a link between layers as what it names.
    fn put(
        &mut self,
        layer: usize,
        index: usize,
        entry: &EntryRef<'_>,
    ) -> Result<(), FlattenError> {
        if entry.kind() != Kind::HardLink {
            let group = self.group(layer, index, entry);
            return Ok(self.writer.copy(entry, group)?);
        }
        // It was found before the merge began.
        let Some((below, target)) = find(&self.trees[..layer], entry.link()) else {
            return Ok(());
        };
        let found = self.trees[below].get(target);
        let group = self.group(below, target, &found);
        Ok(self.writer.copy_as(&found, entry.path(), group)?)
    }

    /// Makes the directories that came with an entry of `layer` which is hidden at `at`: what
    /// removed it leaves those above it, though no layer lists them.
    fn parents_of_hidden(&mut self, at: &'a [u8], layer: usize) -> Result<(), FlattenError> {
        if self.above.iter().any(|above| above.blocked_by.is_some()) {
            return Ok(());
        }
        let hides = |above: &Above<'_>| above.visible_from > layer;
        let by = self.above.iter().position(hides);
        let below = match by.map(|by| &self.above[by]) {
            None => at,
            Some(by) if by.made => return Ok(()),
            Some(by) if by.removed_from > layer => by.path,
            // An opaque mark leaves the directory it stands for, too.
            Some(by) => at.get(..=by.path.len()).unwrap_or(at),
        };
        self.parents(below)
    }

    /// Makes the directories above `at` that no layer has.
    fn parents(&mut self, at: &'a [u8]) -> Result<(), FlattenError> {
        let have = self
            .above
            .iter()
            .rfind(|above| above.made)
            .map_or(&b""[..], |above| above.path);
        let mut from = if have.is_empty() { 0 } else { have.len() + 1 };
        while let Some(slash) = at
            .get(from..)
            .and_then(|rest| rest.iter().position(|byte| *byte == b'/'))
        {
            let parent = &at[..from + slash];
            self.rules_before(Some(parent))?;
            let rule = self
                .rules
                .get(self.rule)
                .filter(|rule| rule.path().as_bytes() == parent);
            match rule {
                Some(Rule::Replace(entry) | Rule::Add(entry)) => self.writer.add(entry)?,
                Some(Rule::Drop(_)) => {}
                None => {
                    let path = TreePath::from_clean(parent);
                    self.writer.add(&Entry::new(path, Kind::Directory, 0o755))?;
                }
            }
            if rule.is_some() {
                self.rule += 1;
            }
            // Above marks that stand deeper: what they hide, they hide below themselves only.
            let place = self
                .above
                .iter()
                .rposition(|above| above.path.len() <= parent.len())
                .map_or(0, |last| last + 1);
            let visible_from = place
                .checked_sub(1)
                .map_or(0, |last| self.above[last].visible_from);
            let made = Above {
                path: parent,
                blocked_by: None,
                visible_from,
                removed_from: 0,
                made: true,
            };
            self.above.insert(place, made);
            from += slash + 1;
        }
        Ok(())
    }

    /// Applies the rules for paths that no layer has, up to `at`.
    fn rules_before(&mut self, at: Option<&[u8]>) -> Result<(), FlattenError> {
        while let Some(rule) = self.rules.get(self.rule) {
            if at.is_some_and(|at| path::compare(rule.path().as_bytes(), at).is_ge()) {
                break;
            }
            self.rule += 1;
            let (Rule::Replace(entry) | Rule::Add(entry)) = *rule else {
                continue;
            };
            self.climb(entry.path.as_bytes());
            // Behind a link or a file there is no place for it.
            if self.above.iter().all(|above| above.blocked_by.is_none()) {
                let visible_from = self.visible_from();
                self.parents(entry.path.as_bytes())?;
                self.writer.add(entry)?;
                let blocked_by = (entry.kind != Kind::Directory).then_some(entry.kind);
                self.above.push(Above {
                    path: entry.path.as_bytes(),
                    blocked_by,
                    visible_from,
                    removed_from: 0,
                    made: true,
                });
            }
        }
        Ok(())
    }
}
