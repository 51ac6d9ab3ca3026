//! What stands after `image:`: a registry reference, or a local layout, archive or directory.
//!
//! Enters: text. Leaves: a checked [`ImageName`], whose paths the caller ties to the YAML's place.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::reference::{NAME_MAX, Reference, ReferenceError};

/// What an `image:` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageName {
    /// An image in a registry.
    Registry(Reference),
    /// `oci:PATH[:TAG]`: an OCI image layout directory; the tag may be a `sha256:` digest.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// Value of `org.opencontainers.image.ref.name`, or a manifest's digest.
        tag: Option<String>,
    },
    /// `oci-archive:PATH[:TAG]`: a tar of such a directory.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// As in a directory.
        tag: Option<String>,
    },
    /// `docker-archive:PATH[:REFERENCE]`: a tar of `docker save` or skopeo.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// One of the archive's repository tags.
        reference: Option<String>,
    },
    /// `directory:PATH`: a directory tree as it stands.
    Directory(PathBuf),
}

impl ImageName {
    /// Parses what stands after `image:`.
    ///
    /// A transport is one only before a path (`/`, `./`, `../` or `~/`): `oci:latest` is the tag
    /// `latest` of an image `oci`. The path ends at the next colon, as in skopeo.
    ///
    /// # Errors
    /// When the text names nothing, with the place at fault.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let is_path = |rest: &str| {
            ["/", "./", "../", "~/"]
                .iter()
                .any(|start| rest.starts_with(start))
        };
        let Some((transport, rest)) = text.split_once(':').filter(|(_, rest)| is_path(rest)) else {
            return text.parse().map(Self::Registry);
        };
        let start = transport.len() + 1;
        let fail = |offset: usize, reason: String| ReferenceError {
            text: text.chars().take(NAME_MAX * 4).collect(),
            offset,
            reason,
        };
        if let Some(at) = rest.find('\0') {
            return Err(fail(start + at, "a path cannot hold a NUL".to_owned()));
        }
        let split = || match rest.split_once(':') {
            Some((path, "")) => Err(fail(
                start + path.len() + 1,
                "nothing follows the colon".to_owned(),
            )),
            Some((path, name)) => Ok((PathBuf::from(path), Some(name.to_owned()))),
            None => Ok((PathBuf::from(rest), None)),
        };
        match transport {
            "oci" => split().map(|(path, tag)| Self::OciLayout { path, tag }),
            "oci-archive" => split().map(|(path, tag)| Self::OciArchive { path, tag }),
            "docker-archive" => {
                split().map(|(path, reference)| Self::DockerArchive { path, reference })
            }
            "directory" => Ok(Self::Directory(PathBuf::from(rest))),
            _ => Err(fail(
                0,
                format!(
                    "unknown transport \"{transport}\", expected oci, oci-archive, docker-archive or directory"
                ),
            )),
        }
    }

    /// Joins a relative path to `base` (the YAML's directory), and `~/` to `home`.
    ///
    /// # Errors
    /// When the path begins with `~/` and there is no home.
    pub fn resolve_paths(self, base: &Path, home: Option<&Path>) -> Result<Self, ReferenceError> {
        let join = |path: PathBuf| match path.strip_prefix("~") {
            Err(_) => Ok(tidy(&base.join(path))),
            Ok(below) => match home {
                Some(home) => Ok(tidy(&home.join(below))),
                None => Err(ReferenceError {
                    text: path.display().to_string(),
                    offset: 0,
                    reason: "the home directory is not known".to_owned(),
                }),
            },
        };
        Ok(match self {
            Self::Registry(reference) => Self::Registry(reference),
            Self::OciLayout { path, tag } => Self::OciLayout {
                path: join(path)?,
                tag,
            },
            Self::OciArchive { path, tag } => Self::OciArchive {
                path: join(path)?,
                tag,
            },
            Self::DockerArchive { path, reference } => Self::DockerArchive {
                path: join(path)?,
                reference,
            },
            Self::Directory(path) => Self::Directory(join(path)?),
        })
    }
}

/// Drops `.` components; `..` stays, because what it means depends on symbolic links.
fn tidy(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::OciLayout { path, tag } => ("oci", path, tag.as_deref()),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag.as_deref()),
            Self::DockerArchive { path, reference } => {
                ("docker-archive", path, reference.as_deref())
            }
            Self::Directory(path) => ("directory", path, None),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn transports_need_a_path() {
        let parse = |text: &str| ImageName::parse(text).unwrap();
        let oci = |path: &str, tag: Option<&str>| ImageName::OciLayout {
            path: path.into(),
            tag: tag.map(str::to_owned),
        };
        assert_eq!(parse("oci:/a/b"), oci("/a/b", None));
        assert_eq!(
            parse("oci:./a:docker.io/library/x:1"),
            oci("./a", Some("docker.io/library/x:1"))
        );
        assert_eq!(
            parse("oci:latest"),
            ImageName::Registry("oci:latest".parse().unwrap())
        );
        assert!(
            matches!(parse("directory:~/x:y"), ImageName::Directory(path) if path == Path::new("~/x:y"))
        );
        assert!(matches!(
            parse("docker-archive:../a.tar:nginx:1"),
            ImageName::DockerArchive { path, reference }
                if path == Path::new("../a.tar") && reference.as_deref() == Some("nginx:1")
        ));
        assert_eq!(ImageName::parse("oci:./a:").unwrap_err().offset, 8);
        assert!(
            ImageName::parse("dir:/a")
                .unwrap_err()
                .reason
                .contains("transport")
        );
        let home = Path::new("/home/me");
        let resolve = |text: &str| {
            parse(text)
                .resolve_paths(Path::new("/yaml"), Some(home))
                .unwrap()
        };
        assert_eq!(resolve("oci:./a:t"), oci("/yaml/a", Some("t")));
        assert_eq!(resolve("oci:../a"), oci("/yaml/../a", None));
        assert_eq!(resolve("oci:/a"), oci("/a", None));
        assert_eq!(resolve("oci:~/a"), oci("/home/me/a", None));
        assert!(parse("oci:~/a").resolve_paths(home, None).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_kept(text in "\\PC{0,80}") {
            match ImageName::parse(&text) {
                Ok(name) => prop_assert!(!name.to_string().is_empty()),
                Err(error) => prop_assert!(error.offset <= text.len()),
            }
        }
    }
}
