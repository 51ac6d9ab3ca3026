//! The share plan: which identical files are stored once, and which entries later ones replace.
//!
//! Enters: all fragments, in output order. Leaves, per fragment and independent of the others as
//! far as the files allow: entries left out because a later fragment has the same path, hard
//! links for tar, and for an initrd the files that move to members shared by several fragments
//! (the kernel forgets hard links at every `TRAILER!!!`, so a link cannot cross members).
//! Two files are one when content, size, mode, owner, mtime and extended attributes are equal,
//! they are not empty, and both lie in parts marked [`shared`](super::Part::shared).

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use kiln_cache::Cache;
use rayon::prelude::*;

use super::fragment::{OpenFragment, Place};
use super::{FormatError, Fragment, Part};
use crate::tree::path::{TreePath, compare, is_under, join, parent};
use crate::tree::{EntryRef, Kind, Tree};

/// A set of fragments whose common files would save fewer bytes than this keeps its copies: a
/// member of its own costs up to 4 KiB of padding and compresses a little worse.
const SAVED_MIN_BYTES: u64 = 64 << 10;

/// What a fragment's segments need to know about the other fragments. All lists are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FragmentPlan {
    skipped: Vec<Place>,
    links: Vec<(Place, TreePath)>,
    moved: Vec<Place>,
    twins: Vec<(Place, Place)>,
}

impl FragmentPlan {
    /// Returns true when a later fragment replaces this entry.
    #[must_use]
    pub fn is_skipped(&self, place: Place) -> bool {
        self.skipped.binary_search(&place).is_ok()
    }

    /// tar: returns the earlier path, of this or another fragment, that holds the same file.
    #[must_use]
    pub fn link(&self, place: Place) -> Option<&TreePath> {
        self.links
            .binary_search_by_key(&place, |link| link.0)
            .ok()
            .map(|index| &self.links[index].1)
    }

    /// initrd: returns true when a shared member has this entry.
    #[must_use]
    pub fn is_moved(&self, place: Place) -> bool {
        self.moved.binary_search(&place).is_ok()
    }

    /// initrd: returns the earlier entry of this fragment that is the same file.
    #[must_use]
    pub fn twin(&self, place: Place) -> Option<Place> {
        self.twins
            .binary_search_by_key(&place, |twin| twin.0)
            .ok()
            .map(|index| self.twins[index].1)
    }

    /// Returns what a tar segment's bytes depend on, for its key.
    #[must_use]
    pub fn tar_key(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_places(&mut out, &self.skipped);
        put_number(&mut out, self.links.len());
        for (place, target) in &self.links {
            put_place(&mut out, *place);
            put_number(&mut out, target.as_bytes().len());
            out.extend(target.as_bytes());
        }
        out
    }

    /// Returns what an initrd member's bytes depend on, for its key.
    #[must_use]
    pub fn initrd_key(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_places(&mut out, &self.skipped);
        put_places(&mut out, &self.moved);
        put_number(&mut out, self.twins.len());
        for (place, first) in &self.twins {
            put_place(&mut out, *place);
            put_place(&mut out, *first);
        }
        out
    }
}

/// Files that exactly the same set of fragments have in common: one shared initrd member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedGroup {
    /// The parts that names point into.
    pub parts: Vec<Part>,
    /// All names of each file; the parts index [`parts`](Self::parts).
    pub files: Vec<Vec<Place>>,
}

impl SharedGroup {
    /// Returns what the member's bytes depend on, for its key.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, self.parts.len());
        for part in &self.parts {
            put_number(&mut out, part.prefix.as_bytes().len());
            out.extend(part.prefix.as_bytes());
            out.extend(part.tree.as_bytes());
        }
        put_number(&mut out, self.files.len());
        for names in &self.files {
            put_places(&mut out, names);
        }
        out
    }
}

fn put_number(out: &mut Vec<u8>, number: usize) {
    out.extend((number as u64).to_le_bytes());
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    out.extend(place.part.to_le_bytes());
    out.extend(place.index.to_le_bytes());
}

fn put_places(out: &mut Vec<u8>, places: &[Place]) {
    put_number(out, places.len());
    for place in places {
        put_place(out, *place);
    }
}

/// The whole plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// One per fragment.
    pub fragments: Vec<FragmentPlan>,
    /// The initrd's shared members, in their order.
    pub shared: Vec<SharedGroup>,
}

