//! Names: which manifest an image's name means on a platform, as the cache records it.
//!
//! Enters and leaves: actions of kind `resolve`, labelled with the name's key
//! ([`crate::source::Reference::key`]), keyed by name and platform. Builds, pulls and imports write
//! the same records, so what one knows serves the others.

use kiln_cache::{Action, Cache, CacheError, Key, KeyBuilder};

use crate::digest::Sha256;
use crate::source::{Located, Platform, Reference};

/// The kind of these actions.
const KIND: &str = "resolve";

/// What a name means on a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name's key; two spellings of one image have one.
    pub name: String,
    /// The platform that was asked for.
    pub platform: Platform,
    /// The manifest of the image for it, and its attestations.
    pub found: Located,
    /// What the name itself leads to: an index, or the manifest again.
    pub top: Sha256,
}

/// Returns the key of a name's record.
pub(crate) fn name_key(name: &str, platform: &Platform) -> Key {
    KeyBuilder::new(KIND, 3)
        .field("image", name)
        .field("platform", platform.to_string())
        .finish()
}

impl Name {
    /// Makes a record whose label the scheduler fills in.
    pub(crate) fn of(platform: &Platform, found: Located, top: Sha256) -> Self {
        Self {
            name: String::new(),
            platform: platform.clone(),
            found,
            top,
        }
    }

    pub(crate) fn key(&self) -> Key {
        name_key(&self.name, &self.platform)
    }

    pub(crate) fn action(&self) -> Action {
        let attestations = self.found.attestations.iter().map(Sha256::to_string);
        let attestations = attestations.collect::<Vec<_>>().join(" ");
        Action {
            kind: KIND.to_owned(),
            label: self.name.clone(),
            values: vec![
                (
                    "manifest".into(),
                    self.found.manifest.to_string().into_bytes(),
                ),
                ("attestations".into(), attestations.into_bytes()),
                ("top".into(), self.top.to_string().into_bytes()),
                ("platform".into(), self.platform.to_string().into_bytes()),
            ],
            ..Action::default()
        }
    }

    /// Writes the record; returns the one before when it said something else.
    pub(crate) fn keep(&self, cache: &Cache) -> Result<Option<Self>, CacheError> {
        let before = cache.action(&self.key())?.as_ref().and_then(Self::read);
        let same = |old: &Self| (&old.found, old.top) == (&self.found, self.top);
        let keep = || cache.put_action(&self.key(), &self.action());
        if before.as_ref().is_some_and(same) {
            return keep().map(|()| None);
        }
        // Builds may have taken the old one for granted, even one that was collected.
        cache.in_new_epoch(keep).map(|()| before)
    }

    /// Reads a record; `None` for actions of other kinds, and damaged ones.
    pub(crate) fn read(action: &Action) -> Option<Self> {
        let text = |name| std::str::from_utf8(action.value(name)?).ok();
        if !(action.kind.is_empty() || action.kind == KIND) {
            return None;
        }
        let attestations = text("attestations")?.split(' ');
        let attestations = attestations.filter(|word| !word.is_empty()).map(str::parse);
        Some(Self {
            name: action.label.clone(),
            platform: text("platform")?.parse().ok()?,
            found: Located {
                manifest: text("manifest")?.parse().ok()?,
                attestations: attestations.collect::<Result<_, _>>().ok()?,
            },
            top: text("top")?.parse().ok()?,
        })
    }

    /// Tells whether a reference means this name: by its key, or by its repository and a digest.
    #[must_use]
    pub fn is_meant_by(&self, reference: &Reference) -> bool {
        if self.name == reference.key() {
            return true;
        }
        let Ok(own) = self.name.parse::<Reference>() else {
            return false;
        };
        reference
            .digest()
            .is_some_and(|digest| *digest == self.top || *digest == self.found.manifest)
            && (own.host(), own.repository()) == (reference.host(), reference.repository())
    }
}

/// Returns all names, sorted by name and platform.
pub(crate) fn all(cache: &Cache) -> Result<Vec<Name>, CacheError> {
    let mut names = Vec::new();
    cache.each_action(|_, action, _| {
        names.extend(
            action
                .as_ref()
                .filter(|action| action.kind == KIND)
                .and_then(Name::read),
        );
        Ok(())
    })?;
    names.sort_by(|a, b| (&a.name, &a.platform).cmp(&(&b.name, &b.platform)));
    Ok(names)
}
