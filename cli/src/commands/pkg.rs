//! `kiln pkg`: names of LinuxKit's packages; what builds and pushes them is named, not done.

use std::env;

use kiln_engine::build::BuildError;
use kiln_engine::package::{Options, PackageError, reference};

use crate::args::{Pkg, PkgCommand, PkgFlags, ShowTag};
use crate::failure::Failure;

/// The way that leads to a system all the same.
const BUILD_ELSEWHERE: &str = "build it with `linuxkit pkg build` or `docker build`, then name \
    the image: @pkg:DIR or its reference once it is pushed, docker-archive:FILE (docker save), or \
    oci:DIR";

pub(super) fn run(pkg: &Pkg) -> Result<(), Failure> {
    match &pkg.command {
        PkgCommand::ShowTag(show) => show_tag(show, &pkg.flags),
        PkgCommand::Build(_) => Err(Failure::usage(
            "kiln builds no packages: it runs no Dockerfile",
            BUILD_ELSEWHERE,
        )),
        PkgCommand::Push(_) => Err(Failure::usage(
            "kiln builds and pushes no packages: it runs no Dockerfile",
            "build and push it with `linuxkit pkg build --push`, or with `docker build` and \
             `docker push` under the name that `kiln pkg show-tag` prints",
        )),
        PkgCommand::Manifest(_) => Err(Failure::usage(
            "kiln writes no indexes to registries",
            "`linuxkit pkg manifest DIR` and `docker buildx imagetools create` do",
        )),
        PkgCommand::RemoteTag(_) => Err(Failure::usage(
            "kiln changes no tags in registries",
            "skopeo copy --all docker://FROM docker://TO does",
        )),
        PkgCommand::Builder(_) => Err(Failure::usage(
            "kiln has no builder: it runs no Dockerfile",
            "BuildKit's own commands are `docker buildx du` and `docker buildx prune`",
        )),
    }
}

/// Prints all references, or none.
fn show_tag(show: &ShowTag, flags: &PkgFlags) -> Result<(), Failure> {
    let options = options(flags)?;
    let mut lines = String::new();
    for directory in &show.directories {
        let found = reference(directory, &options).map_err(|error| match error {
            PackageError::BuildYml(errors) => {
                Failure::of_build(BuildError::from(errors), directory, 0)
            }
            error => Failure::failed(
                format!("the package {} has no tag", directory.display()),
                Some(&error),
                error.hint(),
            ),
        })?;
        lines += &match show.canonical {
            true => found.canonical(),
            false => found.short(),
        };
        lines.push('\n');
    }
    super::print(&lines)
}

/// Returns what the flags and the environment mean. What is empty is not given.
fn options(flags: &PkgFlags) -> Result<Options, Failure> {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let mut org = flags.org.clone().or_else(|| variable("LINUXKIT_PKG_ORG"));
    let mut hash = given(&flags.hash);
    if flags.dev {
        org = org.or_else(|| variable("USER"));
        if org.is_none() {
            return Err(Failure::usage(
                "--dev takes the organisation from USER, which is not set",
                "set it, or name one with --org",
            ));
        }
        hash = hash.or_else(|| Some("dev".to_owned()));
    }
    Ok(Options {
        org,
        build_yml: flags.build_yml.clone(),
        hash,
        hash_commit: flags.hash_commit.clone(),
        hash_path: flags.hash_path.clone(),
        tag: given(&flags.tag),
        force_dirty: flags.force_dirty,
    })
}
