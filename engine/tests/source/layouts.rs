//! OCI layouts and docker archives as umoci and skopeo write them.

use std::io::Read;
use std::path::Path;

use kiln_engine::digest::Sha256;
use kiln_engine::source::docker_archive::DockerArchive;
use kiln_engine::source::oci_layout::OciLayout;
use kiln_engine::source::{ImageSource, Platform};
use serde_json::{Value, json};

use crate::support::{run, tool};

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn layout(path: &Path, tag: Option<&str>) -> OciLayout {
    OciLayout::new(path.to_owned(), tag.map(str::to_owned))
}

fn archive(path: &Path, reference: Option<&str>) -> DockerArchive {
    DockerArchive::new(path.to_owned(), reference.map(str::to_owned))
}

/// Makes a layout with the tags `one` (a layer) and `two` (two layers).
fn make_layout(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("layout");
    let at = |tag: &str| format!("{}:{tag}", path.display());
    std::fs::write(directory.join("file"), "content of a file").unwrap();
    let file = directory.join("file").display().to_string();
    run(tool("umoci").args(["init", "--layout"]).arg(&path));
    run(tool("umoci").args(["new", "--image", &at("one")]));
    run(tool("umoci").args(["config", "--architecture", "amd64", "--image", &at("one")]));
    run(tool("umoci").args([
        "insert",
        "--rootless",
        "--image",
        &at("one"),
        &file,
        "/etc/one",
    ]));
    run(tool("umoci").args(["tag", "--image", &at("one"), "two"]));
    run(tool("umoci").args([
        "insert",
        "--rootless",
        "--image",
        &at("two"),
        &file,
        "/etc/two",
    ]));
    path
}

fn skopeo(from: &str, to: &str) {
    run(tool("skopeo").args(["--insecure-policy", "copy", "--quiet", from, to]));
}

/// Resolves and reads everything; returns the layers' bytes, digests checked.
fn read(source: &dyn ImageSource) -> Result<Vec<Vec<u8>>, String> {
    let digest = source
        .resolve(&amd64())
        .map_err(|error| error.to_string())?;
    let image = source.image(&digest).map_err(|error| error.to_string())?;
    assert_eq!(image.manifest_digest, digest);
    assert_eq!(Sha256::of(&image.manifest), digest);
    let layers = image.layers.iter().map(|layer| {
        let mut bytes = Vec::new();
        let mut stream = source.layer(layer).map_err(|error| error.to_string())?;
        stream
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        assert_eq!(
            (Sha256::of(&bytes), bytes.len() as u64),
            (layer.digest, layer.size)
        );
        let mut tar = Vec::new();
        match bytes.starts_with(&[0x1f, 0x8b]) {
            true => {
                flate2::read::MultiGzDecoder::new(&bytes[..])
                    .read_to_end(&mut tar)
                    .unwrap();
                assert!(layer.media_type.ends_with("gzip"), "{}", layer.media_type);
            }
            false => tar.clone_from(&bytes),
        }
        assert_eq!(Sha256::of(&tar), layer.diff_id);
        Ok(tar)
    });
    layers.collect()
}

#[test]
fn umoci_layouts_are_read_by_tag() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_layout(directory.path());
    let (one, two) = (layout(&path, Some("one")), layout(&path, Some("two")));
    assert_eq!(read(&one).unwrap().len(), 1);
    assert_eq!(read(&two).unwrap().len(), 2);
    let digest = two.resolve(&amd64()).unwrap().to_string();
    assert_eq!(
        read(&layout(&path, Some(&digest))).unwrap(),
        read(&two).unwrap()
    );
    assert_eq!(one.inputs(), [path.join("index.json")]);
    let error = read(&layout(&path, None)).unwrap_err();
    assert!(
        error.ends_with("holds several images, name one of: one, two"),
        "{error}"
    );
    let error = read(&layout(&path, Some("three"))).unwrap_err();
    let shown = path.display();
    assert_eq!(
        error,
        format!("image oci:{shown}:three: tag \"three\" not found in {shown}; there are: one, two")
    );
    let error = one
        .resolve(&"linux/arm64".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("is for linux/amd64, not for linux/arm64"),
        "{error}"
    );
}

#[test]
fn damaged_layouts_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_layout(directory.path());
    let source = layout(&path, Some("one"));
    let digest = source.resolve(&amd64()).unwrap();
    let image = source.image(&digest).unwrap();
    let blob = |digest: &Sha256| path.join("blobs/sha256").join(digest.hex());
    // A layer that is gone, or shorter than its descriptor says.
    let layer = &image.layers[0];
    let bytes = std::fs::read(blob(&layer.digest)).unwrap();
    std::fs::write(blob(&layer.digest), &bytes[..10]).unwrap();
    let error = read(&layout(&path, Some("one"))).unwrap_err();
    assert!(
        error.contains(&format!("layer {}", layer.digest)),
        "{error}"
    );
    assert!(
        error.ends_with(&format!("holds 10 bytes instead of {}", layer.size)),
        "{error}"
    );
    std::fs::remove_file(blob(&layer.digest)).unwrap();
    assert!(
        read(&layout(&path, Some("one")))
            .unwrap_err()
            .contains("is not in")
    );
    std::fs::create_dir(blob(&layer.digest)).unwrap();
    assert!(
        read(&layout(&path, Some("one")))
            .unwrap_err()
            .contains("not a regular file")
    );
    // A manifest with other bytes.
    std::fs::write(blob(&digest), "{}").unwrap();
    let error = read(&layout(&path, Some("one"))).unwrap_err();
    assert!(
        error.contains(&format!("manifest {digest}: the digest of what")),
        "{error}"
    );
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion": "2.0"}"#).unwrap();
    assert!(
        read(&layout(&path, Some("one")))
            .unwrap_err()
            .contains("layout version \"2.0\"")
    );
    let error = read(&layout(directory.path(), None)).unwrap_err();
    assert!(
        error.ends_with("no OCI layout: it has no file oci-layout"),
        "{error}"
    );
}

