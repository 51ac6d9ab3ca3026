//! Machines that run: their services from outside, with `kiln vm`.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::support::{Said, Space};

/// Emulated machines are slow, and CI's are shared.
const PATIENCE: Duration = Duration::from_secs(180);

/// A machine in the background; it ends with the test.
struct Machine {
    space: Space,
    name: String,
}

impl Machine {
    fn boot(yaml: &str, args: &[&str]) -> Self {
        let space = Space::new();
        space.write("box.yml", yaml);
        fs::create_dir(space.path("run")).unwrap();
        let mut all = vec!["run", "--detach", "--accel", "tcg"];
        all.extend(args);
        all.push("box.yml");
        let said = space.kiln(&all);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let name = String::from_utf8(said.stdout).unwrap().trim().to_owned();
        Self { space, name }
    }

    fn vm(&self, args: &[&str]) -> Said {
        let mut all = vec!["vm"];
        all.extend(args);
        self.space.kiln(&all)
    }

    /// Runs a command that succeeds; returns its output.
    fn ask(&self, args: &[&str]) -> String {
        let said = self.vm(args);
        assert_eq!(
            said.code,
            Some(0),
            "{args:?}: {}\n{}",
            said.stderr,
            self.console()
        );
        String::from_utf8(said.stdout).unwrap()
    }

    fn console(&self) -> String {
        let log = self
            .space
            .path("run/kiln")
            .join(&self.name)
            .join("console.log");
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    fn expect(&self, text: &str) {
        let began = Instant::now();
        while !self.console().contains(text) {
            assert!(
                began.elapsed() < PATIENCE,
                "no \"{text}\" on the console:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the services are as wanted.
    fn until(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
        let began = Instant::now();
        loop {
            let all: serde_json::Value =
                serde_json::from_str(&self.ask(&["ps", "--json"])).unwrap();
            if is_so(&all) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {all}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vm(&["rm"]);
    }
}

fn service<'a>(all: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let services = all["services"].as_array().unwrap();
    services.iter().find(|s| s["name"] == name).unwrap()
}

/// A kernel, kiln-init, and services of a shell.
fn system(services: &[(&str, &str, &str)]) -> String {
    let mut yaml = "kernel:\n  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}\n  \
                    modules: [overlay, virtio_pci, virtio_console]\n  cmdline: console=ttyS0 quiet kiln.net=off\n\
                    init: [kiln]\nservices:\n"
        .to_owned();
    for (name, annotations, script) in services {
        yaml.push_str(&format!(
            "  - name: {name}\n    debian: {{suite: bookworm, packages: [busybox-static]}}\n    \
             annotations: {{{annotations}}}\n    env: [PATH=/bin]\n    \
             command: [/bin/busybox, sh, -c, {script:?}]\n"
        ));
    }
    yaml
}

#[test]
fn services_are_started_in_order_watched_and_spoken_to() {
    let busybox = "/bin/busybox";
    let web = format!(
        "{busybox} sleep 1; {busybox} mkdir -p /www; echo hello > /www/index.html; echo serving; exec {busybox} httpd -f -p 8080 -h /www"
    );
    let machine = Machine::boot(
        &system(&[
            (
                "web",
                "kiln.ready: \"tcp:8080\", kiln.restart: always",
                &web,
            ),
            (
                "after",
                "kiln.depends-on: web",
                &format!(
                    "{busybox} wget -q -O - http://127.0.0.1:8080/; echo complaint >&2; exec {busybox} sleep 10000"
                ),
            ),
            (
                "flaky",
                "kiln.restart: \"on-failure:2\"",
                "echo trying; exit 3",
            ),
            ("lost", "kiln.depends-on: flaky2", "echo never"),
            (
                "stubborn",
                "kiln.stop-timeout: \"1\"",
                &format!("trap 'echo no' TERM; while :; do {busybox} sleep 1; done"),
            ),
            (
                "speaks",
                "kiln.ready: notify",
                &format!("echo $NOTIFY_SOCKET; exec {busybox} sleep 10000"),
            ),
        ]),
        &[],
    );
    machine.until("after and flaky have begun", |all| {
        service(all, "after")["state"] == "running"
            && service(all, "flaky")["state"] == "exited with status 3"
    });
    machine.expect("after | complaint");
    let console = machine.console();
    assert!(console.contains("after | hello"), "{console}");
    assert!(
        console.contains("lost: not started: there is no service flaky2 to depend on"),
        "{console}"
    );
    assert_eq!(console.matches("flaky | trying").count(), 3, "{console}");
    machine.until("flaky was tried thrice", |all| {
        service(all, "flaky")["restarts"] == 2 && service(all, "speaks")["ready"] == false
    });

    let ps = machine.ask(&["ps"]);
    let web = ps.lines().find(|line| line.starts_with("web ")).unwrap();
    assert!(web.contains("running") && web.contains("yes"), "{ps}");
    assert!(machine.ask(&["stats"]).contains("web"));

    let logs = machine.vm(&["logs", "after"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "hello\n");
    assert_eq!(logs.stderr, "complaint\n");
    let dated = machine.ask(&["logs", "-t", "-n", "1", "web"]);
    assert!(
        dated.starts_with("20") && dated.ends_with("Z serving\n"),
        "{dated}"
    );

    // A program inside: its streams and its status.
    let script = "read line; echo got $line; echo bad >&2; exit 7";
    let mut child = machine
        .space
        .command()
        .args(["vm", "exec", "web", "/bin/busybox", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a line\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got a line\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "bad\n");
    let missing = machine.vm(&["exec", "web", "/nothing"]);
    assert_eq!(missing.code, Some(127));
    assert!(missing.stderr.contains("/nothing"), "{}", missing.stderr);
    // Much output, more than any buffer on the way.
    let many = machine.ask(&["exec", "web", "/bin/busybox", "seq", "1", "200000"]);
    assert_eq!(many.lines().count(), 200_000);
    assert!(many.ends_with("200000\n"));

    // Killed, it comes back.
    machine.ask(&["kill", "web"]);
    machine.until("web is back", |all| {
        let web = service(all, "web");
        web["restarts"] == 1 && web["ready"] == true
    });
    machine.expect("web: killed by signal SIGKILL, starting again in 0.1 s");
    machine.ask(&["stop", "web"]);
    machine.until("web is stopped", |all| {
        service(all, "web")["state"] == "stopped"
    });
    machine.ask(&["start", "web"]);
    machine.ask(&["restart", "web"]);
    machine.until("web is up", |all| service(all, "web")["ready"] == true);
    let began = Instant::now();
    machine.ask(&["stop", "stubborn"]);
    assert!(began.elapsed() > Duration::from_millis(900));
    machine.expect("stubborn: does not end, killed");

    let wrong = machine.vm(&["logs", "nobody"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("nobody"), "{}", wrong.stderr);
    assert_eq!(machine.vm(&["exec"]).code, Some(1));

    let console = machine.console();
    assert_eq!(machine.vm(&["stop"]).code, Some(0), "{console}");
    let gone = machine.vm(&["ps"]);
    assert!(
        gone.stderr.contains("no machine is running"),
        "{}",
        gone.stderr
    );
}
