//! `kiln run --watch`: what is saved runs a moment later.
//!
//! The system is built again whenever one of its inputs changes, and each service that differs is
//! replaced in the running machine. What is not a service is there from the next boot on.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_engine::build::{self as engine, Request, ServiceState, service_states};

use super::replace::{Built, Replacement, Silent};
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
    /// What was tried in vain.
    failed: Vec<ServiceState>,
    /// What is wrong at the moment.
    mistake: Option<String>,
}

/// Watches the inputs of a system that boots, until the process ends.
pub(super) fn start(built: &Built, place: &Place, printer: Printer) {
    let mut watcher = Watcher {
        request: Request {
            // Once was enough.
            pull: false,
            ..built.request.clone()
        },
        place: place.clone(),
        printer,
        interruption: Interruption::default(),
        running: built.services.clone(),
        trees: built.source.trees.clone(),
        failed: Vec::new(),
        mistake: None,
    };
    std::thread::spawn(move || {
        watcher.wait();
        loop {
            watcher.look();
            std::thread::sleep(LOOK_EVERY);
        }
    });
}

impl Watcher {
    /// Waits until the machine knows its services: nothing can be replaced before it is there.
    fn wait(&self) {
        let mut told = false;
        while let Err(failure) = self.ask() {
            std::thread::sleep(LOOK_EVERY);
            // Said once, and not of a machine that has ended in the meantime.
            if !told && self.place.is_alive() {
                super::report(&failure, self.printer);
                told = true;
            }
        }
    }

    fn ask(&self) -> Result<(), Failure> {
        self.running.iter().try_for_each(|state| {
            let replacement = self.replacement(&state.name);
            replacement.ground(&self.interruption).map(drop)
        })
    }

    fn replacement<'a>(&'a self, name: &'a str) -> Replacement<'a> {
        Replacement {
            place: &self.place,
            name,
            image: None,
            trees: &self.trees,
            wait: READY_WAIT,
            stop_first: false,
            printer: self.printer,
        }
    }

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
            let running = self.running.iter().position(|it| it.name == state.name);
            let Some(index) = running.filter(|index| self.running[*index] != *state) else {
                continue;
            };
            // Until it has changed again.
            if self.failed.contains(state) {
                continue;
            }
            tried += 1;
            let replacement = self.replacement(&state.name);
            match replacement.run(&self.request, Silent, &self.interruption) {
                Ok(()) => self.running[index].clone_from(state),
                Err(failure) => {
                    super::report(&failure, self.printer);
                    self.failed.retain(|it| it.name != state.name);
                    self.failed.push(state.clone());
                }
            }
        }
        let same = |(one, other): (&ServiceState, &ServiceState)| one.name == other.name;
        if states.len() != self.running.len() || !states.iter().zip(&self.running).all(same) {
            let text = "services that were added or taken away are so from the next boot on";
            self.printer.warning(text);
        } else if tried == 0 && states == self.running {
            self.printer
                .done("Built", "what changed is there from the next boot on");
        }
    }
}
