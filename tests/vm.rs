//! Machines that run: their services from outside, with `kiln vm`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::chaos::rounds;
use super::support::layout::Layout;
use super::support::registry::Registry;
use super::support::{Said, Space};

/// Emulated machines are slow, and CI's are shared.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// A machine in the background; it ends with the test.
pub(super) struct Machine {
    pub(super) space: Space,
    name: String,
}

impl Machine {
    pub(super) fn boot(yaml: &str, args: &[&str]) -> Self {
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

    /// One that somebody else has started.
    pub(super) fn of(space: Space, name: &str) -> Self {
        let name = name.to_owned();
        Self { space, name }
    }

    pub(super) fn vm(&self, args: &[&str]) -> Said {
        let mut all = vec!["vm"];
        all.extend(args);
        self.space.kiln(&all)
    }

    /// Runs a command that succeeds; returns its output.
    pub(super) fn ask(&self, args: &[&str]) -> String {
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

    pub(super) fn console(&self) -> String {
        let log = self
            .space
            .path("run/kiln")
            .join(&self.name)
            .join("console.log");
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    pub(super) fn expect(&self, text: &str) {
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
    pub(super) fn until(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
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

pub(super) fn service<'a>(all: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
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

    // More goes in than out, and more out than in.
    let mut child = machine
        .space
        .command()
        .args([
            "vm",
            "exec",
            "web",
            "/bin/busybox",
            "sh",
            "-c",
            "/bin/busybox sed p | /bin/busybox wc -l",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&b"0123456789\n".repeat(200_000)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "400000");

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

/// What PID 1 and the kernel keep: open files, mounts, control groups, zombies, processes. Those of
/// the kernel's own are left out: it has more workers while groups go, and keeps them for minutes.
const LOOK: &str = "b=/bin/busybox; echo $($b ls /proc/1/fd | $b wc -l) $($b wc -l < /proc/1/mounts) \
                    $($b find /sys/fs/cgroup -type d | $b wc -l) $($b ps -o stat | $b grep -c Z) \
                    $(for p in /proc/[0-9]*; do $b readlink $p/exe; done | $b wc -l)";

/// A service that sees the whole machine.
const LOOKS: &str = "  - name: look\n    debian: {suite: bookworm, packages: [busybox-static]}\n    \
                     pid: host\n    capabilities: [all]\n    command: [/bin/busybox, sleep, \"100000\"]\n";

#[test]
fn services_that_come_and_go_leave_nothing() {
    let busybox = "/bin/busybox";
    let web = format!("trap 'exit 0' TERM; echo up; {busybox} httpd -f -p 8080 & wait");
    let mut yaml = system(&[
        (
            "web",
            "kiln.ready: \"tcp:8080\", kiln.restart: always",
            &web,
        ),
        ("crash", "kiln.console: \"off\"", "exit 1"),
    ]);
    // Its mount in the host's namespace is there for others, once.
    yaml.push_str(
        "  - name: shares\n    debian: {suite: bookworm, packages: [busybox-static]}\n    \
         runtime: {mounts: [{type: tmpfs, source: t, destination: /run/shared}]}\n    \
         command: [/bin/busybox, sleep, \"100000\"]\n",
    );
    yaml.push_str(LOOKS);
    let machine = Machine::boot(&yaml, &[]);
    let ready = |all: &serde_json::Value| service(all, "web")["ready"] == true;
    machine.until("web is up", ready);
    let look = || {
        let text = machine.ask(&["exec", "look", "/bin/busybox", "sh", "-c", LOOK]);
        let numbers = text.split_whitespace().map(|n| n.parse::<i32>().unwrap());
        numbers.collect::<Vec<_>>()
    };
    let before = look();
    for _ in 0..rounds(20, 334) {
        machine.ask(&["restart", "web"]);
        machine.ask(&["kill", "web"]);
        // It rests before it is started again; nobody wants to wait for that.
        machine.ask(&["start", "web"]);
        machine.ask(&["restart", "shares"]);
        // Ends at once, now before somebody has looked and now after.
        machine.vm(&["start", "crash"]);
    }
    // Clients that leave in the middle of what nobody reads: the next one is heard at once.
    for round in 0..rounds(10, 200) {
        let mut client = machine
            .space
            .command()
            .args(["vm", "exec", "look", "/bin/busybox", "sleep"])
            .arg(if round % 2 == 0 { "0.1" } else { "1000" })
            .stdin(fs::File::open("/dev/zero").unwrap())
            .spawn()
            .unwrap();
        if round % 2 == 1 {
            std::thread::sleep(Duration::from_millis(100));
            client.kill().unwrap();
        }
        client.wait().unwrap();
        let began = Instant::now();
        machine.ask(&["ps"]);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "heard after {took:?}");
    }
    machine.until("web is up", ready);
    assert_eq!(look(), before, "{}", machine.console());
}

#[test]
fn a_greedy_service_leaves_the_others_running() {
    let mut yaml = system(&[(
        "web",
        "kiln.ready: \"tcp:8080\"",
        "/bin/busybox mkdir /www; echo hello > /www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www",
    )]);
    for (name, limit, script) in [
        (
            "bomb",
            "pids: {limit: 40}",
            "f() { f | f & }; f; while :; do f; /bin/busybox sleep 0.1; done",
        ),
        (
            "hog",
            "memory: {limit: 30000000}",
            "exec /bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=1",
        ),
        // Nobody has limited these: 2^n processes, and more memory than there is.
        (
            "wild-bomb",
            "",
            "f() { f & f & exec /bin/busybox sleep 100000; }; f",
        ),
        (
            "wild-hog",
            "",
            "for i in 1 2 3 4 5 6 7 8; do /bin/busybox dd if=/dev/zero of=/dev/null bs=40M count=1000000 & done; wait",
        ),
    ] {
        yaml.push_str(&format!(
            "  - name: {name}\n    debian: {{suite: bookworm, packages: [busybox-static]}}\n    \
             annotations: {{kiln.restart: always, kiln.console: \"off\"}}\n    resources: {{{limit}}}\n    \
             command: [/bin/busybox, sh, -c, {script:?}]\n"
        ));
    }
    yaml.push_str(LOOKS);
    let machine = Machine::boot(&yaml, &["--mem", "256"]);
    machine.expect("hog: killed by signal SIGKILL (out of memory)");
    for _ in 0..10 {
        let get = [
            "exec",
            "look",
            "/bin/busybox",
            "wget",
            "-q",
            "-O",
            "-",
            "http://127.0.0.1:8080/",
        ];
        assert_eq!(machine.ask(&get), "hello\n");
        std::thread::sleep(Duration::from_millis(200));
    }
    let stats: serde_json::Value =
        serde_json::from_str(&machine.ask(&["stats", "--json"])).unwrap();
    let containers = stats["containers"].as_array().unwrap();
    // It may rest just now.
    let mut bomb = containers.iter().filter(|c| c["name"] == "bomb");
    assert!(
        bomb.all(|c| c["processes"].as_u64().unwrap() <= 40),
        "{stats}"
    );
    let script = "cd /sys/fs/cgroup/wild-bomb; /bin/busybox cat /proc/sys/kernel/threads-max pids.max pids.events";
    let said = machine.ask(&["exec", "look", "/bin/busybox", "sh", "-c", script]);
    let numbers: Vec<u64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(numbers[1], numbers[0] * 15 / 100, "{said}");
    assert!(numbers[2] > 0, "{said}");
    machine.until("web was never restarted", |all| {
        let web = service(all, "web");
        web["restarts"] == 0 && web["ready"] == true
    });
}

/// Images of Debian packages, in a registry.
struct Images {
    space: Space,
    registry: Registry,
}

impl Images {
    fn new() -> Self {
        let space = Space::new();
        fs::create_dir(space.path("run")).unwrap();
        let registry = space.registry();
        Self { space, registry }
    }

    /// Makes an image of packages: kiln writes the layer, as the root file system of a system.
    fn make(&self, name: &str, packages: &str, config: &serde_json::Value) -> String {
        let yaml = format!("init:\n  - debian: {{suite: bookworm, packages: [{packages}]}}\n");
        self.space.write(&format!("{name}.yml"), &yaml);
        let tar = format!("{name}.tar");
        self.space
            .build(&["--no-sbom", "-o", &tar, &format!("{name}.yml")]);
        let layer = fs::read(self.space.path(&tar)).unwrap();
        let directory = self.space.path(&format!("{name}-layout"));
        let layout = Layout::new(&directory);
        let image = layout.image("linux/amd64", &layer, config);
        layout.finish(&[("latest", image)]);
        self.registry.push(directory.to_str().unwrap(), name)
    }

    fn run(&self, args: &[&str]) -> Said {
        let mut all = vec!["run", "--quiet", "--accel", "tcg", "--insecure-registry"];
        all.push(&self.registry.host);
        all.extend(args);
        self.space.kiln(&all)
    }

    /// Runs an image in the background, and asks until the answer is right.
    fn serves(&self, args: &[&str], port: u16, question: &[u8], answer: &str) {
        let mut all = vec!["--detach"];
        all.extend(args);
        let said = self.run(&all);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let name = String::from_utf8(said.stdout).unwrap().trim().to_owned();
        let began = Instant::now();
        loop {
            let got = ask(port, question).unwrap_or_default();
            if got.contains(answer) {
                break;
            }
            let console = self.space.path("run/kiln").join(&name).join("console.log");
            let runs = self.space.kiln(&["vm", "ls"]).stdout;
            assert!(
                began.elapsed() < PATIENCE && !runs.is_empty(),
                "not {answer:?} but {got:?}:\n{}",
                fs::read_to_string(console).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let stopped = self.space.kiln(&["vm", "stop", &name]);
        assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    }
}

fn ask(port: u16, question: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..count]).into_owned())
}

pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn images_of_real_servers_answer_on_published_ports() {
    let images = Images::new();
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

    let nginx = images.make(
        "nginx",
        "base-files, base-passwd, nginx-light",
        &json!({"Entrypoint": ["nginx"], "Cmd": ["-g", "daemon off;"], "Env": [path], "StopSignal": "SIGQUIT"}),
    );
    let port = free_port();
    let publish = format!("{port}:80");
    let question = b"GET / HTTP/1.0\r\n\r\n";
    images.serves(
        &["-p", &publish, &nginx],
        port,
        question,
        "Welcome to nginx",
    );

    let redis = images.make(
        "redis",
        "base-files, base-passwd, redis-server",
        &json!({"Entrypoint": ["redis-server"], "Env": [path], "User": "www-data", "WorkingDir": "/tmp"}),
    );
    let port = free_port();
    let publish = format!("{port}:6379");
    let open = ["--", "--protected-mode", "no", "--save", ""];
    let args = [&["-p", &publish, &redis][..], &open].concat();
    images.serves(&args, port, b"PING\r\n", "+PONG");

    let postgres = images.make(
        "postgres",
        "base-files, base-passwd, dash, coreutils, postgresql-15",
        &json!({"Cmd": ["sh", "-c", "umask 077; mkdir /tmp/data; initdb -A trust -D /tmp/data >/dev/null && \
            echo 'host all all all trust' >> /tmp/data/pg_hba.conf && \
            exec postgres -D /tmp/data -k /tmp -c listen_addresses='*'"],
            "Env": [format!("{path}:/usr/lib/postgresql/15/bin")], "User": "www-data"}),
    );
    let port = free_port();
    let publish = format!("{port}:5432");
    // A client that asks for TLS is told N or S: SSLRequest of the protocol, version 3.
    let request = [0, 0, 0, 8, 4, 210, 22, 47];
    images.serves(&["-p", &publish, &postgres], port, &request, "N");
}

#[test]
fn an_image_is_run_like_a_program() {
    let images = Images::new();
    let box_ = images.make(
        "box",
        "busybox-static",
        &json!({"Entrypoint": ["/bin/busybox"], "Cmd": ["echo", "its own arguments"], "Env": ["A=1", "B=2"],
            "WorkingDir": "/tmp"}),
    );
    let said = images.run(&[&box_]);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "its own arguments\n");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));

    let variables = "# no variable\n\nB=5\nD=a \"b\" # c\nC\n";
    let variables = images.space.write("variables", variables);
    let script = "pwd; echo $A$B$C; echo $D; /bin/busybox id -u; /bin/busybox hostname; \
                  /bin/busybox grep -c 10.0.2.3 /etc/resolv.conf; /bin/busybox cat; echo bad >&2; exit 3";
    let mut child = images
        .space
        .command()
        .args(["run", "-q", "--accel", "tcg", "--insecure-registry"])
        .args([
            &images.registry.host,
            "-e",
            "B=3",
            "--env-file",
            variables.to_str().unwrap(),
            "--hostname",
            "named",
            "-m",
            "256m",
            "--rm",
            "-u",
            "1000",
            &box_,
        ])
        .args(["--", "sh", "-c", script])
        .env("C", "4")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"from here\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "/tmp\n134\na \"b\" # c\n1000\nnamed\n1\nfrom here\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "bad\n");
    assert_eq!(output.status.code(), Some(3));

    // A terminal: what is typed is echoed, and Ctrl-D is the end.
    let look =
        "/bin/busybox tty; /bin/busybox stty size; read line; echo got $line; /bin/busybox cat";
    let typescript = "export KILN=$0; exec script -qec 'stty rows 33 cols 99; $KILN run -q -it --accel tcg \
                      --insecure-registry $HOST $IMAGE -- sh -c \"$LOOK\"' /dev/null";
    let mut child = images
        .space
        .command_in(&["sh", "-c", typescript])
        .env("HOST", &images.registry.host)
        .env("IMAGE", &box_)
        .env("LOOK", look)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (Debian's package bsdutils)");
    let mut typed = child.stdin.take().unwrap();
    let mut shown = child.stdout.take().unwrap();
    let mut screen = String::new();
    let mut until = |text: &str| {
        let mut buffer = [0; 1024];
        while !screen.contains(text) {
            let count = shown.read(&mut buffer).unwrap();
            assert!(count > 0, "no {text:?} in {screen:?}");
            screen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    until("33 99");
    typed.write_all(b"words\n").unwrap();
    until("got words");
    typed.write_all(b"\x04").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(screen.starts_with("/dev/pts/0"), "{screen:?}");

    // A directory of ours, to be read and written, or only read.
    images.space.write("shared/word", "from outside\n");
    let script = "/bin/busybox cat /data/word; echo inside > /data/new; echo no > /kept/new";
    let shared = ["-v", "./shared:/data", "-v", "shared:/kept:ro"];
    let said = images.run(&[&shared[..], &[&box_, "--", "sh", "-c", script]].concat());
    assert_eq!(String::from_utf8_lossy(&said.stdout), "from outside\n");
    assert!(
        said.stderr.contains("Read-only file system"),
        "{}",
        said.stderr
    );
    let new = images.space.path("shared/new");
    assert_eq!(fs::read_to_string(new).unwrap(), "inside\n");

    let absent = images.run(&["-v", "data:/data", &box_]);
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.contains("make it first"), "{}", absent.stderr);
    let missing = images.run(&["--entrypoint", "/nothing", &box_]);
    assert_eq!(missing.code, Some(127));
    assert!(missing.stderr.contains("/nothing"), "{}", missing.stderr);
    let nobody = images.run(&["-u", "nobody-here", &box_]);
    assert_eq!(nobody.code, Some(127));
    assert!(
        nobody.stderr.contains("no user nobody-here"),
        "{}",
        nobody.stderr
    );
    let unknown = images.run(&[&format!("{}/none", images.registry.host)]);
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
    let of_images = images.run(&["-e", "A=1", "box.yml"]);
    assert_eq!(of_images.code, Some(2), "{}", of_images.stderr);
}
