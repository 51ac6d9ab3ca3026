//! A Debian binary package: the stream of its `data.tar`.
//!
//! Enters: the bytes of a `.deb` (deb(5)), once, in order. Leaves: the inflated `data.tar`, a layer
//! like any other; and, at the end, whether the whole file was the one the index names.
//! Maintainer scripts are in `control.tar`, which is read over: nothing of it is ever run.
//!
//! ```text
//! !<arch>\n                                  8 bytes
//! NAME............ MTIME UID GID MODE SIZE `\n   60 bytes, then SIZE bytes and one pad if odd
//!   debian-binary     "2.0\n"
//!   control.tar{,.gz,.xz,.zst}
//!   data.tar{,.gz,.xz,.zst}                  and nothing else, but unknown members are read over
//! ```
//!
//! The `ar` crate lends its entries from the archive, so that one cannot own both and hand out a
//! reader; the container is these few lines instead.

use std::io::{self, Read, Take};

use super::inflate::{Checked, Compression, Inflate};
use crate::digest::Sha256;

/// Length of an `ar` member's head, in bytes.
const HEAD: usize = 60;
/// Most members looked at before `data.tar`.
const MEMBERS: usize = 16;

/// Why a `.deb` has no `data.tar`.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not a package of format 2.
    #[error("byte {at}: {why}")]
    Malformed {
        /// Offset in the `.deb`.
        at: u64,
        /// What is wrong.
        why: String,
    },
}

/// The head of an `ar` member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, without padding and the final slash of some writers.
    pub name: String,
    /// Its length in bytes, without the pad.
    pub size: u64,
}

impl Member {
    /// Reads a head.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(head: &[u8; HEAD]) -> Result<Self, &'static str> {
        if &head[58..] != b"`\n" {
            return Err("not the head of an ar member");
        }
        let field = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&head[range]).map_or("", |text| text.trim_end_matches(' '))
        };
        let size = field(48..58);
        let size = match size.bytes().all(|byte| byte.is_ascii_digit()) {
            true => size
                .parse()
                .map_err(|_| "the size of an ar member is empty")?,
            false => return Err("the size of an ar member is not a number"),
        };
        let name = field(0..16);
        let name = name.strip_suffix('/').unwrap_or(name).to_owned();
        Ok(Self { name, size })
    }
}

/// The inflated `data.tar` of a package whose hash is known.
pub struct DataTar<R: Read> {
    tar: Inflate<Take<Checked<R>>>,
    sha256: Sha256,
    size: u64,
}

impl<R: Read> DataTar<R> {
    /// Reads up to the `data.tar` of a `.deb` that shall hash to `sha256` and be `size` bytes long.
    ///
    /// # Errors
    /// Streams that are not packages.
    pub fn open(reader: R, sha256: Sha256, size: u64) -> Result<Self, DebError> {
        let mut reader = Checked::new(reader);
        let mut at = 0;
        let fail = |at, why: &str| {
            Err(DebError::Malformed {
                at,
                why: why.to_owned(),
            })
        };
        let mut magic = [0; 8];
        reader.read_exact(&mut magic)?;
        if &magic != b"!<arch>\n" {
            return fail(0, "not an ar archive");
        }
        at += 8;
        for number in 0..MEMBERS {
            let mut head = [0; HEAD];
            reader.read_exact(&mut head)?;
            let member = match Member::parse(&head) {
                Ok(member) => member,
                Err(why) => return fail(at, why),
            };
            let padded = member.size + member.size % 2;
            if number == 0 {
                if member.name != "debian-binary" || member.size > 64 {
                    return fail(at, "the first member is not debian-binary");
                }
                let mut text = vec![0; usize::try_from(padded).unwrap_or(64)];
                reader.read_exact(&mut text)?;
                if !text.starts_with(b"2.") {
                    return fail(at, "not a package of format 2");
                }
            } else if member.name == "data.tar" || member.name.starts_with("data.tar.") {
                let compression = match member.name.as_str() {
                    "data.tar" => Compression::None,
                    name => match Compression::of_name(name) {
                        Some(compression) => compression,
                        None => {
                            return fail(at, &format!("the compression of {name} is not known"));
                        }
                    },
                };
                let tar = compression.inflate(reader.take(member.size))?;
                return Ok(Self { tar, sha256, size });
            } else {
                let skipped = io::copy(&mut (&mut reader).take(padded), &mut io::sink())?;
                if skipped < padded {
                    return fail(at, "it ends within a member");
                }
            }
            at += HEAD as u64 + padded;
        }
        fail(at, "no data.tar among the first members")
    }

    /// Reads what is left of the `.deb` and checks all of it. Call it after the tar's end, and
    /// trust nothing of the tar before it succeeds.
    ///
    /// # Errors
    /// A stream that was cut, or is not the one the index names.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self.tar, &mut io::sink())?;
        let mut member = self.tar.into_inner();
        io::copy(&mut member, &mut io::sink())?;
        if member.limit() != 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        member.into_inner().finish(self.sha256, self.size)
    }
}

