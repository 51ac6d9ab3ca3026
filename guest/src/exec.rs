//! A program in a container that runs already: its namespaces, control group, limits and
//! capabilities, with standard streams of its own.

use std::fs;
use std::io::{Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags};
use rustix::termios::Winsize;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use crate::container::STATUS_BYTES_MAX;
use crate::error::{Context, Result};
use crate::session::Window;
use crate::spec::{Config, NamespaceKind};
use crate::{namespaces, process, sys, terminal, users};

/// What to run.
#[derive(Debug, Default)]
pub(crate) struct Exec {
    pub(crate) args: Vec<String>,
    /// On top of the container's own.
    pub(crate) env: Vec<String>,
    /// The container's own if absent.
    pub(crate) cwd: Option<String>,
    /// As `kiln.user` says it; that of config.json if absent.
    pub(crate) user: Option<String>,
    /// Gives it a terminal of this size.
    pub(crate) terminal: Option<Window>,
}

/// A program that was started.
#[derive(Debug)]
pub(crate) struct Executed {
    /// In our pid namespace.
    pub(crate) pid: Pid,
    /// Its standard input; also its terminal's keyboard.
    pub(crate) stdin: OwnedFd,
    /// Its output; of a terminal all of it.
    pub(crate) stdout: OwnedFd,
    /// Its error output, without a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// An error text, then end of file; end of file alone once the program runs.
    pub(crate) status: OwnedFd,
    /// The terminal's other side, for its size.
    pub(crate) terminal: bool,
}

/// Our ends and the child's.
struct Streams {
    ours: (OwnedFd, OwnedFd, Option<OwnedFd>),
    its: [OwnedFd; 3],
}

impl Streams {
    fn pipes() -> Result<Self> {
        let make = || pipe().context(|| "pipe");
        let ((its_in, stdin), (stdout, its_out), (stderr, its_err)) = (make()?, make()?, make()?);
        Ok(Self {
            ours: (stdin.into(), stdout.into(), Some(stderr.into())),
            its: [its_in.into(), its_out.into(), its_err.into()],
        })
    }

    /// A terminal out of the container's own devpts, so that it has a name in there.
    fn terminal(target: Pid, size: Window) -> Result<Self> {
        let path = format!("/proc/{}/root/dev/pts/ptmx", target.as_raw_nonzero());
        let (master, slave) = terminal::pair(&path).context(|| "terminal")?;
        set_window(&master, size);
        let clone = |fd: &OwnedFd| fd.try_clone().context(|| "terminal");
        Ok(Self {
            its: [clone(&slave)?, clone(&slave)?, slave],
            ours: (clone(&master)?, master, None),
        })
    }
}

/// Sets the size of a terminal.
pub(crate) fn set_window(terminal: &OwnedFd, (rows, columns): Window) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

