//! Leases: who is alive, and what the living use. Sweeping after the dead.
//!
//! A process that writes holds a lock on `leases/NAME` for as long as it has the cache open; its
//! temporary files are called `tmp/NAME.SERIAL`. The kernel drops the lock when the process ends,
//! in whatever way. The file lists the objects it relies on (`"kiln lease 1\n"`, then 32 bytes per
//! digest), which no collection may take.
//!
//! **Who is dead.** A lease file that can be locked belongs to the dead, and so do the temporary
//! files whose lease is gone (a lease is made before the first of them, and removed after the
//! last). The exception: locks of another machine may be invisible (NFS mounted with `nolock` or
//! `local_lock`, FUSE, 9p). NAME begins with the kernel's boot id, so leases of other boots are
//! recognised; on file systems that machines may share (all but a list of local ones), an
//! unlocked lease of another boot counts as dead only after a day without a write. Its age is
//! measured against a file just made there: by the server's clock, not ours.
//!
//! **Races.** Who makes a lease locks it and then looks whether its name still leads to it; who
//! sweeps one removes the name while holding the lock. So a lease swept between its making and
//! its locking is noticed and made again.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::boot::{self, Boot};
use crate::error::{CacheError, Result, is_stale};
use crate::lock::{self, leads_to};
use crate::{Cache, Digest};

const MAGIC: &[u8; 13] = b"kiln lease 1\n";

/// How long another machine's lease lives without a write when its lock cannot be trusted.
const FOREIGN_LIFE: Duration = Duration::from_hours(24);

/// The largest lease file read: two million digests.
const LEASE_BYTES_MAX: u64 = 64 << 20;

/// This process's lease; the lock goes when the file is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    name: String,
    path: PathBuf,
    file: File,
    held: Mutex<HashSet<Digest>>,
}

impl Lease {
    /// Makes and locks a lease under `root`.
    pub(crate) fn take(root: &Path, boot: &Boot) -> Result<Self> {
        let directory = root.join("leases");
        loop {
            let name = format!(
                "{}-{}-{:016x}",
                boot.short(),
                std::process::id(),
                boot::random()
            );
            let path = directory.join(&name);
            let mut file = match options().create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(&directory)
                        .map_err(|error| CacheError::unwritable(root, &directory, error))?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(CacheError::unwritable(root, &path, error)),
            };
            file.lock_shared().map_err(CacheError::io("lock", &path))?;
            if !leads_to(&path, &file) {
                continue;
            }
            file.write_all(MAGIC)
                .map_err(|error| CacheError::write(&path, MAGIC.len() as u64, error))?;
            return Ok(Self {
                name,
                path,
                file,
                held: Mutex::default(),
            });
        }
    }

    /// Returns the name its temporary files begin with.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `shared`: others must see it at once, on their machines, too.
    fn hold(&self, digests: &[Digest], shared: bool) -> Result<()> {
        let mut held = self
            .held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut new: Vec<_> = digests
            .iter()
            .filter(|digest| !held.contains(digest))
            .collect();
        new.sort_unstable();
        new.dedup();
        let bytes: Vec<u8> = new.iter().flat_map(|digest| *digest.as_bytes()).collect();
        let mut written = (&self.file).write_all(&bytes);
        if shared && written.is_ok() && !bytes.is_empty() {
            written = self.file.sync_data();
        }
        if let Err(error) = written {
            // Half a digest would shift all that follow.
            let whole = MAGIC.len() + 32 * held.len();
            let _ = self.file.set_len(whole as u64);
            return Err(CacheError::write(&self.path, bytes.len() as u64, error));
        }
        held.extend(new);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // While still locked. What cannot be removed now is swept later.
        let _ = fs::remove_file(&self.path);
    }
}

fn options() -> fs::OpenOptions {
    let mut options = File::options();
    // Writable even to look: NFS locks exclusively only what is open for writing.
    options.read(true).append(true);
    options
}

/// What is known about the owner of a lease.
enum Owner {
    Alive,
    /// With the lock of the lease file, when there was one.
    Dead(Option<File>),
}

struct Sweep<'a> {
    root: &'a Path,
    boot: String,
    /// Locks of other boots can be seen, or there is nobody who could hold them.
    local: bool,
    now: SystemTime,
}

