//! The host's apt sources: which archives to ask, and which keys to believe.
//!
//! Enters: the texts of `sources.list`, `sources.list.d/*.list` (one-line) and `*.sources`
//! (deb822), see sources.list(5). Leaves: one [`Source`] per archive and suite that matters.
//! Parsing is pure; [`HostApt::read`] is the one function that touches files.
//!
//! Options that would weaken verification (`trusted=yes`, `allow-insecure`, `allow-weak`) are
//! read over: every source needs a good signature here. `check-valid-until=no` is honoured, as
//! frozen archives cannot be used otherwise. No archive's name is known to this program.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use deb822_fast::borrowed::{BorrowedParagraph, BorrowedParser};
use serde::{Deserialize, Serialize};

/// Longest file of sources or keys that is read, in bytes.
pub const FILE_LIMIT: u64 = 8 << 20;

/// What is wrong with a host's apt configuration.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A line or stanza that apt would refuse too.
    #[error("{place}: {why}")]
    Malformed {
        /// `file:line`, or the file and the number of the stanza.
        place: String,
        /// What is missing or wrong.
        why: String,
    },
    /// No release is named, and the host does not say which one it runs.
    #[error("no suite is named, and {path} has no VERSION_CODENAME")]
    NoCodename {
        /// The os-release file that was looked at.
        path: String,
    },
    /// The host has no source of the suite.
    #[error("the host's apt sources do not carry the suite \"{suite}\"{}", others(.available))]
    NoSuite {
        /// The suite that was asked for.
        suite: String,
        /// The suites it does carry.
        available: Vec<String>,
    },
    /// A source that carries the suite, by means other than HTTP. Leaving it out could lose
    /// security updates, so it is not left out silently.
    #[error("{place}: \"{url}\" carries {suite}, but only http:// and https:// are spoken")]
    Scheme {
        /// Where it is written.
        place: String,
        /// The address.
        url: String,
        /// The suite.
        suite: String,
    },
    /// A mirror that is neither a URL nor one-line sources.
    #[error(
        "\"{mirror}\" is not a mirror (http:// or https:// and a path, or a line \"deb [signed-by=…] URL SUITE COMPONENT\")"
    )]
    Mirror {
        /// As written.
        mirror: String,
    },
}

fn others(available: &[String]) -> String {
    match available {
        [] => " (they carry none)".to_owned(),
        list => format!(" (they carry {})", list.join(", ")),
    }
}

/// Which keys may sign a source: the `Signed-By` of sources.list(5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBy {
    /// Keyring files; together with an absent `inline`, none means the host's default keyrings.
    pub keyrings: Vec<PathBuf>,
    /// An armored key written into the source itself.
    pub inline: Option<String>,
    /// Upper-case hex fingerprints that select among the keys; a final `!` excludes subkeys.
    pub fingerprints: Vec<String>,
}

/// When index files are fetched by their hash (`By-Hash`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ByHash {
    /// When the Release file offers it.
    #[default]
    Offered,
    /// Never.
    No,
    /// Always.
    Force,
}

/// One `deb` entry as written: several URLs and suites share its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `file:line`, or file and stanza.
    pub place: String,
    /// Bases of archives; each is an archive of its own, not a mirror of the others.
    pub urls: Vec<String>,
    /// Suites or codenames.
    pub suites: Vec<String>,
    /// Components: `main`, `contrib` …
    pub components: Vec<String>,
    /// Architectures it is limited to; empty: no limit.
    pub architectures: Vec<String>,
    /// Architectures it is not used for.
    pub without: Vec<String>,
    /// Keys.
    pub signed_by: SignedBy,
    /// Whether an expired Release file is refused.
    pub check_valid_until: bool,
    /// Use of by-hash addresses.
    pub by_hash: ByHash,
}

/// One suite of one archive, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Base of the archive, without a final slash.
    pub url: String,
    /// Suite or codename, the directory under `dists/`.
    pub suite: String,
    /// Components, sorted, each once.
    pub components: Vec<String>,
    /// Keys.
    pub signed_by: SignedBy,
    /// Whether an expired Release file is refused.
    pub check_valid_until: bool,
    /// Use of by-hash addresses.
    pub by_hash: ByHash,
}

