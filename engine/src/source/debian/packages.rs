//! `Packages`: all packages of all archives of one request, in one compact table.
//!
//! Enters: the inflated index files, as streams. Leaves: an [`Index`] that can be asked for names
//! and providers, and stored as bytes.
//!
//! Debian's main index is 50 MB of text for 63,000 packages. Only the fields that solving,
//! fetching and describing need are kept, as text, one stanza after the other in one buffer;
//! beside it a table of 20 bytes a package says where each stanza, name and version is. The stored
//! form is the same text, compressed: one parser serves both.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write as _};

use serde::{Deserialize, Serialize};

use super::relation;
use crate::digest::Sha256;

/// Longest line of an index, in bytes.
pub const LINE_LIMIT: usize = 1 << 20;
/// Longest kept text of all indexes together, in bytes.
pub const TEXT_LIMIT: usize = 512 << 20;
/// Longest stored form, in bytes.
const STORED_LIMIT: u64 = TEXT_LIMIT as u64;
/// First bytes of the stored form; the digit is its version.
const MAGIC: &[u8; 8] = b"kilnDEB1";

/// The fields that are kept, in the order they are kept in. The first two stand in every stanza.
const KEPT: [&str; 21] = [
    "Package",
    "Version",
    "Architecture",
    "Source",
    "Essential",
    "Multi-Arch",
    "Priority",
    "Section",
    "Maintainer",
    "Installed-Size",
    "Pre-Depends",
    "Depends",
    "Conflicts",
    "Breaks",
    "Replaces",
    "Provides",
    "Homepage",
    "Description",
    "Filename",
    "Size",
    "SHA256",
];
const DESCRIPTION: usize = 17;

/// What is wrong with an index of packages.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// It cannot be read.
    #[error("cannot read the package index: {0}")]
    Read(#[from] std::io::Error),
    /// A stanza is malformed.
    #[error("line {line} of the package index: {why}")]
    Malformed {
        /// Last line of the stanza, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The limits are exceeded.
    #[error("the package indexes are larger than {TEXT_LIMIT} bytes, or more than 65535")]
    TooLarge,
    /// A stored form of another version, or damaged.
    #[error("not a stored package index: {0}")]
    Stored(String),
}

/// Where packages of an index come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Base of the archive, without a final slash.
    pub url: String,
    /// Suite as it was asked for.
    pub suite: String,
    /// Component.
    pub component: String,
    /// `Date` of the release, in seconds since 1970.
    pub date: i64,
}

/// Names one package in an [`Index`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub(super) u32);

#[derive(Debug, Clone, Copy)]
struct Record {
    at: u32,
    length: u32,
    archive: u16,
    name: u16,
    version: u16,
}

#[derive(Debug, Clone, Copy)]
struct Provided {
    name: (u32, u16),
    version: Option<(u32, u16)>,
    by: Id,
}

/// All packages of one request.
#[derive(Debug, Default)]
pub struct Index {
    archives: Vec<Archive>,
    text: Vec<u8>,
    /// Sorted by name; among equal names in the order they came.
    records: Vec<Record>,
    /// Sorted by name.
    provided: Vec<Provided>,
}

/// One package's kept fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stanza<'a>(&'a str);