/// What makes two files one.
#[derive(PartialEq, Eq)]
struct Identity<'a> {
    content: &'a [u8; 32],
    size: u64,
    mode: u16,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: &'a [u8],
}

impl<'a> Identity<'a> {
    fn of(entry: &EntryRef<'a>) -> Self {
        Self {
            content: entry.content_digest(),
            size: entry.size(),
            mode: entry.mode(),
            owner: (entry.uid(), entry.gid()),
            mtime: entry.mtime(),
            xattrs: entry.xattr_bytes(),
        }
    }
}

impl Hash for Identity<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [head, ..] = self.content.as_chunks::<8>().0 else {
            return;
        };
        // The content's digest is uniform already; the rest tells copies apart.
        let salt = u64::from(self.mode) ^ self.mtime.0.cast_unsigned().rotate_left(20);
        state.write_u64(u64::from_le_bytes(*head) ^ salt);
    }
}

/// Passes the one number it is given through.
#[derive(Default)]
struct Through(u64);

impl Hasher for Through {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 ^= value;
    }
}

/// A file of a shared part: which fragment, which entry.
#[derive(Clone, Copy)]
struct Occurrence {
    fragment: u32,
    place: Place,
    /// The next occurrence of the same file, or `NONE`.
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Plans which files are stored once. `fragments` are in output order.
///
/// # Errors
/// When a tree is missing or malformed.
pub fn share(cache: &Cache, fragments: &[Fragment]) -> Result<Plan, FormatError> {
    let open = fragments
        .par_iter()
        .map(|fragment| OpenFragment::open(cache, &fragment.parts))
        .collect::<Vec<_>>();
    // Of several errors always the first.
    let open = open.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut plans: Vec<FragmentPlan> = shadowed(&open)
        .into_iter()
        .map(|skipped| FragmentPlan {
            skipped,
            ..FragmentPlan::default()
        })
        .collect();
    let (files, occurrences) = collect(fragments, &open, &plans);
    let mut sets: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
    for (file, head) in files.iter().enumerate() {
        let chain = || chain(&occurrences, head.0);
        if chain().nth(1).is_none() {
            continue;
        }
        let first = occurrences[head.0 as usize];
        let mut target = Vec::new();
        open[first.fragment as usize].path_into(first.place, &mut target);
        let target = TreePath::from_clean(&target);
        for copy in chain().skip(1) {
            plans[copy.fragment as usize]
                .links
                .push((copy.place, target.clone()));
        }
        let mut set: Vec<u32> = chain().map(|copy| copy.fragment).collect();
        set.dedup();
        sets.entry(set).or_default().push(file);
    }
    let mut shared = Vec::new();
    for (set, members) in sets {
        let saved: u64 = members
            .iter()
            .map(|file| files[*file].1 * (set.len() as u64 - 1))
            .sum();
        let names =
            |file: &usize| -> Vec<Occurrence> { chain(&occurrences, files[*file].0).collect() };
        if set.len() > 1 && saved >= SAVED_MIN_BYTES {
            let names: Vec<Vec<Occurrence>> = members.iter().map(names).collect();
            for copy in names.iter().flatten() {
                plans[copy.fragment as usize].moved.push(copy.place);
            }
            shared.push(group(fragments, &names));
        } else {
            for file in members {
                twins(&mut plans, &names(&file));
            }
        }
    }
    for plan in &mut plans {
        plan.links.sort_unstable_by_key(|link| link.0);
        plan.moved.sort_unstable();
        plan.twins.sort_unstable();
    }
    Ok(Plan {
        fragments: plans,
        shared,
    })
}

fn chain(occurrences: &[Occurrence], head: u32) -> impl Iterator<Item = Occurrence> {
    let mut at = head;
    std::iter::from_fn(move || {
        let occurrence = *occurrences.get(at as usize)?;
        at = occurrence.next;
        Some(occurrence)
    })
}

/// Lists every different file of the shared parts (its first occurrence, its size), and all
/// occurrences, chained in output order.
fn collect(
    fragments: &[Fragment],
    open: &[OpenFragment],
    plans: &[FragmentPlan],
) -> (Vec<(u32, u64)>, Vec<Occurrence>) {
    let total: usize = fragments
        .iter()
        .zip(open)
        .flat_map(|(fragment, open)| fragment.parts.iter().enumerate().map(move |p| (p, open)))
        .filter(|((_, part), _)| part.shared)
        .map(|((index, _), open)| open.part(index).1.len())
        .sum();
    let mut known: HashMap<Identity<'_>, (u32, u32), BuildHasherDefault<Through>> =
        HashMap::with_capacity_and_hasher(total, BuildHasherDefault::default());
    let mut files = Vec::with_capacity(total);
    let mut occurrences: Vec<Occurrence> = Vec::with_capacity(total);
    for (fragment_index, (fragment, open)) in fragments.iter().zip(open).enumerate() {
        let shared = fragment.parts.iter().filter(|part| part.shared).count();
        if shared == 0 {
            continue;
        }
        let plan = &plans[fragment_index];
        let places = places(fragment, open, shared);
        for place in places {
            let entry = open.entry(place);
            if entry.kind() != Kind::File || entry.size() == 0 || plan.is_skipped(place) {
                continue;
            }
            let this = number(occurrences.len());
            occurrences.push(Occurrence {
                fragment: number(fragment_index),
                place,
                next: NONE,
            });
            match known.entry(Identity::of(&entry)) {
                std::collections::hash_map::Entry::Occupied(mut slot) => {
                    let (_, tail) = slot.get_mut();
                    occurrences[*tail as usize].next = this;
                    *tail = this;
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    files.push((this, entry.size()));
                    slot.insert((this, this));
                }
            }
        }
    }
    (files, occurrences)
}

/// Returns the places of a fragment's shared parts in output order.
fn places(fragment: &Fragment, open: &OpenFragment, shared: usize) -> Vec<Place> {
    let is_shared = |part: u32| fragment.parts[part as usize].shared;
    if shared > 1 {
        let mut order = open.order();
        order.retain(|place| is_shared(place.part));
        return order;
    }
    // One shared part is in order already, whatever stands between its entries.
    let part = fragment.parts.iter().position(|part| part.shared);
    let part = part.unwrap_or_default();
    let count = open.part(part).1.len();
    (0..count)
        .map(|index| Place {
            part: number(part),
            index: number(index),
        })
        .collect()
}

/// Notes, per fragment, which entries are the same file as an earlier one of that fragment.
fn twins(plans: &mut [FragmentPlan], names: &[Occurrence]) {
    for run in names.chunk_by(|a, b| a.fragment == b.fragment) {
        for copy in &run[1..] {
            plans[copy.fragment as usize]
                .twins
                .push((copy.place, run[0].place));
        }
    }
}

fn group(fragments: &[Fragment], files: &[Vec<Occurrence>]) -> SharedGroup {
    let mut parts = Vec::new();
    let mut known = BTreeMap::new();
    let files = files
        .iter()
        .map(|names| {
            names
                .iter()
                .map(|name| {
                    let key = (name.fragment, name.place.part);
                    let part = *known.entry(key).or_insert_with(|| {
                        let fragment = &fragments[name.fragment as usize];
                        parts.push(fragment.parts[name.place.part as usize].clone());
                        number(parts.len() - 1)
                    });
                    Place {
                        part,
                        index: name.place.index,
                    }
                })
                .collect()
        })
        .collect();
    SharedGroup { parts, files }
}

/// Returns, per fragment, the entries other than directories whose path a later fragment has too.
///
/// They are left out: extracting both would give the later one anyway, except that the kernel
/// opens an existing file of an initrd and writes into it, through all its hard links.
pub(super) fn shadowed(open: &[OpenFragment]) -> Vec<Vec<Place>> {
    let mut out = vec![Vec::new(); open.len()];
    for (at, part, (later, other)) in meetings(open) {
        overlap(&open[at], part, open[later].part(other), &mut out[at]);
    }
    for places in &mut out {
        places.sort_unstable();
        places.dedup();
    }
    out
}

/// A fragment, one of its parts, and a later fragment and part that may have some of its paths.
pub(super) type Meeting = (usize, usize, (usize, usize));

/// Returns the parts that may have paths in common: what the one may lose lies above or below
/// what the other has. Most bundles meet only what lies above all, so thousands are no matter.
pub(super) fn meetings(open: &[OpenFragment]) -> Vec<Meeting> {
    let mut out = Vec::new();
    let mut later: BTreeMap<TreePath, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, fragment) in open.iter().enumerate().rev() {
        let parts = (0..fragment.parts()).map(|part| (part, fragment.part(part)));
        for (part, (prefix, tree)) in parts.clone() {
            let is_file = |index: &usize| tree.get(*index).kind() != Kind::Directory;
            let Some(base) = base(prefix, tree, is_file) else {
                continue;
            };
            let below = later.range(base.clone()..);
            let below = below.take_while(|(path, _)| is_under(path.as_bytes(), base.as_bytes()));
            out.extend(
                below
                    .flat_map(|(_, others)| others)
                    .map(|other| (at, part, *other)),
            );
            let mut above = parent(base.as_bytes());
            while let Some(path) = above {
                let others = later.get(&TreePath::from_clean(path));
                out.extend(others.into_iter().flatten().map(|other| (at, part, *other)));
                above = parent(path);
            }
        }
        for (part, (prefix, tree)) in parts {
            if let Some(base) = base(prefix, tree, |_| true) {
                later.entry(base).or_default().push((at, part));
            }
        }
    }
    out
}

