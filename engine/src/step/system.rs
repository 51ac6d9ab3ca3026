//! The whole system: every component's tree, then every format's segments.
//!
//! Enters: a [`Plan`], in which every name is an origin. Leaves: `system`, whose value `outputs`
//! lists the segments of each output file. This is the root of the graph;
//! [`components`](super::components) makes the fragments, [`segment`](super::segment) their bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use kiln_cache::{Action, Key, KeyBuilder};

use super::components::Components;
use super::kernel::Kernel;
use super::layout::Layout;
use super::root::Origin;
use super::segment::{outputs, whole_objects};
use super::{Next, Results, Step, StepError};
use crate::build::Format;
use crate::event::Event;
use crate::format::{Plan as SharePlan, share};
use crate::sbom::Options;
use crate::spec::{Section, Spec};
use crate::system::ids::Ids;
use crate::tree::generate::Node;

/// A system with nothing left to look up but bytes.
pub struct Plan {
    /// What was written.
    pub spec: Spec,
    /// Numeric ids by container name.
    pub ids: Ids,
    /// The kernel, when there is one.
    pub kernel: Option<Arc<Kernel>>,
    /// What is unpacked into `/`, in order.
    pub init: Vec<Init>,
    /// The origin of each container, section by section; built-in jobs have none.
    pub containers: BTreeMap<Section, Vec<Option<Origin>>>,
    /// What each volume holds.
    pub(crate) volumes: Vec<VolumeContent>,
    /// What `files` puts there, parents not included, with the digests of host files.
    pub files: Vec<Node>,
    /// What is asked for.
    pub formats: Vec<Format>,
    /// The bill of materials, when there is to be one.
    pub sbom: Option<Options>,
}

impl Plan {
    /// Returns the origin of every component.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &Origin> {
        let init = self.init.iter().filter_map(|init| match init {
            Init::Kiln(_) => None,
            Init::Origin(origin) => Some(origin),
        });
        self.kernel
            .iter()
            .map(|kernel| &kernel.origin)
            .chain(init)
            .chain(self.containers.values().flatten().flatten())
            .chain(self.volumes.iter().filter_map(VolumeContent::origin))
    }
}

/// What a volume holds.
pub(crate) enum VolumeContent {
    /// Nothing.
    Blank,
    /// The files of an image.
    Files(Origin),
    /// An image as an OCI layout.
    Layout(Arc<Layout>),
}

impl VolumeContent {
    /// Returns where its files come from.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Files(origin) => Some(origin),
            Self::Blank | Self::Layout(_) => None,
        }
    }

    /// Returns what provenance records call it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Blank => "empty",
            Self::Files(origin) => &origin.name,
            Self::Layout(layout) => &layout.name,
        }
    }
}

/// One thing unpacked into `/`.
#[derive(Clone)]
pub enum Init {
    /// kiln's own init, a static binary.
    Kiln(&'static [u8]),
    /// An image.
    Origin(Origin),
}

/// The root of the graph.
pub struct System {
    formats: Vec<Format>,
    components: Components,
    /// What is stored once: known when all fragments are, and then the same for all formats.
    shared: OnceLock<Arc<SharePlan>>,
}

impl System {
    /// Returns the step for a plan.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        Self {
            formats: plan.formats.clone(),
            components: Components::new(plan),
            shared: OnceLock::new(),
        }
    }
}

/// The system's bill of materials alone: value `outputs` as [`System`] has it.
pub struct Materials(Components);

impl Materials {
    /// Returns the step for a plan.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        Self(Components::new(plan))
    }
}

impl Step for Materials {
    fn kind(&self) -> &'static str {
        "materials"
    }

    fn label(&self) -> String {
        "materials".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("materials", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        Ok(match self.0.fragments(got)? {
            Err(need) => Next::Need(need),
            Ok(fragments) => Next::Done(Action {
                values: vec![("outputs".into(), whole_objects(fragments.document)?)],
                ..Action::default()
            }),
        })
    }
}

impl Step for System {
    fn kind(&self) -> &'static str {
        "system"
    }

    fn label(&self) -> String {
        "system".to_owned()
    }

    fn id(&self) -> Key {
        KeyBuilder::new("system", 1).finish()
    }

    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        let fragments = match self.components.fragments(got)? {
            Ok(fragments) => fragments,
            Err(need) => return Ok(Next::Need(need)),
        };
        let shared = match self.shared.get() {
            Some(shared) => shared,
            None => {
                for warning in self.components.warnings() {
                    got.listener
                        .event(&Event::Warning(format!("{}: {warning}", warning.at())));
                }
                let shared =
                    share(got.cache, &fragments.list).map_err(StepError::in_context("system"))?;
                self.shared.get_or_init(|| Arc::new(shared))
            }
        };
        match outputs(&self.formats, fragments, shared, got)? {
            Ok(outputs) => Ok(Next::Done(Action {
                values: vec![("outputs".into(), outputs)],
                ..Action::default()
            })),
            Err(need) => Ok(Next::Need(need)),
        }
    }
}
