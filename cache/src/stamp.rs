//! Stamps: what an unchanged build reads, alone.
//!
//! A stamp lists every file a build read and wrote, as `stat` sees it, and the optional inputs
//! that were not there. All equal means that the outputs are up to date. Files
//! `builds/KEY.stamp`; see [`crate::record`] for the head. Body:
//!
//! ```text
//! inputs    u32 count; files
//! absent    u32 count; path strings
//! outputs   u32 count; files
//! payload   string: the caller's own
//! file      path string, kind u8 (0 file, 1 directory), racy u8, mode u32, size u64,
//!           mtime i64 ns, ctime i64 ns, inode u64, digest 32
//! ```
//!
//! What makes the comparison of one file sound is told in [`crate::file_stamp`].

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::file_stamp::{Change, FileKind, FileStamp};
use crate::record::{self, Decoder, Encoder, Kind};
use crate::{Cache, Key, boot};

/// Which part of a build a stale file plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A file the build read.
    Input,
    /// An optional input that was not there.
    Absent,
    /// A file the build wrote.
    Output,
}

/// The first file found that differs from its stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is {change}", path.display())]
pub struct Stale {
    /// The file.
    pub path: PathBuf,
    /// The part it plays.
    pub role: Role,
    /// How it differs.
    pub change: Change,
}

/// Everything a finished build depends on and has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Files and directories that were read.
    pub inputs: Vec<FileStamp>,
    /// Optional inputs that were not there.
    pub absent: Vec<PathBuf>,
    /// Files that were written.
    pub outputs: Vec<FileStamp>,
    /// The caller's own small record.
    pub payload: Vec<u8>,
}

impl Stamp {
    /// Looks whether everything is as it was; costs one `stat` per file.
    ///
    /// # Errors
    /// The first file that differs: inputs first, then what was absent, then outputs.
    pub fn check(&self) -> std::result::Result<(), Stale> {
        for (role, files) in [(Role::Input, &self.inputs), (Role::Output, &self.outputs)] {
            for file in files {
                file.check().map_err(|change| Stale {
                    path: file.path.clone(),
                    role,
                    change,
                })?;
            }
            if role == Role::Input {
                self.check_absent()?;
            }
        }
        Ok(())
    }

    /// Like [`check`](Self::check), and clears the racy mark of files that were hashed and are
    /// old enough now. Returns true when any was: writing the stamp again saves the next check
    /// that work.
    ///
    /// # Errors
    /// The first file that differs.
    pub fn check_and_settle(&mut self) -> std::result::Result<bool, Stale> {
        let mut settled = false;
        for (role, files) in [
            (Role::Input, &mut self.inputs),
            (Role::Output, &mut self.outputs),
        ] {
            for file in files {
                let old_enough = file.check().map_err(|change| Stale {
                    path: file.path.clone(),
                    role,
                    change,
                })?;
                file.racy &= !old_enough;
                settled |= old_enough;
            }
        }
        self.check_absent()?;
        Ok(settled)
    }

    fn check_absent(&self) -> std::result::Result<(), Stale> {
        for path in &self.absent {
            let change = match fs::symlink_metadata(path) {
                Ok(_) => Change::Appeared,
                Err(error) => match Change::from(error) {
                    Change::Missing => continue,
                    other => other,
                },
            };
            return Err(Stale {
                path: path.clone(),
                role: Role::Absent,
                change,
            });
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        put_files(&mut out, &self.inputs);
        out.count(self.absent.len());
        for path in &self.absent {
            out.bytes(path.as_os_str().as_bytes());
        }
        put_files(&mut out, &self.outputs);
        out.bytes(&self.payload);
        out.finish()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut body = Decoder::new(body);
        let stamp = Self {
            inputs: body.list(get_file)?,
            absent: body.list(get_path)?,
            outputs: body.list(get_file)?,
            payload: body.bytes()?.to_vec(),
        };
        body.end(stamp)
    }
}

fn put_files(out: &mut Encoder, files: &[FileStamp]) {
    out.count(files.len());
    for file in files {
        out.bytes(file.path.as_os_str().as_bytes());
        out.u8(match file.kind {
            FileKind::File => 0,
            FileKind::Directory => 1,
        });
        out.u8(u8::from(file.racy));
        out.u32(file.mode);
        out.u64(file.size);
        out.i64(file.mtime_ns);
        out.i64(file.ctime_ns);
        out.u64(file.inode);
        out.digest(&file.digest);
    }
}

fn get_path(body: &mut Decoder<'_>) -> Option<PathBuf> {
    Some(PathBuf::from(OsStr::from_bytes(body.bytes()?)))
}

fn get_file(body: &mut Decoder<'_>) -> Option<FileStamp> {
    Some(FileStamp {
        path: get_path(body)?,
        kind: match body.u8()? {
            0 => FileKind::File,
            1 => FileKind::Directory,
            _ => return None,
        },
        racy: match body.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        },
        mode: body.u32()?,
        size: body.u64()?,
        mtime_ns: body.i64()?,
        ctime_ns: body.i64()?,
        inode: body.u64()?,
        digest: body.digest()?,
    })
}

