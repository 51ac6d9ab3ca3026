//! The engine's entry points until the engine has them. Goes away with the merge.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use kiln_cache::CacheError;
use kiln_engine::build::{Report, Request};
use kiln_engine::event::Listener;
use kiln_engine::step::StepError;

#[derive(Debug, Clone)]
pub(crate) struct SpecError {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) len: usize,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) line_text: String,
}

#[derive(Debug)]
#[allow(dead_code)]
pub(crate) enum BuildError {
    Spec(Vec<SpecError>),
    Step(StepError),
    Cancelled,
    Output {
        path: PathBuf,
        source: io::Error,
    },
    Cache(CacheError),
    Usage {
        message: String,
        hint: Option<String>,
    },
}

#[allow(clippy::unnecessary_wraps)]
pub(crate) fn run(
    request: &Request,
    _listener: &dyn Listener,
    _cancel: &AtomicBool,
    _stdout: &mut dyn Write,
) -> Result<Report, BuildError> {
    Err(BuildError::Usage {
        message: format!("no engine yet for {:?}", request.files),
        hint: None,
    })
}

pub(crate) fn lock(
    request: &Request,
    _listener: &dyn Listener,
    _cancel: &AtomicBool,
) -> Result<PathBuf, BuildError> {
    Err(BuildError::Usage {
        message: format!("no engine yet for {:?}", request.files),
        hint: None,
    })
}
