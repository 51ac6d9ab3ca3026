//! Which boot of which machine this is, and whether a directory is this machine's alone.
//!
//! Two questions hang on it: whether an object may have lost bytes that were only in memory (see
//! [`crate::object`]), and whether a file lock taken elsewhere can be seen from here (see
//! [`crate::lease`]). Both are about the kernel, not the host name: containers share its page
//! cache and its locks, and share its boot id.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// File systems that one kernel at a time has mounted, so that its locks and its page cache are
/// all there is (`linux/magic.h`). FUSE, NFS, CIFS, 9p, virtiofs and cluster file systems are not.
const LOCAL: &[u32] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // ZFS
    0x794c_7630, // overlay, whose upper directory is one of the above
];

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    /// Differs between any two boots of any two machines.
    pub(crate) id: String,
    /// When it began, by today's reading of the clock; nanoseconds since 1970. A hint: clocks
    /// are set forwards and backwards, so nothing's soundness may hang on it.
    pub(crate) since_ns: i64,
}

impl Boot {
    /// Asks the kernel. Without `/proc` each process is taken for a boot of its own, which costs
    /// hashing and is never wrong.
    pub(crate) fn current() -> Self {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_graphic()))
            .unwrap_or_else(|| format!("{:032x}", random()));
        let up = clock_gettime(ClockId::Boottime);
        let up_ns = nanoseconds(up.tv_sec, up.tv_nsec);
        Self {
            id,
            since_ns: now_ns().saturating_sub(up_ns),
        }
    }

    /// Eight hex digits that stand for the boot in file names.
    pub(crate) fn short(&self) -> String {
        let hex = blake3::hash(self.id.as_bytes()).to_hex();
        hex[..8].to_owned()
    }
}

/// Returns nanoseconds since 1970 by the system's clock.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        })
}

/// Joins the two fields of a time stamp.
pub(crate) const fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// Returns a number that no other process comes up with.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Each state is seeded by the system and differs from the one before.
    RandomState::new().hash_one(std::process::id())
}

/// True when `directory` lies on a file system known to be this kernel's alone.
pub(crate) fn is_local(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|stat| {
        // 32 bits on every architecture, in a field whose sign and width differ.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let magic = stat.f_type as u32;
        LOCAL.contains(&magic)
    })
}
