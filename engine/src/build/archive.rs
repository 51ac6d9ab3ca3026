//! A part of the cache as a file: written for a CI provider's cache, and taken in again.
//!
//! Enters: what is wanted. Leaves: an archive (see [`kiln_cache::archive`]); or, from one, objects
//! and actions in the cache.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln_cache::{
    Cache, CacheError, ExportError, Exported, ImportError, ImportFailure, Imported, Key,
};

use super::reach::reach;
use super::{BuildError, Request, tiers};
use crate::event::{Event, Listener, Outcome, StepNumber};
use crate::format::assemble::Staged;
use crate::image_store::ExportTarget;
use crate::step::StepError;

/// What goes into an archive.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// What builds of these systems look up. All of them were built.
    Systems(&'a [Request]),
    /// What was made or used since then.
    Since(SystemTime),
    /// Everything.
    All,
}

const KIND: &str = "archive";
const STEP: StepNumber = StepNumber(0);

/// Writes an archive of the cache in `root`, which reads those in `from` as well.
///
/// # Errors
/// When a system was not built, the cache cannot be read or the target not written. A file that
/// was there is then as it was.
pub fn export_archive(
    root: &Path,
    from: &[PathBuf],
    selection: Selection<'_>,
    target: ExportTarget<'_>,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Exported, BuildError> {
    let cache = tiers::open(root, from, listener)?;
    let keys = selected(&cache, selection, listener, cancel)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let write = |path: &Path, out: &mut dyn Write| {
        let exported = under_way(listener, path, |progress| {
            let mut progress = |done| {
                progress(done);
                !cancel.load(Ordering::Relaxed)
            };
            cache.export(&keys, threads, out, &mut progress)
        });
        tiers::tell_troubles(&cache, listener);
        exported.map_err(|error| match error {
            ExportError::Cache(error) => BuildError::Cache(error),
            ExportError::Output(error) => BuildError::output(path)(error),
            ExportError::Cancelled => BuildError::Cancelled,
        })
    };
    match target {
        ExportTarget::Stream(stream) => write(Path::new("-"), stream),
        ExportTarget::File(path) => {
            let staged = Staged::create(path)?;
            let exported = write(path, &mut BufWriter::new(staged.file()))?;
            staged.publish()?;
            Ok(exported)
        }
    }
}

/// Takes in the archive that `source` is; errors call it `path`, `-` for standard input.
///
/// # Errors
/// When it is cut off or damaged, or the cache cannot be written to. What came before is kept.
pub fn import_archive(
    root: &Path,
    source: impl Read,
    path: &Path,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<Imported, BuildError> {
    let cache = Cache::open(root)?;
    let imported = under_way(listener, path, |progress| {
        let mut progress = |done| {
            progress(done);
            !cancel.load(Ordering::Relaxed)
        };
        cache.import(source, &mut progress)
    });
    imported.map_err(|error| import_failed(path, error))
}

fn import_failed(path: &Path, error: ImportError) -> BuildError {
    let text = error.to_string();
    let ImportError { imported, failure } = error;
    let hint = match failure {
        ImportFailure::Cancelled => return BuildError::Cancelled,
        ImportFailure::Cache(error) => return BuildError::Cache(error),
        ImportFailure::Input(_) | ImportFailure::Truncated { .. } => {
            "import the whole archive to go on from there"
        }
        ImportFailure::Newer { .. } => "use the kiln that made it",
        ImportFailure::NotAnArchive | ImportFailure::Damaged { .. } => "make the archive again",
    };
    let kept = match imported.actions + imported.objects {
        0 => String::new(),
        _ => format!(
            "; what came before is kept: {} steps, {} objects",
            imported.actions, imported.objects
        ),
    };
    let shown = match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    StepError::new(shown, format!("{text}{kept}"))
        .hint(hint)
        .into()
}

/// Shows work on the archive `path` as a step, the only one.
fn under_way<T, E>(
    listener: &dyn Listener,
    path: &Path,
    work: impl FnOnce(&mut dyn FnMut(u64)) -> Result<T, E>,
) -> Result<T, E> {
    let label = path.display().to_string();
    listener.event(&Event::Started {
        step: STEP,
        kind: KIND,
        label: label.clone(),
    });
    let began = Instant::now();
    let mut bytes = 0;
    let result = work(&mut |done| {
        bytes = done;
        listener.event(&Event::Progress {
            step: STEP,
            done,
            total: None,
        });
    });
    listener.event(&match result {
        Ok(_) => Event::Finished {
            step: STEP,
            kind: KIND,
            label,
            outcome: Outcome::Ran,
            duration: began.elapsed(),
            bytes,
        },
        Err(_) => Event::Failed {
            step: STEP,
            kind: KIND,
            label,
        },
    });
    result
}

fn selected(
    cache: &Cache,
    selection: Selection<'_>,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<BTreeSet<Key>, BuildError> {
    let mut keys = BTreeSet::new();
    match selection {
        Selection::Systems(requests) => {
            for request in requests {
                keys.extend(reach(request, cache, listener, cancel)?);
            }
        }
        Selection::All => cache.each_action(|key, action, _| {
            keys.extend(action.map(|_| key));
            Ok(())
        })?,
        Selection::Since(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            let since = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
            let mut used = last_uses(cache, listener)?;
            cache.each_action(|key, action, written| {
                if action.is_some() && (written >= since || used(&key)? >= Some(since)) {
                    keys.insert(key);
                }
                Ok(())
            })?;
        }
    }
    Ok(keys)
}

type LastUse<'c> = Box<dyn FnMut(&Key) -> Result<Option<i64>, CacheError> + 'c>;

/// Returns what tells when an action was last used, as far as the catalogue knows.
fn last_uses<'c>(cache: &'c Cache, listener: &dyn Listener) -> Result<LastUse<'c>, BuildError> {
    let catalogue = match cache.catalogue() {
        Ok(catalogue) => catalogue,
        Err(error @ (CacheError::CatalogueBusy(_) | CacheError::Unwritable { .. })) => {
            let text = format!("{error}; only what was made since then is taken");
            listener.event(&Event::Warning(text));
            return Ok(Box::new(|_| Ok(None)));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Box::new(move |key| {
        let known = catalogue.action(key)?;
        Ok(known.map(|known| known.last_use_ns))
    }))
}

/// Reads what [`import_archive`] recognises an archive by; returns it with the rest of the stream.
///
/// # Errors
/// When the stream cannot be read.
pub fn recognise<R: Read>(mut source: R) -> io::Result<(bool, impl Read + use<R>)> {
    let mut head = Vec::new();
    let wanted = kiln_cache::archive::RECOGNISED_BYTES as u64;
    source.by_ref().take(wanted).read_to_end(&mut head)?;
    let is_archive = kiln_cache::archive::is_archive(&head);
    Ok((is_archive, io::Cursor::new(head).chain(source)))
}
