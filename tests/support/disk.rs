//! Places that refuse: a disk of a few MiB, a disk that is read-only, permissions that bind root.
//!
//! A small disk is a tmpfs in a mount namespace that a sleeping process holds; kiln runs in it by
//! `nsenter`, and the test sees it through `/proc`. Where the test is not root, a user namespace
//! makes it so.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Space, tool};

/// A tmpfs that only [`Disk::command`] sees; it ends with the test.
pub(crate) struct Disk {
    holder: Child,
    mount_point: PathBuf,
    is_root: bool,
}

impl Space {
    /// Mounts a disk of `kib` KiB on the directory `name` of this space.
    pub(crate) fn disk(&self, name: &str, kib: u64) -> Disk {
        let mount_point = self.path(name);
        std::fs::create_dir_all(&mount_point).unwrap();
        let is_root = is_root();
        let user: &[&str] = match is_root {
            true => &[],
            false => &["--user", "--map-root-user"],
        };
        let script =
            "mount -t tmpfs -o size=\"$1\"k,mode=755 none \"$0\" && echo mounted && exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(user)
            .args(["--mount", "sh", "-c", script])
            .args([mount_point.as_os_str(), kib.to_string().as_ref()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("unshare: {error}; install util-linux"));
        let mut said = String::new();
        let stdout = holder.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(
            said, "mounted\n",
            "no mount namespace here: run as root, or permit user namespaces"
        );
        Disk {
            holder,
            mount_point,
            is_root,
        }
    }

    /// Returns a command that runs kiln with the rights of its user alone: root may write
    /// anywhere only by a capability.
    pub(crate) fn powerless(&self) -> Command {
        let wrapper: &[&str] = match is_root() {
            true => &["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
            false => &[],
        };
        self.command_in(wrapper)
    }
}

impl Disk {
    /// Returns a command that runs kiln where the disk is.
    pub(crate) fn command(&self, space: &Space) -> Command {
        let wrapper = self.wrapper(&space.path(""));
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        space.command_in(&wrapper)
    }

    fn wrapper(&self, directory: &Path) -> Vec<String> {
        let mut wrapper = vec![
            "nsenter".to_owned(),
            format!("--target={}", self.holder.id()),
            "--mount".to_owned(),
            format!("--wdns={}", directory.display()),
        ];
        if !self.is_root {
            wrapper.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        wrapper
    }

    /// Returns where the test sees a file of the disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let inside = self.mount_point.strip_prefix("/").unwrap().join(name);
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// Mounts the disk anew with other options; what it holds stays.
    pub(crate) fn remount(&self, options: &str) {
        let mut arguments = self.wrapper(&self.mount_point);
        let program = arguments.remove(0);
        let options = format!("remount,{options}");
        // With a source, mount(8) leaves out the options there are, such as users unknown here.
        arguments.extend(["mount", "-o", &options, "none"].map(str::to_owned));
        arguments.push(self.mount_point.display().to_string());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tool(&program, &arguments);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn is_root() -> bool {
    tool("id", &["-u"]).trim() == "0"
}
