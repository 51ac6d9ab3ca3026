//! Builds kiln-init, PID 1 of kiln's systems, as a static binary, for `kiln` to carry; and finds
//! the git commit that it is built from, when there is one.
//!
//! A cargo inside cargo, with a target directory of its own under `OUT_DIR`: when nothing in
//! `guest/` changed it does nothing. `KILN_GUEST_TARGETS` names further targets, separated by
//! spaces, for systems of other architectures or with another C library; they need their standard
//! library and a linker (`CARGO_TARGET_…_LINKER`). Leaves `OUT_DIR/guest.rs` with the constant `GUESTS`, and the
//! variable `KILN_COMMIT`, unless whoever builds has set it.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// What the outer cargo, clippy, nextest or a coverage tool set for their own rustc, not ours.
const UNWANTED_ENVIRONMENT: [&str; 12] = [
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "MAKEFLAGS",
    "MFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
];

fn main() {
    let out = variable("OUT_DIR");
    let out = Path::new(&out);
    for watched in ["../guest", "../Cargo.lock", "../Cargo.toml", "build.rs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rerun-if-env-changed=KILN_COMMIT");
    println!("cargo::rerun-if-env-changed=KILN_GUEST_TARGETS");
    if env::var_os("KILN_COMMIT").is_none()
        && let Some(commit) = commit(&Path::new("..").join(".git"))
    {
        println!("cargo::rustc-env=KILN_COMMIT={commit}");
    }
    let further = env::var("KILN_GUEST_TARGETS").unwrap_or_default();
    let own = variable("TARGET");
    let mut targets: Vec<&str> = further.split_whitespace().collect();
    // One for the architecture that kiln is built for stands in for its own target: another C library.
    let is_own = |target: &&str| architecture(target) == architecture(&own);
    if !targets.iter().any(is_own) {
        targets.push(&own);
    }
    let (mut guests, mut names) = (String::new(), Vec::new());
    for target in targets {
        let upper = target.to_uppercase().replace('-', "_");
        println!("cargo::rerun-if-env-changed=CARGO_TARGET_{upper}_LINKER");
        match architecture(target) {
            Some(name) if names.contains(&name) => {
                panic!("KILN_GUEST_TARGETS: a second one for {name}: {target}")
            }
            Some(name) => {
                let binary = build_guest(out, target);
                guests.push_str(&format!("({name:?}, include_bytes!({binary:?})), "));
                names.push(name);
            }
            // A kiln that runs elsewhere carries none for its own architecture.
            None if target == own => {}
            None => panic!("KILN_GUEST_TARGETS: kiln-init does not run on {target}"),
        }
    }
    let constant = format!("pub(crate) const GUESTS: &[(&str, &[u8])] = &[{guests}];\n");
    write_when_different(&out.join("guest.rs"), constant.as_bytes());
}

/// Returns Go's name of a target's architecture, if kiln-init runs there: on Linux only.
fn architecture(target: &str) -> Option<&'static str> {
    let (architecture, rest) = target.split_once('-')?;
    let name = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64gc" => "riscv64",
        _ => return None,
    };
    rest.contains("linux-")
        .then_some(name)
        .filter(|_| !rest.contains("android"))
}

/// Returns the commit that is checked out, read from git's own files, so that a build needs no git
/// and is done again when another commit is. `None` outside of a work tree.
fn commit(git: &Path) -> Option<String> {
    // In a further work tree it is a file that says where the directory is.
    let git = match fs::read_to_string(git) {
        Ok(link) => git.parent()?.join(link.trim().strip_prefix("gitdir: ")?),
        Err(_) => git.to_owned(),
    };
    let shared = match fs::read_to_string(git.join("commondir")) {
        Ok(shared) => git.join(shared.trim()),
        Err(_) => git.clone(),
    };
    let head = watched(&git.join("HEAD"))?;
    let Some(name) = head.trim().strip_prefix("ref: ") else {
        return hash(&head);
    };
    let packed = watched(&shared.join("packed-refs"));
    if let Some(commit) = watched(&shared.join(name)) {
        return hash(&commit);
    }
    // The next commit makes the file that is not there now.
    watch(shared.join(name).parent()?);
    let packed = packed?;
    let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(_, packed)| *packed == name)
        .and_then(|(commit, _)| hash(commit))
}

fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| text.to_owned())
}

/// Reads a file and has the build done again when it changes.
fn watched(path: &Path) -> Option<String> {
    watch(path);
    fs::read_to_string(path).ok()
}

/// A path that is not there would have the build done every time.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// Builds kiln-init for a target and returns the path of the binary.
fn build_guest(out: &Path, target: &str) -> String {
    let target_directory = out.join("guest-target");
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    // The compiler's driver asks for an index of the tables that the script leaves out.
    let flags = [
        "-Ctarget-feature=+crt-static",
        // Sequences of instructions that occur more than once become functions: 2 % smaller.
        "-Cllvm-args=-enable-machine-outliner=always",
        "-Clink-arg=-Wl,--no-eh-frame-hdr",
        "-Clink-arg=-T",
        &format!(
            "-Clink-arg={}",
            workspace.join("guest/no-unwinding.ld").display()
        ),
    ];
    let mut cargo = Command::new(variable("CARGO"));
    for name in UNWANTED_ENVIRONMENT {
        cargo.env_remove(name);
    }
    cargo
        .args(["build", "--quiet", "--locked", "-p", "kiln-init"])
        .args(["--profile", "guest", "--target", target])
        .arg("--target-dir")
        .arg(&target_directory)
        .current_dir(&workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TERM_COLOR", "never");
    let output = match cargo.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run cargo for kiln-init: {error}"),
    };
    assert!(
        output.status.success(),
        "kiln-init does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let built = target_directory.join(target).join("guest/kiln-init");
    let binary = out.join(format!("kiln-init-{target}"));
    match fs::read(&built) {
        Ok(bytes) => write_when_different(&binary, &bytes),
        Err(error) => panic!("cannot read {}: {error}", built.display()),
    }
    match binary.into_os_string().into_string() {
        Ok(path) => path,
        Err(path) => panic!("{} is not UTF-8", path.display()),
    }
}

/// Writes a file unless it has these bytes already, so that what depends on it stays built.
fn write_when_different(path: &Path, bytes: &[u8]) {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return;
    }
    if let Err(error) = fs::write(path, bytes) {
        panic!("cannot write {}: {error}", path.display());
    }
}

fn variable(name: &str) -> String {
    match env::var(name) {
        Ok(value) => value,
        Err(error) => panic!("{name}: {error}"),
    }
}
