//! The tables against the decoder: the same keys in every mapping, the same verdict on every
//! document, but for what a schema cannot say.

use std::collections::BTreeSet;

use proptest::prelude::*;
use regex::Regex;

use super::super::decode::{Decoder, Fields, Path};
use super::super::position::Source;
use super::super::{Config, Spec, SpecErrors, read, read_container, yaml};
use super::*;

/// What the decoder refuses and the schema cannot: ends of messages.
const ONLY_THE_DECODER: &[&str] = &[
    // Between items of a list.
    "none stands beside other capabilities",
    "duplicate service name",
    "duplicate volume name",
    // A mount is completed from its other fields.
    "has no type",
    "has neither type nor destination",
    "has no destination",
    "bind mount has no source",
    // Which of a file's keys counts depends on values: "" and false are not given.
    "give one of them",
    "nothing to put there",
    // Arithmetic.
    "is not a page size",
    // What a job cannot have, below the keys that it takes.
    "rules stand beside builtin",
    "kiln.user stands beside builtin",
    "kiln.terminal stands beside builtin",
    "kiln.ready stands beside builtin",
    // What a template stands for: the schema sees the template, the decoder its resolution.
    "\"org/x:1\"",
];

/// What every `@pkg:` stands for here: an image, but not a container's name.
const PACKAGE: &str = "org/x:1";

/// Chooses among so many; zero once the tape is at its end.
struct Tape<'a>(std::slice::Iter<'a, u32>);

impl Tape<'_> {
    fn choose(&mut self, count: usize) -> usize {
        self.0.next().map_or(0, |mark| *mark as usize % count)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.choose(count) == count - 1
    }
}

fn good(like: Pattern) -> &'static [&'static str] {
    match like {
        Pattern::Bind => &["/a:/b", "v:/b:ro,nosuid", "a:b:"],
        Pattern::Capability => &["CAP_KILL", "All", "none", "CAP_BPF"],
        Pattern::ContainerName => &["a", "b-1", "…", "Web_2", "..."],
        Pattern::FilePath => &["etc/x", "/a//b/./c", "...", "a b", "é", "a/..b"],
        Pattern::Image => &["a", "h:5/b:c@sha256:00", "oci:./x", "@pkg:../x", "b@c"],
        Pattern::ImageOrEmpty => &["", "a", "directory:/x"],
        Pattern::Mirror => &["http://m/debian", "file:///m", "https://é"],
        Pattern::Mode => &["0644", "7777", "0", "00001777"],
        Pattern::ModeOrEmpty => &["0644", "", "7"],
        Pattern::Package => &["a1", "libc6:amd64=2.36-9+deb12u4", "g++", "x2=1:2~3"],
        Pattern::Platform => &["linux/arm64", "linux/arm64/v8"],
        Pattern::Rlimit => &["nofile,1,2", "\tRLIMIT_As , 5 ,Unlimited ", "rttime,0,0"],
        Pattern::Suite => &["bookworm", "bookworm-backports", "a/b"],
        Pattern::Tmpfs => &["/t", "/t:size=5,ro", "/t:"],
        Pattern::VolumeName => &["v", "w_-9"],
    }
}

/// Strings that one language or another refuses.
const ODD: &[&str] = &[
    "",
    ".",
    "..",
    "a/..",
    "/",
    "./.",
    "a b",
    "a:b:c:d",
    "/a",
    ":",
    "a:",
    "@x",
    "@pkg:",
    "https://x",
    "net_admin",
    "CAP_NET",
    "ALL",
    "0o644",
    "8",
    "77777",
    "nofile",
    "nofile,1",
    "nofile,-1,x",
    "as,1,2,3",
    "A",
    "a=",
    "linux",
    "a/b/c/d",
    "\u{a0}",
    "\u{85}",
    "\u{7f}x",
    "a\nb",
    "a\0b",
    "\u{2003}",
    "all",
    "yes",
    "b",
    "z",
    "http://",
    "file://x",
    "a\u{feff}b",
    "@pkg:a b",
];

