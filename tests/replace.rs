//! Services of a running machine are replaced, and whoever uses them does not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::support::Space;
use super::vm::{Machine, PATIENCE, free_port, service};

/// A web server, one that nobody can wait for, and what is sent with each.
fn system(packages: &str, web: &str, plain: &str) -> String {
    let start = "kernel:\n  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}\n  \
                 modules: [overlay, virtio_pci, virtio_net, virtio_console]\n  \
                 cmdline: console=ttyS0 quiet kiln.net=wait ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off\n\
                 init: [kiln]\nservices:\n";
    let service = |name: &str, packages: &str, annotations: &str, script: &str| {
        format!(
            "  - name: {name}\n    debian: {{suite: bookworm, packages: [{packages}]}}\n    \
             annotations: {{{annotations}}}\n    env: [PATH=/bin]\n    pid: host\n    \
             capabilities: [all]\n    \
             command: [/bin/busybox, sh, -c, {script:?}]\n"
        )
    };
    let ready = "kiln.ready: \"tcp:80\", kiln.restart: always, kiln.stop-timeout: \"60\"";
    [
        start.to_owned(),
        service("web", packages, ready, web),
        service("plain", "busybox-static", "kiln.restart: always", plain),
    ]
    .concat()
}

/// Serves a word, and a file that takes a while to read.
fn serves(word: &str) -> String {
    format!(
        "b=/bin/busybox; $b mkdir /www; echo {word} > /www/index.html; \
         $b dd if=/dev/zero of=/www/large bs=1M count={LARGE_MB} 2>/dev/null; \
         echo serving; exec $b httpd -f -p 80 -h /www"
    )
}

const LARGE_MB: usize = 24;

/// Gets a page; what is wrong with it otherwise.
fn get(port: u16, path: &str, pause: Duration) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).map_err(failed)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").map_err(failed)?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match stream.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
        std::thread::sleep(pause);
    }
    match answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(answer),
        false => Err(format!("answer: {:?}", String::from_utf8_lossy(&answer))),
    }
}

fn word(port: u16) -> Result<String, String> {
    let answer = get(port, "/", Duration::ZERO)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let word = answer.lines().last().unwrap_or_default().to_owned();
    Ok(word)
}

/// Replaces `plain` by what does not run.
fn fails_and_comes_back(machine: &Machine) {
    let said = machine.vm(&["replace", "--wait", "5", "plain"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("the old one is started again"),
        "{}",
        said.stderr
    );
    machine.until("back", |all| service(all, "plain")["state"] == "running");
}

/// Clients that ask all the time, and what went wrong for them.
struct Clients {
    ends: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(port: u16) -> Self {
        let (ends, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let threads = (0..3).map(|_| {
            let (ends, count) = (ends.clone(), count.clone());
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                while !ends.load(Ordering::Relaxed) {
                    wrong.extend(word(port).err());
                    count.fetch_add(1, Ordering::Relaxed);
                }
                wrong
            })
        });
        Self {
            threads: threads.collect(),
            ends,
            count,
        }
    }

    /// Ends them; returns how often they asked.
    fn end(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let wrong = thread.join().unwrap();
            assert!(wrong.is_empty(), "failed requests: {wrong:?}");
        }
        self.count.load(Ordering::Relaxed)
    }
}

