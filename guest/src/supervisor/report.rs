//! What `ps` and `stats` say, for people and for programs, and how times are written.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Supervisor;
use crate::bundle::short_name;
use crate::cgroup;
use crate::service::{Service, State};

impl Supervisor {
    pub(super) fn ps(&self, now: Instant) -> String {
        let mut rows =
            vec![["NAME", "STATE", "READY", "PID", "RESTARTS", "FOR"].map(str::to_owned)];
        for service in self.services.all() {
            let (state, pid, time) = describe(service, now);
            rows.push([
                service.id.clone(),
                state,
                if service.is_ready() { "yes" } else { "no" }.to_owned(),
                pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                service.restarts.to_string(),
                time.map_or_else(|| "-".to_owned(), period),
            ]);
        }
        table(&rows)
    }

    pub(super) fn ps_json(&self, now: Instant) -> String {
        let services = self.services.all().iter().map(|service| {
            let (state, pid, time) = describe(service, now);
            json!({
                "name": service.id,
                "state": state,
                "ready": service.is_ready(),
                "pid": pid,
                "restarts": service.restarts,
                "seconds": time.map(|time| time.as_secs_f64()),
            })
        });
        format!("{}\n", json!({"services": services.collect::<Vec<_>>()}))
    }

    fn usages(&self) -> impl Iterator<Item = (&str, cgroup::Usage)> {
        self.containers.iter().filter_map(|container| {
            let usage = cgroup::usage(container.cgroup.as_deref()?);
            Some((short_name(&container.bundle.id), usage))
        })
    }

    pub(super) fn stats(&self) -> String {
        let mut rows = vec![["NAME", "CPU", "MEMORY", "PROCESSES"].map(str::to_owned)];
        for (name, usage) in self.usages() {
            rows.push([
                name.to_owned(),
                seconds(usage.cpu),
                format!("{} MB", tenths(usage.memory / 100_000)),
                usage.processes.to_string(),
            ]);
        }
        table(&rows)
    }

    pub(super) fn stats_json(&self) -> String {
        let usages = self.usages().map(|(name, usage)| {
            json!({
                "name": name,
                "cpuSeconds": usage.cpu.as_secs_f64(),
                "memoryBytes": usage.memory,
                "processes": usage.processes,
            })
        });
        format!("{}\n", json!({"containers": usages.collect::<Vec<_>>()}))
    }
}

fn describe(service: &Service, now: Instant) -> (String, Option<i32>, Option<Duration>) {
    match &service.state {
        State::Waiting => {
            let needed = service.policy.depends_on.join(", ");
            (format!("waits for {needed}"), None, None)
        }
        State::Running {
            pid,
            since,
            kill_at,
            ..
        } => {
            let state = if kill_at.is_some() {
                "ending"
            } else {
                "running"
            };
            let time = now.saturating_duration_since(*since);
            (
                state.to_owned(),
                Some(pid.as_raw_nonzero().get()),
                Some(time),
            )
        }
        State::Resting { until } => {
            let wait = until.saturating_duration_since(now);
            (format!("starts again in {}", period(wait)), None, None)
        }
        State::Ended(how) => (how.clone(), None, None),
    }
}

/// Returns a number of tenths. Here and below without floating point: std's code that prints it is
/// 12 KB of every image.
fn tenths(number: u64) -> String {
    format!("{}.{}", number / 10, number % 10)
}

/// Returns a time that was measured.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{}.{:02} s", time.as_secs(), time.subsec_millis() / 10)
}

/// Returns a time as people say it.
pub(super) fn period(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{} s", tenths(time.as_millis() as u64 / 100)),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Returns a point in time as RFC 3339, in UTC, and a blank.
pub(super) fn stamp(time: Duration) -> Vec<u8> {
    let (days, seconds) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    // Days to a date, by eras of 400 years that begin in March (Howard Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month_of_year) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month_of_year <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = time.subsec_millis();
    format!("{year:04}-{month_of_year:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z ")
        .into_bytes()
}

/// Returns rows as columns of even width.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds: u64| String::from_utf8(stamp(Duration::from_secs(seconds))).unwrap();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z ");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z ");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.000Z ");
    }

    #[test]
    fn columns_are_even() {
        let rows = [["A", "LONG"], ["longer", "b"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A       LONG\nlonger  b\n");
        assert_eq!(period(Duration::from_millis(1599)), "1.5 s");
        assert_eq!(seconds(Duration::from_millis(1050)), "1.05 s");
        assert_eq!(period(Duration::from_secs(7300)), "2 h");
    }
}
