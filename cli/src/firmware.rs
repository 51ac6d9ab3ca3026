//! Firmware for EFI: found by the descriptions that packages install for QEMU, or named by hand.
//!
//! Enters: an architecture, QEMU's program, what `--fw` says. Leaves: flash memory: the code is
//! read where it is, the variables are a copy in the machine's own directory. The descriptions and
//! where they are: QEMU's `docs/interop/firmware.json`. Debian, Fedora, Arch, Homebrew and QEMU
//! itself install them.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;
use crate::vm::disk::Disk;
use crate::vm::place::Place;

/// Longest description, in bytes.
const DESCRIPTION_MAX: u64 = 64 << 10;
/// Largest flash memory that is copied; QEMU's largest is 64 MiB.
const FLASH_MAX: u64 = 128 << 20;
/// What asks for a machine that kiln does not make, or refuses what nobody has signed.
const UNWANTED: [&str; 6] = [
    "requires-smm",
    "enrolled-keys",
    "amd-sev-es",
    "amd-sev-snp",
    "intel-tdx",
    "host-uefi-vars",
];

/// Flash memory in the order of QEMU's units: what is read only, then what is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Firmware {
    /// Code.
    pub(crate) code: Option<Disk>,
    /// Variables, or both in one.
    pub(crate) variables: Option<Disk>,
}

impl Firmware {
    /// Returns whether there is any.
    pub(crate) const fn is_efi(&self) -> bool {
        self.code.is_some() || self.variables.is_some()
    }
}

/// Where firmware is, before anything is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    code: Option<Disk>,
    variables: Option<Disk>,
}

impl Found {
    /// Returns what QEMU gets, with variables of the machine's own.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub(crate) fn for_machine(self, place: &Place) -> Result<Firmware, Failure> {
        let copy = |template: Disk| {
            let file = place.variables();
            let copied = copy(&template.file, &file);
            copied.map_err(|error| {
                let message = format!("cannot copy {}", template.file.display());
                Failure::failed(message, Some(&error), None)
            })?;
            Ok(Disk { file, ..template })
        };
        Ok(Firmware {
            code: self.code,
            variables: self.variables.map(copy).transpose()?,
        })
    }
}

/// Copies what it holds and not who may write to it: the template is root's.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?.take(FLASH_MAX);
    io::copy(&mut from, &mut File::create(to)?).map(drop)
}

/// Finds the firmware that is installed for an architecture in Go's spelling.
///
/// # Errors
/// When there is none; with what to install.
pub(crate) fn find(architecture: &str, program: &Path) -> Result<Found, Failure> {
    find_in(&directories(program), architecture).ok_or_else(|| {
        Failure::failed(
            format!("there is no firmware for EFI on {architecture} here"),
            None,
            Some(to_install(architecture)),
        )
    })
}

/// Takes a file for firmware: as a whole, when the variables are in it, else as the code, whose
/// variables are beside it or in the description that names it.
///
/// # Errors
/// When it cannot be read, or has no variables.
pub(crate) fn named(file: &Path, architecture: &str, program: &Path) -> Result<Found, Failure> {
    let cannot = |error: &io::Error| {
        let message = format!("cannot use the firmware {}", file.display());
        Failure::failed(message, Some(error), Some(to_install(architecture)))
    };
    let whole = flash(file).map_err(|error| cannot(&error))?;
    if has_variables(file).map_err(|error| cannot(&error))? {
        return Ok(Found {
            code: None,
            variables: Some(whole),
        });
    }
    let beside = beside(file).and_then(|file| flash(&file).ok());
    let described = || {
        let all = described(&directories(program));
        let mut all = all.iter().filter_map(|text| of_description(text, None));
        let is_it = |found: &Found| found.code.as_ref().is_some_and(|c| c.file == whole.file);
        all.find(is_it)?.variables
    };
    match beside.or_else(described) {
        Some(variables) => Ok(Found {
            code: Some(whole),
            variables: Some(variables),
        }),
        None => Err(Failure::failed(
            format!("the firmware {} is code without variables", file.display()),
            None,
            Some(
                "its variables are looked for beside it, in a file with VARS in its name for CODE"
                    .to_owned(),
            ),
        )),
    }
}

/// Returns a file as flash memory, in the format that it has.
fn flash(file: &Path) -> io::Result<Disk> {
    let mut magic = [0; 4];
    File::open(file)?.read_exact(&mut magic)?;
    let format = if &magic == b"QFI\xfb" { "qcow2" } else { "raw" };
    Ok(Disk {
        file: std::path::absolute(file)?,
        format: format.to_owned(),
    })
}

