//! Fetching blobs: steps that stream from a source into the cache, several at once.
//!
//! Enters: a source and what to fetch from it. Leaves: actions of kind `blob`; see
//! [`super::store`].

use std::sync::Arc;

use kiln_cache::{Action, Key, KeyBuilder};

use super::gather::Blob;
use super::store::{bare, blob_key, stream};
use crate::source::ImageSource;
use crate::step::{Lane, Need, Next, Results, Reuse, Step, StepError, Task};

/// Fetches one blob, unless the cache has it.
pub(crate) struct Fetch {
    pub(crate) source: Arc<dyn ImageSource>,
    pub(crate) name: String,
    pub(crate) blob: Blob,
}

impl Step for Fetch {
    fn kind(&self) -> &'static str {
        "blob"
    }

    fn label(&self) -> String {
        format!("{} {}", self.name, &self.blob.digest.hex()[..12])
    }

    fn id(&self) -> Key {
        blob_key(&self.blob.digest)
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (source, blob, name) = (self.source.clone(), self.blob, self.name.clone());
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("image {name}: blob {}", blob.digest);
                let input = source
                    .layer(&bare(blob.digest, blob.size))
                    .map_err(StepError::in_context(context.clone()))?;
                let progress = |done| scope.progress(done, Some(blob.size));
                stream(
                    scope.cache,
                    &blob.digest,
                    blob.size,
                    input,
                    scope.cancel,
                    &progress,
                )
                .map_err(StepError::in_context(context))
            }),
        }))
    }
}

/// Several steps as one; their objects, in order, are its result.
pub(crate) struct All(pub(crate) Need);

impl Step for All {
    fn kind(&self) -> &'static str {
        "images"
    }

    fn label(&self) -> String {
        "images".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("images", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        Ok(match got.all(&self.0) {
            Err(need) => Next::Need(need),
            Ok(done) => Next::Done(Action {
                outputs: done.iter().flat_map(|one| one.outputs.clone()).collect(),
                ..Action::default()
            }),
        })
    }
}
