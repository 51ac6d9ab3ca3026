//! Where a system's images come from: what a description names becomes a source with its platform,
//! pins and engine.
//!
//! Enters: names, package lists, volumes. Leaves: origins for the steps; nothing is looked up yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::{Planner, one};
use super::{BuildError, Network, Request};
use crate::source::ImageName;
use crate::source::credentials::Credentials;
use crate::source::debian::DebianRequest;
use crate::source::docker_archive::DockerArchive;
use crate::source::docker_engine::{DockerEngine, EngineImage};
use crate::source::http::{Http, HttpOptions, ProxyOptions};
use crate::source::oci_layout::OciLayout;
use crate::source::platform::ParsePlatformError;
use crate::source::registry::{Registry, RegistryOptions};
use crate::spec::{Debian, ImageSource, Position, Spanned, Volume, VolumeFormat};
use crate::step::debian::Packages;
use crate::step::image::Image;
use crate::step::layout::{EVERY_PLATFORM, Layout, Shelf};
use crate::step::root::{Origin, Source};
use crate::step::system::VolumeContent;
use crate::tree::directory;

pub(super) fn http(network: &Network) -> Http {
    let no_proxy = network.no_proxy.as_deref().unwrap_or_default().split(',');
    let limits = HttpOptions::default();
    Http::new(HttpOptions {
        timeout_idle: network.timeout.unwrap_or(limits.timeout_idle),
        timeout_connect: network.timeout.unwrap_or(limits.timeout_connect),
        ca_files: network.ca_files.clone(),
        insecure: network.insecure_registries.clone(),
        proxy: ProxyOptions {
            http: network.http_proxy.clone(),
            https: network.https_proxy.clone(),
            no_proxy: no_proxy
                .map(str::trim)
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
        },
        ..limits
    })
}

/// Makes the access to all registries.
pub(crate) fn registry(network: &Network) -> (Http, Registry) {
    let http = http(network);
    let credentials = network
        .docker_config
        .clone()
        .map(Credentials::from_file)
        .unwrap_or_default();
    let options = RegistryOptions {
        mirrors: network.mirrors.clone(),
        credentials,
    };
    (http.clone(), Registry::new(http, options))
}

/// Returns the Docker engine that is asked first.
pub(super) fn engine(request: &Request) -> Option<Arc<DockerEngine>> {
    let socket = request.docker.clone().filter(|_| !request.pull)?;
    let idle = request.network.timeout;
    let idle = idle.unwrap_or(HttpOptions::default().timeout_idle);
    Some(Arc::new(DockerEngine::new(socket, idle)))
}