impl<'a> Stanza<'a> {
    /// Wraps a text of `Field: value` lines.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The whole text, ending in a newline.
    #[must_use]
    pub const fn text(self) -> &'a str {
        self.0
    }

    /// Returns the value of a field, named in its canonical spelling.
    #[must_use]
    pub fn field(self, name: &str) -> Option<&'a str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Index {
    /// The archives it was made from.
    #[must_use]
    pub fn archives(&self) -> &[Archive] {
        &self.archives
    }

    /// Number of packages (a package in two archives counts twice).
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no package.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All packages of a name, in the order of their archives.
    pub fn named(&self, name: &str) -> impl Iterator<Item = Id> + use<> {
        let start = self
            .records
            .partition_point(|record| self.name_of(record) < name);
        let count = self.records[start..].partition_point(|record| self.name_of(record) == name);
        (start..start + count).map(|index| Id(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// All packages that provide a name, with the version they provide it in.
    pub fn providers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (Id, Option<&'a str>)> {
        let start = self
            .provided
            .partition_point(|entry| self.at(entry.name) < name);
        let rest = self.provided[start..].iter();
        rest.take_while(move |entry| self.at(entry.name) == name)
            .map(|entry| (entry.by, entry.version.map(|range| self.at(range))))
    }

    /// Package name.
    #[must_use]
    pub fn name(&self, id: Id) -> &str {
        self.name_of(&self.records[id.0 as usize])
    }

    /// Package version.
    #[must_use]
    pub fn version(&self, id: Id) -> &str {
        let record = &self.records[id.0 as usize];
        self.at((version_at(record), record.version))
    }

    /// Where a package comes from.
    #[must_use]
    pub fn archive(&self, id: Id) -> &Archive {
        &self.archives[usize::from(self.records[id.0 as usize].archive)]
    }

    /// All kept fields of a package.
    #[must_use]
    pub fn stanza(&self, id: Id) -> Stanza<'_> {
        let record = &self.records[id.0 as usize];
        let range = record.at as usize..(record.at + record.length) as usize;
        Stanza(as_str(&self.text[range]))
    }

    /// All names, real ones and provided ones, in order, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let real = self.records.iter().map(|record| self.name_of(record));
        let provided = self.provided.iter().map(|entry| self.at(entry.name));
        real.chain(provided).collect::<BTreeSet<_>>().into_iter()
    }

    fn name_of(&self, record: &Record) -> &str {
        self.at((record.at + NAME_AT, record.name))
    }

    fn at(&self, (at, length): (u32, u16)) -> &str {
        let at = at as usize;
        as_str(&self.text[at..at + usize::from(length)])
    }

    /// Returns a form to store; [`Index::from_bytes`] reads it. Same index, same bytes.
    ///
    /// # Errors
    /// Never in practice: only when compression fails.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackagesError> {
        let mut lengths = vec![0_u64; self.archives.len()];
        for record in &self.records {
            lengths[usize::from(record.archive)] += u64::from(record.length) + 1;
        }
        let head: Vec<(&Archive, u64)> = self.archives.iter().zip(lengths).collect();
        let head =
            serde_json::to_vec(&head).map_err(|error| PackagesError::Stored(error.to_string()))?;
        let mut out = MAGIC.to_vec();
        let mut encoder = zstd::Encoder::new(&mut out, 3)?;
        encoder.include_checksum(true)?;
        let length = u32::try_from(head.len()).map_err(|_| PackagesError::TooLarge)?;
        encoder.write_all(&length.to_le_bytes())?;
        encoder.write_all(&head)?;
        for number in 0..self.archives.len() {
            for record in self
                .records
                .iter()
                .filter(|record| usize::from(record.archive) == number)
            {
                let range = record.at as usize..(record.at + record.length) as usize;
                encoder.write_all(&self.text[range])?;
                encoder.write_all(b"\n")?;
            }
        }
        encoder.finish()?;
        Ok(out)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// Bytes of another version, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PackagesError> {
        let bad = |why: &str| PackagesError::Stored(why.to_owned());
        let body = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| bad("it begins otherwise"))?;
        let mut decoder = zstd::Decoder::new(body)?;
        decoder.window_log_max(27)?;
        let mut reader = BufReader::with_capacity(1 << 16, decoder.take(STORED_LIMIT));
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let mut head = Vec::new();
        let length = u64::from(u32::from_le_bytes(length)).min(1 << 24);
        (&mut reader).take(length).read_to_end(&mut head)?;
        let head: Vec<(Archive, u64)> = serde_json::from_slice(&head)
            .map_err(|error| PackagesError::Stored(error.to_string()))?;
        let mut builder = Builder::default();
        for (archive, length) in head {
            let mut part = (&mut reader).take(length);
            builder.add(archive, None, &mut part)?;
            if part.limit() != 0 {
                return Err(bad("it ends early"));
            }
        }
        if reader.read(&mut [0])? != 0 {
            return Err(bad("something follows it"));
        }
        Ok(builder.finish())
    }
}

/// Offset of the name in a stanza: behind `Package: `.
const NAME_AT: u32 = 9;

/// Offset of the version: behind the name and `\nVersion: `.
fn version_at(record: &Record) -> u32 {
    record.at + NAME_AT + u32::from(record.name) + 10
}

fn as_str(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("stanzas are checked when they are added")
}

/// Collects indexes into one [`Index`].
#[derive(Debug, Default)]
pub struct Builder {
    index: Index,
    fields: [Vec<u8>; KEPT.len()],
}

