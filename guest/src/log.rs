//! Container output: bytes of a pipe in; whole lines on the console and in memory, and raw bytes
//! in a file, out.
//!
//! File names are LinuxKit's (`pkg/init/cmd/service`): stdout goes to `NAME.out.log`, stderr to
//! `NAME.log`, in `/var/log` for services and `/run/log/…` for the others, whose files must
//! survive a mount over `/var`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::bundle::{Phase, make_directories, short_name};
use crate::error::{Context, Result};
use crate::{console, say};

/// Longest line kept together on the console; a longer one is shown in pieces.
const LINE_BYTES_MAX: usize = 4096;
/// Bytes taken from one stream before the others get their turn.
const READ_BYTES_MAX: usize = 64 << 10;
/// Memory for the last lines of a container.
const RING_BYTES_MAX: usize = 256 << 10;
/// What a line costs beside its text.
const LINE_COST_BYTES: usize = size_of::<Line>();
/// A log file that would become larger starts over.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Full log files that are kept.
const FULL_FILES_MAX: u32 = 4;

/// Which output of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands every finished line to `line`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.flush(&mut line);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LINE_BYTES_MAX {
            self.flush(&mut line);
        }
    }

    /// Hands over what is left without a newline, if anything.
    pub(crate) fn finish(&mut self, line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            self.flush(line);
        }
    }

    fn flush(&mut self, mut line: impl FnMut(&[u8])) {
        let text = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        if text.is_empty() {
            line(b"");
        }
        for piece in text.chunks(LINE_BYTES_MAX) {
            line(piece);
        }
        self.partial.clear();
    }
}

/// A line that a container printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// When, by the machine's clock.
    pub(crate) time: Duration,
    /// Where.
    pub(crate) output: Output,
    /// Without newline.
    pub(crate) text: Vec<u8>,
}

/// The last lines of a container, numbered from its first.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    /// The number of the first line that is kept.
    first: u64,
}

impl Ring {
    fn push(&mut self, line: Line) {
        self.bytes += line.text.len() + LINE_COST_BYTES;
        self.lines.push_back(line);
        while self.bytes > RING_BYTES_MAX {
            let Some(gone) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= gone.text.len() + LINE_COST_BYTES;
            self.first += 1;
        }
    }

    /// Returns the number that the next line will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Returns a line by number; one that is gone is the first that is left. With its number.
    pub(crate) fn get(&self, number: u64) -> Option<(u64, &Line)> {
        let number = number.max(self.first);
        let index = usize::try_from(number - self.first).ok()?;
        Some((number, self.lines.get(index)?))
    }
}

/// A log file that starts over when it is full; the full ones are `NAME.0` (the newest), `NAME.1`
/// and so on, as LinuxKit's `logwrite` has them.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Makes an empty one.
    fn create(path: PathBuf) -> Result<Self> {
        if let Some(directory) = path.parent() {
            make_directories(directory)?;
        }
        let file = create(&path)?;
        Ok(Self {
            path,
            file,
            bytes: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.bytes > 0 && self.bytes + bytes.len() as u64 > FILE_BYTES_MAX {
            self.rotate()?;
        }
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).context(|| self.path.display())
    }

    fn rotate(&mut self) -> Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..FULL_FILES_MAX).rev() {
            // There may be fewer yet.
            let _ = fs::rename(numbered(number - 1), numbered(number));
        }
        fs::rename(&self.path, numbered(0)).context(|| self.path.display())?;
        self.file = create(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

/// Makes a file anew. Containers may have `/var/log`: what they put there is neither followed nor
/// waited for.
fn create(path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let _ = fs::remove_file(path);
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644));
    file.map(File::from).context(|| path.display())
}

/// Everything a container prints, over all its starts.
#[derive(Debug)]
pub(crate) struct Journal {
    /// The container.
    pub(crate) id: String,
    /// Its last lines.
    pub(crate) ring: Ring,
    phase: Phase,
    prefix: String,
    to_console: bool,
    /// Of standard output and standard error.
    files: [Option<LogFile>; 2],
}

impl Journal {
    /// Begins a container's log. Without a log file (said once) the console still gets the lines.
    pub(crate) fn new(id: &str, phase: Phase, to_console: bool, to_files: bool) -> Self {
        let file = |output| {
            let path = path(id, phase, output);
            let made = to_files.then(|| LogFile::create(path))?;
            made.inspect_err(|cause| say!("{cause}; no log file for {id}"))
                .ok()
        };
        Self {
            id: id.to_owned(),
            ring: Ring::default(),
            phase,
            prefix: format!("{} | ", short_name(id)),
            to_console,
            files: [file(Output::Stdout), file(Output::Stderr)],
        }
    }

    /// Returns whether this is the log of that container.
    pub(crate) fn is_of(&self, id: &str, phase: Phase) -> bool {
        self.id == id && self.phase == phase
    }

