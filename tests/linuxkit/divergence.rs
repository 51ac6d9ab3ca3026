//! Where kiln differs from LinuxKit on purpose: what each difference makes of LinuxKit's facts.

use serde_json::Value;

use super::facts::{Fact, Facts};
use crate::support::layout::MTIME;

/// One of them; `docs/linuxkit.md` says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Divergence {
    /// Init images are one tree, and name their sources together.
    InitIsOneTree,
    /// The directories above bundles belong to no container.
    SharedDirectories,
    /// Directories that the image has, and its `etc/mtab`, keep what it says of them.
    OwnMetadata,
    /// What the kernel's tar holds is part of that tree, since init images may replace it.
    ModulesAreInit,
    /// All of `files` is one source.
    FilesAreOneTree,
    /// The packages that all init images together have are a file of that tree, of its time.
    ApkDatabaseIsInit,
    /// Directories above `files` are left as they are, or made 0755 and root's.
    FilesLeaveParents,
    /// All of a volume is its image's.
    VolumeIsOneTree,
    /// `mounts` may name volumes, as `binds` do.
    MountsNameVolumes,
    /// The files of a layout have the time of everything generated.
    LayoutTime,
}

/// The time of what the build itself makes.
const GENERATED_MTIME: u64 = 1_492_533_000;

/// What LinuxKit appends to every image, over what the image has.
const APPENDED: [&str; 7] = [
    "dev", "dev/pts", "dev/shm", "etc", "etc/mtab", "proc", "sys",
];

impl Divergence {
    pub(super) const ALL: [Self; 10] = [
        Self::InitIsOneTree,
        Self::SharedDirectories,
        Self::OwnMetadata,
        Self::ModulesAreInit,
        Self::ApkDatabaseIsInit,
        Self::FilesLeaveParents,
        Self::FilesAreOneTree,
        Self::VolumeIsOneTree,
        Self::MountsNameVolumes,
        Self::LayoutTime,
    ];

    /// Changes LinuxKit's facts to what kiln's must be; returns whether there was anything to
    /// change. `found` serves only for what LinuxKit's facts no longer tell.
    pub(super) fn apply(self, expected: &mut Facts, found: &Facts) -> bool {
        let before = expected.clone();
        let is_above = |path: &str| {
            let below = format!("{path}/");
            let mut after = before.paths.range(below.clone()..);
            after
                .next()
                .is_some_and(|(next, _)| next.starts_with(&below))
        };
        for (path, fact) in &mut expected.paths {
            // Nothing of `files` but what stands above others differs.
            if self == Self::FilesLeaveParents && !is_above(path) {
                continue;
            }
            if let Some(found) = found.paths.get(path) {
                self.change(path, fact, found);
            }
        }
        *expected != before
    }

    fn change(self, path: &str, fact: &mut Fact, found: &Fact) {
        match self {
            Self::InitIsOneTree if fact.location.starts_with("init[") => {
                fact.location = "init".to_owned();
                if found.source.split(' ').any(|source| source == fact.source) {
                    fact.source.clone_from(&found.source);
                }
            }
            Self::SharedDirectories
                if path.split('/').count() <= 2 && path.starts_with("containers") =>
            {
                fact.location = "containers".to_owned();
                fact.source = "kiln".to_owned();
            }
            Self::OwnMetadata
                if found.mtime == MTIME
                    && fact.mtime == GENERATED_MTIME
                    && APPENDED.iter().any(|appended| is_in_root(path, appended)) =>
            {
                fact.mtime = MTIME;
            }
            Self::ModulesAreInit if fact.location == "kernel" && !path.starts_with("boot") => {
                assert_eq!(found.location, "init", "{path}");
                "init".clone_into(&mut fact.location);
                fact.source.clone_from(&found.source);
            }
            Self::ApkDatabaseIsInit if fact.source == "LINUXKIT.apkinit" => {
                fact.mtime = GENERATED_MTIME;
                fact.source.clone_from(&found.source);
            }
            Self::FilesLeaveParents
                if fact.location.starts_with("files[") && fact.kind == "directory" =>
            {
                // Made by `files` alone, or by what came before.
                if found.location == "files" {
                    "0755".clone_into(&mut fact.mode);
                    "0:0".clone_into(&mut fact.owner);
                } else {
                    fact.clone_from(found);
                }
            }
            Self::FilesAreOneTree if fact.location.starts_with("files[") => {
                "files".clone_into(&mut fact.location);
            }
            Self::VolumeIsOneTree if fact.source == "linuxkit.volumes" => {
                fact.source.clone_from(&found.source);
            }
            Self::MountsNameVolumes if path.ends_with("/config.json") => {
                for mount in mounts(&mut fact.content) {
                    let source = mount["source"].as_str().unwrap_or("/");
                    if mount["type"] == "bind" && !source.starts_with('/') {
                        mount["source"] = format!("/containers/volumes/{source}/merged").into();
                    }
                }
            }
            Self::LayoutTime if fact.mtime == 0 && path.starts_with("containers/volumes/") => {
                fact.mtime = GENERATED_MTIME;
            }
            _ => {}
        }
    }
}

fn mounts(config: &mut Value) -> impl Iterator<Item = &mut Value> {
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    mounts.into_iter().flatten()
}

/// Whether this is `path` in the system's root, a container's or a volume's.
fn is_in_root(path: &str, inside: &str) -> bool {
    let above = path.strip_suffix(inside).unwrap_or("no");
    above.is_empty() || above.ends_with("/lower/") || above.ends_with("/rootfs/")
}
