//! Debian packages as a source: `debian: {suite: bookworm, packages: [nginx-light]}`.
//!
//! Enters: a suite and names. Leaves: packages, each of which is one layer. In reading order:
//!
//! 1. [`apt`]: which archives to ask, and whose signatures count;
//! 2. [`signed`] and [`release`]: what an archive says it has, once that is believed;
//! 3. [`packages`]: all of it in one table, stored until someone asks for news (`--pull`);
//! 4. [`solve`]: which packages it takes, or why none will do;
//! 5. [`deb`]: the files of one package, as a stream;
//! 6. [`finish`]: what maintainer scripts would have done and matters. They are never run.
//!
//! ```text
//! sources(root, request) ─▶ index(http, …, now) ─▶ solve(index, request) ─▶ fetch(http, package)
//!   host or mirror            network, verified       pure                     verified stream
//! ```

pub mod apt;
pub mod deb;
pub mod finish;
pub mod inflate;
pub mod packages;
pub mod relation;
pub mod release;
pub mod signed;
pub mod solve;
pub mod transport;
mod universe;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::apt::{AptError, ByHash, HostApt, KeyFile, SignedBy, Source};
use self::deb::{DataTar, DebError};
use self::inflate::{Checked, Compression, Mismatch};
use self::packages::{Archive, Builder, Index, PackagesError};
use self::release::{IndexFile, RELEASE_LIMIT, Release, ReleaseError};
use self::signed::{Keyring, SignedError};
use self::transport::{Resuming, Transport, TransportError};
use crate::digest::Sha256;

/// What a system asks of Debian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianRequest {
    /// Suite or codename; none: the host's own release.
    pub suite: Option<String>,
    /// Names, or `NAME=VERSION`.
    pub packages: Vec<String>,
    /// A mirror's URL, or one-line apt sources; none: the host's apt sources.
    pub mirror: Option<String>,
    /// The only keyring that counts; none: those of the sources, or the host's default ones.
    pub keyring: Option<PathBuf>,
    /// Debian's name of the architecture: `amd64`, `arm64` …
    pub architecture: String,
}

/// Why Debian packages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// The sources.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The network.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A release that is not believed.
    #[error("{url}: {source}")]
    Signed {
        /// The release file.
        url: String,
        /// Why.
        source: SignedError,
    },
    /// A release that is of no use.
    #[error("{url}: {source}")]
    Release {
        /// The release file.
        url: String,
        /// Why.
        source: ReleaseError,
    },
    /// An index of packages.
    #[error("{url}: {source}")]
    Packages {
        /// The index file.
        url: String,
        /// Why.
        source: PackagesError,
    },
    /// A stored index.
    #[error(transparent)]
    Stored(#[from] PackagesError),
    /// A package that is not one.
    #[error("{url}: {source}")]
    Deb {
        /// The package file.
        url: String,
        /// Why.
        source: DebError,
    },
}

impl DebianError {
    /// What a person can do about it.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let hint = |text: &str| vec![text.to_owned()];
        match self {
            Self::Release {
                source: ReleaseError::Expired { .. },
                ..
            } => hint(
                "check this machine's clock; use another mirror; for a frozen archive, name it as \
                 mirror: \"deb [check-valid-until=no] URL SUITE main\"",
            ),
            Self::Signed {
                source: SignedError::Unsigned(_),
                ..
            } => hint(
                "name the keyring of the archive as keyring: PATH, or update the host's \
                 debian-archive-keyring",
            ),
            Self::Packages {
                source: PackagesError::Read(error),
                ..
            } if is_mismatch(error) => {
                hint("the mirror may be in the middle of an update: try again in some minutes")
            }
            Self::Deb {
                source: DebError::Read(error),
                ..
            } if is_mismatch(error) => {
                hint("the mirror or something on the way to it changes files: use another mirror")
            }
            Self::Transport(error) if error.is_absent() && error.url.ends_with(".deb") => {
                hint("the package index is older than the archive: ask for news with --pull")
            }
            Self::Apt(
                AptError::NoSuite { .. } | AptError::NoCodename { .. } | AptError::Scheme { .. },
            ) => hint("name a mirror: mirror: URL"),
            _ => Vec::new(),
        }
    }
}

fn is_mismatch(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Mismatch>())
}

/// An archive to ask, and the keys it must be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The archive.
    pub source: Source,
    /// Its keys.
    pub keys: Vec<KeyFile>,
}

