//! What `kiln run` boots: told from what was named, built when it is a description or an image.
//!
//! Enters: the command line. Leaves: where the machine begins.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_engine::build::{Destination, Format, Request};
use rustix::termios::Winsize;

use super::super::{build, request};
use super::image;
use crate::args::Run;
use crate::failure::Failure;
use crate::machine::Boot;
use crate::ui::printer::Printer;

/// What there is to boot.
pub(super) enum What {
    Description,
    Outputs,
    /// A container image, by the name that was given.
    Image(String),
}

impl What {
    pub(super) fn of(arguments: &Run) -> Result<Self, Failure> {
        let system = &arguments.system;
        let what = match system.to_str() {
            _ if is_description(system) => Self::Description,
            Some(image) if !with_suffix(system, "-kernel").exists() => {
                Self::Image(image.to_owned())
            }
            _ => Self::Outputs,
        };
        let is_of_images = !arguments.words.is_empty()
            || !arguments.env.is_empty()
            || arguments.user.is_some()
            || arguments.workdir.is_some()
            || arguments.entrypoint.is_some()
            || !arguments.volume.is_empty()
            || arguments.tty;
        match &what {
            Self::Image(_) | Self::Outputs if arguments.watch => Err(Failure::usage(
                "--watch is for descriptions",
                "an image is run anew",
            )),
            _ if arguments.watch && arguments.docker.docker => Err(Failure::usage(
                "--watch cannot ask a Docker engine whether its images have changed",
                "leave --docker out: images come from the registry, or as docker-archive:FILE",
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
            _ if is_of_images => Err(Failure::usage(
                "arguments, --tty, --env, --user, --workdir, --volume and --entrypoint are for images",
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
        printer: Printer,
    ) -> Result<(PathBuf, Option<Request>), Failure> {
        match self {
            Self::Description => build_prefix(arguments, printer),
            Self::Outputs => Ok((arguments.system.clone(), None)),
            Self::Image(image) => {
                let (prefix, request) =
                    image::build_prefix(arguments, image, architecture, printer)?;
                Ok((prefix, Some(request)))
            }
        }
    }

    /// Returns where the machine of these outputs begins; a program's terminal has a size.
    pub(super) fn boot(
        &self,
        arguments: &Run,
        prefix: &Path,
        window: Option<Winsize>,
        printer: Printer,
    ) -> Result<Boot, Failure> {
        let kernel = with_suffix(prefix, "-kernel");
        if !kernel.is_file() {
            return Err(nothing_to_boot(&arguments.system, &kernel));
        }
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
        })
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

const fn has_data(arguments: &Run) -> bool {
    arguments.data.is_some() || arguments.data_file.is_some()
}

/// Builds the description and returns the prefix of its outputs.
fn build_prefix(arguments: &Run, printer: Printer) -> Result<(PathBuf, Option<Request>), Failure> {
    let files = [arguments.system.clone()];
    let mut request = request::request(&files, vec![Format::KernelInitrd], &arguments.common)?;
    request.docker = request::docker(arguments.docker)?;
    let interruption = build::watch_signals()?;
    let report = build::build(&request, &interruption, printer)?;
    build::say_result(&request, &report, printer);
    match &request.destination {
        Destination::Directory { directory, name } => Ok((directory.join(name), Some(request))),
        Destination::File(_) | Destination::Stdout => Err(Failure::usage(
            "only a kernel and an initrd can be booted",
            None,
        )),
    }
}

fn is_description(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yml" | "yaml")) || path.is_file()
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path: OsString = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn nothing_to_boot(system: &Path, kernel: &Path) -> Failure {
    Failure::failed(
        format!("there is no {} to boot", kernel.display()),
        None,
        Some(if is_description(system) {
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
