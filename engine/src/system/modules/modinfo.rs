//! What a kernel module says about itself: the `.modinfo` section of an ELF64 file.
//!
//! Enters: the bytes of a module, inflated. Leaves: its `key=value` strings. Only what leads there
//! is read (System V ABI, ELF-64 object file format):
//!
//! ```text
//! 0x00  7f 45 4c 46  class (2: 64 bit)  data (1: little endian) …
//! 0x28  offset of the section heads (u64)      0x3a  size of one (u16, 64)
//! 0x3c  their number (u16)                     0x3e  which of them holds the names (u16)
//! head: name (u32) type (u32) flags (u64) addr (u64) offset (u64) size (u64) …
//! ```

/// Most strings taken from one module; aliases of drivers are some thousands.
const STRINGS: usize = 1 << 16;
/// Length of a section head.
const HEAD: usize = 64;

/// Why a file is not a kernel module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModinfoError {
    /// Not ELF, or of another class.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// An offset leads out of the file.
    #[error("{what} at byte {at} is outside of the file")]
    Outside {
        /// What is there.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// No such section.
    #[error("no .modinfo section")]
    Absent,
    /// More strings than any module has.
    #[error("more than {STRINGS} strings in .modinfo")]
    TooMany,
}

/// Returns the `key=value` pairs of a module, in their order. What is not UTF-8 or not a pair is
/// left out.
///
/// # Errors
/// Files that are not modules.
pub fn modinfo(elf: &[u8]) -> Result<Vec<(&str, &str)>, ModinfoError> {
    let section = section(elf, b".modinfo")?;
    let mut pairs = Vec::new();
    for string in section
        .split(|&byte| byte == 0)
        .filter(|string| !string.is_empty())
    {
        let pair = std::str::from_utf8(string)
            .ok()
            .and_then(|text| text.split_once('='));
        pairs.extend(pair);
        if pairs.len() > STRINGS {
            return Err(ModinfoError::TooMany);
        }
    }
    Ok(pairs)
}

fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Result<&'a [u8], ModinfoError> {
    if !elf.starts_with(b"\x7fELF\x02\x01") || elf.len() < 64 {
        return Err(ModinfoError::NotElf);
    }
    if number::<2>(elf, 0x3a)? != HEAD as u64 {
        return Err(ModinfoError::NotElf);
    }
    let (heads, count) = (number::<8>(elf, 0x28)?, number::<2>(elf, 0x3c)?);
    let head = |index: u64| {
        slice(
            elf,
            "section head",
            heads.saturating_add(index * HEAD as u64),
            HEAD as u64,
        )
    };
    let body = |head: &[u8]| {
        slice(
            elf,
            "section",
            number::<8>(head, 0x18)?,
            number::<8>(head, 0x20)?,
        )
    };
    let names = body(head(number::<2>(elf, 0x3e)?)?)?;
    for index in 0..count {
        let head = head(index)?;
        let at = number::<4>(head, 0)?;
        let name = usize::try_from(at).ok().and_then(|at| names.get(at..));
        let name = name.and_then(|name| name.split(|&byte| byte == 0).next());
        if name == Some(wanted) {
            return body(head);
        }
    }
    Err(ModinfoError::Absent)
}

fn slice<'a>(
    elf: &'a [u8],
    what: &'static str,
    at: u64,
    size: u64,
) -> Result<&'a [u8], ModinfoError> {
    let range = usize::try_from(at).ok().zip(
        at.checked_add(size)
            .and_then(|end| usize::try_from(end).ok()),
    );
    let found = range.and_then(|(start, end)| elf.get(start..end));
    found.ok_or(ModinfoError::Outside { what, at })
}

/// Reads a little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, ModinfoError> {
    let outside = ModinfoError::Outside {
        what: "number",
        at: at as u64,
    };
    let bytes = bytes.get(at..at + N).ok_or(outside)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

#[cfg(test)]
pub(super) mod testing {
    /// The smallest module with these strings.
    pub(crate) fn module(strings: &[&str]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = elf.len();
        elf.extend_from_slice(b"\0.modinfo\0.shstrtab\0");
        let info_at = elf.len();
        for string in strings {
            elf.extend_from_slice(string.as_bytes());
            elf.push(0);
        }
        let info_end = elf.len();
        let heads_at = elf.len();
        for (name, at, size) in [
            (0, 0, 0),
            (1, info_at, info_end - info_at),
            (10, names_at, info_at - names_at),
        ] {
            let mut head = vec![0; 64];
            head[0] = name;
            head[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            head[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend_from_slice(&head);
        }
        elf[0x28..0x30].copy_from_slice(&(heads_at as u64).to_le_bytes());
        elf[0x3a] = 64;
        elf[0x3c] = 3;
        elf[0x3e] = 2;
        elf
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::module;
    use super::*;

    #[test]
    fn reads_pairs_in_order() {
        let elf = module(&["license=GPL", "alias=a", "alias=b=c", "nothing", "depends="]);
        assert_eq!(
            modinfo(&elf).unwrap(),
            [
                ("license", "GPL"),
                ("alias", "a"),
                ("alias", "b=c"),
                ("depends", "")
            ]
        );
        assert_eq!(modinfo(b"\x7fELF\x01\x01"), Err(ModinfoError::NotElf));
        let mut other = elf.clone();
        let at = other
            .windows(8)
            .position(|window| window == b".modinfo")
            .unwrap();
        other[at] = b'_';
        assert_eq!(modinfo(&other), Err(ModinfoError::Absent));
        let mut far = elf;
        far[0x28..0x30].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(
            modinfo(&far),
            Err(ModinfoError::Outside {
                what: "section head",
                at: u64::MAX
            })
        );
    }

    proptest! {
        #[test]
        fn round_trips(pairs in prop::collection::vec(("[a-z]{1,6}", "[^\0]{0,9}"), 0..9)) {
            let strings: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let elf = module(&strings);
            let expected: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            prop_assert_eq!(modinfo(&elf).unwrap(), expected);
        }

        #[test]
        fn never_panics(noise in prop::collection::vec((0..400_usize, any::<u8>()), 0..20), cut in 0..400_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut elf = module(&["depends=a,b", "alias=c"]);
            for (at, byte) in noise {
                if let Some(slot) = elf.get_mut(at) {
                    *slot = byte;
                }
            }
            let _ = modinfo(&elf);
            elf.truncate(cut);
            let _ = modinfo(&elf);
            let _ = modinfo(&bytes);
        }
    }
}
