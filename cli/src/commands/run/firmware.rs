//! By which firmware a machine begins: flags and the medium in, flash memory out.
//!
//! On amd64 a BIOS boots what it can, as with LinuxKit; EFI the rest, and everything elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use super::find_program;
use super::what::What;
use crate::args::Media;
use crate::failure::Failure;
use crate::firmware::{self, Firmware};
use crate::medium::{self, Format, Medium};
use crate::ui::printer::Printer;
use crate::vm::place::Place;

/// The only architecture with a BIOS.
const BIOS: &str = "amd64";

pub(super) struct Chooser<'a> {
    pub(super) media: &'a Media,
    pub(super) architecture: &'a str,
    /// QEMU.
    pub(super) program: &'a Path,
    pub(super) place: &'a Place,
    pub(super) printer: Printer,
}

impl Chooser<'_> {
    /// Returns the firmware, none of which is QEMU's own.
    pub(super) fn choose(&self, what: &What) -> Result<Firmware, Failure> {
        let asked = self.media.is_efi();
        let is_efi = match what {
            What::Medium { file, medium } => {
                (asked || self.architecture != BIOS || self.is_for_efi_alone(file, medium)?)
                    && self.suits(file, medium)?
            }
            _ => asked,
        };
        let found = match &self.media.fw {
            _ if !is_efi => return Ok(Firmware::default()),
            Some(file) => firmware::named(file, self.architecture, self.program)?,
            None => firmware::find(self.architecture, self.program)?,
        };
        found.for_machine(self.place)
    }

    fn is_for_efi_alone(&self, file: &Path, medium: &Medium) -> Result<bool, Failure> {
        match medium {
            Medium::Iso { bios, .. } => Ok(!bios),
            Medium::Disk(format) => {
                let head = self.head(file, *format)?;
                Ok(head.is_some_and(|head| medium::is_for_efi_alone(&head)))
            }
            _ => Ok(true),
        }
    }

    /// Returns that EFI can boot a medium here.
    fn suits(&self, file: &Path, medium: &Medium) -> Result<bool, Failure> {
        let file = file.display();
        match medium {
            Medium::Iso { efi: false, .. } if self.architecture == BIOS => Err(Failure::usage(
                format!("{file} has nothing that EFI boots"),
                "leave --uefi and --fw out: it boots by a BIOS",
            )),
            Medium::Iso { efi: false, .. } => Err(Failure::failed(
                format!(
                    "{file} boots by a BIOS alone, which {} does not have",
                    self.architecture
                ),
                None,
                None,
            )),
            Medium::Program(Some(of)) if *of != self.architecture => Err(Failure::failed(
                format!(
                    "{file} is a program for {of}, and not for {}",
                    self.architecture
                ),
                None,
                Some(format!("--arch {of} makes such a machine")),
            )),
            Medium::Program(None) => Err(Failure::failed(
                format!("{file} is an EFI program for a processor that kiln does not know"),
                None,
                None,
            )),
            _ => Ok(true),
        }
    }

    /// Returns the beginning of a disk; nothing when nobody here can read its format.
    fn head(&self, file: &Path, format: Format) -> Result<Option<Vec<u8>>, Failure> {
        let cannot = |error: &io::Error| {
            Failure::failed(format!("cannot read {}", file.display()), Some(error), None)
        };
        if format == Format::RAW {
            return head_of(file).map(Some).map_err(|error| cannot(&error));
        }
        let Some(program) = find_program("qemu-img") else {
            self.printer.warning(&format!(
                "without qemu-img (Debian's package qemu-utils) nothing says what boots {}: it is the BIOS unless --uefi",
                file.display()
            ));
            return Ok(None);
        };
        let copy = self.place.head();
        let read = first_sectors(&program, file, format, &copy).and_then(|()| head_of(&copy));
        read.map(Some).map_err(|error| cannot(&error))
    }
}

fn head_of(file: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = File::open(file)?;
    file.take(medium::PARTITIONS_HEAD as u64)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// Writes the beginning of a disk to a file. Only QEMU's own reader will do: what it sees is what
/// the machine sees.
fn first_sectors(program: &Path, file: &Path, format: Format, to: &Path) -> io::Result<()> {
    let option = |name: &str, path: &Path| {
        let mut option = std::ffi::OsString::from(name);
        option.push(path);
        option
    };
    let output = Command::new(program)
        .args(["dd", "-f", format.name, "-O", "raw", "bs=512"])
        .arg(format!("count={}", medium::PARTITIONS_HEAD / 512))
        .args([option("if=", file), option("of=", to)])
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}
