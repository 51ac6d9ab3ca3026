//! The description's JSON Schema: what editors and other programs check a YAML with.
//!
//! Enters: the tables of [`table`], one line per key. Leaves: JSON Schema draft-07, which
//! yaml-language-server and its kin read. The decoder stays the judge; the tests hold each table
//! against the keys it asks for, and compare verdicts on documents made from the tables.

mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::builtin;
use super::grammar::{CAPABILITIES, LIMITS, NAME_MAX_BYTES};
use table::{LABEL, SYSTEM};

/// White space and control characters, as Unicode has them and as a character class.
macro_rules! blank {
    () => {
        r"\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    };
}

/// A mapping with a fixed set of keys.
struct Object {
    /// Its name among the definitions; empty for what is used in one place.
    name: &'static str,
    /// In groups, so that tables can share some.
    keys: &'static [&'static [Key]],
    required: &'static [&'static str],
    /// What binds several keys together.
    rule: Rule,
}

/// One key of a mapping.
struct Key {
    name: &'static str,
    kind: Kind,
    text: &'static str,
}

/// What a value may be.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    /// A whole number between these.
    Number(i64, u64),
    /// Any string.
    Text,
    /// A string that follows a pattern.
    Like(Pattern),
    /// One of these strings.
    Words(&'static [&'static str]),
    /// Any string, these being the usual ones.
    Usually(&'static [&'static str]),
    /// Free keys, strings as values.
    Strings,
    List(&'static Kind),
    /// A list with at least one item.
    Some(&'static Kind),
    Map(&'static Object),
    /// Any of these.
    Any(&'static [Kind]),
}

/// The small languages inside strings, see [`super::grammar`].
#[derive(Clone, Copy)]
enum Pattern {
    Bind,
    Capability,
    ContainerName,
    FilePath,
    Image,
    ImageOrEmpty,
    Mirror,
    Mode,
    ModeOrEmpty,
    Package,
    Platform,
    Rlimit,
    Suite,
    Tmpfs,
    VolumeName,
}

/// What a mapping's keys have to do with each other.
enum Rule {
    Free,
    /// Exactly one of `image` and `debian`.
    OneImage,
    /// Exactly one of these and `builtin`, which not every other key goes with.
    OneSource,
    /// At most one of them.
    AtMostOneImage,
    /// At least one of the keys that say what a file holds.
    Content,
    /// Types of `all` differ from those of a node, which needs type and mode.
    Device,
}

impl Object {
    fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().copied().flatten()
    }
}

const BIND: &str = "^[^:]+:[^:]+(:[^:]*)?$";

/// Returns the schema of a description, pretty-printed.
#[must_use]
pub fn description() -> String {
    document(&SYSTEM, "kiln system description")
}

/// Returns the schema of an image's `org.mobyproject.config` label, pretty-printed.
#[must_use]
pub fn label() -> String {
    document(&LABEL, "org.mobyproject.config image label")
}

fn document(root: &Object, title: &str) -> String {
    let mut definitions = BTreeMap::new();
    let mut whole = Map::new();
    whole.insert(
        "$schema".into(),
        "http://json-schema.org/draft-07/schema#".into(),
    );
    whole.insert("title".into(), title.into());
    if let Value::Object(object) = object(root, &mut definitions) {
        whole.extend(object);
    }
    if std::ptr::eq(root, &SYSTEM) {
        // An explicit null is an empty description.
        whole.insert("type".into(), json!(["object", "null"]));
    }
    whole.insert("definitions".into(), json!(definitions));
    let text = format!("{:#}\n", Value::Object(whole));
    match std::ptr::eq(root, &SYSTEM) {
        // Any string of a description may name a package; the reference it becomes has a colon, and
        // so is a bind, odd as it may be.
        true => text.replace(BIND, &format!("^@pkg:$|{BIND}")),
        false => text,
    }
}

/// Definitions by name, in the order of their names.
type Definitions = BTreeMap<&'static str, Value>;

fn object(object: &Object, definitions: &mut Definitions) -> Value {
    let mut properties = Map::new();
    for key in object.keys() {
        let mut value = kind(key.kind, definitions);
        if let Value::Object(value) = &mut value {
            value.insert("description".into(), key.text.into());
        }
        properties.insert(key.name.into(), value);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !object.required.is_empty() {
        schema["required"] = json!(object.required);
    }
    schema["additionalProperties"] = false.into();
    match object.rule {
        Rule::Free => {}
        Rule::OneImage => {
            schema["oneOf"] = json!([{"required": ["image"]}, {"required": ["debian"]}]);
        }
        Rule::OneSource => {
            let one = |key| json!({"required": [key]});
            schema["oneOf"] = json!([one("image"), one("debian"), one("builtin")]);
            schema["anyOf"] = json!([
                {"not": one("builtin")},
                {"propertyNames": {"enum": builtin::KEYS}},
            ]);
        }
        Rule::AtMostOneImage => schema["not"] = json!({"required": ["image", "debian"]}),
        Rule::Content => {
            let one = |key| json!({"required": [key]});
            let keys = ["contents", "source", "metadata", "symlink", "directory"];
            schema["anyOf"] = Value::Array(keys.map(one).into());
        }
        Rule::Device => {
            schema["if"] = json!({"required": ["path"], "properties": {"path": {"const": "all"}}});
            schema["then"] = json!({"properties": {"type": {"enum": ["", "a", "b", "c"]}}});
            schema["else"] = json!({
                "required": ["type", "mode"],
                "properties": {"type": {"enum": ["b", "c", "u", "p"]}}
            });
        }
    }
    schema
}

fn kind(what: Kind, definitions: &mut Definitions) -> Value {
    match what {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Number(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Text => json!({"type": "string"}),
        Kind::Like(like) => pattern(like),
        Kind::Words(words) => json!({"type": "string", "enum": words}),
        Kind::Usually(words) => json!({"anyOf": [{"enum": words}, {"type": "string"}]}),
        Kind::Strings => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Kind::List(item) => json!({"type": "array", "items": kind(*item, definitions)}),
        Kind::Some(item) => {
            json!({"type": "array", "minItems": 1, "items": kind(*item, definitions)})
        }
        Kind::Any(kinds) => {
            let any: Vec<Value> = kinds.iter().map(|one| kind(*one, definitions)).collect();
            json!({"anyOf": any})
        }
        Kind::Map(map) if map.name.is_empty() => object(map, definitions),
        Kind::Map(map) => {
            if !definitions.contains_key(map.name) {
                let schema = object(map, definitions);
                definitions.insert(map.name, schema);
            }
            json!({"$ref": format!("#/definitions/{}", map.name)})
        }
    }
}

/// Returns the pattern of a small language; no lookarounds, so that every regex engine reads it.
fn pattern(like: Pattern) -> Value {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    // What follows `@pkg:` is a directory, of any name.
    let reference = concat!("^(@pkg:|[^@", blank!(), "][^", blank!(), "]*$");
    match like {
        Pattern::Bind => text(BIND),
        Pattern::Tmpfs => text("^[^:]+(:[^:]*)?$"),
        Pattern::Capability => {
            let mut known = vec!["all", "none"];
            known.extend(CAPABILITIES);
            json!({"anyOf": [
                {"enum": known},
                text("^([Aa][Ll][Ll]|[Nn][Oo][Nn][Ee])$"),
            ]})
        }
        Pattern::ContainerName => {
            let mut schema = text(concat!("^[^/", blank!(), "]+$"));
            schema["maxLength"] = NAME_MAX_BYTES.into();
            schema["not"] = json!({"enum": [".", ".."]});
            schema
        }
        Pattern::FilePath => {
            json!({"type": "string", "not": {"pattern": r"\u0000|(^|/)\.\.(/|$)|^(\.?/)*\.?$"}})
        }
        Pattern::Image => {
            let mut schema = text(&format!("{reference})"));
            schema["not"] = json!({"pattern": "^[^@]*://"});
            schema
        }
        Pattern::ImageOrEmpty => {
            let mut schema = text(&format!("{reference}|$)"));
            schema["not"] = json!({"pattern": "^[^@]*://"});
            schema
        }
        Pattern::Mirror => text(concat!("^(https?://|file:///)[^", blank!(), "]+$")),
        Pattern::Mode => text("^0*[0-7]{1,4}$"),
        Pattern::ModeOrEmpty => text("^(0*[0-7]{1,4})?$"),
        Pattern::Package => text("^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+~:-]+)?$"),
        Pattern::Platform => text("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){1,2}$"),
        Pattern::Rlimit => {
            let names = LIMITS.map(any_case).join("|");
            let value = format!("({}|[0-9]+)", any_case("UNLIMITED"));
            let prefix = any_case("RLIMIT_");
            text(&format!(
                r"^\s*({prefix})?({names})\s*,\s*{value}\s*,\s*{value}\s*$"
            ))
        }
        Pattern::Suite => {
            let mut schema = text("^[A-Za-z0-9._+-]+(/[A-Za-z0-9._+-]+)*$");
            schema["not"] = json!({"pattern": r"(^|/)\.\.?(/|$)"});
            schema
        }
        Pattern::VolumeName => text(&format!("^[a-z0-9_-]{{1,{NAME_MAX_BYTES}}}$")),
    }
}

/// A pattern for a word in any mixture of cases.
fn any_case(word: &str) -> String {
    let letter = |letter: char| match letter.is_ascii_alphabetic() {
        true => format!("[{letter}{}]", letter.to_ascii_lowercase()),
        false => letter.to_string(),
    };
    word.chars().map(letter).collect()
}
