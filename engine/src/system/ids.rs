//! Numeric user and group ids by container name.
//!
//! Containers get consecutive ids in the order onboot, onshutdown, services, so that files can be
//! owned by a service without anybody choosing numbers.

use std::collections::BTreeMap;

use crate::spec::{Id, Section, Spanned, Spec, SpecError, nearest};

/// The first id; the ones below belong to distributions.
pub const FIRST_ID: u32 = 100;

/// The id of every container; users and groups share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids(BTreeMap<String, u32>);

impl Ids {
    /// Assigns an id to every container of the merged description. With equal names in different
    /// sections the last assignment counts.
    #[must_use]
    pub fn assign(spec: &Spec) -> Self {
        let containers = Section::ALL
            .into_iter()
            .flat_map(|section| spec.containers(section));
        Self(
            containers
                .zip(FIRST_ID..)
                .map(|(container, id)| (container.name.value.clone(), id))
                .collect(),
        )
    }

    /// Returns the number of an id; absent, empty and `root` are 0.
    ///
    /// # Errors
    /// When it names no container.
    pub fn resolve(&self, id: Option<&Spanned<Id>>) -> Result<u32, SpecError> {
        let Some(id) = id else { return Ok(0) };
        match &id.value {
            Id::Number(number) => Ok(*number),
            Id::Name(name) if name.is_empty() || name == "root" => Ok(0),
            Id::Name(name) => self
                .0
                .get(name)
                .copied()
                .ok_or_else(|| self.unknown(name, id)),
        }
    }

    fn unknown(&self, name: &str, id: &Spanned<Id>) -> SpecError {
        let error = id
            .at
            .error(format!("no container is named \"{name}\", so it has no id"));
        if name.parse::<u32>().is_ok() {
            return error.with_hint("remove the quotes for a number");
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        match nearest(name, &names) {
            Some(meant) => error.with_hint(format!("did you mean \"{meant}\"?")),
            None => error.with_hint("ids are numbers, root, or names of containers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_over_all_sections() {
        let yaml = "onboot: [{name: a, image: x}, {name: b, image: x}]
services: [{name: a, image: x}]
onshutdown: [{name: c, image: x}]
files:
- {path: p, contents: '', uid: a, gid: c}
- {path: p, contents: '', uid: root, gid: 7}
- {path: p, contents: '', uid: '7', gid: bb}
";
        let spec = Spec::parse(yaml.as_bytes(), "a.yml").unwrap();
        let ids = Ids::assign(&spec);
        let of = |index: usize| {
            (
                ids.resolve(spec.files[index].uid.as_ref()),
                ids.resolve(spec.files[index].gid.as_ref()),
            )
        };
        assert_eq!(of(0), (Ok(103), Ok(102)));
        assert_eq!(of(1), (Ok(0), Ok(7)));
        assert_eq!(ids.resolve(None), Ok(0));
        let (uid, gid) = of(2);
        let (uid, gid) = (uid.unwrap_err(), gid.unwrap_err());
        assert_eq!(
            uid.to_string(),
            "a.yml:7:32: no container is named \"7\", so it has no id"
        );
        assert_eq!(uid.hint.as_deref(), Some("remove the quotes for a number"));
        assert_eq!(
            (gid.column, gid.hint.as_deref()),
            (42, Some("ids are numbers, root, or names of containers"))
        );
    }
}
