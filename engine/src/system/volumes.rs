//! Volumes by name, and what containers' references to them become.

use std::collections::BTreeMap;

use crate::spec::{Position, Spec, SpecError, nearest};

/// All volumes of a description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes(BTreeMap<String, bool>);

impl Volumes {
    /// Collects the volumes of the merged description, those of all its files.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        Self(
            spec.volumes
                .iter()
                .map(|volume| (volume.name.value.clone(), volume.readonly))
                .collect(),
        )
    }

    /// Returns the source of a bind: absolute paths as they are, a volume's name as the path the
    /// guest finds it under.
    ///
    /// # Errors
    /// When there is no such volume, or it is read-only and `options` do not end up read-only (the
    /// last of `ro` and `rw` counts, as in mount(8)).
    pub(super) fn source(
        &self,
        source: &str,
        options: &[String],
        at: &Position,
    ) -> Result<String, SpecError> {
        if source.starts_with('/') {
            return Ok(source.to_owned());
        }
        let Some(readonly) = self.0.get(source) else {
            return Err(self.unknown(source, at));
        };
        let access = options
            .iter()
            .rev()
            .find(|option| matches!(option.as_str(), "ro" | "rw"));
        if *readonly && access.is_none_or(|access| access == "rw") {
            let error = at.error(format!(
                "volume \"{source}\" is read-only, but is mounted read-write"
            ));
            return Err(error.with_hint("add the option ro"));
        }
        Ok(format!("/{}", merged_path(source)))
    }

    fn unknown(&self, name: &str, at: &Position) -> SpecError {
        let error = at.error(format!("no volume is named \"{name}\""));
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        match nearest(name, &names) {
            Some(meant) => error.with_hint(format!("did you mean \"{meant}\"?")),
            None => error.with_hint("a source is an absolute path or the name of a volume"),
        }
    }
}

/// Directory of a volume in the system, relative to the root.
#[must_use]
pub fn volume_path(name: &str) -> String {
    format!("containers/volumes/{name}")
}

/// Where the guest shows a volume's writable view, relative to the root.
#[must_use]
pub fn merged_path(name: &str) -> String {
    format!("{}/merged", volume_path(name))
}
