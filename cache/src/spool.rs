//! The spool: what builds tell the catalogue, appended to one small file by each.
//!
//! `index/HOST/spool` is a sequence of frames, each written by one `write` under an exclusive
//! lock:
//!
//! ```text
//! "kspl"      4 bytes
//! length      u32, of the body; at most [`FRAME_BYTES_MAX`]
//! checksum    first 8 bytes of blake3 of the body
//! body        see [`crate::build`]
//! ```
//!
//! Integers are little-endian. A frame cut short by a crash is skipped: reading goes on at the
//! next that checks. A spool that nobody folds in is renamed at [`SPOOL_BYTES_MAX`], taking the
//! place of the one before: thousands of builds later, what is lost is the order in which things
//! were last used, long ago.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{CacheError, Result};
use crate::lock::leads_to;
use crate::{Build, Cache, Digest};

const MAGIC: &[u8; 4] = b"kspl";
const HEAD_BYTES: usize = 16;

/// The largest frame: a build of 100,000 steps.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// The largest spool: 16 MiB.
pub const SPOOL_BYTES_MAX: u64 = 16 << 20;

/// How much is hashed in vain before the rest of a damaged spool is given up.
const WASTE_BYTES_MAX: usize = 256 << 20;

fn frame(body: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(body.len()).ok()?;
    if body.len() > FRAME_BYTES_MAX {
        return None;
    }
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend(MAGIC);
    out.extend(len.to_le_bytes());
    out.extend(&Digest::of(body).as_bytes()[..8]);
    out.extend(body);
    Some(out)
}

/// Returns the builds in a spool's bytes, passing over whatever is not a frame.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Build> {
    let mut builds = Vec::new();
    let mut wasted = 0;
    while let Some(start) = bytes.windows(4).position(|window| window == MAGIC) {
        bytes = &bytes[start..];
        match first(bytes) {
            Some((build, rest)) => {
                builds.push(build);
                bytes = rest;
            }
            None => {
                // A made-up spool could have us hash the same megabytes a million times.
                wasted += bytes.len().min(FRAME_BYTES_MAX);
                if wasted > WASTE_BYTES_MAX {
                    break;
                }
                bytes = &bytes[MAGIC.len()..];
            }
        }
    }
    builds
}

fn first(bytes: &[u8]) -> Option<(Build, &[u8])> {
    let (len, rest) = bytes.get(4..)?.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    if len > FRAME_BYTES_MAX {
        return None;
    }
    let (body, rest) = rest.split_at_checked(len)?;
    (Digest::of(body).as_bytes()[..8] == *sum).then_some(())?;
    Some((Build::decode(body)?, rest))
}

/// The file builds append to.
pub(crate) fn current(index: &Path) -> PathBuf {
    index.join("spool")
}

/// The one before it.
pub(crate) fn previous(index: &Path) -> PathBuf {
    index.join("spool.1")
}

/// Reads a spool that was renamed, waiting for whoever is still appending to it.
pub(crate) fn read(path: &Path) -> Result<Vec<Build>> {
    let file = match File::options().read(true).append(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CacheError::io("open", path)(error)),
    };
    file.lock().map_err(CacheError::io("lock", path))?;
    let mut bytes = Vec::new();
    let limit = SPOOL_BYTES_MAX + FRAME_BYTES_MAX as u64 + HEAD_BYTES as u64;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(CacheError::io("read", path))?;
    Ok(frames(&bytes))
}

/// Returns this host's directory under `index/`.
pub(crate) fn index(root: &Path) -> PathBuf {
    let host = rustix::system::uname();
    let host: String = host
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    // Never "", "." or "..".
    root.join("index").join(format!("{host}_"))
}

impl Cache {
    /// Tells the catalogue about a finished build: one append, no catalogue is opened.
    ///
    /// # Errors
    /// When the spool cannot be written. The build itself is not in danger: what is lost is the
    /// order in which a collection would prefer things.
    pub fn touch(&self, build: &Build) -> Result<()> {
        let index = index(self.root());
        let path = current(&index);
        let Some(frame) = frame(&build.encode()) else {
            return Err(CacheError::io("write", &path)(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                format!("a build record of more than {FRAME_BYTES_MAX} bytes"),
            )));
        };
        loop {
            let mut options = File::options();
            options.create(true).append(true);
            let mut file = match options.open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    fs::create_dir_all(&index)
                        .map_err(|error| CacheError::unwritable(self.root(), &index, error))?;
                    options.open(&path)
                }
                other => other,
            }
            .map_err(|error| CacheError::unwritable(self.root(), &path, error))?;
            file.lock().map_err(CacheError::io("lock", &path))?;
            if !leads_to(&path, &file) {
                continue; // folded in or renamed meanwhile
            }
            let len = file
                .metadata()
                .map_err(CacheError::io("stat", &path))?
                .len();
            if len > SPOOL_BYTES_MAX {
                fs::rename(&path, previous(&index)).map_err(CacheError::io("rename", &path))?;
                continue;
            }
            return file
                .write_all(&frame)
                .map_err(|error| CacheError::write(&path, frame.len() as u64, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Key;

    fn build(number: u8) -> Build {
        Build {
            at_ns: i64::from(number),
            duration_ns: 2,
            label: "x.yml".into(),
            actions: vec![Key::from_bytes([number; 32])],
            payload: MAGIC.to_vec(),
        }
    }

    #[test]
    fn a_spool_does_not_grow_for_ever() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path().join("cache")).unwrap();
        let big = Build {
            payload: vec![0; FRAME_BYTES_MAX - 100],
            ..Build::default()
        };
        for _ in 0..12 {
            cache.touch(&big).unwrap();
        }
        let index = index(cache.root());
        assert_eq!(fs::read_dir(&index).unwrap().count(), 2);
        assert_eq!(read(&previous(&index)).unwrap().len(), 5);
        assert_eq!(read(&current(&index)).unwrap().len(), 2);
        let bigger = Build {
            payload: vec![0; FRAME_BYTES_MAX],
            ..Build::default()
        };
        assert!(cache.touch(&bigger).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(frames(&bytes), []);
            Build::decode(&bytes);
        }

        #[test]
        fn damage_costs_the_damaged(
            at in any::<proptest::sample::Index>(),
            cut in any::<proptest::sample::Index>(),
            flip in 1_u8..,
        ) {
            let frames_of: Vec<_> = (0..5).map(|n| frame(&build(n).encode()).unwrap()).collect();
            let mut bytes = frames_of.concat();
            prop_assert_eq!(frames(&bytes).len(), 5);
            let cut = cut.index(bytes.len());
            prop_assert_eq!(frames(&bytes[..cut]).len(), cut / frames_of[0].len());
            prop_assert_eq!(frames(&bytes[cut..]).len(), 5 - cut.div_ceil(frames_of[0].len()));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let left = frames(&bytes);
            prop_assert_eq!(left.len(), 4);
            prop_assert!(left.iter().all(|it| *it == build(u8::try_from(it.at_ns).unwrap())));
        }
    }
}
