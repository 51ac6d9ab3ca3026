//! The catalogue: sizes, last use, reverse references, history. A sled database that can be
//! deleted at any time.
//!
//! Builds never open it: they append to the [`spool`]. Whoever wants to know opens
//! it and folds the spool in. It is **never the only copy** of anything but the order of use and
//! the history, and **never trusted for liveness**: damaged, sled may return fewer keys.
//!
//! `index/HOST/` (HOST, because one process at a time can hold it, and a host's lock is not seen
//! elsewhere):
//!
//! ```text
//! lock      taken by who has the catalogue open
//! state     "clean N", N = entries; "open N", N = how often in a row it was not closed; "making"
//! db/       sled 0.34
//! bad/      the last one that was set aside
//! spool…    see there
//! ```
//!
//! Trees, integers little-endian but where they are sorted:
//!
//! ```text
//! actions   key → last use i64 ns, output bytes u64, cost u64 ns, kind string, label string
//! objects   digest → size u64, last use i64 ns
//! users     digest ‖ key → ()      the actions an object belongs to
//! parents   key ‖ key → ()         the actions that took their inputs from the first
//! builds    at u64 big-endian ‖ 8 bytes of checksum → a build as in the spool
//! ```
//!
//! **Damage.** A `*.generating` snapshot that a kill inside sled's `open` leaves is removed before
//! the next (sled would read it). sled panics on some damage, and a release build aborts: so
//! `state` is written before, and who finds it left open twice in a row starts afresh. (Once may
//! have been a kill, which sled survives.) Closed well, the number of entries must be what it was.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{CacheError, Result};
use crate::lock;
use crate::record::{Decoder, Encoder};
use crate::spool;
use crate::walk::read_dir;
use crate::{Action, Build, Cache, Digest, Key};

/// How long to wait for a process that has the catalogue open; it holds it for moments.
const WAIT: Duration = Duration::from_secs(2);

/// sled's page cache, in bytes (its default is 1 GiB).
const CACHE_BYTES: u64 = 16 << 20;

/// How many builds the history keeps.
pub const HISTORY_MAX: usize = 1000;

/// How often in a row a catalogue may be left open by a killed process and be opened again.
const UNCLEAN_MAX: u32 = 1;

/// The open catalogue; closing it lets others in.
pub struct Catalogue<'a> {
    cache: &'a Cache,
    index: PathBuf,
    db: Option<Db>,
    rebuilt: Option<String>,
    /// Closed last.
    _lock: File,
}

struct Db {
    db: sled::Db,
    actions: sled::Tree,
    objects: sled::Tree,
    users: sled::Tree,
    parents: sled::Tree,
    builds: sled::Tree,
}

/// What the catalogue knows of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionEntry {
    /// When a build last relied on it, nanoseconds since 1970.
    pub last_use_ns: i64,
    /// The sizes of its outputs together, in bytes.
    pub bytes: u64,
    /// How long its work took, in nanoseconds.
    pub cost_ns: u64,
    /// Its kind of step.
    pub kind: String,
    /// What people call it.
    pub label: String,
}

/// What the catalogue knows of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Its size in bytes.
    pub size: u64,
    /// When a build last relied on an action it belongs to, nanoseconds since 1970.
    pub last_use_ns: i64,
}

impl ActionEntry {
    fn of(action: &Action, last_use_ns: i64) -> Self {
        Self {
            last_use_ns,
            bytes: action
                .outputs
                .iter()
                .map(|output| output.2)
                .fold(0, u64::saturating_add),
            cost_ns: action.cost_ns,
            kind: action.kind.clone(),
            label: action.label.clone(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.i64(self.last_use_ns);
        out.u64(self.bytes);
        out.u64(self.cost_ns);
        out.bytes(self.kind.as_bytes());
        out.bytes(self.label.as_bytes());
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Decoder::new(bytes);
        let entry = Self {
            last_use_ns: bytes.i64()?,
            bytes: bytes.u64()?,
            cost_ns: bytes.u64()?,
            kind: bytes.string()?,
            label: bytes.string()?,
        };
        bytes.end(entry)
    }
}

impl ObjectEntry {
    fn encode(self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.size);
        out.i64(self.last_use_ns);
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Decoder::new(bytes);
        let entry = Self {
            size: bytes.u64()?,
            last_use_ns: bytes.i64()?,
        };
        bytes.end(entry)
    }
}

impl Db {
    fn open(path: &Path) -> sled::Result<Self> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let until = Instant::now() + WAIT;
        let db = loop {
            match config.open() {
                // sled's threads may hold its own lock a moment longer than the last handle
                // lived; other processes are kept out by ours.
                Err(sled::Error::Io(error))
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => break other?,
            }
        };
        Ok(Self {
            actions: db.open_tree("actions")?,
            objects: db.open_tree("objects")?,
            users: db.open_tree("users")?,
            parents: db.open_tree("parents")?,
            builds: db.open_tree("builds")?,
            db,
        })
    }

