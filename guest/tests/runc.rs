//! The same bundles under runc and under `kiln-init run`: a program inside must see the same
//! mounts, identity, capabilities, limits, nodes and namespaces.
//!
//! Needs root with CAP_SYS_ADMIN, and `runc`, `unshare` and a static `busybox` in PATH. Touches
//! nothing outside a temporary directory and its own mount namespace:
//! `cargo test -p kiln-init --test runc`.

#![allow(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// What a program inside looks at. Left out are numbers that differ from run to run, and what runc
/// itself changed between 1.1 (Debian) and 1.3 (LinuxKit), which we follow: the root is private
/// instead of a slave, and a tmpfs gets its mode as an option instead of by chmod.
const LOOK: &str = r"
set -- /proc/[0-9]*; echo '== processes' $# # before anything is forked
echo '== id'; id; umask; pwd; echo HOME=$HOME
echo '== status'; grep -E '^(Cap|NoNewPrivs|Groups|Seccomp:)' /proc/self/status
echo '== limits'; cat /proc/self/limits; cat /proc/self/oom_score_adj
echo '== mounts'; cut -d' ' -f4- /proc/self/mountinfo | sed -E 's/(shared|master|propagate_from):[0-9]+/\1/g; s/(rootfs \/ .*) master/\1/; s/,mode=755$//'
echo '== dev'; ls -la /dev | tail -n +2 | sed -E 's/[A-Z][a-z]{2} +[0-9]+ [0-9:]+//'
echo '== namespaces'; hostname; cat /proc/sys/net/ipv4/ip_forward; ip link | grep -o 'lo:.*UP' 
echo '== fds'; ls /proc/self/fd
echo '== writes'; for d in / /dev /sys /bound /tmp; do touch $d/x 2>&1 && echo wrote $d; done; rm -f /x /bound/x
echo '== hidden'; cat /proc/timer_list 2>&1 | head -1; ls /proc/scsi 2>&1; test -w /proc/sysrq-trigger && echo writable
echo '== end'
";

const APPLETS: &str = "cat chmod cut echo grep head hostname id ip ionice ls mkdir mknod readlink rm sed sh sync tail test touch uname";

struct Bundle {
    directory: tempfile::TempDir,
    config: Value,
    cgroup2: bool,
}

impl Bundle {
    fn new(change: impl FnOnce(&mut Value)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Readable by the containers' users.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open).unwrap();
        let root = directory.path().join("rootfs");
        for name in ["bin", "dev", "proc", "sys", "etc", "tmp", "bound"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::create_dir(directory.path().join("source")).unwrap();
        fs::copy(which("busybox"), root.join("bin/busybox")).unwrap();
        for applet in APPLETS.split(' ') {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:100:101::/srv/web:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        let mut bundle = Self {
            directory,
            cgroup2: false,
            config: base(),
        };
        bundle.change(change);
        bundle
    }

    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.config);
        let path = self.directory.path().join("config.json");
        fs::write(path, serde_json::to_vec_pretty(&self.config).unwrap()).unwrap();
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn name(&self) -> &str {
        self.directory.path().file_name().unwrap().to_str().unwrap()
    }

    /// Runs a command in a mount namespace of its own, where the bundle's root is bound to itself
    /// below a shared `/`, as in a guest; with cgroup v2 where the host may have version 1.
    fn run(&self, command: &str) -> String {
        let root = format!("{}/rootfs", self.path());
        let cgroup = match self.cgroup2 {
            true => "mount -t cgroup2 none /sys/fs/cgroup &&",
            false => "",
        };
        let script = format!(
            "{cgroup} mount --make-rshared / && mount --bind {root} {root} && {command} 2>&1"
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn under_runc(&self) -> String {
        let path = self.path();
        let id = format!("kiln-test-{}", self.name().trim_start_matches('.'));
        self.run(&format!("runc --root {path}/state run -b {path} {id}"))
    }

    fn under_kiln(&self) -> String {
        let prefix = format!("{} | ", self.name());
        let program = env!("CARGO_BIN_EXE_kiln-init");
        self.run(&format!("{program} run {}", self.path()))
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix(&prefix).unwrap_or(line)))
            .collect()
    }
}

fn which(name: &str) -> String {
    let path = std::env::var("PATH").unwrap();
    path.split(':')
        .map(|directory| format!("{directory}/{name}"))
        .find(|candidate| Path::new(candidate).exists())
        .unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// LinuxKit's defaults, without the cgroup mount: the host's hierarchy may be version 1.
fn base() -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_KILL"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", LOOK],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities,
                "inheritable": capabilities, "permitted": capabilities
            }
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "nodev", "noexec", "relatime"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev"]}
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], "resources": {}}
    })
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

