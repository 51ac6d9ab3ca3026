//! The bundle of a built-in job: config.json alone, byte for byte.
//!
//! It has no `root` and no namespaces, so runc refuses it (both are required), and an annotation
//! that kiln-init takes it by. `process.args` are the job's own arguments.

use serde_json::{Value, json};

use super::bundle::OCI_VERSION;
use super::json;
use crate::spec::{BUILTIN_ANNOTATION, Container, Rlimit};

/// Returns the bytes of config.json of a container that is this job.
#[must_use]
pub fn job_json(container: &Container, job: &str) -> Vec<u8> {
    let config = &container.config;
    let texts = |field: &Option<crate::spec::Spanned<Vec<String>>>| {
        json!(field.as_ref().map_or(&[][..], |list| &list.value))
    };
    let mut process = json!({
        "user": {"uid": 0, "gid": 0},
        "args": texts(&config.command),
        "env": texts(&config.env),
        "cwd": "/",
    });
    if let Some(rlimits) = &config.rlimits {
        let limit = |it: &Rlimit| json!({"type": it.kind, "hard": it.hard, "soft": it.soft});
        process["rlimits"] = rlimits.value.iter().map(limit).collect();
    }
    if let Some(score) = &config.oom_score_adj {
        process["oomScoreAdj"] = score.value.into();
    }
    let given = config.annotations.as_ref().map(|given| &given.value);
    let mut annotations = given.cloned().unwrap_or_default();
    annotations.insert(BUILTIN_ANNOTATION.to_owned(), job.to_owned());
    let mut linux = json!({"resources": config.resources.as_deref().cloned().unwrap_or_default()});
    if let Some(path) = &config.cgroups_path {
        linux["cgroupsPath"] = path.value.as_str().into();
    }
    let whole: Value = json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "annotations": annotations,
        "linux": linux,
    });
    json::to_vec(&whole)
}
