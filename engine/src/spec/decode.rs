//! From nodes to typed values: the small decoder all tables of this room are written in.
//!
//! A decoder function takes a node and returns `None` after reporting what is wrong, so that one
//! pass finds every error. [`Fields`] opens a mapping, hands out its keys one by one, and reports
//! the keys nobody asked for; what was asked for is the list that hints are taken from.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::error::{ErrorList, Warning};
use super::nearest::nearest;
use super::node::{Entry, Node, Value, clip};
use super::position::{Position, Source, Spanned};

/// A hint lists the known keys when there are no more than this many.
const KEYS_LISTED_MAX: usize = 12;

/// Why a string does not follow its grammar: message and hint.
pub(super) type GrammarError = (String, Option<String>);

/// Errors and warnings of one source.
pub(super) struct Decoder<'a> {
    pub(super) source: &'a Arc<Source>,
    pub(super) errors: ErrorList,
    pub(super) warnings: Vec<Warning>,
    /// Path and keys of every mapping that was read, for comparison with the schema.
    #[cfg(test)]
    pub(super) opened: Vec<(String, Vec<&'static str>)>,
}

/// The way from the root to a node, for messages: `services[2].binds[0]`.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(&clip(key)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", clip(key)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl<'a> Decoder<'a> {
    /// Starts on a source.
    pub(super) fn new(source: &'a Arc<Source>) -> Self {
        Self {
            source,
            errors: ErrorList::default(),
            warnings: Vec::new(),
            #[cfg(test)]
            opened: Vec::new(),
        }
    }

    /// Places a byte range.
    pub(super) fn at(&self, range: &Range<usize>) -> Position {
        Position::new(self.source, range.clone())
    }

    /// Reports an error at `range` with its path in front.
    pub(super) fn report(
        &mut self,
        range: &Range<usize>,
        path: &Path<'_>,
        message: impl fmt::Display,
    ) {
        self.report_maybe_hint(range, path, message, None);
    }

    /// Reports an error with advice.
    pub(super) fn report_hint(
        &mut self,
        range: &Range<usize>,
        path: &Path<'_>,
        message: impl fmt::Display,
        hint: impl Into<String>,
    ) {
        self.report_maybe_hint(range, path, message, Some(hint.into()));
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    pub(super) fn report_maybe_hint(
        &mut self,
        range: &Range<usize>,
        path: &Path<'_>,
        message: impl fmt::Display,
        hint: Option<String>,
    ) {
        let at = self.at(range);
        self.errors.push(|| {
            let mut error = match path {
                Path::Root => at.error(message.to_string()),
                _ => at.error(format!("{path}: {message}")),
            };
            error.hint = hint;
            error
        });
    }

    /// Reports a value of the wrong type.
    pub(super) fn mismatch(&mut self, node: &Node, path: &Path<'_>, expected: &str) {
        let message = format!("expected {expected}, found {}", node.value.describe());
        let hint = match (&node.value, expected) {
            (Value::Integer(_, text) | Value::Float(text), "a string") => {
                Some(format!("quote it: \"{}\"", clip(text)))
            }
            (Value::Bool(value), "a string") => Some(format!("quote it: \"{value}\"")),
            (Value::String(text), "a boolean") => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" => Some("YAML 1.2 spells it true".to_owned()),
                "no" | "off" | "n" => Some("YAML 1.2 spells it false".to_owned()),
                "true" | "false" => Some("remove the quotes".to_owned()),
                _ => None,
            },
            (Value::String(text), "a number")
                if matches!(Value::plain(text), Value::Integer(..)) =>
            {
                Some("remove the quotes".to_owned())
            }
            (Value::Null, "a list") => {
                Some("write [] for an empty list, or remove the key".to_owned())
            }
            (Value::Null, _) => Some("give a value, or remove the key".to_owned()),
            (Value::String(_) | Value::Map(_), "a list") => {
                Some("start each item with \"- \"".to_owned())
            }
            _ => None,
        };
        self.report_maybe_hint(&node.range, path, message, hint);
    }

    /// A string.
    pub(super) fn string(&mut self, node: &Node, path: &Path<'_>) -> Option<String> {
        if let Value::String(text) = &node.value {
            return Some(text.clone());
        }
        self.mismatch(node, path, "a string");
        None
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, node: &Node, path: &Path<'_>) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.mismatch(node, path, "a boolean");
        None
    }

    /// A whole number that fits `T`.
    pub(super) fn number<T: TryFrom<i128>>(&mut self, node: &Node, path: &Path<'_>) -> Option<T> {
        let Value::Integer(value, text) = &node.value else {
            self.mismatch(node, path, "a number");
            return None;
        };
        let digits = text.trim_start_matches(['+', '-']);
        if digits.len() > 1
            && digits.starts_with('0')
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'_')
        {
            let message = format!("the number {text} may be octal or decimal");
            self.report_hint(
                &node.range,
                path,
                message,
                "write 0o… for octal, or drop the leading zero",
            );
            return None;
        }
        let fits = T::try_from(*value).ok();
        if fits.is_none() {
            self.report(
                &node.range,
                path,
                format!("the number {text} is out of range"),
            );
        }
        fits
    }

    /// A list; items that are wrong are reported and left out.
    pub(super) fn list<T>(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        item: impl Fn(&mut Self, &Node, &Path<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::List(items) = &node.value else {
            self.mismatch(node, path, "a list");
            return None;
        };
        let decoded = items
            .iter()
            .enumerate()
            .filter_map(|(index, node)| item(self, node, &Path::Item(path, index)));
        Some(decoded.collect())
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, node: &Node, path: &Path<'_>) -> Option<Vec<String>> {
        self.list(node, path, Self::string)
    }

    /// A mapping of free keys to strings, sorted by key.
    pub(super) fn string_map(
        &mut self,
        node: &Node,
        path: &Path<'_>,
    ) -> Option<BTreeMap<String, String>> {
        let Value::Map(entries) = &node.value else {
            self.mismatch(node, path, "a mapping");
            return None;
        };
        let decoded = entries.iter().filter_map(|entry| {
            let value = self.string(&entry.value, &Path::Key(path, &entry.key))?;
            Some((entry.key.clone(), value))
        });
        Some(decoded.collect())
    }

    /// A string with a grammar of its own.
    pub(super) fn parsed<T>(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        parse: impl Fn(&str) -> Result<T, GrammarError>,
    ) -> Option<T> {
        let text = self.string(node, path)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err((message, hint)) => {
                self.report_maybe_hint(&node.range, path, message, hint);
                None
            }
        }
    }

    /// Any decoder's value with its place.
    pub(super) fn spanned<T>(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        decode: impl Fn(&mut Self, &Node, &Path<'_>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let value = decode(self, node, path)?;
        Some(Spanned::new(value, self.at(&node.range)))
    }
}

