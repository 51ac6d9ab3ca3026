//! What monitors other than QEMU boot: a kernel that is in memory when the machine begins.

use std::path::Path;

use crate::machine::Boot;

/// A kernel, and what goes with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel<'a> {
    pub(crate) image: &'a Path,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) cmdline: &'a str,
}

impl<'a> Kernel<'a> {
    /// Returns the kernel of a machine that begins with one.
    pub(crate) fn of(boot: &'a Boot) -> Option<Self> {
        match boot {
            Boot::Kernel {
                kernel,
                initrd,
                cmdline,
                root: None,
            } => Some(Self {
                image: kernel,
                initrd: initrd.as_deref(),
                cmdline,
            }),
            _ => None,
        }
    }
}
