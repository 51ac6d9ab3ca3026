//! Images from a local Docker engine: the flag that `build`, `run` and `sbom` have.

use clap::Args;

/// Whether a Docker engine is asked.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Docker {
    /// Take images from the local Docker engine first (DOCKER_HOST), unless --pull
    #[arg(long)]
    pub(crate) docker: bool,
}
