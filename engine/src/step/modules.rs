//! Kernel modules out of a package, with the indexes that its maintainer script would make.
//!
//! Enters: the tree of a kernel package. Leaves: a tree with `lib/modules/VERSION`: all modules or
//! those asked for with what they need, and depmod's text files for exactly these.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Read;

use kiln_cache::{Cache, Digest};

use crate::system::modules::{Module, Modules, is_module};
use crate::tree::file::FileReader;
use crate::tree::generate::{Body, Node, generate};
use crate::tree::path::is_under;
use crate::tree::{EntryRef, Kind, Tree, TreePath, TreeWriter};

/// Where packages of merged /usr keep modules.
/// The longest `modules.order` or `modules.builtin`; real ones have some 100 KB.
const LIST_MAX_BYTES: u64 = 16 << 20;
const MODULES: &[u8] = b"usr/lib/modules";

/// Takes the modules of a kernel package's tree; `None` when it has none. `patterns` says which.
pub(super) fn modules(
    cache: &Cache,
    tree: &Tree,
    patterns: Option<&[String]>,
) -> Result<Option<Digest>, Box<dyn Error + Send + Sync>> {
    let below = |entry: &EntryRef<'_>| is_under(entry.path(), MODULES);
    let mut writer = TreeWriter::new();
    let mut nodes = Vec::new();
    let versions = tree.iter().filter(below).filter_map(|entry| {
        let name = entry.path().strip_prefix(MODULES)?.strip_prefix(b"/")?;
        (entry.kind() == Kind::Directory && !name.contains(&b'/')).then(|| name.to_vec())
    });
    for version in versions.collect::<Vec<_>>() {
        let root = [MODULES, b"/", &version].concat();
        let text = |name: &str| -> std::io::Result<String> {
            let mut text = String::new();
            if let Some(entry) = tree.find(&[root.as_slice(), b"/", name.as_bytes()].concat()) {
                if entry.size() > LIST_MAX_BYTES {
                    return Err(std::io::ErrorKind::FileTooLarge.into());
                }
                FileReader::open(cache, &entry)?.read_to_string(&mut text)?;
            }
            Ok(text)
        };
        let relative = |entry: &EntryRef<'_>| -> Option<String> {
            let path = entry
                .path()
                .strip_prefix(root.as_slice())?
                .strip_prefix(b"/")?;
            String::from_utf8(path.to_vec()).ok()
        };
        let mut found = Vec::new();
        for entry in tree.iter().filter(|entry| is_under(entry.path(), &root)) {
            if let Some(path) =
                relative(&entry).filter(|path| entry.kind() == Kind::File && is_module(path))
            {
                found.push(Module::read(&path, FileReader::open(cache, &entry)?)?);
            }
        }
        let builtin = text("modules.builtin")?;
        let mut modules = Modules::new(found, &text("modules.order")?, &builtin);
        if let Some(patterns) = patterns {
            modules = modules.prune(patterns)?;
        }
        let kept: BTreeSet<&str> = modules
            .modules()
            .iter()
            .map(|module| module.path.as_str())
            .collect();
        for entry in tree.iter().filter(|entry| is_under(entry.path(), &root)) {
            let Some(path) = relative(&entry) else {
                continue;
            };
            // Directories come back with what is in them.
            if kept.contains(path.as_str()) || path.starts_with("modules.builtin") {
                let to = entry.path().strip_prefix(b"usr/").unwrap_or_default();
                writer.copy_as(&entry, to, 0)?;
            }
        }
        let base = TreePath::from_clean(b"lib/modules").join(&version);
        for (name, text) in [
            ("modules.dep", modules.dep()),
            ("modules.alias", modules.alias()),
            ("modules.softdep", modules.softdep()),
            ("modules.devname", modules.devname()),
            ("modules.order", modules.order()),
        ] {
            nodes.push(Node::new(
                base.join(name.as_bytes()),
                Body::Bytes(text.into_bytes()),
                0o644,
            ));
        }
    }
    if nodes.is_empty() {
        return Ok(None);
    }
    let indexes = Tree::open(cache, &generate(cache, &nodes)?.tree.0)?;
    for entry in indexes.iter() {
        writer.copy(&entry, 0)?;
    }
    Ok(Some(writer.finish(cache)?.0))
}
