//! cloud-init's `meta-data`: the few values of it that become files.
//!
//! In: YAML as people and tools write it there, or JSON. Out: hostname, instance id and public
//! keys. This is no YAML reader: it knows top-level `key: value`, and lists and mappings one level
//! below; anything else counts as absent.

use super::documents::{Shape, push_line};
use super::{Found, json};

const SHAPE: Shape = Shape {
    hostname: ["/local-hostname", "/hostname"],
    files: &[("/instance-id", "instance_id")],
    keys: "/public-keys",
};

/// Reads meta-data into what was found.
pub(super) fn read(meta: &[u8], found: &mut Found) {
    if let Ok(document) = json(meta) {
        return SHAPE.read(&document, found);
    }
    let meta = String::from_utf8_lossy(meta);
    let value = |name| top_level(&meta, name).into_iter().next();
    let hostname = value("local-hostname").or_else(|| value("hostname"));
    found.hostname = hostname.map(String::into_bytes);
    if let Some(id) = value("instance-id") {
        found.files.push(("instance_id", id.into_bytes()));
    }
    let mut keys = Vec::new();
    for key in top_level(&meta, "public-keys") {
        push_line(&mut keys, &key);
    }
    found.keys = (!keys.is_empty()).then_some(keys);
}

/// Returns the value of a top-level key; of a list or mapping below it, the values.
fn top_level(meta: &str, name: &str) -> Vec<String> {
    let mut lines = meta.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match value.map(scalar) {
        None => return Vec::new(),
        Some(value) if !value.is_empty() => return vec![value],
        Some(_) => {}
    }
    let mut values = Vec::new();
    for line in lines {
        let item = line.trim_ascii();
        if item.is_empty() || item.starts_with('#') {
            continue;
        }
        let value = match item.strip_prefix("- ") {
            Some(value) => value,
            // A line that is not indented is the next key.
            None if !line.starts_with([' ', '\t']) => break,
            None => item.split_once(':').map_or("", |(_, value)| value),
        };
        values.push(scalar(value));
    }
    values.retain(|value| !value.is_empty());
    values
}

/// Returns a plain or quoted value without quotes and without a comment behind it.
fn scalar(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.split(quote).next().unwrap_or_default().to_owned();
        }
    }
    let comment = text.find(" #").unwrap_or(text.len());
    let text = text[..comment].trim_end();
    if text.starts_with('#') {
        String::new()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(meta: &str) -> (String, String) {
        let mut found = Found::new("X");
        read(meta.as_bytes(), &mut found);
        let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default()).unwrap();
        (text(found.hostname), text(found.keys))
    }

    #[test]
    fn as_people_write_it() {
        let (host, keys) = found(
            "#cloud\ninstance-id: i-1\nlocal-hostname: \"web 1\" # x\nhostname: no\n\
             public-keys:\n  - ssh-ed25519 AAA me@x\n  # y\n\n  - 'ssh-rsa BBB'\nother:\n  - z\n",
        );
        assert_eq!(
            (&*host, &*keys),
            ("web 1", "ssh-ed25519 AAA me@x\nssh-rsa BBB\n")
        );
        let (host, keys) = found("hostname: h # c\npublic-keys:\n- a b\n- c d\nx: y\n");
        assert_eq!((&*host, &*keys), ("h", "a b\nc d\n"));
        assert_eq!(found("public-keys: ssh-rsa A\n").1, "ssh-rsa A\n");
        assert_eq!(
            found("public-keys:\n  me: ssh-rsa A: b\n").1,
            "ssh-rsa A: b\n"
        );
        let json = r#"{"local-hostname": "j", "public-keys": {"a": "k1"}}"#;
        assert_eq!(found(json), ("j".into(), "k1\n".into()));
        assert_eq!(found(r#"{"public-keys": ["k1", 3, "k2"]}"#).1, "k1\nk2\n");
        assert_eq!(found(""), (String::new(), String::new()));
    }

    proptest! {
        #[test]
        fn any_text_is_fine(meta in "(?s)(public-keys:)?.{0,80}(\n *- .{0,9})?") {
            let _ = found(&meta);
        }
    }
}
