//! Running machines: where they are, their consoles, and what can be asked of them.

pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod disk;
pub(crate) mod place;
pub(crate) mod qemu;
pub(crate) mod qmp;
pub(crate) mod share;
