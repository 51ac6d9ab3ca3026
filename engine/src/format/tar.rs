//! tar segments: PAX archives (POSIX.1-2017 pax, "pax Interchange Format"), a run per fragment.
//!
//! Enters: a fragment and its plan. Leaves: recipes whose lengths are multiples of 4 KiB, but for
//! the bill of materials.
//!
//! A large fragment is cut into several, so that a change in it, such as the target of a hard
//! link, does not write all of it again. Whether there is a cut after an entry depends on its path
//! and the bytes it takes alone: those around a change stay where they are. On average [`CUT_BYTES`] lie between
//! two of them.
//!
//! An entry is an `x` header named `DIR/PaxHeaders.0/BASE` with the sorted records
//! `LINUXKIT.location`, `LINUXKIT.source`, and those only that ustar cannot express (`path`,
//! `linkpath`, `size`, `uid`, `gid`, sub-second `mtime`, `SCHILY.xattr.*`), then its own header.
//! Without provenance there are no records, and then no `x` header: the bill of materials is plain
//! ustar, as LinuxKit writes it. No user or group names. Directories have no trailing slash, as
//! LinuxKit writes them.
//!
//! The padding is a `comment` record in the `x` header of a segment's last entry; a fragment
//! without provenance, which is the last, has none, and is not cut. A global header (`g`) would do too, but LinuxKit's own
//! converters stop at any header type beyond files and `x`.

use std::borrow::Cow;

use kiln_cache::{Cache, Digest};

use super::fragment::{OpenFragment, Place};
use super::recipe::{RecipeWriter, Sink};
use super::{ALIGN_BYTES, FormatError, Fragment, FragmentPlan, Segment, padding};
use crate::tree::{EntryRef, Kind};

const BLOCK: u64 = 512;
/// The largest number of 7 octal digits, for ids and device numbers.
const OCTAL_7_MAX: u64 = 0o777_7777;
/// The largest number of 11 octal digits, for sizes and times.
const OCTAL_11_MAX: u64 = 0o777_7777_7777;

/// Version of the bytes: raised whenever a fragment's segments may come out differently.
pub const VERSION: u32 = 2;

/// Bytes between two cuts, on average. A segment costs some 2 KiB of padding and an object.
const CUT_BYTES: u64 = 2 << 20;

/// Writes the tar segments of a fragment, at least one; a fragment without source and location
/// gets no such records, and is one segment. Links in `plan` name paths of these segments or of
/// segments before them.
///
/// # Errors
/// When a tree is missing or contradicts itself, or an object cannot be written.
pub fn segments(
    cache: &Cache,
    fragment: &Fragment,
    plan: &FragmentPlan,
) -> Result<Vec<Segment>, FormatError> {
    let open = OpenFragment::open(cache, &fragment.parts)?;
    let mut order = open.order();
    order.retain(|place| !plan.is_skipped(*place));
    let mut writer = Writer {
        sink: RecipeWriter::new(cache)?,
        open: &open,
        plan,
        provenance: Records::of(fragment).sorted(),
        fragment,
        names: Names::default(),
    };
    let bare = fragment.source.is_empty() && fragment.location.is_empty();
    let mut segments = Vec::new();
    let mut order = order.into_iter().peekable();
    while let Some(place) = order.next() {
        let more = order.peek().is_some();
        let ends = writer.entry(place, !bare, !more)?;
        if ends && more {
            let full = std::mem::replace(&mut writer.sink, RecipeWriter::new(cache)?);
            segments.push(full.finish()?);
        }
    }
    segments.push(writer.sink.finish()?);
    Ok(segments)
}

/// Returns true when a segment ends after an entry that takes `bytes`.
fn is_cut(path: &[u8], bytes: u64) -> bool {
    let digest = Digest::of(path);
    let Some(head) = digest.as_bytes().first_chunk() else {
        return false;
    };
    // As likely as the entry is large, compared with what should lie between two cuts.
    u128::from(u64::from_le_bytes(*head)) * u128::from(CUT_BYTES) < u128::from(bytes) << 64
}

