//! Differences in `files`: paths, what becomes of them at boot, directories above them.

use std::collections::BTreeSet;
use std::ops::Range;

use super::difference as d;
use super::find::{Finder, get, items, text};
use crate::spec::grammar;
use crate::spec::node::{Node, Value, clip};

/// Directories that the init covers with empty file systems.
const HIDDEN: [&str; 3] = ["run", "tmp", "var"];

impl Finder<'_> {
    pub(super) fn files(&mut self, root: &Node) {
        // Directories that LinuxKit has written in this section, and therefore leaves alone.
        let mut written: BTreeSet<String> = BTreeSet::new();
        for (index, file) in items(root, "files").iter().enumerate() {
            let Some(entry) = get(file, "path") else {
                continue;
            };
            let Value::String(text) = &entry.value.value else {
                continue;
            };
            let Ok(path) = grammar::relative_path(text) else {
                continue;
            };
            let range = &entry.value.range;
            let what = format!("files[{index}]: {}", clip(text));
            if text.strip_prefix('/').unwrap_or(text) != path {
                self.found(&d::UNCLEAN_PATH, range, what.clone());
            }
            let mut parts = path.split('/');
            let first = parts.next().unwrap_or_default();
            let is_below = parts.next().is_some();
            if HIDDEN.contains(&first) && is_below {
                self.found(&d::HIDDEN_AT_BOOT, range, what.clone());
            }
            if first == "boot" {
                self.found(&d::NOT_IN_INITRD, range, what);
            }
            self.parents(file, &path, range, index, &mut written);
            written.insert(path);
        }
    }

    fn parents(
        &mut self,
        file: &Node,
        path: &str,
        range: &Range<usize>,
        index: usize,
        written: &mut BTreeSet<String>,
    ) {
        let is_directory = get(file, "directory")
            .is_some_and(|entry| matches!(entry.value.value, Value::Bool(true)));
        let default = if is_directory { 0o700 } else { 0o600 };
        let mode = text(file, "mode").filter(|mode| !mode.is_empty());
        let mode = mode
            .and_then(|mode| grammar::mode(mode).ok())
            .map_or(default, |mode| mode.bits);
        let searchable = [0o100, 0o010, 0o001]
            .into_iter()
            .filter(|x| mode & (x * 7) != 0)
            .fold(mode, |mode, x| mode | x);
        let owners: Vec<String> = ["uid", "gid"]
            .into_iter()
            .filter_map(|key| Some((key, get(file, key)?)))
            .filter_map(|(key, entry)| match &entry.value.value {
                Value::Integer(0, _) => None,
                Value::Integer(_, text) => Some(format!("{key} {text}")),
                Value::String(name) if name.is_empty() || name == "root" => None,
                Value::String(name) => Some(format!("{key} {}", clip(name))),
                _ => None,
            })
            .collect();
        let mut reset = Vec::new();
        for (end, _) in path.match_indices('/') {
            if written.insert(path[..end].to_owned()) {
                reset.push(&path[..end]);
            }
        }
        if let Some(outermost) = reset.first()
            && (searchable != 0o755 || !owners.is_empty())
        {
            let mut becomes = vec![format!("{searchable:04o}")];
            becomes.extend(owners);
            let more = match reset.len() {
                1 => String::new(),
                count => format!(" and {} below", count - 1),
            };
            let what = format!(
                "files[{index}]: /{}{more}: {} in LinuxKit",
                clip(outermost),
                becomes.join(", ")
            );
            self.found(&d::PARENT_MODE, range, what);
        }
    }
}
