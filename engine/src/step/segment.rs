//! Segments: a fragment becomes its part of an output.
//!
//! Enters: all fragments of a system and what of them is stored once. Leaves: `segment` (the tar
//! segments of a fragment) and `member` (a member of an initrd), and the list of segments of each output file.

use std::sync::Arc;

use kiln_cache::{Action, Cache, Digest, Key, KeyBuilder};
use serde::{Deserialize, Serialize};

use super::components::Fragments;
use super::{Known, Lane, Need, Next, Results, Reuse, Step, StepError, Task};
use crate::build::Format;
use crate::format::cpio::{Member, member, shared_member};
use crate::format::output::{
    boot, initrd_segments, kernel_initrd, tar_kernel_initrd, tar_segments,
};
use crate::format::{
    Compressor, Form, FormatError, Fragment, Part, Plan, Segment, SharedGroup, compress, cpio, tar,
};

/// Changes when the record of the same segments changes.
const SEGMENT_VERSION: u32 = 2;

/// One file of an output: what its name ends with, what it is, and its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) format: String,
    pub(crate) role: String,
    pub(crate) suffix: String,
    pub(crate) segments: Vec<Stored>,
}

/// A segment, as records keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    digest: String,
    len: u64,
    recipe: bool,
}

impl From<&Segment> for Stored {
    fn from(segment: &Segment) -> Self {
        Self {
            digest: segment.digest.to_string(),
            len: segment.len,
            recipe: segment.form == Form::Recipe,
        }
    }
}

impl Stored {
    pub(crate) fn segment(&self) -> Option<Segment> {
        Some(Segment {
            digest: self.digest.parse().ok()?,
            len: self.len,
            form: if self.recipe {
                Form::Recipe
            } else {
                Form::Bytes
            },
        })
    }
}

/// Returns the outputs' files, JSON; or what is needed before they are known.
pub(crate) fn outputs(
    formats: &[Format],
    fragments: &Fragments,
    plan: &Arc<Plan>,
    got: &Results<'_>,
) -> Known<Vec<u8>> {
    let wants = |format: &Format| formats.contains(format);
    let mut needed: Need = Vec::new();
    let tar_steps = if wants(&Format::Tar) {
        tar_steps(fragments, plan)
    } else {
        Need::new()
    };
    let initrd = wants(&Format::KernelInitrd) || wants(&Format::TarKernelInitrd);
    let member_steps = if initrd {
        member_steps(fragments, plan)
    } else {
        Need::new()
    };
    needed.extend(tar_steps.iter().chain(&member_steps).cloned());
    if let Err(need) = got.all(&needed) {
        return Ok(Err(need));
    }
    let tar = read(&tar_steps, got)?;
    let members = read(&member_steps, got)?;
    let mut out = Vec::new();
    for format in formats {
        list(*format, fragments, &tar, &members, got.cache, &mut out)
            .map_err(StepError::in_context(format!("output {}", format.name())))?;
    }
    serde_json::to_vec(&out)
        .map(Ok)
        .map_err(StepError::in_context("outputs"))
}

/// Returns outputs that are objects as they are, JSON.
pub(crate) fn whole_objects(
    objects: impl IntoIterator<Item = (Digest, u64)>,
) -> Result<Vec<u8>, StepError> {
    let output = |(digest, len)| Output {
        format: "sbom".to_owned(),
        role: "sbom".to_owned(),
        suffix: ".json".to_owned(),
        segments: vec![Stored::from(&Segment {
            digest,
            len,
            form: Form::Bytes,
        })],
    };
    let outputs: Vec<Output> = objects.into_iter().map(output).collect();
    serde_json::to_vec(&outputs).map_err(StepError::in_context("sbom"))
}

/// Lists the files of one format.
fn list(
    format: Format,
    fragments: &Fragments,
    tar: &[Segment],
    members: &[Segment],
    cache: &Cache,
    out: &mut Vec<Output>,
) -> Result<(), FormatError> {
    let mut add = |role: &str, suffix: &str, segments: &[Segment]| {
        out.push(Output {
            format: format.name().to_owned(),
            role: role.to_owned(),
            suffix: suffix.to_owned(),
            segments: segments.iter().map(Stored::from).collect(),
        });
    };
    match format {
        Format::Tar => add("tar", ".tar", &tar_segments(cache, tar)?),
        Format::KernelInitrd => {
            let boot = boot(cache, &fragments.list)?;
            let initrd = initrd_segments(cache, boot.ucode.as_ref(), members)?;
            for file in kernel_initrd(&boot, &initrd) {
                let role = match file.suffix {
                    "-kernel" => "kernel",
                    "-cmdline" => "cmdline",
                    _ => "initrd",
                };
                add(role, file.suffix, &file.segments);
            }
        }
        Format::TarKernelInitrd => {
            let boot = boot(cache, &fragments.list)?;
            let file = tar_kernel_initrd(cache, &boot, members)?;
            add("tar", file.suffix, &file.segments);
        }
    }
    Ok(())
}

fn read(steps: &[Arc<dyn Step>], got: &Results<'_>) -> Result<Vec<Segment>, StepError> {
    let mut all = Vec::with_capacity(steps.len());
    for step in steps {
        let action = got.get(&**step);
        let stored = action.as_ref().and_then(|action| action.value("segments"));
        let stored = stored.and_then(|bytes| serde_json::from_slice::<Vec<Stored>>(bytes).ok());
        let segments = stored.and_then(|stored| {
            let segments = stored.iter().map(Stored::segment);
            segments.collect::<Option<Vec<_>>>()
        });
        all.extend(segments.ok_or_else(|| {
            StepError::new(
                step.label(),
                "the cache's record of its segments is damaged",
            )
        })?);
    }
    Ok(all)
}

