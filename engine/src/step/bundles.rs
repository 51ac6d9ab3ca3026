//! Bundles: the directories that containers and volumes have below `containers/`.
//!
//! Enters: a [`Plan`] whose roots are there. Leaves: their fragments, each with the step that makes
//! its generated part, what they are made of for the bill of materials, and warnings.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kiln_cache::Digest;

use super::components::{clean, fragment, generated};
use super::image::tree_of;
use super::root::Origin;
use super::roots::Roots;
use super::sbom::{self, Component};
use super::system::Plan;
use super::{Results, Step, StepError};
use crate::format::{Fragment, Part};
use crate::spec::{self, Section, Warning};
use crate::system::bundle::{bundle_path, config_json, root_path, runtime_json};
use crate::system::container::{Container, ImageConfig, image_config};
use crate::system::job::job_json;
use crate::system::label;
use crate::system::volumes::{Volumes, volume_path};
use crate::tree::TreePath;
use crate::tree::generate::{Body, Node};

/// A fragment, and the step that makes its generated part.
pub(super) struct Pending {
    pub(super) fragment: Fragment,
    /// Where the generated part goes.
    pub(super) base: TreePath,
    pub(super) generated: Arc<dyn Step>,
}

/// What is known once the roots are there.
pub(super) struct Bundles {
    pub(super) pending: Vec<Pending>,
    pub(super) materials: Vec<Component>,
    pub(super) warnings: Vec<Warning>,
}

impl Bundles {
    /// Returns the bundles of a plan whose roots are all there.
    pub(super) fn of(plan: &Plan, roots: &Roots, got: &Results<'_>) -> Result<Self, StepError> {
        let mut pending = skeleton(plan).into_iter().collect();
        volumes(plan, roots, got, &mut pending)?;
        let mut materials = sbom::components(plan);
        let warnings = containers(plan, roots, got, &mut pending, &mut materials)?;
        Ok(Self {
            pending,
            materials,
            warnings,
        })
    }
}

/// The directories above bundles and volumes.
fn skeleton(plan: &Plan) -> Option<Pending> {
    let sections = plan
        .containers
        .iter()
        .filter(|(_, origins)| !origins.is_empty());
    let mut names: Vec<String> = sections
        .map(|(section, _)| format!("containers/{}", section.name()))
        .collect();
    if !plan.volumes.is_empty() {
        names.push("containers/volumes".to_owned());
    }
    if names.is_empty() {
        return None;
    }
    names.insert(0, "containers".to_owned());
    let nodes = names
        .iter()
        .map(|name| Node::directory(clean(name)))
        .collect();
    Some(Pending {
        fragment: fragment("containers", "kiln".into(), "containers", Vec::new()),
        base: TreePath::default(),
        generated: generated("skeleton", "containers", nodes),
    })
}

fn volumes(
    plan: &Plan,
    roots: &Roots,
    got: &Results<'_>,
    out: &mut Vec<Pending>,
) -> Result<(), StepError> {
    for (index, (volume, root)) in plan.spec.volumes.iter().zip(&roots.volumes).enumerate() {
        let base = volume_path(&volume.name.value);
        let mut nodes = vec![Node::directory(TreePath::default())];
        let mut parts = Vec::new();
        match root.as_ref().and_then(|root| got.get(&**root)) {
            Some(action) => parts.push(Part {
                prefix: clean(&format!("{base}/lower")),
                tree: tree_of(&action, &base)?,
                shared: true,
            }),
            None => nodes.push(Node::directory(clean("lower"))),
        }
        nodes.push(Node::directory(clean("merged")));
        nodes.push(Node::directory(clean("tmp")));
        let source = plan.volumes[index].name().to_owned();
        let name = &volume.name.value;
        out.push(Pending {
            fragment: fragment(name, source, &format!("volume[{index}]"), parts),
            base: clean(&base),
            generated: generated("volume", name, nodes),
        });
    }
    Ok(())
}