#[test]
fn layouts_with_indexes_and_full_names_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_layout(directory.path());
    let index = path.join("index.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let mut image = json["manifests"][0].clone();
    image.as_object_mut().unwrap().remove("annotations");
    image["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let inner = json!({"schemaVersion": 2, "manifests": [image]}).to_string();
    let digest = Sha256::of(inner.as_bytes());
    std::fs::write(path.join("blobs/sha256").join(digest.hex()), &inner).unwrap();
    // As LinuxKit's cache names what it holds.
    json["manifests"] = json!([{
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest.to_string(), "size": inner.len(),
        "annotations": {"org.opencontainers.image.ref.name": "docker.io/library/x:latest"},
    }]);
    std::fs::write(&index, json.to_string()).unwrap();
    for tag in [
        None,
        Some("docker.io/library/x:latest"),
        Some("x"),
        Some(digest.to_string().as_str()),
    ] {
        assert_eq!(read(&layout(&path, tag)).unwrap().len(), 1, "{tag:?}");
    }
    assert!(
        read(&layout(&path, Some("y")))
            .unwrap_err()
            .contains("there are: docker.io/library/x:latest")
    );
}

#[test]
fn docker_archives_of_skopeo_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_layout(directory.path());
    let tar = directory.path().join("a.tar");
    let (from, to) = (
        format!("oci:{}:two", path.display()),
        format!("docker-archive:{}", tar.display()),
    );
    skopeo(&from, &format!("{to}:nginx:1"));
    // The same uncompressed layers as in the layout, whichever way they are named.
    let expected = read(&layout(&path, Some("two"))).unwrap();
    for reference in [None, Some("nginx:1"), Some("docker.io/library/nginx:1")] {
        assert_eq!(
            read(&archive(&tar, reference)).unwrap(),
            expected,
            "{reference:?}"
        );
    }
    let source = archive(&tar, None);
    assert_eq!(
        source.resolve(&amd64()).unwrap(),
        archive(&tar, None).resolve(&amd64()).unwrap()
    );
    assert_eq!(source.inputs(), [tar.as_path()]);
    let error = read(&archive(&tar, Some("nginx"))).unwrap_err();
    assert!(
        error.ends_with("a.tar; there are: docker.io/library/nginx:1"),
        "{error}"
    );
    let error = source
        .resolve(&"linux/arm64".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is for linux/amd64, not for linux/arm64"),
        "{error}"
    );
    let bytes = std::fs::read(&tar).unwrap();
    std::fs::write(&tar, &bytes[..bytes.len() / 2]).unwrap();
    assert!(read(&archive(&tar, None)).unwrap_err().contains("a.tar"));
    run(std::process::Command::new("gzip").arg(&tar));
    let error = read(&archive(&directory.path().join("a.tar.gz"), None)).unwrap_err();
    assert!(
        error.contains("compressed with gzip; decompress it first"),
        "{error}"
    );
}

/// Writes an archive as newer dockers do: compressed layers, two images, blobs named by digest.
#[test]
fn docker_archives_of_new_dockers_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    layer
        .append_data(&mut header, "hello", &b"hello"[..])
        .unwrap();
    let layer = layer.into_inner().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &layer).unwrap();
    let gz = gz.finish().unwrap();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [Sha256::of(&layer).to_string()]}});
    let config = config.to_string();
    let named = format!("blobs/sha256/{}", Sha256::of(&gz).hex());
    let entry = |tag: &str, layer: &str| json!({"Config": "config.json", "RepoTags": [tag], "Layers": [layer]});
    let manifest = json!([
        entry("a:1", "layer.tar.gz"),
        entry("b:1", "/blobs/../link"),
        entry("c:1", &named),
        entry("d:1", "gone"),
        entry("e:1", "../../etc/passwd"),
        json!({"Config": "config.json", "RepoTags": null, "Layers": []}),
    ]);
    let path = directory.path().join("a.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    add("layer.tar.gz", &gz);
    add(&named, &gz);
    add("config.json", config.as_bytes());
    add("manifest.json", manifest.to_string().as_bytes());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "link", &named).unwrap();
    builder.finish().unwrap();
    for reference in ["a:1", "b:1", "c:1"] {
        assert_eq!(
            read(&archive(&path, Some(reference))).unwrap(),
            [layer.as_slice()],
            "{reference}"
        );
    }
    assert!(
        read(&archive(&path, Some("d:1")))
            .unwrap_err()
            .contains("file \"gone\" not found")
    );
    assert!(
        read(&archive(&path, Some("e:1")))
            .unwrap_err()
            .contains("not found")
    );
    let error = read(&archive(&path, None)).unwrap_err();
    assert!(
        error.contains("holds several images, name one of: a:1, b:1, c:1, d:1, e:1"),
        "{error}"
    );
    let error = read(&archive(&directory.path().join("no.tar"), None)).unwrap_err();
    assert!(error.contains("no.tar: No such file"), "{error}");
}
