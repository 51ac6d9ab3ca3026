//! `kiln vm replace`: a service of a running machine gets another root.
//!
//! kiln-init says what it has, the engine makes what is missing, and that is sent over a port.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kiln_engine::build::{
    Base, Description, Format, Ground, Request, ServiceBundle, ServiceState, service_bundle,
    service_states,
};
use kiln_engine::event::{Event, Listener};
use serde_json::Value;

use super::vm::{PATIENCE, find, silent};
use super::{build, request};
use crate::args::{Common, Replace};
use crate::failure::Failure;
use crate::signals::Interruption;
use crate::ui::printer::Printer;
use crate::ui::progress::Progress;
use crate::ui::units;
use crate::vm::control::{End, Output, Port};
use crate::vm::place::{Place, Source};

/// Most that a guest may answer, and most that it may complain, in bytes.
const SAID_BYTES_MAX: usize = 64 << 10;

pub(super) fn run(arguments: &Replace, printer: Printer) -> Result<(), Failure> {
    let place = find(arguments.vm.as_deref())?;
    let source = place.about().source;
    let request = make_request(arguments, source.as_ref())?;
    let interruption = build::watch_signals()?;
    let progress = Progress::new(printer, interruption.flag().clone());
    let replacement = Replacement {
        place: &place,
        name: &arguments.service,
        image: arguments.image.as_deref(),
        trees: &source.map(|source| source.trees).unwrap_or_default(),
        wait: arguments.wait,
        stop_first: arguments.stop_first,
        printer,
    };
    replacement.run(&request, progress, &interruption)
}

/// A service that is to be replaced, and how.
pub(super) struct Replacement<'a> {
    pub(super) place: &'a Place,
    pub(super) name: &'a str,
    /// In place of the description's.
    pub(super) image: Option<&'a str>,
    /// The trees of the services that the machine was built with.
    pub(super) trees: &'a BTreeMap<String, String>,
    /// Seconds.
    pub(super) wait: u32,
    pub(super) stop_first: bool,
    pub(super) printer: Printer,
}

impl Replacement<'_> {
    /// Builds what is missing, sends it, and waits until it runs. The listener is dropped when
    /// everything is built.
    pub(super) fn run(
        &self,
        request: &Request,
        listener: impl Listener,
        interruption: &Interruption,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let (name, cancel) = (self.name, interruption.flag());
        let ground = self.ground(interruption)?;
        let bundle = service_bundle(request, name, self.image, &ground, &listener, cancel);
        drop(listener);
        let bundle = bundle
            .map_err(|error| Failure::of_build(error, &request.cache, interruption.number()))?;
        let what = if bundle.is_whole { "" } else { ", what is new" };
        let size = units::size(bundle.bytes);
        let to = self.place.name();
        self.printer
            .done("Sending", &format!("{name} to {to} ({size}{what})"));
        self.send(&ground, bundle, interruption)?;
        let time = units::time(began.elapsed());
        self.printer.done("Replaced", &format!("{name} in {time}"));
        Ok(())
    }

    /// Asks what the service has now, and where another one would be.
    pub(super) fn ground(&self, interruption: &Interruption) -> Result<Ground, Failure> {
        let (place, name) = (self.place, self.name);
        let words = ["replace", "--ground", name].map(str::to_owned);
        let answer = talk(place, &words, None, interruption)?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let text = |key: &str| answer[key].as_str().filter(|text| !text.is_empty());
        let Some(directory) = text("directory") else {
            return Err(Failure::failed(
                format!("{} says nonsense", place.name()),
                None,
                Some("its kiln-init may be of another version".to_owned()),
            ));
        };
        let base = |layers: &str, tree: &str| Base {
            layers: layers.split(':').map(str::to_owned).collect(),
            tree: tree.to_owned(),
        };
        // Of the first one we made a note; one that came later knows its tree.
        let first = self
            .trees
            .get(name)
            .and_then(|tree| Some(base(text("first")?, tree)));
        let now = text("tree").and_then(|tree| Some(base(text("layers")?, tree)));
        Ok(Ground {
            directory: directory.to_owned(),
            bases: first.into_iter().chain(now).collect(),
        })
    }

    /// Sends a bundle, and waits until it runs or has failed.
    fn send(
        &self,
        ground: &Ground,
        bundle: ServiceBundle,
        interruption: &Interruption,
    ) -> Result<(), Failure> {
        let place = self.place;
        let wait = self.wait.to_string();
        let mut words = vec!["replace", "--into", &ground.directory, "--wait", &wait];
        if self.stop_first {
            words.push("--stop-first");
        }
        words.push(self.name);
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let cannot = |error: io::Error| {
            let message = format!("cannot send to {}", place.name());
            Failure::failed(message, Some(&error), None)
        };
        let (reader, mut writer) = io::pipe().map_err(cannot)?;
        let written = std::thread::spawn(move || bundle.write(&mut writer));
        let sent = talk(place, &words, Some(reader), interruption).map(drop);
        // Without a reader it ends too.
        match (sent, written.join()) {
            // What the guest says of an archive that broke off is not why.
            (Err(_), Ok(Err(error))) if !is_broken_pipe(&error) => {
                Err(Failure::of_build(error, Path::new(""), 0))
            }
            (sent, _) => sent,
        }
    }
}

