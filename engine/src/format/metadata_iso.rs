//! The disc that LinuxKit's metadata package looks for: ISO 9660 with one file, `config`.
//!
//! Enters: the file's bytes. Leaves: an image (ECMA-119, level 1) whose bytes depend on them
//! alone. ISO 9660 knows capitals only, so Rock Ridge (IEEE P1282, RRIP 1991A) entries give the
//! name as it is meant; Linux shows `config` with and without them.
//!
//! ```text
//! sector  0–15   zero
//!           16   primary volume descriptor (8.4)
//!           17   set terminator (8.3)
//!       18, 19   path table, little and big endian (9.4)
//!           20   root directory: ".", "..", CONFIG.;1 (9.1)
//!           21…  the file, and zero up to 24 sectors
//! ```

use std::path::Path;

use super::FormatError;
use super::assemble::replace;

const SECTOR: usize = 2048;
const PATH_TABLE_LITTLE: u32 = 18;
const PATH_TABLE_BIG: u32 = 19;
const ROOT: u32 = 20;
const DATA: u32 = 21;
/// libarchive reads 8 sectors of descriptors before it looks at the first.
const SECTORS_MIN: u32 = 24;
/// The root's entry: 8 bytes, its one-byte name, and one to make it even.
const PATH_TABLE_BYTES: u32 = 10;

/// `crate::tree::generate::MTIME` as digits: year, month, day, hour, minute, second, hundredths.
const TIME_DIGITS: &[u8] = b"2017041816300000";
/// The same as directories have it: years since 1900 (9.1.5).
const TIME_SHORT: [u8; 7] = [117, 4, 18, 16, 30, 0, 0];

const MODE_DIRECTORY: u32 = 0o040_555;
const MODE_FILE: u32 = 0o100_444;
const FLAG_DIRECTORY: u8 = 2;

/// Writes the image, whole or not at all.
///
/// # Errors
/// When it cannot be written; a file that was there is then as it was.
pub fn write(path: &Path, config: &[u8]) -> Result<(), FormatError> {
    let image = image(config).map_err(FormatError::output("write", path))?;
    replace(path, &image)
}

/// Returns the image whose file `config` holds these bytes.
fn image(config: &[u8]) -> std::io::Result<Vec<u8>> {
    let too_large = |_| std::io::Error::from(std::io::ErrorKind::FileTooLarge);
    let size = u32::try_from(config.len()).map_err(too_large)?;
    let sectors = SECTORS_MIN.max(DATA + size.div_ceil(SECTOR as u32));

    let mut image = vec![0; 16 * SECTOR];
    sector(&mut image, &primary(sectors));
    sector(&mut image, b"\xffCD001\x01");
    sector(
        &mut image,
        &path_table(ROOT.to_le_bytes(), 1_u16.to_le_bytes()),
    );
    sector(
        &mut image,
        &path_table(ROOT.to_be_bytes(), 1_u16.to_be_bytes()),
    );
    let mut root = Vec::new();
    // SP and ER say that there is Rock Ridge.
    let here = [
        b"SP\x07\x01\xbe\xef\x00".as_slice(),
        b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A",
        &posix(MODE_DIRECTORY, 2),
    ];
    let sector_size = SECTOR as u32;
    record(
        &mut root,
        b"\0",
        ROOT,
        sector_size,
        FLAG_DIRECTORY,
        &here.concat(),
    );
    record(
        &mut root,
        b"\x01",
        ROOT,
        sector_size,
        FLAG_DIRECTORY,
        &posix(MODE_DIRECTORY, 2),
    );
    let file = [&posix(MODE_FILE, 1)[..], b"NM\x0b\x01\x00config"].concat();
    record(&mut root, b"CONFIG.;1", DATA, size, 0, &file);
    sector(&mut image, &root);
    image.extend_from_slice(config);
    image.resize(sectors as usize * SECTOR, 0);
    Ok(image)
}

