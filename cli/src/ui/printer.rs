//! Lines for people, on stderr, in cargo's manner: a right-aligned verb, then what it was done to.
//!
//! Colour never carries meaning of its own: the words say it all.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::args::{Color, Talk};

/// Columns of the verb.
const VERB_WIDTH: usize = 12;

/// How a word is drawn, as an SGR sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    /// Something is done: bold green.
    Good,
    /// Something is under way: bold cyan.
    Busy,
    /// Something to know: bold yellow.
    Warning,
    /// Something failed: bold red.
    Error,
}

impl Style {
    const fn sequence(self) -> &'static str {
        match self {
            Self::Good => "\x1b[1;32m",
            Self::Busy => "\x1b[1;36m",
            Self::Warning => "\x1b[1;33m",
            Self::Error => "\x1b[1;31m",
        }
    }
}

/// Says things on stderr, as loudly as asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    /// Whether words are coloured.
    pub(crate) color: bool,
    /// Whether every step is shown.
    pub(crate) verbose: bool,
    /// Whether only errors are shown.
    pub(crate) quiet: bool,
    /// Whether stderr is a terminal that can redraw lines.
    pub(crate) terminal: bool,
}

impl Printer {
    /// Decides from the flags, the environment and stderr itself.
    pub(crate) fn new(talk: Talk) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = io::stderr().is_terminal() && !dumb;
        Self {
            color: match talk.color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => terminal && !set("NO_COLOR"),
            },
            verbose: talk.verbose > 0,
            quiet: talk.quiet,
            terminal,
        }
    }

    /// Returns `text` in a style.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        if self.color {
            format!("{}{text}\x1b[0m", style.sequence())
        } else {
            text.to_owned()
        }
    }

    /// Returns a whole line: the verb in its column, then the rest.
    pub(crate) fn line(self, style: Style, verb: &str, rest: &str) -> String {
        let padding = " ".repeat(VERB_WIDTH.saturating_sub(verb.chars().count()));
        format!("{padding}{} {}", self.paint(style, verb), printable(rest))
    }

    /// Returns a warning line.
    pub(crate) fn warning_line(self, message: &str) -> String {
        let word = self.paint(Style::Warning, "warning");
        format!("{word}: {}", printable(message))
    }

    /// Says that something is done.
    pub(crate) fn done(self, verb: &str, rest: &str) {
        if !self.quiet {
            say(&self.line(Style::Good, verb, rest));
        }
    }

    /// Says something to know.
    pub(crate) fn warning(self, message: &str) {
        if !self.quiet {
            say(&self.warning_line(message));
        }
    }
}

/// Writes one line to stderr. When stderr is gone there is nobody to tell.
pub(crate) fn say(line: &str) {
    let text = for_terminal(format!("{line}\n"));
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Set while the terminal hands on every key: then it does not return the carriage by itself.
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Tells that the terminal is raw from now on, or is not any more.
pub(crate) fn terminal_is_raw(is_raw: bool) {
    IS_RAW.store(is_raw, Ordering::Relaxed);
}

/// Ends lines as the terminal wants them now.
pub(crate) fn for_terminal(text: String) -> String {
    match IS_RAW.load(Ordering::Relaxed) {
        true => text.replace('\n', "\r\n"),
        false => text,
    }
}

/// Replaces control characters: labels and messages quote names that others chose, and a name must
/// not move the cursor or change the title of a terminal.
pub(crate) fn printable(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => '\u{fffd}',
        // Overrides of the writing direction make a line read as something else.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ => character,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Printer = Printer {
        color: false,
        verbose: false,
        quiet: false,
        terminal: false,
    };

    #[test]
    fn verbs_stand_in_their_column() {
        let line = PLAIN.line(Style::Good, "Unpacked", "nginx 41 MB in 0.2 s");
        assert_eq!(line, "    Unpacked nginx 41 MB in 0.2 s");
        let color = Printer {
            color: true,
            ..PLAIN
        };
        let line = color.line(Style::Good, "Fresh", "hello");
        assert_eq!(line, "       \x1b[1;32mFresh\x1b[0m hello");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        let hostile = "a\x1b]0;title\x07\rb\u{202e}c\u{9b}2J";
        let line = PLAIN.line(Style::Good, "Unpacked", hostile);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.ends_with("\u{fffd}c\u{fffd}2J"));
    }
}
