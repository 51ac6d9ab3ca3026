//! `kiln vm`.

use clap::{Args, Subcommand};

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
