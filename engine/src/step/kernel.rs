//! The kernel: image and command line, modules, microcode.
//!
//! Enters: an origin and the names in it. Leaves: `kernel` (objects `boot`: a tree with `boot/…`;
//! `modules`: a tree for `/`; value `compressor`: what its initrd may be compressed with).

use std::io::Read;
use std::sync::Arc;

use kiln_cache::{Action, Cache, Digest, Key, KeyBuilder};

use super::image::tree_of;
use super::root::{Origin, Purpose, Root};
use super::{Lane, Next, Results, Reuse, Scope, Step, StepError, Task};
use crate::spec::Modules;
use crate::system::kernel::{
    Evidence, KERNEL_MAX_BYTES, KernelConfig, PayloadKind, compressor, look_into, payload,
};
use crate::tree::file::FileReader;
use crate::tree::generate::{Body, MTIME, Node, generate};
use crate::tree::unpack::{Options, unpack};
use crate::tree::{Content, Entry, EntryRef, Kind, Tree, TreePath, TreeWriter};

/// Changes when the same kernel image may give another tree.
const KERNEL_VERSION: u32 = 3;

/// A kernel and what goes with it.
pub struct Kernel {
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it comes from Debian packages, which have names of their own.
    pub debian: bool,
    /// The command line.
    pub cmdline: String,
    /// The kernel's name in the image; `None` for the default.
    pub binary: Option<String>,
    /// The name of the tar that is unpacked into `/`; `None` for no tar.
    pub tar: Option<String>,
    /// The name of the microcode archive.
    pub ucode: Option<String>,
    /// Which modules are kept.
    pub modules: Option<Modules>,
    /// Whether the kernel is taken out of its compressed image.
    pub decompress: bool,
}

impl Kernel {
    fn context(&self) -> String {
        format!("kernel {}", self.origin.name)
    }
}

impl Step for Kernel {
    fn kind(&self) -> &'static str {
        "kernel"
    }

    fn label(&self) -> String {
        self.origin.name.clone()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("kernel", KERNEL_VERSION)
            .field("origin", self.origin.identity())
            .finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let root: Arc<dyn Step> = Arc::new(Root {
            origin: self.origin.clone(),
            purpose: Purpose::Plain,
        });
        let Some(found) = got.get(&*root) else {
            return Ok(Next::Need(vec![root]));
        };
        let tree = tree_of(&found, &self.context())?;
        let work = Work {
            context: self.context(),
            debian: self.debian,
            cmdline: self.cmdline.clone(),
            binary: self.binary.clone(),
            tar: self.tar.clone(),
            ucode: self.ucode.clone(),
            modules: self.modules.clone(),
            decompress: self.decompress,
            tree,
        };
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let patterns = match &self.modules {
            Some(Modules::Matching(patterns)) => patterns.clone(),
            Some(Modules::All) | None => Vec::new(),
        };
        Ok(Next::Run(Task {
            key: KeyBuilder::new("kernel", KERNEL_VERSION)
                .digest("tree", &tree)
                .number("debian", self.debian.into())
                .field("cmdline", &self.cmdline)
                .field("binary", text(&self.binary))
                .field("tar", text(&self.tar))
                .field("ucode", text(&self.ucode))
                .number(
                    "pruned",
                    matches!(self.modules, Some(Modules::Matching(_))).into(),
                )
                .list("modules", &patterns)
                .number("decompress", self.decompress.into())
                .finish(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| work.run(scope)),
        }))
    }
}

struct Work {
    context: String,
    debian: bool,
    cmdline: String,
    binary: Option<String>,
    tar: Option<String>,
    ucode: Option<String>,
    modules: Option<Modules>,
    decompress: bool,
    tree: Digest,
}