/// Makes a value of a kind, now and then one that is not.
fn sample(what: Kind, tape: &mut Tape<'_>) -> Value {
    if tape.one_in(24) {
        return match tape.choose(7) {
            0 => Value::Null,
            1 => json!(1.5),
            2 => json!([]),
            3 => json!({}),
            4 => json!(true),
            5 => json!(-7),
            _ => ODD[tape.choose(ODD.len())].into(),
        };
    }
    let pick = |words: &[&str], tape: &mut Tape<'_>| {
        if tape.one_in(12) {
            ODD[tape.choose(ODD.len())].into()
        } else {
            words[tape.choose(words.len())].into()
        }
    };
    match what {
        Kind::Bool => (tape.choose(2) == 0).into(),
        Kind::Number(least, most) => match tape.choose(6) {
            0 => 5.into(),
            1 => least.into(),
            2 => most.into(),
            3 => (-1).into(),
            4 => (i128::from(most) + 1)
                .try_into()
                .map_or(Value::Null, |most: u64| most.into()),
            _ => least.checked_sub(1).into(),
        },
        Kind::Text => pick(&["x", "", "bind", "tmpfs", "/x", "all"], tape),
        Kind::Usually(words) | Kind::Words(words) => pick(words, tape),
        Kind::Like(like) => pick(good(like), tape),
        Kind::Strings => match tape.choose(3) {
            0 => json!({"net.x": "1"}),
            1 => json!({}),
            _ => json!({"a": sample(Kind::Text, tape), "": ""}),
        },
        Kind::List(item) | Kind::Some(item) => {
            let count = [1, 2, 0, 3][tape.choose(4)];
            (0..count).map(|_| sample(*item, tape)).collect()
        }
        Kind::Any(kinds) => sample(kinds[tape.choose(kinds.len())], tape),
        Kind::Map(object) => {
            let mut map = Map::new();
            for key in object.keys() {
                let needed = object.required.contains(&key.name);
                let chosen = match needed {
                    true => !tape.one_in(24),
                    false => matches!(tape.choose(5), 1),
                };
                if chosen {
                    map.insert(key.name.into(), sample(key.kind, tape));
                }
            }
            let wanted = match object.rule {
                Rule::OneImage | Rule::OneSource => "image",
                Rule::Content => "contents",
                _ => "",
            };
            let has = |key: &str| map.contains_key(key);
            let missing = !has(wanted)
                && !has("debian")
                && !has("builtin")
                && !has("source")
                && !has("symlink");
            if let Some(key) = object.keys().find(|key| key.name == wanted && missing) {
                map.insert(wanted.into(), sample(key.kind, tape));
            }
            if matches!(object.rule, Rule::Device) && !tape.one_in(8) {
                map.insert("type".into(), ["b", "c", "a", ""][tape.choose(4)].into());
                map.insert("mode".into(), "666".into());
            }
            if tape.one_in(40) {
                map.insert("imag".into(), "x".into());
            }
            Value::Object(map)
        }
    }
}

/// Makes a mapping with all its keys, each list with one item of every kind.
fn full(what: Kind) -> Value {
    match what {
        Kind::Bool => true.into(),
        Kind::Number(..) => 5.into(),
        Kind::Text => "x".into(),
        Kind::Usually(words) | Kind::Words(words) => words[0].into(),
        Kind::Like(like) => good(like)[0].into(),
        Kind::Strings => json!({"a": "b"}),
        Kind::List(Kind::Any(kinds)) => kinds.iter().map(|kind| full(*kind)).collect(),
        Kind::List(item) | Kind::Some(item) => json!([full(*item)]),
        Kind::Any(kinds) => full(kinds[0]),
        Kind::Map(object) => full_map(object),
    }
}

fn full_map(object: &Object) -> Value {
    let keys = object.keys();
    Value::Object(keys.map(|key| (key.name.into(), full(key.kind))).collect())
}