/// Makes the bundles. Containers whose roots are the same tree share the first one's.
fn containers(
    plan: &Plan,
    roots: &Roots,
    got: &Results<'_>,
    out: &mut Vec<Pending>,
    materials: &mut Vec<Component>,
) -> Result<Vec<Warning>, StepError> {
    let volumes = Volumes::of(&plan.spec);
    let mut placed: BTreeMap<Digest, String> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut listed = BTreeSet::new();
    let mut configs = Configs::default();
    for (section, steps) in &roots.containers {
        let entries = plan
            .spec
            .containers(*section)
            .iter()
            .zip(&plan.containers[section])
            .zip(steps);
        for (index, ((entry, origin), step)) in entries.enumerate() {
            let name = &entry.name.value;
            let base = bundle_path(*section, index, name);
            let location = format!("{}[{index}]", section.name());
            let file = |name: &str, bytes| Node::new(clean(name), Body::Bytes(bytes), 0o644);
            let (Some(origin), Some(step)) = (origin, step) else {
                let config = entry.job().map(|job| job_json(entry, job));
                let mut nodes = vec![Node::directory(TreePath::default())];
                nodes.extend(config.map(|config| file("config.json", config)));
                out.push(Pending {
                    fragment: fragment(name, "kiln".into(), &location, Vec::new()),
                    base: clean(&base),
                    generated: generated("bundle", name, nodes),
                });
                continue;
            };
            let action = got
                .get(&**step)
                .ok_or_else(|| StepError::new(name.clone(), "its root is not there"))?;
            let tree = tree_of(&action, name)?;
            let identity = origin.identity();
            let (container, odd) = configs.resolve(plan, *section, entry, origin, &volumes, got)?;
            warnings.extend(odd);
            let own = root_path(&base, container.readonly);
            let mut parts = Vec::new();
            let shared = placed.get(&tree).cloned();
            let root = shared.clone().unwrap_or_else(|| own.clone());
            // What several share is listed once.
            if listed.insert((root.clone(), identity)) {
                materials.push(Component {
                    key: base.trim_start_matches("containers/").to_owned(),
                    path: root.clone(),
                    origin: Some(origin.clone()),
                });
            }
            if shared.is_none() {
                parts.push(Part {
                    prefix: clean(&own),
                    tree,
                    shared: true,
                });
                placed.insert(tree, own);
            }
            let mut nodes = vec![
                Node::directory(TreePath::default()),
                file("config.json", config_json(&container)),
                file("runtime.json", runtime_json(&container, &base, &[&root])),
            ];
            if !container.readonly {
                nodes.push(Node::directory(clean("tmp")));
            }
            if !container.readonly || shared.is_some() {
                nodes.push(Node::directory(clean("rootfs")));
            }
            out.push(Pending {
                fragment: fragment(name, origin.name.clone(), &location, parts),
                base: clean(&base),
                generated: generated("bundle", name, nodes),
            });
        }
    }
    Ok(warnings)
}

/// What images say of how they are run, each read once.
#[derive(Default)]
pub(super) struct Configs(HashMap<String, ImageConfig>);

impl Configs {
    /// Returns a container as its description and its image would have it, and what is odd.
    pub(super) fn resolve(
        &mut self,
        plan: &Plan,
        section: Section,
        entry: &spec::Container,
        origin: &Origin,
        volumes: &Volumes,
        got: &Results<'_>,
    ) -> Result<(Container, Vec<Warning>), StepError> {
        let image = match self.0.entry(origin.identity()) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(slot) => slot.insert(
                image_config(&origin.config(got)?)
                    .map_err(StepError::in_context(format!("image {}", origin.name)))?,
            ),
        };
        let context = format!("{} \"{}\"", section.name(), entry.name.value);
        label::resolve(entry, image, &plan.ids, volumes).map_err(StepError::in_context(context))
    }
}
