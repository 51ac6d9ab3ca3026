//! Errors as text: what, where in the YAML, why, what to do next.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::printer::{Printer, Style, printable};
use crate::failure::{Failure, Place, Problem};

/// An excerpt is no wider than this when stderr is no terminal.
const WIDTH_DEFAULT: usize = 120;

/// Returns a failure as lines for stderr; empty when there is nothing to say.
pub(crate) fn render(failure: &Failure, printer: Printer, width: Option<usize>) -> String {
    let mut text = String::new();
    for problem in &failure.problems {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&render_problem(problem, printer, width));
    }
    let count = failure.problems.len();
    if count > 1 {
        let error = printer.paint(Style::Error, "error");
        text.push_str(&format!("\n{error}: {count} mistakes in the description\n"));
    }
    text
}

fn render_problem(problem: &Problem, printer: Printer, width: Option<usize>) -> String {
    let mut text = match &problem.place {
        Some(place) if !place.text.is_empty() => excerpt(problem, place, printer, width),
        Some(place) => {
            let error = printer.paint(Style::Error, "error");
            let Place {
                file, line, column, ..
            } = place;
            format!(
                "{error}: {}\n  --> {}:{line}:{column}\n",
                printable(&problem.message),
                printable(file)
            )
        }
        None => {
            let error = printer.paint(Style::Error, "error");
            format!("{error}: {}\n", indented(&problem.message))
        }
    };
    for cause in &problem.causes {
        text.push_str(&format!("  caused by: {}\n", indented(cause)));
    }
    if let Some(hint) = &problem.hint {
        let word = printer.paint(Style::Busy, "hint");
        text.push_str(&format!("{word}: {}\n", indented(hint)));
    }
    text
}

/// Later lines of one message stand under its first.
fn indented(message: &str) -> String {
    printable(message).replace('\n', "\n    ")
}

fn excerpt(problem: &Problem, place: &Place, printer: Printer, width: Option<usize>) -> String {
    // One character for one, so that the columns still hold.
    let line: String = place.text.chars().map(plain_character).collect();
    let start = byte_of(&line, place.column.saturating_sub(1));
    let end = byte_of(&line, place.column.saturating_sub(1) + place.len.max(1));
    let snippet = Snippet::source(line.as_str())
        .path(printable(&place.file))
        .line_start(place.line)
        .annotation(AnnotationKind::Primary.span(start..end));
    let report = &[Level::ERROR
        .primary_title(printable(&problem.message))
        .element(snippet)];
    let renderer = if printer.color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = renderer
        .term_width(width.unwrap_or(WIDTH_DEFAULT))
        .render(report);
    text.push('\n');
    text
}

fn plain_character(character: char) -> char {
    if character == '\t' {
        return ' ';
    }
    printable(character.encode_utf8(&mut [0; 4]))
        .chars()
        .next()
        .unwrap_or(' ')
}

/// Returns the byte offset of a character; the end of the line for one past it.
fn byte_of(line: &str, character: usize) -> usize {
    line.char_indices()
        .nth(character)
        .map_or(line.len(), |(at, _)| at)
}

#[cfg(test)]
#[path = "diagnostic_tests.rs"]
mod tests;
