//! `kiln build`, and the part of it that `kiln run` shares.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_engine::build::{BuildError, Destination, Format, OutputFile, Report, Request};
use kiln_engine::event::Listener;

use super::request;
use crate::args::{Build, LinuxKit};
use crate::failure::Failure;
use crate::signals::Interruption;
use crate::ui::json::JsonLines;
use crate::ui::printer::Printer;
use crate::ui::progress::Progress;
use crate::ui::units;
use kiln_engine::build as engine;

pub(super) fn run(arguments: &Build, printer: Printer) -> Result<(), Failure> {
    let request = build_request(arguments)?;
    if arguments.dry_run {
        return print_merged(&request, printer);
    }
    let interruption = watch_signals()?;
    if arguments.json {
        return build_for_programs(&request, &interruption);
    }
    let report = build(&request, &interruption, printer)?;
    say_result(&request, &report, printer);
    if !report.up_to_date
        && let Some(command) = boot_command(arguments, &request)
    {
        printer.done("boot it:", &command);
    }
    Ok(())
}

/// Prints the merged descriptions.
fn print_merged(request: &Request, printer: Printer) -> Result<(), Failure> {
    let progress = Progress::new(printer, Arc::default());
    let text = engine::describe(request, &progress)
        .map_err(|error| Failure::of_build(error, &request.cache, 0))?;
    drop(progress);
    super::print(&text)
}

/// Installs the signal handlers.
pub(super) fn watch_signals() -> Result<Interruption, Failure> {
    Interruption::watch()
        .map_err(|error| Failure::failed("cannot watch for signals", Some(&error), None))
}

/// Does work of the engine on `cache`, with progress for people and an ear for signals.
pub(super) fn with_progress<T>(
    cache: &Path,
    printer: Printer,
    work: impl FnOnce(&Progress, &AtomicBool) -> Result<T, BuildError>,
) -> Result<T, Failure> {
    with_progress_until(&watch_signals()?, cache, printer, work)
}

/// As [`with_progress`], for who listens for signals already.
pub(super) fn with_progress_until<T>(
    interruption: &Interruption,
    cache: &Path,
    printer: Printer,
    work: impl FnOnce(&Progress, &AtomicBool) -> Result<T, BuildError>,
) -> Result<T, Failure> {
    let progress = Progress::new(printer, interruption.flag().clone());
    let result = work(&progress, interruption.flag());
    // What is drawn must be gone before anything else is said.
    drop(progress);
    result.map_err(|error| Failure::of_build(error, cache, interruption.number()))
}

/// Builds, with progress for people.
pub(super) fn build(
    request: &Request,
    interruption: &Interruption,
    printer: Printer,
) -> Result<Report, Failure> {
    let progress = Progress::new(printer, interruption.flag().clone());
    let result = run_engine(request, &progress, interruption);
    // What is drawn must be gone before anything else is said.
    drop(progress);
    result
}

fn build_for_programs(request: &Request, interruption: &Interruption) -> Result<(), Failure> {
    let stdout = raw_stdout()?;
    let lines = JsonLines::new(Box::new(stdout), interruption.flag().clone());
    let result = run_engine(request, &lines, interruption);
    if lines.is_broken() {
        return Err(Failure::broken_pipe());
    }
    match result {
        Ok(report) => {
            lines.report(&report);
            Ok(())
        }
        Err(failure) => {
            lines.failure(&failure);
            Err(failure)
        }
    }
}

fn run_engine(
    request: &Request,
    listener: &dyn Listener,
    interruption: &Interruption,
) -> Result<Report, Failure> {
    let mut stdout: Box<dyn Write> = match request.destination {
        Destination::Stdout => Box::new(raw_stdout()?),
        _ => Box::new(io::sink()),
    };
    let cancel: &Arc<_> = interruption.flag();
    engine::run(request, listener, cancel, &mut *stdout)
        .map_err(|error| Failure::of_build(error, &request.cache, interruption.number()))
}

/// Returns standard output without the line buffer that `std::io::stdout` puts before it.
pub(super) fn raw_stdout() -> Result<File, Failure> {
    let owned = io::stdout().as_fd().try_clone_to_owned();
    owned
        .map(File::from)
        .map_err(|error| Failure::failed("cannot write to standard output", Some(&error), None))
}

fn build_request(arguments: &Build) -> Result<Request, Failure> {
    let default = match &arguments.output {
        Some(_) => Format::Tar,
        None => Format::KernelInitrd,
    };
    let formats = request::formats(&arguments.format, default)?;
    check_linuxkit(&arguments.linuxkit, arguments.output.as_deref())?;
    let mut request = request::request(&arguments.files, formats, &arguments.common)?;
    request::make(&mut request, &arguments.made)?;
    request.docker = request::docker(arguments.docker)?;
    if let Some(output) = &arguments.output {
        request.destination = one_file(output, &request.formats, arguments.json)?;
    }
    Ok(request)
}

/// Checks flags that are LinuxKit's alone.
fn check_linuxkit(flags: &LinuxKit, output: Option<&Path>) -> Result<(), Failure> {
    let Some(tar) = &flags.input_tar else {
        return Ok(());
    };
    if !tar.is_file() {
        let text = format!("--input-tar {} is not a file", tar.display());
        return Err(Failure::usage(
            text,
            "leave it out: kiln knows what changed",
        ));
    }
    if output == Some(tar.as_path()) {
        return Err(Failure::usage(
            "--input-tar and --output are the same file",
            "leave --input-tar out: kiln knows what changed",
        ));
    }
    Ok(())
}

