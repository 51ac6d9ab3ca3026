//! `sysctl`: kernel parameters from `/etc/sysctl.d`, as LinuxKit's `pkg/sysctl` sets them.
//!
//! In: files of `a.b.c = value` lines in name order. Out: values in `/proc/sys`. A line that
//! cannot be applied is said and passed over, so that one file serves several kernels.

use std::path::{Path, PathBuf};

use super::arguments::Arguments;
use super::{settings, tell};
use crate::error::Result;

/// What LinuxKit's image carries (`pkg/sysctl/etc/sysctl.d/00-linuxkit.conf`).
const DEFAULTS: &str = "\
net.ipv4.tcp_syncookies = 1
net.ipv4.conf.default.rp_filter = 1
net.ipv4.conf.all.rp_filter = 1
net.ipv4.ping_group_range = 999 59999
vm.max_map_count = 262144
vm.overcommit_memory = 1
net.core.somaxconn = 1024
net.ipv4.neigh.default.gc_thresh1 = 80000
net.ipv4.neigh.default.gc_thresh2 = 90000
net.ipv4.neigh.default.gc_thresh3 = 100000
fs.aio-max-nr = 1048576
fs.inotify.max_user_watches = 524288
fs.file-max = 524288
kernel.random.write_wakeup_threshold = 3072
kernel.kptr_restrict = 2
net.ipv4.conf.all.send_redirects = 0
net.ipv4.conf.default.accept_redirects = 0
net.ipv4.conf.default.accept_source_route = 0
net.ipv6.conf.all.accept_redirects = 0
net.ipv6.conf.default.accept_redirects = 0
kernel.dmesg_restrict = 1
kernel.perf_event_paranoid = 3
fs.protected_hardlinks = 1
fs.protected_symlinks = 1
kernel.unprivileged_bpf_disabled = 1
";

/// `sysctl [-configDir DIR] [-sysctlDir DIR]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let args = Arguments::parse(args, &["configDir", "sysctlDir"], &[])?;
    let config = args.value("configDir").unwrap_or("/etc/sysctl.d");
    let root = args.value("sysctlDir").unwrap_or("/proc/sys");
    let lines = settings::read(Path::new(config), DEFAULTS)?;
    let mut count = 0;
    for (place, line) in &lines {
        match apply(Path::new(root), line) {
            Ok(()) => count += 1,
            Err(cause) => tell!("sysctl: {place}: {cause}"),
        }
    }
    tell!("sysctl: {count} of {} settings made", lines.len());
    Ok(())
}

fn apply(root: &Path, line: &str) -> Result<()> {
    let (name, value) = settings::split(line)?;
    // systemd's mark for "and do not mind"; we never do.
    let name = name.strip_prefix('-').unwrap_or(name);
    settings::write(root, &path(name), value)
}

/// Returns a parameter's path: both `.` and `/` separate, except that a name whose first
/// separator is `/` may hold dots, as in `net/ipv4/conf/eth0.5/rp_filter` (sysctl.d(5)).
fn path(name: &str) -> PathBuf {
    let slashes = name
        .find(['.', '/'])
        .is_some_and(|at| name[at..].starts_with('/'));
    let separators: &[char] = if slashes { &['/'] } else { &['.', '/'] };
    name.split(separators)
        .filter(|part| !part.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::arguments::strings;
    use super::*;

    /// A `/proc/sys` with the parameters given, all empty.
    fn proc_sys(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn run_with(config: &Path, root: &Path) -> Result<()> {
        run(&strings(&[
            "-configDir",
            config.to_str().unwrap(),
            &format!("--sysctlDir={}", root.display()),
        ]))
    }

    #[test]
    fn files_in_name_order_and_bad_lines_passed_over() {
        let root = proc_sys(&["vm/a", "net/ipv4/conf/eth0.5/rp_filter", "net/x"]);
        let config = tempfile::tempdir().unwrap();
        fs::create_dir(config.path().join("05-directory")).unwrap();
        fs::write(
            config.path().join("10.conf"),
            "# vm.a = 9\n; no\nvm.a = 1\nnonsense\nvm.absent = 1\n  net/x=  a = b  \n",
        )
        .unwrap();
        fs::write(
            config.path().join("20.conf"),
            "vm/a=2\r\nnet/ipv4/conf/eth0.5/rp_filter = 7\n",
        )
        .unwrap();
        run_with(config.path(), root.path()).unwrap();
        let value = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(value("vm/a"), "2");
        assert_eq!(value("net/x"), "a = b");
        assert_eq!(value("net/ipv4/conf/eth0.5/rp_filter"), "7");
        assert!(
            !root.path().join("vm/absent").exists(),
            "a parameter was made up"
        );
    }

    #[test]
    fn without_a_directory_linuxkits_own() {
        let root = proc_sys(&["kernel/kptr_restrict", "net/ipv4/ping_group_range"]);
        run_with(Path::new("/nonexistent/sysctl.d"), root.path()).unwrap();
        let value = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(value("kernel/kptr_restrict"), "2");
        assert_eq!(value("net/ipv4/ping_group_range"), "999 59999");

        let empty = tempfile::tempdir().unwrap();
        fs::write(root.path().join("kernel/kptr_restrict"), "").unwrap();
        run_with(empty.path(), root.path()).unwrap();
        assert_eq!(
            value("kernel/kptr_restrict"),
            "",
            "an empty directory asks for nothing"
        );
    }

    #[test]
    fn names_do_not_lead_out() {
        let root = proc_sys(&["sys/a", "sys/x/b", "secret"]);
        let sys = root.path().join("sys");
        assert!(apply(&sys, "x/../../secret = 1").is_err());
        assert!(apply(&sys, "a = 1").is_ok());
        assert!(apply(&sys, " = 1").is_err());
        assert_eq!(fs::read_to_string(root.path().join("secret")).unwrap(), "");
    }
}
