//! Documents as images have them, and as nobody should write them.

use std::io;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::place::Place;
use super::statement::{LeftOut, List, PREDICATE_TYPE, Sink, StatementError, read};
use super::{Format, Options, cyclonedx};

#[derive(Default)]
struct Taken(Vec<(List, Map<String, Value>)>);

impl Sink for Taken {
    fn element(&mut self, list: List, element: Map<String, Value>) -> io::Result<()> {
        self.0.push((list, element));
        Ok(())
    }
}

impl Taken {
    fn of(&self, list: List) -> Vec<Value> {
        let of = self.0.iter().filter(|(of, _)| *of == list);
        of.map(|(_, element)| element.clone().into()).collect()
    }
}

fn statement(document: &Value) -> Vec<u8> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "subject": [],
        "predicate": document,
        "predicateType": PREDICATE_TYPE,
    });
    statement.to_string().into_bytes()
}

fn take(document: &Value) -> (Taken, LeftOut) {
    let mut taken = Taken::default();
    let place = Place::new("services/web", "containers/services/web/lower");
    let left_out = read(&statement(document), &place, &mut taken).unwrap();
    (taken, left_out)
}

fn refuse(statement: &[u8]) -> StatementError {
    read(statement, &Place::new("kernel", ""), &mut Taken::default()).unwrap_err()
}

/// What Syft writes for a small image.
fn syft() -> Value {
    json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": "x", "documentNamespace": "https://example.org/x", "creationInfo": {
            "creators": ["Tool: syft-1"], "created": "2020-01-01T00:00:00Z",
        },
        "packages": [{
            "name": "musl", "SPDXID": "SPDXRef-Package-musl", "versionInfo": "1.2",
            "supplier": "Person: M (m@example.org)", "downloadLocation": "https://musl.example",
            "filesAnalyzed": true, "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "MIT AND LicenseRef-odd", "copyrightText": "NOASSERTION",
            "packageVerificationCode": {"packageVerificationCodeValue": "00"},
            "checksums": [{"algorithm": "SHA256", "checksumValue": "ab".repeat(32)}],
            "externalRefs": [
                {"referenceCategory": "SECURITY", "referenceType": "cpe23Type", "referenceLocator": "cpe:2.3:a:m:m:1:*:*:*:*:*:*:*"},
                {"referenceCategory": "PACKAGE_MANAGER", "referenceType": "purl", "referenceLocator": "pkg:apk/alpine/musl@1.2"},
            ],
        }],
        "files": [{
            "fileName": "/lib/ld-musl.so", "SPDXID": "SPDXRef-File-ld", "comment": "layerID: x",
            "checksums": [{"algorithm": "SHA1", "checksumValue": "cd".repeat(20)}],
            "fileTypes": ["BINARY"],
        }],
        "hasExtractedLicensingInfos": [{"licenseId": "LicenseRef-odd", "extractedText": "be odd"}],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": "SPDXRef-Package-musl", "relationshipType": "DESCRIBES"},
            {"spdxElementId": "SPDXRef-Package-musl", "relatedSpdxElement": "SPDXRef-File-ld", "relationshipType": "CONTAINS"},
        ],
    })
}

#[test]
fn facts_come_over_with_new_names() {
    let (taken, left_out) = take(&syft());
    assert_eq!(left_out.count, 0, "{left_out:?}");
    let package = &taken.of(List::Packages)[0];
    assert_eq!(package["SPDXID"], "SPDXRef-services.web-Package-musl");
    assert_eq!(package["packageFileName"], "containers/services/web/lower");
    assert_eq!(
        package["licenseDeclared"],
        "MIT AND LicenseRef-services.web-odd"
    );
    assert_eq!(
        package["externalRefs"][1]["referenceCategory"],
        "PACKAGE-MANAGER"
    );
    let file = &taken.of(List::Files)[0];
    assert_eq!(
        file["fileName"],
        "containers/services/web/lower/lib/ld-musl.so"
    );
    assert_eq!(
        taken.of(List::Licenses)[0]["licenseId"],
        "LicenseRef-services.web-odd"
    );
    assert_eq!(
        taken.of(List::Relationships),
        [
            json!({"spdxElementId": "SPDXRef-services.web", "relationshipType": "CONTAINS",
                "relatedSpdxElement": "SPDXRef-services.web-Package-musl"}),
            json!({"spdxElementId": "SPDXRef-services.web-Package-musl", "relationshipType": "CONTAINS",
                "relatedSpdxElement": "SPDXRef-services.web-File-ld"}),
        ]
    );
}

