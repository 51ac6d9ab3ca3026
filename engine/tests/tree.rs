//! Layers to trees, with other people's readers as second opinion: GNU tar writes what kiln
//! reads, umoci extracts what kiln flattens.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use kiln_cache::{Cache, Digest};
use kiln_engine::digest::Sha256;
use kiln_engine::tree::flatten::{Finish, flatten};
use kiln_engine::tree::unpack::{Expect, Options, UnpackError, Unpacked, unpack};
use kiln_engine::tree::{Entry, Kind, Tree};
use proptest::prelude::*;

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().join("cache")).unwrap();
    (directory, cache)
}

fn index(cache: &Cache, bytes: &[u8]) -> Result<Unpacked, UnpackError> {
    unpack(
        cache,
        bytes,
        &Options::default(),
        &AtomicBool::new(false),
        &|_| {},
    )
}

fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; install the Debian package that has it (tests/run does)")
        });
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a tree says, by path, without where the bytes are; groups as sets of names.
fn entries(tree: &Tree) -> BTreeMap<String, Entry> {
    tree.iter()
        .map(|entry| {
            (
                String::from_utf8_lossy(entry.path()).into_owned(),
                entry.to_entry(),
            )
        })
        .collect()
}

fn content(cache: &Cache, entry: &Entry) -> Vec<u8> {
    let Some(content) = &entry.content else {
        return vec![0; entry.size as usize];
    };
    let pack = cache.open_object(&content.pack).unwrap();
    let mut bytes = vec![0; entry.size as usize];
    if entry.extents.is_empty() {
        pack.read_exact_at(&mut bytes, content.offset).unwrap();
    }
    for extent in &entry.extents {
        let range = extent.file_offset as usize..(extent.file_offset + extent.len) as usize;
        pack.read_exact_at(&mut bytes[range], extent.pack_offset)
            .unwrap();
    }
    assert_eq!(Digest::of(&bytes), content.digest, "{}", entry.path);
    bytes
}

/// Compares a tree with a directory that somebody else extracted as root.
fn same_as_directory(cache: &Cache, tree: &Tree, root: &Path, times: bool) {
    let mut found = entries(tree);
    found.remove("");
    let mut inodes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut groups: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    walk(root, root, &mut |path, full| {
        let metadata = fs::symlink_metadata(full).unwrap();
        let entry = found
            .remove(path)
            .unwrap_or_else(|| panic!("{path} is missing in the tree"));
        let kind = metadata.file_type();
        if kind.is_dir() {
            assert_eq!(entry.kind, Kind::Directory, "{path}");
        } else if kind.is_symlink() {
            assert_eq!(entry.kind, Kind::Symlink, "{path}");
            assert_eq!(
                entry.link,
                fs::read_link(full).unwrap().as_os_str().as_encoded_bytes(),
                "{path}"
            );
        } else if kind.is_file() {
            assert_eq!(entry.kind, Kind::File, "{path}");
            assert!(
                content(cache, &entry) == fs::read(full).unwrap(),
                "{path} differs"
            );
        }
        if !kind.is_symlink() {
            assert_eq!(u32::from(entry.mode), metadata.mode() & 0o7777, "{path}");
        }
        assert_eq!(
            (entry.uid, entry.gid),
            (metadata.uid(), metadata.gid()),
            "{path}"
        );
        if times && kind.is_file() {
            assert_eq!(entry.mtime, metadata.mtime(), "{path}");
        }
        if !kind.is_dir() && metadata.nlink() > 1 {
            inodes
                .entry(metadata.ino())
                .or_default()
                .push(path.to_owned());
        }
        if entry.group != 0 {
            groups.entry(entry.group).or_default().push(path.to_owned());
        }
    });
    assert!(found.is_empty(), "only in the tree: {:?}", found.keys());
    let sets = |groups: Vec<Vec<String>>| {
        let mut sets: Vec<_> = groups.into_iter().filter(|set| set.len() > 1).collect();
        sets.sort();
        sets
    };
    assert_eq!(
        sets(groups.into_values().collect()),
        sets(inodes.into_values().collect())
    );
}

fn walk(root: &Path, directory: &Path, visit: &mut dyn FnMut(&str, &Path)) {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    for full in names {
        visit(full.strip_prefix(root).unwrap().to_str().unwrap(), &full);
        if fs::symlink_metadata(&full).unwrap().is_dir() {
            walk(root, &full, visit);
        }
    }
}

