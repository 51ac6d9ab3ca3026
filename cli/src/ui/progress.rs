//! The listener for people: a line for what is done, and on a terminal a line for what is running.
//!
//! A drawn line appears when its step has run for [`PATIENCE`] and goes when the step ends, so a
//! build that does little draws nothing. The thread that draws starts with the first step that
//! really runs; a fresh build never gets that far. On anything but a terminal only finished lines
//! are written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln_engine::event::{Event, Listener, Outcome};

use super::printer::{Printer, Style, say};
use super::{units, words};

/// A step that is done sooner gets no line of its own.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time between two drawings.
const TICK: Duration = Duration::from_millis(100);
/// More running steps than this share one line.
const LINES_MAX: usize = 8;
/// A small package that took less is only counted: systems have dozens of them.
const PACKAGE_SHOWN: Duration = Duration::from_secs(1);
/// Cells of a bar.
const BAR_WIDTH: usize = 20;

/// Shows a build to people. Dropped, it removes what it drew.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    printer: Printer,
    cancel: Arc<AtomicBool>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u32, Running>,
    writing: Option<(String, Instant)>,
    packages: Packages,
    screen: Option<Screen>,
    announced_cancel: bool,
    ended: bool,
}

/// Packages that got no line of their own.
#[derive(Default)]
struct Packages {
    count: u64,
    bytes: u64,
}

struct Running {
    kind: &'static str,
    label: String,
    began: Instant,
    done: u64,
    total: Option<u64>,
}

