//! What modules a kernel has and which of them answers a name, an alias or a device.
//!
//! In: the text files that depmod writes below `/lib/modules/RELEASE` (modules.dep, .alias,
//! .softdep, .builtin, .devname; see depmod(8), modules.dep(5)) and `/etc/modprobe.d/*.conf`. Out: names and
//! files for the loader.
//!
//! The index borrows the files' bytes and lives only while modules are being loaded, so that PID 1
//! does not keep megabytes for a rare later device.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::alias;
use crate::say;

/// Largest index file read; a full distribution kernel's modules.alias is about 2 MB.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// The files of one kernel release, as bytes.
#[derive(Debug, Default)]
pub(crate) struct Files {
    directory: PathBuf,
    dep: Vec<u8>,
    alias: Vec<u8>,
    softdep: Vec<u8>,
    builtin: Vec<u8>,
    devname: Vec<u8>,
    /// `/etc/modprobe.d/*.conf`, joined.
    config: Vec<u8>,
}

impl Files {
    /// Reads the files of a kernel release below `root`; absent ones count as empty.
    pub(crate) fn read(root: &Path, release: &str) -> Self {
        let directory = root.join("lib/modules").join(release);
        let file = |name: &str| read_limited(&directory.join(name), INDEX_BYTES_MAX);
        Self {
            dep: file("modules.dep"),
            alias: file("modules.alias"),
            softdep: file("modules.softdep"),
            builtin: file("modules.builtin"),
            devname: file("modules.devname"),
            config: read_conf_directory(&root.join("etc/modprobe.d")),
            directory,
        }
    }

    /// Returns `/lib/modules/RELEASE`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the nodes of modules.devname.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        lines(&self.devname).filter_map(Node::parse)
    }

    /// Returns whether this kernel has any loadable module here.
    pub(crate) fn is_empty(&self) -> bool {
        self.dep.is_empty()
    }
}

/// A device node whose module is loaded when it is opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    /// Path below `/dev`.
    pub(crate) name: &'a str,
    /// Block or character.
    pub(crate) is_block: bool,
    /// Major number.
    pub(crate) major: u32,
    /// Minor number.
    pub(crate) minor: u32,
}

impl<'a> Node<'a> {
    /// Parses `fuse fuse c10:229`: module, node, type and numbers.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split_ascii_whitespace().skip(1);
        let (name, number) = (words.next()?, words.next()?);
        let (major, minor) = number.get(1..)?.split_once(':')?;
        let leads_out = name.starts_with('/') || name.split('/').any(|part| part == "..");
        (!leads_out && number.starts_with(['b', 'c'])).then_some(())?;
        Some(Self {
            name,
            is_block: number.starts_with('b'),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

/// Reads every `*.conf` of a directory in name order; absent counts as empty.
pub(crate) fn read_conf_directory(directory: &Path) -> Vec<u8> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.extend(read_limited(&path, INDEX_BYTES_MAX));
        all.push(b'\n');
    }
    all
}

fn read_limited(path: &Path, limit: u64) -> Vec<u8> {
    match fs::metadata(path) {
        Ok(m) if m.len() <= limit => fs::read(path).unwrap_or_default(),
        Ok(m) => {
            say!("{}: {} bytes, not read", path.display(), m.len());
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Module files, aliases and rules, indexed; borrows [`Files`].
#[derive(Debug, Default)]
pub(crate) struct Index<'a> {
    /// Name → file and the files it needs, nearest first (so loaded last to first).
    modules: HashMap<Name<'a>, (&'a [u8], &'a [u8])>,
    /// Bus (`pci:`) → pattern and module.
    by_bus: HashMap<&'a [u8], Vec<Alias<'a>>>,
    /// Patterns that may match any bus.
    any_bus: Vec<Alias<'a>>,
    /// Aliases without wildcard (`fs-ext4`), folded, and their modules.
    exact: HashMap<Name<'a>, Vec<&'a [u8]>>,
    softdeps: HashMap<Name<'a>, Softdep<'a>>,
    builtin: HashSet<Name<'a>>,
    blacklist: HashSet<Name<'a>>,
    options: HashMap<Name<'a>, Vec<&'a [u8]>>,
}

/// A module name with `_` in place of `-`.
pub(crate) type Name<'a> = Cow<'a, [u8]>;

/// A pattern and the module it stands for.
type Alias<'a> = (&'a [u8], &'a [u8]);

/// Modules to load before and after one (modprobe.d(5), `softdep`).
#[derive(Debug, Default, PartialEq, Eq)]
struct Softdep<'a> {
    before: Vec<&'a [u8]>,
    after: Vec<&'a [u8]>,
}

/// Folds a module name: `-` and `_` are the same.
pub(crate) fn name(bytes: &[u8]) -> Name<'_> {
    if bytes.contains(&b'-') {
        Cow::Owned(
            bytes
                .iter()
                .map(|b| if *b == b'-' { b'_' } else { *b })
                .collect(),
        )
    } else {
        Cow::Borrowed(bytes)
    }
}

/// Returns the module name of a file: `kernel/drivers/net/virtio_net.ko.xz` → `virtio_net`.
pub(crate) fn name_of_file(path: &[u8]) -> Option<Name<'_>> {
    let base = path.rsplit(|b| *b == b'/').next()?;
    let end = base.windows(3).position(|w| w == b".ko")?;
    Some(name(&base[..end]))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && line[0] != b'#')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

