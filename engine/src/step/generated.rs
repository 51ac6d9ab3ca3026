//! Trees that kiln writes itself, as steps: bundles, skeletons, files.

use std::sync::Arc;

use kiln_cache::{Action, Key, KeyBuilder};

use super::{Lane, Next, Results, Reuse, Step, StepError, Task};
use crate::tree::generate::{self, Body, Node, generate};

/// Changes when the tree for the same nodes may change.
const GENERATED_VERSION: u32 = 1;

/// A tree out of nodes whose content is known.
pub struct Generated {
    kind: &'static str,
    label: String,
    nodes: Arc<[Node]>,
    key: Key,
}

impl Generated {
    /// Returns the step that makes these nodes; `label` is what people call it.
    #[must_use]
    pub fn new(kind: &'static str, label: impl Into<String>, nodes: Vec<Node>) -> Self {
        let mut key = KeyBuilder::new("generated", GENERATED_VERSION);
        for node in &nodes {
            key = key
                .field("path", node.path.as_bytes())
                .number("mode", node.mode.into())
                .number("uid", node.uid.into())
                .number("gid", node.gid.into());
            key = match &node.body {
                Body::Directory => key.field("directory", b""),
                Body::Bytes(bytes) => key.field("bytes", bytes),
                Body::Host(_, digest) => key.digest("host", digest),
                Body::Object(digest, _) => key.digest("object", digest),
                Body::Symlink(target) => key.field("symlink", target),
            };
        }
        Self {
            kind,
            label: label.into(),
            nodes: nodes.into(),
            key: key.finish(),
        }
    }
}

impl Step for Generated {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn id(&self) -> Key {
        self.key
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (nodes, context) = (self.nodes.clone(), format!("{} {}", self.kind, self.label));
        Ok(Next::Run(Task {
            key: self.key,
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let made = generate(scope.cache, &nodes).map_err(StepError::in_context(context))?;
                let mut action = action(&made);
                // The tree points into them: they must stay as long as it does.
                action
                    .outputs
                    .extend(nodes.iter().filter_map(|node| match node.body {
                        Body::Object(digest, size) => Some(("object".to_owned(), digest, size)),
                        _ => None,
                    }));
                Ok(action)
            }),
        }))
    }
}

/// Gives a generated pack and tree their roles.
pub(crate) fn action(made: &generate::Generated) -> Action {
    Action {
        outputs: vec![
            ("pack".into(), made.pack.0, made.pack.1),
            ("tree".into(), made.tree.0, made.tree.1),
        ],
        ..Action::default()
    }
}
