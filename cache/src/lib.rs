//! Content-addressed storage for a build engine: bytes and keys, nothing else.
//!
//! What is kept, in reading order: [`digest`] and [`key`] name things; [`layout`] is the directory;
//! [`object`] holds immutable bytes named by their content; [`record`] is the form of small files:
//! [`action`] says what a key produced; [`stamp`] is what an unchanged build reads, alone, and
//! [`file_stamp`] one file in it; [`build`] is what a system was made from.
//! [`tier`] is another cache that this one reads.
//! [`lock`] lets two processes do a step once; [`lease`] says who is alive and what they use.
//! [`archive`] carries a selection of it elsewhere.
//! [`walk`] and [`info`] look at all of it; [`spool`] and [`catalogue`] remember when it was used.
//! [`usage`] adds up who uses what, [`collect`] decides what goes, [`sweep`] removes it, and
//! [`verify`] reads it all.
//!
//! A crash at any moment leaves whole objects and whole records, and rubbish in `tmp/` that the
//! next process sweeps. Nothing in here knows Linux images, YAML or terminals.
//!
//! ```
//! use kiln_cache::{Action, Cache, KeyBuilder};
//! # let room = tempfile::tempdir()?;
//! # let directory = room.path().join("cache");
//! let cache = Cache::open(directory)?;
//! let key = KeyBuilder::new("upper", 1).field("text", "kiln").finish();
//! let lock = cache.lock_key(&key, |owner| eprintln!("waiting for process {owner}"))?;
//! let action = match cache.action(&key)? {
//!     Some(action) if cache.complete(&action) => action,
//!     _ => {
//!         let digest = cache.put(b"KILN")?;
//!         let outputs = vec![("text".into(), digest, 4)];
//!         let action = Action { kind: "upper".into(), outputs, ..Action::default() };
//!         cache.put_action(&key, &action)?;
//!         action
//!     }
//! };
//! let digest = action.output("text").expect("every upper has a text");
//! assert_eq!(cache.read(digest)?, b"KILN");
//! # drop(lock);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod action;
pub mod archive;
mod boot;
pub mod build;
pub mod catalogue;
pub mod collect;
pub mod digest;
pub mod error;
pub mod file_stamp;
pub mod info;
mod inventory;
pub mod key;
pub mod layout;
pub mod lease;
pub mod lock;
pub mod object;
pub mod record;
mod remove;
pub mod spool;
pub mod stamp;
pub mod sweep;
mod temporary;
pub mod tier;
pub mod usage;
pub mod verify;
pub mod walk;

pub use action::Action;
pub use archive::{ExportError, Exported, ImportError, ImportFailure, Imported};
pub use build::{Build, Built};
pub use catalogue::Catalogue;
pub use collect::{Collected, Limits};
pub use digest::Digest;
pub use error::CacheError;
pub use file_stamp::FileStamp;
pub use info::Info;
pub use key::{Key, KeyBuilder};
pub use layout::Cache;
pub use lock::{KeyLock, lock_file_unless};
pub use object::{Mapping, Object, ObjectWriter};
pub use stamp::{Stale, Stamp};
pub use sweep::{Loose, Swept};
pub use tier::TierError;
pub use usage::Usage;
pub use verify::{Damage, Verified};
pub use walk::Stored;
