//! Merged `/usr`: what packages ship under `/bin`, `/sbin` and `/lib*` lives in `/usr`.
//!
//! Enters: paths of packages. Leaves: where they belong, and the links at the top. Debian of
//! bookworm requires merged `/usr`, but its packages still ship old paths, and rely on the links
//! that usrmerge or debootstrap made. Contents move, links stay: a path below a link is mapped
//! as the kernel would have resolved it.

use std::borrow::Cow;

use super::{Kind, Overlay};

/// Directories that became links: the old path, and where it leads.
const MOVED: [(&str, &str); 9] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
    ("libx32", "usr/libx32"),
    ("libo32", "usr/libo32"),
    ("var/run", "run"),
    ("var/lock", "run/lock"),
];

/// Maps a path of a package (relative, without `./` and final slash) to where it belongs. The
/// old directories themselves map to the new ones. Also for the targets of hard links; targets
/// of symbolic links stay as they are.
#[must_use]
pub fn map_path(path: &[u8]) -> Cow<'_, [u8]> {
    for (old, new) in MOVED {
        if let Some(rest) = path.strip_prefix(old.as_bytes())
            && (rest.is_empty() || rest[0] == b'/')
        {
            return Cow::Owned([new.as_bytes(), rest].concat());
        }
    }
    Cow::Borrowed(path)
}

/// Whether an entry is one of the links of merged `/usr` itself: later releases ship them in
/// base-files. Such an entry is dropped, since [`super::finish`] makes it.
#[must_use]
pub fn is_own_link(path: &[u8], kind: Kind) -> bool {
    kind == Kind::Symlink && MOVED.iter().any(|(old, _)| old.as_bytes() == path)
}

/// Adds the links at the top, where they lead somewhere.
pub(super) fn links(overlay: &mut Overlay<'_>) {
    for (old, new) in MOVED {
        if overlay.has(new.as_bytes()) && !old.contains('/') {
            overlay.link(old.as_bytes(), new.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn maps_what_moved_and_nothing_else() {
        for (from, to) in [
            ("bin", "usr/bin"),
            ("bin/sh", "usr/bin/sh"),
            (
                "lib/x86_64-linux-gnu/libc.so.6",
                "usr/lib/x86_64-linux-gnu/libc.so.6",
            ),
            (
                "lib64/ld-linux-x86-64.so.2",
                "usr/lib64/ld-linux-x86-64.so.2",
            ),
            ("library/x", "library/x"),
            ("libfoo", "libfoo"),
            ("usr/bin/sh", "usr/bin/sh"),
            ("var/run/x", "run/x"),
            ("var/runner", "var/runner"),
            ("etc/bin/sh", "etc/bin/sh"),
            ("", ""),
        ] {
            assert_eq!(map_path(from.as_bytes()), to.as_bytes(), "{from}");
        }
        assert!(is_own_link(b"bin", Kind::Symlink) && !is_own_link(b"bin", Kind::Directory));
        assert!(!is_own_link(b"bin/sh", Kind::Symlink));
    }

    proptest! {
        #[test]
        fn mapping_twice_is_mapping_once(path in "(bin|lib|lib64|var/run|usr|etc)(/[a-z]{0,3}){0,3}") {
            let once = map_path(path.as_bytes()).into_owned();
            prop_assert_eq!(map_path(&once).into_owned(), once);
        }
    }
}
