//! `kiln push`, and what LinuxKit means by it.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use kiln_engine::source::{Platform, Reference};

use super::Sources;

pub(super) const ABOUT: &str = "\
Send an image to a registry, from an OCI layout, an archive or the cache.

SOURCE is oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or the name of an \
image in the cache. All platforms of an index go, and what is attested of them, unless --platform \
picks one. The digest there is the digest here.

  kiln push oci:out:1.0 registry.example/team/app:1.0
  kiln push docker-archive:app.tar registry.example/team/app:1.0
  kiln push --platform linux/arm64 alpine:3.20 registry.example/mirror/alpine:3.20-arm64";

/// `kiln push`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
#[command(override_usage = "kiln push [OPTIONS] <SOURCE> <NAME>")]
pub(crate) struct Push {
    /// oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or an image in the cache
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) source: Option<String>,
    /// Name in the registry
    #[arg(required = true, value_name = "NAME")]
    pub(crate) name: Option<Reference>,
    /// The only platform that goes
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Replace what the name leads to
    #[arg(long = "override")]
    pub(crate) replace: bool,
    /// Registries and cache.
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// What LinuxKit has in the place of SOURCE.
    #[command(subcommand)]
    pub(crate) cloud: Option<Cloud>,
}

/// Where `linuxkit push` uploads disk images to.
#[derive(Debug, Subcommand)]
pub(crate) enum Cloud {
    /// Amazon
    #[command(hide = true, disable_help_flag = true)]
    Aws(Rest),
    /// Microsoft
    #[command(hide = true, disable_help_flag = true)]
    Azure(Rest),
    /// Equinix
    #[command(hide = true, disable_help_flag = true, alias = "packet")]
    Equinixmetal(Rest),
    /// Google
    #[command(hide = true, disable_help_flag = true)]
    Gcp(Rest),
    /// OpenStack
    #[command(hide = true, disable_help_flag = true)]
    Openstack(Rest),
    /// Scaleway
    #[command(hide = true, disable_help_flag = true)]
    Scaleway(Rest),
    /// VMware
    #[command(hide = true, disable_help_flag = true)]
    Vcenter(Rest),
}

/// Whatever follows.
#[derive(Debug, Args)]
pub(crate) struct Rest {
    /// Not looked at
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) words: Vec<OsString>,
}