/// Returns the deepest path above all chosen entries of a part, which may be one of them.
fn base(prefix: &TreePath, tree: &Tree, chosen: impl Fn(&usize) -> bool) -> Option<TreePath> {
    let first = (0..tree.len()).find(&chosen)?;
    let last = (0..tree.len()).rfind(&chosen)?;
    // In the order of trees, all between two paths lies below what is above both.
    let (mut base, last) = (tree.get(first).path(), tree.get(last).path());
    while !is_under(last, base) {
        base = parent(base).unwrap_or_default();
    }
    Some(TreePath::from_clean(&join(prefix.as_bytes(), base)))
}

/// Adds the entries of `part` that `later` has under the same path.
pub(super) fn overlap(
    fragment: &OpenFragment,
    part: usize,
    later: (&TreePath, &Tree),
    out: &mut Vec<Place>,
) {
    let (prefix, tree) = fragment.part(part);
    let (prefix, later_prefix, later_tree) = (prefix.as_bytes(), later.0.as_bytes(), later.1);
    if !is_under(prefix, later_prefix) && !is_under(later_prefix, prefix) {
        return;
    }
    let ours = under(tree, prefix, later_prefix);
    let theirs = under(later_tree, later_prefix, prefix);
    let mut replace = |index: usize| {
        if tree.get(index).kind() != Kind::Directory {
            out.push(Place {
                part: number(part),
                index: number(index),
            });
        }
    };
    // Walk the smaller side, look its paths up in the larger one.
    if ours.len() <= theirs.len() {
        for index in ours {
            let full = join(prefix, tree.get(index).path());
            if strip(&full, later_prefix).is_some_and(|rest| later_tree.find(rest).is_some()) {
                replace(index);
            }
        }
    } else {
        for index in theirs {
            let full = join(later_prefix, later_tree.get(index).path());
            if let Some(index) = strip(&full, prefix).and_then(|rest| position(tree, rest)) {
                replace(index);
            }
        }
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(NONE)
}

/// Returns the index of the entry at exactly `wanted`.
fn position(tree: &Tree, wanted: &[u8]) -> Option<usize> {
    let at = lower_bound(tree, wanted);
    (at < tree.len() && tree.get(at).path() == wanted).then_some(at)
}

/// Returns the index of the first entry not before `wanted`.
fn lower_bound(tree: &Tree, wanted: &[u8]) -> usize {
    let (mut low, mut high) = (0, tree.len());
    while low < high {
        let middle = low.midpoint(high);
        if compare(tree.get(middle).path(), wanted).is_lt() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Returns the entries of `tree`, placed at `prefix`, that lie under `wanted`.
fn under(tree: &Tree, prefix: &[u8], wanted: &[u8]) -> std::ops::Range<usize> {
    let Some(rest) = strip(wanted, prefix) else {
        // The whole tree lies under `wanted`.
        return 0..tree.len();
    };
    if rest.is_empty() {
        return 0..tree.len();
    }
    let start = lower_bound(tree, rest);
    let mut end = start;
    while end < tree.len() && is_under(tree.get(end).path(), rest) {
        end += 1;
    }
    start..end
}

/// Returns `path` relative to `prefix`, when it is that or lies under it.
fn strip<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    if !is_under(path, prefix) {
        return None;
    }
    let rest = &path[prefix.len()..];
    Some(rest.strip_prefix(b"/").unwrap_or(rest))
}
