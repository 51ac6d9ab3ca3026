//! Archives that come over a line, unpacked as their bytes arrive: pax and ustar (POSIX.1-2017,
//! pax, "ustar Interchange Format"), as the engine writes them.
//!
//! In: bytes in pieces of any size. Out: files below one directory, out of which neither names nor
//! links lead. Directories get their times at the end, when nothing is made in them any more.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::rootfs::{Inside, fd_path};

const BLOCK: usize = 512;
/// Longest pax header, in bytes: names and attributes of one file.
const RECORDS_BYTES_MAX: u64 = 1 << 20;

/// Unpacks one archive.
#[derive(Debug)]
pub(crate) struct Unpacker {
    inside: Inside,
    /// The directory of the last member: most have it in common.
    parent: Option<(PathBuf, OwnedFd)>,
    state: State,
    /// A block, or records, as far as they have come.
    gathered: Vec<u8>,
    records: Records,
    /// Times of directories, for the end.
    times: Vec<(PathBuf, Timespec)>,
}

#[derive(Debug)]
enum State {
    Header,
    /// Records of the next member: bytes of them, and of what fills their last block.
    Records(u64, u64),
    /// Bytes of a file, and of what fills its last block.
    Data(Option<Finish>, u64, u64),
    End,
}

/// A file that is being written, and what it is given at its end.
#[derive(Debug)]
struct Finish {
    file: File,
    member: Member,
}

/// What records say of the next member.
#[derive(Debug, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    time: Option<Timespec>,
    attributes: Vec<(CString, Vec<u8>)>,
}

