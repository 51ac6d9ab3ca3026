//! What a root file system's tar says, so far as it matters: one line a path, JSON parsed.
//!
//! Enters: a tar of either builder. Leaves: its final state, the registry's address replaced by
//! `REGISTRY`, hard links by what they name, and of paths that occur twice the last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::support::layout::hex;

/// The facts of one tar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Path → facts.
    pub(super) paths: BTreeMap<String, Fact>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// `file`, `directory`, `symlink`, `char`, `block` or `fifo`.
    pub(super) kind: String,
    /// Permission bits, octal.
    pub(super) mode: String,
    /// `UID:GID`
    pub(super) owner: String,
    /// Modification time in seconds since 1970.
    pub(super) mtime: u64,
    /// `LINUXKIT.location`
    pub(super) location: String,
    /// `LINUXKIT.source`
    pub(super) source: String,
    /// Text, parsed JSON, the target of a link, or the digest of what is neither short nor text.
    pub(super) content: Value,
}

/// Text up to here is kept as it is.
const TEXT_MAX: usize = 4096;

impl Facts {
    pub(super) fn of(tar: &Path, registry: &str) -> Self {
        let mut paths: BTreeMap<String, Fact> = BTreeMap::new();
        let mut archive = tar::Archive::new(File::open(tar).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let name = text(&entry.path_bytes());
            let name = name
                .trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned();
            let link = entry.link_name_bytes().map(|link| text(&link));
            let mut records = BTreeMap::new();
            if let Some(extensions) = entry.pax_extensions().unwrap() {
                for record in extensions {
                    let record = record.unwrap();
                    let value = record.value().unwrap().replace(registry, "REGISTRY");
                    records.insert(record.key().unwrap().to_owned(), value);
                }
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let header = entry.header();
            let kind = match header.entry_type() {
                tar::EntryType::Regular => "file",
                tar::EntryType::Directory => "directory",
                tar::EntryType::Symlink => "symlink",
                // Who put it there is its own; the rest is that of what it names.
                tar::EntryType::Link => "link",
                other => panic!("{name} is a {other:?}"),
            };
            let mut record = |key: &str| records.remove(key).unwrap_or_default();
            let fact = Fact {
                kind: kind.to_owned(),
                mode: format!("{:04o}", header.mode().unwrap() & 0o7777),
                owner: format!("{}:{}", header.uid().unwrap(), header.gid().unwrap()),
                mtime: header.mtime().unwrap(),
                location: record("LINUXKIT.location"),
                source: record("LINUXKIT.source"),
                content: match link {
                    Some(link) => json!(link),
                    None => content(&name, &bytes, registry),
                },
            };
            paths.insert(name, fact);
        }
        let targets = paths.clone();
        for fact in paths.values_mut().filter(|fact| fact.kind == "link") {
            let target = targets[fact.content.as_str().unwrap()].clone();
            *fact = Fact {
                location: std::mem::take(&mut fact.location),
                source: std::mem::take(&mut fact.source),
                ..target
            };
        }
        Self { paths }
    }

    pub(super) fn to_json(&self) -> String {
        let line = |fact: &Fact| {
            json!([
                fact.kind,
                fact.mode,
                fact.owner,
                fact.mtime,
                fact.location,
                fact.source,
                fact.content
            ])
        };
        let lines: Vec<String> = self
            .paths
            .iter()
            .map(|(path, fact)| format!("{}: {}", json!(path), line(fact)))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    pub(super) fn from_json(text: &str) -> Self {
        let paths: Map<String, Value> = serde_json::from_str(text).unwrap();
        let fact = |value: &Value| {
            let text = |at: usize| value[at].as_str().unwrap().to_owned();
            Fact {
                kind: text(0),
                mode: text(1),
                owner: text(2),
                mtime: value[3].as_u64().unwrap(),
                location: text(4),
                source: text(5),
                content: value[6].clone(),
            }
        };
        Self {
            paths: paths
                .iter()
                .map(|(path, value)| (path.clone(), fact(value)))
                .collect(),
        }
    }

    /// Says how `other` differs, a line each.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, fact) in &self.paths {
            match other.paths.get(path) {
                None => lines.push(format!("{path} is missing: {fact:?}")),
                Some(found) if found == fact => {}
                Some(found) => lines.push(format!(
                    "{path}\n   expected {fact:?}\n   found    {found:?}"
                )),
            }
        }
        for (path, fact) in &other.paths {
            if !self.paths.contains_key(path) {
                lines.push(format!("{path} is too much: {fact:?}"));
            }
        }
        lines
    }
}

fn content(path: &str, bytes: &[u8], registry: &str) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= TEXT_MAX || path.starts_with("containers/") => {
            let text = text.replace(registry, "REGISTRY");
            let is_json = path.ends_with("/config.json") || path.ends_with("/runtime.json");
            match is_json {
                true => serde_json::from_str(&text).unwrap(),
                false => json!(text),
            }
        }
        _ => json!(format!("sha256:{}", hex(bytes))),
    }
}
