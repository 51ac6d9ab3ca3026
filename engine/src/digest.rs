//! SHA-256 digests, the names OCI and Debian give to bytes.
//!
//! Enters: text (`sha256:…` or bare hex) or bytes. Leaves: a checked 32-byte value. kiln's own
//! names are BLAKE3 ([`kiln_cache::Digest`]); SHA-256 stays at the border.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::Digest as _;

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A SHA-256 digest; prints as `sha256:HEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

/// Text that is not a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a sha256 digest (sha256: and 64 lower-case hex digits)")]
pub struct ParseSha256Error(String);

impl Sha256 {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Returns the digest of all that `input` gives; `gave_up` is asked now and then.
    ///
    /// # Errors
    /// When it cannot be read, or the caller has given up.
    pub(crate) fn of_reader(mut input: impl Read, gave_up: &dyn Fn() -> bool) -> io::Result<Self> {
        let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; BUFFER_BYTES]);
        loop {
            if gave_up() {
                return Err(io::Error::other("given up"));
            }
            match input.read(&mut buffer) {
                Ok(0) => return Ok(Self(hasher.finalize().into())),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Wraps a finished digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the raw digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 lower-case hex digits, without the `sha256:` prefix.
    ///
    /// # Errors
    /// When `text` is anything else.
    pub fn from_hex(text: &str) -> Result<Self, ParseSha256Error> {
        let bad = || ParseSha256Error(text.chars().take(80).collect());
        if text.len() != 64 {
            return Err(bad());
        }
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut out = [0; 32];
        for (slot, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(bad());
            };
            *slot = high << 4 | low;
        }
        Ok(Self(out))
    }

    /// Returns the 64 hex digits without prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Sha256 {
    type Err = ParseSha256Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Self::from_hex(hex),
            None => Err(ParseSha256Error(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses() {
        let digest = Sha256::of(b"kiln");
        assert_eq!(digest.to_string().parse::<Sha256>(), Ok(digest));
        for bad in [
            "",
            "sha256:",
            "sha256:00",
            "md5:00",
            &digest.hex().to_uppercase(),
        ] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
        assert!(Sha256::from_hex(&"é".repeat(32)).is_err());
    }
}