fn same(change: impl FnOnce(&mut Value)) -> String {
    same_of(&Bundle::new(change))
}

fn same_with_cgroup2(change: impl FnOnce(&mut Value)) -> String {
    let mut bundle = Bundle::new(change);
    bundle.cgroup2 = true;
    same_of(&bundle)
}

fn same_of(bundle: &Bundle) -> String {
    let (runc, kiln) = (bundle.under_runc(), bundle.under_kiln());
    assert!(runc.contains("== end"), "runc did not run it: {runc}");
    let differences = differences(&runc, &kiln).join("\n");
    assert!(
        differences.is_empty(),
        "runc -, kiln +:\n{differences}\n---\n{kiln}"
    );
    kiln
}

fn differences(runc: &str, kiln: &str) -> Vec<String> {
    let (mut a, mut b) = (runc.lines(), kiln.lines());
    let mut all = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => return all,
            (x, y) if x == y => {}
            (x, y) => {
                all.extend(x.map(|x| format!("-{x}")));
                all.extend(y.map(|y| format!("+{y}")));
            }
        }
    }
}

#[test]
fn defaults() {
    let seen = same(|_| {});
    assert!(seen.contains("wrote /\n"), "{seen}");
}

#[test]
fn read_only() {
    let seen = same(|config| {
        config["root"]["readonly"] = json!(true);
        push(&mut config["mounts"][0]["options"], json!("ro"));
        push(&mut config["mounts"][3]["options"], json!("ro"));
    });
    assert!(!seen.contains("wrote /\n"), "{seen}");
    assert!(!seen.contains("wrote /dev"), "{seen}");
}

#[test]
fn another_user() {
    same(|config| {
        let process = &mut config["process"];
        process["user"] = json!({"uid": 100, "gid": 101, "additionalGids": [5, 6], "umask": 0o27});
        process["cwd"] = json!("/srv/made/for/it");
        process["noNewPrivileges"] = json!(true);
        process["oomScoreAdj"] = json!(100);
        process["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}
        ]);
        process["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    });
}

#[test]
fn no_capabilities_at_all() {
    same(|config| config["process"]["capabilities"] = json!({}));
}

#[test]
fn namespaces() {
    same(|config| {
        config["hostname"] = json!("inside");
        for kind in ["network", "ipc", "uts"] {
            push(&mut config["linux"]["namespaces"], json!({"type": kind}));
        }
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let queue = json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"});
        push(&mut config["mounts"], queue);
    });
}

#[test]
fn binds_and_tmpfs() {
    same(|config| {
        let mut mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
            let mount = json!({"destination": destination, "type": kind, "source": source,
                "options": options});
            push(&mut config["mounts"], mount);
        };
        mount("/bound", "bind", "source", &["rbind", "rshared"]);
        mount(
            "/made/for/bind",
            "bind",
            "source",
            &["ro", "bind", "noexec"],
        );
        mount("/etc/made", "bind", "config.json", &["rbind", "ro"]);
        mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "size=1m", "ro"]);
    });
}

#[test]
fn devices_and_hidden_paths() {
    same(|config| {
        config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10,
            "minor": 229, "fileMode": 0o600, "uid": 5, "gid": 6}]);
        config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/proc/scsi", "/proc/absent"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sysrq-trigger", "/proc/absent"]);
    });
}

/// Opens devices for reading and for writing. Of those for local use (major numbers 60 and 61,
/// `Documentation/admin-guide/devices.txt`) the kernel has none: no such device if it is allowed.
const USE_DEVICES: &str = r"
exec 2>&1
for d in null full local block; do
  (: < /dev/$d) 2>&1 && echo $d read; (: > /dev/$d) 2>&1 && echo $d written