/// Makes the request to which the machine was built, as far as nothing else is said.
fn make_request(arguments: &Replace, source: Option<&Source>) -> Result<Request, Failure> {
    let mut sources = arguments.sources.clone();
    let mut files = arguments.file.clone();
    if let Some(source) = source {
        if files.is_empty() {
            files.clone_from(&source.descriptions);
        }
        sources
            .arch
            .get_or_insert_with(|| source.architecture.clone());
        sources.cache.get_or_insert_with(|| source.cache.clone());
    }
    if files.is_empty() {
        return Err(Failure::usage(
            "it is not known what the machine was built from",
            "say it: --file FILE.yml",
        ));
    }
    let common = Common {
        // There is no output to bear it.
        name: Some("system".to_owned()),
        dir: None,
        cache_from: arguments.cache_from.clone(),
        sources,
    };
    let mut request = request::request(&files, vec![Format::KernelInitrd], &common)?;
    request.docker = request::docker(arguments.docker)?;
    Ok(request)
}

fn is_broken_pipe(error: &kiln_engine::build::BuildError) -> bool {
    use kiln_engine::build::BuildError;
    matches!(error, BuildError::Output { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// Tells kiln-init something; returns what it answers.
fn talk(
    place: &Place,
    words: &[String],
    input: Option<io::PipeReader>,
    interruption: &Interruption,
) -> Result<Vec<u8>, Failure> {
    let cannot = |error: io::Error| {
        let message = format!("cannot talk to {}", place.name());
        Failure::failed(message, Some(&error), None)
    };
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    let mut port = Port::open(place).map_err(cannot)?;
    port.input = input.map(Into::into);
    port.request(words, false).map_err(cannot)?;
    let cancelled = || interruption.has_come();
    let end = port.relay_to(false, Some(PATIENCE), cancelled, |output, bytes| {
        let said = match output {
            Output::Stdout => &mut answer,
            Output::Stderr => &mut complaint,
        };
        if said.len() + bytes.len() > SAID_BYTES_MAX {
            let message = format!("it says more than {SAID_BYTES_MAX} bytes");
            return Err(io::Error::other(message));
        }
        said.extend_from_slice(bytes);
        Ok(())
    });
    match end.map_err(cannot)? {
        End::Status(0) => Ok(answer),
        End::Status(_) => {
            let complaint = String::from_utf8_lossy(&complaint);
            let (first, rest) = complaint.split_once('\n').unwrap_or((&complaint, ""));
            let hint = Some(rest.trim_end()).filter(|rest| !rest.is_empty());
            Err(Failure::failed(first, None, hint.map(str::to_owned)))
        }
        End::Left => Err(Failure::by_signal(interruption.number())),
        End::Silence => Err(silent(place)),
    }
}

/// Hears nothing: everything has been said, or somebody else has the terminal.
pub(super) struct Silent;

impl Listener for Silent {
    fn event(&self, _: &Event) {}
}

/// What a machine is built from, as it boots.
pub(super) struct Built {
    pub(super) request: Request,
    /// For the machine's place.
    pub(super) source: Source,
    pub(super) services: Vec<ServiceState>,
}

/// Notes what a machine is built from, for a replacement to build upon. That is a convenience: what
/// cannot be noted is sent whole some day.
pub(super) fn note(request: Request, place: &Place) -> Option<Built> {
    let mut descriptions = Vec::new();
    for description in &request.descriptions {
        descriptions.push(match description {
            Description::File(path) => std::path::absolute(path).ok()?,
            Description::Text { bytes, .. } => {
                let path = place.description();
                std::fs::write(&path, bytes).ok()?;
                path
            }
        });
    }
    // As it was built a moment ago: nobody is asked again.
    let seen = Request {
        pull: false,
        ..request.clone()
    };
    let services = service_states(&seen, &Silent, &AtomicBool::new(false)).ok()?;
    let tree = |state: &ServiceState| (state.name.clone(), state.tree.clone());
    let source = Source {
        descriptions,
        architecture: request.architecture.clone(),
        cache: std::path::absolute(&request.cache).unwrap_or_else(|_| PathBuf::new()),
        trees: services.iter().map(tree).collect(),
    };
    Some(Built {
        request,
        source,
        services,
    })
}
