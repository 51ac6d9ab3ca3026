//! Bundles: the directories below `/containers`, and what `runtime.json` asks of the host.
//!
//! A bundle is read, prepared (its root and other mounts made in the host's namespace), run by
//! `container`, and tidied up. Only `runtime.json` knows whether a root is an overlay or a bind.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};

use crate::error::{Context, Error, Result};
use crate::options;
use crate::policy::Policy;
use crate::spec::{Config, Mount, Runtime, SPEC_BYTES_MAX};
use crate::{rootfs, say};

/// Where bundles are.
pub(crate) const CONTAINERS: &str = "/containers";

/// Where bundles are that came later, each as `NUMBER/ID`, and take the place of others.
pub(crate) const REPLACEMENTS: &str = "/run/kiln/services";

/// When a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// One after the other, before services.
    Onboot,
    /// All at once, for as long as they like.
    Service,
    /// One after the other, before power-off.
    Onshutdown,
}

impl Phase {
    /// Returns what a container of this phase is called in messages.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Onboot => "onboot",
            Self::Service => "service",
            Self::Onshutdown => "onshutdown",
        }
    }

    /// Returns the directory below `/containers`.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Onboot => "onboot",
            Self::Service => "services",
            Self::Onshutdown => "onshutdown",
        }
    }
}

/// One container, read but not started.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// Name of the directory: `000-dhcpcd`, `nginx`. Log files are named so.
    pub(crate) id: String,
    /// Its name, or one with a number if another of that name may run: control group and
    /// notification socket are named so.
    pub(crate) unique: String,
    /// Its sockets may be bound where others are.
    pub(crate) shares_ports: bool,
    /// When it runs.
    pub(crate) phase: Phase,
    /// `config.json`.
    pub(crate) config: Config,
    /// `runtime.json`.
    pub(crate) runtime: Runtime,
    /// What its annotations ask for.
    pub(crate) policy: Policy,
}

/// Returns the directory of a bundle by its id.
pub(crate) fn directory(phase: Phase, id: &str) -> PathBuf {
    Path::new(CONTAINERS).join(phase.directory()).join(id)
}

/// Returns the number of a bundle that came later.
pub(crate) fn number_of(directory: &Path) -> Option<u32> {
    let mut rest = directory.strip_prefix(REPLACEMENTS).ok()?.components();
    rest.next()?.as_os_str().to_str()?.parse().ok()
}

/// Returns the bundle directories of a phase, in name order; none if the phase has no directory.
pub(crate) fn list(phase: Phase) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(Path::new(CONTAINERS).join(phase.directory()))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

/// Returns whether a bundle of the boot has a word in its `runtime.json`, which nobody has parsed yet.
pub(crate) fn mention(word: &str) -> bool {
    let mut all = [Phase::Onboot, Phase::Service].into_iter().flat_map(list);
    all.any(|directory| {
        let bytes = read_spec(&directory.join("runtime.json")).ok().flatten();
        let text = bytes.unwrap_or_default();
        text.windows(word.len()).any(|part| part == word.as_bytes())
    })
}

/// Returns the name people gave a container: `000-dhcpcd` → `dhcpcd`.
pub(crate) fn short_name(id: &str) -> &str {
    match id.split_once('-') {
        Some((index, name))
            if index.len() >= 3
                && index.bytes().all(|b| b.is_ascii_digit())
                && !name.is_empty() =>
        {
            name
        }
        _ => id,
    }
}

