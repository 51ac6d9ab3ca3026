//! The `kiln` command: people on one side, the engine on the other.
//!
//! Enters: a command line. Leaves: status lines on stderr, data on stdout, an exit code.
//! In reading order: [`args`], [`commands`], [`ui`], [`failure`]; [`medium`], [`firmware`],
//! [`machine`], [`drives`], [`kvm`] and [`vm`] boot.
//!
//! An unchanged build must cost what looking at its files costs: nothing here starts a thread, a
//! progress display or anything of the network before the engine has something to tell.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod commands;
mod drives;
mod exit;
mod failure;
mod firmware;
mod guest;
mod kvm;
mod machine;
mod medium;
mod serve;
mod signals;
mod ui;
mod units;
mod vm;

fn main() -> ExitCode {
    commands::run(&args::Arguments::parse())
}
