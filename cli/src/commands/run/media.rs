//! Which file is meant, and what it is: flags and LinuxKit's names in, [`What`] out.
//!
//! A file is told by its content. What is no file is a prefix: of a kernel, which has its root
//! beside it or an initrd, or of one medium that LinuxKit would have called so.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::what::What;
use crate::args::Run;
use crate::failure::Failure;
use crate::medium::{self, Format, Medium};

/// Media by the names of their formats in LinuxKit; the last is a program for EFI.
const MEDIA: [&str; 11] = [
    ".iso",
    "-efi.iso",
    "-efi-initrd.iso",
    "-bios.img",
    "-efi.img",
    ".qcow2",
    "-efi.qcow2",
    ".raw",
    ".vhd",
    ".vmdk",
    ".efi",
];
const ISO: [&str; 3] = [".iso", "-efi.iso", "-efi-initrd.iso"];
/// Roots beside their kernels.
const ROOTS: [&str; 2] = ["-squashfs.img", "-erofs.img"];
/// What `kiln build` writes besides a kernel.
const PARTS: [&str; 2] = ["-kernel", "-initrd.img"];

/// Finds what is meant.
pub(super) fn find(arguments: &Run) -> Result<What, Failure> {
    let system = &arguments.system;
    match arguments.media.kinds().as_slice() {
        [] => told(system),
        ["--kernel"] => match is_file(system) && !with_suffix(system, "-kernel").exists() {
            true => found(system, arguments, |what| match what {
                What::Description => Some(what),
                _ => None,
            }),
            false => Ok(What::Outputs {
                prefix: system.clone(),
                root: None,
            }),
        },
        ["--squashfs"] => {
            let image = [with_suffix(system, ROOTS[0]), system.clone()];
            let image = image.into_iter().find(|image| is_file(image));
            let image = image.ok_or_else(|| missing(&with_suffix(system, ROOTS[0])))?;
            found(&image, arguments, |what| match what {
                What::Outputs { root: Some(_), .. } => Some(what),
                _ => None,
            })
        }
        ["--iso"] => {
            let names = ISO.map(|suffix| with_suffix(system, suffix));
            let mut images = names.into_iter().chain([system.clone()]);
            let image = images.find(|image| is_file(image));
            let image = image.ok_or_else(|| missing(&with_suffix(system, ISO[0])))?;
            found(&image, arguments, |what| match what {
                What::Medium {
                    medium: Medium::Iso { .. },
                    ..
                } => Some(what),
                // A drive, or a stick: as a CD-ROM it is only read, so nothing on it is trusted.
                What::Medium { file, .. } if is_device(&file) => Some(What::Medium {
                    file,
                    medium: Medium::Iso {
                        bios: true,
                        efi: true,
                    },
                }),
                _ => None,
            })
        }
        [one, other, ..] => Err(Failure::usage(
            format!("{one} and {other} are different things to boot"),
            "give one of them, or none: kiln tells files by their content",
        )),
        [flag] => Err(Failure::usage(format!("{flag} is unknown here"), None)),
    }
}

/// Tells what a file is, which is to be what the flag says.
fn found(
    file: &Path,
    arguments: &Run,
    is_it: impl Fn(What) -> Option<What>,
) -> Result<What, Failure> {
    is_it(of_file(file)?).ok_or_else(|| {
        let flag = arguments.media.kinds().concat();
        Failure::usage(
            format!("{} is not what {flag} boots", file.display()),
            "leave the flag out: kiln tells files by their content",
        )
    })
}

/// Tells without flags.
fn told(system: &Path) -> Result<What, Failure> {
    if is_file(system) {
        return of_file(system);
    }
    if is_yaml(system) {
        return Ok(What::Description);
    }
    if with_suffix(system, "-kernel").exists() {
        let roots = ROOTS.map(|suffix| with_suffix(system, suffix));
        return Ok(What::Outputs {
            prefix: system.to_owned(),
            root: roots.into_iter().find(|root| is_file(root)),
        });
    }
    let media = MEDIA.map(|suffix| with_suffix(system, suffix));
    let media: Vec<_> = media.iter().filter(|medium| is_file(medium)).collect();
    match media.as_slice() {
        [medium] => of_file(medium),
        [one, other, ..] => Err(Failure::usage(
            format!(
                "{} could be {} or {}",
                system.display(),
                one.display(),
                other.display()
            ),
            "give the name of one of them",
        )),
        [] => match system.to_str() {
            Some(image) => Ok(What::Image(image.to_owned())),
            None => Ok(What::Outputs {
                prefix: system.to_owned(),
                root: None,
            }),
        },
    }
}

/// Tells what a file is.
fn of_file(file: &Path) -> Result<What, Failure> {
    let medium = medium::of(file).map_err(|error| {
        Failure::failed(
            format!("cannot read {}", file.display()),
            Some(&error),
            None,
        )
    })?;
    match medium {
        // A guest writes to its disks, and descriptions name files of this machine.
        Medium::Text if is_named_as_medium(file) => Err(does_not_boot(
            file,
            "a text",
            Some("a description has a name in .yml"),
        )),
        Medium::Text => Ok(What::Description),
        // What is wrong with it, the parser says better.
        Medium::Other(..) if is_yaml(file) => Ok(What::Description),
        Medium::Iso {
            bios: false,
            efi: false,
        } => of_root(file, "ISO 9660"),
        Medium::Root(kind) => of_root(file, kind),
        Medium::Disk(Format {
            name,
            names_files: true,
        }) => Err(Failure::failed(
            format!(
                "{} is a {name} image with parts in other files, which could be any of this machine's",
                file.display()
            ),
            None,
            Some(format!(
                "if you trust it: qemu-img convert -O qcow2 {} FILE makes an image of one file",
                file.display()
            )),
        )),
        Medium::Iso { .. } | Medium::Disk(_) | Medium::Program(_) => Ok(What::Medium {
            file: std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
            medium,
        }),
        Medium::Kernel => Err(does_not_boot(file, "a kernel alone", None)),
        Medium::Other(what, hint) => Err(does_not_boot(file, what, hint)),
    }
}