impl Entry {
    fn new(place: String) -> Self {
        Self {
            place,
            urls: Vec::new(),
            suites: Vec::new(),
            components: Vec::new(),
            architectures: Vec::new(),
            without: Vec::new(),
            signed_by: SignedBy::default(),
            check_valid_until: true,
            by_hash: ByHash::Offered,
        }
    }

    /// Sets one option by its lower-case one-line name; unknown ones are ignored, as apt does.
    fn set(&mut self, name: &str, values: &[&str]) {
        let owned = || values.iter().map(|&value| value.to_owned()).collect();
        match name {
            "arch" | "architectures" => self.architectures = owned(),
            "arch-" | "architectures-remove" => self.without = owned(),
            "signed-by" => self.signed_by = SignedBy::from_words(values),
            "check-valid-until" | "check-date" => self.check_valid_until &= truth(values),
            "by-hash" => {
                self.by_hash = match values {
                    ["force"] => ByHash::Force,
                    _ if truth(values) => ByHash::Offered,
                    _ => ByHash::No,
                }
            }
            _ => {}
        }
    }

    fn serves(&self, architecture: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|entry| entry == architecture);
        (self.architectures.is_empty() || has(&self.architectures)) && !has(&self.without)
    }
}

impl SignedBy {
    fn from_words(words: &[&str]) -> Self {
        let mut this = Self::default();
        for word in words {
            if word.starts_with('/') {
                this.keyrings.push(PathBuf::from(word));
            } else if !word.is_empty() {
                this.fingerprints.push(word.to_uppercase());
            }
        }
        this
    }
}

/// apt's `StringToBool`: what is not a clear "no" is "yes".
fn truth(values: &[&str]) -> bool {
    let no = |value: &&str| {
        ["no", "false", "without", "off", "disable", "0"]
            .iter()
            .any(|word| value.eq_ignore_ascii_case(word))
    };
    !values.iter().any(no)
}

fn malformed(place: &str, why: impl Into<String>) -> AptError {
    AptError::Malformed {
        place: place.to_owned(),
        why: why.into(),
    }
}

/// Parses one-line sources; `path` names the file in errors.
///
/// # Errors
/// A `deb` line without URL, suite or component, or with unclosed brackets.
pub fn parse_list(path: &str, text: &str) -> Result<Vec<Entry>, AptError> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        entries.extend(parse_line(&place, line)?);
    }
    Ok(entries)
}

/// Parses one line; none for comments, blank lines, `deb-src` and CD-ROMs.
fn parse_line(place: &str, line: &str) -> Result<Option<Entry>, AptError> {
    let line = line.trim();
    let (kind, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    match kind {
        "deb" => {}
        "" | "deb-src" => return Ok(None),
        _ if kind.starts_with('#') => return Ok(None),
        _ => {
            return Err(malformed(
                place,
                format!("type \"{kind}\" is not known (deb or deb-src)"),
            ));
        }
    }
    let mut entry = Entry::new(place.to_owned());
    let mut rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner
            .split_once(']')
            .ok_or_else(|| malformed(place, "options start with [ but do not end with ]"))?;
        for option in options.split_ascii_whitespace() {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| malformed(place, format!("option \"{option}\" has no value")))?;
            let values: Vec<&str> = value.split(',').collect();
            entry.set(&name.to_ascii_lowercase(), &values);
        }
        rest = after;
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let mut words = rest.split_ascii_whitespace().map(str::to_owned);
    let Some(url) = words.next() else {
        return Err(malformed(place, "no URL"));
    };
    if url.starts_with("cdrom:") {
        return Ok(None);
    }
    entry.urls = vec![url];
    entry.suites.extend(words.next());
    entry.components = words.collect();
    check(&entry)?;
    Ok(Some(entry))
}

fn check(entry: &Entry) -> Result<(), AptError> {
    if entry.urls.is_empty() {
        return Err(malformed(&entry.place, "no URL"));
    }
    if entry.suites.is_empty() {
        return Err(malformed(&entry.place, "no suite"));
    }
    let flat = entry.suites.iter().all(|suite| suite.ends_with('/'));
    if entry.components.is_empty() && !flat {
        return Err(malformed(&entry.place, "no component"));
    }
    Ok(())
}

