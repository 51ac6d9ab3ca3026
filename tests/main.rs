//! kiln from outside: the binary, against Debian's registry, real packages and real boots.
//!
//! A test that needs a program fails without it and says what to install; `tests/run` installs
//! everything.
#![allow(clippy::unwrap_used)] // a test may

mod support;

mod boot;
mod build;
mod companions;
mod debian;
mod descriptions;
mod failures;
mod packages;
mod registry;