done
mknod /dev/made c 1 11 2>&1 && echo made; mknod /dev/made2 b 7 5 && echo made too
echo '== end'
";

fn device_rules(rules: Value) -> String {
    same_with_cgroup2(|config| {
        config["process"]["args"] = json!(["sh", "-c", USE_DEVICES]);
        for set in ["bounding", "permitted", "effective", "inheritable"] {
            push(
                &mut config["process"]["capabilities"][set],
                json!("CAP_MKNOD"),
            );
        }
        config["linux"]["devices"] = json!([
            {"path": "/dev/local", "type": "c", "major": 60, "minor": 1},
            {"path": "/dev/block", "type": "b", "major": 61, "minor": 1}
        ]);
        config["linux"]["resources"]["devices"] = rules;
    })
}

#[test]
fn devices_are_denied_unless_usual() {
    for rules in [json!([]), json!([{"allow": false, "access": "rwm"}])] {
        let seen = device_rules(rules);
        assert!(seen.contains("null read\nnull written\n"), "{seen}");
        assert!(!seen.contains("No such device"), "{seen}");
        assert!(seen.contains("made\nmade too\n"), "{seen}");
    }
}

#[test]
fn device_rules_in_order() {
    let local = |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 60, "minor": 1, "access": access});
    let denied = |seen: &str| -> String {
        let lines = seen.lines().filter(|l| l.contains("not permitted"));
        lines
            .map(|l| l.trim_start_matches("sh: can't ").to_owned() + ".")
            .collect()
    };
    let seen = device_rules(json!([
        local(true, "rwm"),
        {"allow": false, "access": "rwm"},
        local(true, "r")
    ]));
    assert_eq!(
        denied(&seen),
        "create /dev/local: Operation not permitted.\
         open /dev/block: Operation not permitted.create /dev/block: Operation not permitted."
    );
    let seen = device_rules(json!([{"allow": true, "access": "rwm"}, local(false, "w")]));
    assert_eq!(denied(&seen), "create /dev/local: Operation not permitted.");
}

/// Makes system calls that a filter may forbid.
const USE_CALLS: &str = r"
exec 2>&1
grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
mkdir /made 2>&1 && echo mkdir
chmod 755 /tmp 2>&1 && echo chmod 755; chmod 750 /tmp 2>&1 && echo chmod 750
sync; echo sync $?
echo '== end'
";

fn seccomp(no_new_privileges: bool, filter: Value) -> String {
    same(|config| {
        config["process"]["args"] = json!(["sh", "-c", USE_CALLS]);
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        config["linux"]["seccomp"] = filter;
    })
}

#[test]
fn system_calls_that_are_forbidden() {
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO",
         "errnoRet": 28},
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 1, "value": 0o755, "op": "SCMP_CMP_EQ"}]},
        {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 2, "value": 0o755, "op": "SCMP_CMP_EQ"}]},
        {"names": ["sync"], "action": "SCMP_ACT_KILL"}
    ]});
    for no_new_privileges in [false, true] {
        let seen = seccomp(no_new_privileges, filter.clone());
        assert!(seen.contains("Seccomp:\t2"), "{seen}");
        assert!(seen.contains("/made': No space left on device"), "{seen}");
        assert!(
            seen.contains("/tmp: Operation not permitted\nchmod 750\n"),
            "{seen}"
        );
        assert!(seen.contains("sync 159\n"), "{seen}");
    }
}

#[test]
fn system_calls_that_are_allowed() {
    let all = match cfg!(target_arch = "x86_64") {
        true => include_str!("../src/syscalls/x86_64"),
        false => include_str!("../src/syscalls/aarch64"),
    };
    // Without mkdir, and without everything newer than version 5.0 of the kernel.
    let old = all.split_once("pidfd_send_signal").unwrap().0;
    let names: Vec<&str> = old.split_ascii_whitespace().collect();
    let names: Vec<&str> = names
        .into_iter()
        .filter(|name| !name.starts_with("mkdir"))
        .collect();
    let seen = seccomp(
        true,
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}),
    );
    assert!(seen.contains("/made': Permission denied"), "{seen}");
    assert!(seen.contains("chmod 755\nchmod 750\nsync 0\n"), "{seen}");
}

