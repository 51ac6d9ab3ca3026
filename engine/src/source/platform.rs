//! Platforms, and which entry of an index serves one best.
//!
//! Enters: `OS/ARCHITECTURE[/VARIANT]` and the entries of an index. Leaves: the entries that can
//! run there, best first. Names follow the OCI image index specification and, where the world
//! spells differently, containerd's normalisation.

use std::fmt;
use std::str::FromStr;

use super::manifest::Descriptor;

/// An operating system and machine, spelled as Go does (`linux/arm64/v8`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Operating system, `linux`.
    pub os: String,
    /// Machine: `amd64`, `arm64`, `arm`, `riscv64` …
    pub architecture: String,
    /// Variant of the machine, such as `v7`.
    pub variant: Option<String>,
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a platform (such as linux/amd64 or linux/arm/v7)")]
pub struct ParsePlatformError(String);

impl Platform {
    /// Makes a platform with normalised names.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant
            .map(str::to_ascii_lowercase)
            .filter(|variant| !variant.is_empty());
        let (architecture, variant) = match architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), variant),
            "aarch64" => ("arm64".to_owned(), variant),
            "armhf" => ("arm".to_owned(), variant.or_else(|| Some("v7".to_owned()))),
            "armel" => ("arm".to_owned(), variant.or_else(|| Some("v6".to_owned()))),
            "i386" | "i486" | "i586" | "i686" => ("386".to_owned(), variant),
            _ => (architecture, variant),
        };
        let variant = variant.map(|variant| match variant.as_bytes() {
            // containerd takes "7" for "v7".
            [b'0'..=b'9', ..] => format!("v{variant}"),
            _ => variant,
        });
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// Tells whether an image of `self` can stand for `wanted`, and how well: smaller is better.
    ///
    /// The same variant comes first, then older ones from the newest down; when no variant is
    /// asked for, newer ones come last, the least demanding first.
    #[must_use]
    pub fn rank(&self, wanted: &Self) -> Option<u32> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        if self.variant_or_default() == wanted.variant_or_default() {
            return Some(u32::from(self.variant != wanted.variant));
        }
        match (self.variant_level(), wanted.variant_level()) {
            (Some(is), Some(wants)) if is < wants => Some(2 + (wants - is)),
            (Some(is), Some(wants)) if wanted.variant.is_none() => Some(2000 + (is - wants)),
            // A variant that is no number, when none was asked for: better than nothing.
            (None, _) if wanted.variant.is_none() => Some(4000),
            _ => None,
        }
    }

    /// Tells whether two spellings mean one platform: `arm64` and `arm64/v8`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let parts = |it: &Self| (it.os.clone(), it.architecture.clone());
        parts(self) == parts(other) && self.variant_or_default() == other.variant_or_default()
    }

    /// The variant that is meant when none is named.
    fn variant_or_default(&self) -> Option<&str> {
        self.variant
            .as_deref()
            .or(match self.architecture.as_str() {
                "arm" => Some("v7"),
                "arm64" => Some("v8"),
                "amd64" => Some("v1"),
                _ => None,
            })
    }

    /// `v7` → 70, `v8.1` → 81: variants of one machine in order of what they demand.
    fn variant_level(&self) -> Option<u32> {
        let text = self.variant_or_default()?.strip_prefix('v')?;
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
        (major < 100 && minor < 10).then_some(major * 10 + minor)
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParsePlatformError(text.chars().take(80).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let named = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !parts.iter().all(named) {
            return Err(bad());
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Returns the entries of an index that can serve `wanted`, best first; ties keep the index's order.
///
/// Attestations and entries without a platform are passed over, but for nested indexes, which need
/// not state one, and a sole entry, whose config will tell.
pub(super) fn candidates<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Vec<&'a Descriptor> {
    let images: Vec<&Descriptor> = entries
        .iter()
        .filter(|entry| !entry.is_attestation())
        .collect();
    let sole = images.len() == 1;
    let mut ranked: Vec<(u32, &Descriptor)> = images
        .into_iter()
        .filter_map(|entry| match &entry.platform {
            Some(platform) => Some((platform.rank(wanted)?, entry)),
            None if entry.is_index() || sole => Some((3000, entry)),
            None => None,
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

/// Returns the platforms an index offers, in its order, each once.
pub(super) fn available(entries: &[Descriptor]) -> Vec<String> {
    let mut names = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_attestation()) {
        let name = match &entry.platform {
            Some(platform) => platform.to_string(),
            None if entry.is_index() => continue,
            None => "one without a platform".to_owned(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn best<'a>(wanted: &str, offered: &[&'a str]) -> Option<&'a str> {
        let wanted = platform(wanted);
        let ranked = offered
            .iter()
            .filter_map(|text| Some((platform(text).rank(&wanted)?, *text)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, text)| text)
    }

    #[test]
    fn parses_prints_and_normalises() {
        for (text, printed) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("linux/arm64/v8", "linux/arm64/v8"),
        ] {
            assert_eq!(platform(text).to_string(), printed);
        }
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "linux/a b",
            "linux/é",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn picks_the_best_variant() {
        let arm = [
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm/v8",
        ];
        assert_eq!(best("linux/arm", &arm), Some("linux/arm/v7"));
        assert_eq!(best("linux/arm/v6", &arm), Some("linux/arm/v6"));
        assert_eq!(
            best("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"]),
            Some("linux/arm/v6")
        );
        assert_eq!(best("linux/arm/v6", &["linux/arm/v7"]), None);
        assert_eq!(best("linux/arm", &["linux/arm/v8"]), Some("linux/arm/v8"));
        assert_eq!(
            best("linux/arm64", &["linux/arm64/v9", "linux/arm64/v8"]),
            Some("linux/arm64/v8")
        );
        let amd64 = ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"];
        assert_eq!(best("linux/amd64", &amd64), Some("linux/amd64"));
        assert_eq!(best("linux/amd64", &amd64[..2]), Some("linux/amd64/v2"));
        assert_eq!(best("linux/amd64/v3", &amd64[1..]), Some("linux/amd64/v2"));
        assert_eq!(best("linux/riscv64", &amd64), None);
        assert_eq!(best("linux/amd64", &["windows/amd64"]), None);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(text in "[a-z0-9]{1,9}/[a-z0-9_]{1,9}(/v?[0-9]{1,3})?") {
            let once = platform(&text);
            prop_assert_eq!(&platform(&once.to_string()), &once);
            prop_assert_eq!(once.rank(&once), Some(0));
        }

        #[test]
        fn any_text_is_harmless(text in "\\PC{0,60}") {
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert!(platform.rank(&Platform::new("linux", "arm", None)).is_none_or(|r| r < 5000));
            }
        }
    }
}