impl Planner<'_> {
    pub(super) fn volume(&mut self, volume: &Volume) -> Result<VolumeContent, BuildError> {
        let Some(image) = &volume.image else {
            return Ok(VolumeContent::Blank);
        };
        let format = volume.format.as_deref().copied().unwrap_or_default();
        Ok(match format {
            VolumeFormat::Filesystem => VolumeContent::Files(self.origin(image)?),
            VolumeFormat::Oci => {
                self.has_layouts = true;
                VolumeContent::Layout(Arc::new(self.layout(image, volume)?))
            }
        })
    }

    /// Plans an image that is kept as it is, for several platforms.
    fn layout(
        &mut self,
        image: &Spanned<ImageSource>,
        volume: &Volume,
    ) -> Result<Layout, BuildError> {
        let name = match &image.value {
            ImageSource::Image(text) => Some((text, self.image_name(text, &image.at)?)),
            ImageSource::Debian(_) | ImageSource::Builtin(_) => None,
        };
        let (name, source): (_, Arc<dyn Shelf>) = match name {
            Some((_, ImageName::Registry(reference))) => {
                let name = reference.canonical();
                let pinned = self.lock.image(&name, EVERY_PLATFORM);
                let reference = match pinned {
                    Some(pinned) => reference.pinned(pinned.manifest),
                    None => reference,
                };
                (name, Arc::new(self.registry.image(&reference)))
            }
            Some((text, ImageName::OciLayout { path, tag })) => {
                (text.clone(), Arc::new(OciLayout::new(path, tag)))
            }
            Some((text, ImageName::OciArchive { path, tag })) => {
                (text.clone(), Arc::new(OciLayout::archive(path, tag)))
            }
            _ => {
                let message =
                    "only an image of a registry or an OCI layout can be kept as a layout";
                return Err(one(&image.at, message.into()));
            }
        };
        for input in source.inputs() {
            self.look_at(&input);
        }
        let platform = |platform: &Spanned<String>| {
            let parsed = platform.value.parse();
            parsed.map_err(|error: ParsePlatformError| one(&platform.at, error.to_string()))
        };
        Ok(Layout {
            name,
            source,
            platforms: volume
                .platforms
                .iter()
                .map(platform)
                .collect::<Result<_, _>>()?,
            own: self.platform.clone(),
            refresh: self.request.pull,
        })
    }

    fn image_name(&self, text: &str, at: &Position) -> Result<ImageName, BuildError> {
        let base = self.base(at)?;
        ImageName::parse(text)
            .and_then(|name| name.resolve_paths(&base, self.request.network.home.as_deref()))
            .map_err(|error| one(at, error.to_string()))
    }

    pub(super) fn origin(&mut self, image: &Spanned<ImageSource>) -> Result<Origin, BuildError> {
        self.image(&image.value, &image.at)
    }

    pub(super) fn image(
        &mut self,
        image: &ImageSource,
        at: &Position,
    ) -> Result<Origin, BuildError> {
        match image {
            ImageSource::Image(text) => self.named(text, at),
            ImageSource::Debian(debian) => self.debian(debian, at),
            ImageSource::Builtin(job) => Err(BuildError::usage(
                format!("the built-in job {job} has no files"),
                "this is a bug in kiln",
            )),
        }
    }

    /// Returns the directory that relative paths of a YAML start from: its own.
    pub(super) fn base(&self, at: &Position) -> Result<PathBuf, BuildError> {
        let file =
            std::path::absolute(at.file()).map_err(BuildError::file(Path::new(at.file())))?;
        Ok(file.parent().unwrap_or(Path::new("/")).to_owned())
    }

    fn named(&mut self, text: &str, at: &Position) -> Result<Origin, BuildError> {
        let name = self.image_name(text, at)?;
        let reference = match &name {
            ImageName::Registry(reference) => Some(reference.clone()),
            _ => None,
        };
        let (name, source) = match name {
            ImageName::Registry(reference) => {
                let image = Arc::new(self.registry.image(&reference))
                    as Arc<dyn crate::source::ImageSource>;
                (reference.canonical(), image)
            }
            ImageName::OciLayout { path, tag } => {
                (text.to_owned(), Arc::new(OciLayout::new(path, tag)) as _)
            }
            ImageName::OciArchive { path, tag } => (
                text.to_owned(),
                Arc::new(OciLayout::archive(path, tag)) as _,
            ),
            ImageName::DockerArchive { path, reference } => (
                text.to_owned(),
                Arc::new(DockerArchive::new(path, reference)) as _,
            ),
            ImageName::Directory(path) => {
                let files = directory::files(&path).map_err(|error| one(at, error.to_string()))?;
                for file in files {
                    self.look_at(&file);
                }
                return Ok(Origin {
                    name: text.to_owned(),
                    source: Source::Directory(path),
                });
            }
        };
        for input in source.inputs() {
            self.look_at(&input);
        }
        let pinned = self.lock.image(&name, &self.platform.to_string());
        // What a digest names is the registry's: an engine cannot show that it has the same.
        let engine = match (&self.engine, reference) {
            (Some(engine), Some(reference)) if pinned.is_none() && source.digest().is_none() => {
                let image = self
                    .engine_images
                    .entry(reference.key())
                    .or_insert_with(|| {
                        Arc::new(EngineImage::new(engine.clone(), reference, source.clone()))
                    });
                Some(image.clone())
            }
            _ => None,
        };
        let source = match &engine {
            Some(engine) => engine.clone() as Arc<dyn crate::source::ImageSource>,
            None => source,
        };
        let image = Image {
            source,
            engine,
            platform: self.platform.clone(),
            pinned,
            refresh: self.request.pull,
        };
        Ok(Origin {
            name,
            source: Source::Image(Arc::new(image)),
        })
    }

    fn debian(&mut self, debian: &Debian, at: &Position) -> Result<Origin, BuildError> {
        let base = self.base(at)?;
        let request = DebianRequest {
            suite: debian.suite.as_ref().map(|suite| suite.value.clone()),
            packages: debian
                .packages
                .iter()
                .map(|package| package.value.clone())
                .collect(),
            mirror: debian.mirror.as_ref().map(|mirror| mirror.value.clone()),
            keyring: debian
                .keyring
                .as_ref()
                .map(|keyring| base.join(&keyring.value)),
            architecture: self.request.architecture.clone(),
        };
        let name = format!(
            "debian:{}:{}",
            request.suite.as_deref().unwrap_or("host"),
            request.packages.join(",")
        );
        let mut packages = Packages {
            request,
            locked: None,
            refresh: self.request.pull,
            http: self.http.clone(),
            now: self.now,
        };
        if let Some(lines) = self.lock.resolved(&packages.identity()) {
            let locked: Result<Vec<_>, _> = lines
                .iter()
                .map(|line| serde_json::from_str(line))
                .collect();
            packages.locked = Some(locked.map_err(|error| {
                one(
                    at,
                    format!("its entry in the lock file is damaged: {error}"),
                )
            })?);
        }
        Ok(Origin {
            name,
            source: Source::Debian(Arc::new(packages)),
        })
    }
}
