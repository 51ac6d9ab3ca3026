//! Mount options: words of a spec in, mount(2) flags, propagation and data out.
//!
//! Two readers share one table. config.json follows runc (`specconv/spec_linux.go`): clearing
//! words are remembered, since a bind is remounted when a flag is set *or* cleared. runtime.json
//! follows LinuxKit's `service` (GUEST contract), which makes a single mount(2) call.

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::error::{Error, Result};

/// Options of one mount, parsed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Flags to set (`bind`, `ro`, `nosuid`, …).
    pub(crate) flags: Flags,
    /// Flags that a word clears (`rw`, `suid`, …).
    pub(crate) cleared: Flags,
    /// Propagation changes, each a call of its own behind the mount.
    pub(crate) propagation: Vec<Propagation>,
    /// `MOUNT_ATTR_*` to set and to clear on the mount and all below it.
    pub(crate) recursive: (u64, u64),
    /// An id-mapped mount; true if all below it is mapped too.
    pub(crate) id_map: Option<bool>,
    /// What the file system itself understands, joined with commas.
    pub(crate) data: String,
}

/// `MS_*` bits.
pub(crate) type Flags = u32;

/// One `MS_SHARED`-like change.
pub(crate) type Propagation = u32;

/// `MS_BIND`.
pub(crate) const BIND: Flags = MountFlags::BIND.bits();
/// `MS_REC`.
pub(crate) const REC: Flags = MountPropagationFlags::REC.bits();
/// `MS_REMOUNT` (`include/uapi/linux/mount.h`).
pub(crate) const REMOUNT: Flags = 32;
/// `MS_NOSYMFOLLOW`.
const NOSYMFOLLOW: Flags = 256;
/// `MS_RDONLY`.
pub(crate) const RDONLY: Flags = MountFlags::RDONLY.bits();

/// What one word means.
enum Word {
    Set(Flags),
    Clear(Flags),
    Propagate(Propagation),
    /// Set and clear on everything below.
    Recursive(u64, u64),
    IdMap(bool),
    Nothing,
    Unsupported,
    Data,
}

fn word(word: &str) -> Word {
    use MountFlags as M;
    use MountPropagationFlags as P;
    let recursive = REC;
    match word {
        "bind" => Word::Set(BIND),
        "rbind" => Word::Set(BIND | REC),
        "remount" => Word::Set(REMOUNT),
        "ro" => Word::Set(RDONLY),
        "rw" => Word::Clear(RDONLY),
        "nosuid" => Word::Set(M::NOSUID.bits()),
        "suid" => Word::Clear(M::NOSUID.bits()),
        "nodev" => Word::Set(M::NODEV.bits()),
        "dev" => Word::Clear(M::NODEV.bits()),
        "noexec" => Word::Set(M::NOEXEC.bits()),
        "exec" => Word::Clear(M::NOEXEC.bits()),
        "sync" => Word::Set(M::SYNCHRONOUS.bits()),
        "async" => Word::Clear(M::SYNCHRONOUS.bits()),
        "dirsync" => Word::Set(M::DIRSYNC.bits()),
        "mand" => Word::Set(M::PERMIT_MANDATORY_FILE_LOCKING.bits()),
        "nomand" => Word::Clear(M::PERMIT_MANDATORY_FILE_LOCKING.bits()),
        "noatime" => Word::Set(M::NOATIME.bits()),
        "atime" => Word::Clear(M::NOATIME.bits()),
        "nodiratime" => Word::Set(M::NODIRATIME.bits()),
        "diratime" => Word::Clear(M::NODIRATIME.bits()),
        "relatime" => Word::Set(M::RELATIME.bits()),
        "norelatime" => Word::Clear(M::RELATIME.bits()),
        "strictatime" => Word::Set(M::STRICTATIME.bits()),
        "nostrictatime" => Word::Clear(M::STRICTATIME.bits()),
        "silent" => Word::Set(M::SILENT.bits()),
        "loud" => Word::Clear(M::SILENT.bits()),
        "private" => Word::Propagate(P::PRIVATE.bits()),
        "rprivate" => Word::Propagate(P::PRIVATE.bits() | recursive),
        "shared" => Word::Propagate(P::SHARED.bits()),
        "rshared" => Word::Propagate(P::SHARED.bits() | recursive),
        "slave" => Word::Propagate(P::DOWNSTREAM.bits()),
        "rslave" => Word::Propagate(P::DOWNSTREAM.bits() | recursive),
        "unbindable" => Word::Propagate(P::UNBINDABLE.bits()),
        "runbindable" => Word::Propagate(P::UNBINDABLE.bits() | recursive),
        "defaults" => Word::Nothing,
        "nosymfollow" => Word::Set(NOSYMFOLLOW),
        "symfollow" => Word::Clear(NOSYMFOLLOW),
        "idmap" => Word::IdMap(false),
        "ridmap" => Word::IdMap(true),
        "tmpcopyup" => Word::Unsupported,
        _ => recursive_word(word),
    }
}