fn one_file(output: &Path, formats: &[Format], json: bool) -> Result<Destination, Failure> {
    if formats.len() > 1 {
        return Err(Failure::usage(
            format!(
                "--output is one file, and {} formats are asked for",
                formats.len()
            ),
            "leave --output out: --dir and --name say where several files go",
        ));
    }
    if formats.contains(&Format::KernelInitrd) {
        return Err(Failure::usage(
            "--output is one file, and kernel+initrd is several",
            "ask for -f tar or -f tar-kernel-initrd, or leave --output out",
        ));
    }
    if output != Path::new("-") {
        return Ok(Destination::File(output.to_owned()));
    }
    if json {
        return Err(Failure::usage(
            "standard output cannot take both the system and --json",
            "write the system to a file: --output FILE",
        ));
    }
    if io::stdout().is_terminal() {
        return Err(Failure::usage(
            "a tar would only garble this terminal",
            "send it somewhere: kiln build -o - FILE.yml | tar t",
        ));
    }
    Ok(Destination::Stdout)
}

/// Says what there is now, in one line.
pub(super) fn say_result(request: &Request, report: &Report, printer: Printer) {
    let time = units::time(report.duration);
    if report.up_to_date {
        let name = match &request.destination {
            Destination::Directory { directory, name } => shown(&directory.join(name)),
            Destination::File(path) => shown(path),
            Destination::Stdout => "-".to_owned(),
        };
        printer.done("Fresh", &format!("{name} (nothing changed) in {time}"));
        return;
    }
    let outputs: Vec<_> = report
        .outputs
        .iter()
        // A few dozen bytes that nobody looks for.
        .filter(|output| output.role != "cmdline")
        .map(describe)
        .collect();
    printer.done("Finished", &format!("{} in {time}", outputs.join(", ")));
}

fn describe(output: &OutputFile) -> String {
    let path = if output.path == Path::new("-") {
        "standard output".to_owned()
    } else {
        shown(&output.path)
    };
    format!("{path} {}", units::size(output.bytes))
}

/// Shows a path without a leading `./`.
fn shown(path: &Path) -> String {
    path.strip_prefix("./")
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Returns the command that boots what was built, as it would be typed.
fn boot_command(arguments: &Build, request: &Request) -> Option<String> {
    if !request.formats.contains(&Format::KernelInitrd) {
        return None;
    }
    let Destination::Directory { directory, name } = &request.destination else {
        return None;
    };
    let plain = arguments.common.name.is_none() && arguments.common.dir.is_none();
    let system = match arguments.files.as_slice() {
        [file] if plain && file != Path::new("-") && arguments.common.sources.arch.is_none() => {
            file.clone()
        }
        _ => strip(directory.join(name)),
    };
    Some(format!("kiln run {}", quoted(&system)))
}

fn strip(path: PathBuf) -> PathBuf {
    path.strip_prefix("./").map(Path::to_owned).unwrap_or(path)
}

/// Quotes a path for a shell when it needs that.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let safe =
        |character: char| character.is_ascii_alphanumeric() || "/._-+,=:@%".contains(character);
    if !text.is_empty() && text.chars().all(safe) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command};
    use crate::exit;
    use clap::Parser;

    fn arguments(line: &str) -> Build {
        let line = format!("kiln build {line} --cache /nowhere");
        match Arguments::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Build(build) => build,
            other => panic!("{other:?}"),
        }
    }

    fn requested(line: &str) -> Request {
        build_request(&arguments(line)).unwrap()
    }

    #[test]
    fn names_and_formats_have_linuxkits_defaults() {
        let request = requested("a/first.yml b/second.v2.yml");
        assert_eq!(request.formats, [Format::KernelInitrd]);
        assert_eq!(
            request.destination,
            Destination::Directory {
                directory: ".".into(),
                name: "second.v2".into()
            }
        );
        let request = requested("-o x.tar a.yml");
        assert_eq!(request.formats, [Format::Tar]);
        assert_eq!(request.destination, Destination::File("x.tar".into()));
        let request = requested("-f tar,tar,kernel+initrd --name n --dir / a.yml");
        assert_eq!(request.formats, [Format::Tar, Format::KernelInitrd]);
    }

    #[test]
    fn what_cannot_be_is_usage() {
        for line in [
            "-o x -f tar,kernel+initrd a.yml",
            "-o x -f kernel+initrd a.yml",
            "-o - --json a.yml",
            "--name a/b a.yml",
            "--dir /nowhere a.yml",
            "--arch pdp11 a.yml",
            "--ca-file /nowhere a.yml",
            "..",
            "--input-tar /nowhere a.yml",
        ] {
            let failure = build_request(&arguments(line)).unwrap_err();
            assert_eq!(failure.code, exit::USAGE, "{line}");
        }
    }

    #[test]
    fn the_way_to_boot_is_a_command_that_works() {
        let command = |line: &str| boot_command(&arguments(line), &requested(line));
        assert_eq!(command("hello.yml").unwrap(), "kiln run hello.yml");
        assert_eq!(command("--name n a.yml b.yml").unwrap(), "kiln run n");
        assert_eq!(command("--dir /tmp a.yml").unwrap(), "kiln run /tmp/a");
        assert_eq!(command("-f tar a.yml"), None);
        assert_eq!(quoted(Path::new("it's a.yml")), r"'it'\''s a.yml'");
    }
}
