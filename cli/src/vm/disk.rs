//! Disks of a machine: what `--disk` says, and their image files.
//!
//! LinuxKit's words: `file=P,size=N[G|M],format=F`, in any order, a bare word being the file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// A disk that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Its image; one in the machine's state directory without it.
    file: Option<PathBuf>,
    /// In MiB: for an image that is made.
    size: Option<u64>,
    format: Option<String>,
}

/// A disk that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) file: PathBuf,
    /// QEMU's name of it.
    pub(crate) format: String,
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut wish = Self::default();
        for part in text.split(',') {
            match part.split_once('=') {
                None if !part.is_empty() => wish.file = Some(part.into()),
                Some(("file", file)) if !file.is_empty() => wish.file = Some(file.into()),
                Some(("size", size)) => wish.size = Some(mebibytes(size)?),
                Some(("format", format)) if is_word(format) => wish.format = Some(format.into()),
                _ => {
                    return Err(format!(
                        "\"{part}\" is none of file=PATH, size=N[G|M], format=raw|qcow2"
                    ));
                }
            }
        }
        match (&wish.file, wish.size) {
            (None, None) => Err("a disk without a file needs a size: size=1G".to_owned()),
            _ => Ok(wish),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Reads one of LinuxKit's sizes, which without a unit are in GiB. Returns MiB.
///
/// # Errors
/// When it is none, or nothing has that size.
pub(crate) fn mebibytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('M') {
        Some(number) => (number, 1),
        None => (text.strip_suffix('G').unwrap_or(text), 1024),
    };
    let size = number.parse::<u64>().ok();
    let size = size.and_then(|number| number.checked_mul(unit));
    // More than any file can have.
    let size = size.filter(|mebibytes| (1..=1 << 40).contains(mebibytes));
    size.ok_or_else(|| format!("\"{text}\" is not a size: 512M, 4G or 4 (GiB)"))
}

impl Wish {
    /// Returns whether the state directory is needed for it.
    pub(crate) const fn is_in_state(&self) -> bool {
        self.file.is_none()
    }

    /// Returns the format of its image. What a guest has written is not looked at: it could claim to
    /// be made of other files.
    pub(crate) fn format(&self) -> String {
        if let Some(format) = &self.format {
            return format.clone();
        }
        let extension = self
            .file
            .as_ref()
            .and_then(|file| file.extension()?.to_str());
        match extension {
            Some(extension @ ("qcow2" | "vmdk" | "vhdx" | "vdi")) => extension.to_owned(),
            _ => "raw".to_owned(),
        }
    }

    /// Returns the image's file, as written.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns the size in MiB that it is made with, if any.
    pub(crate) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Returns whether its image has that format, by its name and by what is said of it.
    pub(crate) fn is_named(&self, format: &str) -> bool {
        let extension = self.file.as_ref().map(|file| file.extension());
        let is_named = extension.is_none_or(|e| e.is_some_and(|e| e.eq_ignore_ascii_case(format)));
        is_named && self.format.as_ref().is_none_or(|said| said == format)
    }

    /// Finds the disk, or makes it.
    ///
    /// # Errors
    /// When the image is not there and has no size, or cannot be made; with a text that says what
    /// was tried.
    pub(crate) fn make(&self, index: usize, state: &Path) -> Result<Disk, (String, io::Error)> {
        let own = || state.join(own_name(index, "disk", "img"));
        let file = self.file.clone().unwrap_or_else(own);
        let cannot = |error| (format!("cannot use the disk {}", file.display()), error);
        // A relative one with a colon would be a protocol to QEMU.
        let image = std::path::absolute(&file).map_err(cannot)?;
        let format = self.format();
        if !image.exists() {
            let made = match self.size {
                None => Err(io::Error::other("it is not there; size=1G makes it")),
                Some(size) => create(&image, &format, size),
            };
            made.map_err(cannot)?;
        }
        Ok(Disk {
            file: image,
            format,
        })
    }
}

/// Returns the name of a disk that was given none, as LinuxKit has it: `index` counts those of the
/// machine from 0.
pub(crate) fn own_name(index: usize, stem: &str, extension: &str) -> String {
    match index {
        0 => format!("{stem}.{extension}"),
        index => format!("{stem}{index}.{extension}"),
    }
}

/// Makes an image that takes no room yet.
fn create(file: &Path, format: &str, mebibytes: u64) -> io::Result<()> {
    if format == "raw" {
        let made = File::create_new(file).and_then(|made| made.set_len(mebibytes << 20));
        return made.inspect_err(|_| drop(std::fs::remove_file(file)));
    }
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", format])
        .arg(file)
        .arg(format!("{mebibytes}M"))
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(format!(
                "qemu-img, which makes {format} images, is not installed (Debian's package qemu-utils); raw ones need none"
            )),
            _ => error,
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        let wish = |file: Option<&str>, size, format: Option<&str>| Wish {
            file: file.map(PathBuf::from),
            size,
            format: format.map(str::to_owned),
        };
        for (text, expected) in [
            ("a.img", wish(Some("a.img"), None, None)),
            ("size=4", wish(None, Some(4096), None)),
            (
                "size=512M,format=qcow2,file=x",
                wish(Some("x"), Some(512), Some("qcow2")),
            ),
            ("x,size=1G", wish(Some("x"), Some(1024), None)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "size=",
            "size=0",
            "size=99999999999999G",
            "size=-1",
            "sizes=1",
            "x,format=a;b",
            "format=raw",
            "file=",
        ] {
            assert!(wrong.parse::<Wish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn images_are_made_once() {
        let space = tempfile::tempdir().unwrap();
        let wish: Wish = "size=3M".parse().unwrap();
        let disk = wish.make(0, space.path()).unwrap();
        assert_eq!(disk.file, space.path().join("disk.img"));
        assert_eq!(disk.format, "raw");
        assert_eq!(std::fs::metadata(&disk.file).unwrap().len(), 3 << 20);
        std::fs::write(&disk.file, "QFI\u{fb}").unwrap();
        // It is what it was, whatever it says of itself.
        assert_eq!(wish.make(0, space.path()).unwrap(), disk);
        assert_eq!(std::fs::metadata(&disk.file).unwrap().len(), 5);
        let second = wish.make(1, space.path()).unwrap();
        assert_eq!(second.file, space.path().join("disk1.img"));
        let missing: Wish = "nowhere.qcow2".parse().unwrap();
        let (what, _) = missing.make(0, space.path()).unwrap_err();
        assert_eq!(what, "cannot use the disk nowhere.qcow2");
    }
}
