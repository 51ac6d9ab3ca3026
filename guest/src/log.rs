//! Container output: bytes of a pipe in; whole lines on the console and raw bytes in a file out.
//!
//! File names are LinuxKit's (`pkg/init/cmd/service`): stdout goes to `NAME.out.log`, stderr to
//! `NAME.log`, in `/var/log` for services and `/run/log/…` for the others, whose files must
//! survive a mount over `/var`.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::bundle::{Phase, make_directories, short_name};
use crate::{console, say};

/// Longest line kept together on the console; a longer one is shown in pieces.
const LINE_BYTES_MAX: usize = 4096;
/// Bytes taken from one stream before the others get their turn.
const READ_BYTES_MAX: usize = 64 << 10;

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

/// One pipe from a container.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The reading end, non-blocking.
    pub(crate) fd: OwnedFd,
    /// Nothing more will come.
    pub(crate) ended: bool,
    prefix: String,
    lines: Lines,
    file: Option<File>,
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

impl Stream {
    /// Takes over a pipe; without a log file (said once) the console still gets the lines.
    pub(crate) fn new(fd: OwnedFd, id: &str, phase: Phase, output: Output, keep: bool) -> Self {
        let file = keep.then(|| open(&path(id, phase, output))).flatten();
        Self {
            fd,
            ended: false,
            prefix: format!("{} | ", short_name(id)),
            lines: Lines::default(),
            file,
        }
    }

    /// Passes on what is there; returns whether the stream is still open.
    pub(crate) fn pump(&mut self) -> bool {
        let mut buffer = [0; 8 << 10];
        let mut taken = 0;
        while taken < READ_BYTES_MAX {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return self.end(),
                Ok(n) => {
                    self.pass_on(&buffer[..n]);
                    taken += n;
                }
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return self.end(),
            }
        }
        true
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        self.lines
            .feed(bytes, |line| console::line(&self.prefix, line));
        if let Some(file) = &mut self.file
            && let Err(cause) = file.write_all(bytes)
        {
            // A full /var must not repeat this for every line.
            say!("{}log file given up: {cause}", self.prefix);
            self.file = None;
        }
    }

    fn end(&mut self) -> bool {
        self.lines.finish(|line| console::line(&self.prefix, line));
        false
    }
}

fn open(path: &std::path::Path) -> Option<File> {
    let directory = path.parent()?;
    let opened = make_directories(directory)
        .map_err(|cause| cause.to_string())
        .and_then(|()| File::create(path).map_err(|cause| cause.to_string()));
    match opened {
        Ok(file) => Some(file),
        Err(cause) => {
            say!(
                "{}: {cause}; its output goes to the console only",
                path.display()
            );
            None
        }
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