/// Finds the kernel of a root.
fn of_root(file: &Path, kind: &str) -> Result<What, Failure> {
    let name = file.to_string_lossy();
    let mut named = ROOTS.iter().filter_map(|suffix| name.strip_suffix(suffix));
    let prefix = named.next().map(PathBuf::from);
    let prefix = prefix.unwrap_or_else(|| file.with_extension(""));
    let kernel = with_suffix(&prefix, "-kernel");
    if !kernel.is_file() {
        return Err(Failure::failed(
            format!(
                "{} is a file system ({kind}) and nothing in it boots",
                file.display()
            ),
            None,
            Some(format!(
                "as a root it needs its kernel beside it, as {}",
                kernel.display()
            )),
        ));
    }
    Ok(What::Outputs {
        prefix,
        root: Some(file.to_owned()),
    })
}

fn is_named_as_medium(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    let media = [
        "efi", "img", "iso", "qcow2", "raw", "vdi", "vhd", "vhdx", "vmdk",
    ];
    extension.is_some_and(|extension| media.contains(&extension))
}

fn does_not_boot(file: &Path, what: &str, hint: Option<&str>) -> Failure {
    let name = file.to_string_lossy();
    let mut parts = PARTS.iter().filter_map(|suffix| name.strip_suffix(suffix));
    let of_a_build = parts
        .next()
        .filter(|prefix| with_suffix(Path::new(prefix), "-kernel").is_file())
        .map(|prefix| format!("kiln run {prefix} boots it with what belongs to it"));
    Failure::failed(
        format!("{} does not boot: it is {what}", file.display()),
        None,
        of_a_build.or_else(|| hint.map(str::to_owned)),
    )
}

fn missing(file: &Path) -> Failure {
    Failure::failed(
        format!("there is no {} to boot", file.display()),
        None,
        None,
    )
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file()) || is_device(path)
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.file_type().is_block_device())
}

pub(super) fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yml" | "yaml"))
}

pub(super) fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path: OsString = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QCOW2: &[u8] = b"QFI\xfb\0\0\0\x02\0\0\0\0\0\0\0\0";
    const BACKED: &[u8] = b"QFI\xfb\0\0\0\x02\0\0\0\0\0\0\0\x68";

    #[test]
    fn prefixes_are_looked_for_as_linuxkit_does() {
        let space = tempfile::tempdir().unwrap();
        let at = |name: &str| space.path().join(name);
        let box_ = at("box");
        assert!(matches!(told(&box_), Ok(What::Image(_))));
        fs::write(at("box.qcow2"), QCOW2).unwrap();
        assert!(matches!(told(&box_), Ok(What::Medium { file, .. }) if file == at("box.qcow2")));
        fs::write(at("box.vhd"), "conectix").unwrap();
        let failure = told(&box_).unwrap_err();
        assert!(failure.problems[0].message.contains("box.qcow2 or"));
        fs::write(at("box-kernel"), "").unwrap();
        assert!(matches!(told(&box_), Ok(What::Outputs { root: None, .. })));
        fs::write(at("box-squashfs.img"), "hsqs").unwrap();
        for system in [&box_, &at("box-squashfs.img")] {
            match told(system) {
                Ok(What::Outputs { prefix, root }) => {
                    assert_eq!((prefix, root), (at("box"), Some(at("box-squashfs.img"))));
                }
                _ => panic!("{}", system.display()),
            }
        }
        assert!(matches!(told(&at("none.yml")), Ok(What::Description)));
        fs::write(at("text.iso"), "init: []\n").unwrap();
        assert!(told(&at("text.iso")).is_err());
        fs::write(at("text"), "init: []\n").unwrap();
        assert!(matches!(told(&at("text")), Ok(What::Description)));
    }

    #[test]
    fn no_image_leads_to_other_files() {
        let space = tempfile::tempdir().unwrap();
        for (name, bytes, is_taken) in [
            ("a.img", QCOW2, true),
            ("a.qcow2", BACKED, false),
            ("a.img", BACKED, false),
            ("b.vmdk", b"# Disk DescriptorFile", false),
            ("b.vmdk", b"KDMV", false),
        ] {
            let path = space.path().join(name);
            fs::write(&path, bytes).unwrap();
            assert_eq!(told(&path).is_ok(), is_taken, "{name}");
        }
    }

    #[test]
    fn what_does_not_boot_says_what_does() {
        let space = tempfile::tempdir().unwrap();
        let at = |name: &str| space.path().join(name);
        let hint = |name: &str| {
            let failure = told(&at(name)).err().unwrap();
            failure.problems[0].hint.clone().unwrap()
        };
        fs::write(at("x-initrd.img"), "\x1f\u{b}").unwrap();
        fs::write(at("x-squashfs.img"), "hsqs").unwrap();
        assert!(hint("x-squashfs.img").ends_with("x-kernel"));
        let mut kernel = vec![0; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(at("x-kernel"), kernel).unwrap();
        assert!(hint("x-kernel").contains("/x boots it"));
    }
}
