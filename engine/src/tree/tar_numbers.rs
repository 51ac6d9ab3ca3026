//! The ways tar writes numbers, times and bytes.

/// Parses a header field: octal text, or base-256 when the first bit is set (GNU).
pub(crate) fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement; the marker bit is not part of the number, the next one is its sign.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 {
                (byte & 0x7f) | if negative { 0x80 } else { 0 }
            } else {
                *byte
            };
            value = (value << 8) | i128::from(byte);
        }
        return Some(value);
    }
    let text = field.trim_ascii_start();
    let digits = text
        .iter()
        .take_while(|byte| (b'0'..=b'7').contains(byte))
        .count();
    let rest = &text[digits..];
    if !rest.iter().all(|byte| *byte == 0 || *byte == b' ')
        && rest.first().is_none_or(|byte| *byte != 0)
    {
        return None;
    }
    text[..digits].iter().try_fold(0_i128, |value, digit| {
        value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i128::from(digit - b'0')))
    })
}

/// Parses a decimal number without sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Parses `SECONDS[.FRACTION]`, maybe negative, into seconds and nanoseconds.
pub(crate) fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = digits
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(digits.len());
    let seconds = i64::try_from(decimal(&digits[..dot])?).ok()?;
    let mut nanoseconds = 0_u32;
    let fraction = digits.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for place in 0..9 {
        nanoseconds = nanoseconds * 10
            + fraction
                .get(place)
                .map_or(0, |digit| u32::from(digit - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => ((-seconds).checked_sub(1)?, 1_000_000_000 - nanoseconds),
    })
}

/// Decodes base64, with or without padding (libarchive writes none).
pub(crate) fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, config)
        .decode(text)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_kind() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"00006x4\0"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff"), Some(-1));
        assert_eq!(number(b""), None);
    }

    #[test]
    fn times_of_every_kind() {
        assert_eq!(pax_time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(pax_time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(pax_time(b"-3"), Some((-3, 0)));
        assert_eq!(pax_time(b"7.1234567891"), Some((7, 123_456_789)));
        assert_eq!(
            (pax_time(b""), pax_time(b"1.x"), pax_time(b"x")),
            (None, None, None)
        );
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(unbase64(b"AAE"), Some(vec![0, 1]));
        assert_eq!(unbase64(b"AAE="), Some(vec![0, 1]));
    }
}
