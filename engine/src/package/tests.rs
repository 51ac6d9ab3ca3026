//! The room by itself; what git has a part in is tested through the binary, in `tests/packages.rs`.

use proptest::prelude::*;

use super::*;

fn package(yaml: &str) -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("build.yml"), yaml).unwrap();
    room
}

fn hashed() -> Options {
    Options {
        hash: Some("abc".to_owned()),
        ..Options::default()
    }
}

#[test]
fn a_reference_is_organisation_image_and_tag() {
    let room = package("image: foo\norg: bar\ntag: v1-{{.Hash}}\n");
    let found = reference(room.path(), &hashed()).unwrap();
    assert_eq!(found.short(), "bar/foo:v1-abc");
    assert_eq!(found.canonical(), "docker.io/bar/foo:v1-abc");
    for (org, canonical) in [
        ("localhost", "localhost/foo:v1-abc"),
        ("registry.example", "registry.example/foo:v1-abc"),
        ("host:5000", "host:5000/foo:v1-abc"),
        ("host/a", "host/a/foo:v1-abc"),
    ] {
        let options = Options {
            org: Some(org.to_owned()),
            ..hashed()
        };
        let found = reference(room.path(), &options).unwrap();
        assert_eq!(found.canonical(), canonical);
    }
    let options = Options {
        tag: Some("{{.Hash}}-x".to_owned()),
        ..hashed()
    };
    let found = reference(room.path(), &options).unwrap();
    assert_eq!(found.short(), "bar/foo:abc-x");
}

#[test]
fn what_is_no_package_is_an_error_with_a_hint() {
    let room = tempfile::tempdir().unwrap();
    let error = reference(room.path(), &hashed()).unwrap_err();
    assert!(error.to_string().contains("build.yml"), "{error}");
    assert!(error.hint().is_some());
    let error = reference(&room.path().join("none"), &hashed()).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");

    let room = package("image: foo\ntag: \"{{.Time}}\"\n");
    let error = reference(room.path(), &hashed()).unwrap_err();
    assert!(error.to_string().contains("build.yml:2:6: "), "{error}");
    let empty = Options {
        org: Some(String::new()),
        ..hashed()
    };
    assert!(matches!(
        reference(room.path(), &empty),
        Err(PackageError::NoOrganisation)
    ));
}

#[test]
fn a_build_yml_that_is_no_file_makes_nobody_wait() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("build.yml");
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
    let error = reference(room.path(), &hashed()).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
}

proptest! {
    #[test]
    fn no_template_is_too_odd(template in "[{}. HashT\\PC]{0,40}", hash in "[0-9a-f]{0,40}") {
        if let Ok(tag) = tag::render(&template, &hash) {
            let without = template.matches("{{").count() == 0;
            prop_assert!(!without || template.is_empty() || tag == template);
        }
    }

    #[test]
    fn no_build_yml_is_too_odd(
        key in "(image|org|tag|arches|extra-sources|network|depends|config|buildArgs|x)",
        value in "\\PC{0,40}",
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let _ = PackageFile::parse(format!("image: x\n{key}: {value}\n").as_bytes(), "build.yml");
        let _ = PackageFile::parse(&bytes, "build.yml");
    }
}