/// Parses deb822 sources; `path` names the file in errors.
///
/// # Errors
/// Text that is not deb822, and `deb` stanzas without URIs, Suites or Components.
pub fn parse_sources(path: &str, text: &str) -> Result<Vec<Entry>, AptError> {
    let stanzas = BorrowedParser::new(text)
        .parse_all()
        .map_err(|error| malformed(path, error.to_string()))?;
    let mut entries = Vec::new();
    for (index, stanza) in stanzas.iter().enumerate() {
        let place = format!("{path} (stanza {})", index + 1);
        entries.extend(parse_stanza(place, stanza)?);
    }
    Ok(entries)
}

fn parse_stanza(place: String, stanza: &BorrowedParagraph<'_>) -> Result<Option<Entry>, AptError> {
    let mut entry = Entry::new(place);
    let (mut types, mut enabled) = (None, true);
    for field in stanza.iter() {
        let words: Vec<&str> = field
            .lines()
            .iter()
            .flat_map(|line| line.split_ascii_whitespace())
            .collect();
        let owned = || words.iter().map(|&word| word.to_owned()).collect();
        let name = field.name().trim().to_ascii_lowercase();
        match name.as_str() {
            "types" => types = Some(words),
            "enabled" => enabled = truth(&words),
            "uris" => entry.urls = owned(),
            "suites" => entry.suites = owned(),
            "components" => entry.components = owned(),
            "signed-by" => entry.signed_by = signed_by_field(field.lines(), &words),
            _ => entry.set(&name, &words),
        }
    }
    let types = types.ok_or_else(|| malformed(&entry.place, "no Types"))?;
    if !enabled || !types.contains(&"deb") {
        return Ok(None);
    }
    check(&entry)?;
    Ok(Some(entry))
}

/// A `Signed-By` field: paths and fingerprints, or an armored key whose empty lines read ` .`.
fn signed_by_field(lines: &[&str], words: &[&str]) -> SignedBy {
    if !lines
        .iter()
        .any(|line| line.trim().starts_with("-----BEGIN PGP"))
    {
        return SignedBy::from_words(words);
    }
    let mut armor = String::new();
    for line in lines.iter().map(|line| line.trim()) {
        armor.push_str(if line == "." { "" } else { line });
        armor.push('\n');
    }
    SignedBy {
        inline: Some(armor.trim_start().to_owned()),
        ..SignedBy::default()
    }
}

/// Picks what serves `suite` on `architecture`: its own entries and those of its `-updates` and
/// `-security` companions. Entries of the same archive and suite are joined.
///
/// # Errors
/// [`AptError::NoSuite`] when no entry carries `suite` itself, [`AptError::Scheme`].
pub fn pick(entries: &[Entry], suite: &str, architecture: &str) -> Result<Vec<Source>, AptError> {
    let wanted = [
        suite.to_owned(),
        format!("{suite}-updates"),
        format!("{suite}-security"),
        format!("{suite}/updates"),
    ];
    let mut sources: Vec<Source> = Vec::new();
    for name in &wanted {
        for entry in entries.iter().filter(|entry| entry.serves(architecture)) {
            if entry.suites.contains(name) {
                add(&mut sources, entry, name)?;
            }
        }
    }
    if !sources.iter().any(|source| source.suite == suite) {
        let available: BTreeSet<&String> = entries.iter().flat_map(|entry| &entry.suites).collect();
        return Err(AptError::NoSuite {
            suite: suite.to_owned(),
            available: available.into_iter().cloned().collect(),
        });
    }
    Ok(sources)
}