#[derive(Debug)]
struct Member {
    path: PathBuf,
    link: PathBuf,
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    time: Timespec,
    device: (u32, u32),
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Unpacker {
    /// Unpacks into a directory, which is there.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            inside: Inside::open(directory)?,
            parent: None,
            state: State::Header,
            gathered: Vec::new(),
            records: Records::default(),
            times: Vec::new(),
        })
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header => {
                    if gather(&mut self.gathered, &mut bytes, BLOCK) {
                        let block = std::mem::take(&mut self.gathered);
                        self.header(&block)?;
                    }
                }
                State::Records(length, fill) => {
                    let (length, whole) = (*length as usize, (*length + *fill) as usize);
                    if gather(&mut self.gathered, &mut bytes, whole) {
                        let mut block = std::mem::take(&mut self.gathered);
                        block.truncate(length);
                        self.records.read(&block)?;
                        self.state = State::Header;
                    }
                }
                State::Data(finish, left, fill) => {
                    let length = (*left).min(bytes.len() as u64) as usize;
                    let (data, rest) = bytes.split_at(length);
                    if let Some(finish) = finish {
                        let written = finish.file.write_all(data);
                        written.context(|| finish.member.path.display())?;
                    }
                    *left -= length as u64;
                    let skipped = (*fill).min(rest.len() as u64) as usize;
                    bytes = &rest[skipped..];
                    if *left == 0 {
                        *fill -= skipped as u64;
                    }
                    if (*left, *fill) == (0, 0) {
                        self.end_file()?;
                    }
                }
                // Zeros, to a full record.
                State::End => break,
            }
        }
        Ok(())
    }

    /// Ends: everything has come.
    pub(crate) fn finish(mut self) -> Result<()> {
        if !matches!(self.state, State::End) {
            return Err(Error::new("the archive ends in the middle"));
        }
        self.times.reverse();
        for (path, time) in std::mem::take(&mut self.times) {
            let directory = self.inside.existing(&path);
            let directory = directory.context(|| path.display())?;
            set_time(&directory, Path::new(""), time)?;
        }
        Ok(())
    }

    fn header(&mut self, block: &[u8]) -> Result<()> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(());
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
        if octal(&block[148..156]) != Some(sum - own + 8 * u64::from(b' ')) {
            return Err(Error::new("not a tar archive, or a damaged one"));
        }
        let number = |range: std::ops::Range<usize>| {
            octal(&block[range]).ok_or_else(|| Error::new("not a number in a tar header"))
        };
        let small = |range| number(range).map(|number| number as u32);
        let size = number(124..136)?;
        let kind = block[156];
        if kind == b'x' {
            if size > RECORDS_BYTES_MAX {
                return Err(Error::new(format!("{size} bytes of attributes")));
            }
            self.state = State::Records(size, fill(size));
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        let name = match (text(&block[345..500]), text(&block[..100])) {
            ([], name) => name.to_vec(),
            (prefix, name) => [prefix, b"/", name].concat(),
        };
        let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let member = Member {
            path: path(records.path.unwrap_or(name)),
            link: path(
                records
                    .link
                    .unwrap_or_else(|| text(&block[157..257]).to_vec()),
            ),
            kind,
            mode: small(100..108)? & 0o7777,
            uid: records.uid.map_or_else(|| small(108..116), Ok)?,
            gid: records.gid.map_or_else(|| small(116..124), Ok)?,
            time: records.time.unwrap_or(Timespec {
                tv_sec: number(136..148)? as i64,
                tv_nsec: 0,
            }),
            device: (small(329..337)?, small(337..345)?),
            attributes: records.attributes,
        };
        let size = match kind {
            b'0' | 0 => records.size.unwrap_or(size),
            _ => 0,
        };
        let name = member.path.display().to_string();
        let file = self.make(member).context(|| name)?;
        self.state = State::Data(file, size, fill(size));
        if size == 0 {
            self.end_file()?;
        }
        Ok(())
    }

    /// Makes what a member is; of a file, its beginning.
    fn make(&mut self, member: Member) -> Result<Option<Finish>> {
        let Some(name) = member.path.file_name() else {
            // The directory itself.
            let own = self.inside.existing(Path::new(".")).context(|| "open")?;
            self.settle(&own, Path::new("."), &member)?;
            self.times.push((PathBuf::from("."), member.time));
            return Ok(None);
        };
        let parent = member.path.parent().unwrap_or(Path::new(""));
        if !matches!(&self.parent, Some((path, _)) if path == parent) {
            let directory = self.inside.directory(parent)?;
            self.parent = Some((parent.to_owned(), directory));
        }
        let Some((_, parent)) = &self.parent else {
            return Ok(None);
        };
        let mode = Mode::from_raw_mode(member.mode);
        match member.kind {
            b'0' | 0 => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
                let file = File::from(file.context(|| "make")?);
                return Ok(Some(Finish { file, member }));
            }
            b'1' => {
                let (to, file) = (&member.link, member.link.file_name());
                let file = file.ok_or_else(|| Error::new("a link to a directory"))?;
                let from = to.parent().unwrap_or(Path::new(""));
                let from = self.inside.existing(from).context(|| to.display())?;
                rustix::fs::linkat(&from, file, parent, name, AtFlags::empty())
                    .context(|| to.display())?;
                return Ok(None);
            }
            b'2' => rustix::fs::symlinkat(&member.link, parent, name),
            b'5' => match rustix::fs::mkdirat(parent, name, mode) {
                // A link, which what follows would go through, is in the way.
                Err(Errno::EXIST) if is_directory(parent, name) => Ok(()),
                made => made,
            },
            kind @ (b'3' | b'4' | b'6') => {
                let kind = match kind {
                    b'3' => FileType::CharacterDevice,
                    b'4' => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(member.device.0, member.device.1);
                rustix::fs::mknodat(parent, name, kind, mode, device)
            }
            kind => return Err(Error::new(format!("a tar member of type {kind}"))),
        }
        .context(|| "make")?;
        if member.kind == b'5' {
            self.times.push((member.path.clone(), member.time));
        }
        self.settle(parent, Path::new(name), &member)?;
        Ok(None)
    }

    fn end_file(&mut self) -> Result<()> {
        let State::Data(finish, ..) = std::mem::replace(&mut self.state, State::Header) else {
            return Ok(());
        };
        let (Some(Finish { file, member }), Some((_, parent))) = (finish, &self.parent) else {
            return Ok(());
        };
        drop(file);
        let name = member.path.file_name().unwrap_or_default();
        let settled = self.settle(parent, Path::new(name), &member);
        settled.context(|| member.path.display())
    }

    /// Gives what has been made its owner, mode, attributes and time.
    fn settle(&self, parent: &OwnedFd, name: &Path, member: &Member) -> Result<()> {
        let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), nofollow)
            .context(|| "owner")?;
        if member.kind != b'2' {
            let mode = Mode::from_raw_mode(member.mode);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).context(|| "mode")?;
        }
        let path = fd_path(parent).join(name);
        for (key, value) in &member.attributes {
            match rustix::fs::lsetxattr(&path, key.as_c_str(), value, XattrFlags::empty()) {
                // A file system in memory knows them from Linux 6.6 on.
                Err(Errno::OPNOTSUPP) if key.to_bytes().starts_with(b"user.") => {}
                set => set.context(|| key.to_string_lossy().into_owned())?,
            }
        }
        match member.kind {
            b'5' => Ok(()),
            _ => set_time(parent, name, member.time),
        }
    }
}

