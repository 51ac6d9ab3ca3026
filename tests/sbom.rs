//! The bill of materials: what images attest and packages say, in the system and printed.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::support::{Said, Space, read_tar, tool};

/// What a scanner writes for an image: a package, its file, a licence of its own.
fn document(package: &str) -> Value {
    json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": "image", "documentNamespace": "https://example.org/image",
        "creationInfo": {"creators": ["Tool: scanner-1"], "created": "2020-01-01T00:00:00Z"},
        "packages": [{
            "name": package, "SPDXID": "SPDXRef-Package", "versionInfo": "1.2-r3",
            "supplier": "Person: Someone (s@example.org)", "downloadLocation": "NOASSERTION",
            "licenseDeclared": "MIT AND LicenseRef-odd",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": format!("pkg:apk/alpine/{package}@1.2-r3?arch=x86_64"),
            }],
        }],
        "files": [{
            "fileName": format!("/lib/{package}.so"), "SPDXID": "SPDXRef-File",
            "checksums": [{"algorithm": "SHA1", "checksumValue": "ab".repeat(20)}],
        }],
        "hasExtractedLicensingInfos": [
            {"licenseId": "LicenseRef-odd", "extractedText": "Be odd.", "name": "odd"},
        ],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                "relatedSpdxElement": "SPDXRef-Package"},
            {"spdxElementId": "SPDXRef-Package", "relationshipType": "CONTAINS",
                "relatedSpdxElement": "SPDXRef-File"},
        ],
    })
}

/// A system of two services whose scanners used the same ids, and an init without a document.
fn system(space: &Space) -> String {
    let init = space.image("init").layer(&[("!init", "#!/bin/sh\n")]);
    let web = space.image("web").layer(&[("lib/musl.so", "m")]);
    let web = web.attested_among_others(&document("musl"));
    let log = space.image("log").layer(&[("lib/zlib.so", "z")]);
    let log = log.attested(&document("zlib"));
    format!(
        "init:\n  - oci:{}\nservices:\n  - name: web\n    image: oci:{}\n  - name: log\n    image: oci:{}\n    readonly: true\n  - name: again\n    image: oci:{}\n",
        init.layout(),
        web.layout(),
        log.layout(),
        web.layout()
    )
}

/// Expects a document to be what its form demands.
fn validate(form: &str, document: &[u8]) -> Value {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests");
    let mut python = Command::new("python3")
        .arg(format!("{tests}/support/validate.py"))
        .args([&format!("{tests}/fixtures"), form])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python3: {error}; install python3 (tests/run does)"));
    python.stdin.take().unwrap().write_all(document).unwrap();
    let output = python.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(document)
    );
    serde_json::from_slice(document).unwrap()
}

fn with<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let mut all = list.as_array().unwrap().iter();
    all.find(|one| one[key] == value)
        .unwrap_or_else(|| panic!("no {key} {value} in {list:#}"))
}

fn success(said: &Said) -> &Said {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said
}

