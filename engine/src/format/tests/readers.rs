//! Whole outputs, read by other tools: GNU tar, bsdtar, Python's tarfile, GNU cpio, gzip, zstd.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use kiln_cache::Cache;

use crate::format::compress::Compressor;
use crate::format::tests::support::{entry, file, tree};
use crate::format::{
    Fragment, Part, PlacedSegment, Segment, Target, assemble, cpio, output, share, tar,
};
use crate::tree::{Entry, Extent, Kind, TreePath};

/// cap_net_raw+ep, as `struct vfs_cap_data` of Linux's capability.h.
const NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().join("cache")).unwrap();
    (directory, cache)
}

fn fragment(cache: &Cache, name: &str, parts: &[(&str, bool, Vec<Entry>)]) -> Fragment {
    Fragment {
        name: name.into(),
        source: format!("docker.io/library/{name}:latest"),
        location: format!("services[{name}]"),
        parts: parts
            .iter()
            .map(|(prefix, shared, entries)| Part {
                prefix: TreePath::parse(prefix.as_bytes()).unwrap(),
                tree: tree(cache, entries),
                shared: *shared,
            })
            .collect(),
    }
}

/// A root file system with everything that is awkward.
fn awkward(cache: &Cache) -> Vec<Entry> {
    let mut device = entry("dev/null", Kind::CharDevice, 0o666);
    device.device = (1, 3);
    let mut block = entry("dev/sda", Kind::BlockDevice, 0o660);
    block.device = (259, 70_000);
    let mut link = entry("etc/mtab", Kind::Symlink, 0o777);
    link.link = b"/proc/mounts".to_vec();
    let mut long_link = entry("etc/long", Kind::Symlink, 0o777);
    long_link.link = [b'l'; 300].to_vec();
    let long = format!("etc/{}/{}", "d".repeat(120), "f".repeat(200));
    let mut owned = file(cache, "etc/owned", b"owned");
    (owned.uid, owned.gid, owned.mtime_ns) = (3_000_000, 4_000_000_000, 250_000_000);
    owned.mode = 0o4755;
    let mut old = file(cache, "etc/old", b"before 1970");
    old.mtime = -2;
    let mut first = file(cache, "bin/a", b"linked");
    let mut second = file(cache, "bin/b", b"linked");
    (first.group, second.group) = (3, 3);
    let mut sparse = file(cache, "var/sparse", b"data");
    sparse.size = 200_000;
    sparse.extents = vec![Extent {
        file_offset: 100_000,
        pack_offset: 6,
        len: 4,
    }];
    let mut caps = file(cache, "bin/ping", b"ping");
    caps.xattrs = vec![
        (b"user.a=b%".to_vec(), b"x\0=".to_vec()),
        (b"security.capability".to_vec(), NET_RAW.to_vec()),
    ];
    vec![
        entry("", Kind::Directory, 0o755),
        entry("bin", Kind::Directory, 0o755),
        first,
        second,
        caps,
        entry("dev", Kind::Directory, 0o755),
        device,
        block,
        entry("dev/fifo", Kind::Fifo, 0o600),
        entry("etc", Kind::Directory, 0o750),
        file(cache, "etc/empty", b""),
        file(cache, "etc/sp ace\né", b"odd name"),
        link,
        long_link,
        owned,
        old,
        entry(&format!("etc/{}", "d".repeat(120)), Kind::Directory, 0o755),
        file(cache, &long, &[b'L'; 5000]),
        entry("var", Kind::Directory, 0o1777),
        sparse,
        file(cache, "var/exact", &[7; 1024]),
    ]
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let warnings = String::from_utf8_lossy(&out.stderr);
    let expected = |line: &str| {
        line.contains("LINUXKIT.")
            || line.contains("implausibly old")
            || line.contains("SCHILY")
            || line.ends_with(" blocks")
    };
    if let Some(line) = warnings.lines().find(|line| !expected(line)) {
        panic!("{command:?}: {line}");
    }
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What `stat` and reading tell about every path below `root`.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(directory) = stack.pop() {
        for name in fs::read_dir(&directory).unwrap() {
            let path = name.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                stack.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let kind = stat.file_type();
        let what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("link {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            let twin = inodes.entry(stat.ino()).or_insert_with(|| name.clone());
            let twin = if stat.nlink() > 1 { twin.as_str() } else { "" };
            format!("file {} {twin}", blake3::hash(&fs::read(&path).unwrap()))
        } else {
            let kind = if kind.is_char_device() {
                "char"
            } else {
                "other"
            };
            format!("{kind} {:x}", stat.rdev())
        };
        // Extracting changes the times of directories; links have none that all tools set.
        let time = if what.starts_with("file") {
            stat.mtime()
        } else {
            0
        };
        out.insert(
            name,
            format!(
                "{what} {:o} {}:{} {time}",
                stat.mode(),
                stat.uid(),
                stat.gid()
            ),
        );
    }
    out
}

fn assert_same(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) {
    let differences: Vec<_> = left
        .iter()
        .zip(right)
        .filter(|(left, right)| left != right)
        .take(3)
        .collect();
    assert!(
        differences.is_empty() && left.len() == right.len(),
        "{differences:#?}"
    );
}

fn write(cache: &Cache, path: &Path, segments: &[Segment]) -> Vec<PlacedSegment> {
    assemble(cache, segments, Target::Path(path), None).unwrap()
}

fn tar_of(cache: &Cache, fragments: &[Fragment]) -> Vec<Segment> {
    let plan = share(cache, fragments).unwrap();
    let segments: Vec<Segment> = fragments
        .iter()
        .zip(&plan.fragments)
        .flat_map(|(fragment, plan)| tar::segments(cache, fragment, plan).unwrap())
        .collect();
    assert!(segments.iter().all(|segment| segment.len % 4096 == 0));
    output::tar_segments(cache, &segments).unwrap()
}

fn services(cache: &Cache) -> Vec<Fragment> {
    let big = vec![b'B'; 100_000];
    let root = |extra: &str| {
        let mut entries = awkward(cache);
        entries.push(file(cache, "var/big", &big));
        entries.push(file(cache, "var/big2", &big));
        entries.push(file(cache, "var/extra", extra.as_bytes()));
        entries
    };
    let bundle = |name: &str| {
        vec![
            entry("containers", Kind::Directory, 0o755),
            entry("containers/services", Kind::Directory, 0o755),
            entry(
                &format!("containers/services/{name}"),
                Kind::Directory,
                0o755,
            ),
            file(
                cache,
                &format!("containers/services/{name}/config.json"),
                b"{}",
            ),
        ]
    };
    let mut fragments = vec![fragment(cache, "init", &[("", false, awkward(cache))])];
    for name in ["a", "b"] {
        fragments.push(fragment(
            cache,
            name,
            &[
                ("", false, bundle(name)),
                (
                    &format!("containers/services/{name}/rootfs"),
                    true,
                    root(name),
                ),
            ],
        ));
    }
    let replaced = file(cache, "containers/services/a/rootfs/var/exact", b"replaced");
    fragments.push(fragment(cache, "files", &[("", false, vec![replaced])]));
    fragments
}

/// The listing all extractors must agree on.
fn check_tree(listed: &BTreeMap<String, String>) {
    let get = |path: &str| listed.get(path).unwrap_or_else(|| panic!("no {path}"));
    assert!(get("bin/b").contains(" bin/a 100644"), "{}", get("bin/b"));
    assert!(get("etc/owned").ends_with("104755 3000000:4000000000 1600000000"));
    assert_eq!(get("dev/null"), "char 103 20666 0:0 0");
    let sparse = [&[0; 100_000][..], b"data", &[0; 99_996]].concat();
    assert!(get("var/sparse").contains(&blake3::hash(&sparse).to_string()));
    let replaced = get("containers/services/a/rootfs/var/exact");
    assert!(replaced.contains(&format!("{}  ", blake3::hash(b"replaced"))));
    let kept = get("containers/services/b/rootfs/var/exact");
    assert!(kept.contains(&blake3::hash(&[7; 1024]).to_string()));
    for path in ["a/rootfs/var/big2", "b/rootfs/var/big", "b/rootfs/var/big2"] {
        let line = get(&format!("containers/services/{path}"));
        assert!(
            line.contains(" containers/services/a/rootfs/var/big "),
            "{line}"
        );
    }
    // Not shared: written in place by init, or no part of a root.
    assert!(get("var/exact").contains("  100644"));
    assert!(get("containers/services/a/config.json").contains("  100644"));
}

#[test]
fn tar_is_read_by_gnu_tar_bsdtar_and_python() {
    let (directory, cache) = cache();
    let archive = directory.path().join("out.tar");
    write(&cache, &archive, &tar_of(&cache, &services(&cache)));
    let into = |name: &str| {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let gnu = into("gnu");
    run(Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(&gnu));
    let listed = listing(&gnu);
    check_tree(&listed);
    let bsd = into("bsd");
    run(Command::new("bsdtar")
        .args(["--numeric-owner", "-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(&bsd));
    assert_same(&listing(&bsd), &listed);
    let python = into("python");
    let script = "import sys, tarfile; t = tarfile.open(sys.argv[1]); t.extractall(sys.argv[2], numeric_owner=True)";
    run(Command::new("python3")
        .args(["-W", "ignore", "-c", script])
        .arg(&archive)
        .arg(&python));
    assert_same(&listing(&python), &listed);
}

#[test]
fn tar_has_the_records_and_no_others() {
    let (directory, cache) = cache();
    let archive = directory.path().join("out.tar");
    write(&cache, &archive, &tar_of(&cache, &services(&cache)));
    let mut reader = ::tar::Archive::new(fs::File::open(&archive).unwrap());
    let mut seen = 0;
    for entry in reader.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        assert!(!path.starts_with('/') && !path.ends_with('/'));
        let records: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| {
                (
                    record.key().unwrap().to_owned(),
                    record.value_bytes().to_vec(),
                )
            })
            .collect();
        assert!(records.is_sorted());
        let get = |key: &str| {
            records
                .iter()
                .find(|record| record.0 == key)
                .map(|r| r.1.clone())
        };
        assert!(get("LINUXKIT.source").is_some() && get("LINUXKIT.location").is_some());
        if path == "etc/old" {
            assert_eq!(get("mtime").unwrap(), b"-2");
        }
        if path == "bin/ping" {
            assert_eq!(get("SCHILY.xattr.user.a%3Db%25").unwrap(), b"x\0=");
            assert_eq!(get("SCHILY.xattr.security.capability").unwrap(), NET_RAW);
        }
        if path == "bin/a" {
            assert_eq!(records.len(), 2);
        }
        seen += 1;
    }
    assert!(seen > 60);
}

fn initrd_of(cache: &Cache, fragments: &[Fragment], compressor: Compressor) -> Vec<Segment> {
    let plan = share(cache, fragments).unwrap();
    let (files, others) = fragments.split_last().unwrap();
    let mut members: Vec<Segment> = Vec::new();
    let mut add = |member: cpio::Member| {
        assert_eq!(member.segment.len % 4096, 0);
        members.push(member.segment);
    };
    for (fragment, plan) in others.iter().zip(&plan.fragments) {
        add(cpio::member(cache, fragment, plan, compressor).unwrap());
    }
    for group in &plan.shared {
        add(cpio::shared_member(cache, group, compressor).unwrap());
    }
    add(cpio::member(cache, files, &plan.fragments[others.len()], compressor).unwrap());
    members
}

#[test]
fn initrd_members_are_read_by_cpio() {
    let (directory, cache) = cache();
    let mut listings = Vec::new();
    for compressor in [Compressor::None, Compressor::Gzip, Compressor::Zstd] {
        let root = directory.path().join(compressor.name());
        fs::create_dir(&root).unwrap();
        let members = initrd_of(&cache, &services(&cache), compressor);
        // Container members, one of shared files, and files.
        assert_eq!(members.len(), 5);
        for (index, member) in members.iter().enumerate() {
            let path = directory
                .path()
                .join(format!("{}-{index}", compressor.name()));
            write(&cache, &path, &[*member]);
            let cat = match compressor {
                Compressor::None => "cat",
                Compressor::Gzip => "gzip -dc 2>/dev/null",
                Compressor::Zstd => "zstd -dcq",
            };
            // The padding after a compressed stream is the kernel's business, not gzip's.
            let tail = if compressor == Compressor::Zstd {
                let bytes = fs::read(&path).unwrap();
                let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
                assert!(bytes.len() - end <= 4096 + 4);
                let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes).unwrap();
                fs::write(&path, &bytes[..frame]).unwrap();
                run(Command::new("zstd").arg("-tq").arg(&path));
                ""
            } else {
                " || [ $? = 2 ]"
            };
            let script = format!(
                "({cat} < {}{tail}) | (cd {} && cpio -idmu --quiet --no-absolute-filenames)",
                path.display(),
                root.display()
            );
            run(Command::new("sh").arg("-c").arg(script));
        }
        listings.push(listing(&root));
    }
    assert_same(&listings[0], &listings[1]);
    assert_same(&listings[1], &listings[2]);
    let listed = &listings[0];
    assert!(
        listed["bin/b"].contains(" bin/a 100644"),
        "{}",
        listed["bin/b"]
    );
    assert_eq!(listed["dev/null"], "char 103 20666 0:0 0");
    let big = &listed["containers/services/b/rootfs/var/big2"];
    assert!(
        big.contains(" containers/services/a/rootfs/var/big "),
        "{big}"
    );
    let replaced = &listed["containers/services/a/rootfs/var/exact"];
    assert!(replaced.contains(&format!("{}  ", blake3::hash(b"replaced"))));
}

#[test]
fn initrd_refuses_what_newc_cannot_hold_and_counts_what_it_drops() {
    let (_directory, cache) = cache();
    let plan = crate::format::FragmentPlan::default();
    let mut entries = awkward(&cache);
    entries.push(entry("boot", Kind::Directory, 0o755));
    for name in ["kernel", "cmdline", "ucode.cpio", "System.map"] {
        entries.push(file(&cache, &format!("boot/{name}"), name.as_bytes()));
    }
    let ok = fragment(&cache, "ok", &[("", false, entries.clone())]);
    let member = cpio::member(&cache, &ok, &plan, Compressor::None).unwrap();
    assert_eq!((member.dropped_xattrs, member.dropped_boot), (1, 1));
    let boot = output::boot(&cache, &[ok]).unwrap();
    let mut kernel = Vec::new();
    crate::format::read::copy_segment(&cache, &boot.kernel.unwrap(), &mut kernel).unwrap();
    assert_eq!(kernel, b"kernel");

    let mut huge = file(&cache, "huge", b"x");
    huge.size = 1 << 32;
    huge.extents = vec![Extent {
        file_offset: 0,
        pack_offset: 6,
        len: 1,
    }];
    let huge = fragment(&cache, "huge", &[("", false, vec![huge])]);
    let error = cpio::member(&cache, &huge, &plan, Compressor::None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "huge: 4294967296 bytes; a cpio archive (initrd) holds files below 4 GiB only"
    );
    let deep = fragment(
        &cache,
        "deep",
        &[(&"d/".repeat(2048), false, vec![file(&cache, "f", b"")])],
    );
    assert!(matches!(
        cpio::member(&cache, &deep, &plan, Compressor::None),
        Err(crate::format::FormatError::PathTooLong { .. })
    ));
}

#[test]
fn tar_kernel_initrd_is_plain() {
    let (directory, cache) = cache();
    let boot = output::Boot {
        kernel: Some(output::bytes(&cache, &[1; 700]).unwrap()),
        cmdline: Some(output::bytes(&cache, b"console=ttyS0").unwrap()),
        ucode: None,
    };
    let members = initrd_of(&cache, &services(&cache), Compressor::Zstd);
    let file = output::tar_kernel_initrd(&cache, &boot, &members).unwrap();
    let path = directory.path().join("out.tar");
    write(&cache, &path, &file.segments);
    let listed = run(Command::new("tar").arg("-tvf").arg(&path).env("TZ", "UTC"));
    let names: Vec<_> = listed
        .lines()
        .map(|line| line.split(' ').next_back().unwrap())
        .collect();
    assert_eq!(names, ["kernel", "initrd.img", "cmdline"]);
    assert!(
        listed.contains("-rw-r--r-- 0/0             700 2017-04-18 16:30 kernel"),
        "{listed}"
    );
}

/// A fragment of 60 files, some 24 MB, in a service of this name.
fn large(cache: &Cache, name: &str, longer: Option<usize>) -> Fragment {
    let files: Vec<_> = (0..60)
        .map(|number: usize| {
            let len = 100_000 + number * 7919 % 600_000 + usize::from(longer == Some(number));
            file(cache, &format!("f{number:02}"), &vec![b'x'; len])
        })
        .collect();
    let prefix = format!("containers/services/{name}/rootfs");
    fragment(cache, name, &[(&prefix, true, files)])
}

#[test]
fn a_large_fragment_is_cut_and_a_change_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().join("cache")).unwrap();
    let cut = |name, longer| tar_of(&cache, &[large(&cache, name, longer)]);
    let segments = cut("000-a", None);
    assert!((5..30).contains(&segments.len()), "{}", segments.len());
    let path = directory.path().join("out.tar");
    write(&cache, &path, &segments);
    let list = Command::new("tar").arg("tf").arg(&path).output().unwrap();
    assert!(list.status.success(), "{list:?}");
    assert_eq!(String::from_utf8(list.stdout).unwrap().lines().count(), 60);
    for longer in (0..60).step_by(7) {
        let changed = cut("000-a", Some(longer));
        let new = changed.iter().filter(|segment| !segments.contains(segment));
        assert!((1..=2).contains(&new.count()), "f{longer:02}");
    }
    // Another service's name is in every header, and moves no cut.
    let renamed = cut("000-b", None);
    let lengths = |segments: &[Segment]| segments.iter().map(|it| it.len).collect::<Vec<_>>();
    assert_eq!(lengths(&renamed), lengths(&segments));
}
