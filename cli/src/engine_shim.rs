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
    if std::env::var_os("KILN_DEMO").is_some() {
        return demo(request, _listener, _cancel);
    }
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

fn demo(request: &Request, listener: &dyn Listener, cancel: &AtomicBool) -> Result<Report, BuildError> {
    use kiln_engine::event::{Event, Outcome, StepNumber};
    use std::time::{Duration, Instant};
    let began = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..12u32 {
            scope.spawn(move || {
                let step = StepNumber(i);
                let (kind, label) = if i == 0 { ("resolve", "nginx:1".to_owned()) } else { ("layer", format!("nginx:1 layer {i} of 11")) };
                let total = 4_000_000 * u64::from(i + 1);
                std::thread::sleep(Duration::from_millis(u64::from(i % 4) * 150));
                listener.event(&Event::Started { step, kind, label: label.clone() });
                let start = Instant::now();
                let n = 5 + i * 2;
                for k in 0..n {
                    if cancel.load(std::sync::atomic::Ordering::Relaxed) { break; }
                    std::thread::sleep(Duration::from_millis(80));
                    if i > 0 { listener.event(&Event::Progress { step, done: total * u64::from(k + 1) / u64::from(n), total: (i != 3).then_some(total) }); }
                }
                if i == 5 { listener.event(&Event::Warning("nginx: the image's user \"www\" is ignored".into())); }
                listener.event(&Event::Finished { step, kind, label, outcome: if i == 4 {Outcome::Unchanged} else {Outcome::Ran}, duration: start.elapsed(), bytes: if i > 0 { total } else { 0 } });
            });
        }
    });
    if cancel.load(std::sync::atomic::Ordering::Relaxed) { return Err(BuildError::Cancelled); }
    listener.event(&Event::Writing { path: "hello-initrd.img".into(), bytes: 12_000_000 });
    std::thread::sleep(Duration::from_millis(400));
    let out = |p: &str, role: &str, bytes| kiln_engine::build::OutputFile { path: p.into(), role: role.into(), bytes, written: bytes };
    let _ = request;
    Ok(Report { outputs: vec![out("./hello-kernel", "kernel", 8_200_000), out("./hello-initrd.img", "initrd", 12_000_000), out("./hello-cmdline", "cmdline", 13)], duration: began.elapsed(), ..Report::default() })
}
