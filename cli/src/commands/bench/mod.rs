//! `kiln bench`: what building a system takes on this machine, as people meet it: whole processes.
//!
//! Enters: a description and the flags of its builds. Leaves: a table, JSON or a chart.
//! In reading order: [`lab`] is the scenarios, [`swap`] the other system of one of them, [`child`]
//! measures a process, [`rounds`] does it often enough, [`stats`] says what numbers mean,
//! [`report`] keeps them, [`table`] and [`chart`] show them.

mod chart;
mod child;
mod lab;
mod machine;
mod report;
mod rounds;
mod stats;
mod swap;
mod table;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln_engine::build::{Destination, Format, Request, merged};
use kiln_engine::event::Silent;
use tempfile::TempDir;

use self::child::Runner;
use self::lab::Lab;
use self::machine::Machine;
use self::report::{Before, Comparison, Report, Row, System};
use self::rounds::Talk;
use self::stats::Rounds;
use super::{build, request};
use crate::args::{Bench, Bill, CacheFrom, Common, Docker, Form, Made, Scenario, Sources};
use crate::failure::Failure;
use crate::ui::printer::Printer;

pub(super) fn run(arguments: &Bench, printer: Printer) -> Result<(), Failure> {
    // What is wrong with the request is said before minutes are spent on it.
    let request = checked(arguments)?;
    let before = arguments.compare.as_deref().map(Before::read).transpose()?;
    if let Some(before) = &before {
        check_comparable(before, &request)?;
    }
    let spec =
        merged(&request, &Silent).map_err(|error| Failure::of_build(error, &request.cache, 0))?;
    let here = std::env::current_dir().unwrap_or_default();
    let home = request.network.home.as_deref();
    let swap = swap::choose(&spec, arguments.swap.as_deref(), &here, home)?;
    let (swap, no_swap) = match swap {
        Ok(swap) => (Some(swap), None),
        Err(reason) => (None, Some(reason)),
    };
    if let (Some(reason), Scenario::OneServiceSwapped, true) = (
        &no_swap,
        arguments.against_scenario,
        arguments.against.is_some(),
    ) {
        let message = format!("--against-scenario one-service-swapped: {reason}");
        return Err(Failure::usage(message, None));
    }

    let interruption = build::watch_signals()?;
    let directory = work_directory(arguments.work.as_deref(), &request.cache)?;
    let lab = Lab {
        runner: Runner {
            directory: directory.path(),
            interruption: &interruption,
        },
        kiln: std::env::current_exe()
            .map_err(|error| Failure::failed("cannot find this program", Some(&error), None))?,
        flags: flags(arguments, &request),
        files: arguments.files.clone(),
        name: match &request.destination {
            Destination::Directory { name, .. } => name.clone(),
            _ => "system".to_owned(),
        },
        swap,
        changes: Cell::new(0),
        written: Cell::new(0),
    };
    let machine = Machine::look(directory.path());
    if let Some(before) = &before
        && before.machine != machine.json()
    {
        let file = before.file.display();
        printer.warning(&format!(
            "{file} is of another machine, kernel or file system"
        ));
    }
    let measured_at = SystemTime::now().duration_since(UNIX_EPOCH);
    let talk = Talk { printer };
    // Where the lock of the last description lies.
    let last = arguments
        .files
        .last()
        .map(|file| file.with_extension("lock"));
    let began = Instant::now();
    talk.during("preparing", || lab.set_up(&last.unwrap_or_default()))?;
    if let Some(command) = &arguments.against {
        // What does not work is known before the rest is measured.
        talk.during("the command's first run", || {
            lab.other(command, arguments.against_scenario, 0)
        })?;
    }
    talk.done("Prepared", "what builds start from", began);
    let (rows, yardstick) = rounds::measure(arguments, &lab, talk)?;
    let against = match &arguments.against {
        Some(command) => Some(rounds::against(command, arguments, &lab, talk)?),
        None => None,
    };
    let mut missing = Vec::new();
    if arguments.cold_rounds == Some(0) {
        missing.push((Scenario::Cold, "--cold-rounds 0".to_owned()));
    }
    missing.extend(no_swap.map(|reason| (Scenario::OneServiceSwapped, reason)));
    let report = Report {
        system: System {
            files: arguments.files.clone(),
            formats: request.formats.iter().map(|format| format.name()).collect(),
            architecture: request.architecture.clone(),
            fetched: swap::fetched(&spec),
            swap: lab.swap,
        },
        machine,
        measured_at: measured_at.map_or(0, |since| since.as_secs()),
        memory_floor: own_peak(),
        comparison: before.map(|before| compare(before, &rows, &yardstick)),
        rows,
        yardstick,
        missing,
        against,
    };
    drop(directory);
    show(arguments, &report, printer)
}

