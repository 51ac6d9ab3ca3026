//! Volumes: an overlay in RAM over what the build put into `/containers/volumes/NAME/lower`.
//!
//! Contents are those of the image at each boot. A volume without `tmp` is read-only. A damaged
//! volume is said and does not stop the others.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use rustix::mount::{self, MountFlags};

use crate::bundle::{CONTAINERS, make_directories};
use crate::error::{Context, Error, Result};
use crate::say;

/// Mounts every volume.
pub(crate) fn mount_all() {
    let directory = Path::new(CONTAINERS).join("volumes");
    let mut all: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    all.sort();
    for volume in all {
        if let Err(cause) = mount_one(&volume) {
            say!("volume {}: {cause}", volume.display());
        }
    }
}

/// Returns whether there is any volume, for which the overlay module is needed.
pub(crate) fn exist() -> bool {
    Path::new(CONTAINERS).join("volumes").is_dir()
}

fn mount_one(volume: &Path) -> Result<()> {
    let (lower, tmp, merged) = (
        volume.join("lower"),
        volume.join("tmp"),
        volume.join("merged"),
    );
    for needed in [&lower, &merged] {
        if !needed.is_dir() {
            return Err(Error::new(format!("{} is missing", needed.display())));
        }
    }
    if !tmp.is_dir() {
        mount::mount_bind(&lower, &merged).context(|| "bind")?;
        let flags = crate::options::BIND | crate::options::REMOUNT | crate::options::RDONLY;
        return mount::mount("", &merged, "", MountFlags::from_bits_retain(flags), None)
            .context(|| "read-only");
    }
    mount::mount("tmpfs", &tmp, "tmpfs", MountFlags::RELATIME, None).context(|| "tmpfs")?;
    make_directories(&tmp.join("upper"))?;
    make_directories(&tmp.join("work"))?;
    let data = format!(
        "lowerdir={},upperdir={tmp}/upper,workdir={tmp}/work",
        lower.display(),
        tmp = tmp.display()
    );
    let data = CString::new(data).context(|| "name")?;
    mount::mount(
        "overlay",
        &merged,
        "overlay",
        MountFlags::RELATIME,
        data.as_c_str(),
    )
    .context(|| "overlay")
}