impl<R: Read> Read for DataTar<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.tar.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// A package made by dpkg-deb.
    fn build(compression: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(
            root.join("DEBIAN/control"),
            "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n",
        )
        .unwrap();
        fs::write(root.join("DEBIAN/postinst"), "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(
            root.join("DEBIAN/postinst"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        fs::write(root.join("usr/bin/x"), vec![b'x'; 300_001]).unwrap();
        let deb = dir.path().join("x.deb");
        let output = Command::new("dpkg-deb")
            .args([&format!("-Z{compression}"), "--root-owner-group", "--build"])
            .args([&root, &deb])
            .output()
            .expect("dpkg-deb is there");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::read(deb).unwrap()
    }

    fn open(deb: &[u8]) -> Result<DataTar<&[u8]>, DebError> {
        DataTar::open(deb, Sha256::of(deb), deb.len() as u64)
    }

    #[test]
    fn reads_what_dpkg_deb_builds() {
        for compression in ["none", "gzip", "xz", "zstd"] {
            let deb = build(compression);
            let Ok(mut data) = open(&deb) else {
                panic!("{compression}");
            };
            let mut archive = tar::Archive::new(&mut data);
            let mut names = Vec::new();
            for entry in archive.entries().unwrap() {
                let entry = entry.unwrap();
                names.push((entry.path().unwrap().display().to_string(), entry.size()));
            }
            let names: Vec<_> = names
                .iter()
                .map(|(name, size)| (name.as_str(), *size))
                .collect();
            assert_eq!(
                names,
                [
                    ("./", 0),
                    ("./usr/", 0),
                    ("./usr/bin/", 0),
                    ("./usr/bin/x", 300_001)
                ]
            );
            data.finish().unwrap();
        }
    }

    #[test]
    fn tells_at_the_end_that_it_was_another() {
        let deb = build("xz");
        let other = Sha256::of(b"other");
        let data =
            DataTar::open(&deb[..], other, deb.len() as u64).unwrap_or_else(|e| panic!("{e}"));
        let error = data.finish().unwrap_err().to_string();
        assert!(error.contains("the index says"), "{error}");
        let mut more = deb.clone();
        more.push(b'\n');
        let data = DataTar::open(&more[..], Sha256::of(&deb), deb.len() as u64);
        assert!(data.unwrap_or_else(|e| panic!("{e}")).finish().is_err());
    }

    #[test]
    fn every_cut_is_an_error() {
        let deb = build("zstd");
        // Without its last byte, which may be padding, it is still whole, only another.
        for cut in 0..deb.len() - 1 {
            let cut = &deb[..cut];
            let result = DataTar::open(cut, Sha256::of(cut), cut.len() as u64).map(DataTar::finish);
            assert!(!matches!(result, Ok(Ok(()))), "cut at {}", cut.len());
        }
    }

    fn member(name: &str, size: &str, body: &[u8]) -> Vec<u8> {
        let mut out = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
            0, 0, 0, "100644"
        )
        .into_bytes();
        out.extend_from_slice(body);
        out.extend(std::iter::repeat_n(b'\n', body.len() % 2));
        out
    }

    #[test]
    fn refuses_other_containers() {
        let binary = member("debian-binary/", "4", b"2.0\n");
        let with = |rest: &[Vec<u8>]| [b"!<arch>\n".to_vec(), rest.concat()].concat();
        for (deb, why) in [
            (b"!<arch>\r not".to_vec(), "byte 0: not an ar archive"),
            (
                with(&[member("control.tar", "0", b"")]),
                "byte 8: the first member is not debian-binary",
            ),
            (
                with(&[member("debian-binary", "4", b"3.0\n")]),
                "byte 8: not a package of format 2",
            ),
            (
                with(&[member("debian-binary", "-4", b"2.0\n")]),
                "byte 8: the size of an ar member is not a number",
            ),
            (
                with(&[binary.clone(), member("data.tar.lzma", "0", b"")]),
                "byte 72: the compression of data.tar.lzma is not known",
            ),
            (
                with(&[binary.clone(), member("control.tar", "9999999999", b"")]),
                "byte 72: it ends within a member",
            ),
            (
                with(&[binary.clone(), [0; 60].to_vec()]),
                "byte 72: not the head of an ar member",
            ),
            (
                with(&[&[binary.clone()][..], &vec![member("x", "0", b""); 20]].concat()),
                "no data.tar among the first members",
            ),
        ] {
            let error = open(&deb).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let good = with(&[binary, member("data.tar", "3", b"abc")]);
        let mut text = String::new();
        open(&good)
            .unwrap_or_else(|e| panic!("{e}"))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "abc");
    }

    proptest! {
        #[test]
        fn members_round_trip(name in "[a-z.]{1,15}", size in 0..9_999_999_999_u64) {
            let head = member(&name, &size.to_string(), b"");
            let parsed = Member::parse(head[..].try_into().unwrap());
            prop_assert_eq!(parsed, Ok(Member { name, size }));
        }

        #[test]
        fn never_panics(head in prop::array::uniform32(any::<u8>()), tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = [b' '; HEAD];
            whole[..32].copy_from_slice(&head);
            whole[58..].copy_from_slice(b"`\n");
            let _ = Member::parse(&whole);
            let deb = [&b"!<arch>\n"[..], &member("debian-binary", "4", b"2.0\n"), &tail].concat();
            if let Ok(data) = open(&deb) {
                let _ = data.finish();
            }
        }
    }
}
