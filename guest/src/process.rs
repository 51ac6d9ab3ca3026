//! The last steps of a child before it becomes the container's program: limits, identity,
//! capabilities, and where the program is.
//!
//! The order is the kernel's: the bounding set needs CAP_SETPCAP, groups and user need theirs, a
//! change of user clears what `keepcaps` does not keep, ambient capabilities need both permitted
//! and inheritable ones (capabilities(7)).

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Context, Error, Result};
use crate::spec::{self, Process, User};
use crate::{schedule, seccomp};

/// Capability names by number (`include/uapi/linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Returns the bits of named capabilities; names this table lacks are passed over, as in runc: a
/// build tool may know more capabilities than the kernel that boots.
fn capability_bits(names: &[String]) -> u64 {
    names
        .iter()
        .filter_map(|name| {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            CAPABILITIES.iter().position(|known| *known == name)
        })
        .fold(0, |bits, number| bits | 1 << number)
}

/// Returns the capability names of a container that we do not know, for a warning.
pub(crate) fn unknown_capabilities(capabilities: &spec::Capabilities) -> Vec<&str> {
    capabilities
        .bounding
        .iter()
        .filter(|name| capability_bits(std::slice::from_ref(name)) == 0)
        .map(String::as_str)
        .collect()
}

/// Sets `oom_score_adj`, the resource limits and the scheduling of a process, or of our own; both want the host's
/// `/proc` and rights.
pub(crate) fn limits(process: &Process, pid: Option<Pid>) -> Result<()> {
    if let Some(score) = process.oom_score_adj {
        let who = pid.map_or("self".to_owned(), |pid| pid.as_raw_nonzero().to_string());
        fs::write(format!("/proc/{who}/oom_score_adj"), score.to_string())
            .context(|| format!("process.oomScoreAdj {score}"))?;
    }
    for limit in &process.rlimits {
        let value = Rlimit {
            current: (limit.soft != u64::MAX).then_some(limit.soft),
            maximum: (limit.hard != u64::MAX).then_some(limit.hard),
        };
        rustix::process::prlimit(pid, resource(&limit.kind)?, value)
            .context(|| format!("process.rlimits: {}", limit.kind))?;
    }
    if let Some(scheduler) = &process.scheduler {
        schedule::set_policy(pid, scheduler)?;
    }
    if let Some(priority) = &process.io_priority {
        schedule::set_io_priority(pid, priority)?;
    }
    Ok(())
}

fn resource(name: &str) -> Result<Resource> {
    Ok(match name.strip_prefix("RLIMIT_").unwrap_or(name) {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return Err(Error::new(format!("process.rlimits: unknown {name}"))),
    })
}

/// Becomes the container's user, who may do what `config` says and nothing more, and then does
/// what is left `to_do`; returns the path of the program, looked for with that user's rights.
///
/// A filter of system calls needs either CAP_SYS_ADMIN or `noNewPrivileges`: with the latter it
/// comes last, so that it need not allow what we still have to do; as in runc
/// (`standard_init_linux.go`).
pub(crate) fn confine(
    config: &spec::Config,
    name: &str,
    env: &[CString],
    to_do: impl FnOnce() -> Result<()>,
) -> Result<CString> {
    let process = &config.process;
    let umask = process.user.umask.unwrap_or(0o022);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    let filter = |late: bool| match &config.linux.seccomp {
        Some(seccomp) if process.no_new_privileges == late => seccomp::confine(seccomp),
        _ => Ok(()),
    };
    if let Some(personality) = &config.linux.personality {
        schedule::set_personality(personality)?;
    }
    filter(false)?;
    become_user(process)?;
    let program = find_program(name, env)?;
    to_do()?;
    filter(true)?;
    Ok(program)
}

