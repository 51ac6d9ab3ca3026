//! Services alone: the roots of a system's services, without kernel, init or outputs.
//!
//! Enters: a [`Plan`]. Leaves: `services`, whose value `services` is a list of [`Service`], JSON.

use std::sync::Arc;

use kiln_cache::{Action, Digest, Key, KeyBuilder};
use serde::{Deserialize, Serialize};

use super::bundles::Configs;
use super::image::tree_of;
use super::root::{Origin, Purpose, Root};
use super::system::Plan;
use super::{Next, Results, Step, StepError};
use crate::spec::Section;
use crate::system::bundle::{config_json, runtime_json};
use crate::system::volumes::Volumes;

/// A service that can be put into a running system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Its root.
    pub(crate) tree: String,
    /// `config.json`.
    pub(crate) config: String,
    /// `runtime.json`.
    pub(crate) runtime: String,
}

/// Where a service is put, relative to the root of the system.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Its bundle.
    pub(crate) bundle: String,
    /// The directories its root consists of, the topmost first.
    pub(crate) layers: Vec<String>,
}

/// The services of a plan that are asked for.
pub(crate) struct Services {
    plan: Arc<Plan>,
    wanted: Vec<Wanted>,
    /// The one that is asked for by its name is this.
    job: Option<&'static str>,
    site: Site,
}

struct Wanted {
    index: usize,
    origin: Origin,
    root: Arc<dyn Step>,
}

impl Services {
    /// Returns the step for the service of a name, or for all without one. Of those that are
    /// built-in jobs none can be put anywhere.
    pub(crate) fn new(plan: Arc<Plan>, name: Option<&str>, site: Site) -> Self {
        let all = plan.spec.containers(Section::Services).iter();
        let origins = plan
            .containers
            .get(&Section::Services)
            .into_iter()
            .flatten();
        let is_wanted = |it: &str| name.is_none_or(|name| name == it);
        let wanted = all.zip(origins).enumerate();
        let wanted = wanted.filter(|(_, (entry, _))| is_wanted(&entry.name.value));
        let job = name.and_then(|_| wanted.clone().find_map(|(_, (entry, _))| entry.job()));
        let wanted = wanted.filter_map(|(index, (_, origin))| {
            let origin = origin.clone()?;
            let root = Arc::new(Root {
                origin: origin.clone(),
                purpose: Purpose::Container,
            });
            Some(Wanted {
                index,
                origin,
                root,
            })
        });
        Self {
            wanted: wanted.collect(),
            job,
            plan,
            site,
        }
    }

    fn service(
        &self,
        wanted: &Wanted,
        got: &Results<'_>,
        configs: &mut Configs,
        volumes: &Volumes,
    ) -> Result<Service, StepError> {
        let section = Section::Services;
        let entry = &self.plan.spec.containers(section)[wanted.index];
        let name = &entry.name.value;
        let action = got
            .get(&*wanted.root)
            .ok_or_else(|| StepError::new(name.clone(), "its root is not there"))?;
        let tree: Digest = tree_of(&action, name)?;
        let (container, _) =
            configs.resolve(&self.plan, section, entry, &wanted.origin, volumes, got)?;
        let layers: Vec<&str> = self.site.layers.iter().map(String::as_str).collect();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Service {
            name: name.clone(),
            tree: tree.to_string(),
            config: text(&config_json(&container)),
            runtime: text(&runtime_json(&container, &self.site.bundle, &layers)),
        })
    }
}

impl Step for Services {
    fn kind(&self) -> &'static str {
        "services"
    }

    fn label(&self) -> String {
        "services".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("services", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        if let Some(job) = self.job {
            let text =
                format!("it is kiln-init's own job {job}, which comes with the system alone");
            let hint = "name another service, or give it an image with --image";
            return Err(StepError::new("services", text).hint(hint));
        }
        let roots: Vec<Arc<dyn Step>> = self.wanted.iter().map(|w| w.root.clone()).collect();
        if let Err(need) = got.all(&roots) {
            return Ok(Next::Need(need));
        }
        let (mut configs, volumes) = (Configs::default(), Volumes::of(&self.plan.spec));
        let services = self.wanted.iter();
        let services: Result<Vec<_>, _> = services
            .map(|wanted| self.service(wanted, got, &mut configs, &volumes))
            .collect();
        let services = serde_json::to_vec(&services?).map_err(StepError::in_context("services"))?;
        Ok(Next::Done(Action {
            values: vec![("services".into(), services)],
            ..Action::default()
        }))
    }
}
