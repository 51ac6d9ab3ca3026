//! Built-in jobs as containers: bundles without a root that an annotation of the build's marks.
//!
//! Such a container is this very program, started once more to do one of its [`jobs`](crate::jobs)
//! in the host's namespaces, with all rights and every device. What surrounds it is as for any
//! other: control group, limits, logs, restarts.

use std::ffi::CString;

use crate::error::{Context, Error, Result};
use crate::spec::Config;
use crate::{process, sys};

/// Names the job; the build writes it, and `process.args` are the job's arguments.
const ANNOTATION: &str = "kiln.builtin";

/// Returns whether a container is a job.
pub(crate) fn is_job(config: &Config) -> bool {
    config.annotations.contains_key(ANNOTATION)
}

/// Refuses what a job would not honour, by name, and makes the arguments those of the program.
pub(crate) fn settle(config: &mut Config) -> Result<()> {
    let Some(job) = config.annotations.get(ANNOTATION).cloned() else {
        return Ok(());
    };
    let (process, linux) = (&config.process, &config.linux);
    let asks = |annotation| config.annotations.contains_key(annotation);
    let refused = [
        ("annotations: kiln.user", asks("kiln.user")),
        ("annotations: kiln.terminal", asks("kiln.terminal")),
        ("root", !config.root.path.is_empty()),
        ("mounts", !config.mounts.is_empty()),
        ("hostname", !config.hostname.is_empty()),
        ("process.user.uid", process.user.uid != 0),
        ("process.terminal", process.terminal),
        ("hooks", config.hooks.all().next().is_some()),
        ("linux.namespaces", !linux.namespaces.is_empty()),
        ("linux.seccomp", linux.seccomp.is_some()),
        (
            "linux.resources.devices",
            !linux.resources.devices.is_empty(),
        ),
    ];
    if let Some((member, _)) = refused.iter().find(|(_, present)| *present) {
        return Err(Error::new(format!(
            "config.json: {member}: a built-in job has none"
        )));
    }
    let program = ["kiln-init".to_owned(), "job".to_owned(), job];
    config.process.args.splice(0..0, program);
    Ok(())
}

/// In the child, in its session and control group: becomes the job.
pub(crate) fn become_job(config: &Config) -> Result<std::convert::Infallible> {
    let process = &config.process;
    let args = process::c_strings(&process.args).context(|| "process.args")?;
    let env = process::environment(&process.env, 0)?;
    rustix::process::chdir("/").context(|| "/")?;
    // This program, even where its file is out of reach: PID 1 has left the initramfs.
    let program = CString::from(c"/proc/self/exe");
    let _ = sys::close_others_on_exec();
    sys::reset_signals();
    Err(sys::exec(&program, &args, &env)).context(|| "exec /proc/self/exe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(member: &str) -> Result<Config> {
        let text = format!(
            r#"{{"annotations":{{"kiln.builtin":"mount"}},"process":{{"args":["/var"]}}{member}}}"#
        );
        Config::parse(text.as_bytes())
    }

    #[test]
    fn arguments_become_those_of_this_program() {
        let config = config("").unwrap();
        assert!(is_job(&config));
        assert_eq!(config.process.args, ["kiln-init", "job", "mount", "/var"]);
    }

    #[test]
    fn what_a_job_cannot_have_is_refused_by_name() {
        for (member, word) in [
            (r#","root":{"path":"rootfs"}"#, "root: a built-in job"),
            (
                r#","linux":{"namespaces":[{"type":"mount"}]}"#,
                "linux.namespaces",
            ),
            (r#","mounts":[{"destination":"/x"}]"#, "mounts"),
        ] {
            let error = config(member).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
