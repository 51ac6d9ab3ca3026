//! Flags of `kiln run` for what LinuxKit calls the boot type.

use std::path::PathBuf;

use clap::Args;

/// What is booted, and by which firmware.
#[derive(Debug, Args)]
pub(crate) struct Media {
    /// Boot an ISO image, FILE or PREFIX.iso, as a CD-ROM
    #[arg(long)]
    pub(crate) iso: bool,
    /// Boot PREFIX-kernel with the root PREFIX-squashfs.img as its first disk
    #[arg(long)]
    pub(crate) squashfs: bool,
    /// Boot PREFIX-kernel with PREFIX-initrd.img, whatever else is there
    #[arg(long)]
    pub(crate) kernel: bool,
    /// Boot by EFI firmware rather than by a BIOS
    #[arg(long)]
    pub(crate) uefi: bool,
    /// EFI firmware in place of what is installed; --uefi is understood
    #[arg(long, value_name = "FILE")]
    pub(crate) fw: Option<PathBuf>,
}

impl Media {
    /// Returns the flags that name a kind of medium, as they were given.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let flags = [
            (self.iso, "--iso"),
            (self.squashfs, "--squashfs"),
            (self.kernel, "--kernel"),
        ];
        let given = flags.into_iter().filter(|(given, _)| *given);
        given.map(|(_, flag)| flag).collect()
    }

    /// Returns whether EFI firmware is asked for.
    pub(crate) const fn is_efi(&self) -> bool {
        self.uefi || self.fw.is_some()
    }
}