impl Work {
    fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
    ) -> impl FnOnce(E) -> StepError {
        StepError::in_context(self.context.clone())
    }

    fn run(&self, scope: &Scope<'_>) -> Result<Action, StepError> {
        let cache = scope.cache;
        let tree = Tree::open(cache, &self.tree).map_err(self.failed())?;
        let kernel = self.kernel(&tree)?;
        let mut outputs = vec![("boot".to_owned(), self.boot(cache, &tree, &kernel)?)];
        let modules = if self.debian {
            self.package_modules(cache, &tree)?
        } else {
            self.kernel_tar(scope, &tree)?
        };
        outputs.extend(modules.map(|modules| ("modules".to_owned(), modules)));
        let config = self.config(cache, &tree, &kernel)?;
        let config = config.and_then(|text| KernelConfig::parse(&text));
        let evidence = match config {
            Some(config) => Evidence::Config(config),
            None => {
                let image = FileReader::open(cache, &kernel).map_err(self.failed())?;
                // A kernel that cannot be looked into may still boot: then what all read is used.
                look_into(image).unwrap_or_default()
            }
        };
        let compressor = compressor(&evidence).map_err(self.failed())?;
        let size = |digest: &Digest| cache.open_object(digest).map_or(0, |object| object.len());
        let made: Vec<Digest> = outputs.iter().map(|output| output.1).collect();
        let packs = super::own_packs(cache, &made, &[self.tree]).map_err(self.failed())?;
        Ok(Action {
            outputs: outputs
                .into_iter()
                .map(|(role, digest)| (role, digest, size(&digest)))
                .chain(packs)
                .collect(),
            values: vec![("compressor".into(), compressor.name().into())],
            ..Action::default()
        })
    }

    /// Finds the kernel image.
    fn kernel<'t>(&self, tree: &'t Tree) -> Result<EntryRef<'t>, StepError> {
        let name = self.binary.as_deref().unwrap_or("kernel");
        if self.binary.is_none() && self.debian {
            let is_kernel = |entry: &EntryRef<'_>| {
                entry.kind() == Kind::File && version(entry.path()).is_some()
            };
            let mut found = tree.iter().filter(is_kernel);
            return match (found.next(), found.next()) {
                (Some(kernel), None) => Ok(kernel),
                (None, _) => Err(StepError::new(
                    self.context.clone(),
                    "none of its packages has a kernel (boot/vmlinuz-…)",
                )
                .hint("name a kernel package, such as linux-image-cloud-amd64")),
                (Some(one), Some(two)) => {
                    let (one, two) = (one.path().escape_ascii(), two.path().escape_ascii());
                    Err(StepError::new(
                        self.context.clone(),
                        format!("there are two kernels: {one} and {two}"),
                    )
                    .hint("choose one with binary:"))
                }
            };
        }
        self.file(tree, name)?.ok_or_else(|| {
            StepError::new(
                self.context.clone(),
                format!("there is no file \"{name}\" in it"),
            )
            .hint("name the kernel's file with binary:")
        })
    }

    fn file<'t>(&self, tree: &'t Tree, name: &str) -> Result<Option<EntryRef<'t>>, StepError> {
        let path = TreePath::parse(name.as_bytes()).map_err(self.failed())?;
        Ok(tree
            .find(path.as_bytes())
            .filter(|entry| entry.kind() == Kind::File))
    }

    /// Makes `boot`, `boot/cmdline`, `boot/kernel` and `boot/ucode.cpio`.
    fn boot(&self, cache: &Cache, tree: &Tree, kernel: &EntryRef<'_>) -> Result<Digest, StepError> {
        let path = |text: &str| TreePath::from_clean(text.as_bytes());
        let nodes = [
            Node::directory(path("boot")),
            Node::new(
                path("boot/cmdline"),
                Body::Bytes(self.cmdline.clone().into_bytes()),
                0o644,
            ),
        ];
        let made = generate(cache, &nodes).map_err(self.failed())?;
        let made = Tree::open(cache, &made.tree.0).map_err(self.failed())?;
        let mut writer = TreeWriter::new();
        for entry in made.iter() {
            writer.copy(&entry, 0).map_err(self.failed())?;
        }
        let moved = |from: &EntryRef<'_>, to: &str| {
            let entry = from.to_entry();
            let bare = Entry::new(path(to), Kind::File, entry.mode);
            Entry {
                mtime: MTIME,
                size: entry.size,
                content: entry.content,
                extents: entry.extents,
                ..bare
            }
        };
        let kernel = match self.decompress {
            true => self.decompressed(cache, kernel)?,
            false => moved(kernel, "boot/kernel"),
        };
        writer.add(&kernel).map_err(self.failed())?;
        if let Some(name) = &self.ucode {
            let found = self.file(tree, name)?.ok_or_else(|| {
                StepError::new(
                    self.context.clone(),
                    format!("there is no microcode file \"{name}\" in it"),
                )
            })?;
            let ucode = moved(&found, "boot/ucode.cpio");
            writer.add(&ucode).map_err(self.failed())?;
        }
        writer
            .finish(cache)
            .map(|(digest, _)| digest)
            .map_err(self.failed())
    }

    /// Takes the kernel out of its compressed image; one that is in none is what is wanted already.
    fn decompressed(&self, cache: &Cache, image: &EntryRef<'_>) -> Result<Entry, StepError> {
        let reader = FileReader::open(cache, image).map_err(self.failed())?;
        let payload = payload(reader).map_err(self.failed())?;
        if payload.kind == PayloadKind::Unknown {
            return Err(StepError::new(
                self.context.clone(),
                "its kernel is compressed in a way that is not known, if it is one",
            )
            .hint("a kernel that is not compressed is ELF, or the Image of arm64 or riscv64"));
        }
        let mut pack = cache.object_writer().map_err(self.failed())?;
        let size = std::io::copy(&mut payload.reader.take(KERNEL_MAX_BYTES), &mut pack)
            .map_err(self.failed())?;
        let pack = pack.commit().map_err(self.failed())?;
        let bare = Entry::new(
            TreePath::from_clean(b"boot/kernel"),
            Kind::File,
            image.mode(),
        );
        Ok(Entry {
            mtime: MTIME,
            size,
            content: Some(Content {
                pack,
                offset: 0,
                digest: pack,
            }),
            ..bare
        })
    }

    /// Unpacks the tar that an image brings its modules in.
    fn kernel_tar(&self, scope: &Scope<'_>, tree: &Tree) -> Result<Option<Digest>, StepError> {
        let Some(name) = &self.tar else {
            return Ok(None);
        };
        let found = self.file(tree, name)?.ok_or_else(|| {
            StepError::new(
                self.context.clone(),
                format!("there is no file \"{name}\" in it"),
            )
            .hint("name the tar of its modules with tar:, or say tar: none")
        })?;
        if !found.extents().is_empty() {
            let reason = format!("its file \"{name}\" is sparse, as no tar is");
            return Err(StepError::new(self.context.clone(), reason));
        }
        let reader = FileReader::open(scope.cache, &found).map_err(self.failed())?;
        let options = Options {
            literal_whiteouts: true,
            ..Options::default()
        };
        let unpacked = unpack(scope.cache, reader, &options, scope.cancel, &|_| {})
            .map_err(StepError::in_context(format!("{}: {name}", self.context)))?;
        Ok(Some(unpacked.tree))
    }

    /// Takes the modules of a package, with the indexes that its maintainer script would make.
    fn package_modules(&self, cache: &Cache, tree: &Tree) -> Result<Option<Digest>, StepError> {
        let patterns = match &self.modules {
            Some(Modules::Matching(patterns)) => Some(patterns.as_slice()),
            Some(Modules::All) | None => None,
        };
        super::modules::modules(cache, tree, patterns)
            .map_err(|error| StepError::new(self.context.clone(), error))
    }

    /// Finds the configuration that a package ships beside its kernel.
    fn config(
        &self,
        cache: &Cache,
        tree: &Tree,
        kernel: &EntryRef<'_>,
    ) -> Result<Option<Vec<u8>>, StepError> {
        let Some(version) = version(kernel.path()) else {
            return Ok(None);
        };
        let path = [b"boot/config-", version].concat();
        let Some(entry) = tree.find(&path).filter(|entry| entry.size() < 4 << 20) else {
            return Ok(None);
        };
        let mut text = Vec::new();
        FileReader::open(cache, &entry)
            .and_then(|mut reader| reader.read_to_end(&mut text))
            .map_err(self.failed())?;
        Ok(Some(text))
    }
}

/// Returns the version in the path of a kernel, as Debian names them (on RISC-V they are not
/// compressed, hence the other name); none for other files.
fn version(path: &[u8]) -> Option<&[u8]> {
    let name = path.strip_prefix(b"boot/")?;
    let kinds: [&[u8]; 2] = [b"vmlinuz-", b"vmlinux-"];
    kinds.iter().find_map(|kind| name.strip_prefix(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_packages_have_versions() {
        assert_eq!(version(b"boot/vmlinuz-6.1.0"), Some(&b"6.1.0"[..]));
        assert_eq!(version(b"boot/vmlinux-6.12"), Some(&b"6.12"[..]));
        assert_eq!(version(b"boot/config-6.12"), None);
        assert_eq!(version(b"usr/lib/debug/boot/vmlinux-6.12"), None);
    }
}