struct Screen {
    multi: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Progress {
    /// Listens with `printer`'s voice; says so when `cancel` is set and work is still running.
    pub(crate) fn new(printer: Printer, cancel: Arc<AtomicBool>) -> Self {
        Self {
            shared: Arc::new(Shared {
                printer,
                cancel,
                state: Mutex::default(),
                ended: Condvar::new(),
            }),
            ticker: Mutex::new(None),
        }
    }

    /// Starts the thread that draws, unless it runs or there is nothing to draw on.
    fn start(&self) {
        let printer = self.shared.printer;
        if printer.quiet || !printer.terminal {
            return;
        }
        let mut ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        if ticker.is_some() {
            return;
        }
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("progress".into());
        // Without a thread there are no running lines; the finished ones still come.
        *ticker = thread.spawn(move || shared.tick()).ok();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Not in the `if`: the lock would be held while printing, which takes it again.
        let line = self.shared.state().packages.line(self.shared.printer);
        if let Some(line) = line {
            self.shared.print(&line);
        }
        self.shared.state().ended = true;
        self.shared.ended.notify_all();
        let ticker = self
            .ticker
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = ticker.take() {
            let _ = thread.join();
        }
    }
}

impl Listener for Progress {
    fn event(&self, event: &Event) {
        let shared = &self.shared;
        let printer = shared.printer;
        match event {
            Event::Started { step, kind, label } => {
                let running = Running {
                    kind,
                    label: label.clone(),
                    began: Instant::now(),
                    done: 0,
                    total: None,
                };
                shared.state().running.insert(step.0, running);
                self.start();
            }
            Event::Progress { step, done, total } => {
                if let Some(running) = shared.state().running.get_mut(&step.0) {
                    (running.done, running.total) = (*done, *total);
                }
            }
            Event::Waiting { process, .. } => {
                let whom = match process {
                    0 => "another kiln".to_owned(),
                    process => format!("another kiln (process {process})"),
                };
                let line = printer.line(
                    Style::Busy,
                    "Waiting",
                    &format!("for {whom} at the same step"),
                );
                shared.print(&line);
            }
            Event::Finished {
                step,
                kind,
                label,
                outcome,
                duration,
                bytes,
            } => {
                let mut state = shared.state();
                state.running.remove(&step.0);
                if !printer.verbose && state.packages.count(kind, *outcome, *duration, *bytes) {
                    return;
                }
                drop(state);
                if let Some(line) = finished(printer, kind, label, *outcome, *duration, *bytes) {
                    shared.print(&line);
                }
            }
            Event::Failed { step, .. } => {
                shared.state().running.remove(&step.0);
            }
            Event::Warning(message) => shared.print(&printer.warning_line(message)),
            Event::Writing { path, bytes } => {
                let what = format!("{path} {}", units::size(*bytes));
                shared.state().writing = Some((what, Instant::now()));
                self.start();
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line above what is drawn.
    fn print(&self, line: &str) {
        if self.printer.quiet {
            return;
        }
        let state = self.state();
        match &state.screen {
            Some(screen) if !screen.lines.is_empty() => {
                let _ = screen.multi.println(line);
            }
            _ => say(line),
        }
    }

    fn tick(&self) {
        let mut state = self.state();
        while !state.ended {
            let cancelled = self.cancel.load(Ordering::Relaxed);
            if cancelled && !state.announced_cancel {
                state.announced_cancel = true;
                let rest = "finishing what is running; once more to stop at once";
                let line = self.printer.line(Style::Warning, "Stopping", rest);
                match &state.screen {
                    Some(screen) if !screen.lines.is_empty() => {
                        let _ = screen.multi.println(line);
                    }
                    _ => say(&line),
                }
            }
            let texts = state.texts(self.printer, Instant::now());
            state.draw(&texts);
            state = self
                .ended
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.draw(&[]);
    }
}

impl State {
    /// Returns the lines of what is running at `now`, oldest first.
    fn texts(&self, printer: Printer, now: Instant) -> Vec<String> {
        let mut slow: Vec<_> = self
            .running
            .values()
            .filter(|running| now.saturating_duration_since(running.began) >= PATIENCE)
            .collect();
        slow.sort_by_key(|running| running.began);
        let mut texts: Vec<String> = slow
            .iter()
            .take(LINES_MAX)
            .map(|running| running.text(printer, now))
            .collect();
        if slow.len() > LINES_MAX {
            texts.push(printer.line(
                Style::Busy,
                "…",
                &format!("and {} more", slow.len() - LINES_MAX),
            ));
        }
        if let Some((what, since)) = &self.writing
            && now.saturating_duration_since(*since) >= PATIENCE
        {
            texts.push(printer.line(Style::Busy, "Writing", what));
        }
        texts
    }

    fn draw(&mut self, texts: &[String]) {
        if self.screen.is_none() && texts.is_empty() {
            return;
        }
        let screen = self.screen.get_or_insert_with(|| Screen {
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            lines: Vec::new(),
        });
        while screen.lines.len() > texts.len() {
            if let Some(line) = screen.lines.pop() {
                line.finish_and_clear();
                screen.multi.remove(&line);
            }
        }
        while screen.lines.len() < texts.len() {
            let line = screen.multi.add(ProgressBar::no_length());
            // The template is a constant of one placeholder that exists.
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                line.set_style(style);
            }
            screen.lines.push(line);
        }
        for (line, text) in screen.lines.iter().zip(texts) {
            line.set_message(text.clone());
            line.tick();
        }
    }
}

impl Packages {
    /// Counts a step when it is a package that deserves no line.
    fn count(&mut self, kind: &str, outcome: Outcome, duration: Duration, bytes: u64) -> bool {
        let counts = kind == "package" && outcome != Outcome::Cached && duration < PACKAGE_SHOWN;
        if counts {
            self.count += 1;
            self.bytes += bytes;
        }
        counts
    }

    fn line(&self, printer: Printer) -> Option<String> {
        let noun = match self.count {
            0 => return None,
            1 => "package",
            _ => "packages",
        };
        let rest = format!("{} {noun}, {}", self.count, units::size(self.bytes));
        Some(printer.line(Style::Good, "Unpacked", &rest))
    }
}

impl Running {
    /// Returns `   Unpacking nginx [====>   ] 12 MB of 41 MB, 23 MB/s`.
    fn text(&self, printer: Printer, now: Instant) -> String {
        let mut rest = self.label.clone();
        let elapsed = now.saturating_duration_since(self.began);
        match self.total {
            Some(total) if total > 0 => rest.push_str(&format!(
                " [{}] {} of {}",
                bar(self.done, total),
                units::size(self.done.min(total)),
                units::size(total)
            )),
            _ if self.done > 0 => rest.push_str(&format!(" {}", units::size(self.done))),
            _ => {}
        }
        if self.done > 0 {
            let rate = self.done as f64 / elapsed.as_secs_f64().max(0.001);
            rest.push_str(&format!(", {}/s", units::size(rate as u64)));
        } else if elapsed >= Duration::from_secs(1) {
            rest.push_str(&format!(" {} s", elapsed.as_secs()));
        }
        printer.line(Style::Busy, words::of(self.kind).doing, &rest)
    }
}

fn bar(done: u64, total: u64) -> String {
    let share =
        (u128::from(done.min(total)) * BAR_WIDTH as u128 / u128::from(total.max(1))) as usize;
    let head = if share < BAR_WIDTH { ">" } else { "" };
    let filled = "=".repeat(share);
    format!("{:<width$}", filled + head, width = BAR_WIDTH)
}

/// Returns the line of a finished step, when it deserves one.
fn finished(
    printer: Printer,
    kind: &str,
    label: &str,
    outcome: Outcome,
    duration: Duration,
    bytes: u64,
) -> Option<String> {
    let words = words::of(kind);
    let worked = outcome != Outcome::Cached;
    if !(printer.verbose || worked && words.notable) {
        return None;
    }
    let mut rest = label.to_owned();
    if bytes > 0 {
        rest.push_str(&format!(" {}", units::size(bytes)));
    }
    match outcome {
        Outcome::Cached => {
            return Some(printer.line(Style::Good, "Cached", &format!("{kind} {rest}")));
        }
        Outcome::Ran => rest.push_str(&format!(" in {}", units::time(duration))),
        Outcome::Unchanged => rest.push_str(&format!(" in {}, unchanged", units::time(duration))),
    }
    if !words.notable {
        rest.insert_str(0, &format!("{kind} "));
    }
    Some(printer.line(Style::Good, words.done, &rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_engine::event::StepNumber;

    const PLAIN: Printer = Printer {
        color: false,
        verbose: false,
        quiet: false,
        terminal: true,
    };

    fn running(done: u64, total: Option<u64>, began: Instant) -> Running {
        Running {
            kind: "layer",
            label: "nginx".into(),
            began,
            done,
            total,
        }
    }

    #[test]
    fn a_running_line_has_bar_and_rate() {
        let began = Instant::now();
        let now = began + Duration::from_secs(2);
        let line = running(20_000_000, Some(40_000_000), began).text(PLAIN, now);
        assert_eq!(
            line,
            "   Unpacking nginx [==========>         ] 20 MB of 40 MB, 10 MB/s"
        );
        let line = running(0, None, began).text(PLAIN, now);
        assert_eq!(line, "   Unpacking nginx 2 s");
        let whole = running(40_000_000, Some(1), began).text(PLAIN, now);
        assert!(whole.contains("[====================]"), "{whole}");
    }

    #[test]
    fn quick_steps_are_not_drawn_and_many_share_a_line() {
        let began = Instant::now();
        let mut state = State::default();
        for step in 0..20 {
            state.running.insert(step, running(0, None, began));
        }
        assert!(state.texts(PLAIN, began).is_empty());
        let texts = state.texts(PLAIN, began + PATIENCE);
        assert_eq!(texts.len(), LINES_MAX + 1);
        assert_eq!(texts[LINES_MAX], "           … and 12 more");
    }

    /// Every event while lines are drawn and while they are not; a lock taken twice would hang.
    #[test]
    fn all_events_pass_and_the_end_comes() {
        for terminal in [false, true] {
            let printer = Printer { terminal, ..PLAIN };
            let progress = Progress::new(printer, Arc::default());
            let step = StepNumber(1);
            for kind in ["layer", "package"] {
                let label = "nginx".to_owned();
                progress.event(&Event::Started {
                    step,
                    kind,
                    label: label.clone(),
                });
                progress.event(&Event::Progress {
                    step,
                    done: 1,
                    total: Some(2),
                });
                std::thread::sleep(PATIENCE + TICK);
                progress.event(&Event::Waiting { step, process: 0 });
                progress.event(&Event::Warning("odd".into()));
                progress.event(&Event::Finished {
                    step,
                    kind,
                    label: label.clone(),
                    outcome: Outcome::Ran,
                    duration: Duration::from_millis(9),
                    bytes: 5,
                });
                progress.event(&Event::Failed { step, kind, label });
            }
            progress.event(&Event::Writing {
                path: "x".into(),
                bytes: 1,
            });
            progress.shared.cancel.store(true, Ordering::Relaxed);
            assert_eq!(progress.shared.state().packages.count, 1);
            assert!(progress.shared.state().running.is_empty());
        }
    }

    #[test]
    fn small_packages_share_a_line() {
        let mut packages = Packages::default();
        assert_eq!(packages.line(PLAIN), None);
        let (quick, slow) = (Duration::from_millis(20), Duration::from_secs(3));
        assert!(packages.count("package", Outcome::Ran, quick, 300_000));
        assert!(packages.count("package", Outcome::Unchanged, quick, 700_000));
        assert!(!packages.count("package", Outcome::Ran, slow, 1));
        assert!(!packages.count("package", Outcome::Cached, quick, 1));
        assert!(!packages.count("layer", Outcome::Ran, quick, 1));
        assert_eq!(
            packages.line(PLAIN).unwrap(),
            "    Unpacked 2 packages, 1.0 MB"
        );
    }

    #[test]
    fn finished_lines_tell_what_was_done() {
        let second = Duration::from_millis(200);
        let line =
            |kind, outcome, printer| finished(printer, kind, "nginx", outcome, second, 41_000_000);
        let verbose = Printer {
            verbose: true,
            ..PLAIN
        };
        assert_eq!(
            line("layer", Outcome::Ran, PLAIN).unwrap(),
            "    Unpacked nginx 41 MB in 0.2 s"
        );
        assert_eq!(
            line("layer", Outcome::Unchanged, PLAIN).unwrap(),
            "    Unpacked nginx 41 MB in 0.2 s, unchanged"
        );
        assert_eq!(line("layer", Outcome::Cached, PLAIN), None);
        assert_eq!(line("root", Outcome::Ran, PLAIN), None);
        assert_eq!(
            line("root", Outcome::Cached, verbose).unwrap(),
            "      Cached root nginx 41 MB"
        );
        assert_eq!(
            line("root", Outcome::Ran, verbose).unwrap(),
            "      Merged root nginx 41 MB in 0.2 s"
        );
    }
}
