//! Partition tables: who could boot from a disk.
//!
//! The master boot record and GPT are those of UEFI 2.10, chapter 5.

use super::head::Head;

/// Bytes of a disk that are looked at: the boot record, the header of GPT and 128 entries.
pub(crate) const HEAD: usize = 34 * 512;

pub(super) const GPT: &[u8] = b"EFI PART";
/// `C12A7328-F81F-11D2-BA4B-00A0C93EC93B`, the EFI system partition, as it is stored.
const SYSTEM_PARTITION: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// The same in a master boot record.
const SYSTEM_PARTITION_MBR: u8 = 0xef;
/// Bytes of code in a master boot record.
const CODE: usize = 440;

/// Returns whether a disk has a partition for EFI, and nothing that a BIOS could run.
pub(crate) fn is_for_efi_alone(disk: &[u8]) -> bool {
    let has_code = disk.iter().take(CODE).any(|byte| *byte != 0);
    !has_code && has_system_partition(Head(disk))
}

fn has_system_partition(disk: Head<'_>) -> bool {
    if disk.has(512, GPT) {
        return gpt_has_system_partition(disk).unwrap_or(false);
    }
    (0..4).any(|entry| disk.has(446 + 16 * entry + 4, &[SYSTEM_PARTITION_MBR]))
}

fn gpt_has_system_partition(disk: Head<'_>) -> Option<bool> {
    let first = usize::try_from(disk.le64(512 + 72)?).ok()?;
    let first = first.checked_mul(512)?;
    let size = usize::try_from(disk.le32(512 + 84)?).ok()?;
    if size < 128 {
        return None;
    }
    let entries = disk.0.get(first..)?.chunks_exact(size);
    let count = usize::try_from(disk.le32(512 + 80)?).ok()?;
    let mut entries = entries.take(count);
    Some(entries.any(|entry| entry.starts_with(&SYSTEM_PARTITION)))
}