/// Adds what identifies a fragment to a key.
fn fragment_key(mut key: KeyBuilder, parts: &[Part]) -> KeyBuilder {
    for part in parts {
        key = key
            .field("prefix", part.prefix.as_bytes())
            .digest("tree", &part.tree)
            .number("shared", part.shared.into());
    }
    key
}

fn tar_steps(fragments: &Fragments, shared: &Arc<Plan>) -> Need {
    let step = |(index, fragment): (usize, &Fragment)| {
        let key = KeyBuilder::new("segment", SEGMENT_VERSION)
            .field("source", &fragment.source)
            .field("location", &fragment.location)
            .number("tar version", tar::VERSION.into())
            .field("plan", shared.fragments[index].tar_key());
        Arc::new(Make {
            kind: "segment",
            label: fragment.name.clone(),
            key: fragment_key(key, &fragment.parts).finish(),
            what: What::Tar(fragment.clone()),
            plan: shared.clone(),
            index,
        }) as Arc<dyn Step>
    };
    fragments.list.iter().enumerate().map(step).collect()
}

/// The members of an initrd: those of components, those that components share, and those that
/// replace something of components.
fn member_steps(fragments: &Fragments, plan: &Arc<Plan>) -> Need {
    let compressor = match fragments
        .kernel
        .as_ref()
        .and_then(|kernel| kernel.value("compressor"))
    {
        Some(b"zstd") => Compressor::Zstd,
        Some(b"none") => Compressor::None,
        // Every kernel that reads an initrd reads this.
        _ => Compressor::Gzip,
    };
    let key = |kind: &str| {
        KeyBuilder::new(kind, SEGMENT_VERSION)
            .field("compressor", compressor.name())
            .number("compressor version", compress::VERSION.into())
            .number("cpio version", cpio::VERSION.into())
    };
    let own = |(index, fragment): (usize, &Fragment)| {
        Arc::new(Make {
            kind: "member",
            label: fragment.name.clone(),
            key: fragment_key(
                key("member").field("plan", plan.fragments[index].initrd_key()),
                &fragment.parts,
            )
            .finish(),
            what: What::Member(fragment.clone(), compressor),
            plan: plan.clone(),
            index,
        }) as Arc<dyn Step>
    };
    let shared = |(index, group): (usize, &SharedGroup)| {
        Arc::new(Make {
            kind: "member",
            label: format!("shared by {}", group.parts.len()),
            key: key("shared member").field("group", group.key()).finish(),
            what: What::Shared(compressor),
            plan: plan.clone(),
            index,
        }) as Arc<dyn Step>
    };
    let mut own: Need = fragments.list.iter().enumerate().map(own).collect();
    let last = own.split_off(own.len() - fragments.last);
    own.into_iter()
        .chain(plan.shared.iter().enumerate().map(shared))
        .chain(last)
        .collect()
}

#[derive(Clone)]
enum What {
    Tar(Fragment),
    Member(Fragment, Compressor),
    Shared(Compressor),
}

/// Makes the segments of a fragment, or one that several share.
struct Make {
    kind: &'static str,
    label: String,
    key: Key,
    what: What,
    /// What is stored once, over the whole system, and which of its parts this segment follows.
    plan: Arc<Plan>,
    index: usize,
}

impl Step for Make {
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
        let label = self.label.clone();
        let (what, plan, index) = (self.what.clone(), self.plan.clone(), self.index);
        Ok(Next::Run(Task {
            key: self.key,
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |scope| {
                let one =
                    |made: Member| (vec![made.segment], made.dropped_xattrs, made.dropped_boot);
                let made = match &what {
                    What::Tar(fragment) => {
                        tar::segments(scope.cache, fragment, &plan.fragments[index])
                            .map(|segments| (segments, 0, 0))
                    }
                    What::Member(fragment, compressor) => {
                        member(scope.cache, fragment, &plan.fragments[index], *compressor).map(one)
                    }
                    What::Shared(compressor) => {
                        shared_member(scope.cache, &plan.shared[index], *compressor).map(one)
                    }
                };
                let (segments, dropped_xattrs, dropped_boot) =
                    made.map_err(StepError::in_context(label.clone()))?;
                if dropped_xattrs > 0 {
                    scope.warn(format!(
                        "{label}: {dropped_xattrs} files lose their extended attributes: an initrd cannot hold them"
                    ));
                }
                if dropped_boot > 0 {
                    scope.warn(format!(
                        "{label}: {dropped_boot} files under boot/ are left out of the initrd, as LinuxKit does"
                    ));
                }
                let stored: Vec<Stored> = segments.iter().map(Stored::from).collect();
                let stored = serde_json::to_vec(&stored).map_err(StepError::in_context(label))?;
                let output = |segment: &Segment| {
                    let size = object_size(scope.cache, &segment.digest);
                    ("segment".to_owned(), segment.digest, size)
                };
                Ok(Action {
                    outputs: segments.iter().map(output).collect(),
                    values: vec![("segments".into(), stored)],
                    ..Action::default()
                })
            }),
        }))
    }
}

fn object_size(cache: &Cache, digest: &Digest) -> u64 {
    cache.open_object(digest).map_or(0, |object| object.len())
}
