//! Kernel modules: which need which, and who serves what.
//!
//! Enters: module files (`.ko`, `.ko.xz`, `.ko.zst`, `.ko.gz`) of one `/lib/modules/VERSION`, and
//! the `modules.order` and `modules.builtin` their package ships. Leaves: the text files that
//! depmod(8) would write: `modules.dep`, `modules.alias`, `modules.softdep`, `modules.devname`; for
//! all modules, or for those that some patterns need.
//!
//! The files' own `depends=` strings suffice (modpost wrote them when the kernel was built), so no
//! symbol is looked up. The `.bin` forms are for kmod's `modprobe`, which reads the text forms
//! when they are absent; `modules.symbols` only serves `modprobe symbol:NAME`. Neither is written.
//! What a module asks for while it runs (`request_module`) is written down nowhere but in aliases.

pub mod modinfo;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use self::modinfo::ModinfoError;
use crate::source::debian::inflate::Compression;

/// Longest module that is read, inflated, in bytes.
pub const MODULE_LIMIT: u64 = 128 << 20;
/// How many similar names are offered for an unknown one.
const NEAREST: usize = 3;

/// What is wrong with modules.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file cannot be read.
    #[error("module {path}: {source}")]
    Read {
        /// The module.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file is not a module.
    #[error("module {path}: {source}")]
    Modinfo {
        /// The module.
        path: String,
        /// Why.
        source: ModinfoError,
    },
    /// A string of a module that cannot stand in a text file.
    #[error("module {path}: {key}={value:?} has characters that do not belong there")]
    Value {
        /// The module.
        path: String,
        /// Which string.
        key: String,
        /// Its value.
        value: String,
    },
    /// A pattern that no module matches.
    #[error("no kernel module is called or lies at \"{pattern}\"{}", similar_text(.similar))]
    Unknown {
        /// As written.
        pattern: String,
        /// Similar names.
        similar: Vec<String>,
    },
}

fn similar_text(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!("; similar: {}", names.join(", ")),
    }
}

/// One module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path below `/lib/modules/VERSION`.
    pub path: String,
    /// Its name: the file's, with `_` for `-`.
    pub name: String,
    /// Names of modules that must be loaded before.
    pub depends: Vec<String>,
    /// What it serves, with `*` and `?`.
    pub aliases: Vec<String>,
    /// `pre:` and `post:` lists, as written.
    pub softdeps: Vec<String>,
}

/// Whether a path names a module file.
#[must_use]
pub fn is_module(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .any(|end| file.len() > end.len() && file.ends_with(end))
}

/// The name of the module in a file: up to the first dot, `-` written `_`.
#[must_use]
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

