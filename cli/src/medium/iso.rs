//! ISO 9660 images (ECMA-119) and their boot catalogues ("El Torito" Bootable CD-ROM Format
//! Specification 1.0; the platform of EFI is of UEFI 2.10, 13.3.2.1).

use std::fs::File;
use std::io;

use super::head::Head;
use super::{Medium, read};

const SECTOR: usize = 2048;
/// The first volume descriptor is in sector 16; its name behind the type.
pub(super) const AT: usize = 16 * SECTOR + 1;
pub(super) const MAGIC: &[u8] = b"CD001";
/// The boot record is the second descriptor; some more are looked at.
const DESCRIPTORS_MAX: u64 = 16;
const ENTRY: usize = 32;

/// Platforms of entries.
const X86: u8 = 0;
const EFI: u8 = 0xef;

/// Returns what an image boots by.
pub(super) fn of(file: &File) -> io::Result<Medium> {
    let mut sector = [0; SECTOR];
    for number in 16..16 + DESCRIPTORS_MAX {
        let len = read(file, &mut sector, number * SECTOR as u64)?;
        let head = Head(&sector[..len]);
        if !head.has(1, MAGIC) || head.has(0, &[255]) {
            break;
        }
        if let (true, Some(catalogue)) = (
            head.has(0, b"\0CD001\x01EL TORITO SPECIFICATION"),
            head.le32(0x47),
        ) {
            let len = read(file, &mut sector, u64::from(catalogue) * SECTOR as u64)?;
            return Ok(catalogue_of(Head(&sector[..len])));
        }
    }
    Ok(Medium::Iso {
        bios: false,
        efi: false,
    })
}

/// Reads the validation entry, the default entry, and sections of further ones.
fn catalogue_of(catalogue: Head<'_>) -> Medium {
    let (mut bios, mut efi) = (false, false);
    let mut note = |platform: u8| match platform {
        X86 => bios = true,
        EFI => efi = true,
        _ => {}
    };
    let entry = |number: usize| catalogue.array::<ENTRY>(number * ENTRY);
    let is_bootable = |entry: [u8; ENTRY]| entry[0] == 0x88;
    if let (Some([1, platform, ..]), Some(first)) = (entry(0), entry(1)) {
        if is_bootable(first) {
            note(platform);
        }
        let mut at = 2;
        while let Some([kind @ (0x90 | 0x91), platform, low, high, ..]) = entry(at) {
            let entries = usize::from(u16::from_le_bytes([low, high]));
            at += 1;
            for _ in 0..entries {
                match entry(at) {
                    Some(entry) if is_bootable(entry) => note(platform),
                    Some(_) => {}
                    None => break,
                }
                at += 1;
            }
            if kind == 0x91 {
                break;
            }
        }
    }
    Medium::Iso { bios, efi }
}