#[test]
fn the_documents_of_images_become_the_system_s() {
    let space = Space::new();
    space.write("system.yml", &system(&space));
    space.build(&["system.yml", "-f", "tar"]);
    let entries = read_tar(&space.path("system.tar"));
    let entry = &entries["sbom.spdx.json"];
    assert_eq!(
        (entry.mode, entry.uid, entry.gid, entry.mtime),
        (0o644, 0, 0, 1_492_533_000)
    );
    // On one line, as LinuxKit writes it.
    assert_eq!(
        entry.content.iter().position(|byte| *byte == b'\n'),
        Some(entry.content.len() - 1)
    );
    let found = validate("spdx", &entry.content);
    assert_eq!(found["creationInfo"]["created"], "2017-04-18T16:30:00Z");

    let musl = with(&found["packages"], "name", "musl");
    assert_eq!(musl["SPDXID"], "SPDXRef-services.web-Package");
    assert_eq!(musl["packageFileName"], "containers/services/web/lower");
    assert_eq!(
        musl["licenseDeclared"],
        "MIT AND LicenseRef-services.web-odd"
    );
    let file = with(&found["files"], "SPDXID", "SPDXRef-services.log-File");
    assert_eq!(
        file["fileName"],
        "containers/services/log/rootfs/lib/zlib.so"
    );
    assert!(entries.contains_key(file["fileName"].as_str().unwrap()));
    // The image of `web` is there once, and so is what it holds; `init` is known by name alone.
    assert_eq!(found["packages"].as_array().unwrap().len(), 3 + 2);
    assert_eq!(found["files"].as_array().unwrap().len(), 2);
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let relations = found["relationships"].as_array().unwrap();
    for wanted in [
        relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-init.0"),
        relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-services.web"),
        relation(
            "SPDXRef-services.web",
            "CONTAINS",
            "SPDXRef-services.web-Package",
        ),
        relation(
            "SPDXRef-services.web-Package",
            "CONTAINS",
            "SPDXRef-services.web-File",
        ),
    ] {
        assert!(relations.contains(&wanted), "no {wanted} in {relations:#?}");
    }

    // Printed without a system, it is the same.
    let said = space.kiln(&["sbom", "system.yml"]);
    assert!(success(&said).stdout == entry.content);
    assert_eq!(
        space.names("."),
        ["cache", "oci", "roots", "system.tar", "system.yml"]
    );
    success(&space.kiln(&["sbom", "system.yml", "-o", "bill.json"]));
    assert!(fs::read(space.path("bill.json")).unwrap() == entry.content);
}

/// What LinuxKit made of these images, its registry's host aside, is in `tests/fixtures`.
#[test]
fn linuxkit_consolidates_the_same_facts() {
    let space = Space::new();
    let image = |name: &str| {
        let image = space.image(name).layer(&[("lib/x.so", name)]);
        format!("oci:{}", image.attested(&document(name)).layout())
    };
    let (musl, zlib) = (image("musl"), image("zlib"));
    space.write(
        "system.yml",
        &format!(
            "init:\n  - {musl}\nservices:\n  - name: web\n    image: {musl}\n  - name: log\n    image: {zlib}\n    readonly: true\n  - name: again\n    image: {musl}\n"
        ),
    );
    let said = space.kiln(&["sbom", "system.yml"]);
    let ours = validate("spdx", &success(&said).stdout);
    let theirs: Value =
        serde_json::from_str(include_str!("fixtures/linuxkit-sbom.spdx.json")).unwrap();
    // Ids are apart, components are packages, and nothing is added where a document is silent:
    // these are the differences (docs/linuxkit.md).
    let facts = |document: &Value, list: &str, keys: &[&str]| {
        let all = document[list].as_array().unwrap().iter();
        let attested = all.filter(|one| one["primaryPackagePurpose"] != "CONTAINER");
        let fact = |one: &Value| keys.iter().map(|key| one[*key].clone()).collect::<Vec<_>>();
        attested.map(fact).collect::<Vec<_>>()
    };
    for (list, keys) in [
        (
            "packages",
            &[
                "name",
                "versionInfo",
                "packageFileName",
                "supplier",
                "downloadLocation",
                "externalRefs",
            ][..],
        ),
        ("files", &["fileName", "checksums"]),
        ("hasExtractedLicensingInfos", &["extractedText", "name"]),
    ] {
        assert_eq!(
            facts(&ours, list, keys),
            facts(&theirs, list, keys),
            "{list}"
        );
    }
    for key in ["spdxVersion", "dataLicense", "SPDXID", "name"] {
        assert_eq!(ours[key], theirs[key]);
    }
    assert_eq!(
        ours["creationInfo"]["created"],
        theirs["creationInfo"]["created"]
    );
    let listed: Vec<&String> = theirs.as_object().unwrap().keys().collect();
    assert_eq!(ours.as_object().unwrap().keys().collect::<Vec<_>>(), listed);
}