impl Module {
    /// Reads a module; `path` is relative to `/lib/modules/VERSION` and tells the compression.
    ///
    /// # Errors
    /// Files that cannot be read, are too long or are not modules.
    pub fn read(path: &str, reader: impl Read) -> Result<Self, ModulesError> {
        let failed = |source| ModulesError::Read {
            path: path.to_owned(),
            source,
        };
        let compression = match path.rsplit_once('.') {
            Some((_, "ko")) => Compression::None,
            _ => Compression::of_name(path).unwrap_or(Compression::None),
        };
        let mut bytes = Vec::new();
        let inflated = compression.inflate(reader).map_err(failed)?;
        inflated
            .take(MODULE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > MODULE_LIMIT {
            return Err(failed(io::Error::other(format!(
                "longer than {MODULE_LIMIT} bytes"
            ))));
        }
        Self::parse(path, &bytes)
    }

    fn parse(path: &str, elf: &[u8]) -> Result<Self, ModulesError> {
        let pairs = modinfo::modinfo(elf).map_err(|source| ModulesError::Modinfo {
            path: path.to_owned(),
            source,
        })?;
        let mut module = Self {
            path: path.to_owned(),
            name: module_name(path),
            depends: Vec::new(),
            aliases: Vec::new(),
            softdeps: Vec::new(),
        };
        for (key, value) in pairs {
            // Aliases and softdeps become words of text files.
            let spaces = key == "softdep";
            let bad = |c: char| c.is_control() || (c.is_whitespace() && !(spaces && c == ' '));
            if matches!(key, "depends" | "alias" | "softdep") && value.contains(bad) {
                let (path, key, value) = (path.to_owned(), key.to_owned(), value.to_owned());
                return Err(ModulesError::Value { path, key, value });
            }
            match key {
                "depends" => module.depends.extend(
                    value
                        .split(',')
                        .filter(|name| !name.is_empty())
                        .map(|name| name.replace('-', "_")),
                ),
                "alias" => module.aliases.push(value.to_owned()),
                "softdep" => module.softdeps.push(value.to_owned()),
                _ => {}
            }
        }
        Ok(module)
    }

    /// The names in its softdeps, `pre:` and `post:` alike.
    fn soft_names(&self) -> impl Iterator<Item = &str> {
        let words = self.softdeps.iter().flat_map(|text| text.split(' '));
        words.filter(|word| !word.is_empty() && !matches!(*word, "pre:" | "post:"))
    }
}

/// All modules of a kernel, in the order of its `modules.order`; what is not in there comes
/// after, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    modules: Vec<Module>,
    by_name: BTreeMap<String, usize>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Orders modules. `order` and `builtin` are the texts of `modules.order` and
    /// `modules.builtin`, empty where there is none. Of two modules of one name, that in
    /// `updates/` counts, or else the first by path, as in depmod's default configuration.
    #[must_use]
    pub fn new(mut modules: Vec<Module>, order: &str, builtin: &str) -> Self {
        let stem = |path: &str| path.split(".ko").next().unwrap_or(path).to_owned();
        let place: BTreeMap<String, usize> = order
            .lines()
            .enumerate()
            .map(|(at, line)| (stem(line.trim()), at))
            .collect();
        modules.sort_by(|one, two| {
            let key = |module: &Module| (!module.path.starts_with("updates/"), module.path.clone());
            key(one).cmp(&key(two))
        });
        let mut names = BTreeSet::new();
        modules.retain(|module| names.insert(module.name.clone()));
        modules.sort_by_cached_key(|module| {
            (
                place
                    .get(&stem(&module.path))
                    .copied()
                    .unwrap_or(usize::MAX),
                module.path.clone(),
            )
        });
        let by_name = modules
            .iter()
            .enumerate()
            .map(|(at, module)| (module.name.clone(), at))
            .collect();
        let builtin = builtin
            .lines()
            .filter(|line| !line.is_empty())
            .map(module_name)
            .collect();
        Self {
            modules,
            by_name,
            builtin,
        }
    }

    /// The modules in order.
    #[must_use]
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Dependencies that are neither modules here nor built in: module, and what it misses.
    pub fn missing(&self) -> impl Iterator<Item = (&str, &str)> {
        self.modules.iter().flat_map(|module| {
            let gone =
                |name: &&String| !self.by_name.contains_key(*name) && !self.builtin.contains(*name);
            module
                .depends
                .iter()
                .filter(gone)
                .map(|name| (module.path.as_str(), name.as_str()))
        })
    }

    /// All modules that must be loaded before one, in the order of `modules.dep`: each stands
    /// before those it needs itself, so that loading goes from the last to the first.
    fn before(&self, start: usize) -> Vec<usize> {
        let needs = |at: usize| {
            self.modules[at]
                .depends
                .iter()
                .filter_map(|name| self.by_name.get(name))
        };
        let (mut order, mut seen) = (Vec::new(), BTreeSet::from([start]));
        let mut stack = vec![(start, needs(start))];
        while let Some((at, rest)) = stack.last_mut() {
            match rest.next() {
                Some(&next) if seen.insert(next) => stack.push((next, needs(next))),
                Some(_) => {}
                None => {
                    order.push(*at);
                    stack.pop();
                }
            }
        }
        order.pop(); // the module itself
        order.reverse();
        order
    }

    /// The text of `modules.dep`.
    #[must_use]
    pub fn dep(&self) -> String {
        let mut text = String::new();
        for (at, module) in self.modules.iter().enumerate() {
            text.push_str(&module.path);
            text.push(':');
            for other in self.before(at) {
                text.push(' ');
                text.push_str(&self.modules[other].path);
            }
            text.push('\n');
        }
        text
    }

    /// The text of `modules.alias`.
    #[must_use]
    pub fn alias(&self) -> String {
        let mut text = "# Aliases extracted from modules themselves.\n".to_owned();
        for module in &self.modules {
            for alias in &module.aliases {
                text.push_str(&format!("alias {alias} {}\n", module.name));
            }
        }
        text
    }

