//! Starts a container: pipes, namespaces and control group in the parent; everything else in the
//! child, which reports by a pipe that exec closes.
//!
//! ```text
//! parent                              child
//! control group, pipes
//! clone3(new namespaces) ───────────▶ session, stdio
//! control group, limits, identities
//! interfaces, bindNS
//! closes `gate` ────────────────────▶ root, identity
//! reads `status` ◀─── text or EOF ─── error text, or exec
//! ```

use std::ffi::CString;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{self, MountPropagationFlags, UnmountFlags};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::bundle::{Bundle, make_directories};
use crate::error::{Context, Result};
use crate::namespaces::Joins;
use crate::policy::{Main, Ready};
use crate::ready::Notify;
use crate::spec::NamespaceKind;
use crate::{
    bpf, builtin, cgroup, hooks, mount_attributes, namespaces, netlink, process, rootfs, say, sys,
    terminal, users,
};

/// Longest error text taken from a child.
pub(crate) const STATUS_BYTES_MAX: usize = 4096;

/// Bind sources that exist only with LinuxKit's own runtime; containers that merely offer them to
/// a user's shell must not fail for it.
const RUNTIME_BINARIES: [&str; 2] = ["/usr/bin/runc", "/usr/bin/ctr"];

/// Another bind source of theirs: containerd makes it before any service starts.
const RUNTIME_STATE: &str = "/var/lib/containerd";

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
    /// Its standard input, if somebody may attach to it.
    pub(crate) stdin: Option<OwnedFd>,
    /// If it has a terminal: the socket from which [`terminal::receive`] takes the other side of
    /// it, once `status` has ended. Who drops this too early keeps the container from starting, and
    /// who drops the terminal hangs up. All output comes out of there; `stdout` and `stderr` end.
    pub(crate) terminal: Option<OwnedFd>,
}

/// The child's ends of the pipes.
struct Ends {
    /// `/dev/null` without it.
    stdin: Option<PipeReader>,
    /// Where a terminal goes.
    terminal: Option<OwnedFd>,
    /// To the companion that runs hooks outside.
    hooks: Option<hooks::Line>,
    stdout: PipeWriter,
    stderr: PipeWriter,
    status: PipeWriter,
    gate: PipeReader,
}

/// Starts a prepared bundle.
pub(crate) fn start(bundle: &mut Bundle) -> Result<Started> {
    let group = cgroup::create(&bundle.unique, &bundle.config).context(|| "control group")?;
    let shared = match (&group, bundle.shares_ports) {
        (Some(group), true) => bpf::reuse_ports(group),
        _ => Ok(()),
    };
    let started = shared.and_then(|()| start_in(bundle, group.clone()));
    if let (Err(_), Some(group)) = (&started, group) {
        cgroup::remove(&group);
    }
    started
}

