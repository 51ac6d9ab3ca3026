//! A monitor of ours: started, attached to, ended.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::console::{Console, Made};
use super::monitor::{Ask, Monitor};
use super::place::{PORTS, Place};
use super::{control, log};
use crate::ui::printer::Printer;

/// It makes its sockets at once, or has something to say.
const START_MAX: Duration = Duration::from_secs(20);
/// How long a guest has to end after its power button was pressed.
pub(crate) const POWER_OFF_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A monitor whose console has closed ends within this, or has another reason.
const CLOSED_MAX: Duration = Duration::from_secs(1);
const SIGNAL_EVERY: Duration = Duration::from_millis(100);

/// A running monitor.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    monitor: Monitor,
    place: Place,
}

impl Process {
    /// Starts it. A `detached` one lives on when kiln ends; the other ends with kiln, however.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        monitor: Monitor,
        program: &Path,
        arguments: &[OsString],
        place: Place,
        detached: bool,
    ) -> io::Result<Self> {
        let log = File::create(place.monitor_log())?;
        let mut command = Command::new(program);
        match monitor {
            Monitor::Qemu | Monitor::CloudHypervisor => {
                command.stdin(Stdio::null()).stdout(log.try_clone()?);
            }
            // Its standard streams are the machine's serial line.
            Monitor::Firecracker => {
                let (stdin, stdout) = Console::make(&place)?;
                command.stdin(stdin).stdout(stdout);
            }
        }
        command
            .args(arguments)
            .stderr(log)
            // Ctrl-C on our terminal is not for it.
            .process_group(0);
        if !detached {
            die_with_us(&mut command);
        }
        Ok(Self {
            child: command.spawn()?,
            monitor,
            place,
        })
    }

    /// Connects to its console. A machine that waits for that begins then.
    ///
    /// # Errors
    /// When it ends before, makes no console, or it is `cancelled`.
    pub(crate) fn console(&mut self, cancelled: impl Fn() -> bool) -> io::Result<Console> {
        let monitor = self.monitor;
        let console = self.wait_for(&cancelled, |place| Console::open(monitor, place))?;
        self.wait_for_machine(cancelled)?;
        Ok(console)
    }

    /// Returns the console that follows one that has closed: Cloud Hypervisor makes another socket
    /// when its guest reboots. None when the machine has ended, or it is `cancelled`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) fn next_console(
        &mut self,
        closed: Option<Made>,
        cancelled: impl Fn() -> bool,
        printer: Printer,
    ) -> io::Result<Option<Console>> {
        let began = Instant::now();
        let mut told = false;
        while self.wait(Some(SIGNAL_EVERY))?.is_none() && !cancelled() {
            if Made::of(&self.place) != closed
                && let Ok(console) = Console::open(self.monitor, &self.place)
            {
                return Ok(Some(console));
            }
            // Cloud Hypervisor's is the last one's who came.
            if !told && began.elapsed() > CLOSED_MAX {
                let name = self.place.name();
                let text = "whose console has closed, or is another's; Ctrl-C ends it";
                printer.done("Waiting", &format!("for {name}, {text}"));
                told = true;
            }
        }
        Ok(None)
    }

    /// Waits until it has made all its sockets, of which this one is the last.
    ///
    /// # Errors
    /// When it ends before, or it is `cancelled`.
    pub(crate) fn wait_for_sockets(&mut self, cancelled: impl Fn() -> bool) -> io::Result<()> {
        let last = match self.monitor {
            Monitor::Qemu => self.place.port(PORTS - 1),
            Monitor::Firecracker | Monitor::CloudHypervisor => self.place.api(),
        };
        self.wait_for(&cancelled, |_| UnixStream::connect(&last).map(drop))?;
        self.wait_for_machine(cancelled)
    }

    /// Waits until the machine runs, which is when the monitor's configuration was found good.
    fn wait_for_machine(&mut self, cancelled: impl Fn() -> bool) -> io::Result<()> {
        let monitor = self.monitor;
        self.wait_for(cancelled, |place| match monitor.has_begun(place) {
            true => Ok(()),
            false => Err(io::Error::other("the machine does not begin")),
        })
    }

    fn wait_for<T>(
        &mut self,
        cancelled: impl Fn() -> bool,
        done: impl Fn(&Place) -> io::Result<T>,
    ) -> io::Result<T> {
        let began = Instant::now();
        loop {
            if cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match done(&self.place) {
                Ok(done) => return Ok(done),
                Err(error) if began.elapsed() > START_MAX => return Err(error),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns what it has said itself.
    pub(crate) fn complaint(&self) -> String {
        let text = log::tail(&self.place.monitor_log());
        let lines = text
            .lines()
            .filter(|line| !line.contains("waiting for connection"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Waits for its end, at most so long if there is a limit.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
        let Some(limit) = limit else {
            return self.child.wait().map(Some);
        };
        let began = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(Some(status)),
                None if began.elapsed() > limit => return Ok(None),
                None => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Ends the machine: in order when the guest hears that it should, else at once.
    pub(crate) fn end(&mut self, in_order: bool) {
        let ask = |what| self.monitor.ask(&self.place, what);
        let asked = || control::power_off(&self.place) || ask(Ask::PowerButton).is_ok();
        if in_order
            && asked()
            && let Ok(Some(_)) = self.wait(Some(POWER_OFF_MAX))
        {
            return;
        }
        let asked = self.monitor.ask(&self.place, Ask::Quit);
        if asked.is_err() || !matches!(self.wait(Some(START_MAX)), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Has the kernel end a child when this process ends, even by SIGKILL. It forgets that when the child
/// runs a program that is setuid or has capabilities (`PR_SET_PDEATHSIG` of prctl(2)).
pub(super) fn die_with_us(command: &mut Command) {
    let parent = rustix::process::getpid();
    let bind = move || {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal)?;
        // We may have ended before that.
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::ErrorKind::Interrupted.into()),
        }
    };
    // SAFETY: two system calls, which allocate nothing and take no lock.
    unsafe { command.pre_exec(bind) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// One that makes no sockets, or ends in order.
    fn sleeper(space: &Path, monitor: Monitor) -> Process {
        let place = Place::at(space, "a");
        Process::start(monitor, Path::new("sleep"), &["600".into()], place, false).unwrap()
    }

    const PRINTER: Printer = Printer {
        color: false,
        verbose: false,
        quiet: true,
        terminal: false,
    };

    #[test]
    fn a_signal_ends_the_wait_for_a_monitor_that_starts() {
        let space = tempfile::tempdir().unwrap();
        let mut process = sleeper(space.path(), Monitor::Qemu);
        let began = Instant::now();
        let asked = Cell::new(0);
        let cancelled = || asked.replace(asked.get() + 1) > 3;
        let error = process.console(cancelled).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        let error = process.wait_for_sockets(cancelled).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(began.elapsed() < START_MAX / 2);
        process.end(false);
    }

    /// Cloud Hypervisor's, at a reboot: the socket is another's, and then it is another socket.
    #[test]
    fn a_console_that_closed_is_followed_by_the_next_or_by_a_signal() {
        let space = tempfile::tempdir().unwrap();
        let mut process = sleeper(space.path(), Monitor::CloudHypervisor);
        let socket = process.place.console();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let first = Made::of(&process.place);
        assert!(first.is_some());
        let asked = Cell::new(0);
        let cancelled = || asked.replace(asked.get() + 1) > 3;
        let next = process.next_console(first, cancelled, PRINTER).unwrap();
        assert!(next.is_none(), "it is not taken back from another");

        drop(listener);
        std::fs::remove_file(&socket).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let next = process.next_console(first, || false, PRINTER).unwrap();
        assert!(matches!(next, Some(Console::Socket(..))));

        let second = Made::of(&process.place);
        process.end(false);
        let next = process.next_console(second, || false, PRINTER).unwrap();
        assert!(next.is_none());
    }
}