fn become_user(process: &Process) -> Result<()> {
    use rustix::thread as t;
    if process.no_new_privileges {
        t::set_no_new_privs(true).context(|| "process.noNewPrivileges")?;
    }
    let supported = supported_capabilities();
    let bits = |names: &[String]| capability_bits(names) & supported;
    let wanted = &process.capabilities;
    let bounding = bits(&wanted.bounding);
    for number in (0..64).filter(|n| supported & !bounding & (1 << n) != 0) {
        t::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
            .context(|| format!("drop capability {number} from the bounding set"))?;
    }
    t::set_keep_capabilities(true).context(|| "keep capabilities")?;
    give_streams(rustix::process::Uid::from_raw(process.user.uid));
    identity(&process.user)?;
    let set = CapabilitySet::from_bits_retain;
    t::set_capabilities(
        None,
        CapabilitySets {
            effective: set(bits(&wanted.effective)),
            permitted: set(bits(&wanted.permitted)),
            inheritable: set(bits(&wanted.inheritable)),
        },
    )
    .context(|| "process.capabilities")?;
    t::set_keep_capabilities(false).context(|| "keep capabilities")?;
    t::clear_ambient_capability_set().context(|| "clear ambient capabilities")?;
    let ambient = bits(&wanted.ambient);
    for number in (0..64).filter(|n| ambient & (1 << n) != 0) {
        t::configure_capability_in_ambient_set(set(1 << number), true)
            .context(|| format!("process.capabilities.ambient: capability {number}"))?;
    }
    Ok(())
}

/// Returns the capabilities of the running kernel: those that are still in our bounding set's
/// range. A number above the last one is an error, not "no".
fn supported_capabilities() -> u64 {
    (0..64)
        .map(|number| 1 << number)
        .take_while(|bit| {
            let bit = CapabilitySet::from_bits_retain(*bit);
            rustix::thread::capability_is_in_bounding_set(bit).is_ok()
        })
        .fold(0, |all, bit| all | bit)
}

/// Becomes the root of a user namespace just entered, which we are not by our user id outside.
pub(crate) fn become_root() -> Result<()> {
    identity(&User::default()).context(|| "root of the user namespace")
}

/// Gives the standard streams to the user, for whom `/dev/stdout` could not be opened otherwise.
/// `/dev/null` stays everybody's; what cannot be given away stays as it is, as in runc.
fn give_streams(uid: rustix::process::Uid) {
    let null = rustix::fs::makedev(1, 3);
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        if rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_rdev != null) {
            let _ = rustix::fs::fchown(stream, Some(uid), None);
        }
    }
}

fn identity(user: &User) -> Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread as t;
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|g| Gid::from_raw(*g))
        .collect();
    match t::set_thread_groups(&groups) {
        // A user namespace may forbid it (`/proc/PID/setgroups`).
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        done => done.context(|| "process.user.additionalGids")?,
    }
    let gid = Gid::from_raw(user.gid);
    t::set_thread_res_gid(gid, gid, gid).context(|| "process.user.gid")?;
    let uid = Uid::from_raw(user.uid);
    t::set_thread_res_uid(uid, uid, uid).context(|| "process.user.uid")
}

/// Writes `linux.sysctl` below the container's `/proc/sys`.
pub(crate) fn sysctls(config: &spec::Config) -> Result<()> {
    for (key, value) in &config.linux.sysctl {
        let what = || format!("linux.sysctl: {key}");
        check_sysctl(config, key).context(what)?;
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        fs::write(path, value).context(what)?;
    }
    Ok(())
}

/// Refuses what would change the host, as runc does (`configs/validate`).
fn check_sysctl(config: &spec::Config, key: &str) -> Result<()> {
    use spec::NamespaceKind as N;
    let key = key.replace('/', ".");
    let ipc = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."];
    let needed = if key.starts_with("net.") {
        N::Network
    } else if ipc.iter().any(|prefix| key.starts_with(prefix)) {
        N::Ipc
    } else if key == "kernel.domainname" {
        N::Uts
    } else {
        return Err(Error::new("belongs to no namespace"));
    };
    match config.namespace(needed) {
        Some(_) if !key.contains("..") => Ok(()),
        _ => Err(Error::new(format!("needs a {needed:?} namespace"))),
    }
}

