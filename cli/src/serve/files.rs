//! From a path to an answer.
//!
//! Enters: the encoded path of a request. Leaves: a status, headers, a body. `..` is refused;
//! symbolic links are followed wherever they lead, as file servers do: whoever owns the directory
//! put them there.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Names in a listing; a directory of more is shown as far as this.
const LISTED_MAX: usize = 10_000;

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    kind: &'static str,
    /// Further headers, each with its line break.
    more: String,
    pub(super) body: Body,
}

/// What follows the head.
#[derive(Debug)]
pub(super) enum Body {
    Text(String),
    /// So many bytes of a file from where it stands.
    File(File, u64),
}

impl Body {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(_, length) => *length,
        }
    }
}

impl Answer {
    /// An answer that says what is wrong.
    pub(super) fn error(status: u16) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            more: match status {
                405 => "Allow: GET, HEAD\r\n".to_owned(),
                _ => String::new(),
            },
            body: Body::Text(format!("{status} {}\n", reason(status))),
        }
    }

    fn new(kind: &'static str, body: Body) -> Self {
        Self {
            status: 200,
            kind,
            more: String::new(),
            body,
        }
    }

    /// Returns status line and headers, without the empty line.
    pub(super) fn head(&self) -> String {
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}",
            self.status,
            reason(self.status),
            self.kind,
            self.body.length(),
            self.more
        )
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        _ => "Internal Server Error",
    }
}

/// Answers for the file or directory at `target`.
pub(super) fn answer(root: &Path, target: &str, range: Option<&str>) -> Answer {
    let Some((relative, is_directory)) = decode(target) else {
        return Answer::error(400);
    };
    find(root, &relative, is_directory, range)
        .unwrap_or_else(|error| Answer::error(status_of(&error)))
}

fn status_of(error: &io::Error) -> u16 {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM) => 403,
        // A socket cannot be opened: NXIO.
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO) => 404,
        _ if error.kind() == io::ErrorKind::NotFound => 404,
        _ => 500,
    }
}

/// Returns a path below the root, and whether it ends with a slash.
fn decode(target: &str) -> Option<(PathBuf, bool)> {
    let rest = target.strip_prefix('/')?;
    let mut bytes = Vec::with_capacity(rest.len());
    let mut encoded = rest.bytes();
    while let Some(byte) = encoded.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(encoded.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        };
        if byte == 0 {
            return None;
        }
        bytes.push(byte);
    }
    let mut path = PathBuf::new();
    for part in bytes.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Some((path, bytes.is_empty() || bytes.ends_with(b"/")))
}

fn find(
    root: &Path,
    relative: &Path,
    is_directory: bool,
    range: Option<&str>,
) -> io::Result<Answer> {
    let path = root.join(relative);
    let file = open(&path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && !is_directory {
        return content(&path, file, metadata.len(), range);
    }
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if !is_directory {
        // Names in a listing are relative to it.
        let mut moved = Answer::error(301);
        moved.more = format!("Location: /{}/\r\n", encode(relative));
        return Ok(moved);
    }
    let index = path.join("index.html");
    match open(&index) {
        Ok(file) if file.metadata()?.is_file() => {
            let length = file.metadata()?.len();
            content(&index, file, length, range)
        }
        _ => listing(&path, relative),
    }
}

/// Opens anything without waiting for it, as opening a FIFO would.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
}

fn content(path: &Path, mut file: File, size: u64, range: Option<&str>) -> io::Result<Answer> {
    let kind = match path.extension().and_then(OsStr::to_str) {
        Some("html") => "text/html; charset=utf-8",
        Some("txt" | "ipxe" | "cfg" | "yml" | "yaml" | "log") => "text/plain; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let mut answer = match range.map(|range| part(range, size)) {
        None | Some(Part::Whole) => Answer::new(kind, Body::File(file, size)),
        Some(Part::Nothing) => {
            let mut answer = Answer::error(416);
            answer.more = format!("Content-Range: bytes */{size}\r\n");
            return Ok(answer);
        }
        Some(Part::Bytes(first, last)) => {
            file.seek(SeekFrom::Start(first))?;
            let mut answer = Answer::new(kind, Body::File(file, last - first + 1));
            answer.status = 206;
            answer.more = format!("Content-Range: bytes {first}-{last}/{size}\r\n");
            answer
        }
    };
    answer.more += "Accept-Ranges: bytes\r\n";
    Ok(answer)
}

/// What a `Range` asks for (RFC 9110, 14).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: no range, or one that is not understood.
    Whole,
    /// From the first to the last byte.
    Bytes(u64, u64),
    /// Nothing that there is.
    Nothing,
}

/// Reads one range of bytes; several are answered with the whole, which is permitted.
pub(super) fn part(range: &str, size: u64) -> Part {
    let digits = |text: &str| {
        let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than any file has bytes.
        all.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    let (first, last) = match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first <= last => (first, last),
        (Some(first), None) if last.is_empty() => (first, u64::MAX),
        (None, Some(0)) if first.is_empty() => return Part::Nothing,
        (None, Some(length)) if first.is_empty() => (size.saturating_sub(length), u64::MAX),
        _ => return Part::Whole,
    };
    match first < size {
        true => Part::Bytes(first, last.min(size - 1)),
        false => Part::Nothing,
    }
}

/// A directory's names, in order.
fn listing(path: &Path, relative: &Path) -> io::Result<Answer> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)?.take(LISTED_MAX) {
        let entry = entry?;
        let mut name = entry.file_name();
        if fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()) {
            name.push("/");
        }
        names.push(name);
    }
    names.sort_unstable();
    let title = escape(&format!("/{}", relative.display()));
    let mut page =
        format!("<!doctype html>\n<meta charset=utf-8>\n<title>{title}</title>\n<pre>\n");
    for name in names {
        let (link, shown) = (encode(Path::new(&name)), escape(&name.to_string_lossy()));
        // A string takes everything. The dot keeps a colon from being a scheme's.
        let _ = writeln!(page, "<a href=\"./{link}\">{shown}</a>");
    }
    page += "</pre>\n";
    Ok(Answer::new("text/html; charset=utf-8", Body::Text(page)))
}

/// Encodes a path for a URL.
fn encode(path: &Path) -> String {
    let mut encoded = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(*byte)),
            byte => {
                // A string takes everything.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Takes the meaning that HTML gives to characters away.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
