//! Sources against servers: one that misbehaves on request, and Debian's docker-registry.
//!
//! Nothing here leaves this machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod download;
mod layouts;
mod misbehaving;
mod real_registry;
mod server;
mod support;