/// Returns whether flash memory begins with a store of variables: a volume (UEFI PI 1.8, volume 3,
/// 3.2.1) of EDK II's type `gEfiSystemNvDataFvGuid`.
fn has_variables(file: &Path) -> io::Result<bool> {
    const TYPE: [u8; 16] = [
        0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f,
        0x50,
    ];
    let mut head = [0; 44];
    File::open(file)?.read_exact(&mut head)?;
    Ok(head[16..32] == TYPE && head[40..] == *b"_FVH")
}

/// Returns the name that distributions give the variables of this code.
fn beside(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    let names = [("CODE", "VARS"), ("code", "vars")];
    let mut names = names.iter().filter(|(code, _)| name.contains(code));
    names.find_map(|(of_code, of_variables)| {
        let path = code.with_file_name(name.replace(of_code, of_variables));
        path.is_file().then_some(path)
    })
}

/// Returns where descriptions are, the user's first.
fn directories(program: &Path) -> Vec<PathBuf> {
    let configuration = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let configuration = configuration.or_else(|| Some(env::home_dir()?.join(".config")));
    let users = configuration.map(|directory| directory.join("qemu/firmware"));
    // Homebrew and Nix link the program from elsewhere.
    let program = fs::canonicalize(program).ok();
    let own = program.and_then(|program| {
        let prefix = program.parent()?.parent()?;
        Some(prefix.join("share/qemu/firmware"))
    });
    users
        .into_iter()
        .chain(["/etc/qemu/firmware".into()])
        .chain(own)
        .chain(["/usr/share/qemu/firmware".into()])
        .collect()
}

/// Returns the first description that suits. They are ordered by name; one hides those of the same
/// name in later directories.
fn find_in(directories: &[PathBuf], architecture: &str) -> Option<Found> {
    let all = described(directories);
    all.iter()
        .find_map(|text| of_description(text, Some(architecture)))
}

/// Returns the descriptions, in order.
fn described(directories: &[PathBuf]) -> Vec<Value> {
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for file in entries.map(|entry| entry.path()) {
            let is_json = file.extension().is_some_and(|e| e == "json");
            if is_json && files.iter().all(|f| f.file_name() != file.file_name()) {
                files.push(file);
            }
        }
    }
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let read = |file: &PathBuf| {
        let mut text = String::new();
        let file = File::open(file).ok()?;
        file.take(DESCRIPTION_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    };
    files.iter().filter_map(read).collect()
}

/// Returns the firmware of a description if it suits an architecture (any, without one) and is
/// there.
fn of_description(text: &Value, architecture: Option<&str>) -> Option<Found> {
    let has = |list: &Value, wanted: &str| {
        let list = list.as_array().into_iter().flatten();
        list.into_iter().any(|value| value == wanted)
    };
    let (mapping, targets) = (&text["mapping"], text["targets"].as_array()?);
    let suits = match architecture {
        None => true,
        Some(architecture) => {
            let (architecture, machine) = match architecture {
                "amd64" => ("x86_64", "pc-q35"),
                "arm64" => ("aarch64", "virt"),
                architecture => (architecture, "virt"),
            };
            let mut targets = targets.iter();
            targets.any(|target| {
                let machines = target["machines"].as_array().into_iter().flatten();
                let mut machines = machines.into_iter().filter_map(Value::as_str);
                target["architecture"] == architecture
                    && machines.any(|name| name.starts_with(machine))
            }) && !UNWANTED
                .iter()
                .any(|feature| has(&text["features"], feature))
        }
    };
    let is_flash = mapping["device"] == "flash" && has(&text["interface-types"], "uefi");
    if !suits || !is_flash {
        return None;
    }
    let disk = |value: &Value| {
        let disk = flash(Path::new(value["filename"].as_str()?)).ok()?;
        (value["format"] == disk.format.as_str()).then_some(disk)
    };
    let code = disk(&mapping["executable"])?;
    match mapping["mode"].as_str() {
        None | Some("split") => Some(Found {
            code: Some(code),
            variables: Some(disk(&mapping["nvram-template"])?),
        }),
        Some("combined") => Some(Found {
            code: None,
            variables: Some(code),
        }),
        Some(_) => None,
    }
}

