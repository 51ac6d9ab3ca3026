//! `kiln bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Docker, Made, Sources, formats};

pub(super) const ABOUT: &str = "\
Measure how fast a system builds: its own, on this machine, as whole processes.

Cold, warm, nothing changed, one file changed, one service swapped: kiln builds the system again \
and again, each scenario in turn, in a cache and a directory of its own. Your cache and outputs \
are not touched. What is not on this machine is fetched in every cold round. docs/bench.md says \
what each row means.

  kiln bench system.yml
  kiln bench --json system.yml > before.json
  kiln bench --compare before.json system.yml
  kiln bench --against 'other-builder system.yml' system.yml";

/// `kiln bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The descriptions of one system, in order, as `build` takes them
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Formats, separated by commas [default: kernel+initrd]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    #[arg(value_parser = formats(), hide_possible_values = false)]
    pub(crate) format: Vec<String>,
    /// Rounds of all scenarios; quick ones are repeated within a round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Rounds with a cold build; 0 leaves it out [default: 4, or --rounds when that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) cold_rounds: Option<u32>,
    /// Image to swap a service's for [default: the last service's own, after another of the system]
    #[arg(long, value_name = "[SERVICE=]IMAGE")]
    pub(crate) swap: Option<String>,
    /// Print the results as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Compare with what --json printed before
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
    /// Write a chart, one HTML file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Run a shell command in turn with kiln, and compare the two
    #[arg(long, value_name = "CMD")]
    pub(crate) against: Option<String>,
    /// What kiln does in turn with the command
    #[arg(long, value_name = "SCENARIO", default_value = "nothing-changed")]
    #[arg(requires = "against")]
    pub(crate) against_scenario: Scenario,
    /// Directory to work in [default: the one that holds the cache directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Images of a local engine.
    #[command(flatten)]
    pub(crate) docker: Docker,
    /// What is built.
    #[command(flatten)]
    pub(crate) made: Made,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// A situation that people wait in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// An empty cache
    Cold,
    /// A full cache, no outputs
    Warm,
    /// Everything is there
    NothingChanged,
    /// Another content of one entry of `files`
    OneFileChanged,
    /// Another image of one service
    OneServiceSwapped,
}
