//! LinuxKit's contract: what a system is made of.

pub mod modules;
