//! Sources against servers: one that misbehaves on request, and Debian's docker-registry.
//!
//! Nothing here leaves this machine.

mod download;
mod layouts;
mod misbehaving;
mod real_registry;
mod server;
mod support;
