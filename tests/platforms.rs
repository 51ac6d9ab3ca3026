//! One image for many machines: what `--arch` takes out of an index, however it is named.

use super::support::layout::{Layout, Tar};
use super::support::{Space, read_tar, tool};
use serde_json::{Value, json};

/// An image for a platform, with the platform's name in it.
fn image(layout: &Layout, platform: &str) -> Value {
    let mut tar = Tar::default();
    tar.file("platform", 0o644, platform.as_bytes());
    layout.image(platform, &tar.finish(), &json!({}))
}

/// BuildKit's attestation of a manifest: an entry of the index that is no image.
fn attestation(layout: &Layout, of: &Value) -> Value {
    let statement = layout.blob("application/vnd.in-toto+json", b"{}");
    let config = layout.blob("application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [statement],
        "mediaType": "application/vnd.oci.image.manifest.v1+json"});
    let mut entry = layout.blob(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": of["digest"],
    });
    entry
}

/// Builds `image` for an architecture; returns the platform that the system says it is for.
fn built(space: &Space, image: &str, architecture: &str) -> String {
    space.write("system.yml", &format!("init:\n  - {image}\n"));
    space.build(&["system.yml", "--arch", architecture, "-o", "system.tar"]);
    let entries = read_tar(&space.path("system.tar"));
    String::from_utf8(entries["platform"].content.clone()).unwrap()
}