/// A mapping being read key by key.
pub(super) struct Fields<'d, 'a, 'n> {
    pub(super) decoder: &'d mut Decoder<'a>,
    pub(super) path: &'n Path<'n>,
    pub(super) range: Range<usize>,
    entries: &'n [Entry],
    asked: Vec<&'static str>,
}

impl<'d, 'a, 'n> Fields<'d, 'a, 'n> {
    /// Opens a mapping.
    pub(super) fn open(
        decoder: &'d mut Decoder<'a>,
        node: &'n Node,
        path: &'n Path<'n>,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            decoder.mismatch(node, path, "a mapping");
            return None;
        };
        // The first key shows the mapping better than a range over many lines.
        let range = entries
            .first()
            .map_or(node.range.clone(), |entry| entry.key_range.clone());
        Some(Self {
            decoder,
            path,
            range,
            entries,
            asked: Vec::new(),
        })
    }

    /// Returns the entry of `key` without decoding it.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'n Entry> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.present(key)
    }

    /// Returns the entry of `key` without asking for it: other keys' checks look here.
    pub(super) fn present(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Decodes the value of `key` if there is one.
    pub(super) fn field<T>(
        &mut self,
        key: &'static str,
        decode: impl Fn(&mut Decoder<'a>, &Node, &Path<'_>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let entry = self.entry(key)?;
        self.decoder
            .spanned(&entry.value, &Path::Key(self.path, key), decode)
    }

    /// Decodes the value of `key`, without its place.
    pub(super) fn plain<T>(
        &mut self,
        key: &'static str,
        decode: impl Fn(&mut Decoder<'a>, &Node, &Path<'_>) -> Option<T>,
    ) -> Option<T> {
        self.field(key, decode).map(|spanned| spanned.value)
    }

    /// Decodes a list whose items keep their places.
    pub(super) fn items<T>(
        &mut self,
        key: &'static str,
        decode: impl Fn(&mut Decoder<'a>, &Node, &Path<'_>) -> Option<T>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        self.field(key, |decoder, node, path| {
            decoder.list(node, path, |decoder, node, path| {
                decoder.spanned(node, path, &decode)
            })
        })
    }

    /// Decodes a value that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        decode: impl Fn(&mut Decoder<'a>, &Node, &Path<'_>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        if self.entry(key).is_some() {
            return self.field(key, decode);
        }
        let range = self.range.clone();
        self.decoder
            .report(&range, self.path, format!("{key} is required"));
        None
    }

    /// Returns the keys that were asked for and are there, `but` these.
    pub(super) fn known_but(&self, but: &[&str]) -> Vec<(Range<usize>, &'n str)> {
        let entries = self.entries.iter();
        let mine = entries.filter(|entry| {
            let key = entry.key.as_str();
            self.asked.contains(&key) && !but.contains(&key)
        });
        mine.map(|entry| (entry.key_range.clone(), entry.key.as_str()))
            .collect()
    }

    /// Reports an error about the mapping as a whole.
    pub(super) fn report(&mut self, message: impl fmt::Display) {
        let range = self.range.clone();
        self.decoder.report(&range, self.path, message);
    }

    /// Reports the keys nobody asked for.
    pub(super) fn close(self) {
        #[cfg(test)]
        self.decoder
            .opened
            .push((self.path.to_string(), self.asked.clone()));
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.asked.contains(&key) || self.decoder.errors.is_full() {
                continue;
            }
            let message = format!("unknown key \"{}\"", clip(key));
            match nearest(key, &self.asked) {
                Some(meant) => {
                    let hint = format!("did you mean \"{meant}\"?");
                    self.decoder
                        .report_hint(&entry.key_range, self.path, message, hint);
                }
                None if self.asked.len() <= KEYS_LISTED_MAX => {
                    let hint = format!("known keys: {}", self.asked.join(", "));
                    self.decoder
                        .report_hint(&entry.key_range, self.path, message, hint);
                }
                None => self.decoder.report(&entry.key_range, self.path, message),
            }
        }
    }
}
