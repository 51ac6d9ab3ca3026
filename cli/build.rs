//! Builds kiln-init, PID 1 of kiln's systems, as a static binary, for `kiln` to carry.
//!
//! A cargo inside cargo, with a target directory of its own under `OUT_DIR`: when nothing in
//! `guest/` changed it does nothing. Leaves `OUT_DIR/guest.rs` with the constant `GUEST`.

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
    // kiln-init runs on Linux only, and the guest's architecture is this kiln's own.
    let architecture = match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => Some("amd64"),
        "aarch64" => Some("arm64"),
        _ => None,
    };
    let constant = match architecture {
        Some(architecture) => {
            let binary = build_guest(out);
            format!(
                "pub(crate) const GUEST: Option<(&str, &[u8])> = \
                 Some(({architecture:?}, include_bytes!({binary:?})));\n"
            )
        }
        None => "pub(crate) const GUEST: Option<(&str, &[u8])> = None;\n".to_owned(),
    };
    write_when_different(&out.join("guest.rs"), constant.as_bytes());
}

/// Builds kiln-init and returns the path of the binary.
fn build_guest(out: &Path) -> String {
    let target = variable("TARGET");
    let target_directory = out.join("guest-target");
    let mut cargo = Command::new(variable("CARGO"));
    for name in UNWANTED_ENVIRONMENT {
        cargo.env_remove(name);
    }
    cargo
        .args(["build", "--quiet", "--locked", "-p", "kiln-init"])
        .args(["--profile", "guest", "--target", &target])
        .arg("--target-dir")
        .arg(&target_directory)
        .current_dir(Path::new(&variable("CARGO_MANIFEST_DIR")).join(".."))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
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
    let binary = out.join("kiln-init");
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
