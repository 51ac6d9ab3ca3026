//! JSON as Go's `json.MarshalIndent` writes it, which is what LinuxKit's files look like.
//!
//! Four spaces of indent, no final newline; `<`, `>`, `&`, U+2028 and U+2029 escaped. Key order is
//! that of the value.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Writes `value`, whose maps must have string keys.
pub(super) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let formatter = GoFormatter(PrettyFormatter::with_indent(b"    "));
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        .expect("our own types serialise, and a vector takes every byte");
    bytes
}

struct GoFormatter(PrettyFormatter<'static>);

/// Passes the layout on to the pretty formatter.
macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $kind)*) -> io::Result<()> {
            self.0.$name(writer $(, $argument)*)
        })*
    };
}

impl Formatter for GoFormatter {
    forward! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut after = rest[at..].chars();
            if let Some(escaped) = after.next() {
                write!(writer, "\\u{:04x}", u32::from(escaped))?;
            }
            rest = after.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_like_go() {
        let value = json!({"b": [], "a": {}, "c": ["<a&b>\u{2028}é\u{1}\u{8}\n\"\\\u{7f}", u64::MAX, true, null]});
        let text = String::from_utf8(to_vec(&value)).unwrap();
        assert_eq!(
            text,
            "{\n    \"b\": [],\n    \"a\": {},\n    \"c\": [\n        \"\\u003ca\\u0026b\\u003e\\u2028é\\u0001\\b\\n\\\"\\\\\u{7f}\",\n        18446744073709551615,\n        true,\n        null\n    ]\n}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_string_survives(text in ".*") {
            let back: String = serde_json::from_slice(&to_vec(&text)).unwrap();
            proptest::prop_assert_eq!(back, text);
        }
    }
}