impl<'a> Index<'a> {
    /// Indexes the files; lines that make no sense are passed over, as kmod does.
    pub(crate) fn new(files: &'a Files) -> Self {
        let mut index = Self::default();
        for line in lines(&files.dep) {
            let Some(colon) = line.iter().position(|b| *b == b':') else {
                continue;
            };
            let (file, needs) = (&line[..colon], &line[colon + 1..]);
            if let Some(name) = name_of_file(file) {
                index.modules.insert(name, (file, needs));
            }
        }
        index
            .builtin
            .extend(lines(&files.builtin).filter_map(name_of_file));
        for line in lines(&files.alias)
            .chain(lines(&files.softdep))
            .chain(lines(&files.config))
        {
            index.rule(line);
        }
        index
    }

    /// Takes one line of modprobe.d(5) syntax.
    fn rule(&mut self, line: &'a [u8]) {
        let mut words = words(line);
        match (words.next(), words.next()) {
            (Some(b"alias"), Some(pattern)) => {
                let Some(module) = words.next() else { return };
                if !alias::has_wildcard(pattern) {
                    self.exact.entry(name(pattern)).or_default().push(module);
                    return;
                }
                let list = if alias::has_wildcard(alias::bus(pattern)) {
                    &mut self.any_bus
                } else {
                    self.by_bus.entry(alias::bus(pattern)).or_default()
                };
                list.push((pattern, module));
            }
            (Some(b"softdep"), Some(module)) => {
                let softdep = self.softdeps.entry(name(module)).or_default();
                // Words before the first "pre:" or "post:" mean nothing, as in kmod.
                let mut list = &mut Vec::new();
                for word in words {
                    match word {
                        b"pre:" => list = &mut softdep.before,
                        b"post:" => list = &mut softdep.after,
                        _ => list.push(word),
                    }
                }
            }
            (Some(b"blacklist"), Some(module)) => drop(self.blacklist.insert(name(module))),
            (Some(b"options"), Some(module)) => {
                self.options.entry(name(module)).or_default().extend(words);
            }
            _ => {}
        }
    }

    /// Returns a module's file and the files it needs, both relative to [`Files::directory`].
    pub(crate) fn file(&self, module: &[u8]) -> Option<(&'a [u8], Vec<&'a [u8]>)> {
        let (file, needs) = self.modules.get(name(module).as_ref())?;
        Some((file, words(needs).collect()))
    }

    /// Returns the modules to load before and after one, if they exist.
    pub(crate) fn softdep(&self, module: &[u8]) -> (&[&'a [u8]], &[&'a [u8]]) {
        match self.softdeps.get(name(module).as_ref()) {
            Some(softdep) => (&softdep.before, &softdep.after),
            None => (&[], &[]),
        }
    }