/// Finds out whom to ask for `request`, from the host's files under `root` (`/`).
///
/// # Errors
/// Apt sources or keyrings that cannot be read, or do not serve.
pub fn sources(root: &Path, request: &DebianRequest) -> Result<Vec<Trusted>, DebianError> {
    let host = match request.mirror {
        // A broken apt configuration does not matter to those who do not use it.
        Some(_) => HostApt::bare(root),
        None => HostApt::read(root)?,
    };
    let suite = match &request.suite {
        Some(suite) => suite.clone(),
        None => host.suite()?,
    };
    let picked = match &request.mirror {
        Some(mirror) => apt::mirror_sources(mirror, &suite, &request.architecture)?,
        None => apt::pick(&host.entries, &suite, &request.architecture)?,
    };
    let trust = |mut source: Source| {
        let keys = match &request.keyring {
            Some(path) => {
                source.signed_by = SignedBy::default();
                vec![apt::read_keys(path)?]
            }
            None => host.keys(&source.signed_by)?,
        };
        Ok(Trusted { source, keys })
    };
    picked.into_iter().map(trust).collect()
}

/// Fetches and verifies what the archives have. The result is stored with [`Index::to_bytes`]
/// and asked again only for news.
///
/// `now` is in seconds since 1970.
///
/// # Errors
/// Any archive that cannot be had or believed: none is left out silently.
pub fn index(
    http: &dyn Transport,
    sources: &[Trusted],
    architecture: &str,
    now: i64,
) -> Result<Index, DebianError> {
    let mut builder = Builder::default();
    for Trusted { source, keys } in sources {
        let base = format!("{}/dists/{}", source.url, source.suite);
        let release = fetch_release(http, &base, source, keys, now)?;
        for component in &source.components {
            let indexes = release.indexes(component, architecture);
            for file in indexes.map_err(|error| failed_release(&base, error))? {
                let archive = Archive {
                    url: source.url.clone(),
                    suite: source.suite.clone(),
                    component: component.clone(),
                    date: release.date,
                };
                let by_hash = match source.by_hash {
                    ByHash::Offered => release.by_hash,
                    ByHash::No => false,
                    ByHash::Force => true,
                };
                let urls = index_urls(&base, &file, by_hash);
                add_index(http, &mut builder, archive, architecture, &urls, &file).map_err(
                    |source| match source {
                        Fetch::Transport(error) => DebianError::Transport(error),
                        Fetch::Packages(source) => DebianError::Packages {
                            url: format!("{base}/{}", file.path),
                            source,
                        },
                    },
                )?;
            }
        }
    }
    Ok(builder.finish())
}

fn failed_release(base: &str, source: ReleaseError) -> DebianError {
    DebianError::Release {
        url: format!("{base}/InRelease"),
        source,
    }
}

fn fetch_release(
    http: &dyn Transport,
    base: &str,
    source: &Source,
    keys: &[KeyFile],
    now: i64,
) -> Result<Release, DebianError> {
    let url = format!("{base}/InRelease");
    let failed = |source| DebianError::Signed {
        url: url.clone(),
        source,
    };
    let keyring = Keyring::read(keys, &source.signed_by.fingerprints).map_err(failed)?;
    let bytes = transport::read_all(http, &url, RELEASE_LIMIT)?;
    let text = signed::verify(&bytes, &keyring, now).map_err(failed)?;
    let release = Release::parse(&text).map_err(|error| failed_release(base, error))?;
    release
        .check(&source.suite, source.check_valid_until.then_some(now))
        .map_err(|error| failed_release(base, error))?;
    Ok(release)
}

/// The addresses of an index file, in the order to try them.
fn index_urls(base: &str, file: &IndexFile, by_hash: bool) -> Vec<String> {
    let plain = format!("{base}/{}", file.path);
    let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let hashed = format!("{base}/{dir}/by-hash/SHA256/{}", file.sha256.hex());
    if by_hash {
        vec![hashed, plain]
    } else {
        vec![plain]
    }
}

enum Fetch {
    Transport(TransportError),
    Packages(PackagesError),
}

fn add_index(
    http: &dyn Transport,
    builder: &mut Builder,
    archive: Archive,
    architecture: &str,
    urls: &[String],
    file: &IndexFile,
) -> Result<(), Fetch> {
    let body = Resuming::open(http, urls, file.size).map_err(Fetch::Transport)?;
    let mut checked = Checked::new(body);
    let compression = Compression::of_name(&file.path).unwrap_or(Compression::None);
    let read = |error: io::Error| Fetch::Packages(PackagesError::Read(error));
    let limit = file.plain_size.unwrap_or(packages::TEXT_LIMIT as u64);
    let inflated = compression.inflate(&mut checked).map_err(read)?;
    let parsed = builder.add(
        archive,
        Some(architecture),
        io::BufReader::with_capacity(1 << 17, io::Read::take(inflated, limit)),
    );
    // A wrong hash explains every other fault.
    checked.finish(file.sha256, file.size).map_err(read)?;
    parsed.map_err(Fetch::Packages)
}

