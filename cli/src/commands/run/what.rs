//! What `kiln run` boots: told from what was named, built when it is a description or an image.
//!
//! Enters: the command line. Leaves: where the machine begins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_engine::build::{Destination, Format, Request};
use rustix::termios::Winsize;

use super::super::{build, request};
use super::media::{self, is_yaml, with_suffix};
use super::{image, vmm};
use crate::args::Run;
use crate::failure::Failure;
use crate::machine::Boot;
use crate::medium::Medium;
use crate::signals::Interruption;
use crate::ui::printer::Printer;
use crate::vm::disk::Disk;
use crate::vm::place::Place;

/// What there is to boot.
#[derive(Debug)]
pub(super) enum What {
    Description,
    /// What a build has written, and a root file system that the initrd does not hold.
    Outputs {
        prefix: PathBuf,
        root: Option<PathBuf>,
    },
    /// A file that firmware boots, by its absolute path.
    Medium {
        file: PathBuf,
        medium: Medium,
    },
    /// A container image, by the name that was given.
    Image(String),
}

/// Returns whether something is said that only images have.
pub(super) const fn is_of_images(arguments: &Run) -> bool {
    !arguments.words.is_empty()
        || !arguments.env.is_empty()
        || !arguments.env_file.is_empty()
        || arguments.hostname.is_some()
        || arguments.user.is_some()
        || arguments.workdir.is_some()
        || arguments.entrypoint.is_some()
        || !arguments.volume.is_empty()
        || arguments.tty
}

impl What {
    pub(super) fn of(arguments: &Run) -> Result<Self, Failure> {
        let what = media::find(arguments)?;
        match &what {
            Self::Image(_) | Self::Outputs { .. } | Self::Medium { .. } if arguments.watch => Err(
                Failure::usage("--watch is for descriptions", "only they are built"),
            ),
            _ if arguments.watch && arguments.docker.docker => Err(Failure::usage(
                "--watch cannot ask a Docker engine whether its images have changed",
                "leave --docker out: images come from the registry, or as docker-archive:FILE",
            )),
            Self::Image(_) if arguments.media.is_efi() => Err(Failure::usage(
                "--uefi and --fw are for systems",
                "an image has a kernel of kiln's choice, which needs no firmware",
            )),
            Self::Image(_) if !arguments.disk.is_empty() || has_data(arguments) => {
                Err(Failure::usage(
                    "--disk, --data and --data-file are for systems",
                    "an image has no use for them; files of this machine come with --volume DIR:PATH",
                ))
            }
            Self::Image(_) if !arguments.virtiofs.is_empty() => Err(Failure::usage(
                "--virtiofs is for systems",
                "of an image it is --volume DIR:PATH",
            )),
            Self::Image(_) => Ok(what),
            _ if is_of_images(arguments) => Err(Failure::usage(
                "arguments, --tty, --env, --env-file, --user, --workdir, --hostname, --volume and --entrypoint are for images",
                "a description says all that of its services itself",
            )),
            _ => Ok(what),
        }
    }

    /// Builds what is not built yet. Returns the prefix of the outputs, and what they were built of.
    pub(super) fn build(
        &self,
        arguments: &Run,
        architecture: &str,
        interruption: &Interruption,
        printer: Printer,
    ) -> Result<(PathBuf, Option<Request>), Failure> {
        match self {
            Self::Description => build_prefix(arguments, interruption, printer),
            Self::Outputs { prefix, .. } => Ok((prefix.clone(), None)),
            Self::Medium { file, medium } => Ok((medium_prefix(file, medium), None)),
            Self::Image(image) => {
                let (prefix, request) =
                    image::build_prefix(arguments, image, architecture, interruption, printer)?;
                Ok((prefix, Some(request)))
            }
        }
    }

    /// Returns where the machine begins; a program's terminal has a size.
    pub(super) fn boot(
        &self,
        arguments: &Run,
        prefix: &Path,
        place: &Place,
        window: Option<Winsize>,
        printer: Printer,
    ) -> Result<Boot, Failure> {
        match self {
            Self::Medium { file, medium } => boot_medium(file, medium, place),
            Self::Outputs {
                root: Some(root), ..
            } => boot_root(arguments, prefix, root, printer),
            _ => boot_initrd(arguments, prefix, window, printer),
        }
    }

