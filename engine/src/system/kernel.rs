//! What a kernel can read.
//!
//! Enters: a kernel's configuration. Leaves: the compressor for its initrd. Never a guess: where
//! the configuration is not known, gzip, which every kernel with an initrd reads.

use crate::format::Compressor;

/// Returns the best compressor that a kernel with this configuration (`/boot/config-*`, the
/// kernel's `.config`) can read.
#[must_use]
pub fn initrd_compressor(config: Option<&[u8]>) -> Compressor {
    let Some(config) = config else {
        return Compressor::Gzip;
    };
    let has = |option: &[u8]| {
        config
            .split(|byte| *byte == b'\n')
            .any(|line| line.trim_ascii_end() == option)
    };
    if has(b"CONFIG_RD_ZSTD=y") {
        Compressor::Zstd
    } else {
        Compressor::Gzip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zstd_only_when_the_configuration_says_so() {
        assert_eq!(
            initrd_compressor(Some(b"CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n")),
            Compressor::Zstd
        );
        assert_eq!(
            initrd_compressor(Some(b"# CONFIG_RD_ZSTD is not set\n")),
            Compressor::Gzip
        );
        assert_eq!(initrd_compressor(None), Compressor::Gzip);
    }
}