    /// The text of `modules.softdep`.
    #[must_use]
    pub fn softdep(&self) -> String {
        let mut text = "# Soft dependencies extracted from modules themselves.\n".to_owned();
        for module in &self.modules {
            for softdep in &module.softdeps {
                text.push_str(&format!("softdep {} {softdep}\n", module.name));
            }
        }
        text
    }

    /// The text of `modules.devname`: device nodes that can be made before their module is
    /// loaded.
    #[must_use]
    pub fn devname(&self) -> String {
        let mut text = "# Device nodes to trigger on-demand module loading.\n".to_owned();
        for module in &self.modules {
            let name = module
                .aliases
                .iter()
                .rev()
                .find_map(|alias| alias.strip_prefix("devname:"));
            let node = module.aliases.iter().find_map(|alias| device(alias));
            if let (Some(name), Some((kind, major, minor))) = (name, node) {
                text.push_str(&format!("{} {name} {kind}{major}:{minor}\n", module.name));
            }
        }
        text
    }

    /// The text of `modules.order`.
    #[must_use]
    pub fn order(&self) -> String {
        self.modules
            .iter()
            .map(|module| format!("{}\n", module.path))
            .collect()
    }

    /// Picks the modules that `patterns` name, and all they need: dependencies and softdeps, of
    /// these too. A pattern is the name of a module, or a path (it holds a `/`): of a module,
    /// with or without ending, or of a directory; `*` and `?` match within one part of either.
    /// Names of what is built in are fine and add nothing.
    ///
    /// # Errors
    /// [`ModulesError::Unknown`].
    pub fn prune(&self, patterns: &[String]) -> Result<Self, ModulesError> {
        let mut todo = Vec::new();
        for pattern in patterns {
            let found: Vec<usize> = (0..self.modules.len())
                .filter(|&at| self.matches(at, pattern))
                .collect();
            if found.is_empty() && !self.is_builtin(pattern) {
                let similar = self.similar(pattern);
                return Err(ModulesError::Unknown {
                    pattern: pattern.clone(),
                    similar,
                });
            }
            todo.extend(found);
        }
        let mut kept = BTreeSet::new();
        while let Some(at) = todo.pop() {
            if kept.insert(at) {
                let module = &self.modules[at];
                todo.extend(
                    module
                        .depends
                        .iter()
                        .filter_map(|name| self.by_name.get(name)),
                );
                module
                    .soft_names()
                    .for_each(|name| todo.extend(self.serving(name)));
            }
        }
        let modules: Vec<Module> = kept
            .into_iter()
            .map(|at| self.modules[at].clone())
            .collect();
        let by_name = modules
            .iter()
            .enumerate()
            .map(|(at, module)| (module.name.clone(), at))
            .collect();
        Ok(Self {
            modules,
            by_name,
            builtin: self.builtin.clone(),
        })
    }

    fn matches(&self, at: usize, pattern: &str) -> bool {
        let module = &self.modules[at];
        if !pattern.contains('/') {
            return glob(&pattern.replace('-', "_"), &module.name);
        }
        let mut parts = module.path.split('/').peekable();
        for wanted in pattern.trim_matches('/').split('/') {
            let Some(part) = parts.next() else {
                return false;
            };
            let stem = part.split(".ko").next().unwrap_or(part);
            if !(glob(wanted, part) || (parts.peek().is_none() && glob(wanted, stem))) {
                return false;
            }
        }
        true
    }

    fn is_builtin(&self, pattern: &str) -> bool {
        let name = module_name(pattern);
        self.builtin.iter().any(|builtin| glob(&name, builtin))
    }

    /// The modules that a softdep means: by name, or else by alias.
    fn serving(&self, name: &str) -> Vec<usize> {
        let name = name.replace('-', "_");
        if let Some(&at) = self.by_name.get(&name) {
            return vec![at];
        }
        let serves = |module: &Module| {
            module
                .aliases
                .iter()
                .any(|alias| glob(&alias.replace('-', "_"), &name))
        };
        (0..self.modules.len())
            .filter(|&at| serves(&self.modules[at]))
            .collect()
    }

    /// Names that hold the pattern's letters, or begin like it.
    fn similar(&self, pattern: &str) -> Vec<String> {
        let name = module_name(pattern).replace(['*', '?'], "");
        let start: String = name.chars().take(4).collect();
        let like = |other: &&String| {
            !name.is_empty() && (other.contains(&name) || other.starts_with(&start))
        };
        self.by_name
            .keys()
            .filter(like)
            .take(NEAREST)
            .cloned()
            .collect()
    }
}