fn start_in(bundle: &mut Bundle, cgroup: Option<PathBuf>) -> Result<Started> {
    stand_in_for_runtime(bundle)?;
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
        env.push(format!("NOTIFY_SOCKET={}", Notify::address(&bundle.unique)));
    }
    let joins = Joins::open(&bundle.config)?;
    let trees = mount_attributes::id_mapped(&bundle.config, &bundle.directory)?;
    let make = || pipe().context(|| "pipe");
    let ((stdout, child_stdout), (stderr, child_stderr)) = (make()?, make()?);
    let ((status, child_status), (child_gate, gate)) = (make()?, make()?);
    let (hooks, line) = hooks::line(bundle)?.unzip();
    let attaches = bundle.policy.main == Main::Attach;
    let (child_stdin, stdin) = attaches.then(make).transpose()?.unzip();
    let (terminal, child_terminal) = terminal::socket(&bundle.config.process)?.unzip();
    let ends = Ends {
        terminal: child_terminal,
        hooks,
        stdin: child_stdin,
        stdout: child_stdout,
        stderr: child_stderr,
        status: child_status,
        gate: child_gate,
    };

    let group = cgroup.as_deref().map(cgroup::open).transpose()?;
    let group = group.as_ref().map(AsFd::as_fd);
    let pid = match joins.fork(&bundle.config, group)? {
        sys::Fork::Child => {
            // Our copies of the parent's ends would keep it from seeing the end of ours.
            drop((stdin, stdout, stderr, status, gate, line, terminal));
            child(bundle, &trees, ends)
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(ends);
    let done = outside_work(bundle, pid, cgroup.as_deref()).and_then(|()| {
        if let Some(line) = &line {
            hooks::accompany(bundle, pid, line)?;
        }
        notifies
            .then(|| Notify::open(&bundle.unique, pid))
            .transpose()
    });
    let notify = done.inspect_err(|_| {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    })?;
    drop(gate);
    for fd in [&stdout, &stderr, &status] {
        rustix::io::ioctl_fionbio(fd, true).context(|| "pipe")?;
    }
    if let Some(stdin) = &stdin {
        rustix::io::ioctl_fionbio(stdin, true).context(|| "pipe")?;
    }
    Ok(Started {
        pid,
        stdout: stdout.into(),
        stderr: stderr.into(),
        status: status.into(),
        cgroup,
        notify,
        stdin: stdin.map(OwnedFd::from),
        terminal,
    })
}

/// Sees to the bind sources of LinuxKit's runtime that only it would bring.
fn stand_in_for_runtime(bundle: &mut Bundle) -> Result<()> {
    if bundle
        .config
        .mounts
        .iter()
        .any(|m| m.source == RUNTIME_STATE)
    {
        make_directories(Path::new(RUNTIME_STATE))?;
    }
    let id = &bundle.id;
    bundle.config.mounts.retain(|mount| {
        let absent =
            RUNTIME_BINARIES.contains(&mount.source.as_str()) && !Path::new(&mount.source).exists();
        if absent {
            say!("{id}: {} does not exist here, not bound", mount.source);
        }
        !absent
    });
    Ok(())
}

/// What takes the host's rights: the container's process may have none but in a user namespace.
fn outside_work(bundle: &Bundle, pid: Pid, cgroup: Option<&Path>) -> Result<()> {
    if let Some(group) = cgroup {
        cgroup::enter(group, pid).context(|| "enter the control group")?;
    }
    process::limits(&bundle.config.process, Some(pid))?;
    namespaces::map_ids(&bundle.config, pid)?;
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
    // That of the run before, if there was one.
    while mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    fs::File::create(path).context(|| path.display())?;
    let source = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
    if kind == "mnt" {
        // One of these cannot be on a shared mount, lest a namespace comes to be in itself.
        mount::mount_bind(path, path)
            .and_then(|()| mount::mount_change(path, MountPropagationFlags::PRIVATE))
            .context(|| format!("{}: make private", path.display()))?;
    }
    mount::mount_bind(source.as_str(), path).context(|| format!("bind {source}"))
}

/// The child's whole life; ends in exec or with a text in the status pipe.
fn child(bundle: &mut Bundle, trees: &[Option<OwnedFd>], ends: Ends) -> ! {
    let mut status = match ends.status.try_clone() {
        Ok(status) => status,
        Err(_) => sys::exit_now(127),
    };
    let line = ends.hooks.as_ref().map(|line| line.try_clone());
    let line = line.and_then(std::io::Result::ok);
    let Err(cause) = become_container(bundle, trees, ends);
    hooks::start_failed(line.as_ref());
    let text = cause.to_string();
    let _ = status.write_all(&text.as_bytes()[..text.len().min(STATUS_BYTES_MAX)]);
    sys::exit_now(127)
}

fn become_container(
    bundle: &mut Bundle,
    trees: &[Option<OwnedFd>],
    ends: Ends,
) -> Result<std::convert::Infallible> {
    let config = &bundle.config;
    rustix::process::setsid().context(|| "setsid")?;
    standard_streams(&ends)?;
    let _ = { ends.gate }.read(&mut [0]);
    if builtin::is_job(config) {
        return builtin::become_job(config);
    }

    if config.namespace(NamespaceKind::User).is_some() {
        process::become_root()?;
    }
    if config.is_new(NamespaceKind::Cgroup) {
        sys::unshare(UnshareFlags::NEWCGROUP).context(|| "new cgroup namespace")?;
    }
    if config.is_new(NamespaceKind::Network) {
        sys::loopback_up().context(|| "loopback interface")?;
    }
    let root = rootfs::mount(bundle, trees)?;
    hooks::root_is_mounted(bundle, ends.hooks.as_ref())?;
    rootfs::enter(bundle, &root)?;
    if bundle.policy.main != Main::Attach {
        rootfs::reopen_null()?;
    }
    if let Some(socket) = &ends.terminal {
        terminal::open(&config.process, socket)?;
    }
    rootfs::make_readonly(config)?;
    if !config.hostname.is_empty() {
        rustix::system::sethostname(config.hostname.as_bytes()).context(|| "hostname")?;
    }
    if !config.domainname.is_empty() {
        rustix::system::setdomainname(config.domainname.as_bytes()).context(|| "domainname")?;
    }
    process::sysctls(config)?;
    rootfs::confine(config)?;

    if let Some(user) = &bundle.policy.user {
        users::take(&mut bundle.config.process.user, user).context(|| "kiln.user")?;
    }
    let bundle = &*bundle;
    let (config, process) = (&bundle.config, &bundle.config.process);
    let args = process::c_strings(&process.args).context(|| "process.args")?;
    let env = process::environment(&process.env, process.user.uid)?;
    rustix::process::chdir(process.cwd.as_str())
        .context(|| format!("process.cwd {}", process.cwd))?;
    let program = process::confine(config, &process.args[0], &env, || {
        hooks::program_starts(bundle)
    })?;
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
    match &ends.stdin {
        Some(stdin) => rustix::stdio::dup2_stdin(stdin),
        None => rustix::stdio::dup2_stdin(&null),
    }
    .context(|| "standard input")?;
    rustix::stdio::dup2_stdout(&ends.stdout).context(|| "standard output")?;
    rustix::stdio::dup2_stderr(&ends.stderr).context(|| "standard error")
}
