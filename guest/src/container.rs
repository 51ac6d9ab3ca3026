//! Starts a container: pipes, namespaces and control group in the parent; everything else in the
//! child, which reports by a pipe that exec closes.
//!
//! ```text
//! parent                              child
//! control group, pipes
//! clone3(new namespaces) ───────────▶ session, stdio, joined namespaces
//! interfaces, bindNS ◀──── joined ─── closes `joined`
//! closes `gate` ────────────────────▶ control group, limits, root, identity
//! reads `status` ◀─── text or EOF ─── error text, or exec
//! ```

use std::ffi::CString;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::bundle::Bundle;
use crate::error::{Context, Error, Result};
use crate::policy::Ready;
use crate::ready::Notify;
use crate::spec::{Config, NamespaceKind};
use crate::{cgroup, netlink, process, rootfs, say, sys};

/// Longest error text taken from a child.
pub(crate) const STATUS_BYTES_MAX: usize = 4096;

/// Bind sources that exist only with LinuxKit's own runtime; containers that merely offer them to
/// a user's shell must not fail for it.
const RUNTIME_BINARIES: [&str; 2] = ["/usr/bin/runc", "/usr/bin/ctr"];

/// A container whose child process exists.
#[derive(Debug)]
pub(crate) struct Started {
    /// The child, in our pid namespace.
    pub(crate) pid: Pid,
    /// Its output.
    pub(crate) stdout: OwnedFd,
    /// Its error output.
    pub(crate) stderr: OwnedFd,
    /// An error text, then end of file; end of file alone once the program runs.
    pub(crate) status: OwnedFd,
    /// Its control group.
    pub(crate) cgroup: Option<PathBuf>,
    /// Where it says that it is ready, if it does.
    pub(crate) notify: Option<Notify>,
}

/// The child's ends of the pipes.
struct Ends {
    stdout: PipeWriter,
    stderr: PipeWriter,
    status: PipeWriter,
    joined: PipeWriter,
    gate: PipeReader,
}

/// Starts a prepared bundle.
pub(crate) fn start(bundle: &mut Bundle) -> Result<Started> {
    let group = cgroup::create(&bundle.id, &bundle.config).context(|| "control group")?;
    let started = start_in(bundle, group.clone());
    if let (Err(_), Some(group)) = (&started, group) {
        cgroup::remove(&group);
    }
    started
}

fn start_in(bundle: &mut Bundle, cgroup: Option<PathBuf>) -> Result<Started> {
    drop_runtime_binaries(bundle);
    let unknown = process::unknown_capabilities(&bundle.config.process.capabilities);
    if !unknown.is_empty() {
        say!(
            "{}: unknown capabilities ignored: {}",
            bundle.id,
            unknown.join(" ")
        );
    }
    let notifies = bundle.policy.ready == Ready::Notify;
    if notifies {
        let env = &mut bundle.config.process.env;
        env.push(format!("NOTIFY_SOCKET={}", Notify::address(&bundle.id)));
    }
    let joins = Joins::open(&bundle.config)?;
    let make = || pipe().context(|| "pipe");
    let ((stdout, child_stdout), (stderr, child_stderr)) = (make()?, make()?);
    let ((status, child_status), (mut joined, child_joined)) = (make()?, make()?);
    let (child_gate, gate) = make()?;
    let ends = Ends {
        stdout: child_stdout,
        stderr: child_stderr,
        status: child_status,
        joined: child_joined,
        gate: child_gate,
    };

    let forked = joins
        .with_pid_namespace(|| sys::fork(new_namespaces(&bundle.config)).context(|| "clone3"))?;
    let pid = match forked {
        sys::Fork::Child => {
            // Our copies of the parent's ends would keep it from seeing the end of ours.
            drop((stdout, stderr, status, joined, gate));
            child(bundle, &joins, cgroup.as_deref(), ends)
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(ends);
    let runtime = &bundle.runtime;
    let mut notify = None;
    if notifies || !runtime.interfaces.is_empty() || !runtime.bind_ns.wanted().is_empty() {
        // The child only enters namespaces before it closes this: no wait worth the name.
        let _ = joined.read(&mut [0]);
        let done = outside_work(bundle, pid).and_then(|()| {
            notify = notifies
                .then(|| Notify::open(&bundle.id, pid))
                .transpose()?;
            Ok(())
        });
        if let Err(cause) = done {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            return Err(cause);
        }
    }
    drop(gate);
    for fd in [&stdout, &stderr, &status] {
        rustix::io::ioctl_fionbio(fd, true).context(|| "pipe")?;
    }
    Ok(Started {
        pid,
        stdout: stdout.into(),
        stderr: stderr.into(),
        status: status.into(),
        cgroup,
        notify,
    })
}

fn drop_runtime_binaries(bundle: &mut Bundle) {
    let id = &bundle.id;
    bundle.config.mounts.retain(|mount| {
        let absent =
            RUNTIME_BINARIES.contains(&mount.source.as_str()) && !Path::new(&mount.source).exists();
        if absent {
            say!("{id}: {} does not exist here, not bound", mount.source);
        }
        !absent
    });
}

/// What the host does to a container's namespaces before its program runs.
fn outside_work(bundle: &Bundle, pid: Pid) -> Result<()> {
    for interface in &bundle.runtime.interfaces {
        netlink::give_interface(interface, pid)
            .context(|| format!("runtime.json: interfaces: {}", interface.name))?;
    }
    for (kind, path) in bundle.runtime.bind_ns.wanted() {
        bind_namespace(pid, kind, Path::new(path))
            .context(|| format!("runtime.json: bindNS.{kind}"))?;
    }
    Ok(())
}

fn bind_namespace(pid: Pid, kind: &str, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        crate::bundle::make_directories(parent)?;
    }
    fs::File::create(path).context(|| path.display())?;
    let source = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
    rustix::mount::mount_bind(source.as_str(), path).context(|| format!("bind {source}"))
}

/// Namespaces to join, opened while their paths are visible.
struct Joins {
    pid: Option<OwnedFd>,
    others: Vec<(OwnedFd, LinkNameSpaceType)>,
}

impl Joins {
    fn open(config: &Config) -> Result<Self> {
        let mut joins = Self {
            pid: None,
            others: Vec::new(),
        };
        for namespace in config
            .linux
            .namespaces
            .iter()
            .filter(|n| !n.path.is_empty())
        {
            let fd = open_namespace(&namespace.path)?;
            let kind = match namespace.kind {
                NamespaceKind::Pid => {
                    joins.pid = Some(fd);
                    continue;
                }
                NamespaceKind::Network => LinkNameSpaceType::Network,
                NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
                NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
                NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
                NamespaceKind::Mount | NamespaceKind::User | NamespaceKind::Time => {
                    return Err(Error::new(format!(
                        "config.json: linux.namespaces: joining a {:?} namespace is not supported",
                        namespace.kind
                    )));
                }
            };
            joins.others.push((fd, kind));
        }
        Ok(joins)
    }

    /// Runs `fork` with children going to the pid namespace to join, if there is one.
    ///
    /// setns(2) changes that for future children only, so PID 1 itself can go there and back.
    fn with_pid_namespace<T>(&self, fork: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(fd) = &self.pid else { return fork() };
        let kind = Some(LinkNameSpaceType::ProcessID);
        let own = open_namespace("/proc/self/ns/pid")?;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(fd), kind)
            .context(|| "join the pid namespace")?;
        let forked = fork();
        if !sys::in_child() {
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&own), kind)
                .context(|| "return to the pid namespace")?;
        }
        forked
    }

    fn enter_others(&self) -> Result<()> {
        for (fd, kind) in &self.others {
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(fd), Some(*kind))
                .context(|| format!("join {kind:?} namespace"))?;
        }
        Ok(())
    }
}