/// Reads `char-major-M-N` or `block-major-M-N`.
fn device(alias: &str) -> Option<(char, u32, u32)> {
    let (kind, rest) = match alias.strip_prefix("char-major-") {
        Some(rest) => ('c', rest),
        None => ('b', alias.strip_prefix("block-major-")?),
    };
    let (major, minor) = rest.split_once('-')?;
    Some((kind, major.parse().ok()?, minor.parse().ok()?))
}

/// Whether `text` matches a pattern of `*` (any run), `?` (any character) and `[…]` (as fnmatch(3);
/// aliases hold sets such as `[0-9]`). Takes time in proportion to both lengths, whatever they are.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match one(&pattern[p..], text[t]) {
            Some(0) => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(used) => {
                p += used;
                t += 1;
            }
            None => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (p, t) = (star, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Matches one byte with the head of a pattern: how much of the pattern it takes, 0 for a star,
/// none when it does not match.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'*' => Some(0),
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|&b| b == b']')?;
            let (not, set) = match pattern[1..end].split_first() {
                Some((b'!' | b'^', set)) => (true, set),
                _ => (false, &pattern[1..end]),
            };
            let mut found = false;
            let mut at = 0;
            while at < set.len() {
                if at + 2 < set.len() && set[at + 1] == b'-' {
                    found |= (set[at]..=set[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= set[at] == byte;
                    at += 1;
                }
            }
            (found != not).then_some(end + 1)
        }
        other => (*other == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::source::debian::transport::testing::Net;
    use crate::source::debian::{DebianRequest, fetch, index, solve::solve, sources};

    fn module(path: &str, strings: &[&str]) -> Module {
        Module::read(path, &modinfo::testing::module(strings)[..]).unwrap()
    }

    fn toy() -> Modules {
        let modules = vec![
            module(
                "kernel/fs/ext4/ext4.ko",
                &[
                    "depends=jbd2,mbcache,crc16",
                    "alias=fs-ext4",
                    "softdep=pre: crc32c",
                ],
            ),
            module("kernel/fs/jbd2/jbd2.ko", &["depends="]),
            module("kernel/fs/mbcache.ko", &[]),
            module(
                "kernel/drivers/net/virtio_net.ko",
                &["depends=net_failover", "alias=virtio:d00000001v*"],
            ),
            module("kernel/drivers/net/net_failover.ko", &["depends=failover"]),
            module("kernel/net/core/failover.ko", &[]),
            module(
                "kernel/crypto/crc32c_generic.ko",
                &["alias=crc32c", "alias=crypto-crc32c"],
            ),
            module(
                "kernel/drivers/net/tun.ko",
                &["alias=devname:net/tun", "alias=char-major-10-200"],
            ),
            module(
                "updates/tun.ko",
                &["alias=devname:net/tun", "alias=char-major-10-200"],
            ),
        ];
        let order = "kernel/fs/mbcache.ko\nkernel/fs/jbd2/jbd2.ko\nkernel/fs/ext4/ext4.ko\n";
        Modules::new(
            modules,
            order,
            "kernel/lib/crc16.ko\nkernel/drivers/virtio/virtio-pci.ko\n",
        )
    }

    fn names(modules: &Modules) -> String {
        modules
            .modules()
            .iter()
            .map(|module| module.name.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn writes_what_depmod_writes() {
        let toy = toy();
        assert_eq!(
            toy.dep(),
            "kernel/fs/mbcache.ko:\n\
             kernel/fs/jbd2/jbd2.ko:\n\
             kernel/fs/ext4/ext4.ko: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko\n\
             kernel/crypto/crc32c_generic.ko:\n\
             kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
             kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n\
             kernel/net/core/failover.ko:\n\
             updates/tun.ko:\n"
        );
        assert!(
            toy.alias()
                .contains("alias virtio:d00000001v* virtio_net\n")
        );
        assert!(toy.softdep().ends_with("softdep ext4 pre: crc32c\n"));
        assert!(toy.devname().ends_with("tun net/tun c10:200\n"));
        assert_eq!(toy.missing().count(), 0, "crc16 is built in");
        let alone = Modules::new(vec![module("a.ko", &["depends=b-c"])], "", "");
        assert_eq!(alone.missing().collect::<Vec<_>>(), [("a.ko", "b_c")]);
    }

    #[test]
    fn keeps_what_patterns_need() {
        let toy = toy();
        let prune = |patterns: &[&str]| {
            let patterns: Vec<String> =
                patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            toy.prune(&patterns)
                .map(|kept| names(&kept))
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            prune(&["ext4"]).unwrap(),
            "mbcache jbd2 ext4 crc32c_generic"
        );
        assert_eq!(
            prune(&["virtio-net"]).unwrap(),
            "net_failover virtio_net failover"
        );
        assert_eq!(
            prune(&["kernel/drivers/net/virtio*"]).unwrap(),
            "net_failover virtio_net failover"
        );
        assert_eq!(
            prune(&["kernel/fs"]).unwrap(),
            "mbcache jbd2 ext4 crc32c_generic"
        );
        assert_eq!(
            prune(&["kernel/*/jbd2/", "kernel/net/core/failover"]).unwrap(),
            "jbd2 failover"
        );
        assert_eq!(
            prune(&["virtio_pci", "virtio-pci", "crc*"]).unwrap(),
            "crc32c_generic"
        );
        assert_eq!(prune(&[]).unwrap(), "");
        assert_eq!(
            prune(&["virtio_network"]).unwrap_err(),
            "no kernel module is called or lies at \"virtio_network\"; similar: virtio_net"
        );
        assert!(prune(&["kernel/fs/ext4/ext4.ko/x"]).is_err());
        assert!(prune(&["fs/ext4"]).is_err(), "paths begin at the top");
    }

    #[test]
    fn a_circle_ends() {
        let circle = Modules::new(
            vec![
                module("a.ko", &["depends=b"]),
                module("b.ko", &["depends=a,b"]),
            ],
            "",
            "",
        );
        assert_eq!(circle.dep(), "a.ko: b.ko\nb.ko: a.ko\n");
        assert_eq!(names(&circle.prune(&["a".to_owned()]).unwrap()), "a b");
    }

    #[test]
    fn refuses_what_would_break_the_files() {
        let read = |strings: &[&str]| Module::read("x.ko", &modinfo::testing::module(strings)[..]);
        for bad in [
            "alias=a b",
            "alias=a\nb",
            "depends=a b",
            "softdep=pre: a\npost: b",
        ] {
            assert!(
                matches!(read(&[bad]), Err(ModulesError::Value { .. })),
                "{bad}"
            );
        }
        let error = Module::read("x.ko.xz", &b"no"[..]).unwrap_err().to_string();
        assert!(error.starts_with("module x.ko.xz: "), "{error}");
        assert!(is_module("a/x.ko.zst") && !is_module("a/x.koz") && !is_module("a/.ko"));
        assert_eq!(module_name("a/snd-hda-intel.ko.xz"), "snd_hda_intel");
    }

    /// Debian's kernel, as it comes from the mirrors of this host: depmod says the same.
    #[test]
    fn agrees_with_depmod_on_debians_kernel() {
        let request = DebianRequest {
            suite: None,
            packages: vec!["linux-image-cloud-amd64".to_owned()],
            mirror: None,
            keyring: None,
            architecture: "amd64".to_owned(),
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let net = Net::new();
        let trusted = sources(Path::new("/"), &request).unwrap();
        let index = index(&net, &trusted, "amd64", i64::try_from(now).unwrap())
            .unwrap_or_else(|error| panic!("{error}"));
        let packages = solve(&index, &request).unwrap();
        let kernel = packages
            .iter()
            .find(|package| package.size > 5_000_000)
            .unwrap();
        let mut data = fetch(&net, kernel).unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().unwrap();
        let mut archive = tar::Archive::new(&mut data);
        let (mut modules, mut texts, mut version) = (Vec::new(), BTreeMap::new(), String::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let Some((this, path)) = path
                .strip_prefix("./lib/modules/")
                .and_then(|rest| rest.split_once('/'))
            else {
                continue;
            };
            if !entry.header().entry_type().is_file() {
                continue;
            }
            version = this.to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let target = dir.path().join("lib/modules").join(this).join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(&target, &bytes).unwrap();
            if is_module(path) {
                modules.push(Module::read(path, &bytes[..]).unwrap());
            } else {
                texts.insert(
                    path.to_owned(),
                    String::from_utf8_lossy(&bytes).into_owned(),
                );
            }
        }
        data.finish().unwrap();
        assert!(modules.len() > 500);
        let modules = Modules::new(modules, &texts["modules.order"], &texts["modules.builtin"]);
        assert_eq!(modules.missing().collect::<Vec<_>>(), []);

        let status = Command::new("depmod")
            .arg("-b")
            .arg(dir.path())
            .arg(&version)
            .status()
            .expect("depmod is there");
        assert!(status.success());
        let theirs = |name: &str| {
            fs::read_to_string(dir.path().join("lib/modules").join(&version).join(name)).unwrap()
        };
        let lines = |text: &str| {
            text.lines()
                .map(str::to_owned)
                .collect::<BTreeSet<String>>()
        };
        for (name, mine) in [
            ("modules.alias", modules.alias()),
            ("modules.softdep", modules.softdep()),
            ("modules.devname", modules.devname()),
        ] {
            assert_eq!(lines(&mine), lines(&theirs(name)), "{name}");
        }
        let paths = |text: &str| {
            text.lines()
                .map(|line| line.split(':').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let sets = |text: &str| {
            let set = |line: &str| {
                let (path, deps) = line.split_once(':').unwrap();
                (
                    path.to_owned(),
                    deps.split_ascii_whitespace()
                        .map(str::to_owned)
                        .collect::<BTreeSet<_>>(),
                )
            };
            text.lines().map(set).collect::<BTreeMap<_, _>>()
        };
        let (mine, theirs) = (modules.dep(), theirs("modules.dep"));
        assert_eq!(paths(&mine), paths(&theirs), "the order of modules.order");
        let sets = (sets(&mine), sets(&theirs));
        assert_eq!(sets.0, sets.1);
        // Among equals depmod's order depends on symbol tables; what counts is that nothing
        // stands before what needs it.
        for line in mine.lines() {
            let deps: Vec<&str> = line
                .split_once(':')
                .unwrap()
                .1
                .split_ascii_whitespace()
                .collect();
            for (at, dep) in deps.iter().enumerate() {
                assert!(
                    deps[..at]
                        .iter()
                        .all(|before| !sets.0[*dep].contains(*before)),
                    "{line}"
                );
            }
        }
        let virtio = modules
            .prune(&["kernel/drivers/net/virtio*".to_owned(), "btrfs".to_owned()])
            .unwrap();
        let kept = names(&virtio);
        for name in [
            "virtio_net",
            "net_failover",
            "btrfs",
            "raid6_pq",
            "xxhash_generic",
        ] {
            assert!(kept.contains(name), "{name}: {kept}");
        }
    }

    proptest! {
        #[test]
        fn globs_as_fnmatch(pattern in "[ab*?]{0,6}", text in "[ab]{0,6}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
                    (Some((b'?', rest)), Some((_, more))) => slow(rest, more),
                    (Some((byte, rest)), Some((other, more))) => byte == other && slow(rest, more),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn globs_never_panic(pattern in "[ab*?\\[\\]!^-]{0,12}", text in "[ab\\[-]{0,12}") {
            let _ = glob(&pattern, &text);
        }

        #[test]
        fn needs_of_a_selection_are_in_it(edges in prop::collection::vec((0..8_usize, 0..8_usize), 0..16), pick in 0..8_usize) {
            let modules = (0..8).map(|at| {
                let depends: Vec<String> = edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| format!("m{to}")).collect();
                module(&format!("m{at}.ko"), &[&format!("depends={}", depends.join(","))])
            });
            let kept = Modules::new(modules.collect(), "", "").prune(&[format!("m{pick}")]).unwrap();
            prop_assert_eq!(kept.missing().count(), 0);
            for line in kept.dep().lines() {
                let (path, deps) = line.split_once(':').unwrap();
                prop_assert!(!deps.split(' ').any(|dep| dep == path));
            }
        }
    }

    #[test]
    fn sets_in_patterns() {
        for (pattern, text, wanted) in [
            ("a[0-9]b", "a5b", true),
            ("a[!0-9]b", "a5b", false),
            ("a[xy]*", "ay", true),
            ("a[", "a[", false),
            ("a[-9]", "a-", true),
            (
                "pci:v*d*bc02sc00i*",
                "pci:v00001AF4d00001000sv1sd1bc02sc00i00",
                true,
            ),
        ] {
            assert_eq!(glob(pattern, text), wanted, "{pattern} {text}");
        }
    }
}