/// Gives a bundle's root to the user that is root in the namespace of [`user_namespace`].
fn owned_by_mapped_root(bundle: &Bundle) {
    let root = format!("{}/rootfs", bundle.path());
    let owned = Command::new("chown")
        .args(["-R", "100000:100000", &root])
        .status();
    assert!(owned.unwrap().success());
}

fn user_namespace(config: &mut Value) {
    for kind in ["user", "network", "ipc", "uts"] {
        push(&mut config["linux"]["namespaces"], json!({"type": kind}));
    }
    let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["uidMappings"] = mappings.clone();
    config["linux"]["gidMappings"] = mappings;
}

#[test]
fn a_user_namespace() {
    for user in [json!({"uid": 0, "gid": 0}), json!({"uid": 100, "gid": 101})] {
        let bundle = Bundle::new(|config| {
            user_namespace(config);
            let process = &mut config["process"];
            let look = format!("cat /proc/self/uid_map /proc/self/gid_map\n{LOOK}");
            process["args"] = json!(["sh", "-c", look]);
            process["user"] = user;
            process["oomScoreAdj"] = json!(100);
            process["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}]);
            let source = json!({"destination": "/bound", "type": "bind", "source": "source",
                "options": ["bind", "ro"]});
            push(&mut config["mounts"], source);
            config["linux"]["readonlyPaths"] = json!(["/proc/sysrq-trigger"]);
            config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/proc/scsi"]);
        });
        owned_by_mapped_root(&bundle);
        let seen = same_of(&bundle);
        assert!(seen.contains(" 0     100000      65536\n"), "{seen}");
    }
}

#[test]
fn joined_namespaces() {
    let mut holder = Command::new("unshare")
        .args(["--user", "--uts", "--net", "--ipc", "--pid", "--kill-child"])
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    let of_holder = |file: &str| format!("/proc/{}/{file}", holder.id());
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    let is_ready = || {
        fs::read_link(of_holder("ns/user")).unwrap() != own
            && fs::read_link(of_holder("ns/pid_for_children")).is_ok()
    };
    while !is_ready() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(of_holder(map), "0 100000 65536").unwrap();
    }
    let bundle = Bundle::new(|config| {
        let path = |kind: &str| format!("/proc/{}/ns/{kind}", holder.id());
        config["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "user", "path": path("user")},
            {"type": "network", "path": path("net")}, {"type": "uts", "path": path("uts")},
            {"type": "ipc", "path": path("ipc")},
            {"type": "pid", "path": path("pid_for_children")}
        ]);
        let look = "for ns in user net uts ipc pid; do readlink /proc/self/ns/$ns; done; id -u
            cat /proc/self/uid_map; echo '== end'";
        config["process"]["args"] = json!(["sh", "-c", look]);
    });
    owned_by_mapped_root(&bundle);
    let seen = bundle.under_kiln();
    let joined = |kind: &str, file: &str| {
        let link = fs::read_link(format!("/proc/{}/ns/{file}", holder.id())).unwrap();
        assert!(seen.contains(link.to_str().unwrap()), "{kind}: {seen}");
    };
    for kind in ["user", "net", "uts", "ipc"] {
        joined(kind, kind);
    }
    joined("pid", "pid_for_children");
    assert!(seen.contains("\n0\n"), "{seen}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// A bundle that runs a script at each point; it appends to `hooks.log` in the root.
fn bundle_with_hooks() -> Bundle {
    let script = "#!/bin/sh\nstate=$(/bin/busybox cat)\nexec >> $LOG\necho $1 $0 $EMPTY
        echo $state | /bin/busybox grep -Eo '\"(status|note)\":\"[a-z]*\"' | /bin/busybox sort
        test -e /bound && echo in the container; :\n";
    let mut bundle = Bundle::new(|config| {
        config["annotations"] = json!({"note": "told"});
        config["process"]["args"] = json!(["sh", "-c", "echo program >> /hooks.log; echo == end"]);
    });
    let inside = format!("{}/rootfs/bin/hook", bundle.path());
    fs::write(&inside, script).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&inside, open).unwrap();
    let log = format!("LOG={}/rootfs/hooks.log", bundle.path());
    bundle.change(|config| {
        for point in [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ] {
            config["hooks"][point] = json!([
                {"path": "/bin/sh", "args": ["sh", &inside, point], "env": [log], "timeout": 5},
                {"path": &inside, "args": ["hook", "second"], "env": [log, "EMPTY="]}
            ]);
        }
        config["hooks"]["startContainer"] =
            json!([{"path": "/bin/hook", "args": ["hook", "in"], "env": ["LOG=/hooks.log"]}]);
    });
    bundle
}

