//! Debian packages as a source.
