//! The other system of "one service swapped": the same description, but for one service's image.
//!
//! Enters: the merged description. Leaves: its YAML with another image, and the names of both; or
//! why there is none.
//!
//! An image that is nowhere else in the system is only had by name (`--swap`). Without one, the
//! last service alternates between its own image and one that the system holds elsewhere. What is
//! measured is the way back: the foreign image shares what is there already, its own has to be
//! written whole.

use std::path::{Path, PathBuf};

use kiln_engine::source::ImageName;
use kiln_engine::spec::{ImageSource, InitEntry, Spanned, Spec};
use kiln_engine::system::metadata::dry_run;

use crate::failure::Failure;

/// A service with two images in turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) service: String,
    /// The image that is there before the measured build.
    pub(super) from: String,
    /// The one that the measured build puts there.
    pub(super) to: String,
    /// The description with the image that is not the user's.
    pub(super) yaml: String,
    /// Whether the measured build is that of `yaml`, not that of the user's description.
    pub(super) to_other: bool,
}

/// Chooses what to swap. `wanted` is `[SERVICE=]IMAGE`, its path relative to `directory`.
///
/// # Errors
/// When what is wanted cannot be.
pub(super) fn choose(
    spec: &Spec,
    wanted: Option<&str>,
    directory: &Path,
    home: Option<&Path>,
) -> Result<Result<Swap, String>, Failure> {
    let mut spec = spec.clone();
    make_absolute(&mut spec, home);
    match wanted {
        Some(wanted) => by_name(&mut spec, wanted, directory, home).map(Ok),
        None => Ok(by_itself(&mut spec)),
    }
}

fn by_name(
    spec: &mut Spec,
    wanted: &str,
    directory: &Path,
    home: Option<&Path>,
) -> Result<Swap, Failure> {
    let (service, image) = match wanted.split_once('=') {
        // A path may have a "=", the name of a service none of these.
        Some((service, image)) if !service.contains(['/', ':', '@']) => (Some(service), image),
        _ => (None, wanted),
    };
    if let Err(error) = ImageName::parse(image) {
        return Err(Failure::usage(format!("--swap: {error}"), None));
    }
    let mut image = ImageSource::Image(image.to_owned());
    absolute(&mut image, directory, home);
    let image = shown(&image);
    let found = spec
        .services
        .iter()
        .rposition(|it| service.is_none_or(|service| it.name.value == service));
    let Some(at) = found else {
        let message = match service {
            Some(service) => format!("--swap: there is no service \"{service}\""),
            None => "--swap: the system has no services".to_owned(),
        };
        return Err(Failure::usage(message, None));
    };
    let own = shown(&spec.services[at].image.value);
    if own == image {
        return Err(Failure::usage(
            "--swap: the service has that image already",
            None,
        ));
    }
    Ok(swap(spec, at, own, image.clone(), image, true))
}

fn by_itself(spec: &mut Spec) -> Result<Swap, String> {
    let named = |image: &Spanned<ImageSource>| match &image.value {
        ImageSource::Image(text) => Some(text.clone()),
        ImageSource::Debian(_) | ImageSource::Builtin(_) => None,
    };
    let Some(last) = spec.services.iter().rposition(|it| it.job().is_none()) else {
        return Err("the system has no services with an image".into());
    };
    let own = shown(&spec.services[last].image.value);
    let containers = spec.services.iter().rev();
    let others = containers.chain(&spec.onboot).chain(&spec.onshutdown);
    let other = others
        .filter_map(|container| named(&container.image))
        .find(|image| *image != own);
    let Some(other) = other else {
        let text = "the system's containers have no other image; name one with --swap IMAGE";
        return Err(text.into());
    };
    Ok(swap(spec, last, other.clone(), own, other, false))
}

fn swap(
    spec: &mut Spec,
    at: usize,
    from: String,
    to: String,
    other: String,
    to_other: bool,
) -> Swap {
    spec.services[at].image.value = ImageSource::Image(other);
    Swap {
        service: spec.services[at].name.value.clone(),
        from,
        to,
        yaml: dry_run(spec),
        to_other,
    }
}

fn shown(image: &ImageSource) -> String {
    match image {
        ImageSource::Image(text) => text.clone(),
        ImageSource::Debian(debian) => {
            let packages = debian.packages.iter().map(|package| package.value.as_str());
            format!("debian: {}", packages.collect::<Vec<_>>().join(" "))
        }
        ImageSource::Builtin(job) => format!("builtin: {job}"),
    }
}

/// Makes paths absolute that begin where their YAML lies: the new one lies elsewhere.
fn make_absolute(spec: &mut Spec, home: Option<&Path>) {
    let sources = spec
        .kernel
        .iter_mut()
        .filter_map(|kernel| kernel.image.as_mut());
    let containers = spec
        .onboot
        .iter_mut()
        .chain(&mut spec.onshutdown)
        .chain(&mut spec.services)
        .map(|container| &mut container.image);
    let volumes = spec
        .volumes
        .iter_mut()
        .filter_map(|volume| volume.image.as_mut());
    for image in sources.chain(containers).chain(volumes) {
        let directory = directory_of(image.at.file());
        absolute(&mut image.value, &directory, home);
    }
    for entry in &mut spec.init {
        let directory = directory_of(entry.at.file());
        if let InitEntry::Image(image) = &mut entry.value {
            absolute(image, &directory, home);
        }
    }
}

