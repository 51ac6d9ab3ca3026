//! What happened, typed: the only thing a user interface watches.

use std::time::Duration;

/// Names a step within one run, in order of appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepNumber(pub u32);

/// How a step came to its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The cache had it.
    Cached,
    /// The work was done.
    Ran,
    /// The work was done and gave what the step gave before.
    Unchanged,
}

/// Something that happened during a build.
#[derive(Debug, Clone)]
pub enum Event {
    /// Work on a step begins.
    Started {
        /// Which step.
        step: StepNumber,
        /// Its kind: `resolve`, `image`, `layer`, `index`, `package`, `flatten`, `segment`, ….
        kind: &'static str,
        /// What people call it: an image, a package, a service.
        label: String,
    },
    /// A running step moved forward.
    Progress {
        /// Which step.
        step: StepNumber,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, when known.
        total: Option<u64>,
    },
    /// Another process is at the same step; this one waits for it.
    Waiting {
        /// Which step.
        step: StepNumber,
        /// The other process, 0 when unknown.
        process: u32,
    },
    /// A step has its result. Cached steps were never started.
    Finished {
        /// Which step.
        step: StepNumber,
        /// Its kind.
        kind: &'static str,
        /// What people call it.
        label: String,
        /// How it came about.
        outcome: Outcome,
        /// How long the work took.
        duration: Duration,
        /// Size of its objects, in bytes.
        bytes: u64,
    },
    /// A step failed; the error itself is what the run returns.
    Failed {
        /// Which step.
        step: StepNumber,
        /// Its kind.
        kind: &'static str,
        /// What people call it.
        label: String,
    },
    /// Something people should know that does not stop the build.
    Warning(
        /// One sentence.
        String,
    ),
    /// An output file is being written.
    Writing {
        /// Its path.
        path: String,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// Whoever listens to a build. Called from any thread; must not block.
pub trait Listener: Send + Sync {
    /// Takes note of one event.
    fn event(&self, event: &Event);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Listener for Silent {
    fn event(&self, _event: &Event) {}
}
