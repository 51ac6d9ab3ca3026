//! One process, measured from outside.
//!
//! Enters: a command. Leaves: what it took, or why it failed. Time is from before the process is
//! made until the kernel says that it ended. Its output goes to files, which nobody has to read
//! meanwhile; it has a process group of its own, so that a signal to it reaches its children.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::failure::Failure;
use crate::signals::Interruption;
use crate::ui::printer::{printable, say};

/// How often a signal is looked for while a child runs; its end is seen at once.
const SIGNAL_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// What a child may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(3);
/// What is shown of a failed child's stderr: its end.
const STDERR_SHOWN: u64 = 16 << 10;
const STDOUT_MAX: u64 = 64 << 20;

/// What a process took. Memory and sizes are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) seconds: f64,
    /// Peak resident memory of the process or, if larger, of a process that it waited for:
    /// `ru_maxrss` of wait4(2), which is never less than this process's own at the time.
    pub(super) memory: u64,
    /// Read and written through system calls, `rchar` and `wchar` of proc_pid_io(5), children that
    /// it waited for included; sockets and mapped files do not count. None when it cannot be read.
    pub(super) calls: Option<(u64, u64)>,
    /// Read from and written to storage: `ru_inblock` and `ru_oublock`, times 512.
    pub(super) storage: (u64, u64),
}

/// Runs commands and measures them.
pub(super) struct Runner<'a> {
    /// Where their output goes.
    pub(super) directory: &'a Path,
    pub(super) interruption: &'a Interruption,
}

impl Runner<'_> {
    /// Runs a command, called `what` in errors. Returns what it took and, when it is `heard`, its
    /// standard output.
    ///
    /// # Errors
    /// When it cannot be run, fails, or is interrupted; its stderr has then been shown.
    pub(super) fn run(
        &self,
        mut command: Command,
        what: &str,
        heard: bool,
    ) -> Result<(Usage, String), Failure> {
        let (out, err) = (self.directory.join("stdout"), self.directory.join("stderr"));
        let failed = |error: io::Error| {
            Failure::failed(
                format!("cannot run {what}"),
                Some(&error),
                Some("choose a directory that can be written to with --work DIR".into()),
            )
        };
        command
            .stdin(Stdio::null())
            .stdout(match heard {
                true => File::create(&out).map_err(failed)?.into(),
                false => Stdio::null(),
            })
            .stderr(File::create(&err).map_err(failed)?)
            .process_group(0);
        let began = Instant::now();
        let child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            return Err(failed(io::ErrorKind::InvalidData.into()));
        };
        // From here on the child must be waited for, whatever happens.
        let ended = self.wait(pid, began);
        if ended.is_err() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let calls = io_of(pid);
        let (status, mut usage) = reap(pid).map_err(failed)?;
        let interrupted = self.is_interrupted();
        usage.seconds = ended.map_err(failed)?.as_secs_f64();
        usage.calls = calls;
        if interrupted {
            let failure = Failure::interrupted(self.interruption.number());
            return Err(failure.hint("a measurement that did not end leaves nothing".into()));
        }
        if !status.success() {
            let said = printable(&tail(&err));
            if !said.trim().is_empty() {
                say(said.trim_end());
            }
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "did not end".to_owned(),
            };
            let hint = match said.trim().is_empty() {
                true => "it said nothing about it",
                false => "above is what it said",
            };
            let message = format!("{what} {how}");
            return Err(Failure::failed(message, None, Some(hint.to_owned())));
        }
        let mut stdout = String::new();
        if heard {
            let file = File::open(&out).map_err(failed)?;
            file.take(STDOUT_MAX)
                .read_to_string(&mut stdout)
                .map_err(failed)?;
        }
        Ok((usage, stdout))
    }

    /// Returns whether a signal has asked for the end.
    pub(super) fn is_interrupted(&self) -> bool {
        let flag = self.interruption.flag();
        flag.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits for the end of a child, which stays to be reaped. A signal ends it, too: softly first.
    fn wait(&self, pid: Pid, began: Instant) -> io::Result<Duration> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut told: Option<Instant> = None;
        loop {
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&SIGNAL_INTERVAL)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(began.elapsed()),
                Err(error) => return Err(error.into()),
            }
            if !self.is_interrupted() {
                continue;
            }
            let signal = match told {
                None => Signal::TERM,
                Some(told) if told.elapsed() > GRACE => Signal::KILL,
                Some(_) => continue,
            };
            told.get_or_insert_with(Instant::now);
            // It may have ended just now.
            let _ = kill_process_group(pid, signal);
        }
    }
}

/// Reads what an ended process has read and written; it stays known until it is reaped.
fn io_of(pid: Pid) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero())).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some((field("rchar:")?, field("wchar:")?))
}

/// Waits for a process and returns what it took, but for the time.
fn reap(pid: Pid) -> io::Result<(ExitStatus, Usage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero bytes are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types wait4(2) wants.
        let done = unsafe {
            libc::wait4(
                pid.as_raw_nonzero().get(),
                &raw mut status,
                0,
                &raw mut usage,
            )
        };
        if done >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // Of types that differ between machines, and never negative.
    let count = |value: libc::c_long, unit: u64| u64::try_from(value).unwrap_or_default() * unit;
    Ok((
        ExitStatus::from_raw(status),
        Usage {
            memory: count(usage.ru_maxrss, 1024),
            storage: (count(usage.ru_inblock, 512), count(usage.ru_oublock, 512)),
            ..Usage::default()
        },
    ))
}

/// Returns the end of a text file.
fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(STDERR_SHOWN)))?;
        let mut bytes = Vec::new();
        file.take(STDERR_SHOWN).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
