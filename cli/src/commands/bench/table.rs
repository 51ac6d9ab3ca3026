//! The report for people: tables of columns, and a line for what needs words.

use super::report::{Against, Comparison, Report, Row};
use super::stats::{Ratio, Verdict, median, quantile};
use crate::ui::printer::{Printer, Style, printable};
use crate::ui::units;

/// Returns the whole report.
pub(super) fn render(report: &Report, printer: Printer) -> String {
    let mut text = format!("{}\n{}\n\n", system(report), report.machine.words());
    text.push_str(&columns(&measured(report)));
    text.push('\n');
    for (scenario, reason) in &report.missing {
        let line = format!("no \"{}\": {reason}\n", scenario.title());
        text.push_str(&printable(&line));
    }
    if let Some(swap) = &report.system.swap {
        let (service, from, to) = (&swap.service, &swap.from, &swap.to);
        let line = format!("swapped: {service}, from {from} to {to}\n");
        text.push_str(&printable(&line));
    }
    if !report.system.fetched.is_empty() {
        let fetched = report.system.fetched.join(", ");
        text.push_str(&printable(&format!("cold includes fetching {fetched}\n")));
    }
    if let Some(comparison) = &report.comparison {
        text.push_str(&compared(report, comparison, printer));
    }
    if let Some(against) = &report.against {
        text.push_str(&other(against, printer));
    }
    text
}

/// What was measured, in one line.
pub(super) fn system(report: &Report) -> String {
    let files = report.system.files.iter();
    let files: Vec<String> = files.map(|file| file.display().to_string()).collect();
    let text = format!(
        "{}: {} for {}, {}; kiln {}",
        files.join(" + "),
        report.system.formats.join(" and "),
        report.system.architecture,
        units::size(report.output_bytes()),
        env!("CARGO_PKG_VERSION"),
    );
    printable(&text)
}

