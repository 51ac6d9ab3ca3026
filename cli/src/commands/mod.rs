//! One file per verb. Enters: parsed arguments. Leaves: an exit code, after everything was said.

mod bench;
mod build;
mod cache;
mod lock;
mod metadata;
mod migrate;
mod pkg;
mod push;
mod replace;
mod request;
mod run;
mod sbom;
mod schema;
mod serve;
mod size;
mod version;
mod vm;
mod watch;

use std::process::ExitCode;

use crate::args::{Arguments, Command};
use crate::exit;
use crate::failure::Failure;
use crate::ui::diagnostic;
use crate::ui::printer::{Printer, for_terminal};

/// Runs a command and says what went wrong.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let printer = Printer::new(arguments.talk);
    let result = match &arguments.command {
        Command::Build(build) => build::run(build, printer),
        Command::Run(run) => run::run(run, printer),
        Command::Vm(command) => vm::run(command, printer),
        Command::Lock(lock) => lock::run(lock, printer),
        Command::Bench(bench) => bench::run(bench, printer),
        Command::Migrate(migrate) => migrate::run(migrate, printer),
        Command::Push(push) => push::run(push, printer),
        Command::Schema(schema) => schema::run(schema),
        Command::Cache(cache) => cache::run(cache, printer),
        Command::Sbom(sbom) => sbom::run(sbom, printer),
        Command::Pkg(pkg) => pkg::run(pkg),
        Command::Size(size) => size::run(size),
        Command::Serve(serve) => serve::run(serve, printer),
        Command::Metadata(metadata) => metadata::run(metadata),
        Command::Version(version) => version::run(version),
    };
    ExitCode::from(match result {
        Ok(()) => exit::OK,
        Err(failure) => {
            report(&failure, printer);
            failure.code
        }
    })
}

fn report(failure: &Failure, printer: Printer) {
    use std::io::Write;
    let width = rustix::termios::tcgetwinsize(std::io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|width| *width > 0);
    let text = for_terminal(diagnostic::render(failure, printer, width));
    // When stderr is gone there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes text to standard output.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::broken_pipe(),
        _ => Failure::failed("cannot write to standard output", Some(&error), None),
    })
}