/// Returns the file of a key under `builds/`.
pub(crate) fn slot(root: &Path, key: &Key, suffix: &str) -> PathBuf {
    root.join("builds").join(format!("{key}.{suffix}"))
}

impl Cache {
    /// Reads a stamp without opening the cache: one file, nothing else. A stamp that is absent,
    /// damaged or of another format is `None`: the build then takes the long way.
    #[must_use]
    pub fn read_stamp(root: &Path, key: &Key) -> Option<Stamp> {
        let bytes = record::read_file(&slot(root, key, "stamp")).ok()??;
        Stamp::decode(record::unseal(Kind::Stamp, key, &bytes)?)
    }

    /// Returns the stamp of an earlier build; see [`read_stamp`](Self::read_stamp).
    #[must_use]
    pub fn stamp(&self, key: &Key) -> Option<Stamp> {
        Self::read_stamp(self.root(), key)
    }

    /// Records a finished build, replacing an older stamp of the same key.
    ///
    /// # Errors
    /// When the stamp cannot be written or is larger than [`record::BODY_BYTES_MAX`].
    pub fn put_stamp(&self, key: &Key, stamp: &Stamp) -> Result<()> {
        let path = slot(self.root(), key, "stamp");
        self.put_record(Kind::Stamp, key, &path, &stamp.encode())
    }

    /// Returns the file that [`in_new_epoch`](Self::in_new_epoch) replaces. A stamp that lists it, or
    /// that it was not there, lasts until then.
    #[must_use]
    pub fn epoch_file(root: &Path) -> PathBuf {
        root.join("builds/epoch")
    }

