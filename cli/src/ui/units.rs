//! Sizes and times as people say them: two significant digits are enough to judge by.

use std::time::Duration;

/// Says a size in decimal units: `312 B`, `8.2 MB`, `41 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be said as "1000".
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(scaled < 9.95);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

/// Says a duration: `3 ms`, `0.2 s`, `1.4 s`, `12 s`, `3 min 20 s`.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.0995 {
        return format!("{} ms", duration.as_micros().div_ceil(1000));
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 60 {
        return format!("{whole} s");
    }
    format!("{} min {} s", whole / 60, whole % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, said) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (8_240_000, "8.2 MB"),
            (41_000_000, "41 MB"),
            (2_600_000_000, "2.6 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }

    #[test]
    fn times() {
        for (milliseconds, said) in [
            (0, "0 ms"),
            (3, "3 ms"),
            (99, "99 ms"),
            (200, "0.2 s"),
            (1_400, "1.4 s"),
            (9_960, "10 s"),
            (59_600, "1 min 0 s"),
            (200_000, "3 min 20 s"),
        ] {
            assert_eq!(time(Duration::from_millis(milliseconds)), said);
        }
        assert_eq!(time(Duration::from_micros(2_100)), "3 ms");
    }
}
