//! Hooks: programs of `config.json` at points of a container's life (runtime-spec, "POSIX-platform
//! Hooks"), with its state on their standard input.
//!
//! ```text
//! PID 1          companion                              container's process
//! starts both ─▶ waits ◀────────────── ROOT ─────────── root is mounted
//!                prestart, createRuntime ─── answer ──▶ createContainer
//!                                                       enters the root, startContainer
//!                poststart ◀───────── end of file ───── exec
//!                waits for the end: poststop
//! ```
//!
//! What runs outside the container is run by a companion, a process of its own that PID 1 never
//! waits for. A container without such hooks has none.

use std::ffi::CString;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde_json::json;

use crate::bundle::{Bundle, short_name};
use crate::container::STATUS_BYTES_MAX;
use crate::error::{Context, Error, Result};
use crate::spec::Hook;
use crate::{console, process, say, sys};

/// Time of a hook that names none: nothing may keep a container from starting for ever.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the container's process says to its companion.
const ROOT: &[u8] = b"root";
const FAILED: &[u8] = b"failed";
/// What the companion answers to [`ROOT`] if all went well; else why it did not.
const WELL: &[u8] = b"=";

/// The line between a container's process and its companion: one end each.
pub(crate) type Line = OwnedFd;

/// Makes a line if a container has hooks that run outside of it.
pub(crate) fn line(bundle: &Bundle) -> Result<Option<(Line, Line)>> {
    let hooks = &bundle.config.hooks;
    let outside = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.poststart,
        &hooks.poststop,
    ];
    if outside.iter().all(|hooks| hooks.is_empty()) {
        return Ok(None);
    }
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let pair = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None);
    pair.map(Some).context(|| "hooks: socket")
}

/// Starts the companion of a container's process.
pub(crate) fn accompany(bundle: &Bundle, pid: Pid, line: &Line) -> Result<()> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context(|| "hooks: pidfd")?;
    match sys::fork(0).context(|| "hooks: clone3")? {
        sys::Fork::Parent(_) => Ok(()),
        sys::Fork::Child => {
            // A connection that we kept would seem to go on after PID 1 has ended it.
            let mut keep = vec![line.as_raw_fd(), pidfd.as_raw_fd()];
            keep.extend(console::forked());
            sys::close_all_but(&keep);
            companion(bundle, pid, &pidfd, line)
        }
    }
}

fn companion(bundle: &Bundle, pid: Pid, pidfd: &OwnedFd, line: &Line) -> ! {
    let hooks = &bundle.config.hooks;
    let inside = pid.as_raw_nonzero().get();
    let warn = |done: Result<()>| {
        if let Err(cause) = done {
            say!("{}: {cause}", short_name(&bundle.id));
        }
    };
    let mut buffer = [0; 16];
    let started = loop {
        match rustix::net::recv(line, &mut buffer, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok((length, _)) if buffer[..length] == *ROOT => {
                let state = state(bundle, "creating", inside);
                let done = run_all("prestart", &hooks.prestart, &state)
                    .and_then(|()| run_all("createRuntime", &hooks.create_runtime, &state));
                let text = done.err().map(|cause| cause.to_string());
                let answer = text.as_ref().map_or(WELL, |text| text.as_bytes());
                let _ = rustix::net::send(line, answer, SendFlags::NOSIGNAL);
            }
            Ok((0, _)) => break true,
            Ok(_) | Err(_) => break false,
        }
    };
    if started {
        let state = state(bundle, "running", inside);
        warn(run_all("poststart", &hooks.poststart, &state));
    }
    if !hooks.poststop.is_empty() {
        while poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).is_err() {}
        // One that fails must not keep the others from tidying up.
        let state = state(bundle, "stopped", 0);
        for hook in &hooks.poststop {
            warn(run_all("poststop", std::slice::from_ref(hook), &state));
        }
    }
    console::flush(Duration::from_secs(1));
    sys::exit_now(0)
}

/// In the container's process: its root is mounted but not entered.
pub(crate) fn root_is_mounted(bundle: &Bundle, line: Option<&Line>) -> Result<()> {
    let hooks = &bundle.config.hooks;
    if let Some(line) = line
        && !(hooks.prestart.is_empty() && hooks.create_runtime.is_empty())
    {
        let mut answer = [0; STATUS_BYTES_MAX];
        rustix::net::send(line, ROOT, SendFlags::NOSIGNAL).context(|| "hooks")?;
        let received = rustix::net::recv(line, &mut answer, RecvFlags::empty());
        match received.map(|(length, _)| &answer[..length]) {
            Ok(WELL) => {}
            Ok([]) => return Err(Error::new("hooks: their process has ended")),
            Ok(text) => return Err(Error::new(String::from_utf8_lossy(text))),
            Err(cause) => return Err(cause).context(|| "hooks"),
        }
    }
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let state = state(bundle, "creating", own);
    run_all("createContainer", &hooks.create_container, &state)
}