fn to_install(architecture: &str) -> String {
    let (debian, fedora, arch) = match architecture {
        "amd64" => ("ovmf", "edk2-ovmf", "edk2-ovmf"),
        "arm64" => ("qemu-efi-aarch64", "edk2-aarch64", "edk2-aarch64"),
        _ => ("qemu-efi-riscv64", "edk2-riscv64", "edk2-riscv64"),
    };
    format!(
        "on Debian and Ubuntu: sudo apt-get install {debian}; on Fedora: sudo dnf install {fedora}; on Arch: sudo pacman -S {arch}; with Homebrew it comes with qemu. --fw FILE names one that is elsewhere"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(kind: &[u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[16..32].copy_from_slice(kind);
        bytes[40..44].copy_from_slice(b"_FVH");
        bytes
    }

    const VARIABLES: [u8; 16] = [
        0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f,
        0x50,
    ];

    fn description(
        at: &Path,
        code: &str,
        architecture: &str,
        machine: &str,
        features: &str,
    ) -> String {
        let at = at.display();
        format!(
            r#"{{"interface-types": ["uefi"],
                "mapping": {{"device": "flash",
                    "executable": {{"filename": "{at}/{code}", "format": "raw"}},
                    "nvram-template": {{"filename": "{at}/VARS.fd", "format": "raw"}}}},
                "targets": [{{"architecture": "{architecture}", "machines": ["{machine}"]}}],
                "features": [{features}], "tags": []}}"#
        )
    }

    #[test]
    fn descriptions_lead_to_firmware() {
        let space = tempfile::tempdir().unwrap();
        let at = space.path();
        let (first, second) = (at.join("etc"), at.join("usr"));
        for directory in [&first, &second] {
            fs::create_dir(directory).unwrap();
        }
        for name in ["VARS.fd", "A.fd", "B.fd", "C.fd"] {
            fs::write(at.join(name), "flash").unwrap();
        }
        let write = |directory: &Path, name: &str, text: String| {
            fs::write(directory.join(name), text).unwrap();
        };
        let q35 = "pc-q35-*";
        let signed = r#""secure-boot", "requires-smm""#;
        write(
            &second,
            "40-signed.json",
            description(at, "A.fd", "x86_64", q35, signed),
        );
        write(
            &second,
            "50-gone.json",
            description(at, "gone.fd", "x86_64", q35, ""),
        );
        write(
            &second,
            "60-x86.json",
            description(at, "A.fd", "x86_64", q35, ""),
        );
        write(
            &second,
            "70-arm.json",
            description(at, "B.fd", "aarch64", "virt-*", ""),
        );
        write(&second, "10-broken.json", "{".to_owned());
        let code = |architecture: &str| {
            let found = find_in(&[first.clone(), second.clone()], architecture);
            found.map(|found| found.code.unwrap().file)
        };
        assert_eq!(code("amd64"), Some(at.join("A.fd")));
        assert_eq!(code("arm64"), Some(at.join("B.fd")));
        assert_eq!(code("riscv64"), None);
        // The administrator's hides the package's.
        write(
            &first,
            "60-x86.json",
            description(at, "C.fd", "x86_64", q35, ""),
        );
        assert_eq!(code("amd64"), Some(at.join("C.fd")));
    }

    #[test]
    fn firmware_is_named() {
        let space = tempfile::tempdir().unwrap();
        let at = space.path();
        let file = |name: &str| at.join(name);
        fs::write(file("whole.fd"), volume(&VARIABLES)).unwrap();
        fs::write(file("X_CODE.fd"), volume(&[1; 16])).unwrap();
        let nobody = Path::new("/nowhere/bin/qemu");
        let whole = named(&file("whole.fd"), "amd64", nobody).unwrap();
        assert_eq!(
            (whole.code, whole.variables.unwrap().file),
            (None, file("whole.fd"))
        );
        let failure = named(&file("X_CODE.fd"), "amd64", nobody).unwrap_err();
        assert!(failure.problems[0].message.contains("without variables"));
        fs::write(file("X_VARS.fd"), "variables").unwrap();
        let both = named(&file("X_CODE.fd"), "amd64", nobody).unwrap();
        assert_eq!(both.code.unwrap().file, file("X_CODE.fd"));
        assert_eq!(both.variables.unwrap().file, file("X_VARS.fd"));
        assert!(named(&file("none.fd"), "amd64", nobody).is_err());
    }
}
