//! The listener for programs: one JSON object per event and line, on standard output.
//!
//! The schema is documented in `docs/cli.md`; fields are only ever added.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_engine::build::Report;
use kiln_engine::event::{Event, Listener, Outcome};
use serde_json::{Value, json};

use crate::failure::Failure;

/// A step reports its progress no more often than this.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Writes events as they come.
pub(crate) struct JsonLines {
    out: Mutex<Box<dyn Write + Send>>,
    last_progress: Mutex<HashMap<u32, Instant>>,
    cancel: Arc<AtomicBool>,
    broken: AtomicBool,
}

impl JsonLines {
    /// Writes to `out`; sets `cancel` when its reader is gone.
    pub(crate) fn new(out: Box<dyn Write + Send>, cancel: Arc<AtomicBool>) -> Self {
        Self {
            out: Mutex::new(out),
            last_progress: Mutex::default(),
            cancel,
            broken: AtomicBool::new(false),
        }
    }

    /// Returns true when the reader went away.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Writes what the build did, as the last object.
    pub(crate) fn report(&self, report: &Report) {
        let outputs = report.outputs.iter().map(|output| {
            json!({
                "path": output.path.to_string_lossy(),
                "role": output.role,
                "bytes": output.bytes,
                "written": output.written,
            })
        });
        self.write(&json!({
            "event": "report",
            "outputs": outputs.collect::<Vec<_>>(),
            "up_to_date": report.up_to_date,
            "cached": report.cached,
            "ran": report.ran,
            "cmdline": report.cmdline,
            "seconds": report.duration.as_secs_f64(),
        }));
    }

    /// Writes why there is no report, as the last object.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.write(&failure.json());
    }

    fn write(&self, value: &Value) {
        let mut line = value.to_string();
        line.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = out.write_all(line.as_bytes())
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            self.broken.store(true, Ordering::Relaxed);
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn is_due(&self, step: u32) -> bool {
        let mut last = self
            .last_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match last.insert(step, now) {
            Some(before) if now - before < PROGRESS_INTERVAL => {
                last.insert(step, before);
                false
            }
            _ => true,
        }
    }
}

impl Listener for JsonLines {
    fn event(&self, event: &Event) {
        let value = match event {
            Event::Started { step, kind, label } => {
                json!({"event": "started", "step": step.0, "kind": kind, "label": label})
            }
            Event::Progress { step, done, total } => {
                if !self.is_due(step.0) {
                    return;
                }
                json!({"event": "progress", "step": step.0, "done": done, "total": total})
            }
            Event::Waiting { step, process } => {
                json!({"event": "waiting", "step": step.0, "process": process})
            }
            Event::Finished {
                step,
                kind,
                label,
                outcome,
                duration,
                bytes,
            } => json!({
                "event": "finished",
                "step": step.0,
                "kind": kind,
                "label": label,
                "outcome": match outcome {
                    Outcome::Cached => "cached",
                    Outcome::Ran => "ran",
                    Outcome::Unchanged => "unchanged",
                },
                "seconds": duration.as_secs_f64(),
                "bytes": bytes,
            }),
            Event::Failed { step, kind, label } => {
                json!({"event": "failed", "step": step.0, "kind": kind, "label": label})
            }
            Event::Warning(message) => json!({"event": "warning", "message": message}),
            Event::Writing { path, bytes } => {
                json!({"event": "writing", "path": path, "bytes": bytes})
            }
        };
        self.write(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_engine::event::StepNumber;

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_object_a_line_and_progress_is_sparse() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = JsonLines::new(Box::new(Shared(written.clone())), Arc::default());
        let step = StepNumber(3);
        lines.event(&Event::Started {
            step,
            kind: "layer",
            label: "a\nb".into(),
        });
        for done in 0..1000 {
            lines.event(&Event::Progress {
                step,
                done,
                total: None,
            });
        }
        lines.report(&Report::default());
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let values: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(values[0]["label"], "a\nb");
        assert_eq!(values[1]["event"], "progress");
        assert!(values.len() < 100, "{} lines", values.len());
        assert_eq!(values[values.len() - 1]["event"], "report");
    }

    #[test]
    fn a_reader_that_leaves_cancels_the_build() {
        let cancel = Arc::new(AtomicBool::new(false));
        let lines = JsonLines::new(Box::new(Gone), cancel.clone());
        lines.event(&Event::Warning("x".into()));
        assert!(lines.is_broken());
        assert!(cancel.load(Ordering::Relaxed));
    }
}