impl Sweep<'_> {
    fn owner(&self, lease: &str) -> Owner {
        let path = self.root.join("leases").join(lease);
        let file = match options().open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Owner::Dead(None),
            Err(_) => return Owner::Alive,
        };
        if file.try_lock().is_err() {
            return Owner::Alive;
        }
        let ours = lease.split('-').next() == Some(&self.boot);
        if ours || self.local || self.is_old(&path) {
            Owner::Dead(Some(file))
        } else {
            Owner::Alive
        }
    }

    fn is_old(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| {
                self.now
                    .duration_since(modified)
                    .is_ok_and(|age| age > FOREIGN_LIFE)
            })
    }

    /// Removes the file of a key's lock that nobody holds; see [`crate::lock`].
    fn clear_lock(&self, path: &Path) {
        if let Ok(file) = lock::open(path, false)
            && file.try_lock().is_ok()
            && leads_to(path, &file)
            && (self.local || self.is_old(path))
        {
            let _ = fs::remove_file(path);
        }
    }

    /// Removes what the owner of `lease` left. What cannot be removed (another user's, say) stays
    /// for someone who can.
    fn clear(&self, lease: &str, files: &[PathBuf]) -> usize {
        let Owner::Dead(lock) = self.owner(lease) else {
            return 0;
        };
        let mut removed = 0;
        for file in files {
            if self.local || lock.is_some() || self.is_old(file) {
                removed += usize::from(remove(file).is_ok());
            }
        }
        if lock.is_some() {
            let _ = fs::remove_file(self.root.join("leases").join(lease));
        }
        removed
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // Nobody here makes directories in tmp/, but whoever does makes rubbish.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
        other => other,
    }
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}

/// Removes the leases and temporary files of the dead; returns how many temporary files went.
/// `own` is the lease of who sweeps: its age is the file system's idea of now.
pub(crate) fn sweep(root: &Path, boot: &Boot, local: bool, own: &Lease) -> usize {
    let now = own
        .file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let sweep = Sweep {
        root,
        boot: boot.short(),
        local,
        now,
    };
    let mut of: HashMap<String, Vec<PathBuf>> = HashMap::new();
    // Leases before files: a file that appears later is not looked at.
    for lease in names(&root.join("leases")) {
        of.entry(lease).or_default();
    }
    for name in names(&root.join("tmp")) {
        let lease = name.split('.').next().unwrap_or_default().to_owned();
        of.entry(lease)
            .or_default()
            .push(root.join("tmp").join(name));
    }
    of.remove(own.name());
    for name in names(&root.join("locks")) {
        sweep.clear_lock(&root.join("locks").join(name));
    }
    of.iter()
        .map(|(lease, files)| sweep.clear(lease, files))
        .sum()
}

impl Cache {
    /// Returns this process's lease, taking it (and sweeping after the dead) at the first call.
    pub(crate) fn lease(&self) -> Result<&Lease> {
        if let Some(lease) = self.lease.get() {
            return Ok(lease);
        }
        let lease = Lease::take(self.root(), &self.boot)?;
        let lease = self.lease.get_or_init(|| {
            sweep(self.root(), &self.boot, self.is_local(), &lease);
            lease
        });
        Ok(lease)
    }

