//! Package URLs: names of packages that scanners look up.
//!
//! Enters: what is known of a package or image. Leaves: a purl in its canonical form (the
//! Package-URL specification, ECMA-427): everything but letters, digits, `.`, `-`, `_`, `~` and `:`
//! percent-encoded.

use crate::digest::Sha256;
use crate::source::Reference;

/// Returns the purl of a binary package in Debian's archive.
pub(super) fn deb(name: &str, version: &str, architecture: &str) -> String {
    format!(
        "pkg:deb/debian/{}@{}?arch={}",
        encode(&name.to_ascii_lowercase()),
        encode(version),
        encode(architecture)
    )
}

/// Returns the purl of an image in a registry.
pub(super) fn oci(reference: &Reference, manifest: &Sha256, architecture: &str) -> String {
    let repository = reference.repository();
    let name = repository.rsplit('/').next().unwrap_or_default();
    let place = format!("{}/{repository}", reference.host());
    let tag = reference
        .tag()
        .map(|tag| format!("&tag={}", encode(tag)))
        .unwrap_or_default();
    format!(
        "pkg:oci/{}@{}?arch={}&repository_url={}{tag}",
        encode(name),
        encode(&manifest.to_string()),
        encode(architecture),
        encode(&place),
    )
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_purl_cannot_hold_is_encoded() {
        assert_eq!(
            deb("libstdc++6", "1:12.2.0-14+deb12u1~x", "amd64"),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1~x?arch=amd64"
        );
        let reference: Reference = "127.0.0.1:5000/team/web:v1".parse().unwrap();
        let manifest = Sha256::of(b"");
        assert_eq!(
            oci(&reference, &manifest, "arm64"),
            format!(
                "pkg:oci/web@{manifest}?arch=arm64&repository_url=127.0.0.1:5000%2Fteam%2Fweb&tag=v1"
            )
        );
    }
}
