//! The description of one system as people wrote it, checked but with nothing filled in.

use super::container::Container;
use super::error::Warning;
use super::position::{Position, Spanned};

/// A whole description: one file, or several appended.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// The kernel; without an image it yields nothing.
    pub kernel: Option<Kernel>,
    /// What is unpacked into `/`, in order.
    pub init: Vec<Spanned<InitEntry>>,
    /// Containers run one after another at boot.
    pub onboot: Vec<Container>,
    /// Containers run one after another at shutdown.
    pub onshutdown: Vec<Container>,
    /// Containers that keep running.
    pub services: Vec<Container>,
    /// Single files, directories and links.
    pub files: Vec<FileEntry>,
    /// Named directories that containers share.
    pub volumes: Vec<Volume>,
    /// LinuxKit's `trust`: accepted, without effect.
    pub trust: Option<Spanned<Trust>>,
    /// What is odd in it, in the order of the files.
    pub warnings: Vec<Warning>,
}

/// LinuxKit's `trust` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Images that were to be trusted.
    pub image: Vec<String>,
    /// Organisations that were to be trusted.
    pub org: Vec<String>,
}

/// Where a file tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// An image reference as written, not canonicalised, never empty.
    Image(String),
    /// kiln's extension: a tree made of Debian packages.
    Debian(Debian),
    /// kiln's extension, of containers alone: one of [`JOBS`](super::JOBS), which needs no files.
    Builtin(&'static str),
}

/// `debian:` in place of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debian {
    /// Suite or code name, such as `bookworm`; the host's own release without it.
    pub suite: Option<Spanned<String>>,
    /// What to install, as for `apt-get install`: `NAME`, `NAME:ARCH` or `NAME=VERSION`. Not empty.
    pub packages: Vec<Spanned<String>>,
    /// Base URL of a mirror; the host's own sources without it.
    pub mirror: Option<Spanned<String>>,
    /// Path of a keyring on the host, as written; the host's own without it.
    pub keyring: Option<Spanned<String>>,
}

/// The `kernel` section. Absent strings are `None`; LinuxKit's defaults are not filled in.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The section.
    pub at: Position,
    /// Where the kernel comes from; without it the section yields nothing.
    pub image: Option<Spanned<ImageSource>>,
    /// The command line, verbatim.
    pub cmdline: Option<Spanned<String>>,
    /// File name of the kernel inside the image.
    pub binary: Option<Spanned<String>>,
    /// File name of the tar inside the image that is unpacked into `/`.
    pub tar: Option<Spanned<String>>,
    /// File name of the microcode cpio inside the image.
    pub ucode: Option<Spanned<String>>,
    /// kiln's extension: which modules to keep.
    pub modules: Option<Spanned<Modules>>,
}

impl Kernel {
    /// File name of the kernel, `kernel` by default.
    #[must_use]
    pub fn binary_name(&self) -> &str {
        match &self.binary {
            Some(binary) if !binary.is_empty() => &binary.value,
            _ => "kernel",
        }
    }

    /// File name of the tar, `kernel.tar` by default; `None` for `none` and the empty string.
    #[must_use]
    pub fn tar_name(&self) -> Option<&str> {
        match self.tar.as_ref().map(|tar| tar.value.as_str()) {
            None => Some("kernel.tar"),
            Some("" | "none") => None,
            Some(name) => Some(name),
        }
    }

    /// File name of the microcode, if any is asked for.
    #[must_use]
    pub fn ucode_name(&self) -> Option<&str> {
        self.ucode
            .as_ref()
            .map(|ucode| ucode.value.as_str())
            .filter(|name| !name.is_empty())
    }

    /// The command line, empty by default.
    #[must_use]
    pub fn cmdline_text(&self) -> &str {
        self.cmdline
            .as_ref()
            .map_or("", |cmdline| cmdline.value.as_str())
    }
}

/// Which kernel modules go into the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modules {
    /// Every module.
    All,
    /// Module names or globs over names, as written.
    Matching(Vec<String>),
}

/// One item of `init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitEntry {
    /// The bare word `kiln`: the built-in init.
    Kiln,
    /// A tree unpacked into `/`.
    Image(ImageSource),
}

/// The three places containers are listed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `onboot`
    Onboot,
    /// `onshutdown`
    Onshutdown,
    /// `services`
    Services,
}

impl Section {
    /// All of them, in the order of output and of numeric ids.
    pub const ALL: [Self; 3] = [Self::Onboot, Self::Onshutdown, Self::Services];

    /// The key, which is also the directory under `containers/`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Onboot => "onboot",
            Self::Onshutdown => "onshutdown",
            Self::Services => "services",
        }
    }
}

impl Spec {
    /// Returns the containers of a section.
    #[must_use]
    pub fn containers(&self, section: Section) -> &[Container] {
        match section {
            Section::Onboot => &self.onboot,
            Section::Onshutdown => &self.onshutdown,
            Section::Services => &self.services,
        }
    }
}

/// A user or group: a number, or the name of a container that was given one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// A number.
    Number(u32),
    /// A name; empty and `root` mean 0.
    Name(String),
}

/// One item of `files`.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// The entry's first key.
    pub at: Position,
    /// Path in the system, as written.
    pub path: Spanned<String>,
    /// What it is.
    pub content: FileContent,
    /// Skip silently when the source does not exist.
    pub optional: bool,
    /// Permission bits; 0600, for directories 0700, when not given.
    pub mode: Option<Spanned<FileMode>>,
    /// Owner.
    pub uid: Option<Spanned<Id>>,
    /// Group.
    pub gid: Option<Spanned<Id>>,
}

/// Permission bits with their spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMode {
    /// The octal digits as written.
    pub text: String,
    /// At most 0o7777.
    pub bits: u16,
}

/// What an item of `files` puts there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// `directory: true`
    Directory,
    /// `symlink`: the target, verbatim.
    Symlink(Spanned<String>),
    /// `contents`: the text, verbatim.
    Contents(Spanned<String>),
    /// `source`: a file on the host, as written (`~/` not expanded).
    Source(Spanned<String>),
    /// `metadata`: the merged description itself.
    Metadata(MetadataFormat),
}

/// How the description is written into the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataFormat {
    /// `yaml`
    Yaml,
    /// `json`
    Json,
}

/// One item of `volumes`.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The entry's first key.
    pub at: Position,
    /// `[a-z0-9_-]+`, unique.
    pub name: Spanned<String>,
    /// Content; blank without.
    pub image: Option<Spanned<ImageSource>>,
    /// Containers may only read it.
    pub readonly: bool,
    /// How the content is stored.
    pub format: Option<Spanned<VolumeFormat>>,
    /// Platforms kept in an OCI layout; all when empty.
    pub platforms: Vec<Spanned<String>>,
}

/// How a volume's image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VolumeFormat {
    /// Flattened into a directory.
    #[default]
    Filesystem,
    /// As an OCI image layout.
    Oci,
}
