//! Has the linker write the static binary's 2,000 relocations as a bit map: 50 KB of every image.
//!
//! `-z pack-relative-relocs` (`DT_RELR`) is understood by lld and by GNU ld from 2.38, others say
//! that they ignore it; what applies them is glibc's own start-up code, from 2.36.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
