//! What a container's annotations ask of kiln-init: restarts, order, readiness, how to stop.
//!
//! LinuxKit hands annotations on and reads none of these, so one description serves both. Absent,
//! a container is treated as LinuxKit would: never restarted, waited for by nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};

/// How long a container has to end after its stop signal, unless it says otherwise.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// The first wait before a restart; each one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Whoever ran this long has started well: the next wait is the first again.
pub(crate) const GOOD_RUN: Duration = Duration::from_secs(10);

/// The annotations' answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// `kiln.restart`: `never`, `always`, `on-failure` or `on-failure:TIMES`.
    pub(crate) restart: Restart,
    /// `kiln.depends-on`: services that have to be ready before this one starts, `a,b`.
    pub(crate) depends_on: Vec<String>,
    /// `kiln.ready`: `started`, `tcp:PORT`, `file:PATH` or `notify`.
    pub(crate) ready: Ready,
    /// `kiln.on-failure`, of onboot containers: `continue` or `stop`.
    pub(crate) on_failure: OnFailure,
    /// `kiln.stop-signal`: a name or a number.
    pub(crate) stop_signal: i32,
    /// `kiln.stop-timeout`, in seconds.
    pub(crate) stop_wait: Duration,
    /// `kiln.user`: a user, or `USER:GROUP`, by the container's own `/etc/passwd`.
    pub(crate) user: Option<String>,
    /// `kiln.main`: whether the machine is there for this service: `off`, `on` or `attach`.
    pub(crate) main: Main,
    /// `kiln.terminal`: whether it has a terminal, `on` or `off`, which config.json of a description
    /// cannot say.
    pub(crate) terminal: bool,
    /// `kiln.console`: whether its output is shown there, `on` or `off`.
    pub(crate) console: bool,
}

/// When a service that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Never,
    Always,
    /// When it did not exit with 0: so many times in a row, if there is a number.
    OnFailure(Option<u32>),
}

/// Whether the machine is there for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Main {
    Off,
    /// When it has ended for good, the machine powers off.
    On,
    /// Besides, its standard streams belong to who attaches to it, and wait for him.
    Attach,
}

/// When a service can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Once its program runs.
    Started,
    /// Once one of its processes listens on this port.
    Tcp(u16),
    /// Once this path exists in its root.
    File(String),
    /// Once it sends `READY=1` to `NOTIFY_SOCKET` (sd_notify(3)).
    Notify,
}

/// What becomes of the boot when an onboot container fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    Continue,
    /// Nothing more is started, and the machine is powered off.
    Stop,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            restart: Restart::Never,
            depends_on: Vec::new(),
            ready: Ready::Started,
            on_failure: OnFailure::Continue,
            stop_signal: libc::SIGTERM,
            stop_wait: STOP_WAIT,
            user: None,
            main: Main::Off,
            terminal: false,
            console: true,
        }
    }
}

impl Policy {
    /// Reads the annotations that begin with `kiln.`; the others are not ours.
    pub(crate) fn of(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let mut policy = Self::default();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix("kiln.") else {
                continue;
            };
            policy.set(name, value).map_err(|expected| {
                Error::new(format!("annotations: {key}: {value:?} is not {expected}"))
            })?;
        }
        Ok(policy)
    }

    /// Takes one answer; an error says what it should be.
    fn set(&mut self, name: &str, value: &str) -> std::result::Result<(), &'static str> {
        match name {
            "restart" => {
                self.restart =
                    Restart::parse(value).ok_or("never, always, on-failure or on-failure:TIMES")?;
            }
            "depends-on" => {
                let names = value.split(',').map(str::trim);
                self.depends_on = names
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
            }
            "ready" => {
                self.ready =
                    Ready::parse(value).ok_or("started, tcp:PORT, file:/PATH or notify")?;
            }
            "on-failure" => {
                self.on_failure = match value {
                    "continue" => OnFailure::Continue,
                    "stop" => OnFailure::Stop,
                    _ => return Err("continue or stop"),
                };
            }
            "stop-signal" => self.stop_signal = signal(value).ok_or("a signal")?,
            "stop-timeout" => {
                let seconds = value.trim_end_matches('s').parse::<u32>();
                let seconds = seconds.map_err(|_| "a number of seconds")?;
                self.stop_wait = Duration::from_secs(seconds.into());
            }
            "user" => self.user = Some(value.to_owned()).filter(|user| !user.is_empty()),
            "main" => {
                self.main = match value {
                    "off" => Main::Off,
                    "on" => Main::On,
                    "attach" => Main::Attach,
                    _ => return Err("off, on or attach"),
                };
            }
            "terminal" => self.terminal = switch(value)?,
            "console" => self.console = switch(value)?,
            // A newer kiln may know more.
            _ => {}
        }
        Ok(())
    }
}

fn switch(value: &str) -> std::result::Result<bool, &'static str> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off"),
    }
}

