//! Debian's docker-registry on loopback.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Space, tool};

/// A running registry; it ends with the test.
pub(crate) struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`
    pub(crate) host: String,
}

impl Space {
    /// Starts a registry with storage in this space.
    pub(crate) fn registry(&self) -> Registry {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let storage = self.path("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{host}\"}}\n",
            storage.display()
        );
        let config = self.write("registry.yml", &config);
        let child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("docker-registry: {error}; install docker-registry (tests/run does)")
            });
        let registry = Registry { child, host };
        let began = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "docker-registry does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Registry {
    /// Copies this machine's image of an OCI layout there; returns the reference.
    pub(crate) fn push(&self, layout: &str, name: &str) -> String {
        self.copy(layout, name, &[])
    }

    /// Copies an index of an OCI layout there, with all it lists; returns the reference.
    pub(crate) fn push_all(&self, layout: &str, name: &str) -> String {
        self.copy(layout, name, &["--all"])
    }

    fn copy(&self, layout: &str, name: &str, flags: &[&str]) -> String {
        let reference = format!("{}/{name}", self.host);
        let (from, to) = (
            format!("oci:{layout}:latest"),
            format!("docker://{reference}"),
        );
        tool(
            "skopeo",
            &[
                &["copy", "-q", "--dest-tls-verify=false"],
                flags,
                &[&from, &to],
            ]
            .concat(),
        );
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
