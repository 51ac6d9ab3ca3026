//! Running machines: where they are, their consoles, and what can be asked of them.

pub(crate) mod api;
pub(crate) mod cloud_hypervisor;
pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod disk;
pub(crate) mod firecracker;
pub(crate) mod hyperv;
pub(crate) mod kernel;
pub(crate) mod log;
pub(crate) mod monitor;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod qmp;
mod readonly;
pub(crate) mod share;
pub(crate) mod vsock;