#[test]
fn it_is_the_last_entry_and_plain_ustar() {
    let space = Space::new();
    space.write("system.yml", &system(&space));
    space.build(&["system.yml", "-f", "tar"]);
    let tar = fs::read(space.path("system.tar")).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let mut last = None;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let records = entry.pax_extensions().unwrap().map_or(0, Iterator::count);
        let place = (entry.raw_header_position(), entry.raw_file_position());
        last = Some((
            entry.path().unwrap().into_owned(),
            records,
            place,
            entry.size(),
        ));
    }
    let (path, records, (header, content), size) = last.unwrap();
    assert_eq!(path.to_str(), Some("sbom.spdx.json"));
    assert_eq!((records, header + 512), (0, content));
    // Then come the two zero blocks, and nothing else.
    assert_eq!(
        content + size.next_multiple_of(512) + 1024,
        tar.len() as u64
    );
    tool(
        "bsdtar",
        &["tf", space.path("system.tar").to_str().unwrap()],
    );
}

/// Prints size, mode, mtime and name of what the last member of an initrd begins with.
const LAST_MEMBER: &str = r"
import sys, zlib
data, last = open(sys.argv[1], 'rb').read(), b''
while data := data.lstrip(b'\0'):
    member = zlib.decompressobj(31)
    last, data = member.decompress(data), member.unused_data
field = lambda at: int(last[6 + 8 * at : 14 + 8 * at], 16)
print(field(6), oct(field(1)), field(5), last[110 : 109 + field(11)].decode())
";

#[test]
fn it_is_in_an_initrd_too_in_a_member_of_its_own() {
    let space = Space::new();
    let kernel = space.image("kernel").layer(&[("kernel", "a kernel")]);
    let yaml = system(&space);
    let layout = kernel.layout();
    space.write(
        "system.yml",
        &format!("kernel: {{image: \"oci:{layout}\", tar: none}}\n{yaml}"),
    );
    space.build(&["system.yml", "-f", "kernel+initrd"]);
    let initrd = space.path("system-initrd.img");
    let last = tool("python3", &["-c", LAST_MEMBER, initrd.to_str().unwrap()]);
    let said = space.kiln(&["sbom", "system.yml"]);
    let size = success(&said).stdout.len();
    assert_eq!(last, format!("{size} 0o100644 1492533000 sbom.spdx.json\n"));
}

#[test]
fn the_same_system_has_the_same_document_anywhere() {
    let (one, two) = (Space::new(), Space::new());
    let yaml = system(&one);
    one.write("system.yml", &yaml);
    two.write("system.yml", &yaml);
    let first = one.kiln(&["sbom", "system.yml"]);
    let mut alone = two.command();
    alone.env("RAYON_NUM_THREADS", "1").env("TZ", "Asia/Tokyo");
    let second = alone.args(["sbom", "system.yml"]).output().unwrap();
    assert!(success(&first).stdout == second.stdout);
    // A change changes what names it.
    let namespace = |said: &Said| {
        let found: Value = serde_json::from_slice(&said.stdout).unwrap();
        found["documentNamespace"].as_str().unwrap().to_owned()
    };
    one.write("system.yml", &yaml.replace("name: web", "name: www"));
    let changed = one.kiln(&["sbom", "system.yml"]);
    assert_ne!(namespace(&first), namespace(success(&changed)));
}