/// Path (without indices) and keys of every mapping of a table.
fn mappings(object: &Object, path: &str, found: &mut BTreeSet<(String, BTreeSet<&'static str>)>) {
    found.insert((path.to_owned(), object.keys().map(|key| key.name).collect()));
    for key in object.keys() {
        let path = match path {
            "" => key.name.to_owned(),
            _ => format!("{path}.{}", key.name),
        };
        let mut kinds = vec![key.kind];
        while let Some(kind) = kinds.pop() {
            match kind {
                Kind::List(item) | Kind::Some(item) => kinds.push(*item),
                Kind::Any(any) => kinds.extend(any),
                Kind::Map(object) => mappings(object, &path, found),
                _ => {}
            }
        }
    }
}

/// What the decoder asked for while it read a document made of all keys.
fn asked(
    document: &Value,
    read: impl FnOnce(&mut Decoder<'_>, &super::super::node::Node),
) -> BTreeSet<(String, BTreeSet<&'static str>)> {
    let source = Source::new("a", &document.to_string());
    let node = yaml::load(&source, None).unwrap().unwrap();
    let mut decoder = Decoder::new(&source);
    read(&mut decoder, &node);
    let index = Regex::new(r"\[\d+\]").unwrap();
    let opened = decoder.opened.iter();
    opened
        .map(|(path, keys)| {
            let path = index.replace_all(path, "").into_owned();
            (path, keys.iter().copied().collect())
        })
        .collect()
}

#[test]
fn the_decoder_asks_for_exactly_the_keys_of_the_tables() {
    let mut expected = BTreeSet::new();
    mappings(&SYSTEM, "", &mut expected);
    let found = asked(&full_map(&SYSTEM), |decoder, node| {
        read::spec(decoder, node);
    });
    assert_eq!(found, expected);
    // 3 sections of 24 mappings each, and what stands beside them.
    assert!(found.len() > 60, "{}", found.len());
}

#[test]
fn labels_take_exactly_the_keys_of_their_table() {
    let mut expected = BTreeSet::new();
    mappings(&LABEL, "", &mut expected);
    let found = asked(&full_map(&LABEL), |decoder, node| {
        let mut fields = Fields::open(decoder, node, &Path::Root).unwrap();
        read_container::config(&mut fields);
        fields.close();
    });
    assert_eq!(found, expected);
}

#[test]
fn every_definition_is_used_and_every_text_is_said() {
    for text in [description(), label()] {
        let schema: Value = serde_json::from_str(&text).unwrap();
        let definitions = schema["definitions"].as_object().unwrap();
        for name in definitions.keys() {
            assert!(
                text.contains(&format!("\"#/definitions/{name}\"")),
                "{name}"
            );
        }
        for (place, value) in properties(&schema, "") {
            let words = value["description"].as_str().unwrap_or_default();
            assert!(words.len() > 5 && words.ends_with('.'), "{place}: {words}");
        }
    }
}

/// Every property below a schema, with its place.
fn properties<'v>(schema: &'v Value, place: &str) -> Vec<(String, &'v Value)> {
    let mut found = Vec::new();
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                let place = format!("{place}/{key}");
                if let ("properties", Value::Object(properties)) = (key.as_str(), value) {
                    let is_rule = place.contains("/then/")
                        || place.contains("/else/")
                        || place.contains("/if/");
                    for (name, value) in properties.iter().filter(|_| !is_rule) {
                        found.push((format!("{place}/{name}"), value));
                    }
                }
                found.extend(properties(value, &place));
            }
        }
        Value::Array(items) => {
            for value in items {
                found.extend(properties(value, place));
            }
        }
        _ => {}
    }
    found
}

