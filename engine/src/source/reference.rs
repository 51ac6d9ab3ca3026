//! References to images in registries.
//!
//! Enters: text. Leaves: a checked [`Reference`]. It is normalised as LinuxKit
//! does it (no `:latest` is added to the canonical string, a name of three parts begins with a
//! host), but `x` and `x:latest` resolve alike, and a digest wins over a tag: see
//! [`Reference::key`].

use std::fmt;
use std::str::FromStr;

use crate::digest::Sha256;

/// Bytes of a repository name (distribution specification: 255 with the host).
pub(super) const NAME_MAX: usize = 255;
/// Bytes of a tag (distribution specification).
const TAG_MAX: usize = 128;

/// The host that bare names mean.
pub const DOCKER_HUB: &str = "docker.io";

/// Text that names no image, and where it goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image \"{text}\": {reason}")]
pub struct ReferenceError {
    /// The text.
    pub text: String,
    /// Byte offset in the text at which it goes wrong.
    pub offset: usize,
    /// What is wrong.
    pub reason: String,
}

/// A reference to an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Sha256>,
}

impl Reference {
    /// Returns `HOST[:PORT]` as written, `docker.io` for bare names.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the repository as the registry knows it (`library/nginx` on Docker Hub).
    #[must_use]
    pub fn repository(&self) -> String {
        if self.is_docker_hub() && !self.path.contains('/') {
            format!("library/{}", self.path)
        } else {
            self.path.clone()
        }
    }

    /// Returns the tag, when one was written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, when one was written: of a manifest or an index.
    #[must_use]
    pub const fn digest(&self) -> Option<&Sha256> {
        self.digest.as_ref()
    }

    /// Tells whether the host is one of Docker Hub's names.
    #[must_use]
    pub fn is_docker_hub(&self) -> bool {
        is_docker_hub(&self.host)
    }

    /// Returns the canonical string, `host/path[:tag][@digest]`, spelled as LinuxKit spells it in
    /// metadata and PAX records.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = format!("{}/{}", self.host, self.path);
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }

    /// Returns what the reference resolves by: `host/repository@digest` when a digest is written,
    /// otherwise `host/repository:tag`, with `latest` where no tag is. Two references that mean the
    /// same image have one key, however they are spelled.
    #[must_use]
    pub fn key(&self) -> String {
        let host = if self.is_docker_hub() {
            DOCKER_HUB
        } else {
            &self.host
        };
        let repository = self.repository();
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{host}/{repository}@{digest}"),
            (None, tag) => format!("{host}/{repository}:{}", tag.as_deref().unwrap_or("latest")),
        }
    }

    /// Returns the reference with a digest pinned (and the tag kept, for people).
    #[must_use]
    pub fn pinned(&self, digest: Sha256) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

pub(super) fn is_docker_hub(host: &str) -> bool {
    matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    )
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |offset: usize, reason: &str| ReferenceError {
            text: text.chars().take(NAME_MAX).collect(),
            offset,
            reason: reason.to_owned(),
        };
        if text.is_empty() {
            return Err(fail(0, "the name is empty"));
        }
        if let Some(at) = text.find("://") {
            return Err(fail(at, "an image is named without a URL scheme"));
        }
        if let Some((at, found)) = text.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
            return Err(fail(at, &format!("{found:?} cannot be part of a name")));
        }
        // `host` is None for bare names; `start` is where the path begins.
        let slashes = text.matches('/').count();
        let first = text.split('/').next().unwrap_or_default();
        let hosted =
            slashes > 1 || slashes == 1 && (first.contains(['.', ':']) || first == "localhost");
        let (host, start) = if hosted {
            (first, first.len() + 1)
        } else {
            (DOCKER_HUB, 0)
        };
        if hosted {
            check_host(host).map_err(|(at, reason)| fail(at, &reason))?;
        }
        let rest = &text[start..];
        let path_end = rest.find([':', '@']).unwrap_or(rest.len());
        let path = &rest[..path_end];
        check_path(path).map_err(|(at, reason)| fail(start + at, &reason))?;
        let library = if slashes == 0 { "library/" } else { "" };
        if host.len() + 1 + library.len() + path.len() > NAME_MAX {
            return Err(fail(
                start,
                &format!("the name is longer than {NAME_MAX} bytes"),
            ));
        }
        let object = &rest[path_end..];
        let object_at = start + path_end;
        let (tag, digest) = match object.split_once('@') {
            Some((tag, digest)) => (tag, Some(digest)),
            None => (object, None),
        };
        let digest = match digest {
            None => None,
            Some(digest) => {
                let at = object_at + tag.len() + 1;
                Some(
                    digest
                        .parse()
                        .map_err(|error| fail(at, &format!("{error}")))?,
                )
            }
        };
        let tag = match tag.strip_prefix(':') {
            None => None,
            Some(tag) => {
                check_tag(tag).map_err(|(at, reason)| fail(object_at + 1 + at, &reason))?;
                Some(tag.to_owned())
            }
        };
        Ok(Self {
            host: host.to_owned(),
            path: format!("{library}{path}"),
            tag,
            digest,
        })
    }
}

/// An offset within the checked part, and what is wrong there.
type Fault = (usize, String);

