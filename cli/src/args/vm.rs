//! `kiln vm`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CacheFrom, Docker, Sources};

/// The long help.
pub(crate) const ABOUT: &str = "\
Look at running machines, and at what runs in them

Machines are those that kiln run has started. Commands about services talk to kiln-init inside, over a line that only this user can reach; nothing listens on the network. Inside, kilnctl understands the same commands. With several machines, --vm says which.";

/// One verb each.
#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// List the machines that run
    Ls,
    /// Be a machine's console; Ctrl-] leaves it
    Console(Named),
    /// End a machine in order, or stop a service
    Stop(Guest),
    /// End a machine at once
    Rm(Named),
    /// List the services
    Ps(Guest),
    /// Show what services use
    Stats(Guest),
    /// Show what a service has printed: [-f] [-t] [-n LINES] SERVICE
    Logs(Guest),
    /// Run a program in a service: [-t] [-w DIR] [-e K=V] SERVICE PROGRAM [ARG...]
    Exec(Guest),
    /// Start a service
    Start(Guest),
    /// Restart a service
    Restart(Guest),
    /// Send a service a signal: [-s SIGNAL] SERVICE
    Kill(Guest),
    /// Give a service another root and other settings while the machine runs
    #[command(long_about = REPLACE_ABOUT)]
    Replace(Box<Replace>),
}

const REPLACE_ABOUT: &str = "\
Give a service another root and other settings while the machine runs

The service is built as the machine's description has it now, and what the machine has not yet is \
sent to it. A service that says when it is ready (kiln.ready: tcp:PORT, file:PATH or notify) is \
started beside the old one; new connections go to it once it is ready, and the old one ends when its \
last connection has, or after its kiln.stop-timeout. A new one that fails is removed, and the old \
one never stopped. Other services are stopped first, and started again as they were if the new one \
fails. Nothing reboots; after a reboot the machine is as it was built.

  kiln vm replace web                   after the description was edited
  kiln vm replace web --image registry.example/web:2";

/// `kiln vm replace`.
#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The service
    pub(crate) service: String,
    /// The machine, as kiln vm ls calls it; the only one without it
    #[arg(long, value_name = "MACHINE")]
    pub(crate) vm: Option<String>,
    /// An image in place of the one that the description names
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Descriptions, in order [default: those the machine was built from]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// How long the new one has to become ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u32,
    /// Stop the old one before the new one starts, whatever they could share
    #[arg(long)]
    pub(crate) stop_first: bool,
    /// Images of a local engine.
    #[command(flatten)]
    pub(crate) docker: Docker,
    /// Further caches.
    #[command(flatten)]
    pub(crate) cache_from: CacheFrom,
    /// Where inputs come from.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// A machine.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The machine, as kiln vm ls calls it; the only one without it
    pub(crate) machine: Option<String>,
}

/// Words for kiln-init.
#[derive(Debug, Args)]
pub(crate) struct Guest {
    /// The machine, as kiln vm ls calls it; the only one without it
    #[arg(long, value_name = "MACHINE")]
    pub(crate) vm: Option<String>,
    /// What kiln-init is told
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    pub(crate) words: Vec<String>,
}