/// The cells of the table, its head first.
pub(super) fn measured(report: &Report) -> Vec<Vec<String>> {
    let head = [
        "",
        "median",
        "middle half",
        "MB/s",
        "memory",
        "read",
        "written",
        "steps cached",
        "runs",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(
        report
            .rows
            .iter()
            .map(|row| cells(row, report.memory_floor)),
    );
    table
}

fn cells(row: &Row, floor: u64) -> Vec<String> {
    let seconds = row.seconds().concat();
    let typical = median(&seconds);
    let (read, written) = match row.calls() {
        Some((read, written)) => (units::size(read), units::size(written)),
        None => ("?".into(), "?".into()),
    };
    let fresh = row.is_fresh();
    let bytes = row.typical(|sample| sample.bytes) as f64;
    let (cached, ran) = (row.typical(|it| it.cached), row.typical(|it| it.ran));
    let memory = row.memory();
    vec![
        row.scenario.title(),
        time(typical),
        span(quantile(&seconds, 0.25), quantile(&seconds, 0.75)),
        match fresh {
            true => "–".into(),
            false => {
                let rate = bytes / typical / 1e6;
                let digits = usize::from(rate < 9.95);
                format!("{rate:.digits$}")
            }
        },
        match memory <= floor {
            true => format!("≤ {}", units::size(memory)),
            false => units::size(memory),
        },
        read,
        written,
        match fresh {
            true => "none needed".into(),
            false => format!("{cached} of {}", cached + ran),
        },
        seconds.len().to_string(),
    ]
}

fn compared(report: &Report, comparison: &Comparison, printer: Printer) -> String {
    let head = ["", "before", "now", "now/before", "95 %", "verdict"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for (scenario, before, ratio) in &comparison.ratios {
        let row = report.rows.iter().find(|row| row.scenario == *scenario);
        let now = row.map_or(f64::NAN, |row| median(&row.seconds().concat()));
        let mut cells = vec![scenario.title(), time(*before), time(now)];
        cells.extend(ratio_cells(*ratio));
        cells.push(verdict(ratio.verdict(Some(comparison.machine)), printer));
        table.push(cells);
    }
    let mut cells = vec![
        "the machine itself".to_owned(),
        time(median(&comparison.before.yardstick.concat())),
        time(median(&report.yardstick.concat())),
    ];
    cells.extend(ratio_cells(comparison.machine));
    table.push(cells);
    format!(
        "\ncompared with {} (kiln {})\n\n{}",
        printable(&comparison.before.file.display().to_string()),
        printable(&comparison.before.kiln),
        columns(&table)
    )
}

fn other(against: &Against, printer: Printer) -> String {
    let pairs = against.pairs.concat();
    let side = |of: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(of).collect::<Vec<_>>());
    let head = ["", "kiln", "command", "kiln/command", "95 %", "verdict"];
    let mut cells = vec![
        against.scenario.title(),
        time(side(|pair| pair.0)),
        time(side(|pair| pair.1)),
    ];
    cells.extend(ratio_cells(against.ratio));
    cells.push(verdict(against.ratio.verdict(None), printer));
    format!(
        "\nin turn with {}, {} pairs\n\n{}",
        printable(&against.command.replace('\n', " ")),
        pairs.len(),
        columns(&[head.map(str::to_owned).to_vec(), cells])
    )
}

fn ratio_cells(ratio: Ratio) -> [String; 2] {
    [
        format!("{:.2}", ratio.value),
        format!("{:.2}–{:.2}", ratio.low, ratio.high),
    ]
}

fn verdict(verdict: Verdict, printer: Printer) -> String {
    match verdict {
        Verdict::Faster => printer.paint(Style::Good, "faster"),
        Verdict::Slower => printer.paint(Style::Error, "slower"),
        Verdict::Same => "no difference beyond the noise".into(),
        Verdict::TooFewRounds => "too few rounds to tell".into(),
    }
}

/// Aligns cells: names and verdicts, first and last, to the left, numbers to the right.
fn columns(table: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let head = table.first();
    let verdict = head.and_then(|head| head.iter().position(|cell| cell == "verdict"));
    let line = |row: &Vec<String>| {
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("{cell:<width$}", width = width(0)),
            _ if Some(column) == verdict => format!("  {cell}"),
            _ => format!("  {cell:>width$}", width = width(column)),
        };
        let line: String = row.iter().enumerate().map(cell).collect();
        format!("{}\n", line.trim_end())
    };
    table.iter().map(line).collect()
}

/// Says a time with three digits, which is what repeated measuring gives: `1.72 ms`, `3.41 s`.
pub(super) fn time(seconds: f64) -> String {
    let (number, unit) = scaled(seconds, seconds);
    format!("{number} {unit}")
}

/// Says from when to when, with one unit.
fn span(low: f64, high: f64) -> String {
    let ((low, unit), (high, _)) = (scaled(low, high), scaled(high, high));
    match low == high {
        true => format!("{low} {unit}"),
        false => format!("{low}–{high} {unit}"),
    }
}

/// Returns a time in the unit and with the digits that suit `scale`.
fn scaled(seconds: f64, scale: f64) -> (String, &'static str) {
    let (number, scale, unit) = match scale < 0.9995 {
        true => (seconds * 1e3, scale * 1e3, "ms"),
        false => (seconds, scale, "s"),
    };
    let digits = match scale {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    (format!("{number:.digits$}"), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (seconds, said) in [
            (0.001_724, "1.72 ms"),
            (0.017_24, "17.2 ms"),
            (0.099_96, "100 ms"),
            (0.999_4, "999 ms"),
            (0.999_6, "1.00 s"),
            (3.412, "3.41 s"),
            (73.44, "73.4 s"),
            (312.4, "312 s"),
        ] {
            assert_eq!(time(seconds), said);
        }
        assert_eq!(span(0.000_98, 0.012_34), "1.0–12.3 ms");
        assert_eq!(span(0.98, 1.02), "0.98–1.02 s");
        assert_eq!(span(0.5, 0.5), "500 ms");
    }
}