fn check_host(host: &str) -> Result<(), Fault> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if name.is_empty() {
        return Err((0, "the registry's host is empty".to_owned()));
    }
    let bracketed = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    if let Some(address) = bracketed {
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err((1, format!("\"{address}\" is not an IPv6 address")));
        }
    } else if let Some(at) = name
        .bytes()
        .position(|byte| !byte.is_ascii_alphanumeric() && !b".-_".contains(&byte))
    {
        return Err((
            at,
            format!(
                "{:?} cannot be part of a host name",
                char::from(name.as_bytes()[at])
            ),
        ));
    } else if name.starts_with(['.', '-']) || name.contains("..") {
        return Err((0, format!("\"{name}\" is not a host name")));
    }
    if let Some(port) = port
        && (!port.bytes().all(|byte| byte.is_ascii_digit())
            || port.parse::<u16>().ok().is_none_or(|port| port == 0))
    {
        return Err((name.len() + 1, format!("\"{port}\" is not a port")));
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), Fault> {
    if path.is_empty() {
        return Err((0, "the repository's name is empty".to_owned()));
    }
    let mut at = 0;
    for part in path.split('/') {
        if part.is_empty() {
            return Err((at, "a part of the name is empty".to_owned()));
        }
        for (offset, byte) in part.bytes().enumerate() {
            if byte.is_ascii_uppercase() {
                return Err((at + offset, "a repository's name is lower-case".to_owned()));
            }
            if !byte.is_ascii_alphanumeric() && !b"._-".contains(&byte) {
                let found = char::from(byte);
                return Err((
                    at + offset,
                    format!("{found:?} cannot be part of a repository's name"),
                ));
            }
        }
        let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        if !is_edge(part.as_bytes().first()) || !is_edge(part.as_bytes().last()) {
            return Err((
                at,
                format!("\"{part}\" must begin and end with a letter or digit"),
            ));
        }
        at += part.len() + 1;
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), Fault> {
    if tag.is_empty() {
        return Err((0, "the tag is empty".to_owned()));
    }
    if tag.len() > TAG_MAX {
        return Err((TAG_MAX, format!("the tag is longer than {TAG_MAX} bytes")));
    }
    let bad = |(at, byte): (usize, u8)| {
        let inside = byte.is_ascii_alphanumeric() || byte == b'_';
        !(inside || at > 0 && b".-".contains(&byte))
    };
    match tag.bytes().enumerate().find(|&found| bad(found)) {
        Some((at, byte)) => Err((
            at,
            format!("{:?} cannot stand there in a tag", char::from(byte)),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn canonical(text: &str) -> String {
        text.parse::<Reference>()
            .unwrap_or_else(|error| panic!("{error}"))
            .canonical()
    }

    #[test]
    fn normalises_as_linuxkit_does() {
        for (text, expected) in [
            ("nginx", "docker.io/library/nginx"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("linuxkit/init:abc", "docker.io/linuxkit/init:abc"),
            ("other.example/x", "other.example/x"),
            ("localhost/x:1", "localhost/x:1"),
            ("host:5000/x", "host:5000/x"),
            ("[::1]:5000/x", "[::1]:5000/x"),
            ("foo/bar/baz", "foo/bar/baz"),
            ("registry.example/a/b/c_d:v1", "registry.example/a/b/c_d:v1"),
        ] {
            assert_eq!(canonical(text), expected);
        }
        let pinned = format!("x:tag@{DIGEST}");
        assert_eq!(
            canonical(&pinned),
            format!("docker.io/library/x:tag@{DIGEST}")
        );
        assert_eq!("foo/bar/baz".parse::<Reference>().unwrap().host(), "foo");
    }

    #[test]
    fn spellings_of_one_image_share_a_key() {
        let key = |text: &str| text.parse::<Reference>().unwrap().key();
        assert_eq!(key("x"), key("x:latest"));
        assert_eq!(key("x"), key("docker.io/x"));
        assert_eq!(key("x"), key("index.docker.io/library/x:latest"));
        assert_eq!(key(&format!("x:tag@{DIGEST}")), key(&format!("x@{DIGEST}")));
        assert_ne!(key("x:a"), key("x:b"));
        assert_ne!(key("other.example/x/y"), key("x/y"));
    }

    #[test]
    fn refuses_with_the_place() {
        let long = format!("x:{}", "a".repeat(129));
        for (text, offset, word) in [
            ("", 0, "empty"),
            ("https://x/y", 5, "scheme"),
            ("x:", 2, "tag is empty"),
            ("x@", 2, "digest"),
            ("x@sha256:00", 2, "digest"),
            ("a/B", 2, "lower-case"),
            ("Nginx", 0, "lower-case"),
            ("a//b", 2, "empty"),
            ("a.b/", 4, "empty"),
            ("/a", 0, "empty"),
            (":x", 0, "empty"),
            ("x y", 1, "' '"),
            ("x:a:b", 3, "':'"),
            ("x:-a", 2, "'-'"),
            ("a.b/../c", 4, "begin and end"),
            ("a.b/-x", 4, "begin and end"),
            ("host:99999/x", 5, "port"),
            ("host:/x", 5, "port"),
            ("ex ample.com/x", 2, "' '"),
            ("a..b/x", 0, "host name"),
            ("[::zz]:1/x", 1, "IPv6"),
            (&long, 2 + 128, "longer"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.offset, offset, "{error}");
            assert!(error.reason.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn canonical_strings_are_fixed_points(
            host in "([a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/)?",
            path in "[a-z0-9]{1,6}(/[a-z0-9]{1,6}([._-][a-z0-9]{1,4})?){0,3}",
            tag in "(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20})?",
            pinned: bool,
        ) {
            let digest = if pinned { format!("@{DIGEST}") } else { String::new() };
            let first: Reference = format!("{host}{path}{tag}{digest}").parse().unwrap();
            let again: Reference = first.canonical().parse().unwrap();
            prop_assert_eq!(&again, &first);
            prop_assert_eq!(again.key(), first.key());
            prop_assert_eq!(first.key().parse::<Reference>().unwrap().key(), first.key());
        }

        #[test]
        fn near_references_never_panic(text in "[a-zA-Z0-9:/@.\\[\\]_ -]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.canonical().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