/// Appends a sector that begins with these bytes, fewer than a sector has.
fn sector(image: &mut Vec<u8>, bytes: &[u8]) {
    image.extend_from_slice(bytes);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
}

/// The primary volume descriptor.
fn primary(sectors: u32) -> Vec<u8> {
    let mut volume = b"\x01CD001\x01\0".to_vec();
    text(&mut volume, b"", 32); // system
    text(&mut volume, b"config", 32); // volume, in LinuxKit's spelling
    volume.extend_from_slice(&[0; 8]);
    volume.extend_from_slice(&both(sectors));
    volume.extend_from_slice(&[0; 32]);
    volume.extend_from_slice(&both_short(1)); // discs in the set
    volume.extend_from_slice(&both_short(1)); // this one
    volume.extend_from_slice(&both_short(SECTOR as u16));
    volume.extend_from_slice(&both(PATH_TABLE_BYTES));
    volume.extend_from_slice(&PATH_TABLE_LITTLE.to_le_bytes());
    volume.extend_from_slice(&[0; 4]);
    volume.extend_from_slice(&PATH_TABLE_BIG.to_be_bytes());
    volume.extend_from_slice(&[0; 4]);
    record(&mut volume, b"\0", ROOT, SECTOR as u32, FLAG_DIRECTORY, b"");
    text(&mut volume, b"", 4 * 128); // set, publisher, preparer, application
    text(&mut volume, b"", 3 * 37); // files with a copyright, an abstract, a bibliography
    for _made_and_modified in 0..2 {
        volume.extend_from_slice(TIME_DIGITS);
        volume.push(0); // from Greenwich
    }
    for _expires_and_effective in 0..2 {
        volume.extend_from_slice(&[b'0'; 16]);
        volume.push(0);
    }
    volume.push(1); // version of the structure
    volume
}

/// A table of one directory, the root, which is its own parent.
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0], &root[..], &parent, &[0, 0]].concat()
}

/// Appends a directory record with its system use field.
fn record(out: &mut Vec<u8>, name: &[u8], extent: u32, size: u32, flags: u8, system_use: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0, 0]); // its length comes last
    out.extend_from_slice(&both(extent));
    out.extend_from_slice(&both(size));
    out.extend_from_slice(&TIME_SHORT);
    out.extend_from_slice(&[flags, 0, 0]);
    out.extend_from_slice(&both_short(1));
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    // Both the system use field and the next record begin at an even place.
    out.resize(start + (out.len() - start).next_multiple_of(2), 0);
    out.extend_from_slice(system_use);
    out.resize(start + (out.len() - start).next_multiple_of(2), 0);
    out[start] = (out.len() - start) as u8;
}

/// Rock Ridge's PX: mode, links, user, group.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut entry = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        entry.extend_from_slice(&both(number));
    }
    entry
}

fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both_short(number: u16) -> [u8; 4] {
    let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}

/// Appends text, filled up with spaces.
fn text(out: &mut Vec<u8>, text: &[u8], width: usize) {
    let end = out.len() + width;
    out.extend_from_slice(text);
    out.resize(end, b' ');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_stands_where_the_standard_has_it() {
        for size in [0, 1, 2048, 2049, 5000] {
            let config = vec![b'x'; size];
            let image = image(&config).unwrap();
            assert_eq!(image.len() % SECTOR, 0);
            assert!(image.len() >= 24 * SECTOR);
            let volume = &image[16 * SECTOR..];
            let sectors = (image.len() / SECTOR) as u32;
            assert_eq!(volume[80..88], both(sectors));
            assert_eq!(&volume[40..47], b"config ");
            // The root's record, then the four times and the version.
            assert_eq!((volume[156], volume[158]), (34, ROOT as u8));
            assert_eq!(&volume[813..829], TIME_DIGITS);
            assert_eq!((volume[881], volume[882]), (1, 0));
            let data = DATA as usize * SECTOR;
            assert!(image[data..data + size] == config);
            assert!(image[data + size..].iter().all(|byte| *byte == 0));
        }
    }
}