#[test]
fn the_same_facts_are_components() {
    let (taken, _) = take(&syft());
    let package = taken.of(List::Packages)[0].clone();
    let component: Value = cyclonedx::package(package.as_object().unwrap()).into();
    assert_eq!(
        component,
        json!({
            "type": "library", "bom-ref": "services.web-Package-musl", "name": "musl",
            "supplier": {"name": "M"}, "version": "1.2",
            "cpe": "cpe:2.3:a:m:m:1:*:*:*:*:*:*:*", "purl": "pkg:apk/alpine/musl@1.2",
            "licenses": [{"expression": "MIT AND LicenseRef-services.web-odd"}],
            "hashes": [{"alg": "SHA-256", "content": "ab".repeat(32)}],
        })
    );
    let relationship = Format::CycloneDx.element(List::Relationships, Map::new());
    assert!(relationship.is_none());
}

#[test]
fn what_is_no_valid_element_is_left_out_with_all_that_speaks_of_it() {
    let mut document = syft();
    document["files"][0]
        .as_object_mut()
        .unwrap()
        .remove("checksums");
    document["packages"][0]["externalRefs"][0]["unknown"] = json!(1);
    document["packages"][0]["annotations"] = Value::Null;
    document["packages"].as_array_mut().unwrap().push(json!({
        "name": 5, "SPDXID": "SPDXRef-bad", "downloadLocation": "NONE",
    }));
    document["documentDescribes"] = json!(["SPDXRef-bad", "SPDXRef-Package-musl"]);
    let (taken, left_out) = take(&document);
    assert_eq!(left_out.count, 2);
    assert_eq!(left_out.first.unwrap(), "packages[1]: name is no text");
    assert_eq!(taken.of(List::Packages).len(), 1);
    assert!(
        taken.of(List::Packages)[0]["externalRefs"][0]
            .get("unknown")
            .is_none()
    );
    assert!(taken.of(List::Files).is_empty());
    // Only that the component contains the package is left, and only once.
    assert_eq!(taken.of(List::Relationships).len(), 1);
}

#[test]
fn the_place_where_something_is_wrong_is_named() {
    for (package, wanted) in [
        (
            json!({"SPDXID": "SPDXRef-a"}),
            "packages[0]: name is missing",
        ),
        (
            json!({"name": "a", "SPDXID": "SPDXRef-a", "checksums": [{"algorithm": "ROT13", "checksumValue": "x"}]}),
            "packages[0]: checksums[0] algorithm is \"ROT13\", which SPDX 2.3 does not know",
        ),
        (json!([]), "packages[0]: is no object"),
    ] {
        let document = json!({"spdxVersion": "SPDX-2.2", "packages": [package]});
        assert_eq!(take(&document).1.first.unwrap(), wanted);
    }
}

#[test]
fn what_is_no_document_is_an_error() {
    let deep = format!(
        "{{\"predicateType\":\"{PREDICATE_TYPE}\",\"predicate\":{}{}}}",
        "[".repeat(1 << 20),
        "]".repeat(1 << 20)
    );
    for bad in [&b""[..], b"{}", b"[]", b"\xff", deep.as_bytes()] {
        assert!(matches!(refuse(bad), StatementError::Malformed(_)));
    }
    let other = json!({"predicateType": "https://slsa.dev/provenance/v1", "predicate": {}});
    assert!(matches!(
        refuse(other.to_string().as_bytes()),
        StatementError::Predicate(_)
    ));
    let newer = statement(&json!({"spdxVersion": "SPDX-3.0"}));
    assert!(refuse(&newer).to_string().contains("SPDX-3.0"));
    let twice = statement(&json!({"spdxVersion": "SPDX-2.3", "packages": {}}));
    assert!(matches!(refuse(&twice), StatementError::Malformed(_)));
}

#[test]
fn an_element_without_bounds_is_left_out() {
    // Deep and long elements cost neither the stack nor the memory of what they could become.
    let nested = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let long = format!("[{}]", "0,".repeat(3 << 20) + "0");
    let text = format!(
        r#"{{"predicateType":"{PREDICATE_TYPE}","predicate":{{"spdxVersion":"SPDX-2.3","packages":[{nested},{long},{{"name":"a","SPDXID":"SPDXRef-a","x":{nested}}}]}}}}"#
    );
    let mut taken = Taken::default();
    let left_out = read(text.as_bytes(), &Place::new("kernel", ""), &mut taken).unwrap();
    assert_eq!(left_out.count, 3);
    assert!(taken.0.is_empty());
}

#[test]
fn the_time_is_linuxkits_unless_it_is_asked_for() {
    let mut options = Options::default();
    assert_eq!(options.created(), "2017-04-18T16:30:00Z");
    options.created = Some(951_868_799);
    assert_eq!(options.created(), "2000-02-29T23:59:59Z");
}

/// A document with one value replaced.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let text = statement(&syft());
    (0..text.len(), any::<u8>(), 0..40_usize).prop_map(move |(at, byte, cut)| {
        let mut text = text.clone();
        text[at] = byte;
        text.drain(at..(at + cut % 5).min(text.len()));
        text
    })
}

proptest! {
    #[test]
    fn damaged_documents_are_harmless(bytes in damaged()) {
        let _ = read(&bytes, &Place::new("kernel", ""), &mut Taken::default());
    }
}