#[test]
fn reads_what_gnu_tar_writes_in_every_format() {
    let (directory, cache) = cache();
    let root = directory.path().join("root");
    let deep = "deep/".repeat(12) + &"n".repeat(200);
    for (path, text) in [
        ("a", "alpha"),
        ("empty", ""),
        ("d/e/f", "eff"),
        ("sp ace\u{e9}", "x"),
    ] {
        let full = root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }
    fs::write(root.join("big"), vec![7; 700_001]).unwrap();
    fs::hard_link(root.join("a"), root.join("d/link")).unwrap();
    symlink("/absolute/../target", root.join("d/sym")).unwrap();
    for format in ["v7", "ustar", "gnu", "pax"] {
        if format == "ustar" {
            // v7 has no such thing.
            tool("mkfifo", &[root.join("fifo").to_str().unwrap()]);
        }
        if matches!(format, "gnu" | "pax") {
            fs::create_dir_all(root.join(&deep).parent().unwrap()).unwrap();
            fs::write(root.join(&deep), "far down").unwrap();
            symlink("l".repeat(300), root.join("long-link")).ok();
            // Data, hole, data, hole.
            let sparse = fs::File::create(root.join("sparse")).unwrap();
            use std::os::unix::fs::FileExt;
            sparse.write_all_at(b"begin", 0).unwrap();
            sparse.write_all_at(&[3; 5000], 3 << 20).unwrap();
            sparse.set_len(5 << 20).unwrap();
        }
        let archive = directory.path().join(format!("{format}.tar"));
        let mut flags = vec![
            format!("--format={format}"),
            "-C".into(),
            root.to_str().unwrap().into(),
        ];
        if matches!(format, "gnu" | "pax") {
            flags.push("--sparse".into());
        }
        flags.extend(["-cf".into(), archive.to_str().unwrap().into(), ".".into()]);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        tool("tar", &flags);
        let unpacked = index(&cache, &fs::read(&archive).unwrap()).unwrap();
        let tree = Tree::open(&cache, &unpacked.tree).unwrap();
        same_as_directory(&cache, &tree, &root, true);
    }
    for version in ["0.0", "0.1", "1.0"] {
        let archive = directory.path().join(format!("sparse-{version}.tar"));
        let version = format!("--sparse-version={version}");
        tool(
            "tar",
            &[
                "--format=pax",
                "--sparse",
                &version,
                "-C",
                root.to_str().unwrap(),
                "-cf",
                archive.to_str().unwrap(),
                ".",
            ],
        );
        let unpacked = index(&cache, &fs::read(&archive).unwrap()).unwrap();
        same_as_directory(
            &cache,
            &Tree::open(&cache, &unpacked.tree).unwrap(),
            &root,
            true,
        );
    }
}

/// One change to a layer, as a random test thinks of it.
#[derive(Debug, Clone)]
enum Change {
    File(String, Vec<u8>),
    Directory(String),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    /// And whether the directory itself is listed.
    Opaque(String, bool),
}

fn a_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..4).prop_map(|parts| parts.join("/"))
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = prop_oneof![
        4 => (a_path(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(path, bytes)| Change::File(path, bytes)),
        3 => a_path().prop_map(Change::Directory),
        1 => (a_path(), prop_oneof!["/a", "b", r"\.\./c", "/"]).prop_map(|(path, to)| Change::Symlink(path, to)),
        1 => (a_path(), a_path()).prop_map(|(path, to)| Change::HardLink(path, to)),
        2 => a_path().prop_map(Change::Whiteout),
        1 => (a_path(), any::<bool>()).prop_map(|(path, listed)| Change::Opaque(path, listed)),
    ];
    proptest::collection::vec(proptest::collection::vec(change, 0..8), 1..5)
}

/// Plays changes on a directory, and returns the layers' tars: in one layer things may replace
/// each other and lack parents, but every member can be extracted.
fn layers(changes: &[Vec<Change>]) -> Vec<Vec<u8>> {
    let mut present: BTreeMap<String, char> = BTreeMap::new();
    changes
        .iter()
        .map(|changes| layer(changes, &mut present))
        .collect()
}