fn open_namespace(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("namespace {path}"))
}

/// Returns the `CLONE_NEW*` flags of a container. A control group namespace comes later, since
/// its root is the group one is in when making it.
fn new_namespaces(config: &Config) -> u64 {
    [
        (NamespaceKind::Pid, libc::CLONE_NEWPID),
        (NamespaceKind::Network, libc::CLONE_NEWNET),
        (NamespaceKind::Mount, libc::CLONE_NEWNS),
        (NamespaceKind::Ipc, libc::CLONE_NEWIPC),
        (NamespaceKind::Uts, libc::CLONE_NEWUTS),
    ]
    .into_iter()
    .filter(|(kind, _)| config.is_new(*kind))
    .fold(0, |flags, (_, flag)| flags | flag as u64)
}

/// The child's whole life; ends in exec or with a text in the status pipe.
fn child(bundle: &Bundle, joins: &Joins, cgroup: Option<&Path>, ends: Ends) -> ! {
    let mut status = match ends.status.try_clone() {
        Ok(status) => status,
        Err(_) => sys::exit_now(127),
    };
    let Err(cause) = become_container(bundle, joins, cgroup, ends);
    let text = cause.to_string();
    let _ = status.write_all(&text.as_bytes()[..text.len().min(STATUS_BYTES_MAX)]);
    sys::exit_now(127)
}

fn become_container(
    bundle: &Bundle,
    joins: &Joins,
    cgroup: Option<&Path>,
    ends: Ends,
) -> Result<std::convert::Infallible> {
    let config = &bundle.config;
    let process = &config.process;
    rustix::process::setsid().context(|| "setsid")?;
    standard_streams(&ends)?;
    joins.enter_others()?;
    drop(ends.joined);
    let _ = { ends.gate }.read(&mut [0]);

    if let Some(group) = cgroup {
        fs::write(group.join("cgroup.procs"), "0").context(|| "enter the control group")?;
    }
    if config.is_new(NamespaceKind::Cgroup) {
        sys::unshare(UnshareFlags::NEWCGROUP).context(|| "new cgroup namespace")?;
    }
    if config.is_new(NamespaceKind::Network) {
        netlink::loopback_up().context(|| "loopback interface")?;
    }
    process::limits(process)?;
    rootfs::enter(bundle)?;
    if !config.hostname.is_empty() {
        rustix::system::sethostname(config.hostname.as_bytes()).context(|| "hostname")?;
    }
    if !config.domainname.is_empty() {
        rustix::system::setdomainname(config.domainname.as_bytes()).context(|| "domainname")?;
    }
    process::sysctls(config)?;
    rootfs::confine(config)?;

    let args = process::c_strings(&process.args).context(|| "process.args")?;
    let env = process::environment(&process.env, process.user.uid)?;
    rustix::process::chdir(process.cwd.as_str())
        .context(|| format!("process.cwd {}", process.cwd))?;
    let program = process::confine(config, &process.args[0], &env)?;
    // Linux 5.11; before, ours are close-on-exec anyway.
    let _ = sys::close_others_on_exec();
    sys::reset_signals();
    Err(sys::exec(&program, &args, &env)).context(|| display(&program))
}

fn display(program: &CString) -> String {
    format!("exec {}", program.to_string_lossy())
}

/// `/dev/null` and the two pipes as 0, 1 and 2.
fn standard_streams(ends: &Ends) -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).context(|| "standard input")?;
    rustix::stdio::dup2_stdout(&ends.stdout).context(|| "standard output")?;
    rustix::stdio::dup2_stderr(&ends.stderr).context(|| "standard error")
}
