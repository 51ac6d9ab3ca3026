//! The report as one HTML file: every sample a dot over a logarithmic axis, and the table.
//!
//! No script, no font and no picture from elsewhere; colours follow the reader's light or dark
//! setting. What others named is escaped.

use std::fmt::Write as _;

use super::report::{Report, Row};
use super::stats::{Ratio, Rounds, median};
use super::table::{measured, system, time};

/// Pixels of the drawing: width, the column of names, that of medians, the height of a row.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 46.0;
const AXIS: f64 = 34.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2733;--soft:#66717d;--line:#d9dee3;--now:#0b6bcb;--before:#b3631a}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--soft:#98a3ae;--line:#3a434c;--now:#6cb3ff;--before:#f0a860}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:56rem;margin:2rem auto;padding:0 1rem}\
svg{width:100%;height:auto}text{font:13px system-ui,sans-serif;fill:var(--ink)}.soft{color:var(--soft);fill:var(--soft)}\
line{stroke:var(--line)}.now{fill:var(--now);stroke:var(--now)}.before{fill:var(--before);stroke:var(--before)}\
circle{fill-opacity:.35;stroke:none}.middle{stroke-width:3}table{border-collapse:collapse;width:100%;font-size:14px}\
div{overflow-x:auto}td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;font-weight:400}\
th{color:var(--soft)}td:first-child{text-align:left}";

/// Returns the page.
pub(super) fn page(report: &Report) -> String {
    let title = escaped(&system(report));
    let before = report.comparison.as_ref();
    let legend = before.map_or_else(String::new, |comparison| {
        format!(
            "<p><svg style=\"width:1em\" viewBox=\"0 0 10 10\"><rect class=\"now\" width=\"10\" height=\"10\"/></svg> now \
             <svg style=\"width:1em\" viewBox=\"0 0 10 10\"><rect class=\"before\" width=\"10\" height=\"10\"/></svg> before: {} (kiln {})</p>",
            escaped(&comparison.before.file.display().to_string()),
            escaped(&comparison.before.kiln)
        )
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>kiln bench</h1>\n<p>{title}<br>\
         <span class=\"soft\">{}</span></p>\n{legend}{}\n<div>{}</div>\n{}</body></html>\n",
        escaped(&report.machine.words()),
        drawing(report),
        table(&measured(report)),
        verdicts(report),
    )
}

fn drawing(report: &Report) -> String {
    let earlier = |row: &Row| -> Rounds {
        let before = report.comparison.iter().flat_map(|it| &it.before.rows);
        let mut found = before.filter(|(scenario, _)| *scenario == row.scenario);
        found
            .next()
            .map(|(_, rounds)| rounds.clone())
            .unwrap_or_default()
    };
    let all: Vec<f64> = report
        .rows
        .iter()
        .flat_map(|row| [row.seconds(), earlier(row)])
        .flat_map(|rounds| rounds.concat())
        .filter(|seconds| *seconds > 0.0)
        .collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(0.0, f64::max);
    if all.is_empty() {
        return String::new();
    }
    // From a decade's third to a decade's third, so that there is air at both ends.
    let (low, high) = (low.log10() - 0.1, high.log10() + 0.1);
    let x = |seconds: f64| LEFT + (seconds.log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let bottom = ROW * report.rows.len() as f64;
    let height = bottom + AXIS;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"times of each scenario\">"
    );
    for tick in ticks(low, high) {
        let (at, text) = (x(tick), label(tick));
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
             <text class=\"soft\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
            bottom + 20.0
        );
    }
    for (number, row) in report.rows.iter().enumerate() {
        let y = ROW * (number as f64 + 0.5);
        let (now, before) = (row.seconds().concat(), earlier(row).concat());
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text>\
             <text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y + 4.0,
            row.scenario.title(),
            y + 4.0,
            time(median(&now))
        );
        let apart = if before.is_empty() { 0.0 } else { 9.0 };
        for (class, samples, y) in [("before", before, y + apart), ("now", now, y - apart)] {
            for seconds in &samples {
                let at = x(*seconds);
                let _ = write!(
                    svg,
                    "<circle class=\"{class}\" cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
                );
            }
            if !samples.is_empty() {
                let at = x(median(&samples));
                let _ = write!(
                    svg,
                    "<line class=\"middle {class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                    y - 8.0,
                    y + 8.0
                );
            }
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Returns round times between two powers of ten; of a wide range only the powers.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high - low > 2.5 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let decades = low.floor() as i32..=high.ceil() as i32;
    let times = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
    times
        .filter(|time| (low..=high).contains(&time.log10()))
        .collect()
}

fn label(seconds: f64) -> String {
    match seconds {
        ..0.000_95 => format!("{:.0} µs", seconds * 1e6),
        ..0.95 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.0} s"),
    }
}

fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>");
    for (number, row) in rows.iter().enumerate() {
        let cell = if number == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for text in row {
            let _ = write!(html, "<{cell}>{}</{cell}>", escaped(text));
        }
        html.push_str("</tr>\n");
    }
    html + "</table>"
}

fn verdicts(report: &Report) -> String {
    let mut rows = Vec::new();
    let cells = |title: String, ratio: Ratio, verdict: &str| {
        vec![
            title,
            format!("{:.2}", ratio.value),
            format!("{:.2}–{:.2}", ratio.low, ratio.high),
            verdict.replace('-', " "),
        ]
    };
    if let Some(comparison) = &report.comparison {
        let machine = comparison.machine;
        for (scenario, _, ratio) in &comparison.ratios {
            let title = format!("{}, now to before", scenario.title());
            rows.push(cells(title, *ratio, ratio.verdict(Some(machine)).name()));
        }
        rows.push(cells("the machine itself".into(), machine, ""));
    }
    if let Some(against) = &report.against {
        let title = format!("{}, kiln to {}", against.scenario.title(), against.command);
        let verdict = against.ratio.verdict(None).name();
        rows.push(cells(title, against.ratio, verdict));
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["", "ratio", "95 %", "verdict"];
    rows.insert(0, head.map(str::to_owned).to_vec());
    format!("<h2>Ratios</h2>\n<div>{}</div>\n", table(&rows))
}

/// Returns text that is text in HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text() {
        assert_eq!(
            escaped("<a href='x'>&\""),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;"
        );
    }

    #[test]
    fn axes_have_round_times() {
        let labels = |low: f64, high: f64| -> Vec<String> {
            ticks(low.log10(), high.log10())
                .into_iter()
                .map(label)
                .collect()
        };
        assert_eq!(
            labels(0.0005, 12.0),
            ["1 ms", "10 ms", "100 ms", "1 s", "10 s"]
        );
        assert_eq!(labels(0.09, 1.1), ["100 ms", "200 ms", "500 ms", "1 s"]);
    }
}