impl Restart {
    fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "never" | "no" => Self::Never,
            "always" => Self::Always,
            "on-failure" => Self::OnFailure(None),
            _ => {
                let times = value.strip_prefix("on-failure:")?;
                Self::OnFailure(Some(times.parse().ok()?))
            }
        })
    }

    /// Returns how long to wait before a start after `failed` short runs in a row, or none when
    /// there is to be no other start.
    pub(crate) fn wait(self, succeeded: bool, failed: u32) -> Option<Duration> {
        let again = match self {
            Self::Never => false,
            Self::Always => true,
            Self::OnFailure(None) => !succeeded,
            Self::OnFailure(Some(times)) => !succeeded && failed <= times,
        };
        let doubled = BACKOFF_MIN.saturating_mul(1 << failed.saturating_sub(1).min(16));
        again.then_some(doubled.min(BACKOFF_MAX))
    }
}

impl Ready {
    fn parse(value: &str) -> Option<Self> {
        Some(match value.split_once(':') {
            None if value == "started" => Self::Started,
            None if value == "notify" => Self::Notify,
            Some(("tcp", port)) => Self::Tcp(port.parse().ok().filter(|port| *port != 0)?),
            Some(("file", path)) if path.starts_with('/') => Self::File(path.to_owned()),
            _ => return None,
        })
    }
}

/// Signals by name (signal(7)), as far as anyone stops a service with them.
const SIGNALS: [(&str, i32); 10] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("TERM", libc::SIGTERM),
    ("WINCH", libc::SIGWINCH),
    ("PWR", libc::SIGPWR),
];

/// Signals of programs that went wrong.
const FAULTS: [(&str, i32); 6] = [
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("SEGV", libc::SIGSEGV),
    ("SYS", libc::SIGSYS),
];

/// Reads a signal: `SIGTERM`, `term`, `15`, or of the real-time ones `RTMIN+3`.
pub(crate) fn signal(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = match name.strip_prefix("RTMIN+") {
        Some(above) => libc::SIGRTMIN().checked_add(above.parse().ok()?)?,
        None => name.parse().ok()?,
    };
    (1..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

/// Returns what people call a signal.
pub(crate) fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().chain(&FAULTS).find(|(_, n)| *n == number);
    known.map_or_else(|| number.to_string(), |(name, _)| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Policy> {
        let pairs = pairs.iter();
        Policy::of(
            &pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn annotations_are_read_and_those_of_others_passed_over() {
        assert_eq!(of(&[("org.example", "x")]).unwrap(), Policy::default());
        let policy = of(&[
            ("kiln.restart", "on-failure:3"),
            ("kiln.depends-on", "db, cache"),
            ("kiln.ready", "tcp:80"),
            ("kiln.stop-signal", "SIGQUIT"),
            ("kiln.stop-timeout", "30s"),
            ("kiln.on-failure", "stop"),
            ("kiln.console", "off"),
            ("kiln.user", "web:www"),
            ("kiln.main", "on"),
            ("kiln.later", "?"),
        ]);
        let expected = Policy {
            restart: Restart::OnFailure(Some(3)),
            depends_on: vec!["db".into(), "cache".into()],
            ready: Ready::Tcp(80),
            on_failure: OnFailure::Stop,
            stop_signal: libc::SIGQUIT,
            stop_wait: Duration::from_secs(30),
            user: Some("web:www".into()),
            main: Main::On,
            terminal: false,
            console: false,
        };
        assert_eq!(policy.unwrap(), expected);
        let wrong = of(&[("kiln.ready", "tcp:0")]).unwrap_err().to_string();
        assert_eq!(
            wrong,
            "annotations: kiln.ready: \"tcp:0\" is not started, tcp:PORT, file:/PATH or notify"
        );
    }

    #[test]
    fn waits_grow_and_end() {
        let always = |failed| Restart::Always.wait(true, failed).unwrap().as_millis();
        assert_eq!(
            [always(0), always(1), always(2), always(3)],
            [100, 100, 200, 400]
        );
        assert_eq!((always(8), always(u32::MAX)), (10_000, 10_000));
        assert_eq!(Restart::Never.wait(false, 1), None);
        assert_eq!(Restart::OnFailure(None).wait(true, 0), None);
        assert!(Restart::OnFailure(Some(2)).wait(false, 2).is_some());
        assert_eq!(Restart::OnFailure(Some(2)).wait(false, 3), None);
    }

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal("SIGTERM"), Some(15));
        assert_eq!(signal("quit"), Some(3));
        assert_eq!(signal("9"), Some(9));
        assert_eq!(signal("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        for wrong in ["", "0", "-1", "65", "SIGNOPE", "RTMIN+99"] {
            assert_eq!(signal(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_fine(name in "restart|ready|stop-signal|stop-timeout|depends-on", value: String) {
            let _ = of(&[(&format!("kiln.{name}"), &value)]);
        }
    }
}
