//! `sysfs`: settings in `/sys` from `/etc/sysfs.d`, as LinuxKit's `pkg/sysfs` makes them.
//!
//! In: files of `path = value` lines in name order. Out: values in `/sys`. Unlike with sysctl the
//! first line that cannot be applied ends the job.

use std::path::Path;

use super::arguments::Arguments;
use super::{settings, tell};
use crate::error::{Context, Result};

/// What LinuxKit's image carries (`pkg/sysfs/etc/sysfs.d/00-moby.conf`).
const DEFAULTS: &str = "\
kernel/mm/transparent_hugepage/enabled = madvise
kernel/mm/transparent_hugepage/defrag = madvise
";

/// `sysfs [-configDir DIR] [-sysfsDir DIR]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let args = Arguments::parse(args, &["configDir", "sysfsDir"], &[])?;
    let config = Path::new(args.value("configDir").unwrap_or("/etc/sysfs.d"));
    let root = Path::new(args.value("sysfsDir").unwrap_or("/sys"));
    let lines = settings::read(config, DEFAULTS)?;
    for (place, line) in &lines {
        apply(root, line).context(|| place)?;
    }
    tell!("sysfs: {} settings made", lines.len());
    Ok(())
}

fn apply(root: &Path, line: &str) -> Result<()> {
    let (name, value) = settings::split(line)?;
    settings::write(root, Path::new(name.trim_start_matches('/')), value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::arguments::strings;
    use super::*;

    fn run_with(config: &Path, root: &Path) -> Result<()> {
        let (config, root) = (config.to_str().unwrap(), root.to_str().unwrap());
        run(&strings(&["-configDir", config, "-sysfsDir", root]))
    }

    #[test]
    fn the_first_mistake_ends_it() {
        let (root, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["a", "b", "c"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let file = config.path().join("1");
        fs::write(&file, "#x\na = 1\n/b=2\nabsent = 3\nc = 4\n").unwrap();
        let error = run_with(config.path(), root.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("1:4: "), "{error}");
        let value = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(
            (value("a"), value("b"), value("c")),
            ("1".into(), "2".into(), String::new())
        );

        fs::write(&file, "../x = 1\n").unwrap();
        assert!(run_with(config.path(), root.path()).is_err());
    }

    #[test]
    fn without_a_directory_huge_pages_are_for_those_who_ask() {
        let root = tempfile::tempdir().unwrap();
        let pages = root.path().join("kernel/mm/transparent_hugepage");
        let absent = Path::new("/nonexistent/sysfs.d");
        assert!(
            run_with(absent, root.path()).is_err(),
            "nothing to set is an error"
        );
        fs::create_dir_all(&pages).unwrap();
        fs::write(pages.join("enabled"), "").unwrap();
        fs::write(pages.join("defrag"), "").unwrap();
        run_with(absent, root.path()).unwrap();
        assert_eq!(fs::read_to_string(pages.join("defrag")).unwrap(), "madvise");
    }
}
