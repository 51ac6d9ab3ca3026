//! Kernel modules out of a package: their files under `lib/modules`.

use kiln_cache::{Cache, Digest};

use crate::tree::path::is_under;
use crate::tree::{Tree, TreeError, TreePath, TreeWriter};

/// Takes the modules of a kernel package's tree; `None` when it has none.
pub(super) fn modules(
    cache: &Cache,
    tree: &Tree,
    _patterns: Option<&[String]>,
) -> Result<Option<Digest>, TreeError> {
    let mut writer = TreeWriter::new();
    for entry in tree
        .iter()
        .filter(|entry| is_under(entry.path(), b"usr/lib/modules"))
    {
        let rest = entry.path().strip_prefix(b"usr/").unwrap_or_default();
        writer.copy_as(&entry, TreePath::from_clean(rest).as_bytes(), entry.group())?;
    }
    if writer.is_empty() {
        return Ok(None);
    }
    writer.finish(cache).map(|(digest, _)| Some(digest))
}
