//! A YAML document as a tree of typed values with byte ranges, before anything knows its meaning.
//!
//! Scalars are typed by YAML 1.2's core schema, as LinuxKit's reader does: `yes` and `on` are
//! strings, `0644` is a number.

use std::ops::Range;
use std::rc::Rc;

/// A value and its bytes in the source.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) range: Range<usize>,
    /// Size of the tree below with aliases written out, in units of roughly one node.
    pub(super) weight: usize,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A whole number and its spelling.
    Integer(i128, String),
    /// The spelling of any other number.
    Float(String),
    String(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// One key of a mapping; keys are unique within it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_range: Range<usize>,
    pub(super) value: Rc<Node>,
}

impl Value {
    /// Says what this is, for "expected a string, found …".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Integer(_, text) => format!("the number {}", clip(text)),
            Self::Float(text) => format!("the number {}", clip(text)),
            Self::String(text) => format!("the string \"{}\"", clip(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Types a plain scalar.
    pub(super) fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            ".nan" | ".NaN" | ".NAN" => Self::Float(text.to_owned()),
            _ => match integer(text) {
                Some(value) => Self::Integer(value, text.to_owned()),
                None if is_float(text) => Self::Float(text.to_owned()),
                None => Self::String(text.to_owned()),
            },
        }
    }
}

/// Shortens `text` for a message and takes the line breaks out.
pub(super) fn clip(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let dots = if shown.len() < text.len() { "…" } else { "" };
    format!(
        "{}{dots}",
        shown.escape_debug().to_string().replace("\\'", "'")
    )
}

/// Decimal, `0x`, `0o`, `0b` and C octal with a leading zero; `_` between digits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // Longer than any 64-bit number in binary with separators: no need to look at all of it.
    if digits.is_empty() || digits.len() > 128 || !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    let value = if negative { -value } else { value };
    (i128::from(i64::MIN)..=i128::from(u64::MAX))
        .contains(&value)
        .then_some(value)
}

/// `[-+]? (\.[0-9]+ | [0-9]+(\.[0-9]*)?) ([eE][-+]?[0-9]+)?`, or an infinity.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    mantissa_fits && exponent_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_plain_scalars_like_yaml_1_2() {
        let cases = [
            ("", "nothing"),
            ("~", "nothing"),
            ("yes", "the string \"yes\""),
            ("on", "the string \"on\""),
            ("n", "the string \"n\""),
            ("true", "the boolean true"),
            ("TRUE", "the boolean true"),
            ("0644", "the number 0644"),
            ("0o644", "the number 0o644"),
            ("-0x1F", "the number -0x1F"),
            ("1_000", "the number 1_000"),
            ("18446744073709551615", "the number 18446744073709551615"),
            ("1.5", "the number 1.5"),
            ("1e3", "the number 1e3"),
            (".5", "the number .5"),
            ("-.inf", "the number -.inf"),
            ("1.2.3", "the string \"1.2.3\""),
            ("-", "the string \"-\""),
            (".", "the string \".\""),
            ("+", "the string \"+\""),
            ("0x", "the string \"0x\""),
            ("12:30", "the string \"12:30\""),
            ("2001-01-01", "the string \"2001-01-01\""),
            ("e5", "the string \"e5\""),
            ("é", "the string \"é\""),
        ];
        for (text, expected) in cases {
            assert_eq!(Value::plain(text).describe(), expected, "{text}");
        }
        for (text, expected) in [
            ("0644", 420),
            ("+5", 5),
            ("-7", -7),
            ("0b101", 5),
            ("0", 0),
            ("00", 0),
        ] {
            assert!(
                matches!(Value::plain(text), Value::Integer(value, _) if value == expected),
                "{text}"
            );
        }
        assert!(matches!(
            Value::plain("18446744073709551616"),
            Value::Float(_)
        ));
        assert!(matches!(Value::plain("08"), Value::Float(_)));
    }
}