    fn len(&self) -> usize {
        [
            &self.actions,
            &self.objects,
            &self.users,
            &self.parents,
            &self.builds,
        ]
        .map(sled::Tree::len)
        .iter()
        .sum()
    }

    /// Notes that `action` is there and was used then, or at a later time already known.
    fn put_action(&self, key: &Key, action: &Action, at_ns: i64) -> sled::Result<()> {
        let known = self.actions.get(key.as_bytes())?;
        let known = known.and_then(|bytes| ActionEntry::decode(&bytes));
        let at_ns = known.map_or(at_ns, |known| known.last_use_ns.max(at_ns));
        let entry = ActionEntry::of(action, at_ns);
        self.actions.insert(key.as_bytes(), entry.encode())?;
        for (_, digest, size) in &action.outputs {
            self.put_object(digest, *size, at_ns)?;
            self.users.insert(pair(digest.as_bytes(), key), &[])?;
        }
        for input in &action.edges {
            self.parents.insert(pair(input.as_bytes(), key), &[])?;
        }
        Ok(())
    }

    fn put_object(&self, digest: &Digest, size: u64, at_ns: i64) -> sled::Result<()> {
        let known = self.objects.get(digest.as_bytes())?;
        let known = known.and_then(|bytes| ObjectEntry::decode(&bytes));
        let last_use_ns = known.map_or(at_ns, |known| known.last_use_ns.max(at_ns));
        let entry = ObjectEntry { size, last_use_ns };
        self.objects.insert(digest.as_bytes(), entry.encode())?;
        Ok(())
    }

    fn put_build(&self, build: &Build) -> sled::Result<()> {
        let bytes = build.encode();
        let mut key = u64::try_from(build.at_ns)
            .unwrap_or(0)
            .to_be_bytes()
            .to_vec();
        // The same build folded in twice is one build.
        key.extend(&Digest::of(&bytes).as_bytes()[..8]);
        self.builds.insert(key, bytes)?;
        Ok(())
    }

    fn trim_history(&self) -> sled::Result<()> {
        for _ in HISTORY_MAX..self.builds.len() {
            self.builds.pop_min()?;
        }
        Ok(())
    }
}

fn pair(first: &[u8; 32], second: &Key) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(first);
    bytes[32..].copy_from_slice(second.as_bytes());
    bytes
}

fn keys_after(tree: &sled::Tree, prefix: &[u8; 32]) -> sled::Result<Vec<Key>> {
    let mut keys = Vec::new();
    for item in tree.scan_prefix(prefix).keys() {
        if let Some(key) = item?.get(32..).and_then(|tail| tail.try_into().ok()) {
            keys.push(Key::from_bytes(key));
        }
    }
    Ok(keys)
}

/// Runs what calls sled; a panic of its is an error like its others.
fn guarded<T>(index: &Path, body: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(sled::Error::Io(error))) if is_ours(&error) => {
            return Err(CacheError::write(&index.join("db"), 0, error));
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "sled panicked".to_owned(),
        },
    };
    Err(CacheError::Catalogue {
        path: index.to_owned(),
        reason,
    })
}

/// True when the disk or the permissions are at fault, not the database.
fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// What the file `state` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing to be trusted: absent, unreadable, or not finished.
    Making,
    Clean(usize),
    Open(u32),
}

impl State {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        match text.trim().split_once(' ') {
            Some(("clean", count)) => count.parse().map_or(Self::Making, Self::Clean),
            Some(("open", count)) => count.parse().map_or(Self::Making, Self::Open),
            _ => Self::Making,
        }
    }

    fn write(self, path: &Path) -> Result<()> {
        let text = match self {
            Self::Clean(count) => format!("clean {count}"),
            Self::Open(count) => format!("open {count}"),
            Self::Making => "making".to_owned(),
        };
        // One write over the old one, of fixed width: a kill leaves this or that.
        lock::open(path, true)
            .and_then(|mut file| file.write_all(format!("{text:<31}\n").as_bytes()))
            .map_err(|error| CacheError::write(path, 32, error))
    }
}