fn layer(changes: &[Change], present: &mut BTreeMap<String, char>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let (mut touched, mut removed) = (Vec::<String>::new(), Vec::<String>::new());
    let below = present.clone();
    let header = |kind, size: usize, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for change in changes {
        let (Change::File(path, _)
        | Change::Directory(path)
        | Change::Symlink(path, _)
        | Change::HardLink(path, _)
        | Change::Whiteout(path)
        | Change::Opaque(path, _)) = change;
        let parents = || path.match_indices('/').map(|(at, _)| &path[..at]);
        if !parents().all(|parent| matches!(present.get(parent), None | Some('d'))) {
            continue;
        }
        // A whiteout removes what lower layers have, whenever it comes: as a diff has it, nothing
        // else of its layer is at, above or under it.
        let near =
            |other: &String| path.starts_with(other.as_str()) || other.starts_with(path.as_str());
        let removes = matches!(change, Change::Whiteout(_) | Change::Opaque(..));
        let others = if removes { &touched } else { &removed };
        if others.iter().any(near) {
            continue;
        }
        let is = present.get(path).copied();
        let gone = |present: &mut BTreeMap<String, char>| {
            present.retain(|other, _| other != path && !other.starts_with(&format!("{path}/")));
        };
        match change {
            Change::File(_, bytes) => {
                gone(present);
                tar.append_data(
                    &mut header(tar::EntryType::Regular, bytes.len(), 0o640),
                    path,
                    &bytes[..],
                )
                .unwrap();
                present.insert(path.clone(), 'f');
            }
            Change::Directory(_) => {
                tar.append_data(
                    &mut header(tar::EntryType::Directory, 0, 0o750),
                    path,
                    &[][..],
                )
                .unwrap();
                present.insert(path.clone(), 'd');
            }
            Change::Symlink(_, to) => {
                gone(present);
                tar.append_link(&mut header(tar::EntryType::Symlink, 0, 0o777), path, to)
                    .unwrap();
                present.insert(path.clone(), 's');
            }
            Change::HardLink(_, to)
                if present.get(to) == Some(&'f')
                    && !format!("{to}/").starts_with(&format!("{path}/")) =>
            {
                gone(present);
                tar.append_link(&mut header(tar::EntryType::Link, 0, 0o640), path, to)
                    .unwrap();
                present.insert(path.clone(), 'f');
            }
            Change::Whiteout(_) if below.contains_key(path) && is.is_some() => {
                let (parent, name) = path
                    .rsplit_once('/')
                    .map_or(("", path.as_str()), |(parent, name)| (parent, name));
                let whiteout = if parent.is_empty() {
                    format!(".wh.{name}")
                } else {
                    format!("{parent}/.wh.{name}")
                };
                tar.append_data(
                    &mut header(tar::EntryType::Regular, 0, 0o644),
                    whiteout,
                    &[][..],
                )
                .unwrap();
                gone(present);
            }
            Change::Opaque(_, listed) if is == Some('d') && below.get(path) == Some(&'d') => {
                if *listed {
                    let mut header = header(tar::EntryType::Directory, 0, 0o700);
                    tar.append_data(&mut header, path, &[][..]).unwrap();
                }
                tar.append_data(
                    &mut header(tar::EntryType::Regular, 0, 0o644),
                    format!("{path}/.wh..wh..opq"),
                    &[][..],
                )
                .unwrap();
                present.retain(|other, _| !other.starts_with(&format!("{path}/")));
            }
            _ => continue,
        }
        touched.push(path.clone());
        if removes {
            // Below an opaque directory new things may follow.
            if matches!(change, Change::Whiteout(_)) {
                removed.push(path.clone());
            }
            continue;
        }
        // Parents that no layer lists are made.
        for parent in parents() {
            present.entry(parent.to_owned()).or_insert('d');
        }
    }
    tar.into_inner().unwrap()
}

/// Writes an OCI layout with these layers.
fn layout(root: &Path, layers: &[Vec<u8>]) {
    let blobs = root.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Sha256::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| Sha256::of(layer).to_string())
        .collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let (config, config_len) = put(config.to_string().as_bytes());
    let list: Vec<_> = layers.iter().map(|layer| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(layer).unwrap();
        let (digest, size) = put(&gzip.finish().unwrap());
        serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
    }).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_len}, "layers": list});
    let (manifest, manifest_len) = put(manifest.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest, "size": manifest_len, "annotations": {"org.opencontainers.image.ref.name": "latest"}}]});
    fs::write(root.join("index.json"), index.to_string()).unwrap();
    fs::write(
        root.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
}

fn flattened(cache: &Cache, layers: &[Vec<u8>]) -> Tree {
    let trees: Vec<Digest> = layers
        .iter()
        .map(|layer| index(cache, layer).unwrap().tree)
        .collect();
    let (tree, _) = flatten(cache, &trees, &Finish::default()).unwrap();
    Tree::open(cache, &tree).unwrap()
}

