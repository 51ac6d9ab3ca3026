//! Shell patterns as `modules.alias` uses them, matched without allocation or recursion.
//!
//! The language is fnmatch(3) with no flags: `*`, `?`, `[…]` with ranges and `!` or `^`, and `\`.
//! As in kmod (`libkmod-util.c`, `alias_normalize`), `-` is the same as `_` outside brackets.

/// Returns whether `text` is matched by `pattern`.
///
/// One remembered star makes it O(pattern × text) at worst, whatever the pattern.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        if let Some(next) = one(pattern, p, text[t]) {
            p = next;
            t += 1;
            continue;
        }
        match &mut star {
            Some((after, from)) if *from < text.len() => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            _ => return false,
        }
    }
}

/// Matches one byte; returns the pattern position behind what matched.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => match bracket(pattern, p + 1, byte) {
            Some((true, next)) => Some(next),
            Some((false, _)) => None,
            // An unclosed bracket is a plain character.
            None => (byte == b'[').then_some(p + 1),
        },
        b'\\' => {
            let literal = *pattern.get(p + 1)?;
            (fold(literal) == fold(byte)).then_some(p + 2)
        }
        literal => (fold(literal) == fold(byte)).then_some(p + 1),
    }
}

/// Evaluates a bracket that starts behind `[`: whether it holds the byte, and where it ends.
fn bracket(pattern: &[u8], mut p: usize, byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(p), Some(b'!' | b'^'));
    if negated {
        p += 1;
    }
    let first = p;
    let mut found = false;
    loop {
        let mut low = *pattern.get(p)?;
        if low == b']' && p > first {
            return Some((found != negated, p + 1));
        }
        if low == b'\\' {
            p += 1;
            low = *pattern.get(p)?;
        }
        p += 1;
        let mut high = low;
        if pattern.get(p) == Some(&b'-') && !matches!(pattern.get(p + 1), None | Some(b']')) {
            high = pattern[p + 1];
            p += 2;
            if high == b'\\' {
                high = *pattern.get(p)?;
                p += 1;
            }
        }
        found |= (low..=high).contains(&byte);
    }
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

/// Returns the part of an alias that names its bus: up to and with the first `:`.
///
/// Patterns without wildcard in that part can only match modaliases with the same one, which cuts
/// the comparisons for one device from thousands to its own bus's.
pub(crate) fn bus(alias: &[u8]) -> &[u8] {
    match alias.iter().position(|b| *b == b':') {
        Some(end) => &alias[..=end],
        None => b"",
    }
}

/// Returns whether an alias is a pattern rather than a plain text.
pub(crate) fn has_wildcard(alias: &[u8]) -> bool {
    alias
        .iter()
        .any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;

    #[test]
    fn real_aliases() {
        let virtio = b"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
        assert!(matches(b"pci:v00001AF4d*sv*sd*bc*sc*i*", virtio));
        assert!(!matches(b"pci:v00008086d*sv*sd*bc*sc*i*", virtio));
        assert!(matches(
            b"usb:v*p*d*dc*dsc*dp*ic03isc0[1-2]ip*in*",
            b"usb:v1p2d3dc4dsc5dp6ic03isc01ip9in0"
        ));
        assert!(matches(b"fs-ext4", b"fs_ext4"));
        assert!(matches(b"net-pf-17", b"net-pf-17"));
    }

    #[test]
    fn buses() {
        assert_eq!(bus(b"pci:v1"), b"pci:");
        assert_eq!(bus(b"fs-ext4"), b"");
        assert!(has_wildcard(bus(b"acpi*:LNRO0005:*")));
        assert!(!has_wildcard(b"platform:rtc_cmos"));
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = b"*a".repeat(200);
        assert!(!matches(&pattern, &b"a".repeat(150)));
    }

    proptest! {
        // Alphabet without '-' (which kmod folds) and without glibc's [:class:] inside brackets.
        #[test]
        fn as_fnmatch(pattern in r"([ab_1!^*?]|\\[ab\[*]|\[[!^]?[ab1_]{1,3}\]|\[[!]?a-[b1]\]|\[\]a\]){0,8}", text in r"[ab_1!^\[\]*]{0,10}") {
            let want = crate::sys::fnmatch(
                &CString::new(pattern.clone()).unwrap(),
                &CString::new(text.clone()).unwrap(),
            );
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{} on {}", pattern, text);
        }

        #[test]
        fn never_panics(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text);
            let _ = (bus(&pattern), has_wildcard(&pattern));
        }
    }
}