#[test]
fn cyclonedx_has_the_same_facts() {
    let space = Space::new();
    space.write("system.yml", &system(&space));
    space.build(&["system.yml", "-f", "tar", "--sbom-format", "cyclonedx"]);
    let entries = read_tar(&space.path("system.tar"));
    let found = validate("cyclonedx", &entries["sbom.cdx.json"].content);
    let web = with(&found["components"], "bom-ref", "services.web");
    assert_eq!(web["type"], "container");
    let musl = with(&web["components"], "name", "musl");
    assert_eq!(musl["purl"], "pkg:apk/alpine/musl@1.2-r3?arch=x86_64");
    let file = with(&web["components"], "type", "file");
    assert_eq!(file["name"], "containers/services/web/lower/lib/musl.so");
    assert_eq!(file["hashes"][0]["alg"], "SHA-1");
    let said = space.kiln(&["sbom", "system.yml", "--sbom-format", "cyclonedx"]);
    assert!(success(&said).stdout == entries["sbom.cdx.json"].content);
}

#[test]
fn it_is_left_out_put_elsewhere_or_dated_on_request() {
    let space = Space::new();
    space.write(
        "system.yml",
        "files:\n  - path: etc/motd\n    contents: hello\n",
    );
    let build = |flags: &[&str]| {
        let said = space.build(&[&["-f", "tar", "system.yml"], flags].concat());
        (said.stderr, read_tar(&space.path("system.tar")))
    };
    // There is one even when there is nothing to list.
    let (_, entries) = build(&[]);
    validate("spdx", &entries["sbom.spdx.json"].content);
    let (_, entries) = build(&["--no-sbom"]);
    assert_eq!(entries.into_keys().collect::<Vec<_>>(), ["etc", "etc/motd"]);
    let (_, entries) = build(&["--sbom-output", "usr/share/bill.json"]);
    assert_eq!(entries["usr/share"].mode, 0o755);
    assert!(entries.contains_key("usr/share/bill.json"));
    assert!(
        build(&["--sbom-output", "usr/share/bill.json"])
            .0
            .contains("Fresh")
    );
    // What LinuxKit would unpack last is the bill.
    let (_, entries) = build(&["--sbom-output", "etc/motd"]);
    assert!(entries["etc/motd"].content.starts_with(b"{\"spdxVersion\""));
    let (_, entries) = build(&["--sbom-current-time"]);
    let found = validate("spdx", &entries["sbom.spdx.json"].content);
    let created = found["creationInfo"]["created"].as_str().unwrap();
    assert!(
        created > "2020" && created.ends_with('Z') && created.len() == 20,
        "{created}"
    );
    let (said, _) = build(&["--sbom-current-time"]);
    assert!(!said.contains("Fresh"), "{said}");
    for name in ["", "../x", "/"] {
        let said = space.kiln(&["build", "system.yml", "-f", "tar", "--sbom-output", name]);
        assert_eq!(said.code, Some(2), "{name}: {}", said.stderr);
    }
    let said = space.kiln(&["build", "system.yml", "--sbom-output", ""]);
    assert!(
        said.stderr.contains("filename must be specified"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_registry_s_attestations_are_fetched_once_and_pinned() {
    let space = Space::new();
    let registry = space.registry();
    let web = space.image("web").layer(&[("lib/musl.so", "m")]);
    let web = web.attested(&document("musl"));
    let reference = registry.push_all(&web.layout(), "team/web:v1");
    let yaml = format!("services:\n  - name: web\n    image: {reference}\n");
    space.write("system.yml", &yaml);
    let said = space.kiln(&["sbom", "system.yml"]);
    let found = validate("spdx", &success(&said).stdout);
    assert!(with(&found["packages"], "name", "musl").is_object());
    let image = with(&found["packages"], "SPDXID", "SPDXRef-services.web");
    let purl = image["externalRefs"][0]["referenceLocator"]
        .as_str()
        .unwrap();
    let place = reference.trim_end_matches(":v1").replace('/', "%2F");
    assert!(
        purl.starts_with("pkg:oci/web@sha256:")
            && purl.ends_with(&format!("?arch=amd64&repository_url={place}&tag=v1")),
        "{purl}"
    );
    success(&space.kiln(&["lock", "system.yml"]));
    let lock = fs::read_to_string(space.path("system.lock")).unwrap();
    assert!(lock.contains("attestations:"), "{lock}");
    // Without the registry everything is still there; the lock says the same as the tag.
    drop(registry);
    let offline = space.kiln(&["sbom", "system.yml"]);
    assert!(success(&offline).stdout == said.stdout);
    space.write("system.yml", &yaml.replace("name: web", "name: www"));
    let renamed = space.kiln(&["sbom", "system.yml"]);
    let found = validate("spdx", &success(&renamed).stdout);
    let musl = with(&found["packages"], "name", "musl");
    assert_eq!(musl["packageFileName"], "containers/services/www/lower");
}

#[test]
fn someone_else_s_broken_document_is_named() {
    let space = Space::new();
    let image = |name: &str, document: &Value| {
        let image = space.image(name).layer(&[("x", "y")]).attested(document);
        space.write(
            "system.yml",
            &format!(
                "services:\n  - name: web\n    image: oci:{}\n",
                image.layout()
            ),
        );
    };
    image("newer", &json!({"spdxVersion": "SPDX-3.0"}));
    let said = space.kiln(&["build", "system.yml", "-f", "tar"]);
    assert_eq!(said.code, Some(1));
    for part in ["oci/newer", "SPDX-3.0", "--no-sbom"] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
    space.build(&["system.yml", "-f", "tar", "--no-sbom"]);
    // What is only partly wrong is taken for the rest.
    let mut partly = document("musl");
    partly["files"][0]["checksums"] = json!([]);
    image("partly", &partly);
    let said = space.build(&["system.yml", "-f", "tar"]);
    assert!(
        said.stderr.contains("1 elements") && said.stderr.contains("files[0]: checksums is empty"),
        "{}",
        said.stderr
    );
    let entries = read_tar(&space.path("system.tar"));
    let found = validate("spdx", &entries["sbom.spdx.json"].content);
    assert!(found.get("files").is_none());
}

#[test]
fn debian_packages_are_listed_as_the_archive_knows_them() {
    let space = Space::new();
    space.write(
        "system.yml",
        "init:\n  - debian: {suite: bookworm, packages: [busybox-static, base-files]}\n",
    );
    let said = space.kiln(&["sbom", "system.yml"]);
    let found = validate("spdx", &success(&said).stdout);
    let busybox = with(&found["packages"], "name", "busybox-static");
    let version = busybox["versionInfo"].as_str().unwrap();
    assert!(version.starts_with("1:1."), "{version}");
    assert_eq!(
        busybox["externalRefs"][0]["referenceLocator"],
        format!(
            "pkg:deb/debian/busybox-static@{}?arch=amd64",
            version.replace('+', "%2B")
        )
    );
    let supplier = busybox["supplier"].as_str().unwrap();
    assert!(supplier.starts_with("Organization: Debian"), "{supplier}");
    let url = busybox["downloadLocation"].as_str().unwrap();
    assert!(
        url.ends_with(busybox["packageFileName"].as_str().unwrap()),
        "{url}"
    );
    assert_eq!(
        busybox["checksums"][0]["checksumValue"]
            .as_str()
            .unwrap()
            .len(),
        64
    );
    let contained = json!({"spdxElementId": "SPDXRef-init.0", "relationshipType": "CONTAINS",
        "relatedSpdxElement": busybox["SPDXID"]});
    assert!(
        found["relationships"]
            .as_array()
            .unwrap()
            .contains(&contained)
    );
    let said = space.kiln(&["sbom", "system.yml", "--sbom-format", "cyclonedx"]);
    let found = validate("cyclonedx", &success(&said).stdout);
    let component = with(
        &found["components"][0]["components"],
        "name",
        "busybox-static",
    );
    assert_eq!(
        component["purl"],
        busybox["externalRefs"][0]["referenceLocator"]
    );
    assert_eq!(
        component["hashes"][0]["content"],
        busybox["checksums"][0]["checksumValue"]
    );
}
