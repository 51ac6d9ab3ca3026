//! Steps: a pure function of inputs, named by a key, done once.
//!
//! Enters: a root [`Step`]. Leaves: its result, and the graph that led there. A step says what it
//! needs, is asked again when that is there, and so the graph grows while it runs; when it needs
//! nothing more it gives its key and its work. [`scheduler`] does the rest.

mod bundles;
pub(crate) mod components;
pub mod debian;
mod engine;
pub mod generated;
pub mod image;
pub mod kernel;
pub mod layer;
pub(crate) mod layout;
mod modules;
pub mod root;
mod roots;
pub(crate) mod sbom;
pub mod scheduler;
pub(crate) mod segment;
pub(crate) mod services;
pub mod system;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_cache::{Action, Cache, CacheError, Digest, Key};

use crate::causes::causes;
use crate::event::{Event, Listener, StepNumber};
use crate::tree::{Tree, TreeError};

/// A node of the graph.
pub trait Step: Send + Sync {
    /// Returns the kind, a lower-case word.
    fn kind(&self) -> &'static str;
    /// Returns what people call it.
    fn label(&self) -> String;
    /// Returns the step's identity within a run: equal identities are one node.
    fn id(&self) -> Key;
    /// Says what is needed next. Called again, from the start, whenever all it asked for is there.
    ///
    /// # Errors
    /// When what is there shows that the step cannot be done.
    fn next(&self, got: &Results<'_>) -> Result<Next, StepError>;
}

/// An object of an [`Action`]: its role, name and size.
pub(crate) type Output = (String, Digest, u64);

/// Steps whose results are still needed.
pub type Need = Vec<Arc<dyn Step>>;

/// What can be known now: the value, or what is needed first.
pub type Known<T> = Result<Result<T, Need>, StepError>;

/// A step's next move.
pub enum Next {
    /// Results of other steps.
    Need(Vec<Arc<dyn Step>>),
    /// Nothing more: this is the key, and the work in case the cache does not know the key.
    Run(Task),
    /// The result itself, too cheap to keep.
    Done(Action),
}

/// Work, with the key that names its result.
pub struct Task {
    /// The key of the result.
    pub key: Key,
    /// Where the work runs.
    pub lane: Lane,
    /// Whether a cached result serves.
    pub reuse: Reuse,
    /// The work.
    pub work: Work,
}

/// The work of a step.
pub type Work = Box<dyn FnOnce(&Scope<'_>) -> Result<Action, StepError> + Send>;

/// Where work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The rayon pool.
    Cpu,
    /// A few threads of their own, for work that waits for other machines.
    Network,
}

/// Whether a cached result serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Always: the key says it all.
    Always,
    /// Not this time: the world may have moved on (`--pull`). The result replaces the old one.
    Refresh,
    /// Never kept: the inputs are files of the host, cheap to look at.
    Never,
}

/// What running work may use.
pub struct Scope<'a> {
    /// The cache.
    pub cache: &'a Cache,
    /// Set when the run is being given up.
    pub cancel: &'a AtomicBool,
    pub(crate) listener: &'a dyn Listener,
    pub(crate) step: StepNumber,
}

impl Scope<'_> {
    /// Tells how far the work is, in bytes.
    pub fn progress(&self, done: u64, total: Option<u64>) {
        self.listener.event(&Event::Progress {
            step: self.step,
            done,
            total,
        });
    }

    /// Tells people something that does not stop the build.
    pub fn warn(&self, message: String) {
        self.listener.event(&Event::Warning(message));
    }

    /// Returns true when the run is being given up.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// The results a step has asked for.
pub struct Results<'a> {
    pub(crate) find: &'a dyn Fn(&Key) -> Option<Arc<Action>>,
    /// The cache, for reading small results.
    pub cache: &'a Cache,
    /// Whoever listens, for warnings.
    pub listener: &'a dyn Listener,
    /// Nothing is asked but the cache and files of the host.
    pub(crate) is_recall: bool,
}

impl Results<'_> {
    /// Returns a step's result when it is there.
    #[must_use]
    pub fn get(&self, step: &dyn Step) -> Option<Arc<Action>> {
        (self.find)(&step.id())
    }

    /// Returns the results of all steps.
    ///
    /// # Errors
    /// The steps, for [`Next::Need`], when some of them have no result yet.
    pub fn all(&self, steps: &[Arc<dyn Step>]) -> Result<Vec<Arc<Action>>, Vec<Arc<dyn Step>>> {
        let found: Vec<_> = steps.iter().filter_map(|step| self.get(&**step)).collect();
        if found.len() == steps.len() {
            Ok(found)
        } else {
            Err(steps.to_vec())
        }
    }
}

/// Why a step failed: the cause, which step, and what people can do.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct StepError {
    /// What failed, in people's words: `image nginx:1`, `layer sha256:…`.
    pub context: String,
    /// The cause.
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
    /// What to do next.
    pub hint: Option<String>,
}

impl StepError {
    /// Wraps a cause with what failed.
    pub fn new(context: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            context: context.into(),
            cause: cause.into(),
            hint: None,
        }
    }

    /// Returns a closure for `map_err`.
    pub fn in_context<E: Into<Box<dyn Error + Send + Sync>>>(
        context: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let context = context.into();
        move |cause| Self::new(context, cause)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the object whose loss caused this, when that is what happened: its step can be
    /// done again.
    #[must_use]
    pub fn lost_object(&self) -> Option<Digest> {
        causes(&*self.cause).find_map(|error| match error.downcast_ref() {
            Some(CacheError::MissingObject(digest)) => Some(*digest),
            _ => None,
        })
    }
}

/// Returns the objects that made trees point into beyond those of the trees they were made from,
/// as outputs: nothing else keeps them.
pub(crate) fn own_packs(
    cache: &Cache,
    made: &[Digest],
    from: &[Digest],
) -> Result<Vec<Output>, TreeError> {
    let packs = |trees: &[Digest]| -> Result<BTreeSet<Digest>, TreeError> {
        let mut packs = BTreeSet::new();
        for tree in trees {
            packs.extend(Tree::open(cache, tree)?.packs());
        }
        Ok(packs)
    };
    let others = packs(from)?;
    packs(made)?
        .difference(&others)
        .map(|pack| {
            let size = cache.open_object(pack)?.len();
            Ok(("pack".to_owned(), *pack, size))
        })
        .collect()
}

/// A result that is one tree.
pub(crate) fn tree_action((tree, size): (Digest, u64)) -> Action {
    Action {
        outputs: vec![("tree".into(), tree, size)],
        ..Action::default()
    }
}
