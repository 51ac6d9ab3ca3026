//! What an image says about how it is run, before anything is built of it.

use std::sync::atomic::AtomicBool;

use super::{BuildError, Description, Request, plan, tiers};
use crate::event::Listener;
use crate::lockfile::Lock;
use crate::spec::Section;
use crate::step::StepError;
use crate::step::image::Manifest;
use crate::step::root::Source;
use crate::system::container::{ImageConfig, image_config};

/// Looks an image up and returns what it says; of its layers none is fetched. `request` says where
/// images come from, and for which architecture.
///
/// # Errors
/// When there is no such image, or it cannot be reached.
pub fn image_settings(
    request: &Request,
    image: &str,
    listener: &dyn Listener,
    cancel: &AtomicBool,
) -> Result<ImageConfig, BuildError> {
    // A description of it alone: what names an image there names one here.
    let yaml = serde_json::json!({"services": [{"name": "main", "image": image}]});
    let request = Request {
        descriptions: vec![Description::Text {
            name: image.to_owned(),
            bytes: yaml.to_string().into_bytes(),
            is_local: true,
        }],
        ..request.clone()
    };
    let planned = plan::plan_with(&request, listener, &Lock::default())?;
    let origin = planned.plan.containers.get(&Section::Services);
    let first = origin.and_then(|all| all.first()?.as_ref());
    let Some(Source::Image(image)) = first.map(|origin| &origin.source) else {
        return Ok(ImageConfig::default());
    };
    let name = format!("image {}", image.source.name());
    let cache = tiers::open(&request.cache, &request.cache_from, listener)?;
    let (result, _) = planned.walk(Manifest(image.clone()), &cache, listener, cancel)?;
    let read = || {
        let digest = result
            .output("config")
            .ok_or_else(|| StepError::new(name.clone(), "the cache's record of it is damaged"))?;
        let bytes = cache
            .read(digest)
            .map_err(StepError::in_context(name.clone()))?;
        image_config(&bytes).map_err(StepError::in_context(name.clone()))
    };
    Ok(read()?)
}
