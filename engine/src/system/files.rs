//! The `files` section as nodes to place, in order.
//!
//! Contents of host files are not read and parents not made here; a later node of the same path
//! replaces an earlier one.

use std::collections::BTreeMap;

use super::ids::Ids;
use crate::spec::{
    ErrorList, FileContent, FileEntry, MetadataFormat, Position, SpecErrors, relative_path,
};

/// Permission bits of files and links without a mode.
pub const FILE_MODE: u16 = 0o600;

/// Permission bits of directories without a mode.
pub const DIRECTORY_MODE: u16 = 0o700;

/// One node to place.
#[derive(Debug, Clone)]
pub struct FileNode {
    /// Relative to the root, without empty, `.` and `..` parts; never empty.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// At most 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Leave it out, parents included, when the source does not exist.
    pub optional: bool,
    /// Where it was written.
    pub at: Position,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link with its target, verbatim.
    Symlink(String),
    /// A file with these bytes.
    Contents(Vec<u8>),
    /// A file copied from the host: a path as written, relative to the working directory; a leading
    /// `~/` stands for the home directory.
    Source(String),
    /// The description itself, see [`super::metadata::metadata`].
    Metadata(MetadataFormat),
}

/// Decides what each entry becomes.
///
/// # Errors
/// Paths that leave the root and ids that name no container.
pub fn file_nodes(files: &[FileEntry], ids: &Ids) -> Result<Vec<FileNode>, SpecErrors> {
    let mut errors = ErrorList::default();
    let mut nodes = Vec::with_capacity(files.len());
    let mut placed = Placed::default();
    for file in files {
        let path = relative_path(&file.path.value)
            .and_then(|path| placed.place(&path, &file.content))
            .map_err(|message| file.path.at.error(message));
        let (uid, gid) = (
            ids.resolve(file.uid.as_ref()),
            ids.resolve(file.gid.as_ref()),
        );
        match (path, uid, gid) {
            (Ok(path), Ok(uid), Ok(gid)) => nodes.push(node(file, path, uid, gid)),
            (path, uid, gid) => {
                for error in [path.err(), uid.err(), gid.err()].into_iter().flatten() {
                    errors.push(|| error);
                }
            }
        }
    }
    errors.finish()?;
    Ok(nodes)
}

/// Links on the way to a file are followed this often, as the kernel does.
const LINKS_MAX: usize = 40;

/// What earlier entries put where; a link has its target, which later paths go through.
#[derive(Default)]
struct Placed<'a>(BTreeMap<String, &'a FileContent>);

impl<'a> Placed<'a> {
    /// Returns where an entry goes, past the links on its way, and takes note of it.
    fn place(&mut self, path: &str, content: &'a FileContent) -> Result<String, String> {
        let path = self.through_links(path)?;
        let below = format!("{path}/");
        let has_more = || self.0.range(below.clone()..).next();
        if !matches!(content, FileContent::Directory)
            && has_more().is_some_and(|(other, _)| other.starts_with(&below))
        {
            return Err(format!(
                "\"{path}\" has files below it, so that it must be a directory"
            ));
        }
        self.0.insert(path.clone(), content);
        Ok(path)
    }

    fn through_links(&self, path: &str) -> Result<String, String> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let above = path.match_indices('/').map(|(end, _)| end);
            let mut known = above.filter_map(|end| Some((end, *self.0.get(&path[..end])?)));
            let Some((end, content)) =
                known.find(|(_, content)| !matches!(content, FileContent::Directory))
            else {
                return Ok(path);
            };
            let FileContent::Symlink(target) = content else {
                return Err(format!(
                    "\"{}\" is a file, so that nothing can be below it",
                    &path[..end]
                ));
            };
            path = joined(&path[..end], target, &path[end..]);
        }
        Err(format!(
            "there are more than {LINKS_MAX} links on the way to \"{path}\""
        ))
    }
}

