//! Every failure as people meet it: what, where, why, what to do next, and the exit code.
//!
//! Enters: the engine's typed errors and the command's own. Leaves: a [`Failure`], which
//! [`crate::ui::diagnostic`] renders and [`crate::ui::json`] writes. Hints live here, because what
//! to do next depends on flags and commands the engine does not know.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use kiln_cache::{Cache, CacheError};
use serde_json::{Value, json};

use crate::exit;
use crate::ui::units;
use kiln_engine::build::BuildError;
use kiln_engine::causes::causes;
use kiln_engine::source::http::{ConnectionFailure, HttpError};
use kiln_engine::source::{SourceError, SourceErrorKind};
use kiln_engine::spec::SpecError;
use kiln_engine::tree::unpack::UnpackError;

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// What is wrong; several for a description with several mistakes.
    pub(crate) problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Problem {
    /// What is wrong: lower case, no full stop.
    pub(crate) message: String,
    /// Where, in a description.
    pub(crate) place: Option<Place>,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

/// A place in a description.
#[derive(Debug)]
pub(crate) struct Place {
    /// The file, as it was given.
    pub(crate) file: String,
    /// Its line, from 1.
    pub(crate) line: usize,
    /// The column in characters, from 1.
    pub(crate) column: usize,
    /// Characters to underline.
    pub(crate) len: usize,
    /// The line itself, empty when it cannot be shown.
    pub(crate) text: String,
}

impl Failure {
    /// A mistake on the command line.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<Option<&'static str>>) -> Self {
        Self::one(
            exit::USAGE,
            Problem {
                message: message.into(),
                hint: hint.into().map(str::to_owned),
                ..Problem::default()
            },
        )
    }

    /// Says what to do next, in words that depend on what was asked.
    pub(crate) fn hint(mut self, hint: String) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.hint = Some(hint);
        }
        self
    }

    /// Something that did not work.
    pub(crate) fn failed(
        message: impl Into<String>,
        cause: Option<&(dyn Error + 'static)>,
        hint: Option<String>,
    ) -> Self {
        let message = message.into();
        let causes = cause.map_or_else(Vec::new, |cause| chain(&message, cause));
        Self::one(
            exit::FAILED,
            Problem {
                message,
                causes,
                hint,
                ..Problem::default()
            },
        )
    }

    /// A build that a signal ended.
    pub(crate) fn interrupted(signal: u8) -> Self {
        let message = if signal == 15 {
            "terminated"
        } else {
            "interrupted"
        };
        Self::one(
            exit::signal(signal),
            Problem {
                message: message.into(),
                hint: Some("what was finished is kept: the same command goes on from there".into()),
                ..Problem::default()
            },
        )
    }

    /// What a signal ended, and that needs no words.
    pub(crate) const fn by_signal(number: u8) -> Self {
        Self::with_status(exit::signal(number))
    }

    /// A command of the guest's that ended with a status of its own and has said why.
    pub(crate) const fn with_status(status: u8) -> Self {
        Self {
            code: status,
            problems: Vec::new(),
        }
    }

    /// Standard output is closed: there is nothing to say, and to nobody.
    pub(crate) const fn broken_pipe() -> Self {
        Self {
            code: exit::BROKEN_PIPE,
            problems: Vec::new(),
        }
    }

    /// A command that failed and has said why already, as its result.
    pub(crate) const fn told() -> Self {
        Self {
            code: exit::FAILED,
            problems: Vec::new(),
        }
    }

    /// Mistakes in a description.
    pub(crate) fn of_description(errors: Vec<SpecError>) -> Self {
        let problems = errors.into_iter().map(Problem::of_spec).collect();
        Self::one_of(exit::DESCRIPTION, problems)
    }

    const fn one_of(code: u8, problems: Vec<Problem>) -> Self {
        Self { code, problems }
    }

    fn one(code: u8, problem: Problem) -> Self {
        Self::one_of(code, vec![problem])
    }

    /// Turns the engine's error into words. `cache` is where this build's cache is.
    pub(crate) fn of_build(error: BuildError, cache: &Path, signal: u8) -> Self {
        match error {
            BuildError::Cancelled => Self::interrupted(signal),
            BuildError::Spec(errors) => Self::of_description(errors),
            BuildError::Usage { message, hint } => Self::one(
                exit::USAGE,
                Problem {
                    message,
                    hint,
                    ..Problem::default()
                },
            ),
            BuildError::Output { path, source } => {
                if path == Path::new("-") && source.kind() == io::ErrorKind::BrokenPipe {
                    return Self::broken_pipe();
                }
                let hint = output_hint(&path, &source);
                let message = if path == Path::new("-") {
                    "cannot write to standard output".to_owned()
                } else {
                    format!("cannot write {}", path.display())
                };
                Self::failed(message, Some(&source), hint)
            }
            BuildError::File { path, source } => {
                let hint = match source.kind() {
                    io::ErrorKind::NotFound => {
                        Some("check the name and the working directory".into())
                    }
                    io::ErrorKind::IsADirectory => Some("name a file in it".into()),
                    _ => None,
                };
                Self::failed(
                    format!("cannot read {}", path.display()),
                    Some(&source),
                    hint,
                )
            }
            BuildError::Lock { path, source } => Self::failed(
                format!("cannot use {}", path.display()),
                Some(&source),
                Some("make it anew with `kiln lock`, or remove it".into()),
            ),
            BuildError::Cache(error) => {
                let hint = cache_hint(&error, cache);
                Self::failed(error.to_string(), error.source(), Some(hint))
            }
            BuildError::Step(error) => {
                let hint = error
                    .hint
                    .clone()
                    .or_else(|| hint_of_chain(&*error.cause, cache));
                Self::failed(error.context.clone(), Some(&*error.cause), hint)
            }
        }
    }

    /// Returns the problems for programs.
    pub(crate) fn problems_json(&self) -> Vec<Value> {
        let problems = self.problems.iter().map(|problem| {
            let place = problem.place.as_ref().map(|place| {
                json!({
                    "file": place.file,
                    "line": place.line,
                    "column": place.column,
                    "length": place.len,
                    "text": place.text,
                })
            });
            json!({
                "message": problem.message,
                "place": place,
                "causes": problem.causes,
                "hint": problem.hint,
            })
        });
        problems.collect()
    }

    /// Returns the failure as the last object of `--json`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "event": "error",
            "exit_code": self.code,
            "errors": self.problems_json(),
        })
    }
}

