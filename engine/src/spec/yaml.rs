//! YAML text to a [`Node`] tree, with limits.
//!
//! The event parser does the syntax; this file resolves anchors, aliases, merge keys and tags, and
//! refuses duplicate keys and second documents. Aliases share their target, so memory stays with
//! the input; what they would write out is counted and bounded, so time does too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use serde_saphyr::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Tag};

use super::PackageResolver;
use super::error::{ErrorList, SpecError, SpecErrors};
use super::node::{Entry, Node, Value, clip};
use super::position::{Position, Source};

/// A description is at most this long: 16 MiB.
pub const TEXT_MAX_BYTES: usize = 16 << 20;

/// Lists and mappings nest at most this deep; LinuxKit's schema needs 7.
pub const DEPTH_MAX: usize = 64;

/// Aliases may write out at most this many nodes (a node counts more when its text is long).
pub const EXPANSION_MAX: usize = 100_000;

/// A description has at most this many values.
pub const NODES_MAX: usize = 1_000_000;

/// A text node counts once per this many bytes.
const WEIGHT_BYTES: usize = 64;

/// What LinuxKit's only template begins with.
const PACKAGE: &str = "@pkg:";

/// Reads the only document of `source`. `None` is an empty source; errors are complete.
pub(super) fn load<'a>(
    source: &'a Arc<Source>,
    packages: Option<&'a mut PackageResolver<'_>>,
) -> Result<Option<Rc<Node>>, SpecErrors> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let mut loader = Loader {
        source,
        packages,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        root: None,
        expanded: 0,
        nodes: 0,
        errors: ErrorList::default(),
    };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(source.text(), options) {
        let step = match event {
            Err(error) => Err(loader.syntax(&error)),
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                let range = span.byte_range().unwrap_or_default();
                if documents > 1 {
                    Err(loader.second_document(range))
                } else {
                    Ok(())
                }
            }
            Ok((event, span)) => loader.event(event, span.byte_range().unwrap_or_default()),
        };
        if let Err(error) = step {
            loader.errors.push(|| error);
            break;
        }
        // The rest would only cost time: each error looks its line up.
        if loader.errors.is_full() {
            break;
        }
    }
    loader.errors.finish()?;
    Ok(loader.root)
}

/// A list or mapping whose end has not come yet.
struct Open {
    start: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map(MapBuilder),
}

#[derive(Default)]
struct MapBuilder {
    entries: Vec<Entry>,
    seen: BTreeMap<String, usize>,
    /// The key whose value comes next, or a refused key whose value is dropped.
    key: Option<Key>,
    merges: Vec<Rc<Node>>,
}

enum Key {
    Field(String, Range<usize>),
    Merge,
    Refused,
}

struct Loader<'a, 'p> {
    source: &'a Arc<Source>,
    packages: Option<&'a mut PackageResolver<'p>>,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    expanded: usize,
    nodes: usize,
    errors: ErrorList,
}

impl Loader<'_, '_> {
    fn error(&self, range: Range<usize>, message: impl Into<String>) -> SpecError {
        Position::new(self.source, range).error(message)
    }

    /// Reports an error that does not stop the reading.
    fn report(&mut self, range: &Range<usize>, message: String) {
        let source = self.source;
        self.errors
            .push(|| Position::new(source, range.clone()).error(message));
    }

