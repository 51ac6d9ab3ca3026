//! `kiln sbom`, and the flags of the bill of materials that `kiln build` has.

use std::path::PathBuf;

use clap::Args;
use kiln_engine::sbom::Format;

use super::{CacheFrom, Docker, Sources};

pub(super) const ABOUT: &str = "\
Print a system's bill of materials: what its images and packages say they hold.

It is the document that `kiln build` puts into the system. What is needed for it is fetched; \
nothing is written but the document.

  kiln sbom hello.yml | jq -r '.packages[] | .name + \" \" + .versionInfo'
  kiln sbom --sbom-format cyclonedx -o hello.cdx.json hello.yml";

/// `kiln sbom`.
#[derive(Debug, Args)]
pub(crate) struct Sbom {
    /// Descriptions, in order: files, http and https URLs, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write the document to a file; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// Its form.
    #[command(flatten)]
    pub(crate) form: Form,
    /// Images of a local engine.
    #[command(flatten)]
    pub(crate) docker: Docker,
    /// Further caches.
    #[command(flatten)]
    pub(crate) cache_from: CacheFrom,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// How the bill of materials is written.
#[derive(Debug, Args)]
pub(crate) struct Form {
    /// Form of the bill of materials: SPDX 2.3 or CycloneDX 1.6
    #[arg(long, value_name = "FORM", default_value = Format::Spdx.name(), value_parser = forms())]
    pub(crate) sbom_format: String,
    /// Date the bill of materials now; the same system then no longer has the same bytes
    #[arg(long)]
    pub(crate) sbom_current_time: bool,
}

/// The bill of materials of a build.
#[derive(Debug, Args)]
pub(crate) struct Bill {
    /// Put no bill of materials into the system
    #[arg(long)]
    pub(crate) no_sbom: bool,
    /// Path of the bill of materials in the system [default: sbom.spdx.json, or sbom.cdx.json]
    #[arg(long, value_name = "NAME")]
    pub(crate) sbom_output: Option<String>,
    /// Its form.
    #[command(flatten)]
    pub(crate) form: Form,
}

fn forms() -> clap::builder::PossibleValuesParser {
    Format::ALL.map(Format::name).into()
}