    /// Changes what stamped builds took for granted, by other hands than theirs, and ends their
    /// stamps: before and after. After alone, a crash in between would leave them; before alone, a
    /// build could still read what was, and be stamped.
    ///
    /// # Errors
    /// Those of `change`, and when the epoch's file cannot be written.
    pub fn in_new_epoch<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        self.new_epoch()?;
        let changed = change()?;
        self.new_epoch()?;
        Ok(changed)
    }

    fn new_epoch(&self) -> Result<()> {
        let mut temporary = self.create_temporary()?;
        temporary.write(format!("{:016x}\n", boot::random()).as_bytes(), 0)?;
        temporary.publish(&Self::epoch_file(self.root()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::file_stamp::GRANULARITY_NS;
    use crate::{Digest, KeyBuilder};

    fn write(path: &Path, content: &str) {
        fs::write(path, content).unwrap();
    }

    fn stale(stamp: &Stamp) -> Change {
        stamp.check().unwrap_err().change
    }

    /// A stamp of one input, old enough to be trusted.
    fn settled(path: &Path) -> Stamp {
        let file = FileStamp::of_output(path, FileStamp::of(path).unwrap().digest).unwrap();
        assert!(!file.racy);
        Stamp {
            inputs: vec![file],
            ..Stamp::default()
        }
    }

    #[test]
    fn an_epoch_ends_the_stamps_that_list_it() {
        let room = tempfile::tempdir().unwrap();
        let cache = Cache::open(room.path()).unwrap();
        let file = Cache::epoch_file(room.path());
        let absent = Stamp {
            absent: vec![file.clone()],
            ..Stamp::default()
        };
        assert_eq!(absent.check(), Ok(()));
        cache.new_epoch().unwrap();
        assert_eq!(stale(&absent), Change::Appeared);
        let stamp = settled(&file);
        assert_eq!(stamp.check(), Ok(()));
        cache.new_epoch().unwrap();
        assert!(stamp.check().is_err());
    }

    #[test]
    fn every_change_is_told_apart() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("a.yml");
        write(&path, "one");
        let stamp = settled(&path);
        assert_eq!(stamp.check(), Ok(()));

        write(&path, "three");
        assert_eq!(stale(&stamp), Change::Size { was: 3, is: 5 });
        write(&path, "two");
        assert_eq!(stale(&stamp), Change::Modified);
        // Someone puts the old mtime back: ctime tells.
        let old =
            SystemTime::UNIX_EPOCH + Duration::from_nanos(stamp.inputs[0].mtime_ns.unsigned_abs());
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
        assert_eq!(stale(&stamp), Change::Modified);

        let stamp = settled(&path);
        let other = room.path().join("b.yml");
        write(&other, "two");
        fs::rename(&other, &path).unwrap();
        assert_eq!(stale(&stamp), Change::Replaced);
        fs::remove_file(&path).unwrap();
        assert_eq!(stale(&stamp), Change::Missing);
        fs::create_dir(&path).unwrap();
        assert_eq!(stale(&stamp), Change::Kind);

        let absent = Stamp {
            absent: vec![path.join("lock"), path.join("x/y")],
            ..Stamp::default()
        };
        assert_eq!(absent.check(), Ok(()));
        write(&path.join("lock"), "");
        assert_eq!(stale(&absent), Change::Appeared);
    }

    #[test]
    fn a_file_of_this_instant_is_hashed() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("a.yml");
        write(&path, "one");
        let (file, bytes) = FileStamp::read(&path, 3).unwrap();
        assert_eq!(bytes, b"one");
        assert!(FileStamp::read(&path, 2).is_err());
        assert!(file.racy);
        let mut stamp = Stamp {
            inputs: vec![file],
            ..Stamp::default()
        };
        // What a change within the tick looks like: all of stat equal, another content.
        let mut changed = stamp.clone();
        changed.inputs[0].digest = Digest::of(b"two");
        assert_eq!(stale(&changed), Change::Content);
        std::thread::sleep(Duration::from_nanos(GRANULARITY_NS.unsigned_abs()));
        assert_eq!(stale(&changed), Change::Content);
        assert_eq!(stamp.check_and_settle(), Ok(true));
        assert!(!stamp.inputs[0].racy);
        assert_eq!(stamp.check_and_settle(), Ok(false));
    }

    #[test]
    fn stamps_and_builds_are_apart() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        let key = KeyBuilder::new("build", 1).finish();
        let other = KeyBuilder::new("build", 2).finish();
        assert_eq!(Cache::read_stamp(&root, &key), None);
        assert!(!root.exists(), "reading a stamp makes nothing");
        let cache = Cache::open(&root).unwrap();
        let stamp = Stamp {
            inputs: vec![FileStamp::of(room.path()).unwrap()],
            absent: vec!["/nowhere".into()],
            outputs: vec![],
            payload: b"p".to_vec(),
        };
        cache.put_stamp(&key, &stamp).unwrap();
        let build = crate::Build::default();
        cache.put_build(&key, &build).unwrap();
        assert_eq!(Cache::read_stamp(&root, &key), Some(stamp));
        assert_eq!(cache.build(&key), Some(build));
        // A record under another's name is none.
        fs::rename(slot(&root, &key, "stamp"), slot(&root, &other, "stamp")).unwrap();
        assert_eq!(cache.stamp(&other), None);
        fs::rename(slot(&root, &other, "stamp"), slot(&root, &key, "build")).unwrap();
        assert_eq!(cache.build(&key), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(stamp) = Stamp::decode(&bytes) {
                prop_assert_eq!(stamp.encode(), bytes);
            }
        }

        #[test]
        fn encodes_what_it_decodes(
            path in proptest::collection::vec(any::<u8>(), 0..20),
            numbers in any::<(u32, u64, i64, i64, u64)>(),
            digest in any::<[u8; 32]>(),
            flags in any::<(bool, bool)>(),
            payload in proptest::collection::vec(any::<u8>(), 0..20),
            cut in any::<proptest::sample::Index>(),
        ) {
            let path = PathBuf::from(OsStr::from_bytes(&path));
            let file = FileStamp {
                path: path.clone(),
                kind: if flags.0 { FileKind::File } else { FileKind::Directory },
                mode: numbers.0,
                size: numbers.1,
                mtime_ns: numbers.2,
                ctime_ns: numbers.3,
                inode: numbers.4,
                digest: Digest::from_bytes(digest),
                racy: flags.1,
            };
            let stamp = Stamp {
                inputs: vec![file.clone(), file.clone()],
                absent: vec![path],
                outputs: vec![file],
                payload,
            };
            let bytes = stamp.encode();
            prop_assert_eq!(Stamp::decode(&bytes[..cut.index(bytes.len())]), None);
            prop_assert_eq!(Stamp::decode(&bytes), Some(stamp));
        }
    }
}