fn add(sources: &mut Vec<Source>, entry: &Entry, suite: &str) -> Result<(), AptError> {
    for url in &entry.urls {
        if !is_http(url) {
            return Err(AptError::Scheme {
                place: entry.place.clone(),
                url: url.clone(),
                suite: suite.to_owned(),
            });
        }
        let url = url.trim_end_matches('/');
        let same = sources.iter_mut().find(|source| {
            source.url == url && source.suite == suite && source.signed_by == entry.signed_by
        });
        let source = match same {
            Some(source) => source,
            None => {
                sources.push(Source {
                    url: url.to_owned(),
                    suite: suite.to_owned(),
                    components: Vec::new(),
                    signed_by: entry.signed_by.clone(),
                    check_valid_until: entry.check_valid_until,
                    by_hash: entry.by_hash,
                });
                let last = sources.len() - 1;
                &mut sources[last]
            }
        };
        source.check_valid_until &= entry.check_valid_until;
        source.components.extend(entry.components.iter().cloned());
        source.components.sort();
        source.components.dedup();
    }
    Ok(())
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Reads a mirror as people name it: a URL (then: that suite, `main`, nothing else), or one-line
/// sources of apt, one a line, for more suites, components and options.
///
/// # Errors
/// Text that is neither.
pub fn mirror_sources(
    mirror: &str,
    suite: &str,
    architecture: &str,
) -> Result<Vec<Source>, AptError> {
    if mirror.trim_start().starts_with("deb") {
        return pick(&parse_list("mirror", mirror)?, suite, architecture);
    }
    let bad = || AptError::Mirror {
        mirror: mirror.to_owned(),
    };
    if !is_http(mirror) || mirror.contains(char::is_whitespace) {
        return Err(bad());
    }
    let mut entry = Entry::new("mirror".to_owned());
    entry.urls = vec![mirror.to_owned()];
    entry.suites = vec![suite.to_owned()];
    entry.components = vec!["main".to_owned()];
    pick(&[entry], suite, architecture)
}

/// A file of public keys, binary or armored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Its name, for messages.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What the host says about packages.
#[derive(Debug, Clone, Default)]
pub struct HostApt {
    /// Where the host's root is: `/`, or a directory in tests.
    pub root: PathBuf,
    /// All enabled `deb` entries, in apt's order of files.
    pub entries: Vec<Entry>,
}

impl HostApt {
    /// Reads `etc/apt` under `root`. Absent files are no error.
    ///
    /// # Errors
    /// Files that cannot be read or are malformed.
    pub fn read(root: &Path) -> Result<Self, AptError> {
        let mut entries = Vec::new();
        let apt = root.join("etc/apt");
        for path in
            std::iter::once(apt.join("sources.list")).chain(list(&apt.join("sources.list.d"))?)
        {
            let name = path.display().to_string();
            let parse = match path.extension().and_then(|ext| ext.to_str()) {
                Some("list") => parse_list,
                Some("sources") => parse_sources,
                _ => continue,
            };
            if let Some(bytes) = read_file(&path)? {
                entries.extend(parse(&name, &String::from_utf8_lossy(&bytes))?);
            }
        }
        Ok(Self {
            root: root.to_owned(),
            entries,
        })
    }

    /// A host whose sources are not looked at.
    #[must_use]
    pub fn bare(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            entries: Vec::new(),
        }
    }

    /// Returns the suite to use when none is named: `VERSION_CODENAME` of os-release(5).
    ///
    /// # Errors
    /// [`AptError::NoCodename`].
    pub fn suite(&self) -> Result<String, AptError> {
        let path = self.root.join("etc/os-release");
        let text = read_file(&path)?.unwrap_or_default();
        codename(&String::from_utf8_lossy(&text)).ok_or_else(|| AptError::NoCodename {
            path: path.display().to_string(),
        })
    }

    /// Reads the keys that may sign a source: its own, or else the host's default keyrings:
    /// `etc/apt/trusted.gpg`, `etc/apt/trusted.gpg.d/*.{gpg,asc}` and the archive keyring.
    ///
    /// # Errors
    /// A named keyring that cannot be read.
    pub fn keys(&self, signed_by: &SignedBy) -> Result<Vec<KeyFile>, AptError> {
        if let Some(armor) = &signed_by.inline {
            return Ok(vec![KeyFile {
                name: "the key in Signed-By".to_owned(),
                bytes: armor.clone().into_bytes(),
            }]);
        }
        if signed_by.keyrings.is_empty() {
            return self.default_keys();
        }
        let inside = |path: &PathBuf| self.root.join(path.strip_prefix("/").unwrap_or(path));
        signed_by
            .keyrings
            .iter()
            .map(|path| read_keys(&inside(path)))
            .collect()
    }

    fn default_keys(&self) -> Result<Vec<KeyFile>, AptError> {
        let apt = self.root.join("etc/apt");
        let mut paths = vec![apt.join("trusted.gpg")];
        paths.extend(
            list(&apt.join("trusted.gpg.d"))?
                .into_iter()
                .filter(|path| {
                    matches!(
                        path.extension().and_then(|ext| ext.to_str()),
                        Some("gpg" | "asc")
                    )
                }),
        );
        paths.push(
            self.root
                .join("usr/share/keyrings/debian-archive-keyring.gpg"),
        );
        let mut keys = Vec::new();
        for path in paths {
            if let Some(bytes) = read_file(&path)? {
                let name = path.display().to_string();
                keys.push(KeyFile { name, bytes });
            }
        }
        Ok(keys)
    }
}

