//! Sizes and durations as people write them on the command line; [`crate::ui::units`] says them.
//!
//! Enters: `10GB`, `512MiB`, `30d`, `1h30m`. Leaves: bytes and durations, or what is wrong with the
//! text, in words for clap to show. A bare number is refused, for nobody knows what it counts; only of a
//! machine's memory LinuxKit has said.

use std::time::Duration;

/// Units of size in bytes: decimal as disks are sold, binary with an `i`.
const SIZES: [(&str, u64); 13] = [
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// Units of time in seconds. No months or years: they are not all alike.
const TIMES: [(&str, u64); 6] = [
    ("s", 1),
    ("m", 60),
    ("min", 60),
    ("h", 3600),
    ("d", 86_400),
    ("w", 604_800),
];

/// Splits off a number and the letters after it.
fn part(text: &str) -> (&str, &str, &str) {
    let letters = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(letters);
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    (number, unit, rest)
}

/// Multiplies a decimal number such as `1.5` exactly, rounding down.
fn times(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine digits are more than anybody means, and fit.
    if fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = fraction.parse().ok()?;
    let part = u64::try_from(fraction * u128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// Reads a size: `10GB` (10⁹ each), `512MiB` (2²⁰ each), `0`. Returns bytes.
///
/// # Errors
/// In words, when the text is no size or one of more than 16 EiB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    let (number, unit, rest) = part(text);
    let unit = unit.to_ascii_lowercase();
    let unit = SIZES.iter().find(|known| known.0 == unit);
    match unit {
        Some((_, bytes)) if rest.is_empty() => times(number, *bytes),
        _ => None,
    }
    .ok_or_else(|| "a size is a number and its unit: 500MB, 10GB, 1.5GiB".to_owned())
}

/// Reads an amount of memory: in MiB as LinuxKit has it, or with Docker's units. Returns MiB.
///
/// # Errors
/// In words, when the text is no amount, or too small for any machine.
pub(crate) fn memory(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => Some(0),
        "k" => Some(10),
        "" | "m" => Some(20),
        "g" => Some(30),
        _ => None,
    };
    let bytes = shift.zip(digits.parse::<u32>().ok());
    let mebibytes = bytes.map(|(shift, number)| (u64::from(number) << shift) >> 20);
    match mebibytes.and_then(|mebibytes| u32::try_from(mebibytes).ok()) {
        Some(mebibytes @ 16..) => Ok(mebibytes),
        Some(_) => Err("a machine needs 16 MiB or more".to_owned()),
        None => Err("an amount of memory is written 512, 512m or 2g".to_owned()),
    }
}

/// Reads a duration: `30d`, `12h`, `90m`, `1d12h`; units are w, d, h, m and s.
///
/// # Errors
/// In words, when the text is no duration or one of more than 500 billion years.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a number and its unit: 30d, 12h, 90m, 1d12h".to_owned();
    let mut total = Duration::ZERO;
    let mut text = text;
    loop {
        let (number, unit, rest) = part(text);
        let unit = TIMES.iter().find(|known| known.0 == unit);
        let seconds = unit.and_then(|(_, seconds)| times(number, *seconds));
        let part = Duration::from_secs(seconds.ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        if rest.is_empty() {
            return Ok(total);
        }
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1B", 1),
            ("10GB", 10_000_000_000),
            ("10G", 10_000_000_000),
            ("10gb", 10_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5kB", 500),
            ("512MiB", 512 << 20),
            ("2T", 2_000_000_000_000),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "10",
            "GB",
            "-1GB",
            "1.GB",
            ".5GB",
            "1.2.3GB",
            "1GB2MB",
            "1 GB",
            "10XB",
            "1e3MB",
            "18446744073709551616B",
            "99999999999TB",
            "1.0000000001GB",
            "0x10MB",
            "١GB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_is_as_linuxkit_or_docker_has_it() {
        for (text, mebibytes) in [("64", 64), ("1g", 1024), ("32768K", 32), ("2G", 2048)] {
            assert_eq!(memory(text), Ok(mebibytes), "{text}");
        }
        for wrong in [
            "",
            "m",
            "15",
            "1x",
            "-1",
            "1.5g",
            "1mb",
            "99999999999",
            "1b",
        ] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [
            ("0s", 0),
            ("90m", 5400),
            ("90min", 5400),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
            ("1d12h", 129_600),
            ("1.5h", 5400),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "d",
            "-1d",
            "1d 2h",
            "1d2",
            "1y",
            "30D",
            "1..5h",
            "99999999999999999999s",
            "18446744073709551615s18446744073709551615s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,12}", number in "[0-9.]{0,24}", unit in "[a-zA-Z]{0,3}") {
            let _ = (size(&text), duration(&text));
            let written = format!("{number}{unit}");
            let _ = (size(&written), duration(&written));
        }
    }
}