/// Draft-07 as far as the tables use it; an unknown keyword is a bug here.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let of = |schema: &Value| accepts(root, schema, value);
    let all = |schemas: &Value| {
        schemas
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| of(one))
            .count()
    };
    let of_key = |rule: &Value, key: &str| accepts(root, rule, &key.into());
    let integer = |bound: &Value| {
        bound
            .as_i64()
            .map_or_else(|| i128::from(bound.as_u64().unwrap()), i128::from)
    };
    schema
        .as_object()
        .unwrap()
        .iter()
        .all(|(keyword, rule)| match keyword.as_str() {
            "$schema" | "title" | "description" | "definitions" | "then" | "else" => true,
            "$ref" => {
                let name = rule
                    .as_str()
                    .unwrap()
                    .strip_prefix("#/definitions/")
                    .unwrap();
                of(&root["definitions"][name])
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| is(value, one.as_str().unwrap())),
                one => is(value, one.as_str().unwrap()),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "not" => !of(rule),
            "anyOf" => all(rule) > 0,
            "oneOf" => all(rule) == 1,
            "if" => {
                let next = if of(rule) { "then" } else { "else" };
                of(&schema[next])
            }
            "pattern" => value
                .as_str()
                .is_none_or(|text| pattern_matches(rule.as_str().unwrap(), text)),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap()),
            "minimum" => !value.is_i64() && !value.is_u64() || integer(value) >= integer(rule),
            "maximum" => !value.is_i64() && !value.is_u64() || integer(value) <= integer(rule),
            "required" => value.as_object().is_none_or(|map| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|key| map.contains_key(key.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|map| {
                map.iter()
                    .all(|(key, value)| rule.get(key).is_none_or(|rule| accepts(root, rule, value)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|map| {
                let known = |key: &str| {
                    schema
                        .get("properties")
                        .is_some_and(|known| known.get(key).is_some())
                };
                map.iter()
                    .filter(|(key, _)| !known(key))
                    .all(|(_, value)| match rule {
                        Value::Bool(allowed) => *allowed,
                        rule => accepts(root, rule, value),
                    })
            }),
            "propertyNames" => value
                .as_object()
                .is_none_or(|map| map.keys().all(|key| of_key(rule, key))),
            "items" => value
                .as_array()
                .is_none_or(|items| items.iter().all(|item| accepts(root, rule, item))),
            "minItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            other => panic!("{other}"),
        })
}

fn is(value: &Value, what: &str) -> bool {
    match what {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    }
}

fn pattern_matches(pattern: &str, text: &str) -> bool {
    use std::cell::RefCell;
    use std::collections::HashMap;
    thread_local! {
        static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let compile = || Regex::new(pattern).unwrap();
        known
            .entry(pattern.to_owned())
            .or_insert_with(compile)
            .is_match(text)
    })
}

/// JSON, which is YAML once no character stands for itself that YAML does not print.
fn yaml_of(document: &Value) -> String {
    let escape = |c: char| match u32::from(c) {
        code @ (0x7f..0xa0 | 0x2028 | 0x2029 | 0xfeff) => format!("\\u{code:04x}"),
        _ => c.to_string(),
    };
    document.to_string().chars().map(escape).collect()
}

fn compare(
    root: &Value,
    document: &Value,
    errors: Result<(), SpecErrors>,
) -> Result<(), TestCaseError> {
    let schema_says = accepts(root, root, document);
    match errors {
        Ok(()) => prop_assert!(schema_says, "only the schema refuses {document}"),
        Err(errors) if schema_says => {
            for error in errors.errors() {
                prop_assert!(
                    ONLY_THE_DECODER
                        .iter()
                        .any(|known| error.message.contains(known)),
                    "only the decoder refuses {document}: {error}"
                );
            }
        }
        Err(_) => {}
    }
    Ok(())
}

#[test]
fn the_documents_are_good_and_bad() {
    let schema: Value = serde_json::from_str(&description()).unwrap();
    let mut counts = [0; 2];
    // Any numbers will do, as long as they are the same ones each time (Knuth, MMIX).
    let mut state = 1_u64;
    for _ in 0..400 {
        let mut mark = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 33).unwrap()
        };
        let marks: Vec<u32> = (0..mark() % 400).map(|_| mark()).collect();
        let document = sample(Kind::Map(&SYSTEM), &mut Tape(marks.iter()));
        counts[usize::from(accepts(&schema, &schema, &document))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn schema_and_decoder_agree_on_descriptions(marks in proptest::collection::vec(any::<u32>(), 0..400)) {
        thread_local! { static SCHEMA: Value = serde_json::from_str(&description()).unwrap(); }
        let document = sample(Kind::Map(&SYSTEM), &mut Tape(marks.iter()));
        let text = yaml_of(&document);
        let mut package = |_: &str| Ok(PACKAGE.to_owned());
        let read = Spec::parse_with(text.as_bytes(), "a", &mut package).map(drop);
        SCHEMA.with(|schema| compare(schema, &document, read))?;
    }

    #[test]
    fn schema_and_decoder_agree_on_labels(marks in proptest::collection::vec(any::<u32>(), 0..120)) {
        thread_local! { static SCHEMA: Value = serde_json::from_str(&label()).unwrap(); }
        let document = sample(Kind::Map(&LABEL), &mut Tape(marks.iter()));
        let read = Config::parse_label(&yaml_of(&document), "a").map(drop);
        SCHEMA.with(|schema| compare(schema, &document, read))?;
    }
}