impl Builder {
    /// Adds all packages of an inflated index. With an architecture, packages of others than
    /// that and `all` are left out. The caller checks the hash of what was read, afterwards.
    ///
    /// # Errors
    /// Malformed stanzas, and too much of anything. The builder is of no use then.
    pub fn add(
        &mut self,
        archive: Archive,
        architecture: Option<&str>,
        mut reader: impl BufRead,
    ) -> Result<(), PackagesError> {
        let number =
            u16::try_from(self.index.archives.len()).map_err(|_| PackagesError::TooLarge)?;
        self.index.archives.push(archive);
        let (mut line, mut count, mut field) = (Vec::new(), 0_u64, None);
        let mut stanza = Pending {
            archive: number,
            architecture,
            any: false,
        };
        loop {
            line.clear();
            let limit = LINE_LIMIT as u64 + 1;
            let got = (&mut reader).take(limit).read_until(b'\n', &mut line)?;
            count += 1;
            let malformed = |why: String| PackagesError::Malformed { line: count, why };
            if line.len() > LINE_LIMIT {
                return Err(malformed(format!("it is longer than {LINE_LIMIT} bytes")));
            }
            let text = line.trim_ascii_end();
            match text.first() {
                None => {
                    self.close(&mut stanza).map_err(|fault| fault.at(count))?;
                    field = None;
                }
                Some(b' ' | b'\t') => {
                    if let Some(index) = field.filter(|&index| index != DESCRIPTION) {
                        let value: &mut Vec<u8> = &mut self.fields[index];
                        value.push(b' ');
                        value.extend_from_slice(text.trim_ascii());
                        if value.len() > LINE_LIMIT {
                            return Err(malformed(format!("{} is too long", KEPT[index])));
                        }
                    }
                }
                Some(_) => {
                    field = self.open_field(text).map_err(malformed)?;
                    stanza.any = true;
                }
            }
            if got == 0 {
                return Ok(());
            }
        }
    }

    /// Starts a field; returns its number when it is kept.
    fn open_field(&mut self, text: &[u8]) -> Result<Option<usize>, String> {
        let Some(colon) = text.iter().position(|&byte| byte == b':') else {
            return Err("it is neither a field nor blank".to_owned());
        };
        let name = &text[..colon];
        let Some(index) = KEPT
            .iter()
            .position(|kept| kept.as_bytes().eq_ignore_ascii_case(name))
        else {
            return Ok(None);
        };
        if !self.fields[index].is_empty() {
            return Err(format!("{} is there twice", KEPT[index]));
        }
        self.fields[index].extend_from_slice(text[colon + 1..].trim_ascii());
        Ok(Some(index))
    }

    /// Ends a stanza: checks it and moves it into the table.
    fn close(&mut self, stanza: &mut Pending<'_>) -> Result<(), Fault> {
        if !std::mem::take(&mut stanza.any) {
            return Ok(());
        }
        let result = self.store(stanza);
        self.fields.iter_mut().for_each(Vec::clear);
        result
    }

    fn store(&mut self, stanza: &Pending<'_>) -> Result<(), Fault> {
        let [name, version, architecture] = check(&self.fields)?;
        if stanza
            .architecture
            .is_some_and(|wanted| wanted != architecture && architecture != "all")
        {
            return Ok(());
        }
        let record = Record {
            at: u32::try_from(self.index.text.len()).map_err(|_| Fault::TooLarge)?,
            length: 0,
            archive: stanza.archive,
            name: u16::try_from(name.len()).map_err(|_| Fault::TooLarge)?,
            version: u16::try_from(version.len()).map_err(|_| Fault::TooLarge)?,
        };
        let text = &mut self.index.text;
        for (name, value) in KEPT.iter().zip(&self.fields) {
            if !value.is_empty() {
                text.extend_from_slice(name.as_bytes());
                text.extend_from_slice(b": ");
                text.extend_from_slice(value);
                text.push(b'\n');
            }
        }
        if text.len() > TEXT_LIMIT {
            return Err(Fault::TooLarge);
        }
        let length = u32::try_from(text.len()).map_err(|_| Fault::TooLarge)? - record.at;
        self.index.records.push(Record { length, ..record });
        Ok(())
    }

    /// Sorts the table.
    #[must_use]
    pub fn finish(self) -> Index {
        let mut index = self.index;
        let mut records = std::mem::take(&mut index.records);
        records.sort_by(|one, two| index.name_of(one).cmp(index.name_of(two))); // stable
        index.records = records;
        let mut provided = Vec::new();
        for (number, record) in index.records.iter().enumerate() {
            let id = Id(u32::try_from(number).unwrap_or(u32::MAX));
            let text = index.stanza(id).field("Provides").unwrap_or_default();
            // A malformed Provides provides nothing; everything else about the package holds.
            for relation in relation::parse(text).unwrap_or_default().iter().flatten() {
                let range = |part: &str| {
                    let offset = part.as_ptr() as usize - index.text.as_ptr() as usize;
                    (
                        u32::try_from(offset).unwrap_or(u32::MAX),
                        u16::try_from(part.len()).unwrap_or(0),
                    )
                };
                debug_assert!(range(relation.name).0 > record.at);
                provided.push(Provided {
                    name: range(relation.name),
                    version: relation.version.map(|(_, version)| range(version)),
                    by: id,
                });
            }
        }
        provided.sort_by(|one, two| index.at(one.name).cmp(index.at(two.name)));
        index.provided = provided;
        index.text.shrink_to_fit();
        index
    }
}