impl Cache {
    /// Opens the catalogue of this host, waiting some seconds for another process that has it,
    /// and folds in what builds have told. One that is missing or damaged is rebuilt.
    ///
    /// # Errors
    /// [`CacheError::CatalogueBusy`] when another process keeps it, or when it cannot be made.
    pub fn catalogue(&self) -> Result<Catalogue<'_>> {
        let index = spool::index(self.root());
        let lock = lock_index(self.root(), &index)?;
        let mut catalogue = Catalogue {
            cache: self,
            index,
            db: None,
            rebuilt: None,
            _lock: lock,
        };
        match catalogue.open_old().and_then(|()| catalogue.fold()) {
            // The database's fault. A full disk or an unreadable action is not.
            Err(error @ CacheError::Catalogue { .. }) => {
                catalogue.start_afresh(&error)?;
                catalogue.fold()?;
            }
            other => other?,
        }
        Ok(catalogue)
    }
}

fn lock_index(root: &Path, index: &Path) -> Result<File> {
    fs::create_dir_all(index).map_err(|error| CacheError::unwritable(root, index, error))?;
    let path = index.join("lock");
    let file =
        lock::open(&path, true).map_err(|error| CacheError::unwritable(root, &path, error))?;
    let until = Instant::now() + WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(CacheError::CatalogueBusy(path)),
            Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", &path)(error)),
        }
    }
}

