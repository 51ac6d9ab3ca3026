//! LinuxKit's packages: the reference of the image that a directory with a `build.yml` makes.
//!
//! Enters: a directory, and what is to be overridden. Leaves: `ORG/IMAGE:TAG`, the same that
//! `linuxkit pkg build` gives the image, so that it is found where that was put. Nothing is built
//! here and no network is asked. `git` says what is committed and what is not; this room only asks.
//!
//! The tag is the hash of what git has committed in the directory, so it is the same on every
//! machine; what is not committed adds the hash of its contents (LinuxKit's
//! `docs/packages.md`, `src/cmd/linuxkit/pkglib`).

mod error;
mod git;
mod tag;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

pub use error::PackageError;

use crate::spec::PackageFile;
use git::Git;

/// The organisation of packages that name none.
const ORGANISATION: &str = "linuxkit";
/// Digits of a content hash that go into a tag.
const DIRTY_DIGITS: usize = 7;
/// A `build.yml` is a page.
const BUILD_YML_MAX_BYTES: u64 = 1 << 20;
/// The only commit whose work tree can be dirty.
const HEAD: &str = "HEAD";

/// What to take in place of what the package and git say. The default is what `@pkg:` means.
#[derive(Debug, Clone)]
pub struct Options {
    /// The organisation, in place of `build.yml`'s.
    pub org: Option<String>,
    /// The name of the `build.yml`, relative to the package.
    pub build_yml: PathBuf,
    /// The hash: git is not asked.
    pub hash: Option<String>,
    /// The commit that is hashed.
    pub hash_commit: String,
    /// The directory that is hashed, a parent of the package; the package itself without.
    pub hash_path: Option<PathBuf>,
    /// The template of the tag, in place of `build.yml`'s.
    pub tag: Option<String>,
    /// Whether everything counts as changed.
    pub force_dirty: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            org: None,
            build_yml: "build.yml".into(),
            hash: None,
            hash_commit: HEAD.to_owned(),
            hash_path: None,
            tag: None,
            force_dirty: false,
        }
    }
}

/// The name of a package's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageReference {
    /// `ORG/IMAGE`.
    image: String,
    /// The tag, not empty.
    tag: String,
}

impl PackageReference {
    /// Returns `ORG/IMAGE:TAG`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}:{}", self.image, self.tag)
    }

    /// Returns it with the registry in front: `docker.io/ORG/IMAGE:TAG`, unless the organisation
    /// names a registry itself.
    #[must_use]
    pub fn canonical(&self) -> String {
        let short = self.short();
        match short.split('/').collect::<Vec<_>>()[..] {
            [host, _] if !host.contains(['.', ':']) && host != "localhost" => {
                format!("docker.io/{short}")
            }
            _ => short,
        }
    }
}

/// Returns the reference of the package in `directory`.
///
/// # Errors
/// When it is no package, git cannot say what it is, or the result would be no name.
pub fn reference(directory: &Path, options: &Options) -> Result<PackageReference, PackageError> {
    let directory = &fs::canonicalize(directory).map_err(PackageError::read(directory))?;
    let path = directory.join(&options.build_yml);
    let bytes = read(&path).map_err(PackageError::read(&path))?;
    let package = PackageFile::parse(&bytes, &path.to_string_lossy())?;
    let org = options.org.as_deref().or(package.org.as_deref());
    let org = org.unwrap_or(ORGANISATION);
    if org.is_empty() {
        return Err(PackageError::NoOrganisation);
    }
    let hash = match &options.hash {
        Some(hash) => hash.clone(),
        None => hash(directory, &package, options)?.unwrap_or_default(),
    };
    let (template, at) = match (&options.tag, &package.tag) {
        (Some(template), _) => (template.as_str(), None),
        (None, Some(tag)) => (tag.value.as_str(), Some(&tag.at)),
        (None, None) => ("", None),
    };
    let tag = tag::render(template, &hash).map_err(|reason| match at {
        Some(at) => PackageError::BuildYml(at.error(reason).into()),
        None => PackageError::Tag(reason),
    })?;
    Ok(PackageReference {
        image: format!("{org}/{}", package.image.value),
        tag: if tag.is_empty() {
            "latest".to_owned()
        } else {
            tag
        },
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    file.take(BUILD_YML_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BUILD_YML_MAX_BYTES {
        let text = format!("larger than {BUILD_YML_MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Opens a regular file; a FIFO in its place must not make anybody wait.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a file")),
    }
}

/// Returns what git knows the package by; `None` when it is in no repository.
fn hash(
    directory: &Path,
    package: &PackageFile,
    options: &Options,
) -> Result<Option<String>, PackageError> {
    let hashed = match &options.hash_path {
        None => directory.to_owned(),
        Some(path) => fs::canonicalize(path).map_err(PackageError::read(path))?,
    };
    if !directory.starts_with(&hashed) {
        return Err(PackageError::HashPath {
            path: hashed,
            package: directory.to_owned(),
        });
    }
    let commit = options.hash_commit.as_str();
    let mut sources = String::new();
    for source in &package.extra_sources {
        let named = directory.join(&source.value);
        let path = fs::canonicalize(&named).map_err(PackageError::read(&named))?;
        let git = Git::open(&path)?.ok_or_else(|| PackageError::SourceWithoutGit(path.clone()))?;
        sources += &git.tree(&path, commit)?;
    }
    let Some(git) = Git::open(directory)? else {
        return Ok(None);
    };
    let mut hash = git.tree(&hashed, commit)?;
    if !sources.is_empty() {
        use sha1::Digest as _;
        hash = hex(&sha1::Sha1::digest(hash + &sources));
    }
    if options.force_dirty || (commit == HEAD && git.is_dirty(&hashed)?) {
        let contents = contents(directory, &git)?;
        hash = format!("{hash}-dirty-{}", &contents[..DIRTY_DIGITS]);
    }
    Ok(Some(hash))
}

/// Returns the hash of the contents, and nothing else, of all files of the package that git
/// tracks or would track, in its order.
fn contents(directory: &Path, git: &Git<'_>) -> Result<String, PackageError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    for name in git.files()? {
        let path = directory.join(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            // Links, submodules and what was removed count for nothing, as for LinuxKit.
            _ => continue,
        }
        feed(&mut hasher, &path, &mut buffer).map_err(PackageError::read(&path))?;
    }
    Ok(hex(&hasher.finalize()))
}

fn feed(hasher: &mut sha2::Sha256, path: &Path, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = open(path)?;
    loop {
        match file.read(buffer)? {
            0 => return Ok(()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