    /// Declares that this process relies on these objects until it closes the cache: no
    /// collection takes them. To be called before looking whether they are there. Where the
    /// cache is read-only nothing is written: whoever may write there can take what is used here,
    /// and it is a miss.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn hold(&self, digests: &[Digest]) -> Result<()> {
        match self.lease() {
            Ok(lease) => lease.hold(digests, !self.is_local()),
            Err(CacheError::Unwritable { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns how many other processes are alive that have written to this cache.
    ///
    /// # Errors
    /// When this process cannot take a lease of its own.
    pub(crate) fn others(&self) -> Result<usize> {
        let own = self.lease()?;
        let now = own.file.metadata().and_then(|file| file.modified());
        let sweep = Sweep {
            root: self.root(),
            boot: self.boot.short(),
            local: self.is_local(),
            now: now.unwrap_or(SystemTime::UNIX_EPOCH),
        };
        let directory = self.root().join("leases");
        let alive = names(&directory)
            .filter(|name| name != own.name() && matches!(sweep.owner(name), Owner::Alive));
        Ok(alive.count())
    }

    /// Returns the objects that living processes rely on, this one included.
    ///
    /// # Errors
    /// When a lease cannot be read: then nothing is known to be free.
    pub fn held_objects(&self) -> Result<HashSet<Digest>> {
        let directory = self.root().join("leases");
        let mut held = HashSet::new();
        for name in names(&directory) {
            let path = directory.join(OsStr::new(&name));
            let file = match options().open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // Another user's: counts as alive if it can be read at all.
                Err(_) => File::open(&path).map_err(CacheError::io("open", &path))?,
            };
            let alive = match file.try_lock() {
                Ok(()) => name.split('-').next() != Some(&self.boot.short()) && !self.is_local(),
                Err(TryLockError::WouldBlock) => true,
                // Its owner ended on another machine.
                Err(TryLockError::Error(error)) if is_stale(&error) => false,
                Err(TryLockError::Error(error)) => {
                    return Err(CacheError::io("lock", &path)(error));
                }
            };
            if alive {
                let mut bytes = Vec::new();
                match file.take(LEASE_BYTES_MAX).read_to_end(&mut bytes) {
                    Err(error) if is_stale(&error) => continue,
                    other => other.map_err(CacheError::io("read", &path))?,
                };
                held.extend(listed(&bytes));
            }
        }
        Ok(held)
    }
}

/// Returns the digests a lease lists. A record cut short by a crash is the last one.
fn listed(bytes: &[u8]) -> impl Iterator<Item = Digest> {
    bytes
        .strip_prefix(MAGIC)
        .unwrap_or_default()
        .as_chunks::<32>()
        .0
        .iter()
        .map(|raw| Digest::from_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use proptest::prelude::*;

    use super::*;

    fn boot(id: &str) -> Boot {
        let id = id.to_owned();
        Boot { id, since_ns: 0 }
    }

    /// Leaves what a killed process of `id` leaves, `age` ago; returns the temporary file.
    fn leave(root: &Path, id: &str, age: Duration) -> PathBuf {
        let name = format!("{}-1-{:016x}", boot(id).short(), boot::random());
        let temporary = root.join("tmp").join(format!("{name}.0"));
        for path in [root.join("leases").join(&name), temporary.clone()] {
            let file = File::create(path).unwrap();
            let then = SystemTime::now() - age;
            file.set_times(FileTimes::new().set_modified(then)).unwrap();
        }
        temporary
    }

    #[test]
    fn the_dead_of_other_machines_need_a_day() {
        const HOUR: Duration = Duration::from_hours(1);
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        Cache::open(&root).unwrap();
        let own = Lease::take(&root, &boot("here")).unwrap();
        // Where another machine's locks may be invisible.
        let here = leave(&root, "here", Duration::ZERO);
        let young = leave(&root, "there", HOUR);
        let old = leave(&root, "there", 25 * HOUR);
        assert_eq!(sweep(&root, &boot("here"), false, &own), 2);
        assert!(!here.exists() && young.exists() && !old.exists());
        // Where there are no other machines: an earlier boot.
        assert_eq!(sweep(&root, &boot("here"), true, &own), 1);
        assert!(!young.exists());
        assert_eq!(
            names(&root.join("leases")).collect::<Vec<_>>(),
            [own.name()]
        );
    }

    #[test]
    fn what_the_living_hold_is_known() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("cache");
        let [one, two, three] = [b"1", b"2", b"3"].map(|bytes| Digest::of(bytes));
        let cache = Cache::open(&root).unwrap();
        let other = Cache::open(&root).unwrap();
        cache.hold(&[one, two, one]).unwrap();
        cache.hold(&[two]).unwrap();
        other.hold(&[three]).unwrap();
        let length = cache.lease().unwrap().file.metadata().unwrap().len();
        assert_eq!(length, 13 + 2 * 32);
        assert_eq!(other.held_objects().unwrap(), [one, two, three].into());
        drop(cache);
        assert_eq!(other.held_objects().unwrap(), [three].into());
    }

    proptest! {
        #[test]
        fn any_bytes_list_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(listed(&bytes).count(), 0);
            let mut lease = MAGIC.to_vec();
            lease.extend(&bytes);
            prop_assert_eq!(listed(&lease).count(), bytes.len() / 32);
        }
    }
}
