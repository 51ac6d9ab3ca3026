//! Rounds: every scenario in turn, so that a machine that gets slower meanwhile slows all of them.
//!
//! Enters: a [`Lab`]. Leaves: samples, a list a round. Quick scenarios are repeated within their
//! turn until it has lasted a while.

use std::io::Write;
use std::time::{Duration, Instant};

use super::lab::Lab;
use super::report::{Against, Row};
use super::stats::{self, Rounds};
use crate::args::{Bench, Scenario};
use crate::failure::Failure;
use crate::ui::printer::{Printer, Style};
use crate::ui::units;

/// A quick scenario is repeated within a round until its turn has lasted this long, …
const TURN: Duration = Duration::from_millis(300);
/// … or this often.
const TURN_REPEATS: usize = 40;
/// How often the yardstick is taken between turns.
const YARDSTICKS: usize = 2;
/// Cold rounds unless asked otherwise: as few as allow a verdict.
const COLD_ROUNDS: u32 = stats::ROUNDS_MIN as u32;

/// Says on a terminal what is being done.
#[derive(Clone, Copy)]
pub(super) struct Talk {
    pub(super) printer: Printer,
}

impl Talk {
    /// Shows a line while something is done.
    pub(super) fn during<T>(self, what: &str, work: impl FnOnce() -> T) -> T {
        let shown = self.printer.terminal && !self.printer.quiet;
        let line = self.printer.line(Style::Busy, "Measuring", what);
        let draw = |text: &str| {
            let mut stderr = std::io::stderr().lock();
            // When stderr is gone there is nobody to tell.
            let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
        };
        if shown {
            draw(&line);
        }
        let done = work();
        if shown {
            draw("\r\x1b[K");
        }
        done
    }

    /// Says what was done since `began`.
    pub(super) fn done(self, verb: &str, what: &str, began: Instant) {
        let time = units::time(began.elapsed());
        self.printer.done(verb, &format!("{what} in {time}"));
    }
}

/// Runs all rounds. Returns the samples, and the yardstick's.
///
/// # Errors
/// When a build fails, or a signal came.
pub(super) fn measure(
    arguments: &Bench,
    lab: &Lab<'_>,
    talk: Talk,
) -> Result<(Vec<Row>, Rounds), Failure> {
    let cold = arguments
        .cold_rounds
        .unwrap_or(COLD_ROUNDS)
        .min(arguments.rounds);
    let mut rows: Vec<Row> = Scenario::ALL
        .into_iter()
        .filter(|scenario| *scenario != Scenario::Cold || cold > 0)
        .filter(|scenario| *scenario != Scenario::OneServiceSwapped || lab.swap.is_some())
        .map(|scenario| Row {
            scenario,
            rounds: Vec::new(),
        })
        .collect();
    let mut yardstick = Rounds::new();
    for round in 1..=arguments.rounds {
        let began = Instant::now();
        let mut marks = Vec::new();
        for row in &mut rows {
            let scenario = row.scenario;
            if scenario == Scenario::Cold && round > cold {
                continue;
            }
            let mut samples = Vec::new();
            let what = format!(
                "round {round} of {}: {}",
                arguments.rounds,
                scenario.title()
            );
            talk.during(&what, || {
                turn(lab, scenario, || {
                    lab.prepare(scenario)?;
                    samples.push(lab.measure(scenario)?);
                    Ok(())
                })
            })?;
            row.rounds.push(samples);
            for _ in 0..YARDSTICKS {
                marks.push(lab.yardstick()?);
            }
        }
        yardstick.push(marks);
        let what = format!("round {round} of {}", arguments.rounds);
        talk.done("Measured", &what, began);
    }
    Ok((rows, yardstick))
}

/// Does something once, and again while its turn lasts; never a cold build again, which takes
/// the network's time as well.
fn turn(
    lab: &Lab<'_>,
    scenario: Scenario,
    mut once: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    lab.quiet_down();
    let began = Instant::now();
    for _ in 0..TURN_REPEATS {
        once()?;
        if scenario == Scenario::Cold || began.elapsed() >= TURN {
            break;
        }
    }
    Ok(())
}

/// Runs a command in turn with kiln; which of the two is first takes turns, too. The command has
/// run once: as kiln's cache is full, so is the other's.
///
/// # Errors
/// When either fails, or a signal came.
pub(super) fn against(
    command: &str,
    arguments: &Bench,
    lab: &Lab<'_>,
    talk: Talk,
) -> Result<Against, Failure> {
    let scenario = arguments.against_scenario;
    let began = Instant::now();
    lab.settle()?;
    let mut pairs: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut kiln_first = true;
    for round in 1..=arguments.rounds {
        let mut taken = Vec::new();
        let what = format!(
            "round {round} of {}: kiln and the command",
            arguments.rounds
        );
        let kiln = || lab.measure(scenario).map(|sample| sample.usage.seconds);
        let other = || {
            let usage = lab.other(command, scenario, round)?;
            Ok::<_, Failure>(usage.seconds)
        };
        talk.during(&what, || {
            turn(lab, scenario, || {
                // What has changed has changed for both.
                lab.prepare(scenario)?;
                taken.push(if kiln_first {
                    (kiln()?, other()?)
                } else {
                    let other = other()?;
                    (kiln()?, other)
                });
                kiln_first = !kiln_first;
                Ok(())
            })
        })?;
        pairs.push(taken);
    }
    let what = format!("{} rounds in turn with the command", arguments.rounds);
    talk.done("Measured", &what, began);
    let ratios: Vec<Vec<f64>> = pairs
        .iter()
        .map(|round| round.iter().map(|(kiln, other)| kiln / other).collect())
        .collect();
    Ok(Against {
        command: command.to_owned(),
        scenario,
        ratio: stats::paired(&ratios),
        pairs,
    })
}
