//! Members of a layer's tar become entries of its tree.
//!
//! Enters: members in archive order. Leaves: a tree in which hard links inside the layer are
//! resolved, whiteouts (OCI image-spec, `layer.md`) are marks, and no path leaves the root.

use std::collections::HashMap;

use kiln_cache::{Cache, Digest};

use super::tar::{Member, MemberKind};
use super::unpack::Options;
use super::{Content, Entry, Kind, TreeError, TreePath, TreeWriter, path};

/// Stands for the pack's name, which is known only at its end.
const PACK: Digest = Digest::from_bytes([0; 32]);
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// aufs's own bookkeeping, which old images carry.
const AUFS: &[u8] = b".wh..wh.";

pub(super) struct Indexer<'o> {
    options: Options<'o>,
    writer: TreeWriter,
    /// The latest entry of each path, for hard links.
    latest: HashMap<Box<[u8]>, usize>,
    removed: Vec<TreePath>,
    opaque: Vec<TreePath>,
}

impl<'o> Indexer<'o> {
    pub(super) fn new(options: &Options<'o>) -> Self {
        Self {
            options: *options,
            writer: TreeWriter::new(),
            latest: HashMap::new(),
            removed: Vec::new(),
            opaque: Vec::new(),
        }
    }

    /// Takes the next member.
    pub(super) fn take(&mut self, member: Member) -> Result<(), String> {
        let Some(place) = self.place(&member.path, member.kind)? else {
            return Ok(());
        };
        if !self.options.literal_whiteouts && self.whiteout(&place)? {
            return Ok(());
        }
        let too_large = |error: TreeError| error.to_string();
        if member.kind == MemberKind::HardLink {
            let Some(target) = self.place(&member.link, MemberKind::File)? else {
                return Err(format!(
                    "\"{place}\" is a hard link to a path that is left out"
                ));
            };
            if let Some(found) = self.latest.get(target.as_bytes()).copied() {
                if self.writer.kind(found) == Some(Kind::Directory) {
                    return Err(format!(
                        "\"{place}\" is a hard link to the directory \"{target}\""
                    ));
                }
                self.remember(&place);
                return self.writer.link(found, place.as_bytes()).map_err(too_large);
            }
            // A file of a lower layer.
            let mut entry = entry(place, Kind::HardLink, &member);
            entry.link = target.as_bytes().to_vec();
            return self.add(&entry);
        }
        let kind = match member.kind {
            MemberKind::File | MemberKind::HardLink => Kind::File,
            MemberKind::Symlink => Kind::Symlink,
            MemberKind::CharDevice => Kind::CharDevice,
            MemberKind::BlockDevice => Kind::BlockDevice,
            MemberKind::Directory => Kind::Directory,
            MemberKind::Fifo => Kind::Fifo,
        };
        let mut entry = entry(place, kind, &member);
        match kind {
            Kind::File => {
                entry.size = member.size;
                if member.size > 0 {
                    let content = Content {
                        pack: PACK,
                        offset: member.offset,
                        digest: member.digest,
                    };
                    entry.content = Some(content);
                    entry.extents = member.extents;
                }
            }
            Kind::Symlink if member.link.is_empty() => {
                return Err(format!("\"{}\" is a symbolic link to nothing", entry.path));
            }
            Kind::Symlink => entry.link = member.link,
            _ => entry.device = member.device,
        }
        self.add(&entry)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), String> {
        self.remember(&entry.path);
        self.writer.add(entry).map_err(|error| error.to_string())
    }

    fn remember(&mut self, path: &TreePath) {
        self.latest
            .insert(path.as_bytes().into(), self.writer.len());
    }

    fn place(&self, raw: &[u8], kind: MemberKind) -> Result<Option<TreePath>, String> {
        let path = TreePath::parse(raw).map_err(|error| {
            format!(
                "\"{}\" {error}",
                String::from_utf8_lossy(raw).escape_debug()
            )
        })?;
        Ok(match self.options.map {
            Some(map) => map(&path, kind),
            None => Some(path),
        })
    }

    /// Takes note of a whiteout; false when the path is none.
    fn whiteout(&mut self, place: &TreePath) -> Result<bool, String> {
        let Some(hidden) = path::name(place.as_bytes()).strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        let parent = TreePath::from_clean(path::parent(place.as_bytes()).unwrap_or_default());
        if path::name(place.as_bytes()) == OPAQUE {
            self.opaque.push(parent);
        } else if path::name(place.as_bytes()).starts_with(AUFS) {
            // Says nothing about files.
        } else if matches!(hidden, b"" | b"." | b"..") {
            return Err(format!("\"{place}\" is a whiteout of nothing"));
        } else {
            self.removed.push(parent.join(hidden));
        }
        Ok(true)
    }

    /// Writes the tree.
    pub(super) fn finish(
        mut self,
        cache: &Cache,
        pack: Digest,
    ) -> Result<(Digest, u64), TreeError> {
        self.writer.rename_pack(&PACK, pack);
        // What a layer removes and makes again hides what lower layers have there.
        self.writer.hide_below(
            &self.removed,
            &Entry::new(TreePath::default(), Kind::Whiteout, 0),
        )?;
        // An opaque mark without its directory hides what is below, not the directory itself.
        let mut mark = Entry::new(TreePath::default(), Kind::Whiteout, 0);
        mark.opaque = true;
        self.writer.hide_below(&self.opaque, &mark)?;
        self.writer.finish(cache)
    }
}

fn entry(path: TreePath, kind: Kind, member: &Member) -> Entry {
    Entry {
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        mtime_ns: member.mtime_ns,
        xattrs: member.xattrs.clone(),
        ..Entry::new(path, kind, member.mode)
    }
}
