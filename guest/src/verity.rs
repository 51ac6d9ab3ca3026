//! A device whose every block is checked against one hash when it is read: dm-verity.
//!
//! In: a root hash, a device with data, one with hashes as `veritysetup format` writes them
//! (cryptsetup `lib/verity/verity.c`, `struct verity_sb`). Out: a block device that only reads, made
//! by the kernel's device mapper (`include/uapi/linux/dm-ioctl.h`,
//! `Documentation/admin-guide/device-mapper/verity.rst`). The hash alone is to be trusted: what the
//! disk says goes to the kernel only as numbers, hexadecimal digits and a name of letters.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::sys::DM_IOCTL_BYTES;
use crate::{machine, sys};

/// Bytes of the superblock.
const SUPERBLOCK_BYTES: usize = 512;
/// Bytes of a block, as the kernel allows them.
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=(64 << 10);
const SECTOR_BYTES: u64 = 512;
/// Characters of a root hash: up to SHA-512.
const HASH_CHARS_MAX: usize = 128;
/// The kernel makes it; the number is for where it waits to be loaded.
const CONTROL: &str = "/dev/mapper/control";

/// `DM_DEV_CREATE`, `DM_DEV_SUSPEND` and `DM_TABLE_LOAD`.
const CREATE: u8 = 3;
const RESUME: u8 = 6;
const LOAD: u8 = 9;
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;
/// `struct dm_target_spec`.
const TARGET_BYTES: usize = 40;

/// What is wanted beside the devices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the superblock is, in bytes.
    hash_offset: u64,
    /// The kernel's words for them.
    words: Vec<String>,
}

impl Options {
    /// Reads `systemd.verity_root_options=`: those that change what happens, and `hash-offset=`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut options = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("hash-offset", bytes)) => {
                    options.hash_offset = bytes.parse().context(|| option)?;
                }
                None if matches!(
                    option,
                    "ignore-corruption"
                        | "restart-on-corruption"
                        | "panic-on-corruption"
                        | "ignore-zero-blocks"
                        | "check-at-most-once"
                ) =>
                {
                    options.words.push(option.replace('-', "_"));
                }
                _ => return Err(Error::new(format!("{option}: no such option here"))),
            }
        }
        Ok(options)
    }
}

/// A table's line: how many sectors of the data it covers, and what the kernel is to do.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    sectors: u64,
    parameters: String,
}

/// Returns whether this can be a root hash.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len().is_multiple_of(2)
        && (32..=HASH_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Makes the device and returns its path.
pub(crate) fn open(
    name: &str,
    hash: &str,
    data: &Path,
    hashes: &Path,
    options: &Options,
) -> Result<PathBuf> {
    let table = table(hash, data, hashes, options)
        .context(|| format!("dm-verity: {}", hashes.display()))?;
    machine::load_for_kernel("dm-verity");
    let control = File::options().read(true).write(true).open(CONTROL);
    let control = control.context(|| format!("{CONTROL} (is the module dm-verity there?)"))?;
    let order = |command: u8, request: &mut [u8]| {
        sys::device_mapper(control.as_fd(), command, request).context(|| "dm-verity")
    };
    order(CREATE, &mut request(name, None))?;
    order(LOAD, &mut request(name, Some(&table)))
        .context(|| format!("{} for {}", hashes.display(), data.display()))?;
    let mut answer = request(name, None);
    order(RESUME, &mut answer)?;
    let number = answer.get(40..48).and_then(|bytes| bytes.try_into().ok());
    let number = rustix::fs::minor(u64::from_ne_bytes(number.unwrap_or_default()));
    Ok(format!("/dev/dm-{number}").into())
}

/// Reads the superblock and writes the kernel's line.
fn table(hash: &str, data: &Path, hashes: &Path, options: &Options) -> Result<Table> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let file = File::open(hashes).context(|| "open")?;
    file.read_exact_at(&mut bytes, options.hash_offset)
        .context(|| "read the superblock")?;
    let (head, salt) = bytes.split_at(88);
    let number = |at: usize| {
        let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    };
    if !head.starts_with(b"verity\0\0") || number(8) != 1 {
        return Err(Error::new("no superblock of veritysetup's, version 1"));
    }
    let (kind, block, hash_block) = (number(12), number(64), number(68));
    let blocks = u64::from(number(76)) << 32 | u64::from(number(72));
    let algorithm: String = head[32..64]
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| char::from(*byte))
        .collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let salt = salt.get(..(number(80) & 0xffff) as usize);
    let sectors = blocks.checked_mul(u64::from(block) / SECTOR_BYTES);
    let is_size = |size: u32| BLOCK_BYTES.contains(&size) && size.is_power_of_two();
    let (Some(salt), Some(sectors)) = (salt.filter(|salt| salt.len() <= 256), sectors) else {
        return Err(Error::new("the superblock is damaged"));
    };
    if kind > 1
        || !is_size(block)
        || !is_size(hash_block)
        || algorithm.is_empty()
        || !algorithm.chars().all(is_name)
    {
        return Err(Error::new("the superblock is damaged"));
    }
    // The tree begins in the first whole block behind the superblock.
    let start = options.hash_offset.checked_add(SUPERBLOCK_BYTES as u64);
    let start = start.map(|start| start.div_ceil(u64::from(hash_block)));
    let start = start.ok_or_else(|| Error::new("the offset is too large"))?;
    let salt = match salt {
        [] => "-".to_owned(),
        salt => salt.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let mut parameters = format!(
        "{kind} {} {} {block} {hash_block} {blocks} {start} {algorithm} {hash} {salt}",
        data.display(),
        hashes.display(),
    );
    if !options.words.is_empty() {
        let (count, words) = (options.words.len(), options.words.join(" "));
        parameters.push_str(&format!(" {count} {words}"));
    }
    Ok(Table {
        sectors,
        parameters,
    })
}

