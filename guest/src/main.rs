//! kiln-init: PID 1 of systems built by kiln.
//!
//! It runs LinuxKit's `/containers` layout without any other program: it leaves the initramfs,
//! mounts, loads the modules the machine needs, configures the network, runs the onboot containers
//! one after the other and the services side by side, keeps their logs, and ends the machine in
//! order. This file is its whole life; the rooms are in reading order below.

#![cfg_attr(not(test), no_main)]

mod console;
mod error;
mod json;
mod sys;

mod cmdline;
mod machine;
mod mounts;
mod root;
mod verity;

mod alias;
mod loader;
mod modules;
mod uevent;

mod bundle;
mod options;
mod policy;
mod spec;
mod volumes;

mod bpf;
mod builtin;
mod cgroup;
mod container;
mod exec;
mod handover;
mod hooks;
mod mount_attributes;
mod namespaces;
mod needs;
mod process;
mod ready;
mod rootfs;
mod schedule;
mod seccomp;
mod sockets;
mod terminal;
mod users;

mod dhcp;
mod dhcp6;
mod lease6;
mod netlink;
mod network;
mod resolver;
mod routers;

mod alive;
mod client;
mod helper;
mod jobs;
mod log;
mod power;
mod service;
mod session;
mod shutdown;
mod supervisor;
mod tar;

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::time::{Duration, Instant};

use bundle::{Bundle, Phase};
use cmdline::{Cmdline, NetworkMode};
use error::Result;
use machine::{Beside, Name};
use network::{Network, Plan};
use spec::NamespaceKind;
use supervisor::{Supervisor, seconds};

/// Has cargo link again when the linker's script has changed; nothing of it is in here.
const _: &[u8] = include_bytes!("../no-unwinding.ld");

/// How long `kiln.net=wait` waits for an address.
const NETWORK_WAIT_MAX: Duration = Duration::from_secs(30);

/// Containers of one phase, read: name and bundle, or why it cannot be one.
type Bundles = Vec<(String, Result<Bundle>)>;

/// Everything: as PID 1 the machine's life, otherwise a small helper; see [`helper`].
#[cfg_attr(test, expect(dead_code, reason = "tests have a main of their own"))]
fn life(arguments: &[&CStr]) -> i32 {
    let began = Instant::now();
    if !rustix::process::getpid().is_init() {
        let text = |argument: &&CStr| argument.to_string_lossy().into_owned();
        return helper::main(&arguments.iter().map(text).collect::<Vec<_>>());
    }
    std::panic::set_hook(Box::new(|info| shutdown::die(&info.to_string())));
    let Err(cause) = live(began, arguments);
    shutdown::die(&cause.to_string())
}

