//! Differences in containers: capabilities, keys that LinuxKit drops, namespaces, mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::difference as d;
use super::find::{Finder, first_key, get, items, text};
use crate::spec::grammar;
use crate::spec::node::{Entry, Node, Value, clip};

/// Keys that LinuxKit's schema takes and its decoder misses, below a container.
const DROPPED: &[&[&str]] = &[
    &["resources", "memory", "kernelTCP"],
    &["resources", "memory", "disableOOMKiller"],
    &["resources", "cpu", "realtimeRuntime"],
    &["resources", "cpu", "realtimePeriod"],
    &["resources", "blockio", "leafWeight"],
    &["resources", "blockio", "weightDevice"],
    &["resources", "blockio", "throttleReadBpsDevice"],
    &["resources", "blockio", "throttleWriteBpsDevice"],
    &["resources", "blockio", "throttleReadIOPSDevice"],
    &["resources", "blockio", "throttleWriteIOPSDevice"],
    &["resources", "hugepageLimits"],
    &["resources", "network", "classID"],
    &["uidMappings"],
    &["gidMappings"],
];

impl Finder<'_> {
    pub(super) fn container(&mut self, node: &Node, path: &str) {
        self.image(node, path);
        for key in ["capabilities", "capabilities.add", "ambient"] {
            self.capabilities(node, key, path);
        }
        self.dropped_keys(node, path);
        for key in ["ipc", "uts"] {
            if text(node, key) == Some("none")
                && let Some(entry) = get(node, key)
            {
                self.found(
                    &d::NAMESPACE_NONE,
                    &entry.value.range,
                    format!("{path}.{key}: none"),
                );
            }
        }
        for key in [
            "cwd",
            "net",
            "pid",
            "ipc",
            "uts",
            "userns",
            "hostname",
            "rootfsPropagation",
            "cgroupsPath",
        ] {
            if text(node, key) == Some("")
                && let Some(entry) = get(node, key)
            {
                self.found(&d::EMPTY_TEXT, &entry.value.range, format!("{path}.{key}"));
            }
        }
        self.mounts(node, path);
    }

    fn capabilities(&mut self, node: &Node, key: &str, path: &str) {
        let list = items(node, key);
        let mut seen = BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            let Value::String(name) = &item.value else {
                continue;
            };
            let what = || format!("{path}.{key}[{index}]: {}", clip(name));
            let is_all = name.eq_ignore_ascii_case("all");
            if is_all && (list.len() > 1 || key == "capabilities.add") {
                self.found(&d::ALL_AMONG_OTHERS, &item.range, what());
            } else if !seen.insert(name) {
                self.found(&d::CAPABILITY_TWICE, &item.range, what());
            }
        }
    }

    fn dropped_keys(&mut self, node: &Node, path: &str) {
        for keys in DROPPED {
            let mut here = Some(node);
            let mut entry = None;
            for key in *keys {
                entry = here.and_then(|node| get(node, key));
                here = entry.map(|entry| &*entry.value);
            }
            let Some(entry) = entry else { continue };
            let what = format!("{path}.{}", keys.join("."));
            match keys.last() {
                // Of a mapping only the size is kept.
                Some(&"uidMappings" | &"gidMappings") => self.mappings(entry, &what),
                _ => self.found(&d::DROPPED_KEY, &entry.key_range, what),
            }
        }
        for (index, mount) in items(node, "mounts").iter().enumerate() {
            for key in ["uidmappings", "gidmappings"] {
                if let Some(entry) = get(mount, key) {
                    let what = format!("{path}.mounts[{index}].{key}");
                    self.found(&d::DROPPED_KEY, &entry.key_range, what);
                }
            }
            for key in ["uidMappings", "gidMappings"] {
                if let Some(entry) = get(mount, key) {
                    let what = format!("{path}.mounts[{index}].{key}");
                    self.found(&d::KILN_ONLY, &entry.key_range, what);
                }
            }
        }
    }

    fn mappings(&mut self, entry: &Entry, path: &str) {
        let Value::List(list) = &entry.value.value else {
            return;
        };
        for (index, mapping) in list.iter().enumerate() {
            for key in ["hostID", "containerID"] {
                if let Some(entry) = get(mapping, key) {
                    self.found(
                        &d::DROPPED_KEY,
                        &entry.key_range,
                        format!("{path}[{index}].{key}"),
                    );
                }
            }
        }
    }

    fn mounts(&mut self, node: &Node, path: &str) {
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        for (index, item) in items(node, "tmpfs").iter().enumerate() {
            if let Value::String(text) = &item.value
                && let Ok(tmpfs) = grammar::tmpfs(text)
            {
                self.place(
                    &mut taken,
                    &tmpfs.destination,
                    item,
                    &format!("{path}.tmpfs[{index}]"),
                );
            }
        }
        for key in ["binds", "binds.add"] {
            for (index, item) in items(node, key).iter().enumerate() {
                let Value::String(text) = &item.value else {
                    continue;
                };
                let Ok(bind) = grammar::bind(text) else {
                    continue;
                };
                let what = format!("{path}.{key}[{index}]");
                self.place(&mut taken, &bind.destination, item, &what);
                let what = format!("{what}: {}", clip(text));
                self.volume(&bind.source, &item.range, &what);
                let options = bind.options.unwrap_or_default();
                let is_readonly = self.volumes.get(&bind.source).is_some_and(|it| it.readonly);
                if is_readonly && options.len() > 1 && options.iter().any(|option| option == "ro") {
                    self.found(&d::READONLY_VOLUME, &item.range, what);
                }
            }
        }
        for (index, mount) in items(node, "mounts").iter().enumerate() {
            let Some(range) = first_key(mount) else {
                continue;
            };
            let what = format!("{path}.mounts[{index}]");
            if let Some(destination) = text(mount, "destination") {
                self.place(&mut taken, destination, mount, &what);
            }
            let source = text(mount, "source").unwrap_or_default();
            if text(mount, "type") == Some("bind") && self.volumes.contains_key(source) {
                let range = get(mount, "source").map_or(range, |entry| entry.value.range.clone());
                let what = format!("{what}.source: {}", clip(source));
                self.found(&d::MOUNT_VOLUME, &range, what.clone());
                self.volume(source, &range, &what);
            }
        }
    }

    /// Notes where something is mounted.
    fn place(
        &mut self,
        taken: &mut BTreeMap<String, String>,
        destination: &str,
        node: &Node,
        what: &str,
    ) {
        if let Some(before) = taken.insert(destination.to_owned(), what.to_owned()) {
            let range = first_key(node).unwrap_or_else(|| node.range.clone());
            let what = format!("{what}: {} again, as {before}", clip(destination));
            self.found(&d::MOUNT_TWICE, &range, what);
        }
    }

    fn volume(&mut self, name: &str, range: &Range<usize>, what: &str) {
        if self.volumes.get(name).is_some_and(|volume| !volume.is_last) {
            self.found(&d::EARLIER_VOLUME, range, what);
        }
    }
}
