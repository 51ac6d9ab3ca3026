//! The scenarios: what is there before a build, and the build that is measured.
//!
//! Enters: the system and the flags of its builds. Leaves: samples. Everything happens in a
//! directory that vanishes with the run:
//!
//! ```text
//! cold/cache, cold/out   emptied before every cold build
//! cache, out             one life: built anew, again, with another file, with another service
//! note.yml, note.txt     one more entry of `files`, whose content changes
//! other.yml              the system with another image in one service
//! against                where the command of --against may write
//! ```

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::child::{Runner, Usage};
use super::swap::Swap;
use crate::args::Scenario;
use crate::failure::Failure;

/// Work that is the same whatever kiln is: a process is made, and counts.
const YARDSTICK: &str = "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done";
/// Less than this does not keep a disk from anything.
const MUCH_BYTES: u64 = 32 << 20;
/// The path of the file that changes, in the system.
const NOTE: &str = "kiln-bench.txt";

impl Scenario {
    /// All, in the order of one life: each finds what it needs where the one before has left it.
    pub(super) const ALL: [Self; 5] = [
        Self::Cold,
        Self::Warm,
        Self::NothingChanged,
        Self::OneFileChanged,
        Self::OneServiceSwapped,
    ];

    /// Returns the name for programs, which is that of the flag's value.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::NothingChanged => "nothing-changed",
            Self::OneFileChanged => "one-file-changed",
            Self::OneServiceSwapped => "one-service-swapped",
        }
    }

    /// Returns the name for people.
    pub(super) fn title(self) -> String {
        self.name().replace('-', " ")
    }
}

/// One measured build.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) usage: Usage,
    /// Steps from the cache and steps done; neither when nothing had to be looked at.
    pub(super) cached: u64,
    pub(super) ran: u64,
    pub(super) up_to_date: bool,
    /// Size of the outputs.
    pub(super) bytes: u64,
}

/// A place to measure in.
pub(super) struct Lab<'a> {
    pub(super) runner: Runner<'a>,
    /// The program: this one.
    pub(super) kiln: PathBuf,
    /// `kiln build`'s flags, without those that say where.
    pub(super) flags: Vec<OsString>,
    pub(super) files: Vec<PathBuf>,
    /// Prefix of the outputs.
    pub(super) name: String,
    pub(super) swap: Option<Swap>,
    /// Counts the contents of the file that changes.
    pub(super) changes: Cell<u64>,
    /// Bytes that builds have written to storage since it was last waited for.
    pub(super) written: Cell<u64>,
}