struct Pending<'a> {
    archive: u16,
    architecture: Option<&'a str>,
    any: bool,
}

enum Fault {
    TooLarge,
    Stanza(String),
}

impl Fault {
    fn at(self, line: u64) -> PackagesError {
        match self {
            Self::TooLarge => PackagesError::TooLarge,
            Self::Stanza(why) => PackagesError::Malformed { line, why },
        }
    }
}

/// Checks the fields that everything else relies on; returns name, version and architecture.
fn check(fields: &[Vec<u8>; KEPT.len()]) -> Result<[&str; 3], Fault> {
    let fault = |why: String| Err(Fault::Stanza(why));
    for (name, value) in KEPT.iter().zip(fields) {
        let Ok(text) = std::str::from_utf8(value) else {
            return fault(format!("{name} is not UTF-8"));
        };
        if text
            .bytes()
            .any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
        {
            return fault(format!("{name} has a control character"));
        }
    }
    let get = |name: &str| {
        let index = KEPT.iter().position(|kept| *kept == name);
        index
            .and_then(|index| std::str::from_utf8(&fields[index]).ok())
            .unwrap_or_default()
    };
    let (name, version, architecture) = (get("Package"), get("Version"), get("Architecture"));
    if !relation::is_name(name) {
        return fault(format!("\"{name}\" is not a package name"));
    }
    if version.is_empty() || version.len() > relation::VERSION_LIMIT || version.contains(' ') {
        return fault(format!("{name}: \"{version}\" is not a version"));
    }
    if !relation::is_name(architecture) {
        return fault(format!("{name}: \"{architecture}\" is not an architecture"));
    }
    let file = get("Filename");
    let below = file.strip_prefix("./").unwrap_or(file);
    let steps_out = below.split('/').any(|part| matches!(part, "" | "." | ".."));
    if file.len() > 1024 || steps_out {
        return fault(format!(
            "{name}: \"{file}\" is not a path below the archive"
        ));
    }
    if get("Size").parse::<u64>().is_err() {
        return fault(format!("{name}: Size is not a number"));
    }
    if Sha256::from_hex(get("SHA256")).is_err() {
        return fault(format!("{name}: SHA256 is missing or malformed"));
    }
    Ok([name, version, architecture])
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// An index from short forms: `name version; Field: value; …`, one package a line.
    pub(crate) fn index(short: &str) -> Index {
        let mut builder = Builder::default();
        let text = stanzas(short);
        let archive = Archive {
            url: "http://a.test".to_owned(),
            suite: "s".to_owned(),
            component: "main".to_owned(),
            date: 0,
        };
        builder.add(archive, None, text.as_bytes()).unwrap();
        builder.finish()
    }

    /// The text of [`index`].
    pub(crate) fn stanzas(short: &str) -> String {
        let mut text = String::new();
        for line in short.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut parts = line.split(';');
            let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
            text += &format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}_{version}.deb\n\
                 Size: 1\nSHA256: {}\n",
                Sha256::of(line.as_bytes()).hex()
            );
            for field in parts {
                text += &format!("{}\n", field.trim());
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{index, stanzas};
    use super::*;

    fn add(text: &str) -> Result<Index, PackagesError> {
        let mut builder = Builder::default();
        builder.add(archive("a"), Some("amd64"), text.as_bytes())?;
        Ok(builder.finish())
    }

    fn archive(suite: &str) -> Archive {
        Archive {
            url: "http://a.test".to_owned(),
            suite: suite.to_owned(),
            component: "main".to_owned(),
            date: 7,
        }
    }

    #[test]
    fn keeps_what_is_needed() {
        let mut text = stanzas(
            "b 1; Tag: x,; depends: c,; Description: short; Provides: v, w (= 2)\na 2\nb 2",
        );
        text = text
            .replace("depends: c,", "depends: c,\n  d (>= 1)")
            .replace("short", "short\n long\n .");
        let index = add(&text).unwrap();
        assert_eq!(index.len(), 3);
        let ids: Vec<Id> = index.named("b").collect();
        assert_eq!(
            ids.iter().map(|&id| index.version(id)).collect::<Vec<_>>(),
            ["1", "2"]
        );
        let stanza = index.stanza(ids[0]);
        assert_eq!(stanza.field("Depends"), Some("c, d (>= 1)"));
        assert_eq!(stanza.field("Description"), Some("short"));
        assert_eq!(stanza.field("Tag"), None);
        assert_eq!(
            index.providers("w").collect::<Vec<_>>(),
            [(ids[0], Some("2"))]
        );
        assert_eq!(index.providers("v").collect::<Vec<_>>(), [(ids[0], None)]);
        assert_eq!(index.names().collect::<Vec<_>>(), ["a", "b", "v", "w"]);
        assert_eq!(
            index.named("aa").count() + index.named("").count() + index.named("z").count(),
            0
        );
    }

    #[test]
    fn leaves_out_other_architectures() {
        let other = stanzas("a 1").replace("amd64", "arm64");
        assert!(add(&other).unwrap().is_empty());
        assert_eq!(add(&other.replace("arm64", "all")).unwrap().len(), 1);
    }

    #[test]
    fn refuses_what_it_cannot_rely_on() {
        let good = stanzas("a 1");
        for (from, to, why) in [
            (
                "Package: a",
                "Package: ../a",
                "line 7 of the package index: \"../a\" is not a package name",
            ),
            ("Version: 1", "Version: 1 2", "a: \"1 2\" is not a version"),
            ("Size: 1", "Size: -1", "a: Size is not a number"),
            ("pool/", "pool/../../", "is not a path below the archive"),
            ("pool/", "/pool/", "is not a path below the archive"),
            ("SHA256: ", "SHA256: 0", "SHA256 is missing or malformed"),
            (
                "Size: 1",
                "Size: 1\nSize: 2",
                "line 6 of the package index: Size is there twice",
            ),
            (
                "Size: 1",
                "Size 1",
                "line 5 of the package index: it is neither a field nor blank",
            ),
            (
                "Size: 1",
                "Size: 1\nMaintainer: \u{1}",
                "Maintainer has a control character",
            ),
        ] {
            let error = add(&good.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(add("Tag: only\n").is_err(), "a stanza without a name");
        let long = format!("Tag: {}", "x".repeat(LINE_LIMIT));
        assert!(add(&long).unwrap_err().to_string().contains("longer than"));
        let many = format!(
            "Depends: a\n{}",
            format!(" {}\n", "x".repeat(1000)).repeat(1100)
        );
        assert!(
            add(&many)
                .unwrap_err()
                .to_string()
                .contains("Depends is too long")
        );
    }

    #[test]
    fn stores_and_reads_back() {
        let mut builder = Builder::default();
        builder
            .add(
                archive("one"),
                None,
                stanzas("b 1; Provides: v\na 1").as_bytes(),
            )
            .unwrap();
        builder
            .add(archive("two"), None, stanzas("a 2").as_bytes())
            .unwrap();
        builder.add(archive("none"), None, &b""[..]).unwrap();
        let index = builder.finish();
        let bytes = index.to_bytes().unwrap();
        let back = Index::from_bytes(&bytes).unwrap();
        assert_eq!(back.to_bytes().unwrap(), bytes);
        assert_eq!(back.archives(), index.archives());
        let ids: Vec<Id> = back.named("a").collect();
        assert_eq!(back.archive(ids[1]).suite, "two");
        assert_eq!(
            back.stanza(ids[0]).text(),
            index.stanza(index.named("a").next().unwrap()).text()
        );
        for cut in 0..bytes.len() {
            assert!(Index::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut more = bytes;
        more.push(0);
        assert!(Index::from_bytes(&more).is_err());
    }

    proptest! {
        #[test]
        fn finds_every_name(names in prop::collection::vec("[a-c]{1,3}", 1..20)) {
            let short: String = names.iter().map(|name| format!("{name} 1; Provides: p-{name}\n")).collect();
            let index = index(&short);
            for name in &names {
                let count = names.iter().filter(|other| *other == name).count();
                prop_assert_eq!(index.named(name).count(), count);
                prop_assert_eq!(index.providers(&format!("p-{name}")).count(), count);
            }
        }

        #[test]
        fn never_panics(text in "(Package: a\n|Version: 1\n|Size: 1\n|\n| x\n|:|\\PC){0,30}", bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = add(&text);
            let _ = Index::from_bytes(&bytes);
            let mut stored = MAGIC.to_vec();
            stored.extend(zstd::encode_all(&bytes[..], 1).unwrap());
            let _ = Index::from_bytes(&stored);
            let mut builder = Builder::default();
            let _ = builder.add(archive("a"), None, &bytes[..]);
        }
    }
}
