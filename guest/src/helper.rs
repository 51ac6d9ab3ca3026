//! The same program when it is not PID 1: what the kernel, a container or a person asks of it.
//!
//! - `… -q -- NAME`: the kernel wants a module (`kernel/module/kmod.c`, `call_modprobe`);
//! - `poweroff`, `reboot`, `halt`, as a name or first argument: tell PID 1;
//! - `kilnctl`, as a name or first argument: ask PID 1 something; see [`client`];
//! - `job NAME ARGS…`: do one of the built-in jobs; see [`jobs`];
//! - `run BUNDLE…`: run bundles one after the other, as PID 1 would run onboot containers.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::bundle::Phase;
use crate::cmdline::Cmdline;
use crate::supervisor::{self, Supervisor};
use crate::{client, console, jobs, machine, say};

const USAGE: &str = "kiln-init is PID 1 of systems built by kiln; otherwise: \
kiln-init (kilnctl COMMAND | poweroff | reboot | halt | job NAME ARGS... | run BUNDLE...)";

/// Does what the arguments say; returns the exit status.
pub(crate) fn main(args: &[String]) -> i32 {
    if let Ok(out) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3) {
        console::open_fd(out);
    }
    let name = args.first().map(|a| a.rsplit('/').next().unwrap_or(a));
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match (name.unwrap_or_default(), words.as_slice()) {
        (_, ["-q", "--", module]) => i32::from(!machine::load_for_kernel(module)),
        ("poweroff", _) | (_, ["poweroff"]) => signal(Signal::USR2),
        ("reboot", _) | (_, ["reboot"]) => signal(Signal::INT),
        ("halt", _) | (_, ["halt"]) => signal(Signal::USR1),
        ("kilnctl", words) | (_, ["kilnctl", words @ ..]) => client::main(words),
        (_, ["job", name, ..]) => jobs::run(name, args.get(3..).unwrap_or_default()),
        (_, ["run", bundles @ ..]) if !bundles.is_empty() => run(bundles),
        _ => {
            console::line("", USAGE.as_bytes());
            2
        }
    }
}

fn signal(signal: Signal) -> i32 {
    match kill_process(Pid::INIT, signal) {
        Ok(()) => 0,
        Err(cause) => {
            say!("signal to PID 1: {cause}");
            1
        }
    }
}

fn run(bundles: &[&str]) -> i32 {
    let mut supervisor = match Supervisor::new(Cmdline::default(), false) {
        Ok(supervisor) => supervisor,
        Err(cause) => {
            say!("{cause}");
            return 1;
        }
    };
    for directory in bundles {
        match std::path::absolute(directory) {
            Ok(path) => {
                let (id, bundle) = supervisor::read(Path::new(&path), Phase::Onboot);
                supervisor.run(bundle, &id, Phase::Onboot);
            }
            Err(cause) => say!("{directory}: {cause}"),
        }
    }
    console::flush(std::time::Duration::from_secs(1));
    supervisor.failures().min(1)
}