    /// Returns what LinuxKit's memlogd calls an output: the log file's name without its end.
    pub(crate) fn source(&self, output: Output) -> String {
        let path = path(&self.id, self.phase, output);
        let stem = path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    fn bytes(&mut self, output: Output, bytes: &[u8]) {
        let file = &mut self.files[output as usize];
        if let Some(open) = file
            && let Err(cause) = open.write(bytes)
        {
            // A full /var must not repeat this for every line.
            say!("{}log file given up: {cause}", self.prefix);
            *file = None;
        }
    }

    pub(crate) fn line(&mut self, output: Output, text: &[u8]) {
        if self.to_console {
            console::line(&self.prefix, text);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        self.ring.push(Line {
            time: Duration::try_from(now).unwrap_or_default(),
            output,
            text: text.to_vec(),
        });
    }
}

/// One pipe from a container.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The reading end, non-blocking.
    pub(crate) fd: OwnedFd,
    /// Nothing more will come.
    pub(crate) ended: bool,
    /// Which of the logs gets it.
    pub(crate) journal: usize,
    /// Only who is attached to the container reads it.
    pub(crate) held: bool,
    output: Output,
    lines: Lines,
}

impl Stream {
    /// Takes over a pipe.
    pub(crate) fn new(fd: OwnedFd, output: Output, journal: usize, held: bool) -> Self {
        Self {
            fd,
            ended: false,
            journal,
            held,
            output,
            lines: Lines::default(),
        }
    }

    /// Passes on what is there, to the log and to `sink`.
    pub(crate) fn pump(&mut self, journal: &mut Journal, mut sink: impl FnMut(Output, &[u8])) {
        let mut buffer = [0; 8 << 10];
        let mut taken = 0;
        while taken < READ_BYTES_MAX {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(n @ 1..) => {
                    taken += n;
                    journal.bytes(self.output, &buffer[..n]);
                    sink(self.output, &buffer[..n]);
                    let output = self.output;
                    self.lines
                        .feed(&buffer[..n], |line| journal.line(output, line));
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => {
                    let output = self.output;
                    self.lines.finish(|line| journal.line(output, line));
                    self.ended = true;
                    return;
                }
            }
        }
    }
}

/// Returns the log file of a container's output.
pub(crate) fn path(id: &str, phase: Phase, output: Output) -> PathBuf {
    let (directory, kind) = match phase {
        Phase::Service => ("/var/log", ""),
        Phase::Onboot => ("/run/log/onboot", "onboot."),
        Phase::Onshutdown => ("/run/log/shutdown", "shutdown."),
    };
    let suffix = match output {
        Output::Stdout => ".out.log",
        Output::Stderr => ".log",
    };
    PathBuf::from(format!("{directory}/{kind}{id}{suffix}"))
}

/// Leads from `/var/log` to the log files of onboot, which have all been run: it may be on a disk
/// that one of them has mounted, with a link of an earlier boot.
pub(crate) fn link_onboot() {
    let directory = Path::new("/var/log");
    let linked = make_directories(directory).and_then(|()| {
        match std::os::unix::fs::symlink("/run/log/onboot", directory.join("onboot")) {
            Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(cause).context(|| "/var/log/onboot")
            }
            _ => Ok(()),
        }
    });
    if let Err(cause) = linked {
        say!("{cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece, |line| out.push(line.to_vec()));
        }
        lines.finish(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn lines_whatever_the_pieces() {
        assert_eq!(
            cut(&[b"a\nb", b"c\r\n", b"\nd"]),
            [&b"a"[..], b"bc", b"", b"d"]
        );
        assert!(cut(&[b""]).is_empty());
    }

    #[test]
    fn names_of_linuxkit() {
        let of = |phase, output| path("000-a", phase, output).display().to_string();
        assert_eq!(
            of(Phase::Onboot, Output::Stdout),
            "/run/log/onboot/onboot.000-a.out.log"
        );
        assert_eq!(
            of(Phase::Onshutdown, Output::Stderr),
            "/run/log/shutdown/shutdown.000-a.log"
        );
        assert_eq!(of(Phase::Service, Output::Stdout), "/var/log/000-a.out.log");
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut ring = Ring::default();
        let line = |number: u64| Line {
            time: Duration::ZERO,
            output: Output::Stdout,
            text: format!("{number:>1000}").into_bytes(),
        };
        for number in 0..1000 {
            ring.push(line(number));
        }
        assert_eq!(ring.end(), 1000);
        let (first, oldest) = ring.get(0).unwrap();
        assert_eq!(*oldest, line(first));
        let kept = 1000 - first;
        assert!((200..260).contains(&kept), "{kept}");
        assert_eq!(ring.get(999).unwrap(), (999, &line(999)));
        assert_eq!(ring.get(1000), None);
    }

    #[test]
    fn full_files_are_numbered_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut log = LogFile::create(path.clone()).unwrap();
        for number in 0..8_u8 {
            log.write(&vec![number; 700 << 10]).unwrap();
        }
        let first = |suffix: &str| {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            fs::read(name).map(|bytes| (bytes[0], bytes.len())).ok()
        };
        let size = 700 << 10;
        assert_eq!(first(""), Some((7, size)));
        let full = [".0", ".1", ".2", ".3", ".4"].map(first);
        let kept = [6, 5, 4, 3].map(|number| Some((number, size)));
        assert_eq!((&full[..4], full[4]), (&kept[..], None));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_memory_is_bounded(
            pieces in proptest::collection::vec(proptest::collection::vec(0u8..20, 0..6000), 0..5)
        ) {
            let mut lines = Lines::default();
            let mut size = 0;
            for piece in &pieces {
                lines.feed(piece, |line| {
                    assert!(line.len() <= LINE_BYTES_MAX);
                    size += line.len();
                });
                prop_assert!(lines.partial.len() < LINE_BYTES_MAX);
            }
            lines.finish(|line| size += line.len());
            let carriage_returns = pieces.iter().flatten().filter(|b| **b == b'\r').count();
            let text = pieces.iter().flatten().filter(|b| **b != b'\n').count();
            prop_assert!(size <= text && size + carriage_returns >= text);
        }
    }
}