fn read_spec(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause).context(|| path.display()),
    };
    let mut bytes = Vec::new();
    file.take(SPEC_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .context(|| path.display())?;
    if bytes.len() as u64 > SPEC_BYTES_MAX {
        return Err(Error::new(format!(
            "{}: larger than {SPEC_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

impl Bundle {
    /// Reads the two files of a bundle.
    pub(crate) fn read(directory: &Path, phase: Phase) -> Result<Self> {
        let config = read_spec(&directory.join("config.json"))?
            .ok_or_else(|| Error::new("config.json: missing"))?;
        let runtime = match read_spec(&directory.join("runtime.json"))? {
            Some(bytes) => Runtime::parse(&bytes)?,
            None => Runtime::default(),
        };
        let id = directory.file_name().unwrap_or_default().to_string_lossy();
        let suffix = number_of(directory).map_or_else(String::new, |number| format!(".{number}"));
        let mut config = Config::parse(&config)?;
        let policy = Policy::of(&config.annotations).context(|| "config.json")?;
        config.process.terminal |= policy.terminal;
        if !config.linux.cgroups_path.is_empty() {
            config.linux.cgroups_path.push_str(&suffix);
        }
        Ok(Self {
            directory: directory.to_owned(),
            unique: format!("{id}{suffix}"),
            id: id.into_owned(),
            shares_ports: false,
            phase,
            config,
            runtime,
            policy,
        })
    }

    /// Returns the container's root as the host sees it.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join(&self.config.root.path)
    }

    /// Returns the directories its root consists of, the topmost first, as an overlay names them.
    pub(crate) fn layers(&self) -> Option<String> {
        let root = self.rootfs();
        let mut mounts = self.runtime.mounts.iter().rev();
        let mount = mounts.find(|mount| Path::new(&mount.destination) == root)?;
        if mount.kind != "overlay" {
            return Some(mount.source.clone());
        }
        let mut options = mount.options.iter().flat_map(|option| option.split(','));
        let lower = options.find_map(|option| option.strip_prefix("lowerdir="));
        lower.map(str::to_owned)
    }

    /// Makes the mounts, directories and control groups of `runtime.json`. Those mounts that are not
    /// the container's own are still there when it is started `again`.
    pub(crate) fn prepare(&self, again: bool) -> Result<()> {
        for (index, mount) in self.runtime.mounts.iter().enumerate() {
            let is_hosts = mount.destination.starts_with('/')
                && !Path::new(&mount.destination).starts_with(&self.directory);
            if again && is_hosts {
                continue;
            }
            self.mount(mount)
                .context(|| format!("runtime.json: mounts[{index}]: {}", mount.destination))?;
        }
        for path in &self.runtime.mkdir {
            self.on_host(path)
                .context(|| format!("runtime.json: mkdir: {path}"))?;
        }
        for name in &self.runtime.cgroups {
            if let Err(cause) = crate::cgroup::make(name) {
                say!("{}: runtime.json: cgroups: {cause}", self.id);
            }
        }
        Ok(())
    }

    /// Makes one mount of `runtime.json`; a destination that starts with `/` is the host's.
    fn mount(&self, wanted: &Mount) -> Result<()> {
        let parsed = options::parse(&wanted.options)?;
        if parsed.recursive != (0, 0) || parsed.id_map.is_some() || !wanted.uid_mappings.is_empty()
        {
            return Err(Error::new(
                "recursive attributes and id maps: only mounts of config.json can have them",
            ));
        }
        for item in parsed.data.split(',') {
            if let Some(("upperdir" | "workdir", path)) = item.split_once('=') {
                make_directories(Path::new(path))?;
            }
        }
        let target = self.on_host(&wanted.destination)?;
        let data = std::ffi::CString::new(parsed.data.as_str()).context(|| "options")?;
        // The build's ["remount", "private"] means to change the propagation; with MS_REMOUNT in
        // the same call the kernel would ignore that.
        let only_propagation = parsed.flags == options::REMOUNT && parsed.data.is_empty();
        if !only_propagation {
            let flags = MountFlags::from_bits_retain(parsed.flags);
            mount::mount(
                wanted.source.as_str(),
                &target,
                wanted.kind.as_str(),
                flags,
                data.as_c_str(),
            )
            .context(|| format!("mount {} {}", wanted.kind, wanted.source))?;
        }
        for change in parsed.propagation {
            mount::mount_change(&target, MountPropagationFlags::from_bits_retain(change))
                .context(|| "propagation")?;
        }
        Ok(())
    }

    /// Returns a directory of the host, made if missing; a relative one is inside the root, where
    /// symbolic links of the image must not lead out.
    fn on_host(&self, path: &str) -> Result<PathBuf> {
        if path.starts_with('/') {
            let path = Path::new(path);
            make_directories(path)?;
            return Ok(path.to_owned());
        }
        let inside = rootfs::Inside::open(&self.rootfs())?;
        let directory = inside.directory(path)?;
        fs::read_link(rootfs::fd_path(&directory)).context(|| path)
    }

    /// Undoes the root's mounts, so that a container that has ended keeps no memory.
    ///
    /// Lazy, since a process that outlived its container may still be in there.
    pub(crate) fn release(&self) {
        let mut own: Vec<&str> = self
            .runtime
            .mounts
            .iter()
            .map(|m| m.destination.as_str())
            .filter(|d| Path::new(d).starts_with(&self.directory))
            .collect();
        own.dedup();
        for target in own.iter().rev() {
            let _ = mount::unmount(*target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

/// `mkdir -p`, mode 0755. Existing directories cost no write, so a read-only root is fine.
pub(crate) fn make_directories(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .context(|| format!("mkdir {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_index() {
        assert_eq!(short_name("000-dhcpcd"), "dhcpcd");
        assert_eq!(short_name("1000-a-b"), "a-b");
        assert_eq!(short_name("nginx"), "nginx");
        assert_eq!(short_name("my-app"), "my-app");
        assert_eq!(short_name("000-"), "000-");
    }

    #[test]
    fn a_bundle_that_came_later_has_a_number() {
        assert_eq!(number_of(Path::new("/run/kiln/services/12/web")), Some(12));
        assert_eq!(number_of(Path::new("/containers/services/12")), None);
    }

    #[test]
    fn a_bundle_needs_config_and_only_config() {
        let directory = tempfile::tempdir().unwrap();
        let error = Bundle::read(directory.path(), Phase::Service).unwrap_err();
        assert_eq!(error.to_string(), "config.json: missing");
        fs::write(
            directory.path().join("config.json"),
            r#"{"process":{"args":["a"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"mount"}]}}"#,
        )
        .unwrap();
        let bundle = Bundle::read(directory.path(), Phase::Service).unwrap();
        assert!(bundle.runtime.mounts.is_empty());
        assert!(bundle.rootfs().ends_with("rootfs"));
    }
}