/// Returns the two zero blocks that end an archive.
///
/// # Errors
/// When the object cannot be written.
pub fn end(cache: &Cache) -> Result<Segment, FormatError> {
    let mut writer = RecipeWriter::new(cache)?;
    writer.literal(&[0; 2 * BLOCK as usize])?;
    writer.finish()
}

/// First names of files with several names: the path a later name links to.
#[derive(Default)]
struct Names(std::collections::HashMap<(u32, u32), Place>);

struct Writer<'a> {
    sink: RecipeWriter<'a>,
    open: &'a OpenFragment,
    plan: &'a FragmentPlan,
    fragment: &'a Fragment,
    /// The records of its provenance, all that most entries have.
    provenance: Vec<u8>,
    names: Names,
}

impl Writer<'_> {
    /// Writes an entry. Returns true when the segment may end after it: it is padded.
    fn entry(&mut self, place: Place, pads: bool, last: bool) -> Result<bool, FormatError> {
        let entry = self.open.entry(place);
        let mut path = Vec::new();
        self.open.path_into(place, &mut path);
        if path.is_empty() {
            path.push(b'.');
        }
        let hard_link = self.hard_link(place, &entry);
        let kind = match (entry.kind(), &hard_link) {
            (_, Some(_)) => b'1',
            (Kind::File, None) => b'0',
            (Kind::Directory, None) => b'5',
            (Kind::Symlink, None) => b'2',
            (Kind::CharDevice, None) => b'3',
            (Kind::BlockDevice, None) => b'4',
            (Kind::Fifo, None) => b'6',
            (Kind::HardLink | Kind::Whiteout, None) => {
                return Err(FormatError::BadEntry {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    reason: "a layer's entry in a flattened tree",
                });
            }
        };
        let link = match (&hard_link, kind) {
            (Some(target), _) => target.as_slice(),
            (None, b'2') => entry.link(),
            _ => &[],
        };
        let size = if kind == b'0' { entry.size() } else { 0 };
        let mut records = Records::default();
        let header = Header {
            path: &path,
            link,
            kind,
            size,
            mode: entry.mode(),
            uid: entry.uid(),
            gid: entry.gid(),
            mtime: entry.mtime(),
            device: match kind {
                b'3' | b'4' => entry.device(),
                _ => (0, 0),
            },
        };
        header.overflow(&mut records);
        if hard_link.is_none() {
            for (name, value) in entry.xattrs() {
                records.add_xattr(name, value);
            }
        }
        let data = size + padding(size, BLOCK);
        let mut body = self.body(&records);
        // The path within its tree: a service's name and number do not matter.
        let ends = pads && (last || is_cut(entry.path(), 2 * BLOCK + data));
        if ends {
            let end = self.sink.len() + 2 * BLOCK + round(body.len() as u64) + data;
            let fill = padding(end, ALIGN_BYTES);
            if fill > 0 {
                records.add_comment(fill);
                body = self.body(&records);
            }
        }
        let mut headers = Vec::with_capacity(4 * BLOCK as usize);
        if !body.is_empty() {
            extended(&path, &body, &mut headers);
        }
        header.write(&mut headers);
        self.sink.literal(&headers)?;
        if size > 0 {
            file_data(&mut self.sink, &entry, &path)?;
            self.sink.zeros(data - size)?;
        }
        Ok(ends)
    }

    /// Returns the body of an `x` header: an entry's own records and those of its fragment.
    fn body(&self, own: &Records) -> Cow<'_, [u8]> {
        if own.0.is_empty() {
            return Cow::Borrowed(&self.provenance);
        }
        let mut all = Records::of(self.fragment);
        all.0.extend_from_slice(&own.0);
        Cow::Owned(all.sorted())
    }

    /// Returns the path that `entry` is a hard link to, when it is not the first of its names.
    fn hard_link(&mut self, place: Place, entry: &EntryRef<'_>) -> Option<Vec<u8>> {
        if entry.kind() != Kind::File {
            return None;
        }
        if let Some(target) = self.plan.link(place) {
            return Some(target.as_bytes().to_vec());
        }
        if entry.group() == 0 {
            return None;
        }
        match self.names.0.entry((place.part, entry.group())) {
            std::collections::hash_map::Entry::Occupied(first) => {
                let mut path = Vec::new();
                self.open.path_into(*first.get(), &mut path);
                Some(path)
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(place);
                None
            }
        }
    }
}