/// In the container's process: everything is as the program will find it.
pub(crate) fn program_starts(bundle: &Bundle) -> Result<()> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let state = state(bundle, "created", own);
    let hooks = &bundle.config.hooks.start_container;
    run_all("startContainer", hooks, &state)
}

/// In the container's process: there will be no program.
pub(crate) fn start_failed(line: Option<&Line>) {
    if let Some(line) = line {
        let _ = rustix::net::send(line, FAILED, SendFlags::NOSIGNAL);
    }
}

/// Returns the state of a container (runtime-spec, "State").
fn state(bundle: &Bundle, status: &str, pid: i32) -> String {
    json!({
        "ociVersion": "1.2.0",
        "id": bundle.id,
        "status": status,
        "pid": pid,
        "bundle": bundle.directory.to_string_lossy(),
        "annotations": bundle.config.annotations,
    })
    .to_string()
}

/// Runs hooks in order, up to the first that fails.
fn run_all(point: &str, hooks: &[Hook], state: &str) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run(hook, state).context(|| format!("hooks.{point}[{index}]: {}", hook.path))?;
    }
    Ok(())
}

fn run(hook: &Hook, state: &str) -> Result<()> {
    let timeout = hook
        .timeout
        .map_or(TIMEOUT, |n| Duration::from_secs(n.into()));
    let (mut output, its_output) = pipe().context(|| "pipe")?;
    let pid = match sys::fork(0).context(|| "clone3")? {
        sys::Fork::Child => {
            let Err(cause) = become_hook(hook, state, &its_output);
            let _ = { its_output }.write_all(cause.to_string().as_bytes());
            sys::exit_now(127)
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(its_output);
    rustix::io::ioctl_fionbio(&output, true).context(|| "pipe")?;
    let mut said = Vec::new();
    let in_time = wait(pid, &mut output, Instant::now() + timeout, &mut said)?;
    if !in_time {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty()).context(|| "wait")?;
    let how = match ended.and_then(|(_, status)| status.exit_status()) {
        _ if !in_time => format!("killed after {} s", timeout.as_secs()),
        Some(0) => return Ok(()),
        Some(status) => format!("exited with status {status}"),
        None => "killed".to_owned(),
    };
    read(&mut output, &mut said);
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        "" => Err(Error::new(how)),
        said => Err(Error::new(format!("{how}: {said}"))),
    }
}

/// Waits for a hook, and reads what it says so that it need not wait for us; returns whether it
/// has ended.
fn wait(pid: Pid, output: &mut PipeReader, end: Instant, said: &mut Vec<u8>) -> Result<bool> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context(|| "pidfd")?;
    let mut is_open = true;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = left.try_into().context(|| "timeout")?;
        let mut fds = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(output, PollFlags::IN),
        ];
        let watched = if is_open { 2 } else { 1 };
        match poll(&mut fds[..watched], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(cause) => return Err(cause).context(|| "poll"),
        }
        is_open = read(output, said);
    }
}

/// Takes what there is, and keeps as much as an error may hold; returns whether there may be more.
fn read(output: &mut PipeReader, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; STATUS_BYTES_MAX];
    match output.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            let room = STATUS_BYTES_MAX / 2 - said.len().min(STATUS_BYTES_MAX / 2);
            said.extend_from_slice(&buffer[..length.min(room)]);
            true
        }
        Err(_) => true,
    }
}

fn become_hook(
    hook: &Hook,
    state: &str,
    output: &std::io::PipeWriter,
) -> Result<std::convert::Infallible> {
    // A file, not a pipe: a hook that does not read must not make us wait.
    let input = rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC).context(|| "memfd")?;
    let mut input = std::fs::File::from(input);
    let rewound = input
        .write_all(state.as_bytes())
        .and_then(|()| std::io::Seek::rewind(&mut input));
    rewound.context(|| "state")?;
    rustix::process::setsid().context(|| "setsid")?;
    rustix::stdio::dup2_stdin(&input).context(|| "standard input")?;
    rustix::stdio::dup2_stdout(output).context(|| "standard output")?;
    rustix::stdio::dup2_stderr(output).context(|| "standard error")?;
    let path = CString::new(hook.path.as_str()).context(|| "path")?;
    let args = match hook.args.as_slice() {
        [] => vec![path.clone()],
        args => process::c_strings(args).context(|| "args")?,
    };
    let env = process::c_strings(&hook.env).context(|| "env")?;
    let _ = sys::close_others_on_exec();
    sys::reset_signals();
    Err(sys::exec(&path, &args, &env)).context(|| "exec")
}
