//! Being with a machine: as its console, or with the streams of its program.
//!
//! Enters: a machine that has begun. Leaves: what `kiln run` ends with; the machine has ended then.

use std::io;

use super::image;
use crate::failure::Failure;
use crate::signals::Interruption;
use crate::ui::printer::Printer;
use crate::vm::console::{self, Console, End, Made};
use crate::vm::control::{self, Port};
use crate::vm::log;
use crate::vm::place::Place;
use crate::vm::process::{POWER_OFF_MAX, Process};

/// Is the machine's console until one of the two ends.
pub(super) fn stay(
    process: &mut Process,
    place: &Place,
    mut console: Console,
    interruption: &Interruption,
    printer: Printer,
) -> Result<(), Failure> {
    let cancelled = || interruption.has_come();
    let end = loop {
        let made = Made::of(place);
        match console::attach(console, cancelled) {
            Ok(End::Machine) => match process.next_console(made, cancelled, printer) {
                Ok(Some(next)) => console = next,
                Ok(None) if cancelled() => break Ok(End::Signal),
                Ok(None) => break Ok(End::Machine),
                Err(error) => break Err(error),
            },
            end => break end,
        }
    };
    match end {
        Ok(End::Machine) => Ok(()),
        Ok(End::Escape) => {
            printer.done("Ending", "the machine");
            process.end(false);
            Ok(())
        }
        Ok(End::Signal) => {
            process.end(true);
            Err(Failure::by_signal(interruption.number()))
        }
        Err(error) => {
            process.end(true);
            match error.kind() {
                io::ErrorKind::BrokenPipe => Err(Failure::broken_pipe()),
                _ => Err(Failure::failed("the console", Some(&error), None)),
            }
        }
    }
}

/// Has the standard streams of the machine's service, and ends as that does.
pub(super) fn attach(
    process: &mut Process,
    place: &Place,
    tty: bool,
    interruption: &Interruption,
) -> Result<(), Failure> {
    let talk = || -> io::Result<control::End> {
        let mut port = Port::open(place)?;
        port.input = Some(control::stdin()?);
        let words = ["attach", image::SERVICE].map(str::to_owned);
        let raw = port.request(&words, tty)?;
        port.relay(raw, None, || interruption.has_come())
    };
    match talk() {
        Ok(control::End::Status(status)) => {
            // It syncs its disks, and is gone a moment later.
            if !matches!(process.wait(Some(POWER_OFF_MAX)), Ok(Some(_))) {
                process.end(false);
            }
            match status {
                0 => Ok(()),
                status => Err(Failure::with_status(status)),
            }
        }
        Ok(control::End::Left | control::End::Silence) => {
            process.end(true);
            Err(Failure::by_signal(interruption.number()))
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            process.end(true);
            Err(Failure::broken_pipe())
        }
        Err(error) => {
            let console = log::tail(&place.console_log());
            let last: Vec<&str> = console.lines().rev().take(20).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let hint = format!(
                "{}\nits console said last:\n{}",
                process.complaint(),
                last.join("\n")
            );
            process.end(false);
            let message = "the machine ended before its program";
            Err(Failure::failed(
                message,
                Some(&error),
                Some(hint.trim().to_owned()),
            ))
        }
    }
}
