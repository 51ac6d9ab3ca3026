//! A layer's stream that must be exactly as long as its descriptor says.
//!
//! Enters: a stream and the size it should have. Leaves: the same bytes, or a [`SourceError`]
//! inside the [`io::Error`] of a read, naming image, layer and place. A server that sends without
//! end is stopped after `size` bytes; a short one is told apart from a damaged one.

use std::io::{self, Read};

use super::error::{SourceError, SourceErrorKind};
use crate::digest::Sha256;

pub(super) struct Exact {
    inner: Box<dyn Read + Send>,
    image: String,
    layer: Sha256,
    place: String,
    size: u64,
    offset: u64,
}

impl Exact {
    pub(super) fn new(
        inner: Box<dyn Read + Send>,
        image: &str,
        layer: Sha256,
        size: u64,
        place: String,
    ) -> Self {
        Self {
            inner,
            image: image.to_owned(),
            layer,
            place,
            size,
            offset: 0,
        }
    }

    fn error(&self, kind: SourceErrorKind) -> io::Error {
        io::Error::other(kind.of(self.image.clone()))
    }

    fn wrong_size(&self, is: String) -> io::Error {
        self.error(SourceErrorKind::Size {
            what: format!("layer {}", self.layer),
            place: self.place.clone(),
            is,
            wanted: self.size,
        })
    }

    /// Puts image and layer before what the stream below says.
    fn explain(&self, error: io::Error) -> io::Error {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<SourceError>())
        {
            return error;
        }
        let what = format!("layer {}", self.layer);
        self.error(match error.downcast() {
            // It names its place itself.
            Ok(error) => SourceErrorKind::Http { what, error },
            Err(error) => SourceErrorKind::Read {
                what,
                place: self.place.clone(),
                error,
            },
        })
    }
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = self.size - self.offset;
        // At the end one more byte is asked for: it must not be there.
        let mut beyond = [0];
        let target = match usize::try_from(left) {
            Ok(0) => &mut beyond[..],
            Ok(left) if left < buffer.len() => &mut buffer[..left],
            _ => buffer,
        };
        match self.inner.read(target) {
            Ok(0) if left > 0 => Err(self.wrong_size(self.offset.to_string())),
            Ok(0) => Ok(0),
            Ok(_) if left == 0 => Err(self.wrong_size("more".to_owned())),
            Ok(read) => {
                self.offset += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.explain(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &'static [u8], size: u64) -> io::Result<Vec<u8>> {
        let place = "http://r/v2/x/blobs/y".to_owned();
        let mut exact = Exact::new(Box::new(bytes), "r/x:1", Sha256::of(b"l"), size, place);
        let mut out = Vec::new();
        exact.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn the_length_must_be_right() {
        assert_eq!(read(b"abc", 3).unwrap(), b"abc");
        assert_eq!(read(b"", 0).unwrap(), b"");
        let short = read(b"ab", 3).unwrap_err().to_string();
        assert!(short.starts_with("image r/x:1: layer sha256:"), "{short}");
        assert!(
            short.ends_with("http://r/v2/x/blobs/y holds 2 bytes instead of 3"),
            "{short}"
        );
        assert!(
            read(b"abcd", 3)
                .unwrap_err()
                .to_string()
                .contains("holds more bytes instead of 3")
        );
    }
}