fn is_directory(parent: &OwnedFd, name: &std::ffi::OsStr) -> bool {
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn set_time(parent: &OwnedFd, name: &Path, time: Timespec) -> Result<()> {
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let (path, flags) = match name.as_os_str().is_empty() {
        // Opened as a path only: /proc leads to it.
        true => (fd_path(parent), AtFlags::empty()),
        false => (fd_path(parent).join(name), AtFlags::SYMLINK_NOFOLLOW),
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).context(|| "time")
}

/// Moves bytes until there are `wanted`; returns whether there are.
fn gather(gathered: &mut Vec<u8>, bytes: &mut &[u8], wanted: usize) -> bool {
    let missing = wanted.saturating_sub(gathered.len()).min(bytes.len());
    let (taken, rest) = bytes.split_at(missing);
    gathered.extend_from_slice(taken);
    *bytes = rest;
    gathered.len() >= wanted
}

/// Returns how many bytes fill the last block.
fn fill(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
    match digits {
        "" => Some(0),
        digits => u64::from_str_radix(digits, 8).ok(),
    }
}

impl Records {
    /// Reads records, each `LENGTH KEY=VALUE\n`.
    fn read(&mut self, mut bytes: &[u8]) -> Result<()> {
        let wrong = || Error::new("damaged attributes in a tar archive");
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ');
            let space = space.ok_or_else(wrong)?;
            let length = std::str::from_utf8(&bytes[..space]).ok();
            let length = length.and_then(|digits| digits.parse::<usize>().ok());
            let length = length.filter(|length| (space + 2..=bytes.len()).contains(length));
            let (record, rest) = bytes.split_at(length.ok_or_else(wrong)?);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or_else(wrong)?);
            self.set(key, &value[1..]).ok_or_else(wrong)?;
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let number = || std::str::from_utf8(value).ok();
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?.parse().ok()?),
            b"uid" => self.uid = Some(number()?.parse().ok()?),
            b"gid" => self.gid = Some(number()?.parse().ok()?),
            b"mtime" => self.time = Some(time(number()?)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let name = CString::new(unescaped(name)).ok()?;
                    self.attributes.push((name, value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// Reads `[-]SECONDS[.FRACTION]`.
fn time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = match fraction.len() {
        0..=9 => format!("{fraction:0<9}").parse().ok()?,
        _ => fraction.get(..9)?.parse().ok()?,
    };
    let seconds: i64 = whole.parse().ok()?;
    Some(match (whole.starts_with('-'), nanos) {
        (true, 1..) => Timespec {
            tv_sec: seconds.checked_sub(1)?,
            tv_nsec: 1_000_000_000 - nanos,
        },
        _ => Timespec {
            tv_sec: seconds,
            tv_nsec: nanos,
        },
    })
}

/// Undoes what keeps `=` out of a key: `%3D` for it, and `%25` for `%`.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        (rest, _) = match rest {
            [b'%', b'3', b'D', tail @ ..] => (tail, out.push(b'=')),
            [b'%', b'2', b'5', tail @ ..] => (tail, out.push(b'%')),
            _ => (tail, out.push(*first)),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::process::Command;

    fn unpack(bytes: &[u8], into: &Path, piece: usize) -> Result<()> {
        let mut unpacker = Unpacker::new(into)?;
        for bytes in bytes.chunks(piece) {
            unpacker.feed(bytes)?;
        }
        unpacker.finish()
    }

    /// What GNU tar makes of a directory.
    fn archive(directory: &Path) -> Vec<u8> {
        let tar = Command::new("tar")
            .args(["--format=pax", "--xattrs", "-C"])
            .arg(directory)
            .args(["-c", "."])
            .output();
        let tar = tar.expect("GNU tar makes this test's archive: install tar");
        assert!(
            tar.status.success(),
            "{}",
            String::from_utf8_lossy(&tar.stderr)
        );
        tar.stdout
    }

    /// Everything that can be said of a tree.
    fn list(directory: &Path) -> Vec<String> {
        let mut all = Vec::new();
        let mut left = vec![directory.to_owned()];
        while let Some(path) = left.pop() {
            let m = fs::symlink_metadata(&path).unwrap();
            if m.is_dir() {
                left.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
            let content = match (m.is_file(), m.is_symlink()) {
                (true, _) => format!("{:?} {}", fs::read(&path).unwrap(), m.nlink()),
                (_, true) => format!("{:?}", fs::read_link(&path).unwrap()),
                _ => String::new(),
            };
            all.push(format!(
                "{:?} {:o} {}:{} {}.{} {content}",
                path.strip_prefix(directory).unwrap(),
                m.mode(),
                m.uid(),
                m.gid(),
                m.mtime(),
                m.mtime_nsec()
            ));
        }
        all.sort();
        all
    }

    fn sample() -> tempfile::TempDir {
        let space = tempfile::tempdir().unwrap();
        let at = |name: &str| space.path().join(name);
        let long = format!("deep/{}/{}", "d".repeat(90), "f".repeat(120));
        fs::create_dir_all(at(&long).parent().unwrap()).unwrap();
        fs::write(at(&long), vec![7; 512]).unwrap();
        fs::write(at("empty"), "").unwrap();
        fs::write(at("program"), vec![9; 100_001]).unwrap();
        fs::set_permissions(at("program"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(at("program"), at("same")).unwrap();
        symlink("../x".repeat(40), at("link")).unwrap();
        fs::create_dir(at("old")).unwrap();
        fs::write(at("old/file"), "x").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1000, 250_000_000);
        fs::File::open(at("old"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        fs::set_permissions(at("old"), fs::Permissions::from_mode(0o1777)).unwrap();
        space
    }

    #[test]
    fn what_gnu_tar_packs_is_unpacked() {
        let from = sample();
        let bytes = archive(from.path());
        for piece in [1, 511, 512, 513, 65536] {
            let to = tempfile::tempdir().unwrap();
            unpack(&bytes, to.path(), piece).unwrap();
            assert_eq!(list(to.path()), list(from.path()));
        }
        let to = tempfile::tempdir().unwrap();
        let error = unpack(&bytes[..70_000], to.path(), 999).unwrap_err();
        assert_eq!(error.to_string(), "the archive ends in the middle");
        let mut damaged = bytes;
        damaged[3] ^= 1;
        assert!(unpack(&damaged, to.path(), 999).is_err());
    }

    #[test]
    fn nothing_leads_out() {
        let space = tempfile::tempdir().unwrap();
        let outside = space.path().join("outside");
        let from = space.path().join("from");
        fs::create_dir(&outside).unwrap();
        fs::create_dir_all(from.join("d")).unwrap();
        // A link, then what would be written through it.
        symlink(&outside, from.join("d/link")).unwrap();
        let first = archive(&from);
        fs::remove_file(from.join("d/link")).unwrap();
        fs::create_dir(from.join("d/link")).unwrap();
        fs::write(from.join("d/link/file"), "x").unwrap();
        let second = archive(&from);
        let to = tempfile::tempdir().unwrap();
        unpack(&first, to.path(), 512).unwrap();
        assert!(unpack(&second, to.path(), 512).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn times_and_names_of_records() {
        let of = |seconds, nanos| {
            Some(Timespec {
                tv_sec: seconds,
                tv_nsec: nanos,
            })
        };
        assert_eq!(time("1.25"), of(1, 250_000_000));
        assert_eq!(time("-1.5"), of(-2, 500_000_000));
        assert_eq!(time("-3"), of(-3, 0));
        assert_eq!(time("0.0000000019"), of(0, 1));
        assert_eq!(time("x"), None);
        assert_eq!(unescaped(b"user.a%3Db%25c%4"), b"user.a=b%c%4");
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(mut bytes: Vec<u8>, records: Vec<u8>, sum: bool) {
            let _ = Records::default().read(&records);
            let to = tempfile::tempdir().unwrap();
            bytes.resize(512, 0);
            if sum {
                bytes[148..156].fill(b' ');
                let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = unpack(&bytes, to.path(), 100);
        }
    }
}