impl Lab<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.runner.directory.join(name)
    }

    /// Makes the files and fills the cache; `lock` is the description's, which may not be there.
    ///
    /// # Errors
    /// When the directory cannot be written, or the system does not build.
    pub(super) fn set_up(&self, lock: &Path) -> Result<(), Failure> {
        let cannot = cannot_write(self.runner.directory);
        let note = serde_json::json!({"files": [{
            "path": NOTE,
            "source": self.note(),
            "mode": "0644",
        }]});
        let made = fs::create_dir_all(self.path("out"))
            .and_then(|()| fs::create_dir_all(self.path("against")))
            // JSON is YAML.
            .and_then(|()| fs::write(self.path("note.yml"), note.to_string()))
            .and_then(|()| self.change());
        made.map_err(&cannot)?;
        if let Some(swap) = &self.swap {
            fs::write(self.path("other.yml"), &swap.yaml).map_err(&cannot)?;
            match fs::copy(lock, self.path("other.lock")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(cannot(error));
                }
                _ => {}
            }
            self.build("preparing", "", &[self.path("other.yml")])?;
        }
        self.settle()
    }

    /// Builds the user's system without measuring, so that it is what is there.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        self.build("preparing", "", &self.files).map(drop)
    }

    /// The file that changes, as JSON text takes it.
    pub(super) fn note(&self) -> String {
        self.path("note.txt").to_string_lossy().into_owned()
    }

    fn change(&self) -> io::Result<()> {
        self.changes.set(self.changes.get() + 1);
        let text = format!("content {} of kiln bench\n", self.changes.get());
        fs::write(self.path("note.txt"), text)
    }

    /// Brings about what a scenario starts from.
    ///
    /// # Errors
    /// When that cannot be written, or a build for it fails.
    pub(super) fn prepare(&self, scenario: Scenario) -> Result<(), Failure> {
        let cannot = cannot_write(self.runner.directory);
        match scenario {
            Scenario::Cold => {
                empty(&self.path("cold"))
                    .and_then(|()| fs::create_dir(self.path("cold/out")))
                    .map_err(cannot)?;
            }
            Scenario::Warm => empty(&self.path("out")).map_err(cannot)?,
            Scenario::NothingChanged => {}
            Scenario::OneFileChanged => self.change().map_err(cannot)?,
            Scenario::OneServiceSwapped => {
                self.build("preparing a swap", "", &self.swapped(false))?;
            }
        }
        Ok(())
    }

    /// Does and measures a scenario's build.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn measure(&self, scenario: Scenario) -> Result<Sample, Failure> {
        let what = scenario.title();
        match scenario {
            Scenario::Cold => self.build(&what, "cold", &self.files),
            Scenario::OneServiceSwapped => self.build(&what, "", &self.swapped(true)),
            _ => self.build(&what, "", &self.files),
        }
    }

    /// Returns the descriptions before a swap, or after it.
    fn swapped(&self, after: bool) -> Vec<PathBuf> {
        match &self.swap {
            Some(swap) if swap.to_other == after => vec![self.path("other.yml")],
            _ => self.files.clone(),
        }
    }

    fn build(&self, what: &str, place: &str, files: &[PathBuf]) -> Result<Sample, Failure> {
        let place = self.path(place);
        let mut command = Command::new(&self.kiln);
        command
            // A cold build with a full cache behind it is none.
            .env_remove("KILN_CACHE_FROM")
            .args(["build", "--json", "--name", &self.name, "--dir"])
            .arg(place.join("out"))
            .arg("--cache")
            .arg(place.join("cache"))
            .args(&self.flags)
            .arg("--")
            // The last one names the system and its lock.
            .arg(self.path("note.yml"))
            .args(files);
        let what = format!("kiln build ({what})");
        let (usage, events) = self.runner.run(command, &what, true)?;
        self.written.set(self.written.get() + usage.storage.1);
        sample(usage, &events).ok_or_else(|| {
            let message = format!("{what} did not end with a report");
            Failure::failed(message, None, None)
        })
    }

    /// Runs a command of --against and measures it.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn other(
        &self,
        text: &str,
        scenario: Scenario,
        round: u32,
    ) -> Result<Usage, Failure> {
        let output = self.path("against");
        if matches!(scenario, Scenario::Cold | Scenario::Warm) {
            empty(&output).map_err(cannot_write(self.runner.directory))?;
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", text])
            .env("KILN_BENCH_ROUND", round.to_string())
            .env("KILN_BENCH_OUTPUT", output)
            .env("KILN_BENCH_FILE", self.note());
        let (usage, _) = self.runner.run(command, &format!("`{text}`"), false)?;
        self.written.set(self.written.get() + usage.storage.1);
        Ok(usage)
    }

    /// Measures the machine: what the same work takes, now.
    ///
    /// # Errors
    /// When there is no shell.
    pub(super) fn yardstick(&self) -> Result<f64, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", YARDSTICK]);
        let (usage, _) = self.runner.run(command, "the shell's yardstick", false)?;
        Ok(usage.seconds)
    }

    /// Waits until what was written is on the disk, when it is much, so that nobody pays for
    /// those before.
    pub(super) fn quiet_down(&self) {
        if self.written.replace(0) < MUCH_BYTES {
            return;
        }
        let directory = fs::File::open(self.runner.directory);
        // Without it there is more noise, and nothing else.
        let _ = directory.map(rustix::fs::syncfs);
    }
}

fn cannot_write(directory: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| {
        Failure::failed(
            format!("cannot write in {}", directory.display()),
            Some(&error),
            Some("choose a directory with room, and yours, with --work DIR".into()),
        )
    }
}

/// Makes a directory that is empty.
fn empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir(directory),
    }
}

/// Returns what the last event says, which is the report.
fn sample(usage: Usage, events: &str) -> Option<Sample> {
    let report: Value = serde_json::from_str(events.lines().next_back()?).ok()?;
    let outputs = report["outputs"].as_array()?;
    Some(Sample {
        usage,
        cached: report["cached"].as_u64()?,
        ran: report["ran"].as_u64()?,
        up_to_date: report["up_to_date"].as_bool()?,
        bytes: outputs.iter().filter_map(|it| it["bytes"].as_u64()).sum(),
    })
}
