//! The same facts as CycloneDX 1.6 components.
//!
//! Enters: a package or file as SPDX has it, rewritten for its place. Leaves: a component of the
//! CycloneDX 1.6 JSON form. Relations beyond "lies in" and the texts of licences stay behind.

use serde_json::{Map, Value, json};

/// Returns the component of a package.
pub(super) fn package(package: &Map<String, Value>) -> Map<String, Value> {
    let text = |key: &str| text_of(package, key);
    let kind = match text("primaryPackagePurpose") {
        Some("APPLICATION") => "application",
        Some("CONTAINER") => "container",
        Some("DEVICE") => "device",
        Some("FILE" | "ARCHIVE") => "file",
        Some("FIRMWARE") => "firmware",
        Some("FRAMEWORK") => "framework",
        Some("OPERATING_SYSTEM") => "operating-system",
        _ => "library",
    };
    let mut out = component(kind, package, text("name"));
    if let Some(supplier) = text("supplier").and_then(organisation) {
        out.insert("supplier".into(), supplier);
    }
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            out.insert(key.to_owned(), value.into());
        }
    };
    put("version", text("versionInfo"));
    put("description", text("summary").or(text("description")));
    put(
        "copyright",
        text("copyrightText").filter(|text| is_known(text)),
    );
    put("cpe", reference(package, "cpe23Type"));
    put("purl", reference(package, "purl"));
    out.extend(licenses(text("licenseDeclared"), text("licenseConcluded")));
    out.extend(hashes(package));
    out
}

/// Returns the component of a file.
pub(super) fn file(file: &Map<String, Value>) -> Map<String, Value> {
    let mut out = component("file", file, text_of(file, "fileName"));
    out.extend(licenses(text_of(file, "licenseConcluded"), None));
    out.extend(hashes(file));
    out
}

fn component(kind: &str, element: &Map<String, Value>, name: Option<&str>) -> Map<String, Value> {
    let id = text_of(element, "SPDXID").unwrap_or_default();
    let pairs = [
        ("type", kind),
        ("bom-ref", id.strip_prefix("SPDXRef-").unwrap_or(id)),
        ("name", name.unwrap_or_default()),
    ];
    let pair = |(key, value): (&str, &str)| (key.to_owned(), Value::from(value));
    pairs.into_iter().map(pair).collect()
}

fn text_of<'a>(element: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    element.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn is_known(text: &str) -> bool {
    !matches!(text, "NONE" | "NOASSERTION")
}

/// `Organization: NAME (ADDRESS)` or `Person: NAME (ADDRESS)` (SPDX 2.3, 7.5).
fn organisation(text: &str) -> Option<Value> {
    let name = text
        .strip_prefix("Organization: ")
        .or_else(|| text.strip_prefix("Person: "))?;
    let name = name.split(" (").next().unwrap_or(name).trim();
    (!name.is_empty()).then(|| json!({ "name": name }))
}

fn reference<'a>(package: &'a Map<String, Value>, kind: &str) -> Option<&'a str> {
    let all = package.get("externalRefs")?.as_array()?;
    let found = all.iter().find(|one| one["referenceType"] == kind)?;
    found["referenceLocator"].as_str()
}

/// What was declared counts, else what someone concluded.
fn licenses(declared: Option<&str>, concluded: Option<&str>) -> Option<(String, Value)> {
    let expression = [declared, concluded]
        .into_iter()
        .flatten()
        .find(|text| is_known(text))?;
    Some(("licenses".into(), json!([{ "expression": expression }])))
}

fn hashes(element: &Map<String, Value>) -> Option<(String, Value)> {
    let checksums = element.get("checksums")?.as_array()?;
    let hash = |checksum: &Value| {
        let (name, digits) = match checksum["algorithm"].as_str()? {
            "MD5" => ("MD5", 32),
            "SHA1" => ("SHA-1", 40),
            "SHA256" => ("SHA-256", 64),
            "SHA384" => ("SHA-384", 96),
            "SHA512" => ("SHA-512", 128),
            "SHA3-256" => ("SHA3-256", 64),
            "SHA3-384" => ("SHA3-384", 96),
            "SHA3-512" => ("SHA3-512", 128),
            "BLAKE2b-256" => ("BLAKE2b-256", 64),
            "BLAKE2b-384" => ("BLAKE2b-384", 96),
            "BLAKE2b-512" => ("BLAKE2b-512", 128),
            "BLAKE3" => ("BLAKE3", 64),
            _ => return None,
        };
        let content = checksum["checksumValue"].as_str()?;
        let right = content.len() == digits && content.bytes().all(|byte| byte.is_ascii_hexdigit());
        right.then(|| json!({ "alg": name, "content": content }))
    };
    let hashes: Vec<Value> = checksums.iter().filter_map(hash).collect();
    (!hashes.is_empty()).then(|| ("hashes".into(), hashes.into()))
}