/// Feeds a file's bytes to a sink, holes as zeros.
pub(super) fn file_data(
    sink: &mut impl Sink,
    entry: &EntryRef<'_>,
    path: &[u8],
) -> Result<(), FormatError> {
    let bad = |reason| FormatError::BadEntry {
        path: String::from_utf8_lossy(path).into_owned(),
        reason,
    };
    let size = entry.size();
    let extents = entry.extents();
    let Some(content) = entry.content() else {
        // A file that is one hole has no bytes anywhere.
        return sink.zeros(size);
    };
    if extents.is_empty() {
        return sink.range(&content.pack, content.offset, size);
    }
    let mut at = 0;
    for extent in extents {
        let hole = extent
            .file_offset
            .checked_sub(at)
            .ok_or_else(|| bad("the data runs of a sparse file overlap"))?;
        at = extent
            .file_offset
            .checked_add(extent.len)
            .filter(|end| *end <= size)
            .ok_or_else(|| bad("a data run lies beyond the file's end"))?;
        sink.zeros(hole)?;
        sink.range(&content.pack, extent.pack_offset, extent.len)?;
    }
    sink.zeros(size - at)
}

const fn round(len: u64) -> u64 {
    len + padding(len, BLOCK)
}

/// PAX records of one entry.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Returns the records that say where a fragment comes from.
    fn of(fragment: &Fragment) -> Self {
        let mut records = Self::default();
        for (key, value) in [
            ("LINUXKIT.location", &fragment.location),
            ("LINUXKIT.source", &fragment.source),
        ] {
            if !value.is_empty() {
                records.add(key.as_bytes(), value.as_bytes());
            }
        }
        records
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }

    /// Adds an extended attribute. A key ends at `=`: GNU tar writes `%3D` for one in a name.
    fn add_xattr(&mut self, name: &[u8], value: &[u8]) {
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                b'%' => key.extend(b"%25"),
                b'=' => key.extend(b"%3D"),
                other => key.push(*other),
            }
        }
        self.add(&key, value);
    }

    /// Adds a comment whose record is `len` bytes long; `len` is 0 or at least 512.
    fn add_comment(&mut self, len: u64) {
        if len == 0 {
            return;
        }
        // "512 comment=" and the newline: 13 bytes, 14 from 1000 on.
        let overhead = len.to_string().len() as u64 + " comment=\n".len() as u64;
        let blanks = usize::try_from(len - overhead).unwrap_or_default();
        self.add(b"comment", &vec![b' '; blanks]);
    }

    /// Returns the records, sorted by key, each `LEN KEY=VALUE\n` with LEN its own length.
    fn sorted(&mut self) -> Vec<u8> {
        self.0.sort();
        let mut out = Vec::new();
        for (key, value) in &self.0 {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while rest + len.to_string().len() != len {
                len = rest + len.to_string().len();
            }
            out.extend(len.to_string().as_bytes());
            out.push(b' ');
            out.extend(key);
            out.push(b'=');
            out.extend(value);
            out.push(b'\n');
        }
        out
    }
}

/// The fields of a ustar header.
struct Header<'a> {
    path: &'a [u8],
    link: &'a [u8],
    kind: u8,
    size: u64,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    device: (u32, u32),
}

