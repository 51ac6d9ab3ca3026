//! Several descriptions folded into one, left to right.

use super::error::{ErrorList, SpecErrors};
use super::model::{Kernel, Spec};
use super::position::{Position, Spanned};
use super::read::duplicate;

impl Spec {
    /// Appends a later description: lists are concatenated; of the kernel's fields the last
    /// non-empty `image`, `cmdline` and `binary` and the last given `tar`, `ucode` and `modules`
    /// win. Volumes of all descriptions can be referenced by all.
    ///
    /// # Errors
    /// When a service or volume name was taken by an earlier description.
    pub fn append(&mut self, other: Self) -> Result<(), SpecErrors> {
        let mut errors = ErrorList::default();
        let services = (&self.services, &other.services);
        unique(
            &mut errors,
            "service",
            services.0.iter().map(|c| &c.name),
            services.1.iter().map(|c| &c.name),
        );
        let volumes = (&self.volumes, &other.volumes);
        unique(
            &mut errors,
            "volume",
            volumes.0.iter().map(|v| &v.name),
            volumes.1.iter().map(|v| &v.name),
        );
        errors.finish()?;

        self.kernel = match (self.kernel.take(), other.kernel) {
            (Some(first), Some(second)) => Some(merge(first, second)),
            (first, second) => second.or(first),
        };
        self.init.extend(other.init);
        self.onboot.extend(other.onboot);
        self.onshutdown.extend(other.onshutdown);
        self.services.extend(other.services);
        self.files.extend(other.files);
        self.volumes.extend(other.volumes);
        self.trust = other.trust.or(self.trust.take());
        self.warnings.extend(other.warnings);
        Ok(())
    }
}

fn merge(first: Kernel, second: Kernel) -> Kernel {
    let filled = |field: &Spanned<String>| !field.is_empty();
    Kernel {
        at: if second.image.is_some() {
            second.at
        } else {
            first.at
        },
        image: second.image.or(first.image),
        cmdline: second.cmdline.filter(filled).or(first.cmdline),
        binary: second.binary.filter(filled).or(first.binary),
        tar: second.tar.or(first.tar),
        ucode: second.ucode.or(first.ucode),
        modules: second.modules.or(first.modules),
    }
}

fn unique<'a>(
    errors: &mut ErrorList,
    kind: &str,
    taken: impl Iterator<Item = &'a Spanned<String>>,
    added: impl Iterator<Item = &'a Spanned<String>>,
) {
    let taken: std::collections::BTreeMap<&str, &Position> =
        taken.map(|name| (name.as_str(), &name.at)).collect();
    for name in added {
        if let Some(first) = taken.get(name.as_str()) {
            errors.push(|| duplicate(kind, name, first));
        }
    }
}
