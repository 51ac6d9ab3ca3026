//! kiln from outside: the binary, against Debian's registry, real packages and real boots.
//!
//! A test that needs a program fails without it and says what to install; `tests/run` installs
//! everything.
#![allow(clippy::unwrap_used)] // a test may

mod support;

mod acceptance;
mod bench;
mod boot;
mod build;
mod builtin;
mod cache;
mod chaos;
mod ci;
mod collect;
mod companions;
mod debian;
mod descriptions;
mod disks;
mod docker;
mod failures;
mod jobs;
mod linuxkit;
mod media;
mod migrate;
mod network;
mod packages;
mod platforms;
mod push;
mod registry;
mod replace;
mod run;
mod sbom;
mod schema;
mod vm;
mod vmm;