#[test]
fn hooks() {
    let bundle = bundle_with_hooks();
    let path = format!("{}/rootfs/hooks.log", bundle.path());
    let seen = bundle.under_runc();
    let expected = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{seen}"));
    fs::remove_file(&path).unwrap();
    let seen = bundle.under_kiln();
    // The last ones are not waited for.
    let read = || fs::read_to_string(&path).unwrap_or_else(|_| panic!("{seen}"));
    for _ in 0..500 {
        if read().len() >= expected.len() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Each hook's lines together. runc runs poststart before the program, when the state still is
    // "created"; ours once it runs, beside it, as the specification has it.
    let blocks = |log: &str| -> Vec<String> {
        let log = log.replace("program\n", "");
        let starts = [
            "prestart",
            "second",
            "create",
            "in /",
            "poststart",
            "poststop",
        ];
        let mut blocks: Vec<String> = Vec::new();
        for line in log.lines() {
            match starts.iter().any(|start| line.starts_with(start)) {
                true => blocks.push(format!("{line} ")),
                false => blocks.last_mut().unwrap().push_str(line),
            }
        }
        let is_late = |block: &String| block.starts_with("poststart");
        let at = blocks.iter().position(is_late).unwrap();
        let late: Vec<String> = blocks.drain(at..at + 2).collect();
        blocks.extend(late.iter().map(|block| block.replace("created", "running")));
        blocks
    };
    assert_eq!(blocks(&read()), blocks(&expected), "{seen}");
    assert!(read().contains("program\n"), "{seen}");
    assert!(
        expected.contains("in /bin/hook\n\"note\":\"told\"\n"),
        "{expected}"
    );
    assert!(expected.contains("in the container\n"), "{expected}");
}

#[test]
fn hooks_that_fail() {
    let start = |point: &str, hook: Value| {
        let bundle = Bundle::new(|config| {
            config["hooks"][point] = json!([hook]);
            config["process"]["args"] = json!(["echo", "started"]);
        });
        bundle.under_kiln()
    };
    let shell =
        |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1});
    for point in ["prestart", "createRuntime", "createContainer"] {
        let seen = start(point, shell("echo no such luck; exit 3"));
        let expected =
            format!("not started: hooks.{point}[0]: /bin/sh: exited with status 3: no such luck");
        assert!(seen.contains(&expected), "{seen}");
        assert!(!seen.contains("started\n"), "{seen}");
    }
    let seen = start("createRuntime", shell("sleep 60"));
    assert!(seen.contains("/bin/sh: killed after 1 s"), "{seen}");
    let seen = start("startContainer", json!({"path": "/no/such"}));
    assert!(
        seen.contains(
            "hooks.startContainer[0]: /no/such: exited with status 127: exec: No such file"
        ),
        "{seen}"
    );
    // These come too late to stop anything.
    let seen = start("poststop", json!({"path": "/no/such"}));
    assert!(seen.contains("started\n"), "{seen}");
}

#[test]
fn attributes_of_everything_below() {
    let seen = same(|config| {
        // With other file systems in it on any machine.
        let mount = json!({"destination": "/bound", "type": "bind", "source": "/dev",
            "options": ["rbind", "rro", "rnosuid", "rnoexec", "rnoatime", "nosymfollow"]});
        push(&mut config["mounts"], mount);
    });
    let is_below =
        |line: &&str| line.contains(" /bound/") && line.contains("ro,nosuid,noexec,noatime");
    assert!(seen.lines().any(|line| is_below(&line)), "{seen}");
}

#[test]
fn huge_pages_are_limited() {
    let seen = same_with_cgroup2(|config| {
        let group = "kiln-test-huge-pages";
        let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
        push(&mut config["mounts"], mount);
        config["linux"]["cgroupsPath"] = json!(format!("/{group}"));
        config["linux"]["resources"] = json!({
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "memory": {"swappiness": 10}
        });
        let look = format!("cat /sys/fs/cgroup/{group}/hugetlb.2MB.max; echo '== end'");
        config["process"]["args"] = json!(["sh", "-c", look]);
    });
    assert_eq!(seen, "4194304\n== end\n");
}

