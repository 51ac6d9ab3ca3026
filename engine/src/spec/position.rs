//! Where a value was written: file, line, column and length.
//!
//! Enters: the text of one source and a byte range. Leaves: a [`Position`] cheap enough to hang on
//! every value, which outlives parsing so that the planner and the steps can point into the YAML.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::error::SpecError;

/// Excerpts end here: a longer line is of no use to a reader.
const LINE_TEXT_MAX: usize = 1000;

/// One source text and the name it is shown under.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    text: String,
    /// Byte offset of each line's start; the first is 0.
    lines: Vec<usize>,
}

impl Source {
    /// Indexes the lines of `text`.
    pub(super) fn new(name: &str, text: &str) -> Arc<Self> {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(breaks.map(|(offset, _)| offset + 1))
            .collect();
        Arc::new(Self {
            name: name.to_owned(),
            text: text.to_owned(),
            lines,
        })
    }

    /// Returns the whole text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn line_index(&self, offset: usize) -> usize {
        self.lines
            .partition_point(|start| *start <= offset)
            .saturating_sub(1)
    }

    fn line(&self, index: usize) -> &str {
        let start = self.lines[index];
        let end = self
            .lines
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }
}

/// The place of a value in a source.
#[derive(Clone)]
pub struct Position {
    source: Arc<Source>,
    start: usize,
    end: usize,
}

impl Position {
    /// Places a byte range in `source`, moved onto character boundaries.
    pub(super) fn new(source: &Arc<Source>, range: Range<usize>) -> Self {
        let floor = |offset: usize| source.text.floor_char_boundary(offset);
        let (start, end) = (floor(range.start), floor(range.end));
        Self {
            source: Arc::clone(source),
            start,
            end: end.max(start),
        }
    }

    /// Returns the display name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// Returns the line, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.source.line_index(self.start) + 1
    }

    /// Returns the column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        let line_start = self.source.lines[self.line() - 1];
        self.source.text[line_start..self.start].chars().count() + 1
    }

    /// Returns the length in characters, at least 1 and at most to the end of the first line.
    #[must_use]
    pub fn len(&self) -> usize {
        let text = &self.source.text[self.start..self.end];
        let first = text.lines().next().unwrap_or_default();
        first.trim_end().chars().take(LINE_TEXT_MAX).count().max(1)
    }

    /// Returns false: a position always covers something to show.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Returns the line without its line break, or nothing when the place lies too far to the right
    /// to be shown.
    #[must_use]
    pub fn line_text(&self) -> String {
        if self.column() > LINE_TEXT_MAX {
            return String::new();
        }
        let line = self.source.line(self.line() - 1);
        line.chars().take(2 * LINE_TEXT_MAX).collect()
    }

    /// Makes an error that points here.
    #[must_use]
    pub fn error(&self, message: impl Into<String>) -> SpecError {
        SpecError {
            message: message.into(),
            file: self.file().to_owned(),
            line: self.line(),
            column: self.column(),
            len: self.len(),
            hint: None,
            line_text: self.line_text(),
        }
    }
}

/// Prints `FILE:LINE:COL`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file(), self.line(), self.column())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value and where it was written. Two are equal when the values are.
#[derive(Debug, Clone)]
pub struct Spanned<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub at: Position,
}

impl<T> Spanned<T> {
    /// Puts a value at a place.
    pub const fn new(value: T, at: Position) -> Self {
        Self { value, at }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_columns_in_characters() {
        let source = Source::new("a.yml", "é: x\r\nkey: välue # c\n");
        let at = Position::new(&source, 12..18);
        assert_eq!((at.line(), at.column(), at.len()), (2, 6, 5));
        assert_eq!(at.line_text(), "key: välue # c");
        assert_eq!(at.to_string(), "a.yml:2:6");
        let end = Position::new(&source, 500..900);
        assert_eq!((end.line(), end.column(), end.len()), (3, 1, 1));
    }

    #[test]
    fn stays_on_character_boundaries() {
        let source = Source::new("a", "éé");
        let at = Position::new(&source, 1..3);
        assert_eq!((at.column(), at.len()), (1, 1));
    }
}