/// Starts a program in the container of a process.
pub(crate) fn start(
    config: &mut Config,
    target: Pid,
    group: Option<&Path>,
    wanted: &Exec,
) -> Result<Executed> {
    let streams = match wanted.terminal {
        Some(size) => Streams::terminal(target, size)?,
        None => Streams::pipes()?,
    };
    let (status, its_status) = pipe().context(|| "pipe")?;
    let container = rustix::process::pidfd_open(target, PidfdFlags::empty())
        .context(|| "pidfd of the container")?;
    // setns(2) moves only future children into a pid namespace: there and back.
    let kind = Some(LinkNameSpaceType::ProcessID);
    let own = fs::File::open("/proc/self/ns/pid").context(|| "own pid namespace")?;
    let pid_namespace = ThreadNameSpaceType::PROCESS_ID;
    rustix::thread::move_into_thread_name_spaces(container.as_fd(), pid_namespace)
        .context(|| "join the pid namespace")?;
    let forked = sys::fork(0).context(|| "clone3");
    if !sys::in_child() {
        rustix::thread::move_into_link_name_space(own.as_fd(), kind)
            .context(|| "return to the pid namespace")?;
    }
    let pid = match forked? {
        sys::Fork::Child => {
            drop((streams.ours, status));
            let mut report = its_status;
            let of = (target, &container);
            let Err(cause) = become_program(config, of, group, wanted, &streams.its);
            let text = cause.to_string();
            let _ = report.write_all(&text.as_bytes()[..text.len().min(STATUS_BYTES_MAX)]);
            sys::exit_now(127)
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop((its_status, streams.its));
    let (stdin, stdout, stderr) = streams.ours;
    let status = OwnedFd::from(status);
    for fd in [&stdin, &stdout, &status].into_iter().chain(&stderr) {
        rustix::io::ioctl_fionbio(fd, true).context(|| "pipe")?;
    }
    Ok(Executed {
        pid,
        stdin,
        stdout,
        stderr,
        status,
        terminal: wanted.terminal.is_some(),
    })
}

fn become_program(
    config: &mut Config,
    (target, container): (Pid, &OwnedFd),
    group: Option<&Path>,
    wanted: &Exec,
    streams: &[OwnedFd; 3],
) -> Result<std::convert::Infallible> {
    let [stdin, stdout, stderr] = streams;
    rustix::process::setsid().context(|| "setsid")?;
    rustix::stdio::dup2_stdin(stdin).context(|| "standard input")?;
    rustix::stdio::dup2_stdout(stdout).context(|| "standard output")?;
    rustix::stdio::dup2_stderr(stderr).context(|| "standard error")?;
    if wanted.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(stdin).context(|| "controlling terminal")?;
    }
    if let Some(group) = group {
        fs::write(group.join("cgroup.procs"), "0").context(|| "enter the control group")?;
    }
    process::limits(&config.process, None)?;
    let mut others = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    // Nobody may join the user namespace he is in (setns(2)).
    let is_other = namespaces::is_other_user_namespace(target);
    if is_other {
        others |= ThreadNameSpaceType::USER;
    }
    if config.namespace(NamespaceKind::Time).is_some() {
        others |= ThreadNameSpaceType::TIME;
    }
    rustix::thread::move_into_thread_name_spaces(container.as_fd(), others)
        .context(|| "join the container's namespaces")?;
    if is_other {
        process::become_root()?;
    }

    if let Some(user) = &wanted.user {
        users::take(&mut config.process.user, user).context(|| "kiln.user")?;
    }
    let args = process::c_strings(&wanted.args).context(|| "arguments")?;
    let mut environment = config.process.env.clone();
    environment.extend(wanted.env.iter().cloned());
    if wanted.terminal.is_some() && !environment.iter().any(|e| e.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    let env = process::environment(&environment, config.process.user.uid)?;
    let cwd = wanted.cwd.as_deref().unwrap_or(&config.process.cwd);
    rustix::process::chdir(cwd).context(|| format!("working directory {cwd}"))?;
    let program = process::confine(config, &wanted.args[0], &env, || Ok(()))?;
    let _ = sys::close_others_on_exec();
    sys::reset_signals();
    Err(sys::exec(&program, &args, &env)).context(|| format!("exec {}", program.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::process::Command;

    fn read_all(fd: &OwnedFd) -> String {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            poll(&mut [PollFd::new(fd, PollFlags::IN)], None).unwrap();
            match rustix::io::read(fd, &mut buffer).unwrap() {
                0 => return String::from_utf8(all).unwrap(),
                length => all.extend_from_slice(&buffer[..length]),
            }
        }
    }

    /// Needs root, `unshare` and a shell.
    #[test]
    fn a_program_joins_another_user_namespace() {
        let mut unshare = Command::new("unshare")
            .args(["--user", "--mount", "--pid", "--kill-child", "sleep", "60"])
            .spawn()
            .unwrap();
        let of = |file: &str| format!("/proc/{}/{file}", unshare.id());
        let children = of(&format!("task/{}/children", unshare.id()));
        let target = loop {
            let child = fs::read_to_string(&children).unwrap();
            if let Ok(child) = child.trim().parse() {
                break Pid::from_raw(child).unwrap();
            }
        };
        for map in ["uid_map", "gid_map"] {
            fs::write(of(map), "0 100000 65536").unwrap();
        }
        let config = Config::parse(
            br#"{"root":{"path":"/"},"process":{"args":["x"],"cwd":"/","env":["PATH=/bin"],
            "user":{"uid":7,"gid":8}},"linux":{"namespaces":[{"type":"mount"}]}}"#,
        );
        let script = "id -u; id -g; readlink /proc/self/ns/user; cat /proc/self/uid_map";
        let wanted = Exec {
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..Exec::default()
        };
        let executed = start(&mut config.unwrap(), target, None, &wanted).unwrap();
        assert_eq!(read_all(&executed.status), "");
        let seen = read_all(&executed.stdout);
        let namespace = fs::read_link(of("ns/user")).unwrap();
        let expected = format!("7\n8\n{}\n", namespace.display());
        assert!(seen.starts_with(&expected), "{seen}");
        assert!(seen.ends_with(" 0     100000      65536\n"), "{seen}");
        unshare.kill().unwrap();
        unshare.wait().unwrap();
    }
}
