//! Where the members of an uncompressed tar lie: what a docker archive is read through.
//!
//! Enters: a seekable tar (POSIX ustar and pax, GNU long names; `pax(1)` of POSIX.1-2017 and
//! `tar(5)`). Leaves: name → offset and size of each regular member, links followed. Contents are
//! skipped by seeking. This is not the layer reader: owners, modes and times do not matter here.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

const BLOCK: u64 = 512;
/// Members of one archive.
const MEMBERS_MAX: usize = 100_000;
/// Bytes of an extended header or long name.
const EXTENSION_SIZE_MAX: u64 = 1 << 20;
/// Links that are followed from one to the next.
const LINKS_MAX: usize = 8;

/// A regular member's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Offset of the first byte in the archive.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Why an archive cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("offset {offset}: {reason}")]
    Malformed { offset: u64, reason: String },
}

/// Members by cleaned name (no leading `/` or `./`).
#[derive(Debug, Default)]
pub(super) struct TarIndex {
    files: BTreeMap<String, Member>,
    links: BTreeMap<String, String>,
}

impl TarIndex {
    pub(super) fn get(&self, name: &str) -> Option<Member> {
        let mut name = clean(name)?;
        for _ in 0..=LINKS_MAX {
            if let Some(member) = self.files.get(&name) {
                return Some(*member);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

/// What extended headers say about the member that follows.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

/// Reads the headers of a tar from its beginning.
pub(super) fn index(reader: &mut (impl Read + Seek)) -> Result<TarIndex, TarError> {
    let end = reader.seek(SeekFrom::End(0))?;
    let mut found = TarIndex::default();
    let mut extended = Extended::default();
    let mut at = 0;
    while let Some(header) = read_header(reader, at, end)? {
        let fail = |reason: &str| TarError::Malformed {
            offset: at,
            reason: reason.to_owned(),
        };
        let kind = header[156];
        let mut size = number(&header[124..136]).ok_or_else(|| fail("the size is no number"))?;
        let is_extension = matches!(kind, b'x' | b'g' | b'L' | b'K');
        if !is_extension {
            size = extended.size.unwrap_or(size);
        }
        if matches!(kind, b'1'..=b'6') {
            size = 0; // links, devices and directories have no content, whatever the field says
        }
        let start = at + BLOCK;
        if size > end - start {
            return Err(fail("the archive ends within a member"));
        }
        if is_extension {
            extend(&mut extended, kind, &content(reader, at, size)?, at)?;
        } else {
            let name = extended.path.take().unwrap_or_else(|| header_name(&header));
            let link = extended
                .link
                .take()
                .unwrap_or_else(|| text(&header[157..257]));
            extended = Extended::default();
            if found.files.len() + found.links.len() >= MEMBERS_MAX {
                return Err(fail(&format!("more than {MEMBERS_MAX} members")));
            }
            note(
                &mut found,
                kind,
                &name,
                &link,
                Member {
                    offset: start,
                    size,
                },
            );
        }
        at = start + size.div_ceil(BLOCK) * BLOCK;
    }
    Ok(found)
}

/// Reads the header at `at`; `None` at the end. A missing end-of-archive marker is forgiven, as all
/// tar programs do.
fn read_header(
    reader: &mut (impl Read + Seek),
    at: u64,
    end: u64,
) -> Result<Option<[u8; 512]>, TarError> {
    if at >= end {
        return Ok(None);
    }
    let fail = |reason: &str| TarError::Malformed {
        offset: at,
        reason: reason.to_owned(),
    };
    if end - at < BLOCK {
        return Err(fail("the archive ends within a header"));
    }
    let mut header = [0; 512];
    reader.seek(SeekFrom::Start(at))?;
    reader.read_exact(&mut header)?;
    if header.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, &byte)| {
            if (148..156).contains(&at) {
                u64::from(b' ')
            } else {
                u64::from(byte)
            }
        })
        .sum();
    match number(&header[148..156]) {
        Some(stated) if stated == sum => Ok(Some(header)),
        _ => Err(fail("no tar header (its checksum is wrong)")),
    }
}

fn note(found: &mut TarIndex, kind: u8, name: &str, link: &str, member: Member) {
    let Some(name) = clean(name) else { return };
    match kind {
        b'0' | 0 | b'7' if !name.is_empty() => {
            found.links.remove(&name);
            found.files.insert(name, member);
        }
        b'1' => {
            if let Some(target) = clean(link) {
                found.links.insert(name, target);
            }
        }
        // Old `docker save` links a layer that two images share: ../OTHER/layer.tar.
        b'2' => {
            let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
            if let Some(target) = clean(&format!("{directory}/{link}")) {
                found.links.insert(name, target);
            }
        }
        _ => {}
    }
}

fn content(reader: &mut (impl Read + Seek), at: u64, size: u64) -> Result<Vec<u8>, TarError> {
    if size > EXTENSION_SIZE_MAX {
        let reason = format!("an extended header of {size} bytes, more than {EXTENSION_SIZE_MAX}");
        return Err(TarError::Malformed { offset: at, reason });
    }
    let mut bytes = Vec::new();
    reader.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn extend(extended: &mut Extended, kind: u8, bytes: &[u8], at: u64) -> Result<(), TarError> {
    match kind {
        b'L' => extended.path = Some(text(bytes)),
        b'K' => extended.link = Some(text(bytes)),
        b'x' => pax(extended, bytes).ok_or_else(|| TarError::Malformed {
            offset: at,
            reason: "no pax record".to_owned(),
        })?,
        _ => {} // global records concern what is not read here
    }
    Ok(())
}

/// Parses `LENGTH KEY=VALUE\n` records.
fn pax(extended: &mut Extended, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let value = String::from_utf8_lossy(&record[equals + 1..]).into_owned();
        match &record[..equals] {
            b"path" => extended.path = Some(value),
            b"linkpath" => extended.link = Some(value),
            b"size" => extended.size = Some(value.parse().ok()?),
            _ => {}
        }
        bytes = &bytes[length..];
    }
    Some(())
}

fn header_name(header: &[u8; 512]) -> String {
    let name = text(&header[..100]);
    let prefix = if &header[257..262] == b"ustar" && header[262] == 0 {
        text(&header[345..500])
    } else {
        String::new() // GNU keeps times there
    };
    if prefix.is_empty() {
        name
    } else {
        format!("{prefix}/{name}")
    }
}

fn text(field: &[u8]) -> String {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Parses a numeric field: octal digits, or GNU's base 256.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len() - 9);
        return high.iter().all(|&byte| byte == 0).then(|| {
            low.iter()
                .fold(0, |value, &byte| value << 8 | u64::from(byte))
        });
    }
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    let digits = std::str::from_utf8(&field[..end]).ok()?.trim();
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(digits, 8)
        .ok()
        .filter(|_| !digits.starts_with('+'))
}

/// Returns a member's name without `.`, `..` and doubled slashes; `None` when it leaves the root.
fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = header("x", tar::EntryType::Regular, bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("./manifest.json", b"[]");
        add(&format!("{}/layer.tar", "d".repeat(200)), b"long");
        add("a/layer.tar", &[7; 1000]);
        let mut link = header("b/layer.tar", tar::EntryType::Symlink, 0);
        builder
            .append_link(&mut link, "b/layer.tar", "../a/layer.tar")
            .unwrap();
        let mut hard = header("c", tar::EntryType::Link, 0);
        builder.append_link(&mut hard, "c", "b/layer.tar").unwrap();
        builder.into_inner().unwrap()
    }