/// What Debian's runc (1.1) does not know yet.
#[test]
fn younger_than_the_oracle() {
    let bundle = Bundle::new(|config| {
        let process = &mut config["process"];
        process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
        process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
        let look = "uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice
            cut -d. -f1 /proc/uptime; ls -ln /bound | tail -1; cat /proc/self/timens_offsets";
        process["args"] = json!(["sh", "-c", look]);
        let linux = &mut config["linux"];
        linux["personality"] = json!({"domain": "LINUX32"});
        push(&mut linux["namespaces"], json!({"type": "time"}));
        linux["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
        let mapping = json!([{"containerID": 0, "hostID": 1234, "size": 1}]);
        let mount = json!({"destination": "/bound", "type": "bind", "source": "source",
            "options": ["rbind", "ro"], "uidMappings": mapping, "gidMappings": mapping});
        push(&mut config["mounts"], mount);
    });
    fs::write(bundle.directory.path().join("source/file"), "").unwrap();
    let seen = bundle.under_kiln();
    let lines: Vec<&str> = seen.lines().collect();
    let machine = if cfg!(target_arch = "x86_64") {
        "i686"
    } else {
        "armv8l"
    };
    assert_eq!(
        lines[..3],
        [machine, "7 3", "best-effort: prio 3"],
        "{seen}"
    );
    assert!(lines[3].parse::<u64>().unwrap() > 1_000_000_000, "{seen}");
    assert!(lines[4].contains(" 1234     1234 "), "{seen}");
    let boot = lines
        .iter()
        .find(|line| line.starts_with("boottime"))
        .unwrap();
    assert!(boot.contains("1000000000"), "{seen}");
}

/// Also younger than the oracle: what is root's outside is root's in a user namespace.
#[test]
fn id_maps_of_the_container() {
    let bundle = Bundle::new(|config| {
        user_namespace(config);
        let mount = json!({"destination": "/bound", "type": "bind", "source": "source",
            "options": ["rbind", "ridmap"]});
        push(&mut config["mounts"], mount);
        let look = "ls -ln /bound | tail -1; touch /bound/made && echo made";
        config["process"]["args"] = json!(["sh", "-c", look]);
    });
    owned_by_mapped_root(&bundle);
    let source = bundle.directory.path().join("source");
    fs::write(source.join("file"), "").unwrap();
    let seen = bundle.under_kiln();
    assert!(seen.contains(" 0        0 "), "{seen}");
    assert!(seen.ends_with("made\n"), "{seen}");
    let made = fs::metadata(source.join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0);
}

#[test]
fn shared_root() {
    same(|config| config["linux"]["rootfsPropagation"] = json!("shared"));
}

#[test]
fn host_pids_and_bound_dev() {
    let bundle = Bundle::new(|config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        config["mounts"][0] = json!({"destination": "/dev", "type": "bind", "source": "/dev",
            "options": ["rw", "rbind", "rshared"]});
        let script = "readlink /proc/self/ns/pid; ls -d /dev/kmsg /dev/null";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    let expected = format!("{}\n/dev/kmsg\n/dev/null\n", own.display());
    assert_eq!(bundle.under_kiln(), expected);
}

#[test]
fn failures_name_the_member_at_fault() {
    let start = |change: &dyn Fn(&mut Value)| Bundle::new(change).under_kiln();
    let absent = start(&|config| config["process"]["args"] = json!(["nowhere"]));
    assert!(
        absent.contains("not started: nowhere: not found in PATH /bin"),
        "{absent}"
    );
    let mount = start(&|config| {
        let mount = json!({"destination": "/x", "type": "bind", "source": "/no/such"});
        push(&mut config["mounts"], mount);
    });
    assert!(
        mount.contains("mounts[4]: /x: bind source /no/such"),
        "{mount}"
    );
    let refused = start(&|config| config["linux"]["intelRdt"] = json!({}));
    assert!(
        refused.contains("config.json: linux.intelRdt: not supported"),
        "{refused}"
    );
}
