//! Caches that travel: archives, further caches that are only read, keys for a CI's own cache.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::support::registry::Registry;
use super::support::{Said, Space};

fn ok(said: Said) -> String {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// Two images in a registry and a system of them, `system.yml`; another one, `other.yml`.
fn systems(space: &Space) -> Registry {
    let registry = space.registry();
    let push = |name: &str, files: &[(&str, &str)]| {
        let image = space.image(name).layer(files).layer(&[("more", name)]);
        registry.push(&image.layout(), &format!("kiln/{name}"))
    };
    let init = push("init", &[("!init", "init"), ("bin/", "")]);
    let web = push("web", &[("!web", "web"), ("etc/web.conf", "port 80")]);
    let other = push("other", &[("!other", "other")]);
    let mut modules = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    let path = "lib/modules/1/kiln.ko";
    modules
        .append_data(&mut header, path, &b"kiln"[..])
        .unwrap();
    // Zeros and ASCII.
    let modules = String::from_utf8(modules.into_inner().unwrap()).unwrap();
    let kernel = push("kernel", &[("kernel", "boot me"), ("kernel.tar", &modules)]);
    space.write("motd", "hello");
    let files = "files: [{path: etc/motd, source: motd}]\n";
    let service = |image| format!("services: [{{name: s, image: '{image}', command: [/web]}}]\n");
    let volume = format!("volumes: [{{name: v, image: '{other}', format: oci}}]\n");
    let kernel = format!("kernel: {{image: '{kernel}', cmdline: quiet}}\n");
    let system = format!("{kernel}init: ['{init}']\n{}{volume}{files}", service(&web));
    space.write("system.yml", &system);
    space.write("other.yml", &format!("init: ['{other}']\n"));
    registry
}

/// Builds `system.yml` as a tar with this cache; returns the tar and how many steps were done.
fn build(space: &Space, cache: &str, more: &[&str]) -> (Vec<u8>, u64, String) {
    let args = [
        "build",
        "-f",
        "tar",
        "--json",
        "--cache",
        cache,
        "system.yml",
    ];
    let said = space.kiln(&[&args, more].concat());
    let stderr = said.stderr.clone();
    let text = ok(said);
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let tar = fs::read(space.path("system.tar")).unwrap();
    fs::remove_file(space.path("system.tar")).unwrap();
    let ran = report["ran"].as_u64().unwrap();
    (tar, ran, text + &stderr)
}

/// Everything about a directory that a write would change.
fn state(root: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let file = fs::symlink_metadata(&path).unwrap();
        if file.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let times = (file.mtime(), file.mtime_nsec(), file.ctime_nsec());
        found.insert(path, (file.ino(), file.len(), times.0, times.1, times.2));
    }
    found
}