impl Problem {
    fn of_spec(error: SpecError) -> Self {
        Self {
            message: error.message,
            place: Some(Place {
                file: error.file,
                line: error.line,
                column: error.column,
                len: error.len,
                text: error.line_text,
            }),
            causes: Vec::new(),
            hint: error.hint,
        }
    }
}

/// Returns the messages of a chain, without those that only repeat what was said before.
fn chain(message: &str, first: &(dyn Error + 'static)) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for error in causes(first) {
        let text = error.to_string();
        // An error that is complete by itself begins with what was said already.
        let rest = text.strip_prefix(message);
        let text = match rest.and_then(|rest| rest.strip_prefix(": ")) {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        let before = said.last().map_or(message, String::as_str);
        if !text.is_empty() && !before.contains(&text) {
            said.push(text);
        }
    }
    said
}

/// Returns what to do about the innermost cause that has an answer.
fn hint_of_chain(first: &(dyn Error + 'static), cache: &Path) -> Option<String> {
    let mut hint = None;
    for error in causes(first) {
        if let Some(error) = error.downcast_ref::<CacheError>() {
            return Some(cache_hint(error, cache));
        }
        let found = match error.downcast_ref::<io::Error>() {
            Some(error) => io_hint(error),
            None => match error.downcast_ref::<SourceError>() {
                Some(error) => source_hint(error),
                None => error.downcast_ref::<UnpackError>().and_then(unpack_hint),
            },
        };
        hint = found.or(hint);
    }
    hint
}

/// Returns what to do when the cache directory is in the way.
pub(crate) fn cache_hint(error: &CacheError, cache: &Path) -> String {
    let another = "choose another with --cache DIR or KILN_CACHE";
    let shown = cache.display();
    let room = format!(
        "make room on the disk of {shown} (`kiln cache info` shows what the cache holds), or \
         {another}"
    );
    let writable = format!("make {shown} writable for you, or {another}");
    match error {
        CacheError::Full { .. } => match spare(cache) {
            Some(spare) => format!("{room}; `kiln cache gc --keep-builds 1` gives back {spare}"),
            None => room,
        },
        CacheError::Unwritable { .. } => writable,
        CacheError::NewerFormat { .. } => format!("use the kiln that made it, or {another}"),
        CacheError::NotACache { .. } => format!("{another}: kiln puts nothing beside other files"),
        CacheError::Io { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => room,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => writable,
            _ => format!("if {shown} is no place for a cache, {another}"),
        },
        CacheError::Catalogue { .. } => "it may be deleted: it is made anew".to_owned(),
        CacheError::InUse { .. } => "wait until the builds that use it are done".to_owned(),
        CacheError::CatalogueBusy(_) => "try again when that process is done".to_owned(),
        CacheError::MissingObject(_) => {
            "run the command again: what is missing is made anew".to_owned()
        }
    }
}

/// Says what a collection that keeps the last system alone would give back.
fn spare(cache: &Path) -> Option<String> {
    let usage = Cache::open_existing(cache).and_then(|cache| cache.usage());
    let usage = usage.ok()?;
    let last = usage.systems.first().map_or(0, |system| system.bytes);
    Some(units::size(usage.bytes - last))
}

/// Returns what to do when an image cannot be had.
fn source_hint(error: &SourceError) -> Option<String> {
    match &*error.kind {
        SourceErrorKind::Http { error, .. } => http_hint(error),
        SourceErrorKind::Denied { host, .. } => Some(format!(
            "check the image's name, or log in to {host} (docker login, skopeo login)"
        )),
        SourceErrorKind::Digest { .. } | SourceErrorKind::Size { .. } => Some(DAMAGED.to_owned()),
        _ => None,
    }
}

/// Returns what to do when a server does not do what it should.
fn http_hint(error: &HttpError) -> Option<String> {
    let hint = match error {
        HttpError::Connection { kind, .. } => match kind {
            ConnectionFailure::Tls => {
                "trust the registry's own authority with --ca-file PEM, or nobody with \
                 --insecure-registry HOST"
            }
            ConnectionFailure::Unreachable => {
                "check the registry's name, the network and the proxy (https_proxy, no_proxy), \
                 then run the command again: what was finished is kept"
            }
            ConnectionFailure::Silent => {
                "run the command again: what was finished is kept; KILN_HTTP_TIMEOUT=SECONDS \
                 waits longer for slow servers"
            }
            ConnectionFailure::Broken => "run the command again: what was finished is kept",
            ConnectionFailure::Fatal => return None,
        },
        HttpError::Status { status, .. } => match status {
            404 => {
                "check the image's name; if it is right, the registry has lost a part of the \
                 image: push it again"
            }
            429 => {
                "the registry limits requests: log in (docker login, skopeo login) or wait, then \
                 run the command again: what was finished is kept"
            }
            500.. => "run the command again when the registry is well: what was finished is kept",
            _ => return None,
        },
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What to do about bytes that are not what they should be.
const DAMAGED: &str = "run the command again; if that does not help, what is kept there is damaged: push or make it \
                       again";

fn unpack_hint(error: &UnpackError) -> Option<String> {
    match error {
        UnpackError::Inflate { .. } | UnpackError::Digest { .. } | UnpackError::Size { .. } => {
            Some(DAMAGED.to_owned())
        }
        _ => None,
    }
}

/// Returns what to do when an output cannot be written.
fn output_hint(path: &Path, error: &io::Error) -> Option<String> {
    if path == Path::new("-") {
        return None;
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let shown = directory.display();
    match error.kind() {
        io::ErrorKind::NotFound => Some(format!("make the directory first: mkdir -p {shown}")),
        io::ErrorKind::IsADirectory => Some(
            "a directory is in the way: remove it, or write elsewhere (--dir, --name, --output)"
                .to_owned(),
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(format!(
            "make {shown} writable for you, or write elsewhere (--dir, --output)"
        )),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = free_space(&directory)
                .map_or_else(String::new, |free| format!(" (there is {free} free)"));
            Some(format!(
                "make room in {shown}{free}, or write elsewhere (--dir, --output)"
            ))
        }
        _ => None,
    }
}

/// Returns what to do about an error of the system that is about neither cache nor outputs.
fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the disk; `kiln cache info` shows what the cache holds"
        }
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => {
            "check the network and the proxy (https_proxy, no_proxy), then run the command again: \
             what was finished is kept"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns how much may still be written to the file system of `path`.
fn free_space(path: &Path) -> Option<String> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(units::size(stat.f_bavail.saturating_mul(stat.f_frsize)))
}
