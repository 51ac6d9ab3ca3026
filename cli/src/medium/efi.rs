//! Programs for EFI (Microsoft's PE format; UEFI 2.10, 2.1.1).

use super::Medium;
use super::head::Head;

/// `IMAGE_SUBSYSTEM_EFI_APPLICATION`.
const EFI_APPLICATION: u16 = 10;

/// Returns what a PE file is, if it is one.
pub(super) fn of(head: Head<'_>) -> Option<Medium> {
    if !head.has(0, b"MZ") {
        return None;
    }
    let at = usize::try_from(head.le32(0x3c)?).ok()?;
    if !head.has(at, b"PE\0\0") {
        return None;
    }
    // The optional header is behind the signature and 20 bytes; the subsystem 68 bytes into it,
    // with 32 bits and with 64.
    if head.le16(at + 24 + 68)? != EFI_APPLICATION {
        return Some(Medium::Other("a program, but none for EFI", None));
    }
    Some(Medium::Program(match head.le16(at + 4)? {
        0x8664 => Some("amd64"),
        0xaa64 => Some("arm64"),
        0x5064 => Some("riscv64"),
        _ => None,
    }))
}