fn agrees_with_umoci(changes: &[Vec<Change>]) {
    let (directory, cache) = cache();
    let layers = layers(changes);
    let image = directory.path().join("image");
    layout(&image, &layers);
    let bundle = directory.path().join("bundle");
    let reference = format!("{}:latest", image.display());
    tool(
        "umoci",
        &["unpack", "--image", &reference, bundle.to_str().unwrap()],
    );
    same_as_directory(
        &cache,
        &flattened(&cache, &layers),
        &bundle.join("rootfs"),
        false,
    );
}

/// A real Debian system in three real layers: set-user-ID programs, hard links, thousands of files,
/// a directory made opaque, another one removed. Needs root, mmdebstrap and umoci.
#[test]
fn a_real_system_flattens_as_umoci_extracts_it() {
    let (directory, cache) = cache();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (root, layout, bundle) = (path("root"), path("layout"), path("bundle"));
    let packages = "--include=base-files,bash,coreutils,passwd,perl-base,tzdata";
    let quick = ["--quiet", "--mode=root", "--variant=extract", packages];
    tool("mmdebstrap", &[&quick[..], &["bookworm", &root]].concat());
    let image = format!("{layout}:latest");
    tool("umoci", &["init", "--layout", &layout]);
    tool("umoci", &["new", "--image", &image]);
    let insert = |arguments: &[&str]| {
        tool(
            "umoci",
            &[&["insert", "--image", &image], arguments].concat(),
        );
    };
    insert(&[&root, "/"]);
    fs::create_dir(path("doc")).unwrap();
    fs::write(path("doc/README"), "none").unwrap();
    insert(&["--opaque", &path("doc"), "/usr/share/doc"]);
    insert(&["--whiteout", "/usr/share/zoneinfo/Europe"]);
    tool("umoci", &["unpack", "--image", &image, &bundle]);

    let json = |path: String| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        format!(
            "{layout}/blobs/sha256/{}",
            digest.strip_prefix("sha256:").unwrap()
        )
    };
    let manifest = json(blob(&json(format!("{layout}/index.json"))["manifests"][0]));
    let config = json(blob(&manifest["config"]));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    let trees: Vec<Digest> = layers
        .iter()
        .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        .map(|(layer, diff_id)| {
            let sha256 = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
            let options = Options {
                expect: Expect {
                    digest: Some(sha256(&layer["digest"])),
                    size: layer["size"].as_u64(),
                    diff_id: Some(sha256(diff_id)),
                },
                ..Options::default()
            };
            let file = fs::File::open(blob(layer)).unwrap();
            unpack(&cache, file, &options, &AtomicBool::new(false), &|_| {})
                .unwrap()
                .tree
        })
        .collect();
    let (tree, _) = flatten(&cache, &trees, &Finish::default()).unwrap();
    let tree = Tree::open(&cache, &tree).unwrap();
    assert!(
        tree.find(b"usr/share/doc/bash").is_none() && tree.len() > 2000,
        "{}",
        tree.len()
    );
    same_as_directory(&cache, &tree, Path::new(&format!("{bundle}/rootfs")), true);
}

