//! `kiln migrate`: what moving from LinuxKit means for one system, in words or as JSON.

use std::io::IsTerminal;

use kiln_engine::build::{Format, Migration, migrate};
use kiln_engine::spec::Position;
use kiln_engine::spec::migrate::{Class, DIFFERENCES, Difference, Finding, PLACES_MAX};
use serde_json::{Value, json};

use super::request;
use crate::args::{CacheFrom, Common, Migrate};
use crate::failure::Failure;
use crate::ui::diagnostic;
use crate::ui::printer::{Printer, Style, printable};

pub(super) fn run(arguments: &Migrate, printer: Printer) -> Result<(), Failure> {
    let common = Common {
        name: None,
        dir: None,
        cache_from: CacheFrom::default(),
        sources: arguments.sources.clone(),
    };
    let request = request::request(&arguments.files, vec![Format::KernelInitrd], &common)?;
    let found = migrate(&request).map_err(|error| Failure::of_build(error, &request.cache, 0))?;
    let builds = found.errors.is_empty();
    let names = arguments
        .files
        .iter()
        .map(|file| file.display().to_string());
    let title = names.collect::<Vec<_>>().join(" + ");
    super::print(&if arguments.json {
        format!("{}\n", as_json(&found))
    } else {
        let printer = Printer {
            color: printer.color && std::io::stdout().is_terminal(),
            ..printer
        };
        as_text(&found, &title, printer)
    })?;
    if builds { Ok(()) } else { Err(Failure::told()) }
}

/// Each difference that shows, with its places.
fn grouped(found: &Migration) -> impl Iterator<Item = (&'static Difference, Vec<&Finding>)> {
    DIFFERENCES.iter().filter_map(|difference| {
        let places: Vec<&Finding> = found
            .findings
            .iter()
            .filter(|finding| finding.difference == *difference)
            .collect();
        (!places.is_empty()).then_some((*difference, places))
    })
}

fn as_json(found: &Migration) -> Value {
    let place = |at: &Position| json!({"file": at.file(), "line": at.line(), "column": at.column(), "length": at.len()});
    let differences = grouped(found).map(|(difference, places)| {
        let places = places.iter().map(|finding| {
            let mut value = place(&finding.at);
            value["what"] = finding.what.as_str().into();
            value
        });
        json!({
            "id": difference.id,
            "class": match difference.class {
                Class::Differs => "differs",
                Class::Note => "note",
            },
            "title": difference.title,
            "linuxkit": (!difference.linuxkit.is_empty()).then_some(difference.linuxkit),
            "kiln": difference.kiln,
            "places": places.collect::<Vec<_>>(),
        })
    });
    let warnings = found.warnings.iter().map(|warning| {
        json!({"message": warning.to_string(), "place": place(warning.at()), "hint": warning.hint()})
    });
    json!({
        "builds": found.errors.is_empty(),
        "errors": Failure::of_description(found.errors.clone()).problems_json(),
        "warnings": warnings.collect::<Vec<_>>(),
        "differences": differences.collect::<Vec<_>>(),
    })
}

/// The mistakes, the differences, the notes, and a line that sums them up.
fn as_text(found: &Migration, title: &str, printer: Printer) -> String {
    let mut text = String::new();
    if !found.errors.is_empty() {
        let failure = Failure::of_description(found.errors.clone());
        text.push_str(&diagnostic::render(&failure, printer, None));
        text.push('\n');
    }
    for (difference, places) in grouped(found) {
        match difference.class {
            Class::Differs => {
                let word = printer.paint(Style::Warning, "differs");
                text.push_str(&format!(
                    "{word}: {}\n  LinuxKit {}\n  kiln {}\n",
                    difference.title, difference.linuxkit, difference.kiln
                ));
            }
            Class::Note => {
                let word = printer.paint(Style::Busy, "note");
                text.push_str(&format!(
                    "{word}: {}\n  {}\n",
                    difference.title, difference.kiln
                ));
            }
        }
        let lines = places.iter().map(|finding| (&finding.at, &*finding.what));
        text.push_str(&table(&lines.collect::<Vec<_>>()));
        if places.len() == PLACES_MAX {
            text.push_str("  and perhaps more\n");
        }
        text.push('\n');
    }
    for warning in &found.warnings {
        let hint = warning.hint().unwrap_or_default();
        text.push_str(&format!(
            "{}\n{}\n",
            printer.warning_line(&warning.to_string()),
            table(&[(warning.at(), hint)])
        ));
    }
    text.push_str(&summary(found, title, printer));
    text
}

/// Places in one column, what is there in the next.
fn table(lines: &[(&Position, &str)]) -> String {
    let places: Vec<String> = lines
        .iter()
        .map(|(at, _)| printable(&at.to_string()))
        .collect();
    let width = places
        .iter()
        .map(|place| place.chars().count())
        .max()
        .unwrap_or_default();
    let line = |(place, (_, what)): (&String, &(&Position, &str))| {
        let line = format!("  --> {place:width$}  {}", printable(what));
        format!("{}\n", line.trim_end())
    };
    places.iter().zip(lines).map(line).collect()
}

fn summary(found: &Migration, title: &str, printer: Printer) -> String {
    let count = |count: usize, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let of = |class: Class| grouped(found).filter(|(it, _)| it.class == class).count();
    let notes = of(Class::Note) + found.warnings.len();
    let counts: Vec<String> = [
        count(found.errors.len(), "mistake", "mistakes"),
        count(
            of(Class::Differs),
            "difference from LinuxKit",
            "differences from LinuxKit",
        ),
        count(notes, "note", "notes"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let counts = match counts.is_empty() {
        true => "no difference from LinuxKit".to_owned(),
        false => counts.join(", "),
    };
    let verdict = match found.errors.is_empty() {
        true => printer.paint(Style::Good, "builds as it is"),
        false => printer.paint(Style::Error, "must be changed"),
    };
    format!("{}: {verdict} ({counts})\n", printable(title))
}
