//! A path inside a tree: relative, clean, and unable to leave its root.

use std::cmp::Ordering;
use std::fmt;

/// The longest path, in bytes (Linux's `PATH_MAX` less its NUL).
pub const PATH_MAX_BYTES: usize = 4095;
/// The longest component, in bytes (Linux's `NAME_MAX`).
pub const NAME_MAX_BYTES: usize = 255;

/// A relative path of clean components: never empty ones, `.`, `..` or NUL. The root is the
/// empty path. Bytes, as on Linux; UTF-8 is not asked for.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

/// Why bytes are not a path of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A `..` component.
    #[error("leaves the root (\"..\")")]
    Escape,
    /// A NUL byte.
    #[error("holds a NUL byte")]
    Nul,
    /// Longer than Linux can open.
    #[error("is longer than Linux allows")]
    TooLong,
}

impl TreePath {
    /// Cleans `raw`: leading `/`, `./` and doubled slashes vanish.
    ///
    /// # Errors
    /// For `..`, NUL, and lengths no Linux path can have.
    pub fn parse(raw: &[u8]) -> Result<Self, PathError> {
        let mut out = Vec::with_capacity(raw.len());
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::Escape),
                _ if component.contains(&0) => return Err(PathError::Nul),
                _ if component.len() > NAME_MAX_BYTES => return Err(PathError::TooLong),
                _ => {}
            }
            if !out.is_empty() {
                out.push(b'/');
            }
            out.extend_from_slice(component);
        }
        if out.len() > PATH_MAX_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(Self(out))
    }

    /// Wraps bytes that came out of a tree, which are clean.
    #[must_use]
    pub fn from_clean(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Returns the path's bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns true for the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `self/other`.
    #[must_use]
    pub fn join(&self, other: &[u8]) -> Self {
        Self(join(&self.0, other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Joins two clean paths.
#[must_use]
pub fn join(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + 1 + rest.len());
    out.extend_from_slice(prefix);
    if !prefix.is_empty() && !rest.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(rest);
    out
}

/// The order of trees: bytewise with `/` below every other byte, so that a directory is followed
/// by everything under it, without a gap.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let common = left.len().min(right.len());
    match left[..common]
        .iter()
        .zip(&right[..common])
        .position(|(a, b)| a != b)
    {
        None => left.len().cmp(&right.len()),
        Some(at) => match (left[at], right[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (a, b) => a.cmp(&b),
        },
    }
}

/// Returns the parent's path, or `None` for the root.
#[must_use]
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(
        path.iter()
            .rposition(|byte| *byte == b'/')
            .map_or(&[][..], |at| &path[..at]),
    )
}

/// Returns the last component.
#[must_use]
pub fn name(path: &[u8]) -> &[u8] {
    path.iter()
        .rposition(|byte| *byte == b'/')
        .map_or(path, |at| &path[at + 1..])
}

/// Returns true when `path` is `prefix` or lies under it.
#[must_use]
pub fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty()
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_and_refuses() {
        let clean = |raw: &[u8]| TreePath::parse(raw).map(|path| path.0);
        assert_eq!(clean(b"./a//b/"), Ok(b"a/b".to_vec()));
        assert_eq!(clean(b"/"), Ok(Vec::new()));
        assert_eq!(clean(b"a/../b"), Err(PathError::Escape));
        assert_eq!(clean(b"a\0b"), Err(PathError::Nul));
        assert_eq!(clean(&[b'a'; 256]), Err(PathError::TooLong));
    }

    #[test]
    fn subtrees_are_contiguous() {
        let mut paths: Vec<&[u8]> =
            vec![b"a-b", b"a/b", b"a", b"", b"a/b/c", b"b", b"a/b-c", b"a!"];
        paths.sort_by(|a, b| compare(a, b));
        let expected: Vec<&[u8]> = vec![b"", b"a", b"a/b", b"a/b/c", b"a/b-c", b"a!", b"a-b", b"b"];
        assert_eq!(paths, expected);
        assert!(is_under(b"a/b", b"a") && !is_under(b"a-b", b"a") && is_under(b"a", b""));
        assert_eq!(
            (parent(b"a/b"), parent(b"a"), parent(b"")),
            (Some(&b"a"[..]), Some(&b""[..]), None)
        );
        assert_eq!(name(b"a/b"), b"b");
    }
}