#[test]
fn an_archive_of_a_system_builds_it_elsewhere() {
    let space = Space::new();
    let registry = systems(&space);
    let export = |file: &str| {
        let args = ["cache", "export", "--cache", "a", "--for", "system.yml"];
        space.kiln(&[&args, &[file][..]].concat())
    };
    let said = export("s.kiln");
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("not built yet"), "{}", said.stderr);
    assert!(
        said.stderr.contains("kiln build system.yml"),
        "{}",
        said.stderr
    );
    assert!(!space.path("s.kiln").exists());

    let (tar, ran, _) = build(&space, "a", &[]);
    assert!(ran > 5);
    space.build(&["-f", "tar", "--cache", "a", "other.yml"]);
    drop(registry);
    ok(export("s.kiln"));
    let archive = fs::read(space.path("s.kiln")).unwrap();
    assert_eq!(export("-").stdout, archive);
    let all = ["cache", "export", "--cache", "a", "--all", "-"];
    let all = space.kiln(&all).stdout;
    assert!(all.len() > archive.len(), "other.yml is left out");
    let since = ["cache", "export", "--cache", "a", "--since", "1h", "-"];
    assert_eq!(space.kiln(&since).stdout, all);
    std::thread::sleep(Duration::from_millis(1100));
    let since = ["cache", "export", "--cache", "a", "--since", "1s", "-"];
    assert!(space.kiln(&since).stdout.len() < archive.len());

    // Cut off, it brings what it has; whole, the rest. Then nothing of the network is needed.
    fs::write(space.path("cut.kiln"), &archive[..archive.len() - 1]).unwrap();
    let said = space.kiln(&["cache", "import", "--cache", "b", "cut.kiln"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("cut off"), "{}", said.stderr);
    assert!(said.stderr.contains("is kept"), "{}", said.stderr);
    ok(space.kiln(&["cache", "import", "--cache", "b", "s.kiln"]));
    let (again, ran, _) = build(&space, "b", &[]);
    assert_eq!(ran, 0);
    assert!(again == tar, "another tar");

    // From standard input into an empty cache.
    let mut command = space.command();
    command.args(["cache", "import", "--cache", "c", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(build(&space, "c", &[]).1, 0);
}

#[test]
fn further_caches_are_read_and_not_written() {
    let space = Space::new();
    let registry = systems(&space);
    let (tar, _, _) = build(&space, "tier", &[]);
    let sbom = |more: &[&str]| ok(space.kiln(&[&["sbom", "system.yml"], more].concat()));
    let bill = sbom(&["--cache", "tier"]);
    drop(registry);
    let before = state(&space.path("tier"));
    let (again, ran, said) = build(&space, "main", &["--cache-from", "tier"]);
    assert_eq!(ran, 0);
    assert!(again == tar, "another tar");
    assert!(!said.contains("cannot read"), "{said}");
    assert_eq!(sbom(&["--cache", "empty", "--cache-from", "tier"]), bill);

    // As an environment variable says it, past caches that are none.
    fs::create_dir(space.path("nothing")).unwrap();
    let mut command = space.command();
    command.args(["build", "-f", "tar", "--cache", "other", "system.yml"]);
    command.env("KILN_CACHE_FROM", "missing:nothing::tier");
    let said = super::support::said(&mut command);
    assert!(
        said.stderr.contains("missing: there is no"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("nothing: not a kiln"),
        "{}",
        said.stderr
    );
    ok(said);
    assert!(fs::read(space.path("system.tar")).unwrap() == tar);
    fs::remove_file(space.path("system.tar")).unwrap();
    assert_eq!(before, state(&space.path("tier")));
    // What comes from two caches goes into one archive.
    let export = ["cache", "export", "--cache", "main", "--for", "system.yml"];
    let from = ["--cache-from", "tier", "s.kiln"];
    ok(space.kiln(&[&export[..], &from].concat()));
    ok(space.kiln(&["cache", "import", "--cache", "copy", "s.kiln"]));
    assert_eq!(build(&space, "copy", &[]).1, 0);
}

#[test]
fn a_further_cache_may_be_gone_or_damaged() {
    let space = Space::new();
    let registry = systems(&space);
    let (tar, _, _) = build(&space, "tier", &[]);
    let (_, ran, _) = build(&space, "main", &["--cache-from", "tier"]);
    assert_eq!(ran, 0);
    // Every object with another last byte: all is made anew, in the cache.
    for directory in fs::read_dir(space.path("tier/objects")).unwrap() {
        for object in fs::read_dir(directory.unwrap().path()).unwrap() {
            let path = object.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let Some(last) = bytes.last_mut() else {
                continue;
            };
            *last ^= 1;
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
    let before = state(&space.path("tier"));
    let (again, ran, _) = build(&space, "main", &["--cache-from", "tier"]);
    assert!(again == tar && ran > 5, "{ran}");
    assert_eq!(before, state(&space.path("tier")));
    drop(registry);
    fs::remove_dir_all(space.path("tier")).unwrap();
    let (again, ran, said) = build(&space, "main", &["--cache-from", "tier"]);
    assert!(again == tar && ran == 0, "{ran}");
    assert!(said.contains("there is no such directory"), "{said}");
}

#[test]
fn a_key_names_what_a_system_is_made_from() {
    let space = Space::new();
    let yaml = "init: [{debian: {suite: s, packages: [aa]}}]\n\
                services: [{name: s, image: 'directory:./tree'}]\n\
                files: [{path: a, source: motd}]\n";
    let key = |directory: &str, more: &[&str]| {
        let mut command = space.command();
        command.args(["cache", "key", "system.yml"]).args(more);
        command.current_dir(space.path(directory));
        ok(super::support::said(&mut command))
    };
    let write = |directory: &str, yaml: &str| {
        space.write(&format!("{directory}/system.yml"), yaml);
        space.write(&format!("{directory}/motd"), "hello");
        space.write(&format!("{directory}/tree/etc/x"), "x");
    };
    write("one", yaml);
    write(
        "far/away/two",
        &format!("# the same\n{}", yaml.replace(", ", ",  ")),
    );
    let first = key("one", &[]);
    let hex = first.strip_prefix("kiln-1-amd64-").map(str::trim_end);
    let hex = hex.filter(|hex| hex.len() == 32 && hex.bytes().all(|c| c.is_ascii_hexdigit()));
    if cfg!(target_arch = "x86_64") {
        assert!(hex.is_some(), "{first}");
    }
    let old = fs::File::open(space.path("far/away/two/motd")).unwrap();
    old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(key("far/away/two", &[]), first);
    assert_eq!(key("one", &["system.yml"]), first);
    assert_eq!(
        key("one", &["--arch", "arm64", "--prefix"]),
        "kiln-1-arm64-\n"
    );

    // Each of these is another system.
    let mut keys = vec![first];
    keys.push(key("one", &["--arch", "arm64"]));
    keys.push(key("one", &["-f", "tar"]));
    keys.push(key("one", &["--no-sbom"]));
    for (file, text) in [
        ("system.yml", yaml.replace("[aa]", "[bb]")),
        ("motd", "goodbye".to_owned()),
        ("tree/etc/x", "y".to_owned()),
        ("tree/etc/z", String::new()),
        (
            "system.lock",
            format!(
                "version: 1\nimages:\n- image: docker.io/library/a:1\n  \
                 platform: linux/amd64\n  manifest: sha256:{}\n",
                "0".repeat(64)
            ),
        ),
    ] {
        space.write(&format!("one/{file}"), &text);
        keys.push(key("one", &[]));
    }
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "{keys:?}");
    let said = space.kiln(&["cache", "key", "one/missing.yml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("missing.yml"), "{}", said.stderr);
}

/// Returns the commands in the code under a heading of `docs/ci.md`.
fn documented(heading: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ci.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split(&format!("### {heading}\n")).nth(1).unwrap();
    let code = section.split("```").nth(1).unwrap();
    let lines = code.lines().map(|line| {
        let line = line.trim_start().trim_start_matches("- ");
        line.strip_prefix("run: ").unwrap_or(line)
    });
    let is_command = |line: &&str| {
        let word = line.split(' ').next().unwrap();
        ["kiln", "test", "echo"].contains(&word)
    };
    let commands: Vec<&str> = lines.filter(is_command).collect();
    assert!(commands.len() >= 4, "{commands:?}");
    commands.join("\n")
}

#[test]
fn the_documented_jobs_work() {
    for heading in ["GitHub Actions", "GitLab CI"] {
        let space = Space::new();
        let registry = systems(&space);
        fs::rename(space.path("system.yml"), space.path("hello.yml")).unwrap();
        let script = documented(heading);
        let job = || {
            let script = format!("PATH=\"${{0%/*}}:$PATH\"\n{script}");
            let mut command = space.command_in(&["sh", "-e", "-c", &script]);
            command.env("GITHUB_OUTPUT", space.path("output"));
            super::support::said(&mut command)
        };
        ok(job());
        let initrd = fs::read(space.path("hello-initrd.img")).unwrap();
        let archive = fs::read(space.path("hello.kiln")).unwrap();
        // Another runner: nothing but what the provider kept, and no registry.
        drop(registry);
        fs::remove_dir_all(space.path("cache")).unwrap();
        fs::remove_file(space.path("hello-initrd.img")).unwrap();
        let said = job();
        assert!(said.stderr.contains("Imported"), "{}", said.stderr);
        ok(said);
        assert!(fs::read(space.path("hello-initrd.img")).unwrap() == initrd);
        assert!(fs::read(space.path("hello.kiln")).unwrap() == archive);
    }
}