impl Catalogue<'_> {
    fn path(&self) -> PathBuf {
        self.index.join("db")
    }

    fn state(&self) -> PathBuf {
        self.index.join("state")
    }

    fn damaged(&self, reason: &str) -> CacheError {
        CacheError::Catalogue {
            path: self.index.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Opens what is there; fails when there is nothing, or nothing to be trusted.
    fn open_old(&mut self) -> Result<()> {
        let state = State::read(&self.state());
        let unclean = match state {
            State::Making => return Err(self.damaged("not there, or not finished")),
            State::Open(count) if count > UNCLEAN_MAX => {
                return Err(self.damaged("left open again and again"));
            }
            State::Open(count) => count,
            State::Clean(_) => 0,
        };
        State::Open(unclean + 1).write(&self.state())?;
        for entry in read_dir(&self.path())?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".generating") {
                let path = entry.path();
                fs::remove_file(&path).map_err(CacheError::io("remove", &path))?;
            }
        }
        let db = guarded(&self.index, || Db::open(&self.path()))?;
        let len = guarded(&self.index, || Ok(db.len()))?;
        if let State::Clean(was) = state
            && was != len
        {
            return Err(self.damaged("entries are missing"));
        }
        self.db = Some(db);
        Ok(())
    }

    /// Sets aside what is there and rebuilds from the files. The history goes with it.
    fn start_afresh(&mut self, why: &CacheError) -> Result<()> {
        self.db = None;
        let path = self.path();
        if path.exists() {
            let bad = self.index.join("bad");
            let _ = fs::remove_dir_all(&bad);
            fs::rename(&path, &bad).map_err(CacheError::io("set aside", &path))?;
        }
        State::Making.write(&self.state())?;
        self.db = Some(guarded(&self.index, || Db::open(&path))?);
        self.rebuilt = Some(why.to_string());
        self.rebuild()?;
        self.ask(|db| db.db.flush().map(drop))?;
        State::Open(1).write(&self.state())
    }

    fn ask<T>(&self, body: impl FnOnce(&Db) -> sled::Result<T>) -> Result<T> {
        let db = self.db.as_ref().expect("open while it exists");
        guarded(&self.index, || body(db))
    }

    /// Folds in the spools. Killed in between, they are folded in again: nothing counts twice.
    fn fold(&self) -> Result<()> {
        let folding = self.index.join("spool.folding");
        self.fold_file(&folding)?;
        self.fold_file(&spool::previous(&self.index))?;
        // Renamed first: from here on builds append to a new one.
        if fs::rename(spool::current(&self.index), &folding).is_ok() {
            self.fold_file(&folding)?;
        }
        Ok(())
    }

    fn fold_file(&self, path: &Path) -> Result<()> {
        let builds = spool::read(path)?;
        let mut used = std::collections::HashMap::new();
        for build in &builds {
            for key in &build.actions {
                let at = used.entry(*key).or_insert(build.at_ns);
                *at = build.at_ns.max(*at);
            }
        }
        for (key, at_ns) in used {
            // One that is gone is no use to anybody.
            if let Some(action) = self.cache.own_action(&key)? {
                self.ask(|db| db.put_action(&key, &action, at_ns))?;
            }
        }
        self.ask(|db| {
            for build in &builds {
                db.put_build(build)?;
            }
            db.trim_history()?;
            db.db.flush().map(drop)
        })?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CacheError::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes the catalogue equal to the files: adds what it lacks, removes what is gone, keeps
    /// what it knows of use. Things without a known use count as used when they were written.
    ///
    /// # Errors
    /// When the files cannot be walked or the database fails.
    pub fn rebuild(&self) -> Result<()> {
        self.forget_gone()?;
        self.cache.each_action(|key, action, since_ns| {
            if let Some(action) = action {
                self.ask(|db| db.put_action(&key, &action, since_ns))?;
            }
            Ok(())
        })?;
        self.cache.each_object(|object| {
            self.ask(|db| db.put_object(&object.digest, object.size, object.since_ns))
        })
    }

    /// Removes what is gone.
    pub(crate) fn forget_gone(&self) -> Result<()> {
        self.ask(|db| {
            let gone = |key: &[u8]| {
                let key = key.get(32..).and_then(|tail| tail.try_into().ok());
                key.is_none_or(|key| !self.cache.action_path(&Key::from_bytes(key)).exists())
            };
            for tree in [&db.users, &db.parents] {
                for key in tree.iter().keys() {
                    let key = key?;
                    if gone(&key) {
                        tree.remove(key)?;
                    }
                }
            }
            for key in db.actions.iter().keys() {
                let key = key?;
                let known = key[..].try_into().map(Key::from_bytes);
                if known.is_ok_and(|known| !self.cache.action_path(&known).exists()) {
                    db.actions.remove(key)?;
                }
            }
            for key in db.objects.iter().keys() {
                let key = key?;
                let known = key[..].try_into().map(Digest::from_bytes);
                if known.is_ok_and(|known| !self.cache.object_path(&known).exists()) {
                    db.objects.remove(key)?;
                }
            }
            Ok(())
        })
    }

    /// Returns why the catalogue was made anew when it was opened, when it was: the history and
    /// the order of use begin now.
    #[must_use]
    pub fn rebuilt(&self) -> Option<&str> {
        self.rebuilt.as_deref()
    }

    /// Returns what is known of an action.
    ///
    /// # Errors
    /// When the database fails.
    pub fn action(&self, key: &Key) -> Result<Option<ActionEntry>> {
        let bytes = self.ask(|db| db.actions.get(key.as_bytes()))?;
        Ok(bytes.and_then(|bytes| ActionEntry::decode(&bytes)))
    }

    /// Returns what is known of an object.
    ///
    /// # Errors
    /// When the database fails.
    pub fn object(&self, digest: &Digest) -> Result<Option<ObjectEntry>> {
        let bytes = self.ask(|db| db.objects.get(digest.as_bytes()))?;
        Ok(bytes.and_then(|bytes| ObjectEntry::decode(&bytes)))
    }

    /// Returns the actions that an object is an output of, in the order of their keys.
    ///
    /// # Errors
    /// When the database fails.
    pub fn users(&self, digest: &Digest) -> Result<Vec<Key>> {
        self.ask(|db| keys_after(&db.users, digest.as_bytes()))
    }

    /// Returns the actions that took inputs from this one, in the order of their keys.
    ///
    /// # Errors
    /// When the database fails.
    pub fn parents(&self, key: &Key) -> Result<Vec<Key>> {
        self.ask(|db| keys_after(&db.parents, key.as_bytes()))
    }

    /// Returns the newest `max` builds, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn history(&self, max: usize) -> Result<Vec<Build>> {
        let bodies: Vec<_> = self.ask(|db| db.builds.iter().values().rev().take(max).collect())?;
        Ok(bodies
            .iter()
            .filter_map(|body| Build::decode(body))
            .collect())
    }

    /// Closes the catalogue; dropping it does the same, and hides the error.
    ///
    /// # Errors
    /// When it cannot be flushed. The next who opens it will look twice.
    pub fn close(mut self) -> Result<()> {
        self.shut()
    }

    fn shut(&mut self) -> Result<()> {
        let Some(db) = self.db.take() else {
            return Ok(());
        };
        let len = guarded(&self.index, || {
            db.db.flush()?;
            let len = db.len();
            drop(db); // sled's last writes are in here
            Ok(len)
        })?;
        State::Clean(len).write(&self.state())
    }
}

impl Drop for Catalogue<'_> {
    fn drop(&mut self) {
        let _ = self.shut();
    }
}