#[test]
fn an_index_gives_each_architecture_its_own() {
    let space = Space::new();
    let path = space.path("layout");
    let layout = Layout::new(&path);
    let amd64 = image(&layout, "linux/amd64");
    // An index in an index, attestations and an entry without a platform on the way.
    let others = [
        attestation(&layout, &amd64),
        image(&layout, "windows/amd64"),
        image(&layout, "linux/arm/v7"),
        image(&layout, "linux/arm64/v8"),
        image(&layout, "linux/riscv64"),
    ];
    let mut nameless = layout.blob("application/vnd.example.other", b"other");
    nameless["annotations"] = json!({"note": "no platform"});
    let nested = layout.index(&others);
    let odd = layout.index(&[nameless, nested, amd64.clone()]);
    // skopeo copies flat ones alone.
    let index = layout.index(&[&others[..], std::slice::from_ref(&amd64)].concat());
    layout.finish(&[("odd", odd), ("1", index.clone())]);

    let registry = space.registry();
    let reference = format!("{}/many", registry.host);
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:1", path.display()),
            &format!("docker://{reference}:1"),
        ],
    );
    let digest = index["digest"].as_str().unwrap();
    let names = [
        format!("oci:{}:odd", path.display()),
        format!("{reference}:1"),
        format!("{reference}@{digest}"),
        format!("{reference}:1@{digest}"),
    ];
    for name in &names {
        for (architecture, platform) in [
            ("amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("arm64", "linux/arm64/v8"),
            ("aarch64", "linux/arm64/v8"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(built(&space, name, architecture), platform, "{name}");
        }
    }
    // A digest of one image is that image, and no other machine's.
    let one = format!("{reference}@{}", amd64["digest"].as_str().unwrap());
    assert_eq!(built(&space, &one, "amd64"), "linux/amd64");
    let said = space.kiln(&["build", "system.yml", "--arch", "arm64", "-o", "x.tar"]);
    assert_ne!(said.code, Some(0));
    for part in ["linux/amd64", "linux/arm64"] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
}

#[test]
fn an_architecture_that_is_not_there_is_an_error_that_names_those_that_are() {
    let space = Space::new();
    let path = space.path("layout");
    let layout = Layout::new(&path);
    let both = [
        image(&layout, "linux/amd64"),
        image(&layout, "linux/arm/v6"),
    ];
    layout.finish(&[("1", layout.index(&both))]);
    let text = format!("init:\n  - oci:{}:1\n", path.display());
    space.write("system.yml", &text);
    let said = space.kiln(&["build", "system.yml", "--arch", "riscv64", "-o", "x.tar"]);
    assert_ne!(said.code, Some(0));
    for part in ["linux/riscv64", "linux/amd64", "linux/arm/v6"] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
    assert!(!space.path("x.tar").exists());
}

#[test]
fn a_volume_keeps_a_whole_image_as_a_layout_that_skopeo_reads() {
    let space = Space::new();
    let path = space.path("layout");
    let layout = Layout::new(&path);
    let both = [
        image(&layout, "linux/amd64"),
        image(&layout, "linux/riscv64"),
    ];
    let single = both[1].clone();
    layout.finish(&[("many", layout.index(&both)), ("one", single)]);
    let yaml = |tag: &str, more: &str| {
        format!(
            "volumes:\n  - name: v\n    image: oci:{}:{tag}\n    format: oci\n{more}",
            path.display()
        )
    };
    // The host's own platform need not be among those that are wanted.
    for (tag, more, arch, found) in [
        ("many", "", "amd64", "linux/amd64"),
        ("many", "", "riscv64", "linux/riscv64"),
        (
            "many",
            "    platforms: [linux/riscv64]\n",
            "riscv64",
            "linux/riscv64",
        ),
        ("one", "", "riscv64", "linux/riscv64"),
    ] {
        space.write("system.yml", &yaml(tag, more));
        space.build(&["--no-sbom", "-o", "system.tar", "system.yml"]);
        let root = space.path("unpacked");
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        let (tar, root) = (space.path("system.tar"), root.display().to_string());
        let arguments = ["-xf", tar.to_str().unwrap(), "-C", &root];
        tool("bsdtar", &arguments);
        let lower = format!("{root}/containers/volumes/v/lower");
        let target = format!("dir:{root}/copy");
        let arguments = [
            "copy",
            "-q",
            "--override-arch",
            arch,
            &format!("oci:{lower}"),
            &target,
        ];
        tool("skopeo", &arguments);
        let config = tool("skopeo", &["inspect", "--config", &target]);
        assert!(config.contains(&found["linux/".len()..]), "{tag}: {config}");
    }
    space.write(
        "system.yml",
        &yaml("many", "    platforms: [linux/s390x]\n"),
    );
    let said = space.kiln(&["build", "-o", "x.tar", "system.yml"]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("linux/s390x"), "{}", said.stderr);
}

#[test]
fn a_volume_of_an_image_in_the_cache_needs_no_network() {
    let space = Space::new();
    let layout = |name: &str, content: &str| {
        let image = space.image(name).layer(&[("a", content)]);
        image.config(&["--architecture", "amd64"]).layout()
    };
    let (old_layout, new_layout) = (layout("old", "old"), layout("new", "new"));
    let registry = space.registry();
    let name = registry.push(&old_layout, "kiln/kept:1");
    let kiln = |args: &[&str]| {
        let said = space.kiln(args);
        assert_eq!(said.code, Some(0), "{args:?}: {}", said.stderr);
    };
    kiln(&["cache", "pull", "--arch", "amd64", &name]);
    drop(registry);
    // Whichever platform it is of: all are wanted first.
    for (arch, platforms) in [
        ("amd64", ""),
        ("riscv64", ""),
        ("amd64", "    platforms: [linux/amd64]\n"),
    ] {
        let volume = format!("  - name: v\n    image: {name}\n    format: oci\n{platforms}");
        space.write("system.yml", &format!("volumes:\n{volume}"));
        let index = |space: &Space| {
            kiln(&["build", "--arch", arch, "-o", "x.tar", "system.yml"]);
            let tar = read_tar(&space.path("x.tar"));
            tar["containers/volumes/v/lower/index.json"].content.clone()
        };
        let old = index(&space);
        // What an import names anew is what the volume holds.
        kiln(&["cache", "import", "--name", &name, &new_layout]);
        assert_ne!(old, index(&space));
        kiln(&["cache", "import", "--name", &name, &old_layout]);
        assert_eq!(old, index(&space));
    }
}
