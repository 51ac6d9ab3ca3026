//! `modprobe`: kernel modules by name or alias, with what they need.
//!
//! In: names, and parameters of the first one. Out: modules in the kernel, through the loader that
//! PID 1 uses for devices; see [`crate::loader`]. Takes the flags that busybox's modprobe takes
//! and that make sense once, at boot.

use std::fs;
use std::path::Path;

use super::arguments::Arguments;
use super::tell;
use crate::cmdline::Cmdline;
use crate::error::{Error, Result};
use crate::loader::{Kernel, Loader, RunningKernel, Seen};
use crate::modules::Files;

/// `modprobe [-a] [-b] [-q] [-s] [-v] NAME… [PARAMETER=VALUE…]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut cmdline = fs::read("/proc/cmdline").unwrap_or_default();
    let release = rustix::system::uname();
    let files = Files::read(Path::new("/"), &release.release().to_string_lossy());
    load(args, &files, &mut cmdline, RunningKernel)
}

fn load(args: &[String], files: &Files, cmdline: &mut Vec<u8>, kernel: impl Kernel) -> Result<()> {
    let args = Arguments::parse(args, &[], &["a", "b", "q", "s", "v", "ab"])?;
    let use_blacklist = args.is_on("b") || args.is_on("ab");
    let (parameters, names): (Vec<&str>, Vec<&str>) =
        args.words.iter().partition(|word| word.contains('='));
    let Some(first) = names.first() else {
        return Err(Error::new("needs the name of a module"));
    };
    // The command line's `module.parameter=value` is how the loader takes parameters; the kernel
    // lets the last one win.
    for parameter in parameters {
        let parameter = format!(" {}.{parameter}", first.replace('-', "_"));
        cmdline.extend_from_slice(parameter.as_bytes());
    }
    let cmdline = Cmdline::parse(cmdline);
    let mut seen = Seen::default();
    let mut loader = Loader::new(files, &cmdline, kernel, &mut seen);
    let mut absent = Vec::new();
    for name in names {
        if use_blacklist && loader.is_banned(name.as_bytes()) {
            tell!("modprobe: {name}: blacklisted");
        } else if loader.request(name.as_bytes()) {
            tell!("modprobe: {name}");
        } else {
            absent.push(name);
        }
    }
    if !absent.is_empty() {
        let what = format!("{}: not in this kernel", absent.join(", "));
        return Err(Error::new(what));
    }
    match loader.failures() {
        0 => Ok(()),
        1 => Err(Error::new("a module could not be loaded, see above")),
        count => Err(Error::new(format!(
            "{count} modules could not be loaded, see above"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::strings;
    use super::*;

    /// A kernel that notes what it is given and refuses `bad.ko`.
    #[derive(Default)]
    struct Recorder(Vec<String>);

    impl Kernel for &mut Recorder {
        fn load(&mut self, file: &Path, parameters: &str) -> Result<()> {
            let name = file.file_name().unwrap().to_str().unwrap();
            self.0
                .push(format!("{name} {parameters}").trim().to_owned());
            match name {
                "bad.ko" => Err(Error::new("no")),
                _ => Ok(()),
            }
        }
    }

    fn outcome(words: &[&str]) -> (Vec<String>, Option<String>) {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules/1");
        fs::create_dir_all(&modules).unwrap();
        let dep = "k/virtio-net.ko: k/base.ko\nk/base.ko:\nk/bad.ko:\nk/other.ko:\n";
        fs::write(modules.join("modules.dep"), dep).unwrap();
        fs::write(modules.join("modules.builtin"), "k/ext4.ko\n").unwrap();
        fs::write(modules.join("modules.alias"), "alias fs-x other\n").unwrap();
        let files = Files::read(root.path(), "1");
        let mut kernel = Recorder::default();
        let mut cmdline = b"virtio_net.a=1 module_blacklist=other".to_vec();
        let done = load(&strings(words), &files, &mut cmdline, &mut kernel);
        (kernel.0, done.err().map(|cause| cause.to_string()))
    }

    #[test]
    fn names_aliases_and_parameters() {
        let (loaded, error) = outcome(&["virtio-net", "queues=2"]);
        assert_eq!(loaded, ["base.ko", "virtio-net.ko a=1 queues=2"]);
        assert_eq!(error, None);
        assert_eq!(
            outcome(&["-a", "ext4", "fs-x"]),
            (vec!["other.ko".into()], None)
        );
        assert_eq!(
            outcome(&["-ab", "other", "base"]),
            (vec!["base.ko".into()], None)
        );
    }

    #[test]
    fn failures_are_told() {
        let (loaded, error) = outcome(&["-a", "nowhere", "bad", "base"]);
        assert_eq!(
            loaded,
            ["bad.ko", "base.ko"],
            "one failure does not stop the others"
        );
        assert_eq!(error.unwrap(), "nowhere: not in this kernel");
        let (_, error) = outcome(&["bad"]);
        assert_eq!(error.unwrap(), "a module could not be loaded, see above");
        assert!(outcome(&["-r", "base"]).1.unwrap().contains("-r"));
        assert!(outcome(&["x=1"]).1.is_some());
    }
}
