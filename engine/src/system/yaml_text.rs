//! YAML as go-yaml version 2 writes it: two spaces of indent, lists not indented under their key,
//! plain scalars where YAML 1.1 would read them back as the same string.
//!
//! Enters: a JSON value (ordered). Leaves: text with a final newline. Long lines are not folded.

use serde_json::Value;

/// Writes `value` as one document.
pub(super) fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write_node(&mut out, value, 0, Place::Line);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// What stands before a node on its line.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Nothing but indentation, already written.
    Line,
    /// `key:`
    Key,
    /// `-`
    Dash,
}

/// Writes a node and the line break after it. `indent` is the column of its entries.
fn write_node(out: &mut String, value: &Value, indent: usize, place: Place) {
    match value {
        Value::Array(items) if !items.is_empty() => write_list(out, items, indent, place),
        Value::Object(map) if !map.is_empty() => write_map(out, map, indent, place),
        _ => {
            if place != Place::Line {
                out.push(' ');
            }
            match value {
                Value::Array(_) => out.push_str("[]"),
                Value::Object(_) => out.push_str("{}"),
                Value::String(text) => write_string(out, text, indent),
                other => out.push_str(&other.to_string()),
            }
            out.push('\n');
        }
    }
}

fn write_list(out: &mut String, items: &[Value], indent: usize, place: Place) {
    // A list under a key starts at the key's own column.
    let indent = if place == Place::Key {
        indent.saturating_sub(2)
    } else {
        indent
    };
    for (index, item) in items.iter().enumerate() {
        start_entry(out, indent, place, index == 0);
        out.push('-');
        write_node(out, item, indent + 2, Place::Dash);
    }
}

fn write_map(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize, place: Place) {
    for (index, (key, value)) in map.iter().enumerate() {
        start_entry(out, indent, place, index == 0);
        if is_plain(key) {
            out.push_str(key);
        } else {
            write_quoted(out, key);
        }
        out.push(':');
        write_node(out, value, indent + 2, Place::Key);
    }
}

/// The first entry shares the line of a dash; the others, and all under a key, start their own.
fn start_entry(out: &mut String, indent: usize, place: Place, first: bool) {
    match (place, first) {
        (Place::Dash, true) => out.push(' '),
        (Place::Key, true) => {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
        }
        (Place::Line, true) => {}
        _ => out.push_str(&" ".repeat(indent)),
    }
}

fn write_string(out: &mut String, text: &str, indent: usize) {
    if text.contains('\n') && fits_literal(text) {
        write_literal(out, text, indent);
    } else if is_plain(text) {
        out.push_str(text);
    } else if resolves_to_string(text) && fits_single_quotes(text) {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    } else {
        write_quoted(out, text);
    }
}

/// `|` with the indicators the text needs, the last line break left to the caller.
fn write_literal(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") || text == "\n" {
        out.push('+');
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    // A literal at the very top would have no indentation to be told apart by.
    let margin = " ".repeat(indent.max(2));
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&margin);
            out.push_str(line);
        }
    }
}

/// Double quotes with YAML's escapes; hexadecimal digits in upper case.
fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
}

/// go-yaml's notion, which escapes everything beyond the basic plane.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

fn fits_literal(text: &str) -> bool {
    !text.ends_with(' ') && text.chars().all(|c| c == '\n' || is_printable(c))
}

/// No break, and nothing that needs an escape.
fn fits_single_quotes(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_printable)
}