    fn syntax(&self, error: &ScanError) -> SpecError {
        let offset = error
            .marker()
            .byte_offset()
            .unwrap_or(self.source.text().len());
        let place = offset..offset + 1;
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => {
                self.error(place, format!("nested deeper than {DEPTH_MAX} levels"))
            }
            ErrorKind::UnknownAnchor => self
                .error(place, "alias without a preceding anchor")
                .with_hint("quote the value if it is meant as text"),
            ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabNotAllowed => {
                // The parser has gone past it.
                let text = self.source.text();
                let before = text.get(..offset).unwrap_or_default();
                let line = before.rfind('\n').map_or(0, |end| end + 1);
                let tab = text[line..].find('\t').map_or(offset, |tab| line + tab);
                self.error(tab..tab + 1, "tab in indentation")
                    .with_hint("YAML is indented with spaces")
            }
            ErrorKind::UnexpectedCharacter { character } => self
                .error(place, format!("unexpected character {character:?}"))
                .with_hint("quote the value if it is meant as text"),
            _ => self.error(place, format!("not valid YAML: {}", error.info())),
        }
    }

    fn second_document(&self, range: Range<usize>) -> SpecError {
        self.error(range, "a second YAML document")
            .with_hint("give each document its own file; several files are merged in order")
    }

    fn event(&mut self, event: Event<'_>, range: Range<usize>) -> Result<(), SpecError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_merge = text == "<<" && style == ScalarStyle::Plain && tag.is_none();
                let value = self.scalar(&text, style, tag.as_deref(), &range);
                let value = self.template(value, &range);
                let weight = 1 + text.len() / WEIGHT_BYTES;
                let node = self.anchored(
                    anchor,
                    Node {
                        value,
                        range,
                        weight,
                    },
                );
                self.put(node, is_merge)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(
                anchor,
                tag.as_deref(),
                "seq",
                range,
                Content::List(Vec::new()),
            ),
            Event::MappingStart(_, anchor, tag) => self.open(
                anchor,
                tag.as_deref(),
                "map",
                range,
                Content::Map(MapBuilder::default()),
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(range),
            Event::Alias(anchor) => self.alias(anchor, range),
            _ => Ok(()),
        }
    }

    /// Fills a template in. Other text that begins with `@` is text.
    fn template(&mut self, value: Value, range: &Range<usize>) -> Value {
        let (Value::String(text), Some(packages)) = (&value, &mut self.packages) else {
            return value;
        };
        let Some(path) = text.strip_prefix(PACKAGE) else {
            return value;
        };
        match packages(path) {
            Ok(reference) => Value::String(reference),
            Err((message, hint)) => {
                let message = format!("{}: {message}", clip(text));
                let source = self.source;
                self.errors.push(|| SpecError {
                    hint,
                    ..Position::new(source, range.clone()).error(message)
                });
                value
            }
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        range: &Range<usize>,
    ) -> Value {
        let Some(tag) = tag else {
            return if style == ScalarStyle::Plain {
                Value::plain(text)
            } else {
                Value::String(text.to_owned())
            };
        };
        let plain = Value::plain(text);
        match (tag.core_suffix(), plain) {
            (Some("str"), _) => Value::String(text.to_owned()),
            (Some("int"), value @ Value::Integer(..))
            | (Some("bool"), value @ Value::Bool(_))
            | (Some("float"), value @ (Value::Float(_) | Value::Integer(..)))
            | (Some("null"), value @ Value::Null) => value,
            // "!" alone keeps a scalar a string.
            (None, _) if tag.original() == "!" => Value::String(text.to_owned()),
            _ => {
                let message = format!(
                    "tag {} does not fit \"{}\"",
                    clip(&tag.original()),
                    clip(text)
                );
                let source = self.source;
                self.errors.push(|| {
                    let error = Position::new(source, range.clone()).error(message);
                    match &*tag.original() {
                        "!!binary" => {
                            error.with_hint("put the bytes into a file, and name it as a source")
                        }
                        _ => error,
                    }
                });
                Value::String(text.to_owned())
            }
        }
    }

    fn open(
        &mut self,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        range: Range<usize>,
        content: Content,
    ) -> Result<(), SpecError> {
        if let Some(tag) =
            tag.filter(|tag| tag.core_suffix() != Some(core) && tag.original() != "!")
        {
            let message = format!("tag {} is not supported", clip(&tag.original()));
            self.report(&range, message);
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(self.error(range, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.stack.push(Open {
            start: range.start,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self, end: Range<usize>) -> Result<(), SpecError> {
        let Some(open) = self.stack.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map(map) => Value::Map(self.merge(map)?),
        };
        let below: usize = match &value {
            Value::List(items) => items.iter().map(|item| item.weight).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.weight + 1).sum(),
            _ => 0,
        };
        let range = open.start..end.end.max(open.start);
        let node = self.anchored(
            open.anchor,
            Node {
                value,
                range,
                weight: below + 1,
            },
        );
        self.put(node, false)
    }

    /// Adds what `<<` refers to: a mapping, or a list of them where the earlier one wins.
    fn merge(&mut self, mut map: MapBuilder) -> Result<Vec<Entry>, SpecError> {
        for merged in std::mem::take(&mut map.merges) {
            let sources = match &merged.value {
                Value::List(items) => items.clone(),
                _ => vec![merged],
            };
            for source in sources {
                let Value::Map(entries) = &source.value else {
                    let message = format!("<< merges mappings, found {}", source.value.describe());
                    self.report(&source.range, message);
                    continue;
                };
                self.expand(entries.len(), &source.range)?;
                for entry in entries {
                    if !map.seen.contains_key(&entry.key) {
                        map.seen.insert(entry.key.clone(), entry.key_range.start);
                        map.entries.push(entry.clone());
                    }
                }
            }
        }
        Ok(map.entries)
    }

    fn alias(&mut self, anchor: usize, range: Range<usize>) -> Result<(), SpecError> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(self.error(range, "alias inside the value it refers to"));
        };
        self.expand(node.weight, &range)?;
        self.put(node, false)
    }

    fn expand(&mut self, weight: usize, range: &Range<usize>) -> Result<(), SpecError> {
        self.expanded = self.expanded.saturating_add(weight);
        if self.expanded > EXPANSION_MAX {
            let message = format!("aliases write out more than {EXPANSION_MAX} values");
            return Err(self.error(range.clone(), message));
        }
        Ok(())
    }

    fn anchored(&mut self, anchor: usize, node: Node) -> Rc<Node> {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        node
    }

    /// Hands a finished node to whatever is open: as an item, a key or a value.
    fn put(&mut self, node: Rc<Node>, is_merge: bool) -> Result<(), SpecError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.error(node.range.clone(), format!("more than {NODES_MAX} values")));
        }
        let key = match self.stack.last() {
            Some(Open {
                content: Content::Map(map),
                ..
            }) if map.key.is_none() => Some(self.key(&node, is_merge, map)),
            _ => None,
        };
        let key = key.map(|key| {
            key.unwrap_or_else(|error| {
                self.errors.push(|| error);
                Key::Refused
            })
        });
        match (self.stack.last_mut().map(|open| &mut open.content), key) {
            (None, _) => self.root = Some(node),
            (Some(Content::List(items)), _) => items.push(node),
            (Some(Content::Map(map)), Some(key)) => {
                if let Key::Field(key, range) = &key {
                    map.seen.insert(key.clone(), range.start);
                }
                map.key = Some(key);
            }
            (Some(Content::Map(map)), None) => match map.key.take() {
                Some(Key::Field(key, key_range)) => map.entries.push(Entry {
                    key,
                    key_range,
                    value: node,
                }),
                Some(Key::Merge) => map.merges.push(node),
                Some(Key::Refused) | None => {}
            },
        }
        Ok(())
    }

    fn key(&self, node: &Node, is_merge: bool, map: &MapBuilder) -> Result<Key, SpecError> {
        if is_merge {
            return Ok(Key::Merge);
        }
        let Value::String(key) = &node.value else {
            let found = node.value.describe();
            let error = self.error(
                node.range.clone(),
                format!("a key must be a string, found {found}"),
            );
            return Err(match node.value {
                Value::List(_) | Value::Map(_) => error,
                _ => error.with_hint("quote it"),
            });
        };
        if let Some(first) = map.seen.get(key) {
            let line = Position::new(self.source, *first..*first).line();
            let message = format!("key \"{}\" is already given at line {line}", clip(key));
            return Err(self.error(node.range.clone(), message));
        }
        Ok(Key::Field(key.clone(), node.range.clone()))
    }
}