#[test]
fn a_service_is_replaced_and_no_client_notices() {
    let port = free_port();
    let sleeps = |text: &str| format!("echo {text}; exec /bin/busybox sleep 10000");
    let first = system("busybox-static", &serves("one"), &sleeps("one"));
    let publish = format!("{port}:80");
    let machine = Machine::boot(&first, &["-p", &publish, "--mem", "512", "--cpus", "2"]);
    machine.until("ready", |all| service(all, "web")["ready"] == true);
    assert_eq!(word(port).unwrap(), "one");
    let pid_of = |name: &str| {
        let all = machine.ask(&["ps", "--json"]);
        let all: serde_json::Value = serde_json::from_str(&all).unwrap();
        service(&all, name)["pid"].as_i64().unwrap()
    };
    let old = pid_of("web");

    // Somebody is in the middle of a long answer, and others come and go.
    let clients = Clients::start(port);
    let slow = std::thread::spawn(move || get(port, "/large", Duration::from_millis(100)));
    std::thread::sleep(Duration::from_millis(300));
    let edited = system(
        "busybox-static, media-types",
        &serves("two"),
        &sleeps("two"),
    );
    machine.space.write("box.yml", &edited);
    let said = machine.vm(&["replace", "web"]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, machine.console());
    // Not the megabytes of busybox.
    assert!(said.stderr.contains("kB, what is new)"), "{}", said.stderr);
    let slow = slow.join().unwrap().expect("the long answer");
    assert!(slow.len() > LARGE_MB << 20, "{} bytes", slow.len());
    assert_eq!(word(port).unwrap(), "two");
    assert_ne!(pid_of("web"), old);
    let types = machine.ask(&["exec", "web", "/bin/busybox", "wc", "-c", "/etc/mime.types"]);
    assert!(types.contains("/etc/mime.types"), "{types}");

    // One that fails changes nothing.
    let current = pid_of("web");
    let broken = "echo cannot; echo because >&2; exit 3";
    machine
        .space
        .write("box.yml", &system("busybox-static", broken, &sleeps("two")));
    let said = machine.vm(&["replace", "web"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for text in [
        "web: the new one exited with status 3 before it was ready",
        "because",
    ] {
        assert!(said.stderr.contains(text), "{}", said.stderr);
    }
    // Nor does one that is never ready.
    machine.space.write(
        "box.yml",
        &system("busybox-static", &sleeps("no"), &sleeps("two")),
    );
    let said = machine.vm(&["replace", "--wait", "2", "web"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("was not ready after 2 s"),
        "{}",
        said.stderr
    );
    assert_eq!(
        (pid_of("web"), word(port).unwrap().as_str()),
        (current, "two")
    );

    // Again and again: what is not used any more is gone.
    for round in ["three", "four", "five"] {
        machine.space.write(
            "box.yml",
            &system("busybox-static", &serves(round), &sleeps("two")),
        );
        machine.ask(&["replace", "web"]);
        assert_eq!(word(port).unwrap(), round);
    }
    let look =
        "/bin/busybox ls -d /proc/1/root/run/kiln/services/*/web /proc/1/root/sys/fs/cgroup/web*";
    let left = machine.ask(&["exec", "web", "/bin/busybox", "sh", "-c", look]);
    assert_eq!(left.lines().count(), 2, "{left}");
    let asked = clients.end();
    assert!(asked > 20, "only {asked} requests were made");

    // One that ends while the old one has clients was too early: the old one goes on. (Requests that
    // it had taken are lost.)
    let current = pid_of("web");
    let slow = std::thread::spawn(move || get(port, "/large", Duration::from_millis(200)));
    std::thread::sleep(Duration::from_millis(500));
    let brief = serves("brief").replace("exec $b httpd -f", "$b httpd") + "; $b sleep 1; exit 5";
    machine
        .space
        .write("box.yml", &system("busybox-static", &brief, &sleeps("two")));
    let said = machine.vm(&["replace", "web"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let why = "exited with status 5 while the old one had clients";
    assert!(said.stderr.contains(why), "{}", said.stderr);
    slow.join().unwrap().expect("the long answer");
    assert_eq!(pid_of("web"), current);

    // Who cannot be waited for is stopped first, and comes back when the new one fails.
    machine.space.write("box.yml", &edited);
    machine.ask(&["replace", "plain"]);
    machine.until("replaced", |all| {
        service(all, "plain")["state"] == "running"
    });
    assert!(machine.ask(&["logs", "plain"]).ends_with("one\ntwo\n"));
    machine.space.write(
        "box.yml",
        &system("busybox-static", &serves("five"), "echo three; exit 1")
            .replace("sh, -c", "sh, -q"),
    );
    fails_and_comes_back(&machine);

    // Nor is one taken that cannot even be started.
    let broken = system("busybox-static", &serves("five"), &sleeps("four")).replace(
        "name: plain\n",
        "name: plain\n    runtime: {mounts: [{type: nothing, source: x, destination: mnt}]}\n",
    );
    machine.space.write("box.yml", &broken);
    fails_and_comes_back(&machine);

    let missing = machine.vm(&["replace", "nothing"]);
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.stderr.contains("there is no service nothing"),
        "{}",
        missing.stderr
    );
}

#[test]
fn what_is_saved_runs_a_moment_later() {
    let port = free_port();
    let space = Space::new();
    let save = |packages: &str, word: &str| {
        space.write(
            "box.yml",
            &system(packages, &serves(word), "exec /bin/busybox sleep 10000"),
        );
    };
    save("busybox-static", "one");
    std::fs::create_dir(space.path("run")).unwrap();
    let said = std::fs::File::create(space.path("said")).unwrap();
    let mut child = space
        .command()
        .args(["run", "--watch", "--accel", "tcg", "--mem", "512", "-p"])
        .args([&format!("{port}:80"), "box.yml"])
        .stdin(Stdio::piped())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(space.path("said")).unwrap();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "not {what}:\n{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let says = |wanted: &str| word(port).is_ok_and(|word| word == wanted);
    until("one", &|| says("one"));
    save("busybox-static, media-types", "two");
    until("two", &|| says("two"));
    until("told", &|| said().contains("Replaced web in"));
    // A mistake is told once, and the machine goes on.
    space.write("box.yml", "services: 7\n");
    until("wrong", &|| said().contains("box.yml:1:11"));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(said().matches("box.yml:1:11").count(), 1, "{}", said());
    assert!(says("two"));
    save("busybox-static", "three");
    until("three", &|| says("three"));
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{}", said());

    let refused = space.kiln(&["run", "--watch", "oci:./image"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}