impl Header<'_> {
    /// Adds the records that the header has no room for.
    fn overflow(&self, records: &mut Records) {
        if self.path.len() > 100 {
            records.add(b"path", self.path);
        }
        if self.link.len() > 100 {
            records.add(b"linkpath", self.link);
        }
        for (key, value, max) in [
            ("size", self.size, OCTAL_11_MAX),
            ("uid", u64::from(self.uid), OCTAL_7_MAX),
            ("gid", u64::from(self.gid), OCTAL_7_MAX),
        ] {
            if value > max {
                records.add(key.as_bytes(), value.to_string().as_bytes());
            }
        }
        let (seconds, nanos) = self.mtime;
        if nanos != 0 || !(0..=OCTAL_11_MAX.cast_signed()).contains(&seconds) {
            records.add(b"mtime", pax_time(seconds, nanos).as_bytes());
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut block = [0; BLOCK as usize];
        put_text(&mut block[..100], self.path);
        put_octal(&mut block[100..108], u64::from(self.mode & 0o7777));
        put_octal(&mut block[108..116], u64::from(self.uid));
        put_octal(&mut block[116..124], u64::from(self.gid));
        put_octal(&mut block[124..136], self.size);
        put_octal(
            &mut block[136..148],
            u64::try_from(self.mtime.0).unwrap_or(0),
        );
        block[156] = self.kind;
        put_text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], u64::from(self.device.0));
        put_octal(&mut block[337..345], u64::from(self.device.1));
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        put_octal(&mut block[148..155], sum);
        out.extend_from_slice(&block);
    }
}

/// Writes an `x` header and its records, padded to a block.
fn extended(path: &[u8], records: &[u8], out: &mut Vec<u8>) {
    if records.is_empty() {
        return;
    }
    let directory = crate::tree::path::parent(path).unwrap_or_default();
    let mut name = directory.to_vec();
    if !name.is_empty() {
        name.push(b'/');
    }
    name.extend(b"PaxHeaders.0/");
    name.extend(crate::tree::path::name(path));
    // No reader looks at it, but a name cut at a slash would say "directory" to some.
    name.truncate(100);
    while name.last() == Some(&b'/') {
        name.pop();
    }
    let header = Header {
        path: &name,
        link: &[],
        kind: b'x',
        size: records.len() as u64,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        device: (0, 0),
    };
    header.write(out);
    out.extend_from_slice(records);
    let fill = usize::try_from(padding(records.len() as u64, BLOCK)).unwrap_or_default();
    out.resize(out.len() + fill, 0);
}

/// Returns a plain ustar header of a regular file owned by root: for archives of outputs.
#[must_use]
pub fn plain_header(name: &str, mode: u16, mtime: i64, size: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK as usize);
    let header = Header {
        path: name.as_bytes(),
        link: &[],
        kind: b'0',
        size,
        mode,
        uid: 0,
        gid: 0,
        mtime: (mtime, 0),
        device: (0, 0),
    };
    header.write(&mut out);
    out
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Writes octal digits and a NUL. What does not fit (a PAX record has it) becomes zero.
fn put_octal(field: &mut [u8], value: u64) {
    let Some((end, digits)) = field.split_last_mut() else {
        return;
    };
    *end = 0;
    let fits = value.checked_shr(3 * digits.len() as u32).unwrap_or(0) == 0;
    let mut rest = if fits { value } else { 0 };
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
}

/// Returns `[-]seconds[.fraction]` without trailing zeros.
fn pax_time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (
        total.unsigned_abs() / 1_000_000_000,
        total.unsigned_abs() % 1_000_000_000,
    );
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_fractions() {
        for (seconds, nanos, text) in [
            (1, 0, "1"),
            (1, 250_000_000, "1.25"),
            (0, 1, "0.000000001"),
            (-2, 500_000_000, "-1.5"),
            (-1, 0, "-1"),
            (i64::MAX, 999_999_999, "9223372036854775807.999999999"),
        ] {
            assert_eq!(pax_time(seconds, nanos), text);
        }
    }

    #[test]
    fn a_record_says_its_own_length() {
        for len in [0, 512, 1024, 1536, 3584, 4096] {
            let mut records = Records::default();
            records.add_comment(len);
            assert_eq!(records.sorted().len() as u64, len);
        }
        for value in 0..1200 {
            let mut records = Records::default();
            records.add(b"k", &vec![b'v'; value]);
            let bytes = records.sorted();
            let text = std::str::from_utf8(&bytes).unwrap();
            let (len, rest) = text.split_once(' ').unwrap();
            assert_eq!(len.parse(), Ok(bytes.len()));
            assert!(rest.starts_with("k=v") || value == 0);
        }
    }
}
