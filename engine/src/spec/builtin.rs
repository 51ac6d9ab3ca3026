//! Built-in jobs: what kiln-init does itself, where a container would need an image.
//!
//! A job runs as root in the host's namespaces and has no root of its own. Keys that would take
//! some of that from it, or that need a root, are refused here: nothing is passed over in silence.

use super::container::Container;
use super::decode::{Decoder, Fields, Path};
use super::error::{ErrorList, SpecErrors};
use super::model::{ImageSource, InitEntry, Section, Spec};
use super::nearest::nearest;
use super::node::{Node, Value, clip};

/// Every job; `guest/src/jobs/` has them.
pub const JOBS: &[&str] = &[
    "extend", "format", "metadata", "modprobe", "mount", "ntp", "swap", "sysctl", "sysfs",
];

/// The keys of a container that is a job.
pub(super) const KEYS: &[&str] = &[
    "name",
    "builtin",
    "command",
    "env",
    "annotations",
    "resources",
    "rlimits",
    "oomScoreAdj",
    "cgroupsPath",
];

/// The annotation that marks a job's bundle; the build writes it.
pub(crate) const ANNOTATION: &str = "kiln.builtin";

/// The name of a job.
pub(super) fn job(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<ImageSource> {
    let name = decoder.string(node, path)?;
    let known = JOBS.iter().find(|job| **job == name);
    if known.is_none() {
        let message = format!("there is no built-in job \"{}\"", clip(&name));
        let hint = match nearest(&name, JOBS) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("there are {}", JOBS.join(", ")),
        };
        decoder.report_hint(&node.range, path, message, hint);
    }
    known.map(|job| ImageSource::Builtin(job))
}

/// Reports what a job cannot have. Every key has been asked for by now.
pub(super) fn refuse_keys(fields: &mut Fields<'_, '_, '_>) {
    let path = *fields.path;
    // That these stand there has been said.
    let mut fine = KEYS.to_vec();
    fine.extend(["image", "debian"]);
    for (range, key) in fields.known_but(&fine) {
        let message = format!("{key} stands beside builtin");
        let hint = format!(
            "a job runs as root in the host's namespaces, without a root of its own; it takes {}",
            KEYS[2..].join(", ")
        );
        fields.decoder.report_hint(&range, &path, message, hint);
    }
    if let Some(annotations) = fields.present("annotations")
        && let Value::Map(entries) = &annotations.value.value
    {
        let path = Path::Key(&path, "annotations");
        for entry in entries {
            let why = match (entry.key.as_str(), &entry.value.value) {
                ("kiln.user", _) => "a job is root",
                ("kiln.terminal", _) => "a job has no terminal",
                ("kiln.ready", Value::String(value)) if value == "notify" => {
                    "a job does not say that it is ready"
                }
                _ => continue,
            };
            let message = format!("{} stands beside builtin", clip(&entry.key));
            let hint = format!("{why}; remove it");
            fields
                .decoder
                .report_hint(&entry.key_range, &path, message, hint);
        }
    }
    if let Some(resources) = fields.present("resources")
        && let Value::Map(entries) = &resources.value.value
        && let Some(devices) = entries.iter().find(|entry| entry.key == "devices")
    {
        fields.decoder.report_hint(
            &devices.key_range,
            &Path::Key(&Path::Key(&path, "resources"), "devices"),
            "rules stand beside builtin",
            "a job may use every device; remove it",
        );
    }
}

impl Container {
    /// Returns the name of the built-in job that this is.
    #[must_use]
    pub fn job(&self) -> Option<&'static str> {
        match self.image.value {
            ImageSource::Builtin(job) => Some(job),
            _ => None,
        }
    }
}

impl Spec {
    /// Checks the whole description: jobs are part of kiln's own init.
    ///
    /// # Errors
    /// Every job, where another init would find it.
    pub fn check_jobs(&self) -> Result<(), SpecErrors> {
        let mut errors = ErrorList::default();
        if !self.init.iter().any(|it| it.value == InitEntry::Kiln) {
            let containers = Section::ALL.into_iter().flat_map(|it| self.containers(it));
            for container in containers {
                let Some(job) = container.job() else { continue };
                errors.push(|| {
                    let message = format!(
                        "builtin: {job}: kiln's own init does it, which init does not name"
                    );
                    let error = container.image.at.error(message);
                    error.with_hint("write init: [kiln], or an image in place of builtin")
                });
            }
        }
        errors.finish()
    }
}
