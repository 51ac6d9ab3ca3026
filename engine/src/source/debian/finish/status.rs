//! dpkg's record of what is installed, for people, SBOM tools and scanners.
//!
//! Enters: packages. Leaves: the text of `/var/lib/dpkg/status` (deb822; dpkg(1)), and of the
//! lists of files beside it. Packages count as installed and configured: what their scripts would
//! have done is done, or is not wanted.

use super::super::Package;
use super::super::packages::Stanza;

/// Fields of a record, in dpkg's order; `Status` comes after the first.
const FIELDS: [&str; 18] = [
    "Package",
    "Essential",
    "Priority",
    "Section",
    "Installed-Size",
    "Maintainer",
    "Architecture",
    "Multi-Arch",
    "Source",
    "Version",
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Breaks",
    "Conflicts",
    "Description",
    "Homepage",
];

/// Returns the text of `/var/lib/dpkg/status`, sorted by name.
#[must_use]
pub fn status(packages: &[Package]) -> String {
    let mut packages: Vec<&Package> = packages.iter().collect();
    packages.sort_by(|one, two| one.name.cmp(&two.name));
    let mut text = String::new();
    for package in packages {
        let stanza = Stanza::new(&package.control);
        for name in FIELDS {
            if let Some(value) = stanza.field(name) {
                text.push_str(&format!("{name}: {value}\n"));
            }
            if name == "Package" {
                text.push_str("Status: install ok installed\n");
            }
        }
        text.push('\n');
    }
    text
}

/// Returns the path of a package's list of files, relative to the root. (`info/format`, which
/// [`super::finish`] writes, says that names may have an architecture.)
#[must_use]
pub fn list_path(package: &Package) -> String {
    let same = Stanza::new(&package.control).field("Multi-Arch") == Some("same");
    let qualifier = if same {
        format!(":{}", package.architecture)
    } else {
        String::new()
    };
    format!("var/lib/dpkg/info/{}{qualifier}.list", package.name)
}

/// Returns the text of a package's list of files, from the paths it shipped, as it named them:
/// relative, without final slash, in its own order.
#[must_use]
pub fn list<'p>(paths: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
    let mut text = b"/.\n".to_vec();
    for path in paths {
        if !path.is_empty() && path != b"." && !path.contains(&b'\n') {
            text.push(b'/');
            text.extend_from_slice(path);
            text.push(b'\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::super::super::packages::testing;
    use super::super::super::{DebianRequest, solve::solve};
    use super::*;

    #[test]
    fn dpkg_reads_it_without_complaint() {
        let index = testing::index(
            "b 1:2-3; Depends: a (>= 1); Maintainer: x <x@y>; Description: bee; Multi-Arch: same; Source: s\na 1; Maintainer: z <z@y>; Description: ay",
        );
        let request = DebianRequest {
            suite: None,
            packages: vec!["b".to_owned()],
            mirror: None,
            keyring: None,
            architecture: "amd64".to_owned(),
        };
        let packages = solve(&index, &request).unwrap();
        let text = status(&packages);
        let backwards: Vec<Package> = packages.iter().rev().cloned().collect();
        assert_eq!(status(&backwards), text);
        assert!(!text.contains("Filename") && !text.contains("SHA256"));
        let dir = tempfile::tempdir().unwrap();
        let admin = dir.path().join("var/lib/dpkg");
        fs::create_dir_all(admin.join("info")).unwrap();
        fs::create_dir_all(admin.join("updates")).unwrap();
        fs::write(admin.join("status"), &text).unwrap();
        fs::write(admin.join("info/format"), "1\n").unwrap();
        for package in &packages {
            let paths: [&[u8]; 3] = [b".", b"usr", b"usr/x"];
            fs::write(dir.path().join(list_path(package)), list(paths)).unwrap();
        }
        let query = |args: &[&str]| {
            let admin = format!("--admindir={}", admin.display());
            let output = Command::new("dpkg-query")
                .arg(admin)
                .args(args)
                .output()
                .expect("dpkg-query is there");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            String::from_utf8(output.stdout).unwrap()
        };
        let shown = query(&[
            "-W",
            "-f",
            "${db:Status-Abbrev}${Package} ${Version} ${source:Package}\n",
        ]);
        assert_eq!(shown, "ii a 1 a\nii b 1:2-3 s\n");
        assert_eq!(query(&["-L", "b"]), "/.\n/usr\n/usr/x\n");
    }
}
