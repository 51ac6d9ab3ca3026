//! `kiln run --watch`: what is saved runs a moment later.
//!
//! The system is built again whenever one of its inputs changes, and each service that differs is
//! replaced in the running machine. What is not a service is there from the next boot on.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_engine::build::{self as engine, Request, ServiceState, service_states};

use super::replace::{Replacement, Silent};
use crate::failure::Failure;
use crate::signals::Interruption;
use crate::ui::printer::Printer;
use crate::vm::place::Place;

/// An unchanged system costs a few milliseconds each time.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// It may be a server that is asked in vain.
const AFTER_MISTAKE: Duration = Duration::from_secs(1);
/// How long a new service has to become ready, in seconds.
const READY_WAIT: u32 = 60;

/// What a watcher knows.
struct Watcher {
    request: Request,
    place: Place,
    printer: Printer,
    /// Nobody interrupts it: it ends with the process.
    interruption: Interruption,
    /// The services that run.
    running: Vec<ServiceState>,
    /// Their trees when the machine booted.
    trees: BTreeMap<String, String>,
    /// What is wrong at the moment.
    mistake: Option<String>,
}

/// Watches the inputs of a system that was built and boots, until the process ends.
///
/// # Errors
/// When the system cannot be looked at.
pub(super) fn start(request: &Request, place: &Place, printer: Printer) -> Result<(), Failure> {
    let interruption = Interruption::default();
    let running = service_states(request, &Silent, interruption.flag())
        .map_err(|error| Failure::of_build(error, &request.cache, 0))?;
    let tree = |state: &ServiceState| (state.name.clone(), state.tree.clone());
    let mut watcher = Watcher {
        trees: running.iter().map(tree).collect(),
        request: request.clone(),
        place: place.clone(),
        printer,
        interruption,
        running,
        mistake: None,
    };
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            watcher.look();
        }
    });
    Ok(())
}

impl Watcher {
    fn look(&mut self) {
        match self.build() {
            Ok(Some(states)) => self.replace(&states),
            Ok(None) => {}
            Err(failure) => {
                // Said once: it stays until somebody mends it.
                let what = failure.json().to_string();
                if self.mistake.as_ref() != Some(&what) {
                    super::report(&failure, self.printer);
                    self.mistake = Some(what);
                }
                std::thread::sleep(AFTER_MISTAKE);
                return;
            }
        }
        self.mistake = None;
    }

    /// Builds if something has changed; returns the services then.
    fn build(&self) -> Result<Option<Vec<ServiceState>>, Failure> {
        let cancel = self.interruption.flag();
        let failed = |error| Failure::of_build(error, &self.request.cache, 0);
        let report = engine::run(&self.request, &Silent, cancel, &mut std::io::sink());
        if report.map_err(failed)?.up_to_date {
            return Ok(None);
        }
        let states = service_states(&self.request, &Silent, cancel);
        states.map(Some).map_err(failed)
    }

    fn replace(&mut self, states: &[ServiceState]) {
        let mut tried = 0;
        for state in states {
            let Some(running) = self.running.iter_mut().find(|it| it.name == state.name) else {
                continue;
            };
            if running == state {
                continue;
            }
            let replacement = Replacement {
                place: &self.place,
                name: &state.name,
                image: None,
                trees: &self.trees,
                wait: READY_WAIT,
                stop_first: false,
                printer: self.printer,
            };
            tried += 1;
            let done = replacement.run(&self.request, Silent, &self.interruption);
            if let Err(failure) = done {
                super::report(&failure, self.printer);
            }
            // One that failed is tried again when it has changed again.
            running.clone_from(state);
        }
        let same = |(one, other): (&ServiceState, &ServiceState)| one.name == other.name;
        if states.len() != self.running.len() || !states.iter().zip(&self.running).all(same) {
            let text = "services that were added or taken away are so from the next boot on";
            self.printer.warning(text);
        } else if tried == 0 {
            self.printer
                .done("Built", "what changed is there from the next boot on");
        }
    }
}