/// The path of what is `rest` below a link with this target; `..` stops at the root.
fn joined(link: &str, target: &str, rest: &str) -> String {
    let start = match target.starts_with('/') {
        true => "",
        false => link.rsplit_once('/').map_or("", |(parent, _)| parent),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in [start, target, rest]
        .into_iter()
        .flat_map(|it| it.split('/'))
    {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn node(file: &FileEntry, path: String, uid: u32, gid: u32) -> FileNode {
    let kind = match &file.content {
        FileContent::Directory => FileKind::Directory,
        FileContent::Symlink(target) => FileKind::Symlink(target.value.clone()),
        FileContent::Contents(text) => FileKind::Contents(text.value.clone().into_bytes()),
        FileContent::Source(source) => FileKind::Source(source.value.clone()),
        FileContent::Metadata(format) => FileKind::Metadata(*format),
    };
    let default = if kind == FileKind::Directory {
        DIRECTORY_MODE
    } else {
        FILE_MODE
    };
    let mode = file.mode.as_ref().map_or(default, |mode| mode.bits);
    FileNode {
        path,
        kind,
        mode,
        uid,
        gid,
        optional: file.optional,
        at: file.at.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn decides_nodes() {
        let yaml = "services: [{name: web, image: x}]
files:
- {path: /etc//web, directory: true, uid: web, gid: web}
- {path: etc/web/a, contents: \"é\\n\", mode: \"4755\"}
- {path: b, source: ~/b, optional: true}
- {path: c, symlink: ../../x}
- {path: d, metadata: json}
- {path: e, directory: true, mode: \"1777\"}
";
        let spec = Spec::parse(yaml.as_bytes(), "a.yml").unwrap();
        let nodes = file_nodes(&spec.files, &Ids::assign(&spec)).unwrap();
        let shown: Vec<String> = nodes
            .iter()
            .map(|node| {
                format!(
                    "{} {:?} {:o} {}:{} {} {}",
                    node.path, node.kind, node.mode, node.uid, node.gid, node.optional, node.at
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "etc/web Directory 700 100:100 false a.yml:3:4",
                "etc/web/a Contents([195, 169, 10]) 4755 0:0 false a.yml:4:4",
                "b Source(\"~/b\") 600 0:0 true a.yml:5:4",
                "c Symlink(\"../../x\") 600 0:0 false a.yml:6:4",
                "d Metadata(Json) 600 0:0 false a.yml:7:4",
                "e Directory 1777 0:0 false a.yml:8:4",
            ]
        );
    }

    #[test]
    fn paths_go_through_links_that_stand_before_them() {
        let yaml = "files:
- {path: run, directory: true}
- {path: var/run, symlink: ../run}
- {path: var/run/a, contents: ''}
- {path: abs, symlink: /usr//lib/.}
- {path: abs/b/c, contents: ''}
- {path: chain, symlink: abs}
- {path: chain/d, contents: ''}
- {path: up, symlink: ../../../up2}
- {path: up/e, contents: ''}
- {path: chain, directory: true}
- {path: chain/f, contents: ''}
- {path: abs-not/g, contents: ''}
";
        let spec = Spec::parse(yaml.as_bytes(), "a.yml").unwrap();
        let nodes = file_nodes(&spec.files, &Ids::default()).unwrap();
        let paths: Vec<&str> = nodes.iter().map(|node| node.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "run",
                "var/run",
                "run/a",
                "abs",
                "usr/lib/b/c",
                "chain",
                "usr/lib/d",
                "up",
                "up2/e",
                "chain",
                "chain/f",
                "abs-not/g",
            ]
        );
    }

    #[test]
    fn nothing_is_below_a_file() {
        let yaml = "files:
- {path: a, contents: ''}
- {path: a/b, contents: ''}
- {path: c/d/e, contents: ''}
- {path: c, symlink: x}
- {path: l, symlink: l}
- {path: l/m, contents: ''}
- {path: a, directory: true}
- {path: a/b, contents: ''}
";
        let spec = Spec::parse(yaml.as_bytes(), "a.yml").unwrap();
        let errors = file_nodes(&spec.files, &Ids::default()).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "a.yml:3:10: \"a\" is a file, so that nothing can be below it
a.yml:5:10: \"c\" has files below it, so that it must be a directory
a.yml:7:10: there are more than 40 links on the way to \"l/m\""
        );
    }

    #[test]
    fn reports_every_unknown_id() {
        let yaml =
            "files: [{path: a, contents: '', uid: x, gid: y}, {path: b, contents: '', gid: z}]";
        let spec = Spec::parse(yaml.as_bytes(), "a.yml").unwrap();
        let errors = file_nodes(&spec.files, &Ids::assign(&spec)).unwrap_err();
        let columns: Vec<usize> = errors.errors().iter().map(|error| error.column).collect();
        assert_eq!(columns, [38, 46, 79]);
    }
}