/// From the first mount to the last.
fn live(began: Instant, arguments: &[&CStr]) -> Result<Infallible> {
    let own_path = arguments.first().and_then(|path| path.to_str().ok());
    mounts::first_mounts()?;
    // What roots that can be written to are made of: the largest of all modules, and no device's.
    // Another processor can load it meanwhile.
    let overlay = Beside::begin(|| {
        if volumes::exist() || bundle::mention("overlay") {
            machine::load_for_kernel("overlay");
        }
    });
    let cmdline = Cmdline::parse(&fs::read("/proc/cmdline").unwrap_or_default());
    if cmdline.has("kiln.debug") {
        console::set_verbose();
    }
    console::open();
    mounts::other_mounts()?;
    debug!("mounted after {:?}", began.elapsed());
    root::enter(&cmdline, own_path, arguments.get(1..).unwrap_or_default())?;
    let onboot = read_all(Phase::Onboot);
    let services = read_all(Phase::Service);
    let mut supervisor = Supervisor::new(cmdline.clone(), true)?;
    machine::settle(own_path);
    greet();
    let (mode, plan) = network_of(&cmdline);
    let name = Name::find();
    // Services that need no device begin before them, if nothing else does.
    let devices_first = !onboot.is_empty()
        || mode == NetworkMode::Wait
        || matches!(plan, Plan::Static(_))
        || machine::needs_devices(&cmdline, &name);
    debug!("settled after {:?}", began.elapsed());
    overlay.finish();
    if devices_first {
        supervisor.watch_devices();
        debug!("modules loaded after {:?}", began.elapsed());
    }
    machine::set_hostname(name);
    machine::set_clock();
    supervisor.listen_as_memlogd();
    start_network(&mut supervisor, plan, &onboot, &services);
    volumes::mount_all();

    debug!("onboot begins after {:?}", began.elapsed());
    let has_onboot = !onboot.is_empty();
    for (id, bundle) in onboot {
        if supervisor.action().is_some() {
            break;
        }
        supervisor.run(bundle, &id, Phase::Onboot);
    }
    if has_onboot {
        log::link_onboot();
    }
    if mode == NetworkMode::Wait
        && !supervisor.wait(Some(NETWORK_WAIT_MAX), |s| {
            s.network_is_settled() || s.action().is_some()
        })
    {
        say!("no network after {NETWORK_WAIT_MAX:?}, going on");
    }
    debug!("services begin after {:?}", began.elapsed());
    if supervisor.action().is_none() {
        supervisor.start_services(services);
        if !devices_first {
            supervisor.wait_for_started();
            debug!("first services begun after {:?}", began.elapsed());
            supervisor.watch_devices();
        }
        supervisor.wait_for_services();
        tell_services(&supervisor, began);
        supervisor.finish_devices();
        debug!("all modules loaded after {:?}", began.elapsed());
    }
    loop {
        if let Some(action) = supervisor.action() {
            shutdown::shut_down(&mut supervisor, action);
        }
        supervisor.turn(None);
    }
}

/// Shows the image's `/etc/issue`, if it has one.
fn greet() {
    let issue = fs::read_to_string("/etc/issue").unwrap_or_default();
    for line in issue.lines() {
        console::line("", line.as_bytes());
    }
}

fn read_all(phase: Phase) -> Bundles {
    let directories = bundle::list(phase);
    directories
        .iter()
        .map(|d| supervisor::read(d, phase))
        .collect()
}

fn readable<'a>(bundles: &'a [&'a Bundles]) -> impl Iterator<Item = &'a Bundle> {
    bundles
        .iter()
        .copied()
        .flatten()
        .filter_map(|(_, bundle)| bundle.as_ref().ok())
}

/// Returns what the command line says about the network.
fn network_of(cmdline: &Cmdline) -> (NetworkMode, Plan) {
    let mode = cmdline.network_mode().unwrap_or_else(|cause| {
        say!("{cause}");
        NetworkMode::Background
    });
    let plan = Plan::of(cmdline).unwrap_or_else(|cause| {
        say!("{cause}");
        Plan::Dhcp(None)
    });
    match mode {
        NetworkMode::Off => (mode, Plan::Off),
        _ => (mode, plan),
    }
}

/// Starts our own network client unless it is off or a container does that work.
fn start_network(supervisor: &mut Supervisor, plan: Plan, onboot: &Bundles, services: &Bundles) {
    if plan == Plan::Off {
        return;
    }
    // One with a network namespace of its own configures that.
    let program = |b: &&Bundle| {
        let name = b.config.process.args[0].rsplit('/').next();
        network::PROGRAMS.contains(&name.unwrap_or_default())
            && b.config.namespace(NamespaceKind::Network).is_none()
    };
    match readable(&[onboot, services]).find(program) {
        Some(owner) => say!(
            "network: left to container {}",
            bundle::short_name(&owner.id)
        ),
        None => supervisor.watch_network(Network::start(plan, Instant::now())),
    }
}

fn tell_services(supervisor: &Supervisor, began: Instant) {
    let count = supervisor.services_up();
    say!(
        "{count} service{} started in {}",
        if count == 1 { "" } else { "s" },
        seconds(began.elapsed())
    );
}
