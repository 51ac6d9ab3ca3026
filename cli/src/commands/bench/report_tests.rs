//! A report of made-up samples: its table, its JSON, its page, and the way back.

use super::*;
use crate::commands::bench::child::Usage;
use crate::commands::bench::{chart, compare, table};
use crate::ui::printer::Printer;
use insta::assert_snapshot;

const PLAIN: Printer = Printer {
    color: false,
    verbose: false,
    quiet: false,
    terminal: false,
};

fn row(scenario: Scenario, milliseconds: f64, ran: u64) -> Row {
    let sample = |factor: f64| Sample {
        usage: Usage {
            seconds: milliseconds * factor / 1e3,
            memory: 57_000_000,
            calls: Some((1_200_000, 333_000_000)),
            storage: (0, 4096),
        },
        cached: if ran == 0 { 0 } else { 12 },
        ran,
        up_to_date: ran == 0,
        bytes: 333_000_000,
    };
    let rounds = [0.98, 0.99, 1.0, 1.01, 1.03];
    Row {
        scenario,
        rounds: rounds.map(|factor| vec![sample(factor)]).to_vec(),
    }
}

fn report(cold: f64, unchanged: f64) -> Report {
    Report {
        system: System {
            files: vec!["system.yml".into()],
            formats: vec!["tar"],
            architecture: "amd64".into(),
            fetched: vec!["nginx:1.27".into()],
            swap: None,
        },
        machine: Machine {
            cores: 2,
            processor: "A processor".into(),
            memory: 8 << 30,
            kernel: "Linux 6.1.0".into(),
            file_system: "ext4".into(),
        },
        measured_at: 1_700_000_000,
        rows: vec![
            row(Scenario::Cold, cold, 25),
            row(Scenario::NothingChanged, unchanged, 0),
        ],
        yardstick: vec![vec![0.02]; 5],
        missing: vec![(
            Scenario::OneServiceSwapped,
            "the system has no services".into(),
        )],
        memory_floor: 9_000_000,
        comparison: None,
        against: None,
    }
}

fn before(text: &str) -> Result<Before, String> {
    Before::parse(Path::new("before.json"), text)
}

#[test]
fn a_comparison_reads() {
    let earlier = before(&report(3_400.0, 2.0).json().to_string()).unwrap();
    let mut now = report(3_420.0, 1.72);
    now.comparison = Some(compare(earlier, &now.rows, &now.yardstick));
    let pairs = vec![vec![(0.002, 0.004)]; 5];
    now.against = Some(Against {
        command: "sleep\n0.004; \u{1b}]0;title\u{7}".into(),
        scenario: Scenario::NothingChanged,
        ratio: super::super::stats::paired(&vec![vec![0.5]; 5]),
        pairs,
    });
    let text = table::render(&now, PLAIN).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    assert_snapshot!(text);
    let json = now.json();
    let verdicts = json["comparison"]["scenarios"].as_array().unwrap();
    assert_eq!(verdicts[0]["verdict"], "same");
    assert_eq!(verdicts[1]["verdict"], "faster");
    assert_eq!(json["against"]["verdict"], "faster");
    assert_eq!(json["against"]["ratio"], 0.5);
}

#[test]
fn json_says_what_was_measured() {
    let json = report(3_400.0, 2.0).json();
    let cold = &json["scenarios"][0];
    assert_eq!(cold["scenario"], "cold");
    assert_eq!(cold["median"], 3.4);
    assert_eq!(cold["samples"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&cold["steps_cached"], &cold["steps_ran"]),
        (&12.into(), &25.into())
    );
    assert_eq!(json["scenarios"][1]["up_to_date"], true);
    assert_eq!(json["missing"][0]["scenario"], "one-service-swapped");
    assert_eq!(json["comparison"], Value::Null);
}

#[test]
fn what_is_no_report_is_refused() {
    let good = report(3_400.0, 2.0).json();
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        before(&value.to_string()).unwrap_err()
    };
    assert!(before("{").is_err());
    assert_eq!(before("{}").unwrap_err(), "it has no version");
    let newer = wrong(&|value| value["version"] = 2.into());
    assert_eq!(newer, "version 2 is not known to this kiln");
    for times in [
        json!([]),
        json!([[]]),
        json!([[0.0]]),
        json!([[-1.0]]),
        json!([["x"]]),
        json!(7),
    ] {
        let said = wrong(&|value| value["scenarios"][0]["samples"] = times.clone());
        assert_eq!(said, "\"cold\" has no times, or wrong ones", "{times}");
    }
    let said = wrong(&|value| value["yardstick"] = Value::Null);
    assert_eq!(said, "it has no yardstick, or a wrong one");
    let unknown = wrong(&|value| value["scenarios"][0]["scenario"] = "tepid".into());
    assert_eq!(unknown, "\"tepid\" is no scenario");
    wrong(&|value| value["system"] = Value::Null);
}

#[test]
fn the_page_stands_alone() {
    let mut report = report(3_400.0, 2.0);
    report.system.files = vec!["<script src=x>.yml".into()];
    let page = chart::page(&report);
    assert!(!page.contains("<script"), "{page}");
    for elsewhere in ["http", "url(", "src=\"", "href="] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert_eq!(page.matches("<circle").count(), 10);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.contains("prefers-color-scheme:dark"));
}
