//! Stamps: what an unchanged build reads, alone.
//!
//! A stamp lists every file a build read and wrote, as `stat` sees it. All equal means that the
//! outputs are up to date. It is a file `builds/KEY`, self-checksummed like an action.