/// Returns an environment, with `HOME` from the container's `/etc/passwd` if it is not set.
pub(crate) fn environment(env: &[String], uid: u32) -> Result<Vec<CString>> {
    let mut env = env.to_vec();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        env.push(format!("HOME={}", home(&passwd, uid)));
    }
    c_strings(&env).context(|| "process.env")
}

/// Returns a user's home directory from the bytes of passwd(5); `/` if there is none.
fn home(passwd: &[u8], uid: u32) -> String {
    let text = String::from_utf8_lossy(passwd);
    let mut fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .find(|f| f.len() >= 6 && f[2].parse() == Ok(uid))
        .map(|f| f[5].to_owned())
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

/// Makes C strings; a NUL inside is an error.
pub(crate) fn c_strings(strings: &[String]) -> Result<Vec<CString>> {
    strings
        .iter()
        .map(|s| CString::new(s.as_str()).context(|| format!("{s:?}")))
        .collect()
}

/// Finds a program as execvp(3) would, by the *container's* `PATH` and with its rights.
pub(crate) fn find_program(name: &str, env: &[CString]) -> Result<CString> {
    let c = |text: String| CString::new(text).context(|| "process.args[0]");
    if name.contains('/') {
        return c(name.to_owned());
    }
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.to_str().ok()?.strip_prefix("PATH="))
        .ok_or_else(|| Error::new(format!("{name}: the container has no PATH to search")))?;
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        if !Path::new(&candidate).is_file() {
            continue;
        }
        match rustix::fs::accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return c(candidate),
            Err(cause) => {
                denied |= std::io::Error::from(cause).kind() == ErrorKind::PermissionDenied;
            }
        }
    }
    let why = if denied {
        "permission denied"
    } else {
        "not found"
    };
    Err(Error::new(format!("{name}: {why} in PATH {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn capability_numbers() {
        assert_eq!(
            capability_bits(&names(&["CAP_CHOWN", "CAP_SYS_ADMIN"])),
            1 | 1 << 21
        );
        assert_eq!(
            capability_bits(&names(&["CAP_CHECKPOINT_RESTORE"])),
            1 << 40
        );
        assert_eq!(capability_bits(&names(&["CAP_FUTURE"])), 0);
        let known = spec::Capabilities {
            bounding: names(&["CAP_KILL", "CAP_FUTURE"]),
            ..spec::Capabilities::default()
        };
        assert_eq!(unknown_capabilities(&known), ["CAP_FUTURE"]);
    }

    #[test]
    fn homes() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:100:100:::/bin/sh\n";
        assert_eq!(home(passwd, 0), "/root");
        assert_eq!(home(passwd, 100), "/");
        assert_eq!(home(b"\xff:x", 5), "/");
    }

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let config = |kinds: &str| -> spec::Config {
            let json = format!(r#"{{"linux":{{"namespaces":{kinds}}}}}"#);
            crate::json::parse(json.as_bytes()).unwrap()
        };
        let net = config(r#"[{"type":"network"}]"#);
        assert!(check_sysctl(&net, "net.ipv4.ip_forward").is_ok());
        assert!(check_sysctl(&net, "net/ipv4/ip_forward").is_ok());
        assert!(check_sysctl(&net, "kernel.shmmax").is_err());
        assert!(check_sysctl(&net, "vm.swappiness").is_err());
        assert!(check_sysctl(&net, "net/../vm/swappiness").is_err());
        assert!(check_sysctl(&config("[]"), "net.ipv4.ip_forward").is_err());
    }

    #[test]
    fn programs_by_path() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("plain"), "").unwrap();
        let env =
            c_strings(&[format!("PATH=/nowhere:{}:/bin", directory.path().display())]).unwrap();
        assert!(
            find_program("sh", &env)
                .unwrap()
                .to_str()
                .unwrap()
                .ends_with("/bin/sh")
        );
        assert_eq!(find_program("/x/y", &env).unwrap(), c"/x/y".to_owned());
        assert!(
            find_program("absent", &env)
                .unwrap_err()
                .to_string()
                .contains("not found")
        );
        assert!(
            find_program("sh", &[])
                .unwrap_err()
                .to_string()
                .contains("no PATH")
        );
    }
}