    /// Returns whether a module is part of the kernel image.
    pub(crate) fn is_builtin(&self, module: &[u8]) -> bool {
        self.builtin.contains(name(module).as_ref())
    }

    /// Returns whether a `blacklist` line keeps a module from being loaded for a device.
    pub(crate) fn is_blacklisted(&self, module: &[u8]) -> bool {
        self.blacklist.contains(name(module).as_ref())
    }

    /// Returns the `options` lines' parameters of a module.
    pub(crate) fn options(&self, module: &[u8]) -> &[&'a [u8]] {
        self.options
            .get(name(module).as_ref())
            .map_or(&[], Vec::as_slice)
    }

    /// Returns the modules whose alias matches: exact ones first, then in file order.
    pub(crate) fn resolve(&self, wanted: &[u8]) -> Vec<&'a [u8]> {
        let wanted = name(wanted);
        let exact = self.exact.get(wanted.as_ref()).into_iter().flatten();
        let bus = self.by_bus.get(alias::bus(&wanted)).into_iter().flatten();
        let patterns = bus
            .chain(&self.any_bus)
            .filter(|(pattern, _)| alias::matches(pattern, &wanted))
            .map(|(_, module)| module);
        exact.chain(patterns).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files(dep: &str, alias: &str, softdep: &str, config: &str) -> Files {
        Files {
            directory: "/lib/modules/1".into(),
            dep: dep.into(),
            alias: alias.into(),
            softdep: softdep.into(),
            builtin: b"kernel/fs/binfmt_script.ko\n".to_vec(),
            devname: b"# nodes\ntun net/tun c10:200\nloop loop0 b7:0\nx ../x c1:1\nx y z\n"
                .to_vec(),
            config: config.into(),
        }
    }

    #[test]
    fn reads_what_depmod_writes() {
        let files = files(
            "kernel/a/virtio-net.ko.xz: kernel/b/net_failover.ko.xz kernel/c/failover.ko.xz\nkernel/c/failover.ko.xz:\n",
            "# comment\nalias virtio:d00000001v* virtio_net\nalias fs-ext4 ext4\nalias acpi*:X:* button\n",
            "softdep virtio_net x pre: crypto-md5 post: b c pre: d\n",
            "options virtio-net napi_tx=0 x\nblacklist pc-spkr\n",
        );
        let index = Index::new(&files);
        let (file, needs) = index.file(b"virtio_net").unwrap();
        assert_eq!(file, b"kernel/a/virtio-net.ko.xz");
        assert_eq!(needs.len(), 2);
        assert_eq!(index.resolve(b"virtio:d00000001v00001AF4"), [b"virtio_net"]);
        assert_eq!(index.resolve(b"fs-ext4"), [b"ext4"]);
        assert_eq!(index.resolve(b"acpi:X:Y:"), [b"button"]);
        let (before, after) = index.softdep(b"virtio-net");
        assert_eq!(before, [&b"crypto-md5"[..], b"d"]);
        assert_eq!(after, [b"b", b"c"]);
        let nodes: Vec<_> = files
            .nodes()
            .map(|n| (n.name, n.is_block, n.minor))
            .collect();
        assert_eq!(nodes, [("net/tun", false, 200), ("loop0", true, 0)]);
        assert!(index.is_builtin(b"binfmt-script"));
        assert!(index.is_blacklisted(b"pc_spkr"));
        assert_eq!(index.options(b"virtio_net"), [&b"napi_tx=0"[..], b"x"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(dep: Vec<u8>, alias: Vec<u8>, config: Vec<u8>, wanted: Vec<u8>) {
            let files = Files { dep, alias, devname: config.clone(), config, ..Files::default() };
            let index = Index::new(&files);
            let _ = (files.nodes().count(), index.resolve(&wanted), index.file(&wanted), index.softdep(&wanted));
        }
    }
}