/// Words with an `r` in front (`libc::MOUNT_ATTR_*`). When files say that they were read is one of
/// several values: the others have to be cleared with it (mount_setattr(2)).
fn recursive_word(word: &str) -> Word {
    let (set, clear) = match word {
        "rro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rrw" => (0, libc::MOUNT_ATTR_RDONLY),
        "rnosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "rsuid" => (0, libc::MOUNT_ATTR_NOSUID),
        "rnodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "rdev" => (0, libc::MOUNT_ATTR_NODEV),
        "rnoexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "rexec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "rnodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "rdiratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        "rrelatime" | "ratime" | "rnostrictatime" => (0, libc::MOUNT_ATTR__ATIME),
        "rnoatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
        "rstrictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
        // As in runc: whatever it is.
        "rnorelatime" => return Word::Nothing,
        "rnosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "rsymfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        _ => return Word::Data,
    };
    Word::Recursive(set, clear)
}

/// Parses the options of a mount; a later word beats an earlier one.
pub(crate) fn parse(options: &[String]) -> Result<Options> {
    let mut parsed = Options::default();
    let mut data = Vec::new();
    for option in options {
        match word(option) {
            Word::Set(flags) => {
                parsed.flags |= flags;
                parsed.cleared &= !flags;
            }
            Word::Clear(flags) => {
                parsed.flags &= !flags;
                parsed.cleared |= flags;
            }
            Word::Recursive(set, clear) => {
                let (all_set, all_clear) = parsed.recursive;
                parsed.recursive = (all_set & !clear | set, all_clear & !set | clear);
            }
            Word::IdMap(recursive) => parsed.id_map = Some(recursive),
            Word::Propagate(change) => parsed.propagation.push(change),
            Word::Nothing => {}
            Word::Unsupported => {
                return Err(Error::new(format!(
                    "mount option {option:?} is not supported"
                )));
            }
            Word::Data => data.push(option.as_str()),
        }
    }
    parsed.data = data.join(",");
    Ok(parsed)
}

impl Options {
    /// Returns whether the words ask for a bind.
    pub(crate) fn is_bind(&self) -> bool {
        self.flags & BIND != 0
    }

    /// Returns the value of `key=` among the file system's own options.
    pub(crate) fn data_value(&self, key: &str) -> Option<&str> {
        self.data
            .split(',')
            .filter_map(|item| item.split_once('='))
            .rfind(|(k, _)| *k == key)
            .map(|(_, value)| value)
    }
}

/// Returns the flags of `rootfsPropagation`; empty means recursive slave (runc's default).
pub(crate) fn root_propagation(value: &str) -> Result<Propagation> {
    match word(if value.is_empty() { "rslave" } else { value }) {
        Word::Propagate(change) => Ok(change),
        _ => Err(Error::new(format!(
            "linux.rootfsPropagation: unknown value {value:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn linuxkit_binds() {
        let o = parse(&strings(&["rw", "rbind", "rshared"])).unwrap();
        assert_eq!(o.flags, BIND | REC);
        assert_eq!(o.cleared, RDONLY);
        assert_eq!(o.propagation, [libc::MS_SHARED as u32 | REC]);
        assert_eq!(o.data, "");
    }

    #[test]
    fn flags_agree_with_the_c_library() {
        let all = [
            ("nosuid", libc::MS_NOSUID),
            ("nodev", libc::MS_NODEV),
            ("noexec", libc::MS_NOEXEC),
            ("ro", libc::MS_RDONLY),
            ("strictatime", libc::MS_STRICTATIME),
            ("relatime", libc::MS_RELATIME),
            ("noatime", libc::MS_NOATIME),
            ("nodiratime", libc::MS_NODIRATIME),
            ("remount", libc::MS_REMOUNT),
            ("rbind", libc::MS_BIND | libc::MS_REC),
            ("sync", libc::MS_SYNCHRONOUS),
            ("dirsync", libc::MS_DIRSYNC),
            ("mand", libc::MS_MANDLOCK),
            ("silent", libc::MS_SILENT),
        ];
        for (word, flag) in all {
            assert_eq!(
                u64::from(parse(&strings(&[word])).unwrap().flags),
                flag,
                "{word}"
            );
        }
        let changes = [
            ("rslave", libc::MS_SLAVE | libc::MS_REC),
            ("private", libc::MS_PRIVATE),
            ("shared", libc::MS_SHARED),
            ("unbindable", libc::MS_UNBINDABLE),
        ];
        for (word, flag) in changes {
            assert_eq!(u64::from(root_propagation(word).unwrap()), flag, "{word}");
        }
    }

    #[test]
    fn data_order_and_last_word_wins() {
        let o = parse(&strings(&[
            "ro",
            "mode=755",
            "rw",
            "size=65536k",
            "mode=700",
        ]))
        .unwrap();
        assert_eq!((o.flags, o.cleared), (0, RDONLY));
        assert_eq!(o.data, "mode=755,size=65536k,mode=700");
        assert_eq!(o.data_value("mode"), Some("700"));
        assert!(parse(&strings(&["tmpcopyup"])).is_err());
        let o = parse(&strings(&["rro", "rnoatime", "rrw", "ridmap"])).unwrap();
        let atime = libc::MOUNT_ATTR__ATIME;
        let clear = libc::MOUNT_ATTR_RDONLY | atime;
        assert_eq!(o.recursive, (libc::MOUNT_ATTR_NOATIME, clear));
        assert_eq!((o.flags, o.id_map, o.data.as_str()), (0, Some(true), ""));
        assert!(root_propagation("ro").is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_both_set_and_cleared(words in proptest::collection::vec("(no)?(suid|dev|exec|atime|mand|diratime|relatime|strictatime)|ro|rw|x=1", 0..12)) {
            let o = parse(&words).unwrap();
            prop_assert_eq!(o.flags & o.cleared, 0);
        }
    }
}
