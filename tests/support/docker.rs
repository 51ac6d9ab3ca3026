//! Debian's Docker engine, on a socket of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Space, tool};

/// A running engine; it ends with the test.
pub(crate) struct Docker {
    child: Child,
    log: PathBuf,
    archive: PathBuf,
    /// `unix://PATH`
    pub(crate) host: String,
}

impl Space {
    /// Starts an engine with everything of its own in this space.
    pub(crate) fn docker(&self) -> Docker {
        let at = |name: &str| self.path(&format!("docker/{name}"));
        fs::create_dir_all(at("")).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let host = format!("unix://{}", text(at("sock")));
        let child = Command::new("dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(["--storage-driver=vfs", "--data-root", &text(at("data"))])
            .args(["--exec-root", &text(at("exec")), "-p", &text(at("pid"))])
            .args(["-H", &host])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("dockerd: {error}; install docker.io (tests/run does)"));
        let mut docker = Docker {
            child,
            log: at("log"),
            archive: at("load.tar"),
            host,
        };
        let began = Instant::now();
        while UnixStream::connect(at("sock")).is_err() {
            let gone = docker.child.try_wait().unwrap();
            assert!(
                gone.is_none() && began.elapsed() < Duration::from_secs(60),
                "dockerd does not answer (it needs root): {}",
                fs::read_to_string(&docker.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        docker
    }
}

impl Docker {
    /// Loads an image of an OCI layout under a name.
    pub(crate) fn load(&self, layout: &str, name: &str) {
        let _ = fs::remove_file(&self.archive);
        let archive = self.archive.to_str().unwrap();
        let to = format!("docker-archive:{archive}:{name}");
        tool(
            "skopeo",
            &["copy", "-q", &format!("oci:{layout}:latest"), &to],
        );
        tool("docker", &["-H", &self.host, "load", "-q", "-i", archive]);
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Not killed: it has a containerd to end.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.child.wait();
    }
}
