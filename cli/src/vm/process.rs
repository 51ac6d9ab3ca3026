//! A monitor of ours: started, attached to, ended.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::console::Console;
use super::control;
use super::monitor::{Ask, Monitor};
use super::place::{PORTS, Place};

/// It makes its sockets at once, or has something to say.
const START_MAX: Duration = Duration::from_secs(20);
/// How long a guest has to end after its power button was pressed.
pub(crate) const POWER_OFF_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
    /// When it ends before, or makes no console.
    pub(crate) fn console(&mut self) -> io::Result<Console> {
        let monitor = self.monitor;
        let console = self.wait_for(|place| Console::open(monitor, place))?;
        self.wait_for_machine()?;
        Ok(console)
    }

    /// Waits until it has made all its sockets, of which this one is the last.
    ///
    /// # Errors
    /// When it ends before.
    pub(crate) fn wait_for_sockets(&mut self) -> io::Result<()> {
        let last = match self.monitor {
            Monitor::Qemu => self.place.port(PORTS - 1),
            Monitor::Firecracker | Monitor::CloudHypervisor => self.place.api(),
        };
        self.wait_for(|_| UnixStream::connect(&last).map(drop))?;
        self.wait_for_machine()
    }

    /// Waits until the machine runs, which is when the monitor's configuration was found good.
    fn wait_for_machine(&mut self) -> io::Result<()> {
        let monitor = self.monitor;
        self.wait_for(|place| match monitor.has_begun(place) {
            true => Ok(()),
            false => Err(io::Error::other("the machine does not begin")),
        })
    }

    fn wait_for<T>(&mut self, done: impl Fn(&Place) -> io::Result<T>) -> io::Result<T> {
        let began = Instant::now();
        loop {
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
        let text = fs::read_to_string(self.place.monitor_log()).unwrap_or_default();
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

/// Has the kernel end a child when this process ends, even by SIGKILL.
fn die_with_us(command: &mut Command) {
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