/// Tells that a block plain scalar is read back as the same string.
fn is_plain(text: &str) -> bool {
    fits_single_quotes(text)
        && resolves_to_string(text)
        && !text.starts_with([
            ' ', '#', ',', '[', ']', '{', '}', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`',
        ])
        && !text.ends_with([' ', ':'])
        && !["---", "..."].iter().any(|mark| text.starts_with(mark))
        && !matches!(text, "-" | "?")
        && !["- ", "? ", ": "].iter().any(|mark| text.starts_with(mark))
        && !text.contains(": ")
        && !text.contains(" #")
}

/// Tells that a plain scalar would be a string in YAML 1.1, where `yes`, `1:30` and dates are not.
fn resolves_to_string(text: &str) -> bool {
    let word = matches!(
        text.to_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "true" | "false" | "on" | "off" | "null" | "~" | "<<" | ""
    );
    let special = matches!(
        text.trim_start_matches(['+', '-']).to_lowercase().as_str(),
        ".inf" | ".nan"
    );
    !(word || special || is_number(text) || is_date(text))
}

/// Integers of any base, floats and base 60, all with underscores; a little wider than YAML 1.1, so
/// that in doubt a string is quoted.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let digits = unsigned.replace('_', "");
    let radix = |prefix: &str, radix| {
        digits
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    let base60 = digits.contains(':')
        && digits.split(':').all(|part| {
            part.bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        });
    radix("0x", 16)
        || radix("0X", 16)
        || radix("0o", 8)
        || radix("0b", 2)
        || base60
        || digits.parse::<f64>().is_ok()
}

/// `2001-01-02`, with or without a time.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, lengths: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|part| {
            lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    digits(parts.next(), 4..=4)
        && digits(parts.next(), 1..=2)
        && parts
            .next()
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn lays_out_like_go_yaml() {
        let value = json!({
            "kernel": {"image": "", "cmdline": "console=ttyS0 root=/dev/sda1"},
            "init": [],
            "onboot": [{"name": "a", "list": ["x", ["w", {"z": 1}], {}], "map": {"k": "v"}}],
            "files": [{"path": "p", "contents": "one\n  two\n\nthree\n", "flag": false}, {"contents": "no break\nat end"}, {"contents": "\n x\n\n"}],
            "none": null,
        });
        assert_eq!(
            to_string(&value),
            "\
kernel:
  image: \"\"
  cmdline: console=ttyS0 root=/dev/sda1
init: []
onboot:
- name: a
  list:
  - x
  - - w
    - z: 1
  - {}
  map:
    k: v
files:
- path: p
  contents: |
    one
      two

    three
  flag: false
- contents: |-
    no break
    at end
- contents: |2+

     x

none: null
"
        );
        assert_eq!(to_string(&json!({})), "{}\n");
    }

    #[test]
    fn quotes_what_would_not_be_a_string() {
        let cases = [
            ("plain text", "plain text"),
            ("yes", "\"yes\""),
            ("0644", "\"0644\""),
            ("1_000", "\"1_000\""),
            ("1:30", "\"1:30\""),
            ("2001-01-02", "\"2001-01-02\""),
            ("<<", "\"<<\""),
            ("~", "\"~\""),
            (".Inf", "\".Inf\""),
            ("1.2.3", "1.2.3"),
            ("/a:/b:ro", "/a:/b:ro"),
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("@pkg:x", "'@pkg:x'"),
            ("it's: so", "'it''s: so'"),
            (" lead", "' lead'"),
            ("a:", "'a:'"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("tab\there", "\"tab\\there\""),
            ("é", "é"),
            ("😀", "\"\\U0001F600\""),
            ("a \n", "|\n  a "),
            ("a\n ", "\"a\\n \""),
        ];
        for (text, expected) in cases {
            assert_eq!(
                to_string(&json!(text)).trim_end_matches('\n'),
                expected,
                "{text:?}"
            );
        }
    }

    proptest! {
        /// The reader of descriptions is the oracle: what is written is read back.
        #[test]
        fn any_text_survives(text in r"([ -~]|[\n\t\r é😀\u{85}\u{2028}\u{7f}]|[-:#'?,\[{&*!|>%@`0-9yn.~_]){0,12}") {
            let value = json!({"kernel": {"cmdline": text, "binary": "x"}, "services": [{"name": "a", "image": "b", "env": [text, "x"], "sysctl": {text.as_str(): "v"}}]});
            let yaml = to_string(&value);
            let spec = crate::spec::Spec::parse(yaml.as_bytes(), "y");
            let spec = spec.map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?;
            let kernel = spec.kernel.unwrap();
            prop_assert_eq!(kernel.cmdline_text(), text.as_str(), "{}", yaml);
            let config = &spec.services[0].config;
            prop_assert_eq!(&config.env.as_ref().unwrap()[0], &text, "{}", yaml);
            prop_assert_eq!(&config.env.as_ref().unwrap()[1], "x");
            prop_assert!(config.sysctl.as_ref().unwrap().contains_key(&text), "{}", yaml);
        }
    }
}