    fn bytes<'a>(archive: &'a [u8], index: &TarIndex, name: &str) -> Option<&'a [u8]> {
        let member = index.get(name)?;
        let start = usize::try_from(member.offset).unwrap();
        archive.get(start..start + usize::try_from(member.size).unwrap())
    }

    #[test]
    fn finds_members_and_follows_links() {
        let archive = sample();
        let index = index(&mut Cursor::new(&archive)).unwrap();
        assert_eq!(bytes(&archive, &index, "manifest.json"), Some(&b"[]"[..]));
        let long = format!("{}/layer.tar", "d".repeat(200));
        assert_eq!(bytes(&archive, &index, &long), Some(&b"long"[..]));
        for name in ["a/layer.tar", "b/layer.tar", "c", "/a/./layer.tar"] {
            assert_eq!(
                bytes(&archive, &index, name),
                Some(&[7; 1000][..]),
                "{name}"
            );
        }
        assert!(index.get("../a").is_none() && index.get("d").is_none());
    }

    #[test]
    fn reads_pax_names_and_sizes() {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([("path", &b"pax/name"[..]), ("size", b"3")])
            .unwrap();
        let mut wrong = header("other", tar::EntryType::Regular, 0);
        wrong.set_cksum();
        builder.append(&wrong, &b""[..]).unwrap();
        let mut archive = builder.into_inner().unwrap();
        archive.truncate(archive.len() - 1024);
        archive.extend_from_slice(&[b'z'; 512]);
        let index = index(&mut Cursor::new(&archive)).unwrap();
        assert_eq!(bytes(&archive, &index, "pax/name"), Some(&b"zzz"[..]));
    }

    #[test]
    fn says_where_it_breaks() {
        let archive = sample();
        let cut = &archive[..archive.len() - 1024 - 600];
        let _ = index(&mut Cursor::new(cut)).unwrap_err();
        let error = index(&mut Cursor::new(b"not a tar at all".repeat(100))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "offset 0: no tar header (its checksum is wrong)"
        );
        let mut huge = tar::Header::new_gnu();
        huge.set_path("x").unwrap();
        huge.set_size(1 << 40);
        huge.set_cksum();
        let error = index(&mut Cursor::new(huge.as_bytes())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "offset 0: the archive ends within a member"
        );
    }

    #[test]
    fn links_in_circles_end() {
        let mut found = TarIndex::default();
        let nothing = Member { offset: 0, size: 0 };
        note(&mut found, b'1', "a", "b", nothing);
        note(&mut found, b'1', "b", "a", nothing);
        assert_eq!(found.get("a"), None);
    }

    proptest! {
        #[test]
        fn damage_is_harmless(damage in proptest::collection::vec((0usize..6000, any::<u8>()), 1..8)) {
            let mut archive = sample();
            let length = archive.len();
            for (at, byte) in damage {
                archive[at % length] = byte;
            }
            if let Ok(index) = index(&mut Cursor::new(&archive)) {
                for name in index.names() {
                    let member = index.get(name).unwrap();
                    prop_assert!(member.offset + member.size <= length as u64);
                }
            }
        }

        #[test]
        fn any_numbers_are_harmless(field in proptest::array::uniform12(any::<u8>())) {
            let _ = number(&field);
        }
    }
}
