//! What was measured, and its form for programs.
//!
//! Enters: samples. Leaves: [`Report`] and its JSON, which `docs/bench.md` describes; fields are
//! only ever added. What was written so is read back as [`Before`].

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::lab::Sample;
use super::machine::Machine;
use super::stats::{Ratio, Rounds, median, quantile};
use super::swap::Swap;
use crate::args::Scenario;
use crate::failure::Failure;

/// The version of the JSON's meaning.
const VERSION: u64 = 1;
/// A thousand rounds of quick scenarios are less.
const BEFORE_MAX_BYTES: u64 = 64 << 20;

/// Everything that a run found out.
pub(super) struct Report {
    pub(super) system: System,
    pub(super) machine: Machine,
    /// Seconds since 1970.
    pub(super) measured_at: u64,
    pub(super) rows: Vec<Row>,
    /// Seconds of the same work throughout, which is none of kiln's.
    pub(super) yardstick: Rounds,
    /// Scenarios without samples, and why.
    pub(super) missing: Vec<(Scenario, String)>,
    /// This process's own peak memory in bytes: no child's is known to be less.
    pub(super) memory_floor: u64,
    pub(super) comparison: Option<Comparison>,
    pub(super) against: Option<Against>,
}

/// What was built.
#[derive(Default)]
pub(super) struct System {
    pub(super) files: Vec<PathBuf>,
    pub(super) formats: Vec<&'static str>,
    pub(super) architecture: String,
    /// What a cold build fetches.
    pub(super) fetched: Vec<String>,
    pub(super) swap: Option<Swap>,
}

/// A scenario's samples, a list a round.
pub(super) struct Row {
    pub(super) scenario: Scenario,
    pub(super) rounds: Vec<Vec<Sample>>,
}

/// The ratios to an earlier run.
pub(super) struct Comparison {
    pub(super) before: Before,
    /// The machine's own.
    pub(super) machine: Ratio,
    /// Scenario, seconds before, ratio of now to before.
    pub(super) ratios: Vec<(Scenario, f64, Ratio)>,
}

/// An earlier run.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) file: PathBuf,
    pub(super) kiln: String,
    pub(super) formats: Vec<String>,
    pub(super) architecture: String,
    pub(super) machine: Value,
    pub(super) rows: Vec<(Scenario, Rounds)>,
    pub(super) yardstick: Rounds,
}

/// Another builder's times in turn with kiln's.
pub(super) struct Against {
    pub(super) command: String,
    pub(super) scenario: Scenario,
    /// Seconds of kiln and of the command, pair by pair, a list a round.
    pub(super) pairs: Vec<Vec<(f64, f64)>>,
    /// kiln to the command.
    pub(super) ratio: Ratio,
}

impl Row {
    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.rounds.iter().flatten()
    }

    pub(super) fn seconds(&self) -> Rounds {
        let round = |round: &Vec<Sample>| round.iter().map(|it| it.usage.seconds).collect();
        self.rounds.iter().map(round).collect()
    }

    /// Returns the median of something in whole units.
    pub(super) fn typical(&self, of: impl Fn(&Sample) -> u64) -> u64 {
        let values: Vec<f64> = self.samples().map(|sample| of(sample) as f64).collect();
        median(&values).round() as u64
    }

    /// Returns the median of bytes read and of bytes written by system calls, when all are known.
    pub(super) fn calls(&self) -> Option<(u64, u64)> {
        if self.samples().any(|sample| sample.usage.calls.is_none()) {
            return None;
        }
        let calls = |sample: &Sample| sample.usage.calls.unwrap_or_default();
        let read = self.typical(|sample| calls(sample).0);
        Some((read, self.typical(|sample| calls(sample).1)))
    }

    /// Returns the largest peak memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let peaks = self.samples().map(|sample| sample.usage.memory);
        peaks.max().unwrap_or_default()
    }

    /// Returns whether every build found that nothing had to be done.
    pub(super) fn is_fresh(&self) -> bool {
        self.samples().all(|sample| sample.up_to_date)
    }

    fn json(&self) -> Value {
        let rounds = self.seconds();
        let all = rounds.concat();
        let calls = self.calls();
        json!({
            "scenario": self.scenario.name(),
            "samples": rounds,
            "median": median(&all),
            "quartiles": [quantile(&all, 0.25), quantile(&all, 0.75)],
            "min": quantile(&all, 0.0),
            "max": quantile(&all, 1.0),
            "output_bytes": self.typical(|sample| sample.bytes),
            "memory_bytes": self.memory(),
            "read_bytes": calls.map(|calls| calls.0),
            "written_bytes": calls.map(|calls| calls.1),
            "storage_read_bytes": self.typical(|sample| sample.usage.storage.0),
            "storage_written_bytes": self.typical(|sample| sample.usage.storage.1),
            "steps_cached": self.typical(|sample| sample.cached),
            "steps_ran": self.typical(|sample| sample.ran),
            "up_to_date": self.is_fresh(),
        })
    }
}