/// Makes the request of the builds, to see what is wrong with it.
fn checked(arguments: &Bench) -> Result<Request, Failure> {
    for file in &arguments.files {
        let text = file.to_string_lossy();
        if text == "-" || text.starts_with("http://") || text.starts_with("https://") {
            return Err(Failure::usage(
                format!("{text} cannot be read again and again"),
                "save the description to a file, and name that",
            ));
        }
    }
    let formats = request::formats(&arguments.format, Format::KernelInitrd)?;
    let common = Common {
        name: None,
        dir: None,
        cache_from: CacheFrom::default(),
        sources: arguments.sources.clone(),
    };
    let mut request = request::request(&arguments.files, formats, &common)?;
    request::make(&mut request, &arguments.made)?;
    request.docker = request::docker(arguments.docker)?;
    Ok(request)
}

/// Returns `kiln build`'s flags that are not about places.
fn flags(arguments: &Bench, request: &Request) -> Vec<OsString> {
    let formats: Vec<&str> = request.formats.iter().map(|format| format.name()).collect();
    let mut flags: Vec<OsString> = vec!["--format".into(), formats.join(",").into()];
    let mut flag = |name: &str, value: Option<OsString>| {
        flags.push(match value {
            Some(value) => {
                let mut flag = OsString::from(format!("{name}="));
                flag.push(value);
                flag
            }
            None => name.into(),
        });
    };
    // Named one by one, so that none is forgotten that is added.
    let Sources {
        pull,
        arch: _,
        cache: _,
        insecure_registry,
        mirror,
        ca_file,
    } = &arguments.sources;
    let Made {
        decompress_kernel,
        bill:
            Bill {
                no_sbom,
                sbom_output,
                form:
                    Form {
                        sbom_format,
                        sbom_current_time,
                    },
            },
    } = &arguments.made;
    let Docker { docker } = arguments.docker;
    flag("--arch", Some(request.architecture.clone().into()));
    for registry in insecure_registry {
        flag("--insecure-registry", Some(registry.into()));
    }
    for mirror in mirror {
        let of = mirror.registry.as_ref();
        let of = of.map_or_else(String::new, |registry| format!("{registry}="));
        flag("--mirror", Some(format!("{of}{}", mirror.url).into()));
    }
    for file in ca_file {
        flag("--ca-file", Some(file.into()));
    }
    flag("--sbom-format", Some(sbom_format.into()));
    if let Some(file) = sbom_output {
        flag("--sbom-output", Some(file.into()));
    }
    for (given, name) in [
        (*pull, "--pull"),
        (docker, "--docker"),
        (*decompress_kernel, "--decompress-kernel"),
        (*no_sbom, "--no-sbom"),
        (*sbom_current_time, "--sbom-current-time"),
    ] {
        if given {
            flag(name, None);
        }
    }
    flags
}

fn check_comparable(before: &Before, request: &Request) -> Result<(), Failure> {
    let formats: Vec<&str> = request.formats.iter().map(|format| format.name()).collect();
    if before.formats == formats && before.architecture == request.architecture {
        return Ok(());
    }
    Err(Failure::usage(
        format!(
            "{} measured {} for {}, and this is {} for {}",
            before.file.display(),
            before.formats.join(" and "),
            before.architecture,
            formats.join(" and "),
            request.architecture
        ),
        "give the same --format and --arch",
    ))
}

/// Makes a directory beside the cache: on another file system other things would be measured.
fn work_directory(named: Option<&Path>, cache: &Path) -> Result<TempDir, Failure> {
    let cache = std::path::absolute(cache).unwrap_or_else(|_| cache.to_owned());
    let beside = cache.ancestors().skip(1).find(|path| path.is_dir());
    let parent = named.or(beside).unwrap_or(Path::new("/"));
    let made = std::path::absolute(parent)
        .and_then(|parent| TempDir::with_prefix_in("kiln-bench-", parent));
    made.map_err(|error| {
        Failure::failed(
            format!("cannot make a directory in {}", parent.display()),
            Some(&error),
            Some("choose one that can be written to with --work DIR".into()),
        )
    })
}

fn compare(before: Before, rows: &[Row], yardstick: &Rounds) -> Comparison {
    let ratios = before.rows.iter().filter_map(|(scenario, earlier)| {
        let row = rows.iter().find(|row| row.scenario == *scenario)?;
        let seconds = stats::median(&earlier.concat());
        Some((*scenario, seconds, stats::ratio(&row.seconds(), earlier)))
    });
    Comparison {
        machine: stats::ratio(yardstick, &before.yardstick),
        ratios: ratios.collect(),
        before,
    }
}

/// Returns the most memory that this process has had, in bytes; 0 when the kernel does not tell.
fn own_peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or_default().saturating_mul(1024)
}

fn show(arguments: &Bench, report: &Report, printer: Printer) -> Result<(), Failure> {
    if let Some(file) = &arguments.html {
        fs::write(file, chart::page(report)).map_err(|error| {
            Failure::failed(
                format!("cannot write {}", file.display()),
                Some(&error),
                None,
            )
        })?;
    }
    super::print(&if arguments.json {
        format!("{}\n", report.json())
    } else {
        let color = printer.color && std::io::stdout().is_terminal();
        table::render(report, Printer { color, ..printer })
    })
}
