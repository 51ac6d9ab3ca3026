//! YAML as go-yaml writes it: plain scalars where YAML 1.1 would read them back as the same string,
//! laid out as by its version 2 or 3.
//!
//! Enters: a JSON value (ordered). Leaves: text with a final newline. Long lines are not folded.

use serde_json::Value;

/// The layout.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Style {
    /// Two spaces of indent, lists not indented under their key.
    V2,
    /// Four spaces of indent, lists too.
    V3,
}

/// Writes `value` as one document.
pub(super) fn to_string(value: &Value, style: Style) -> String {
    let mut writer = Writer {
        out: String::new(),
        style,
    };
    writer.node(value, 0, Place::Line);
    writer.out
}

/// What stands before a node on its line.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Nothing.
    Line,
    /// `key:`
    Key,
    /// `-`
    Dash,
}

struct Writer {
    out: String,
    style: Style,
}

impl Writer {
    /// The column of what lies below `column`: in version 3 the next multiple of four.
    fn below(&self, column: usize) -> usize {
        match self.style {
            Style::V2 => column + 2,
            Style::V3 => (column + 4) / 4 * 4,
        }
    }

    fn spaces(&mut self, count: usize) {
        self.out.extend(std::iter::repeat_n(' ', count));
    }

    /// Writes a node and the line break after it. `parent` is the column of what it stands in.
    fn node(&mut self, value: &Value, parent: usize, place: Place) {
        match value {
            Value::Array(items) if !items.is_empty() => {
                let column = match (place, self.style) {
                    (Place::Line, _) => 0,
                    (Place::Dash, _) => parent + 2,
                    (Place::Key, Style::V2) => parent,
                    (Place::Key, Style::V3) => self.below(parent),
                };
                for (index, item) in items.iter().enumerate() {
                    self.start_entry(column, place, index == 0);
                    self.out.push('-');
                    self.node(item, column, Place::Dash);
                }
            }
            Value::Object(map) if !map.is_empty() => {
                let column = match place {
                    Place::Line => 0,
                    Place::Dash => parent + 2,
                    Place::Key => self.below(parent),
                };
                for (index, (key, value)) in map.iter().enumerate() {
                    self.start_entry(column, place, index == 0);
                    self.key(key);
                    self.node(value, column, Place::Key);
                }
            }
            _ => self.scalar(value, parent, place),
        }
    }

    /// The first entry shares the line of a dash; the others, and all under a key, start their own.
    fn start_entry(&mut self, column: usize, place: Place, is_first: bool) {
        match (place, is_first) {
            (Place::Dash, true) => self.out.push(' '),
            (Place::Key, true) => {
                self.out.push('\n');
                self.spaces(column);
            }
            _ => self.spaces(column),
        }
    }

    fn key(&mut self, key: &str) {
        if is_plain(key) {
            self.out.push_str(key);
        } else {
            quoted(&mut self.out, key);
        }
        self.out.push(':');
    }

    fn scalar(&mut self, value: &Value, parent: usize, place: Place) {
        if place != Place::Line {
            self.out.push(' ');
        }
        match value {
            Value::Array(_) => self.out.push_str("[]"),
            Value::Object(_) => self.out.push_str("{}"),
            Value::String(text) => self.string(text, parent),
            other => self.out.push_str(&other.to_string()),
        }
        self.out.push('\n');
    }

    fn string(&mut self, text: &str, parent: usize) {
        if text.contains('\n') && fits_literal(text) {
            self.literal(text, parent);
        } else if is_plain(text) {
            self.out.push_str(text);
        } else if resolves_to_string(text) && fits_single_quotes(text) {
            self.out.push('\'');
            self.out.push_str(&text.replace('\'', "''"));
            self.out.push('\'');
        } else {
            quoted(&mut self.out, text);
        }
    }

    /// `|` with the indicators the text needs, the last line break left to the caller.
    fn literal(&mut self, text: &str, parent: usize) {
        let column = self.below(parent);
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push_str(&(column - parent).to_string());
        }
        if !text.ends_with('\n') {
            self.out.push('-');
        } else if text.ends_with("\n\n") || text == "\n" {
            self.out.push('+');
        }
        let body = text.strip_suffix('\n').unwrap_or(text);
        for line in body.split('\n') {
            self.out.push('\n');
            if !line.is_empty() {
                self.spaces(column);
                self.out.push_str(line);
            }
        }
    }
}

/// Double quotes with YAML's escapes; hexadecimal digits in upper case.
fn quoted(out: &mut String, text: &str) {
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
            to_string(&value, Style::V2),
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
        assert_eq!(to_string(&json!({}), Style::V2), "{}\n");
        let value = json!({
            "init": ["a", "b\nc\n"],
            "onboot": [{"name": "a", "list": ["x", ["w", {"z": 1}]], "map": {"k": {"l": "v"}}, "text": " d\n"}],
            "none": [],
        });
        assert_eq!(
            to_string(&value, Style::V3),
            "\
init:
    - a
    - |
        b
        c
onboot:
    - name: a
      list:
        - x
        - - w
          - z: 1
      map:
        k:
            l: v
      text: |2
         d
none: []
"
        );
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
                to_string(&json!(text), Style::V2).trim_end_matches('\n'),
                expected,
                "{text:?}"
            );
        }
    }

    proptest! {
        /// The reader of descriptions is the oracle: what is written is read back.
        #[test]
        fn any_text_survives(text in r"([ -~]|[\n\t\r é😀\u{85}\u{2028}\u{7f}]|[-:#'?,\[{&*!|>%@`0-9yn.~_]){0,12}", is_v3 in any::<bool>()) {
            let value = json!({"kernel": {"cmdline": text, "binary": "x"}, "services": [{"name": "a", "image": "b", "env": [text, "x"], "sysctl": {text.as_str(): "v"}}]});
            let yaml = to_string(&value, if is_v3 { Style::V3 } else { Style::V2 });
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
