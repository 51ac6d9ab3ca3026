//! kiln-init, the static PID 1 that `init: [kiln]` puts into a system, carried inside kiln.

include!(concat!(env!("OUT_DIR"), "/guest.rs"));

/// Returns kiln-init for an architecture in Go's spelling, when this kiln carries it.
pub(crate) fn for_architecture(architecture: &str) -> Option<&'static [u8]> {
    let mut all = GUESTS.iter();
    all.find(|(of, _)| *of == architecture)
        .map(|(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dynamic binary would need a loader that no system of kiln's has.
    #[test]
    fn the_carried_guest_is_a_static_elf() {
        assert_eq!(for_architecture("s390x"), None);
        for (architecture, bytes) in GUESTS {
            assert_eq!(for_architecture(architecture), Some(*bytes));
            is_a_static_elf(bytes);
        }
    }

    fn is_a_static_elf(bytes: &[u8]) {
        assert_eq!(&bytes[..5], b"\x7fELF\x02");
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let headers =
            usize::try_from(u64::from_le_bytes(bytes[32..40].try_into().unwrap())).unwrap();
        let (size, count) = (u16_at(54), u16_at(56));
        let interpreter = 3;
        for header in 0..count {
            assert_ne!(u32_at(headers + header * size), interpreter, "PT_INTERP");
        }
    }
}