fn directory_of(file: &str) -> PathBuf {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.into());
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

fn absolute(image: &mut ImageSource, directory: &Path, home: Option<&Path>) {
    match image {
        ImageSource::Image(text) => {
            // What cannot be read stays: the build says what is wrong with it.
            if let Ok(name) = ImageName::parse(text)
                && !matches!(name, ImageName::Registry(_))
                && let Ok(name) = name.resolve_paths(directory, home)
            {
                *text = name.to_string();
            }
        }
        ImageSource::Debian(debian) => {
            if let Some(keyring) = &mut debian.keyring {
                keyring.value = directory.join(&keyring.value).display().to_string();
            }
        }
        ImageSource::Builtin(_) => {}
    }
}

/// Returns what a build of this system with an empty cache gets from elsewhere.
pub(super) fn fetched(spec: &Spec) -> Vec<String> {
    let kernel = spec
        .kernel
        .iter()
        .filter_map(|kernel| kernel.image.as_ref());
    let init = spec.init.iter().filter_map(|entry| match &entry.value {
        InitEntry::Image(image) => Some(image),
        InitEntry::Kiln => None,
    });
    let containers = spec.onboot.iter().chain(&spec.onshutdown);
    let containers = containers.chain(&spec.services).map(|it| &it.image.value);
    let volumes = spec.volumes.iter().filter_map(|it| it.image.as_ref());
    let mut found: Vec<String> = Vec::new();
    let images = kernel.chain(volumes).map(|image| &image.value);
    for image in images.chain(init).chain(containers) {
        let local = match image {
            ImageSource::Image(text) => {
                !matches!(ImageName::parse(text), Ok(ImageName::Registry(_)))
            }
            ImageSource::Debian(_) => false,
            ImageSource::Builtin(_) => true,
        };
        let image = shown(image);
        if !local && !found.contains(&image) {
            found.push(image);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
kernel: {image: 'directory:./kernel'}
init: [kiln, 'oci:./init']
onboot: [{name: setup, image: setup}]
services:
  - {name: web, image: 'nginx:1.27'}
  - {name: db, image: 'oci:../db:16'}
";

    fn chosen(yaml: &str, wanted: Option<&str>) -> Result<Result<Swap, String>, Failure> {
        let spec = Spec::parse(yaml.as_bytes(), "/d/system.yml").unwrap();
        choose(&spec, wanted, Path::new("/here"), Some(Path::new("/home")))
    }

    #[test]
    fn the_last_service_comes_back_from_another_image() {
        let swap = chosen(YAML, None).unwrap().unwrap();
        assert_eq!(
            (&*swap.service, &*swap.from, &*swap.to, swap.to_other),
            ("db", "nginx:1.27", "oci:/d/../db:16", false)
        );
        // Its YAML means the same from anywhere, but for that image.
        let other = Spec::parse(swap.yaml.as_bytes(), "/elsewhere/other.yml").unwrap();
        let image = |spec: &Spec, at: usize| shown(&spec.services[at].image.value);
        assert_eq!(image(&other, 0), "nginx:1.27");
        assert_eq!(image(&other, 1), "nginx:1.27");
        assert!(swap.yaml.contains("directory:/d/kernel"), "{}", swap.yaml);
        assert!(swap.yaml.contains("oci:/d/init"), "{}", swap.yaml);
        assert!(swap.yaml.contains("- kiln"), "{}", swap.yaml);
    }

    #[test]
    fn a_named_image_takes_a_services_place() {
        let swap = chosen(YAML, Some("web=docker-archive:./new.tar"))
            .unwrap()
            .unwrap();
        assert_eq!(
            (&*swap.service, &*swap.from, &*swap.to, swap.to_other),
            ("web", "nginx:1.27", "docker-archive:/here/new.tar", true)
        );
        let swap = chosen(YAML, Some("oci:/a=b/c")).unwrap().unwrap();
        assert_eq!((&*swap.service, &*swap.to), ("db", "oci:/a=b/c"));
        for wrong in ["nobody=nginx", "web=nginx:1.27", "web=", "web=a b"] {
            let failure = chosen(YAML, Some(wrong)).unwrap_err();
            assert_eq!(failure.code, crate::exit::USAGE, "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_swapped_has_a_reason() {
        let reason = |yaml| chosen(yaml, None).unwrap().unwrap_err();
        assert!(reason("init: [kiln]").contains("no services"));
        let one = "services: [{name: a, image: x}, {name: b, image: x}]";
        assert!(reason(one).contains("no other image"));
    }

    #[test]
    fn what_is_fetched_is_named_once() {
        let spec = Spec::parse(YAML.as_bytes(), "/d/system.yml").unwrap();
        assert_eq!(fetched(&spec), ["setup", "nginx:1.27"]);
    }
}
