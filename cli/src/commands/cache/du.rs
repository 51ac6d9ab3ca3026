//! `kiln cache du`, `ls --by system` and `ls --by size`: who uses what, on standard output.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_cache::Usage;
use serde_json::{Value, json};

use super::with_cache;
use crate::args::CacheInfo;
use crate::commands::print;
use crate::failure::Failure;
use crate::ui::printer::printable;
use crate::ui::units;

pub(super) fn run(arguments: &CacheInfo) -> Result<(), Failure> {
    show(arguments, kinds, |usage| {
        let kinds = usage.kinds.iter().map(|(kind, sum)| {
            json!({
                "kind": kind,
                "steps": sum.actions,
                "bytes": sum.bytes,
                "seconds": seconds(sum.cost_ns),
            })
        });
        json!({
            "kinds": kinds.collect::<Vec<_>>(),
            "bytes": usage.bytes,
            "unnamed_bytes": usage.unnamed_bytes,
            "unreached_bytes": usage.unreached_bytes,
        })
    })
}

pub(super) fn systems(arguments: &CacheInfo) -> Result<(), Failure> {
    show(arguments, system_lines, |usage| {
        let systems = usage.systems.iter().map(|system| {
            json!({
                "key": system.key.to_string(),
                "name": system.label,
                "steps": system.actions,
                "bytes": system.bytes,
                "own_bytes": system.own_bytes,
                "last_use": system.used_ns / 1_000_000_000,
            })
        });
        systems.collect()
    })
}

pub(super) fn steps(arguments: &CacheInfo) -> Result<(), Failure> {
    show(arguments, step_lines, |usage| {
        let steps = usage.steps.iter().map(|step| {
            json!({
                "key": step.key.to_string(),
                "kind": step.kind,
                "name": step.label,
                "bytes": step.bytes,
                "seconds": seconds(step.cost_ns),
                "last_use": step.used_ns / 1_000_000_000,
            })
        });
        steps.collect()
    })
}

fn show(
    arguments: &CacheInfo,
    text: impl Fn(&Usage) -> String,
    json: impl Fn(&Usage) -> Value,
) -> Result<(), Failure> {
    let usage = with_cache(arguments, kiln_cache::Cache::usage)?;
    print(&match arguments.json {
        true => format!("{}\n", json(&usage)),
        false => text(&usage),
    })
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

fn kinds(usage: &Usage) -> String {
    let mut kinds: Vec<_> = usage.kinds.iter().collect();
    kinds.sort_by_key(|(kind, sum)| (std::cmp::Reverse(sum.bytes), *kind));
    let mut text = format!(
        "{:<12} {:>7} {:>9} {:>14}\n",
        "KIND", "STEPS", "SIZE", "MADE IN"
    );
    let line = |kind: &str, steps: u64, bytes: u64, cost_ns: u64| {
        let time = units::time(Duration::from_nanos(cost_ns));
        format!(
            "{kind:<12} {steps:>7} {:>9} {time:>14}\n",
            units::size(bytes)
        )
    };
    for (kind, sum) in kinds {
        text += &line(&printable(kind), sum.actions, sum.bytes, sum.cost_ns);
    }
    if usage.unnamed_bytes > 0 {
        text += &line("(no record)", 0, usage.unnamed_bytes, 0);
    }
    let all = usage.kinds.values();
    let steps = all.clone().map(|sum| sum.actions).sum();
    let cost = all.fold(0, |cost: u64, sum| cost.saturating_add(sum.cost_ns));
    text += &line("all", steps, usage.bytes, cost);
    text += &format!(
        "{} of it belong to no system's last build\n",
        units::size(usage.unreached_bytes)
    );
    text
}

fn system_lines(usage: &Usage) -> String {
    let mut text = format!(
        "{:>12}  {:>6}  {:>9}  {:>9}  SYSTEM\n",
        "USED", "STEPS", "SIZE", "ALONE"
    );
    for system in &usage.systems {
        text += &format!(
            "{:>12}  {:>6}  {:>9}  {:>9}  {}\n",
            ago(system.used_ns),
            system.actions,
            units::size(system.bytes),
            units::size(system.own_bytes),
            printable(&system.label)
        );
    }
    text
}

fn step_lines(usage: &Usage) -> String {
    let mut text = format!("{:>9}  {:>12}  {:<12}  STEP\n", "SIZE", "USED", "KIND");
    for step in &usage.steps {
        text += &format!(
            "{:>9}  {:>12}  {:<12}  {}\n",
            units::size(step.bytes),
            ago(step.used_ns),
            printable(&step.kind),
            printable(&step.label)
        );
    }
    text
}

/// Says how long ago that was, in the largest unit.
fn ago(at_ns: i64) -> String {
    let at = Duration::from_nanos(u64::try_from(at_ns).unwrap_or(0));
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH + at)
        .unwrap_or_default();
    let seconds = age.as_secs();
    let (count, unit) = match seconds {
        0..60 => return "now".to_owned(),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{count} {unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = |seconds: u64| {
            let then = now - Duration::from_secs(seconds);
            ago(i64::try_from(then.as_nanos()).unwrap())
        };
        assert_eq!(at(3), "now");
        assert_eq!(at(125), "2 min ago");
        assert_eq!(at(7300), "2 h ago");
        assert_eq!(at(90_000), "1 d ago");
        // A clock that went back.
        assert_eq!(ago(i64::MAX), "now");
    }
}