/// One package of a solution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture, or `all`.
    pub architecture: String,
    /// Addresses of the `.deb`, in the order to try them.
    pub urls: Vec<String>,
    /// Length of the `.deb` in bytes.
    pub size: u64,
    /// Hash of the `.deb`.
    #[serde(with = "hex")]
    pub sha256: Sha256,
    /// The kept fields of its control file (see [`packages::Stanza`]).
    pub control: String,
}

mod hex {
    //! SHA-256 as text in JSON.

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::digest::Sha256;

    pub(super) fn serialize<S: Serializer>(hash: &Sha256, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sha256, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Opens the files of a package. Read the tar to its end, then call [`DataTar::finish`].
///
/// # Errors
/// Packages that cannot be had, or are none.
pub fn fetch<'h>(
    http: &'h dyn Transport,
    package: &Package,
) -> Result<DataTar<Resuming<'h>>, DebianError> {
    let body = Resuming::open(http, &package.urls, package.size)?;
    DataTar::open(body, package.sha256, package.size).map_err(|source| DebianError::Deb {
        url: package.urls.first().cloned().unwrap_or_default(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::packages::testing::stanzas;
    use super::signed::testing::Gpg;
    use super::transport::testing::Memory;
    use super::*;

    const BASE: &str = "http://a.test/debian/dists/bookworm";
    /// 25 November 2026.
    const NOW: i64 = 1_795_600_000;

    /// An archive of one package, signed by `gpg`, and how to ask it.
    struct Archive {
        gpg: Gpg,
        http: Memory,
        release: String,
        packages: Vec<u8>,
        hashed: String,
    }

    impl Archive {
        fn new() -> Self {
            let gpg = Gpg::new();
            gpg.key("archive", "ed25519", &[], "never");
            let packages = stanzas("a 1; Depends: b\nb 2").into_bytes();
            let hash = Sha256::of(&packages).hex();
            let release = format!(
                "Suite: oldstable\nCodename: bookworm\nDate: Mon, 23 Nov 2026 11:22:37 UTC\n\
                 Valid-Until: Mon, 30 Nov 2026 11:22:37 UTC\nAcquire-By-Hash: yes\nComponents: main\n\
                 Architectures: amd64\nSHA256:\n {hash} {} main/binary-amd64/Packages\n",
                packages.len()
            );
            let mut this = Self {
                gpg,
                http: Memory::default(),
                release: String::new(),
                hashed: format!("{BASE}/main/binary-amd64/by-hash/SHA256/{hash}"),
                packages,
            };
            this.publish(&release);
            this
        }

        fn publish(&mut self, release: &str) {
            self.release = release.to_owned();
            let signed = self.gpg.sign(release, &[]);
            let files = &mut self.http.files;
            files.insert(format!("{BASE}/InRelease"), signed);
            files.insert(
                format!("{BASE}/main/binary-amd64/Packages"),
                self.packages.clone(),
            );
            files.insert(self.hashed.clone(), self.packages.clone());
        }

        fn sources(&self) -> Vec<Trusted> {
            let source = apt::mirror_sources("http://a.test/debian", "bookworm", "amd64")
                .unwrap()
                .remove(0);
            vec![Trusted {
                source,
                keys: vec![self.gpg.export("archive", true)],
            }]
        }

        fn ask(&self) -> Result<Index, DebianError> {
            index(&self.http, &self.sources(), "amd64", NOW)
        }

        fn error(&self) -> (String, String) {
            let error = self.ask().unwrap_err();
            (error.to_string(), error.hints().join("; "))
        }
    }

    #[test]
    fn asks_by_hash_and_falls_back() {
        let mut archive = Archive::new();
        assert_eq!(archive.ask().unwrap().len(), 2);
        assert_eq!(
            *archive.http.log.lock().unwrap(),
            [format!("{BASE}/InRelease"), archive.hashed.clone()]
        );
        archive.http.files.remove(&archive.hashed);
        archive.http.breaks = Some(40);
        archive.http.log.lock().unwrap().clear();
        let error = archive.error().0;
        assert!(error.contains("not a clear-signed text"), "{error}"); // InRelease breaks off, too
        archive.http.breaks = None;
        assert_eq!(archive.ask().unwrap().len(), 2);
        let release = archive.release.replace("Acquire-By-Hash: yes\n", "");
        archive.publish(&release);
        archive.http.log.lock().unwrap().clear();
        archive.ask().unwrap();
        assert!(archive.http.log.lock().unwrap()[1].ends_with("main/binary-amd64/Packages"));
    }

    #[test]
    fn says_what_is_wrong_and_what_helps() {
        let mut archive = Archive::new();
        let good = archive.release.clone();

        archive.publish(&good.replace("Mon, 30 Nov", "Tue, 24 Nov"));
        let (error, hint) = archive.error();
        assert!(
            error.starts_with(&format!("{BASE}/InRelease: it expired 1 days ago"))
                || error.contains("hours ago"),
            "{error}"
        );
        assert!(hint.contains("check-valid-until=no"), "{hint}");
        let mut sources = archive.sources();
        sources[0].source.check_valid_until = false;
        assert!(
            index(&archive.http, &sources, "amd64", NOW).is_ok(),
            "frozen archives"
        );

        archive.publish(
            &good
                .replace("bookworm", "trixie")
                .replace("oldstable", "stable"),
        );
        assert!(
            archive
                .error()
                .0
                .contains("it is the release of trixie (stable), not of bookworm")
        );

        archive.publish(&good);
        archive.packages[0] ^= 1;
        archive.publish(&good);
        let (error, hint) = archive.error();
        assert!(
            error.starts_with(&format!("{BASE}/main/binary-amd64/Packages: cannot read")),
            "{error}"
        );
        assert!(
            error.contains("the index says") && hint.contains("try again"),
            "{error} {hint}"
        );

        let mut sources = archive.sources();
        sources[0].keys.clear();
        let error = index(&archive.http, &sources, "amd64", NOW).unwrap_err();
        assert!(
            error.to_string().contains("is not among the keys"),
            "{error}"
        );
        assert!(error.hints()[0].contains("keyring"));

        archive.http.files.clear();
        assert_eq!(
            archive.error().0,
            format!("cannot get {BASE}/InRelease: 404 not found")
        );
        let gone = Package {
            name: "a".to_owned(),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            urls: vec!["http://a.test/debian/pool/a_1.deb".to_owned()],
            size: 1,
            sha256: Sha256::of(b""),
            control: String::new(),
        };
        let Err(error) = fetch(&archive.http, &gone) else {
            panic!("there is nothing to fetch");
        };
        assert!(error.hints()[0].contains("--pull"), "{error}");
    }

    #[test]
    fn an_index_is_no_larger_than_it_says() {
        let mut archive = Archive::new();
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(&archive.packages[..], flate2::Compression::fast())
            .read_to_end(&mut packed)
            .unwrap();
        // The signed release says that the index inflates to ten bytes only.
        let release = archive.release.replace(
            &format!(" {} main/", archive.packages.len()),
            &format!(
                " 10 main/binary-amd64/Packages\n {} {} main/",
                Sha256::of(&packed).hex(),
                packed.len()
            ),
        );
        let release = format!("{}.gz\n", release.trim_end());
        archive.publish(&release);
        archive
            .http
            .files
            .insert(format!("{BASE}/main/binary-amd64/Packages.gz"), packed);
        let error = archive.error().0;
        assert!(error.contains("line 2 of the package index"), "{error}");
    }

    #[test]
    fn sources_come_from_the_mirror_or_the_host() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/os-release", "VERSION_CODENAME=bookworm\n");
        write(
            "etc/apt/sources.list",
            "deb [signed-by=/k.gpg] http://h.test bookworm main\n",
        );
        write("k.gpg", "host");
        write("mine.gpg", "mine");
        let mut request = DebianRequest {
            suite: None,
            packages: Vec::new(),
            mirror: None,
            keyring: None,
            architecture: "amd64".to_owned(),
        };
        let ask = |request: &DebianRequest| {
            sources(root.path(), request).map(|found| {
                let one = &found[0];
                format!(
                    "{} {} {}",
                    one.source.url,
                    one.source.suite,
                    String::from_utf8_lossy(&one.keys[0].bytes)
                )
            })
        };
        assert_eq!(ask(&request).unwrap(), "http://h.test bookworm host");
        request.keyring = Some(root.path().join("mine.gpg"));
        assert_eq!(ask(&request).unwrap(), "http://h.test bookworm mine");
        request.mirror = Some("http://m.test/debian/".to_owned());
        assert_eq!(ask(&request).unwrap(), "http://m.test/debian bookworm mine");
        write("etc/apt/sources.list", "nonsense\n");
        assert_eq!(
            ask(&request).unwrap(),
            "http://m.test/debian bookworm mine",
            "not looked at"
        );
        request.mirror = None;
        assert!(
            ask(&request)
                .unwrap_err()
                .to_string()
                .contains("sources.list:1: type \"nonsense\"")
        );
        write("etc/apt/sources.list", "");
        let error = ask(&request).unwrap_err();
        assert_eq!(error.hints(), ["name a mirror: mirror: URL"]);
    }
}