/// Directories that no layer lists, made while something below them is hidden.
#[test]
fn a_whiteout_hides_nothing_beside_it() {
    let file = |path: &str| Change::File(path.into(), b"x".to_vec());
    agrees_with_umoci(&[
        vec![file("a/b/c/d"), file("a/c/b")],
        vec![Change::Whiteout("a/b".into())],
        vec![file("a/b/c/d")],
    ]);
    agrees_with_umoci(&[
        vec![file("a/c/b"), file("a/b/d")],
        vec![Change::Opaque("a/b".into(), false), file("a/b/c")],
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Needs root (umoci restores owners) and umoci.
    #[test]
    fn flattens_as_umoci_extracts(changes in changes()) {
        agrees_with_umoci(&changes);
    }

    #[test]
    fn bytes_that_are_no_tar_are_an_error_or_a_tree(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in 0_usize..4096) {
        let (_directory, cache) = cache();
        let _ = index(&cache, &bytes);
        // A real archive with one byte changed.
        let mut tar = layers(&[vec![Change::Directory("a".into()), Change::File("a/b".into(), vec![1; 600]), Change::Symlink("s".into(), "/x".into())]]).remove(0);
        let at = at % tar.len();
        tar[at] ^= bytes.pop().unwrap_or(1) | 1;
        if let Ok(unpacked) = index(&cache, &tar) {
            Tree::open(&cache, &unpacked.tree).unwrap();
        }
    }
}

#[test]
fn a_parent_that_is_a_link_is_followed_inside_the_root() {
    let (_directory, cache) = cache();
    let tar = |build: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    };
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header
    };
    let lower = tar(&|tar| {
        tar.append_data(
            &mut header(tar::EntryType::Directory, 0),
            "usr/bin",
            &[][..],
        )
        .unwrap();
        tar.append_data(
            &mut header(tar::EntryType::Regular, 3),
            "usr/bin/old",
            &b"old"[..],
        )
        .unwrap();
        tar.append_link(&mut header(tar::EntryType::Symlink, 0), "bin", "usr/bin")
            .unwrap();
        tar.append_link(&mut header(tar::EntryType::Symlink, 0), "out", "/../../..")
            .unwrap();
    });
    let upper = tar(&|tar| {
        tar.append_data(
            &mut header(tar::EntryType::Regular, 3),
            "bin/new",
            &b"new"[..],
        )
        .unwrap();
        tar.append_data(
            &mut header(tar::EntryType::Regular, 0),
            "bin/.wh.old",
            &b""[..],
        )
        .unwrap();
        tar.append_data(
            &mut header(tar::EntryType::Regular, 1),
            "out/etc/x",
            &b"x"[..],
        )
        .unwrap();
    });
    let tree = flattened(&cache, &[lower, upper]);
    let paths: Vec<_> = entries(&tree).into_keys().collect();
    assert_eq!(
        paths,
        [
            "bin",
            "etc",
            "etc/x",
            "out",
            "usr",
            "usr/bin",
            "usr/bin/new"
        ]
    );
}

#[test]
fn escapes_and_lies_are_named() {
    let (_directory, cache) = cache();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    header.set_mode(0o644);
    header.as_old_mut().name[..12].copy_from_slice(b"x/../../evil");
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([0; 1024]);
    let error = index(&cache, &bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "tar: byte 0: \"x/../../evil\" leaves the root (\"..\")"
    );

    let layer = layers(&[vec![Change::File("a".into(), vec![1; 2000])]]).remove(0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&layer).unwrap();
    let gzip = gzip.finish().unwrap();
    let run = |bytes: &[u8], expect: Expect| {
        unpack(
            &cache,
            bytes,
            &Options {
                expect,
                ..Options::default()
            },
            &AtomicBool::new(false),
            &|_| {},
        )
    };
    let good = Expect {
        digest: Some(Sha256::of(&gzip)),
        size: Some(gzip.len() as u64),
        diff_id: Some(Sha256::of(&layer)),
    };
    run(&gzip, good).unwrap();
    let wrong = Some(Sha256::of(b"other"));
    assert!(matches!(
        run(
            &gzip,
            Expect {
                digest: wrong,
                ..good
            }
        ),
        Err(UnpackError::Digest { what: "digest", .. })
    ));
    assert!(matches!(
        run(
            &gzip,
            Expect {
                diff_id: wrong,
                ..good
            }
        ),
        Err(UnpackError::Digest {
            what: "diff_id",
            ..
        })
    ));
    assert!(matches!(
        run(
            &gzip,
            Expect {
                size: Some(1),
                ..good
            }
        ),
        Err(UnpackError::Size { .. })
    ));
    for cut in 1..gzip.len() {
        let error = run(&gzip[..cut], Expect::default()).unwrap_err();
        assert!(!matches!(error, UnpackError::Cancelled), "{cut}: {error}");
    }
    // One header, 2000 bytes of data, padding, two zero blocks: only the padding may be missing.
    assert!(run(&layer[..2512], Expect::default()).is_ok());
    for cut in 1..2512 {
        assert!(
            matches!(
                run(&layer[..cut], Expect::default()),
                Err(UnpackError::Tar(_))
            ),
            "{cut}"
        );
    }
}

#[test]
fn zstd_layers_and_plain_ones_are_the_same_tree() {
    let (_directory, cache) = cache();
    let layer = layers(&[vec![
        Change::Directory("d".into()),
        Change::File("d/f".into(), vec![9; 70_000]),
    ]])
    .remove(0);
    let plain = index(&cache, &layer).unwrap();
    let zstd = index(&cache, &zstd::encode_all(&layer[..], 3).unwrap()).unwrap();
    assert_eq!((plain.tree, plain.pack), (zstd.tree, zstd.pack));
}
