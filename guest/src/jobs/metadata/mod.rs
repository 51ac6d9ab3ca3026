//! `metadata`: what a cloud, a CD-ROM or a file says about this machine, as LinuxKit's
//! `pkg/metadata` finds it.
//!
//! In: names of providers, in LinuxKit's order without any. Out: files below `/run/config`, and
//! the host name. Providers on the network are tried first, then disks, then files, and the first
//! that has anything wins. That there is none is no failure: the same image runs elsewhere.
//!
//! | file | knows |
//! |---|---|
//! | `providers`, `documents` | services on the network |
//! | `client`, `http` | how they are asked |
//! | `disk`, `nocloud` | disks |
//! | `output` | the files written |

mod client;
mod disk;
mod documents;
#[cfg(test)]
mod fake;
mod http;
mod nocloud;
mod output;
mod providers;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;

use self::client::Client;
use self::providers::PATHS;
use super::arguments::Arguments;
use super::tell;
use crate::error::{Context, Error, Result};

/// LinuxKit's order, and behind each class what LinuxKit does not know.
const ORDER: [&str; 12] = [
    "aws",
    "gcp",
    "hetzner",
    "openstack",
    "scaleway",
    "vultr",
    "digitalocean",
    "equinixmetal",
    "metaldata",
    "azure",
    "cdrom",
    "configdrive",
];
/// Largest file of `file=PATH`.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// `HOST_NAME_MAX` of Linux.
const HOSTNAME_BYTES_MAX: usize = 64;

/// What a provider said.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Text of the file `provider`.
    provider: String,
    hostname: Option<Vec<u8>>,
    /// Lines of `authorized_keys`.
    keys: Option<Vec<u8>>,
    /// The provider's own files.
    files: Vec<(&'static str, Vec<u8>)>,
    userdata: Option<Vec<u8>>,
}

impl Found {
    fn new(provider: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            hostname: None,
            keys: None,
            files: Vec::new(),
            userdata: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.hostname.is_none() && self.keys.is_none() && self.userdata.is_none()
    }
}

/// Where everything is, and the three acts that only root can do.
struct Places {
    config: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
    mount_point: PathBuf,
    mount: fn(&Path, &Path, &str) -> Result<()>,
    unmount: fn(&Path) -> Result<()>,
    set_hostname: fn(&str) -> Result<()>,
}

/// `metadata [-v] [PROVIDER…]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let places = Places {
        config: "/run/config".into(),
        sys: "/sys".into(),
        dev: "/dev".into(),
        mount_point: "/run/kiln-metadata".into(),
        mount: |device, at, kind| {
            let flags =
                MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount(device, at, kind, flags, None).context(|| "mount")
        },
        unmount: |at| rustix::mount::unmount(at, UnmountFlags::DETACH).context(|| "unmount"),
        set_hostname: |name| {
            rustix::system::sethostname(name.as_bytes()).context(|| format!("hostname {name}"))
        },
    };
    find_and_write(args, &places, &Client::new(&places.sys))
}

fn find_and_write(args: &[String], places: &Places, client: &Client) -> Result<()> {
    let args = Arguments::parse(args, &[], &["v"])?;
    let wanted = match args.words.as_slice() {
        [] => &ORDER[..],
        words => words,
    };
    for name in wanted {
        check(name)?;
    }
    let network = wanted
        .iter()
        .find_map(|name| from_network(name, client, args.is_on("v")));
    let found = network
        .or_else(|| wanted.iter().find_map(|name| from_disk(name, places)))
        .or_else(|| wanted.iter().find_map(|name| from_file(name)));
    let Some(found) = found else {
        tell!("metadata: no provider has anything");
        return Ok(());
    };
    tell!("metadata: from {}", found.provider);
    output::write(&places.config, &found)?;
    if let Some(name) = found.hostname.as_deref().and_then(hostname) {
        (places.set_hostname)(&name)?;
        tell!("metadata: the host name is {name}");
    }
    Ok(())
}

/// Refuses a name that is no provider before any is asked.
fn check(name: &str) -> Result<()> {
    if name == "vmware" {
        return Err(Error::new(
            "vmware is not built in; use LinuxKit's image linuxkit/metadata for it",
        ));
    }
    if ORDER.contains(&name) || name == "nocloud" || name.starts_with("file=") {
        return Ok(());
    }
    Err(Error::new(format!(
        "unknown provider {name:?}; there are {}, nocloud and file=PATH",
        ORDER.join(", ")
    )))
}

fn from_network(name: &str, client: &Client, verbose: bool) -> Option<Found> {
    let found = match name {
        "scaleway" => documents::scaleway(client),
        "equinixmetal" => documents::equinix(client),
        "azure" => documents::azure(client),
        _ => PATHS.iter().find(|p| p.name == name)?.find(client),
    };
    if let (Err(cause), true) = (&found, verbose) {
        tell!("metadata: {name}: {cause}");
    }
    found.ok()
}

fn from_disk(name: &str, places: &Places) -> Option<Found> {
    match name {
        "cdrom" => disk::cdrom(places),
        "nocloud" => disk::no_cloud(places),
        "configdrive" => disk::config_drive(places),
        _ => None,
    }
}

fn from_file(name: &str) -> Option<Found> {
    let path = name.strip_prefix("file=")?;
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 <= FILE_BYTES_MAX => {
            let mut found = Found::new(path);
            found.userdata = Some(bytes);
            Some(found)
        }
        Ok(_) => {
            tell!("metadata: {path}: more than {FILE_BYTES_MAX} bytes");
            None
        }
        Err(cause) => {
            tell!("metadata: {path}: {cause}");
            None
        }
    }
}

/// Returns what the kernel takes as a host name. A long one, as GCP has, is cut at its first dot.
fn hostname(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut name = text.trim();
    if name.len() > HOSTNAME_BYTES_MAX {
        name = name.split('.').next()?;
    }
    let is_fine = (1..=HOSTNAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_fine {
        tell!("metadata: {name:?} is no host name");
    }
    is_fine.then(|| name.to_owned())
}

/// Says what a provider does not have, and goes on without.
fn say_missing(title: &str, what: &str, value: Result<Vec<u8>>) -> Option<Vec<u8>> {
    match value {
        Ok(value) => Some(value),
        Err(cause) => {
            tell!("metadata: {title}: no {what}: {cause}");
            None
        }
    }
}

/// Reads JSON. The only place that does: what reads it is generated anew for each.
#[inline(never)]
fn json(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|cause| Error::new(format!("JSON: {cause}")))
}

/// Returns a text in a JSON document, unless it is empty.
#[inline(never)]
fn text<'a>(document: &'a Value, pointer: &str) -> Option<&'a str> {
    let text = document.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then_some(text)
}
