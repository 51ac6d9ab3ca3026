//! Debian's relations in the solver's terms.
//!
//! Enters: an [`Index`] and an architecture. Leaves: a [`DependencyProvider`] for resolvo, which
//! asks for what it needs only, so that of 63,000 packages only those in reach are looked at.
//!
//! A *name* of the solver is a package name, a *solvable* is one version of it, a *version set* is
//! an explicit list of such versions. `a | b` becomes the union of: versions of `a` that fit,
//! packages that provide `a`, versions of `b`, packages that provide `b`; tried in this order.
//! `Conflicts` and `Breaks` become constraints: the versions of a name that are left.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;

use resolvo::{
    Candidates, Condition, ConditionId, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, Requirement, SolvableId,
    SolverCache, StringId, VersionSetId, VersionSetUnionId,
};

use super::packages::{Id, Index, Stanza};
use super::relation::{self, Relation};

/// The packages in reach of one request.
pub(super) struct Universe<'i> {
    index: &'i Index,
    architecture: &'i str,
    tables: RefCell<Tables>,
}

#[derive(Default)]
struct Tables {
    names: Vec<Name>,
    by_name: HashMap<String, NameId>,
    sets: Vec<Set>,
    unions: Vec<Vec<VersionSetId>>,
    strings: Vec<String>,
}

struct Name {
    text: String,
    /// All versions, best first.
    ids: Vec<Id>,
}

struct Set {
    name: NameId,
    ids: Vec<Id>,
    /// How people would write it, after the name.
    shown: String,
}

fn solvable(id: Id) -> SolvableId {
    SolvableId::from_raw(id.0)
}

fn id(solvable: SolvableId) -> Id {
    Id(solvable.into_raw())
}

impl<'i> Universe<'i> {
    pub(super) fn new(index: &'i Index, architecture: &'i str) -> Self {
        let tables = RefCell::default();
        Self {
            index,
            architecture,
            tables,
        }
    }

    /// All versions of a package name, best first; the same package of two archives counts once.
    pub(super) fn versions(&self, name: &str) -> Vec<Id> {
        let mut seen = HashSet::new();
        let mut ids: Vec<Id> = self.index.named(name).collect();
        ids.retain(|&id| {
            seen.insert((
                self.index.version(id),
                self.index.stanza(id).field("SHA256"),
            ))
        });
        ids.sort_by(|&one, &two| {
            let [older, newer] = [one, two].map(|id| self.index.version(id));
            // A malformed version is worse than any other.
            let known = |text| relation::version(text).is_some();
            let order = known(newer).cmp(&known(older));
            order.then_with(|| relation::compare(newer, older).unwrap_or_else(|| newer.cmp(older)))
        });
        ids
    }

    fn name(&self, text: &str) -> NameId {
        if let Some(&name) = self.tables.borrow().by_name.get(text) {
            return name;
        }
        let ids = self.versions(text);
        let mut tables = self.tables.borrow_mut();
        let name = NameId::from_raw(u32::try_from(tables.names.len()).unwrap_or(u32::MAX));
        tables.names.push(Name {
            text: text.to_owned(),
            ids,
        });
        tables.by_name.insert(text.to_owned(), name);
        name
    }

    fn set(&self, name: NameId, ids: Vec<Id>, shown: String) -> VersionSetId {
        let mut tables = self.tables.borrow_mut();
        tables.sets.push(Set { name, ids, shown });
        VersionSetId(u32::try_from(tables.sets.len() - 1).unwrap_or(u32::MAX))
    }

    /// What can fulfil a relation, by package name: the package itself, then its providers, those
    /// of higher priority first.
    fn fulfil(&self, relation: &Relation<'_>) -> Vec<(String, Vec<Id>)> {
        let fits =
            |&id: &Id| relation.admits(self.index.version(id)) && self.qualified(relation, id);
        let own: Vec<Id> = self
            .versions(relation.name)
            .into_iter()
            .filter(fits)
            .collect();
        let mut providers: BTreeMap<(u8, &str), Vec<Id>> = BTreeMap::new();
        for (id, version) in self.index.providers(relation.name) {
            let name = self.index.name(id);
            let fits = match (relation.version, version) {
                (None, _) => true,
                (Some(_), Some(version)) => relation.admits(version),
                (Some(_), None) => false, // policy 7.5: unversioned provides fulfil no version
            };
            if fits && name != relation.name && self.qualified(relation, id) {
                let key = (priority(self.index.stanza(id)), name);
                providers.entry(key).or_default().push(id);
            }
        }
        let own = std::iter::once((relation.name.to_owned(), own));
        own.chain(
            providers
                .into_iter()
                .map(|((_, name), ids)| (name.to_owned(), ids)),
        )
        .collect()
    }

    /// Whether a package may stand in for an architecture qualifier. Only one architecture is
    /// installed here, so `:native` says nothing; `:any` asks for packages that allow it.
    fn qualified(&self, relation: &Relation<'_>, id: Id) -> bool {
        match relation.qualifier {
            None | Some("native") => true,
            Some("any") => self.index.stanza(id).field("Multi-Arch") == Some("allowed"),
            Some(architecture) => architecture == self.architecture,
        }
    }