    /// Returns what people call the machine.
    pub(super) fn name(&self, prefix: &Path) -> String {
        match self {
            Self::Image(image) => image::hostname(image),
            _ => {
                let name = prefix.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
        }
    }
}

/// Returns the prefix of what belongs to a medium; LinuxKit takes the whole name but for ISO images.
fn medium_prefix(file: &Path, medium: &Medium) -> PathBuf {
    match medium {
        Medium::Iso { .. } | Medium::Program(_) => file.with_extension(""),
        _ => file.to_owned(),
    }
}

fn boot_medium(file: &Path, medium: &Medium, place: &Place) -> Result<Boot, Failure> {
    Ok(match medium {
        Medium::Disk(format) => Boot::Disk(Disk {
            file: file.to_owned(),
            format: format.name.to_owned(),
        }),
        Medium::Program(architecture) => {
            let directory = place.system_partition();
            let made = lay_out(file, architecture.unwrap_or_default(), &directory);
            made.map_err(|error| {
                let message = format!("cannot put {} where firmware looks", file.display());
                Failure::failed(message, Some(&error), None)
            })?;
            Boot::SystemPartition(directory)
        }
        _ => Boot::Disc(file.to_owned()),
    })
}

/// Lays out an EFI system partition whose program is this one (UEFI 2.10, 3.5.1.1).
fn lay_out(program: &Path, architecture: &str, directory: &Path) -> io::Result<()> {
    // QEMU's file allocation table has 16 bits.
    const PROGRAM_MAX: u64 = 500 << 20;
    if fs::metadata(program)?.len() > PROGRAM_MAX {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB; put it on a disk with an EFI system partition",
            PROGRAM_MAX >> 20
        )));
    }
    let name = match architecture {
        "arm64" => "BOOTAA64.EFI",
        "riscv64" => "BOOTRISCV64.EFI",
        _ => "BOOTX64.EFI",
    };
    let directory = directory.join("EFI/BOOT");
    fs::create_dir_all(&directory)?;
    std::os::unix::fs::symlink(program, directory.join(name))
}

/// Boots a kernel whose root is a disk. Its initrd, if it has one, is the image's: that of
/// `kiln build` could hold another root.
fn boot_root(
    arguments: &Run,
    prefix: &Path,
    root: &Path,
    printer: Printer,
) -> Result<Boot, Failure> {
    let kernel = kernel_of(arguments, prefix)?;
    let name = root.to_string_lossy();
    let stem = name.strip_suffix(".img").unwrap_or(&name);
    let initrd = PathBuf::from(format!("{stem}-initrd.img"));
    let cmdline = read_cmdline(&with_suffix(prefix, "-cmdline"), printer)?;
    let file = std::path::absolute(root).map_err(|error| {
        let message = format!("cannot use the root {}", root.display());
        Failure::failed(message, Some(&error), None)
    })?;
    Ok(Boot::Kernel {
        kernel,
        initrd: initrd.is_file().then_some(initrd),
        cmdline: format!("{cmdline} root=/dev/vda"),
        root: Some(file),
    })
}

/// Boots a kernel with everything in memory.
fn boot_initrd(
    arguments: &Run,
    prefix: &Path,
    window: Option<Winsize>,
    printer: Printer,
) -> Result<Boot, Failure> {
    let kernel = kernel_of(arguments, prefix)?;
    let initrd = with_suffix(prefix, "-initrd.img");
    let mut cmdline = read_cmdline(&with_suffix(prefix, "-cmdline"), printer)?;
    // What is built does not depend on it.
    if let Some(size) = window {
        cmdline.push_str(&format!(" kiln.window={}x{}", size.ws_row, size.ws_col));
    }
    Ok(Boot::Kernel {
        kernel,
        initrd: initrd.is_file().then_some(initrd),
        cmdline,
        root: None,
    })
}

fn kernel_of(arguments: &Run, prefix: &Path) -> Result<PathBuf, Failure> {
    let kernel = with_suffix(prefix, "-kernel");
    match kernel.is_file() {
        true => Ok(kernel),
        false => Err(nothing_to_boot(&arguments.system, &kernel)),
    }
}

const fn has_data(arguments: &Run) -> bool {
    arguments.data.is_some() || arguments.data_file.is_some()
}

/// Builds the description and returns the prefix of its outputs.
fn build_prefix(
    arguments: &Run,
    interruption: &Interruption,
    printer: Printer,
) -> Result<(PathBuf, Option<Request>), Failure> {
    let files = [arguments.system.clone()];
    let mut request = request::request(&files, vec![Format::KernelInitrd], &arguments.common)?;
    request.docker = request::docker(arguments.docker)?;
    vmm::shape(&mut request, arguments);
    let report = build::build(&request, interruption, printer)?;
    build::say_result(&request, &report, printer);
    match &request.destination {
        Destination::Directory { directory, name } => Ok((directory.join(name), Some(request))),
        Destination::File(_) | Destination::Stdout => Err(Failure::usage(
            "only a kernel and an initrd can be booted",
            None,
        )),
    }
}

fn nothing_to_boot(system: &Path, kernel: &Path) -> Failure {
    Failure::failed(
        format!("there is no {} to boot", kernel.display()),
        None,
        Some(if is_yaml(system) || system.is_file() {
            "a system that boots needs `kernel:` in its description".to_owned()
        } else {
            format!(
                "give a description, `kiln run {}.yml`, or the prefix of what `kiln build` wrote",
                system.display()
            )
        }),
    )
}

fn read_cmdline(path: &Path, printer: Printer) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            printer.warning(&format!(
                "there is no {}: the kernel gets no command line",
                path.display()
            ));
            Ok(String::new())
        }
        Err(error) => Err(Failure::failed(
            format!("cannot read {}", path.display()),
            Some(&error),
            None,
        )),
    }
}