/// Returns a request that has room for the answer.
fn request(name: &str, table: Option<&Table>) -> Vec<u8> {
    let mut bytes = vec![0; DM_IOCTL_BYTES];
    let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    // The oldest version of the interface that has everything here.
    set(0, &4u32.to_ne_bytes());
    set(16, &(DM_IOCTL_BYTES as u32).to_ne_bytes());
    set(28, &READ_ONLY.to_ne_bytes());
    set(48, name.as_bytes());
    if let Some(table) = table {
        set(20, &1u32.to_ne_bytes());
        let mut target = [0; TARGET_BYTES];
        target[8..16].copy_from_slice(&table.sectors.to_ne_bytes());
        target[24..30].copy_from_slice(b"verity");
        bytes.extend(target);
        bytes.extend(table.parameters.as_bytes());
        // The kernel wants an end of the text, and eight bytes each.
        bytes.resize((bytes.len() + 8) / 8 * 8, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Data and hashes of it in a directory, and their root hash.
    fn formatted(directory: &Path, arguments: &[&str]) -> (PathBuf, PathBuf, String) {
        let (data, hashes) = (directory.join("data"), directory.join("hashes"));
        std::fs::write(&data, vec![7; 1 << 20]).unwrap();
        let output = Command::new("/usr/sbin/veritysetup")
            .arg("format")
            .args(arguments)
            .args([&data, &hashes])
            .output()
            .expect("needs Debian's cryptsetup-bin");
        let said = String::from_utf8(output.stdout).unwrap();
        let hash = said
            .lines()
            .find_map(|line| line.strip_prefix("Root hash:"));
        (
            data,
            hashes,
            hash.unwrap_or_else(|| panic!("{said}")).trim().to_owned(),
        )
    }

    #[test]
    fn what_veritysetup_writes() {
        let directory = tempfile::tempdir().unwrap();
        let (data, hashes, hash) = formatted(
            directory.path(),
            &["--salt=00ff", "--uuid=6c0b32d4-8b1b-4a5e-a2b3-0123456789ab"],
        );
        let paths = format!("{} {}", data.display(), hashes.display());
        let line = |options: &str| table(&hash, &data, &hashes, &Options::parse(options).unwrap());
        assert!(is_hash(&hash));
        assert_eq!(
            line("").unwrap(),
            Table {
                sectors: 2048,
                parameters: format!("1 {paths} 4096 4096 256 1 sha256 {hash} 00ff"),
            }
        );
        let with = line("restart-on-corruption,ignore-zero-blocks").unwrap();
        assert!(
            with.parameters
                .ends_with(" 00ff 2 restart_on_corruption ignore_zero_blocks")
        );
        assert!(
            line("hash-offset=4096")
                .unwrap_err()
                .to_string()
                .contains("no superblock")
        );
        assert!(line("hash-offset=18446744073709551615").is_err());

        // Everything else than usual; behind the data, and without a salt.
        let arguments = [
            "--salt=-",
            "--hash=sha512",
            "--data-block-size=512",
            "--hash-block-size=1024",
            "--format=0",
        ];
        let (data, hashes, hash) = formatted(directory.path(), &arguments);
        assert_eq!(
            table(&hash, &data, &hashes, &Options::default()).unwrap(),
            Table {
                sectors: 2048,
                parameters: format!("0 {paths} 512 1024 2048 1 sha512 {hash} -"),
            }
        );
    }

    #[test]
    fn options_that_are_not_known_are_refused() {
        for option in [
            "superblock=0",
            "hash-offset=x",
            "hash-offset",
            "1 ignore_corruption",
        ] {
            assert!(Options::parse(option).is_err(), "{option}");
        }
        for text in [
            "",
            "ab",
            "zz",
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(130),
        ] {
            assert!(!is_hash(text), "{text}");
        }
    }

    proptest! {
        /// A disk cannot say more to the kernel than what the words are for.
        #[test]
        fn a_superblock_adds_no_words(
            change in prop::collection::vec((0..SUPERBLOCK_BYTES, any::<u8>()), 1..40),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let hashes = directory.path().join("hashes");
            let mut bytes = [0; SUPERBLOCK_BYTES];
            bytes[..8].copy_from_slice(b"verity\0\0");
            (bytes[8], bytes[12], bytes[65], bytes[69], bytes[72], bytes[80]) = (1, 1, 16, 16, 9, 4);
            bytes[32..38].copy_from_slice(b"sha256");
            for (at, byte) in change {
                bytes[at] = byte;
            }
            std::fs::write(&hashes, bytes).unwrap();
            if let Ok(table) = table(&"a".repeat(64), Path::new("d"), &hashes, &Options::default()) {
                prop_assert_eq!(table.parameters.split(' ').count(), 10);
                prop_assert!(table.parameters.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
            }
        }
    }
}
