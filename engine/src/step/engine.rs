//! Images of a Docker engine: is there one, and what manifest is it.
//!
//! Enters: an [`Image`] with an engine. Leaves: `docker` (value `id`, empty when the engine has
//! none), asked every time; and `docker-save` (objects `manifest` and `config`, value `manifest`),
//! which the id names: what the cache knows of an id is not fetched again.

use std::sync::Arc;

use kiln_cache::{Action, Key, KeyBuilder};

use super::image::{Image, documents};
use super::{Known, Lane, Next, Results, Reuse, Step, StepError, Task};
use crate::digest::Sha256;
use crate::source::docker_engine::{Asked, Watch};

/// Returns the manifest of the engine's image, `None` when it comes from elsewhere; or what is
/// needed before that is known.
pub(super) fn engine_image(image: &Arc<Image>, got: &Results<'_>) -> Known<Option<Sha256>> {
    if image.engine.is_none() {
        return Ok(Ok(None));
    }
    let ask: Arc<dyn Step> = Arc::new(Ask(image.clone()));
    let Some(asked) = got.get(&*ask) else {
        return Ok(Err(vec![ask]));
    };
    let Some(id) = digest(&asked, "id") else {
        return Ok(Ok(None));
    };
    let image = image.clone();
    let save: Arc<dyn Step> = Arc::new(Save { image, id });
    let Some(saved) = got.get(&*save) else {
        return Ok(Err(vec![save]));
    };
    digest(&saved, "manifest")
        .map(|manifest| Ok(Some(manifest)))
        .ok_or_else(|| StepError::new(save.label(), "the cache's record of it is damaged"))
}

fn digest(action: &Action, name: &str) -> Option<Sha256> {
    std::str::from_utf8(action.value(name)?).ok()?.parse().ok()
}

/// Asks the engine for an image's id.
struct Ask(Arc<Image>);

impl Step for Ask {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn label(&self) -> String {
        self.0.source.name()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("docker", 1)
            .field("image", self.0.source.name())
            .field("platform", self.0.platform.to_string())
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let image = self.0.clone();
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse: Reuse::Never,
            work: Box::new(move |scope| {
                let Some(engine) = &image.engine else {
                    return Ok(Action::default());
                };
                let path = scope.cache.temporary();
                let asked = engine
                    .inspect(&image.platform, path, &|| scope.cancelled())
                    .map_err(StepError::in_context(format!(
                        "image {}",
                        image.source.name()
                    )))?;
                let mut action = Action::default();
                match asked {
                    Asked::There(id) => {
                        action.values = vec![("id".into(), id.to_string().into_bytes())];
                    }
                    Asked::Unusable(why) => scope.warn(why),
                    Asked::Missing | Asked::Silent => {}
                }
                Ok(action)
            }),
        }))
    }
}

/// Fetches an image that the engine has.
struct Save {
    image: Arc<Image>,
    id: Sha256,
}

impl Step for Save {
    fn kind(&self) -> &'static str {
        "docker-save"
    }

    fn label(&self) -> String {
        self.image.source.name()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("docker-save", 1)
            .field("id", self.id.to_string())
            .field("platform", self.image.platform.to_string())
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let image = self.image.clone();
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let context = format!("image {}", image.source.name());
                let Some(engine) = &image.engine else {
                    return Err(StepError::new(context, "no engine to ask (a bug in kiln)"));
                };
                let watch = Watch {
                    gave_up: &|| scope.cancelled(),
                    progress: &|done| scope.progress(done, None),
                };
                let found = engine
                    .saved(&image.platform, &watch)
                    .map_err(StepError::in_context(context.clone()))?;
                Ok(Action {
                    outputs: documents(scope.cache, &found)
                        .map_err(StepError::in_context(context))?,
                    values: vec![(
                        "manifest".into(),
                        found.manifest_digest.to_string().into_bytes(),
                    )],
                    ..Action::default()
                })
            }),
        }))
    }
}
