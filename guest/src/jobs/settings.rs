//! Files of `name = value` lines, as sysctl and sysfs read them, and the writing of one value.
//!
//! In: a directory of such files, or a text that stands in for it. Out: values written to files
//! that the kernel made; none is ever created.

use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Result};

/// Largest settings file read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Lines, each with the place it is from.
pub(super) type Lines = Vec<(String, String)>;

/// Reads every file of a directory in name order; if there is no such directory, the defaults.
pub(super) fn read(directory: &Path, defaults: &str) -> Result<Lines> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Ok(lines("built-in", defaults));
        }
        Err(cause) => return Err(cause).context(|| directory.display()),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    let mut all = Vec::new();
    // A directory, as Kubernetes puts beside mounted configuration, holds no settings.
    for path in paths.iter().filter(|path| path.is_file()) {
        let size = fs::metadata(path).context(|| path.display())?.len();
        if size > FILE_BYTES_MAX {
            return Err(Error::new(format!("{}: {size} bytes", path.display())));
        }
        let text = fs::read(path).context(|| path.display())?;
        let text = String::from_utf8_lossy(&text);
        all.extend(lines(&path.display().to_string(), &text));
    }
    Ok(all)
}

fn lines(place: &str, text: &str) -> Lines {
    let numbered = text.lines().zip(1..);
    numbered
        .map(|(line, number)| (format!("{place}:{number}"), line.trim().to_owned()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', ';']))
        .collect()
}

/// Splits `name = value`.
pub(super) fn split(line: &str) -> Result<(&str, &str)> {
    let (name, value) = line
        .split_once('=')
        .ok_or_else(|| Error::new(format!("{line:?} is not NAME = VALUE")))?;
    Ok((name.trim(), value.trim()))
}

/// Writes a value to a file below `root` that exists.
pub(super) fn write(root: &Path, name: &Path, value: &str) -> Result<()> {
    let is_below = |part| matches!(part, Component::Normal(_));
    if name.as_os_str().is_empty() || !name.components().all(is_below) {
        return Err(Error::new(format!(
            "{}: not a name below {}",
            name.display(),
            root.display()
        )));
    }
    let path = root.join(name);
    let file = fs::OpenOptions::new().write(true).open(&path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .context(|| path.display())
}