impl Ratio {
    fn json(self) -> Value {
        json!({"ratio": self.value, "low": self.low, "high": self.high})
    }
}

impl Report {
    /// Returns the size of the outputs in bytes.
    pub(super) fn output_bytes(&self) -> u64 {
        let row = self.rows.first();
        row.map_or(0, |row| row.typical(|sample| sample.bytes))
    }

    pub(super) fn json(&self) -> Value {
        let swap = self
            .system
            .swap
            .as_ref()
            .map(|swap| json!({"service": swap.service, "from": swap.from, "to": swap.to}));
        let missing = self
            .missing
            .iter()
            .map(|(scenario, reason)| json!({"scenario": scenario.name(), "reason": reason}));
        let comparison = self.comparison.as_ref().map(|comparison| {
            let ratios = comparison.ratios.iter().map(|(scenario, before, ratio)| {
                let mut value = json!({"scenario": scenario.name(), "before": before});
                merge(&mut value, ratio.json());
                value["verdict"] = ratio.verdict(Some(comparison.machine)).name().into();
                value
            });
            json!({
                "before": comparison.before.file.to_string_lossy(),
                "kiln": comparison.before.kiln,
                "machine": comparison.machine.json(),
                "scenarios": ratios.collect::<Vec<_>>(),
            })
        });
        let against = self.against.as_ref().map(|against| {
            let mut value = json!({
                "command": against.command,
                "scenario": against.scenario.name(),
                "pairs": against.pairs,
            });
            merge(&mut value, against.ratio.json());
            value["verdict"] = against.ratio.verdict(None).name().into();
            value
        });
        json!({
            "version": VERSION,
            "kiln": env!("CARGO_PKG_VERSION"),
            "measured_at": self.measured_at,
            "machine": self.machine.json(),
            "system": {
                "files": self.system.files.iter().map(|file| file.to_string_lossy()).collect::<Vec<_>>(),
                "formats": self.system.formats,
                "architecture": self.system.architecture,
                "output_bytes": self.output_bytes(),
                "fetched": self.system.fetched,
                "swap": swap,
            },
            "memory_floor_bytes": self.memory_floor,
            "scenarios": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "yardstick": self.yardstick,
            "missing": missing.collect::<Vec<_>>(),
            "comparison": comparison,
            "against": against,
        })
    }
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

impl Before {
    /// Reads what `kiln bench --json` wrote.
    ///
    /// # Errors
    /// When it cannot be read or is something else.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(BEFORE_MAX_BYTES).read_to_string(&mut text));
        read.map_err(|error| {
            let message = format!("cannot read {}", path.display());
            Failure::failed(message, Some(&error), None)
        })?;
        Self::parse(path, &text).map_err(|why| {
            let message = format!("--compare {}: {why}", path.display());
            Failure::usage(message, "it is what `kiln bench --json` printed")
        })
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match value["version"].as_u64() {
            Some(VERSION) => {}
            Some(version) => return Err(format!("version {version} is not known to this kiln")),
            None => return Err("it has no version".into()),
        }
        let system = &value["system"];
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("damaged");
        let formats = system["formats"].as_array().ok_or("damaged")?;
        let rows = value["scenarios"].as_array().ok_or("damaged")?;
        Ok(Self {
            file: path.to_owned(),
            kiln: text(&value["kiln"])?,
            formats: formats.iter().map(text).collect::<Result<_, _>>()?,
            architecture: text(&system["architecture"])?,
            machine: value["machine"].clone(),
            rows: rows.iter().map(before_row).collect::<Result<_, _>>()?,
            yardstick: times(&value["yardstick"]).ok_or("it has no yardstick, or a wrong one")?,
        })
    }
}

fn before_row(row: &Value) -> Result<(Scenario, Rounds), String> {
    let name = row["scenario"].as_str().ok_or("a scenario has no name")?;
    let scenario = Scenario::ALL.into_iter().find(|it| it.name() == name);
    let scenario = scenario.ok_or_else(|| format!("\"{name}\" is no scenario"))?;
    let rounds = times(&row["samples"]);
    let rounds = rounds.ok_or_else(|| format!("\"{name}\" has no times, or wrong ones"))?;
    Ok((scenario, rounds))
}

/// Reads seconds in rounds, at least one.
fn times(value: &Value) -> Option<Rounds> {
    let sample = |sample: &Value| {
        let seconds = sample.as_f64();
        seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0)
    };
    let round = |round: &Value| round.as_array()?.iter().map(sample).collect();
    let rounds: Rounds = value.as_array()?.iter().map(round).collect::<Option<_>>()?;
    rounds
        .iter()
        .any(|round| !round.is_empty())
        .then_some(rounds)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