    /// A requirement that one of the alternatives be installed.
    pub(super) fn require(&self, alternatives: &[Relation<'_>]) -> Requirement {
        let mut seen = HashSet::new();
        let mut sets = Vec::new();
        for relation in alternatives {
            for (name, mut ids) in self.fulfil(relation) {
                ids.retain(|&id| seen.insert(id));
                let own = name == relation.name;
                if ids.is_empty() && !(own && alternatives.len() == 1) {
                    continue;
                }
                let shown = relation.to_string();
                let shown = match own {
                    true => shown[relation.name.len()..].trim_start().to_owned(),
                    false => format!("as {shown}"),
                };
                sets.push(self.set(self.name(&name), ids, shown));
            }
        }
        self.one_of(sets, alternatives)
    }

    /// A requirement for exactly these versions of one package.
    pub(super) fn require_ids(&self, name: &str, ids: Vec<Id>, shown: String) -> Requirement {
        self.set(self.name(name), ids, shown).into()
    }

    fn one_of(&self, mut sets: Vec<VersionSetId>, alternatives: &[Relation<'_>]) -> Requirement {
        // A name that nothing fulfils still has to be named in the explanation.
        let filled = |set: &VersionSetId| !self.tables.borrow().sets[set.0 as usize].ids.is_empty();
        if sets.iter().any(filled) {
            sets.retain(filled);
        } else if sets.is_empty() {
            for relation in alternatives {
                let shown = relation.to_string()[relation.name.len()..]
                    .trim_start()
                    .to_owned();
                sets.push(self.set(self.name(relation.name), Vec::new(), shown));
            }
        }
        if let [set] = sets[..] {
            return set.into();
        }
        let mut tables = self.tables.borrow_mut();
        tables.unions.push(sets);
        VersionSetUnionId(u32::try_from(tables.unions.len() - 1).unwrap_or(u32::MAX)).into()
    }

    /// What is left of each name that a package conflicts with.
    fn constrain(&self, own: &str, field: &str, relation: &Relation<'_>) -> Vec<VersionSetId> {
        let mut sets = Vec::new();
        for (name, forbidden) in self.fulfil(relation) {
            // A package may conflict with what it provides itself: with all others, that is.
            if name == own || forbidden.is_empty() {
                continue;
            }
            let left = self
                .versions(&name)
                .into_iter()
                .filter(|id| !forbidden.contains(id));
            let shown = format!("({field}: {relation})");
            sets.push(self.set(self.name(&name), left.collect(), shown));
        }
        sets
    }

    fn dependencies(&self, id: Id) -> Result<KnownDependencies, relation::RelationError> {
        let stanza = self.index.stanza(id);
        let mut known = KnownDependencies::default();
        for field in ["Pre-Depends", "Depends"] {
            for group in relation::parse(stanza.field(field).unwrap_or_default())? {
                known.requirements.push(self.require(&group).into());
            }
        }
        for field in ["Conflicts", "Breaks"] {
            for relation in relation::parse(stanza.field(field).unwrap_or_default())?
                .iter()
                .flatten()
            {
                known
                    .constrains
                    .extend(self.constrain(self.index.name(id), field, relation));
            }
        }
        Ok(known)
    }
}

/// Rank of a package's priority, best first.
fn priority(stanza: Stanza<'_>) -> u8 {
    match stanza.field("Priority") {
        Some("required") => 0,
        Some("important") => 1,
        Some("standard") => 2,
        Some("optional") => 3,
        _ => 4,
    }
}

impl Interner for Universe<'_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        self.index.version(id(solvable))
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        self.tables.borrow().names[name.into_raw() as usize]
            .text
            .clone()
    }

    fn display_version_set(&self, set: VersionSetId) -> impl Display + '_ {
        self.tables.borrow().sets[set.0 as usize].shown.clone()
    }

    fn display_string(&self, string: StringId) -> impl Display + '_ {
        self.tables.borrow().strings[string.0 as usize].clone()
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        self.tables.borrow().sets[set.0 as usize].name
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.name(self.index.name(id(solvable)))
    }

    fn version_sets_in_union(
        &self,
        union: VersionSetUnionId,
    ) -> impl Iterator<Item = VersionSetId> {
        self.tables.borrow().unions[union.0 as usize]
            .clone()
            .into_iter()
    }

    fn resolve_condition(&self, _: ConditionId) -> Condition {
        unreachable!("no requirement here has a condition")
    }
}

impl DependencyProvider for Universe<'_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let ids = &self.tables.borrow().sets[set.0 as usize].ids;
        let wanted = |&&candidate: &&SolvableId| ids.contains(&id(candidate)) != inverse;
        candidates.iter().filter(wanted).copied().collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let ids = &self.tables.borrow().names[name.into_raw() as usize].ids;
        (!ids.is_empty()).then(|| Candidates {
            candidates: ids.iter().copied().map(solvable).collect(),
            hint_dependencies_available: HintDependenciesAvailable::None,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        let Some(name) = solvables.first().map(|&first| self.solvable_name(first)) else {
            return;
        };
        let ids = &self.tables.borrow().names[name.into_raw() as usize].ids;
        solvables.sort_by_key(|&solvable| ids.iter().position(|&other| other == id(solvable)));
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        match self.dependencies(id(solvable)) {
            Ok(known) => Dependencies::Known(known),
            Err(error) => {
                let mut tables = self.tables.borrow_mut();
                tables.strings.push(error.to_string());
                let string = u32::try_from(tables.strings.len() - 1).unwrap_or(u32::MAX);
                Dependencies::Unknown(StringId(string))
            }
        }
    }
}
