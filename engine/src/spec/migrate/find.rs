//! Looks for differences in the YAML tree.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::difference::{self as d, Difference};
use super::{Finding, PLACES_MAX};
use crate::spec::model::Section;
use crate::spec::node::{Entry, Node, Value, clip};
use crate::spec::position::{Position, Source};
use crate::spec::yaml;

/// Finds every difference that the descriptions (name and bytes of each) touch, by difference,
/// then by place. Texts that are no YAML have none.
#[must_use]
pub fn find<'a>(descriptions: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<Finding> {
    let sources: Vec<(Arc<Source>, Rc<Node>)> = descriptions
        .into_iter()
        .filter_map(|(name, bytes)| {
            let source = crate::spec::text(bytes, name).ok()?;
            let node = yaml::load(&source, None).ok()??;
            Some((source, node))
        })
        .collect();
    let mut volumes = BTreeMap::new();
    for (index, (_, node)) in sources.iter().enumerate() {
        for volume in items(node, "volumes") {
            if let Some(name) = text(volume, "name") {
                let readonly = get(volume, "readonly")
                    .is_some_and(|entry| matches!(entry.value.value, Value::Bool(true)));
                let is_last = index + 1 == sources.len();
                volumes.insert(name.to_owned(), Volume { readonly, is_last });
            }
        }
    }
    let has_kernel = sources
        .iter()
        .filter_map(|(_, node)| get(node, "kernel"))
        .any(|kernel| {
            let image = text(&kernel.value, "image").unwrap_or_default();
            !image.is_empty() || get(&kernel.value, "debian").is_some()
        });
    let mut found = Found::default();
    for (source, node) in &sources {
        let mut finder = Finder {
            source,
            volumes: &volumes,
            has_kernel,
            found: &mut found,
        };
        finder.texts(node, &mut String::new(), false);
        finder.kernel(node);
        finder.init(node);
        for section in Section::ALL {
            for (index, container) in items(node, section.name()).iter().enumerate() {
                finder.container(container, &format!("{}[{index}]", section.name()));
            }
        }
        finder.files(node);
        for (index, volume) in items(node, "volumes").iter().enumerate() {
            finder.image(volume, &format!("volumes[{index}]"));
        }
    }
    let rank = |finding: &Finding| {
        d::DIFFERENCES
            .iter()
            .position(|difference| *difference == finding.difference)
    };
    // Stable: places stay in the order of the files.
    found.findings.sort_by_key(rank);
    found.findings
}

/// What was found so far, and how often each was.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    counts: BTreeMap<&'static str, usize>,
}

pub(super) struct Volume {
    pub(super) readonly: bool,
    /// The last file has it.
    pub(super) is_last: bool,
}

pub(super) struct Finder<'a> {
    source: &'a Arc<Source>,
    pub(super) volumes: &'a BTreeMap<String, Volume>,
    /// One of the files names a kernel.
    has_kernel: bool,
    found: &'a mut Found,
}

impl Finder<'_> {
    pub(super) fn found(
        &mut self,
        difference: &'static Difference,
        range: &Range<usize>,
        what: impl Into<String>,
    ) {
        let count = self.found.counts.entry(difference.id).or_default();
        *count += 1;
        if *count <= PLACES_MAX {
            self.found.findings.push(Finding {
                difference,
                at: Position::new(self.source, range.clone()),
                what: what.into(),
            });
        }
    }

    /// Every scalar that begins with `@`, keys included.
    fn texts(&mut self, node: &Node, path: &mut String, is_image: bool) {
        let length = path.len();
        match &node.value {
            Value::String(text) => self.at_text(text, &node.range, path, is_image),
            Value::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.texts(item, path, path.starts_with("init["));
                    path.truncate(length);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&clip(&entry.key));
                    self.at_text(&entry.key, &entry.key_range, path, false);
                    self.texts(&entry.value, path, entry.key == "image");
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn at_text(&mut self, text: &str, range: &Range<usize>, path: &str, is_image: bool) {
        if text.starts_with('@') && !text.starts_with("@pkg:") && !is_image {
            self.found(&d::AT_TEXT, range, format!("{path}: \"{}\"", clip(text)));
        }
    }

    fn kernel(&mut self, root: &Node) {
        let Some(kernel) = get(root, "kernel") else {
            return;
        };
        self.image(&kernel.value, "kernel");
        if let Some(ucode) = get(&kernel.value, "ucode")
            && text(&kernel.value, "ucode").is_some_and(|name| !name.is_empty())
        {
            self.found(&d::UCODE, &ucode.key_range, "kernel.ucode");
        }
        if let Some(modules) = get(&kernel.value, "modules") {
            self.found(&d::KILN_ONLY, &modules.key_range, "kernel.modules");
        }
        if !self.has_kernel {
            self.found(&d::NO_IMAGE, &kernel.key_range, "kernel");
        }
    }

    fn init(&mut self, root: &Node) {
        for (index, item) in items(root, "init").iter().enumerate() {
            let path = format!("init[{index}]");
            match &item.value {
                Value::String(word) if word == "kiln" => {
                    self.found(&d::KILN_ONLY, &item.range, format!("{path}: kiln"));
                }
                Value::String(image) => self.reference(image, &item.range, &path),
                Value::Map(entries) => {
                    if let Some(first) = entries.first() {
                        self.found(
                            &d::KILN_ONLY,
                            &first.key_range,
                            format!("{path}: a mapping"),
                        );
                    }
                    self.image(item, &path);
                }
                _ => {}
            }
        }
    }

    /// The image of a mapping, whatever it is for.
    pub(super) fn image(&mut self, node: &Node, path: &str) {
        if let Some(image) = get(node, "image")
            && let Value::String(name) = &image.value.value
        {
            self.reference(name, &image.value.range, &format!("{path}.image"));
        }
        for key in ["debian", "builtin"] {
            if let Some(own) = get(node, key) {
                self.found(&d::KILN_ONLY, &own.key_range, format!("{path}.{key}"));
            }
        }
    }

    fn reference(&mut self, name: &str, range: &Range<usize>, path: &str) {
        let what = || format!("{path}: {}", clip(name));
        let own = ["oci:", "docker-archive:", "directory:"];
        if name.is_empty() || name.starts_with('@') {
            return;
        }
        if own.iter().any(|prefix| name.starts_with(prefix)) {
            self.found(&d::KILN_ONLY, range, what());
        } else if name.contains('@') {
            self.found(&d::DIGEST, range, what());
        } else if !name.rsplit('/').next().unwrap_or(name).contains(':') {
            self.found(&d::NO_TAG, range, what());
        }
    }
}

pub(super) fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

pub(super) fn items<'n>(node: &'n Node, key: &str) -> &'n [Rc<Node>] {
    match get(node, key).map(|entry| &entry.value.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

pub(super) fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &get(node, key)?.value.value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

pub(super) fn first_key(node: &Node) -> Option<Range<usize>> {
    match &node.value {
        Value::Map(entries) => entries.first().map(|entry| entry.key_range.clone()),
        _ => None,
    }
}