/// Reads one keyring file that must be there.
///
/// # Errors
/// When it is not, or cannot be read.
pub fn read_keys(path: &Path) -> Result<KeyFile, AptError> {
    let name = path.display().to_string();
    match read_file(path)? {
        Some(bytes) => Ok(KeyFile { name, bytes }),
        None => Err(AptError::Read {
            path: name,
            source: io::ErrorKind::NotFound.into(),
        }),
    }
}

/// Finds `VERSION_CODENAME` in the text of os-release(5).
#[must_use]
pub fn codename(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.trim().strip_prefix("VERSION_CODENAME="))?
        .trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Lists a directory in byte order of names, as apt does; absent is empty.
fn list(dir: &Path) -> Result<Vec<PathBuf>, AptError> {
    let fail = |source| AptError::Read {
        path: dir.display().to_string(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(fail)?;
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, AptError> {
    let fail = |source| AptError::Read {
        path: path.display().to_string(),
        source,
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(fail(io::Error::other(format!(
            "longer than {FILE_LIMIT} bytes"
        ))));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = "\
# comment
deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/a.gpg,0123abcd! trusted=yes] http://host.test/debian/ bookworm main contrib # more
deb-src http://host.test/debian bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb http://host.test/debian bookworm-updates main
deb [check-valid-until=no by-hash=force] https://other.test/security bookworm-security main
";

    #[test]
    fn reads_one_line_sources() {
        let entries = parse_list("x.list", LIST).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].place, "x.list:2");
        assert_eq!(entries[0].components, ["main", "contrib"]);
        assert_eq!(
            entries[0].signed_by.keyrings,
            [PathBuf::from("/usr/share/keyrings/a.gpg")]
        );
        assert_eq!(entries[0].signed_by.fingerprints, ["0123ABCD!"]);
        assert!(!entries[2].check_valid_until);
        assert_eq!(entries[2].by_hash, ByHash::Force);
    }

    #[test]
    fn reads_deb822_sources() {
        let text = "\
# head
Types: deb deb-src
URIs: http://host.test/debian http://two.test/debian/
Suites: bookworm
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEYCQjIxYJ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.test/
Suites: bookworm
Components: main
";
        let entries = parse_sources("x.sources", text).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].suites, ["bookworm", "bookworm-updates"]);
        let armor = entries[0].signed_by.inline.as_deref().unwrap();
        assert_eq!(
            armor,
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEYCQjIxYJ\n-----END PGP PUBLIC KEY BLOCK-----\n"
        );
        let sources = pick(&entries, "bookworm", "amd64").unwrap();
        let names: Vec<_> = sources
            .iter()
            .map(|s| (s.url.as_str(), s.suite.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("http://host.test/debian", "bookworm"),
                ("http://two.test/debian", "bookworm"),
                ("http://host.test/debian", "bookworm-updates"),
                ("http://two.test/debian", "bookworm-updates"),
            ]
        );
    }

    #[test]
    fn picks_the_suite_and_its_companions() {
        let entries = parse_list("x.list", LIST).unwrap();
        let sources = pick(&entries, "bookworm", "amd64").unwrap();
        let suites: Vec<_> = sources.iter().map(|source| source.suite.as_str()).collect();
        assert_eq!(
            suites,
            ["bookworm", "bookworm-updates", "bookworm-security"]
        );
        let error = pick(&entries, "trixie", "amd64").unwrap_err().to_string();
        assert_eq!(
            error,
            "the host's apt sources do not carry the suite \"trixie\" \
             (they carry bookworm, bookworm-security, bookworm-updates)"
        );
        assert!(
            pick(&entries, "bookworm", "riscv64").is_err(),
            "arch= limits"
        );
        let local = parse_list("y.list", "deb file:/srv/debian bookworm main").unwrap();
        let error = pick(&local, "bookworm", "amd64").unwrap_err().to_string();
        assert!(
            error.starts_with("y.list:1: \"file:/srv/debian\" carries bookworm"),
            "{error}"
        );
    }

    #[test]
    fn refuses_what_apt_refuses() {
        for (line, why) in [
            ("deb", "no URL"),
            ("deb http://a.test", "no suite"),
            ("deb http://a.test bookworm", "no component"),
            (
                "deb [arch=amd64 http://a.test b c",
                "options start with [ but do not end with ]",
            ),
            (
                "rpm http://a.test b c",
                "type \"rpm\" is not known (deb or deb-src)",
            ),
        ] {
            let error = parse_list("f", line).unwrap_err().to_string();
            assert_eq!(error, format!("f:1: {why}"));
        }
        assert!(
            parse_list("f", "deb http://a.test ./").is_ok(),
            "flat archives have none"
        );
        assert!(parse_sources("f", "URIs: x\n").is_err());
        assert!(parse_sources("f", "nonsense\n").is_err());
    }

    #[test]
    fn reads_mirrors_as_people_write_them() {
        let one = mirror_sources("http://m.test/debian/", "trixie", "amd64").unwrap();
        assert_eq!(
            (one[0].url.as_str(), one[0].suite.as_str()),
            ("http://m.test/debian", "trixie")
        );
        assert_eq!(one[0].components, ["main"]);
        let many = mirror_sources(LIST, "bookworm", "amd64");
        assert!(many.is_err(), "a comment is not a mirror");
        let many = mirror_sources(LIST.trim_start_matches("# comment\n"), "bookworm", "amd64");
        assert_eq!(many.unwrap().len(), 3);
        assert!(mirror_sources("ftp://m.test", "trixie", "amd64").is_err());
    }

    #[test]
    fn reads_a_host() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "etc/os-release",
            "ID=debian\nVERSION_CODENAME=\"bookworm\"\n",
        );
        write("etc/apt/sources.list.d/b.list", LIST);
        write("etc/apt/sources.list.d/c.disabled", "nonsense");
        write("etc/apt/trusted.gpg.d/k.asc", "key");
        write("usr/share/keyrings/a.gpg", "ring");
        let host = HostApt::read(root.path()).unwrap();
        assert_eq!(host.suite().unwrap(), "bookworm");
        assert_eq!(host.entries.len(), 3);
        assert_eq!(
            host.keys(&host.entries[0].signed_by).unwrap()[0].bytes,
            b"ring"
        );
        assert_eq!(host.keys(&SignedBy::default()).unwrap()[0].bytes, b"key");
        let absent = SignedBy::from_words(&["/none.gpg"]);
        assert!(
            host.keys(&absent)
                .unwrap_err()
                .to_string()
                .contains("none.gpg")
        );
        assert!(
            HostApt::read(&root.path().join("none"))
                .unwrap()
                .suite()
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "(deb|deb-src|#|Types: deb|URIs: a|Suites: b|[ \\[\\]=,:\n\t./-]|\\PC){0,60}") {
            for entries in [parse_list("f", &text), parse_sources("f", &text)].into_iter().flatten() {
                for entry in entries {
                    prop_assert!(!entry.urls.is_empty() && !entry.suites.is_empty());
                }
            }
        }

        #[test]
        fn both_notations_agree(
            suite in "[a-z]{1,8}", url in "http://[a-z]{1,8}\\.test/[a-z]{0,4}",
            components in prop::collection::vec("[a-z]{1,5}", 1..4),
        ) {
            let list = format!("deb {url} {suite} {}", components.join(" "));
            let deb822 = format!("Types: deb\nURIs: {url}\nSuites: {suite}\nComponents: {}\n", components.join("\n "));
            let one = pick(&parse_list("f", &list).unwrap(), &suite, "amd64").unwrap();
            let two = pick(&parse_sources("f", &deb822).unwrap(), &suite, "amd64").unwrap();
            prop_assert_eq!(one, two);
        }
    }
}
