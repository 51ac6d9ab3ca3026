//! Images made by umoci, out of files a test names.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Space, tool};

/// An image being made: one layer per call of [`Image::layer`].
pub(crate) struct Image<'a> {
    space: &'a Space,
    name: String,
    layers: usize,
}

impl Space {
    /// Starts an empty image in an OCI layout of its own.
    pub(crate) fn image(&self, name: &str) -> Image<'_> {
        let image = Image {
            space: self,
            name: name.to_owned(),
            layers: 0,
        };
        fs::create_dir_all(self.path("oci")).unwrap();
        tool("umoci", &["init", "--layout", &image.layout()]);
        tool("umoci", &["new", "--image", &image.tagged()]);
        image
    }
}

impl Image<'_> {
    /// The path of the layout.
    pub(crate) fn layout(&self) -> String {
        self.space
            .path(&format!("oci/{}", self.name))
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn tagged(&self) -> String {
        format!("{}:latest", self.layout())
    }

    /// Adds a layer of files: path and content; a content that starts with `->` is a symbolic
    /// link, a path that ends with `/` a directory, one that starts with `!` an executable.
    pub(crate) fn layer(mut self, files: &[(&str, &str)]) -> Self {
        self.layers += 1;
        let root = self
            .space
            .path(&format!("roots/{}-{}", self.name, self.layers));
        populate(&root, files);
        tool(
            "umoci",
            &[
                "insert",
                "--image",
                &self.tagged(),
                root.to_str().unwrap(),
                "/",
            ],
        );
        self
    }

    /// Adds a layer with everything under a directory.
    #[allow(dead_code)] // by some tests only
    pub(crate) fn tree(mut self, root: &Path) -> Self {
        self.layers += 1;
        tool(
            "umoci",
            &[
                "insert",
                "--image",
                &self.tagged(),
                root.to_str().unwrap(),
                "/",
            ],
        );
        self
    }

    /// Sets configuration: umoci's flags.
    pub(crate) fn config(self, flags: &[&str]) -> Self {
        tool(
            "umoci",
            &[&["config", "--image", &self.tagged()], flags].concat(),
        );
        self
    }
}

/// Makes files under `root`; see [`Image::layer`].
pub(crate) fn populate(root: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(root).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for (path, content) in files {
        let (path, mode) = path
            .strip_prefix('!')
            .map_or((*path, 0o644), |path| (path, 0o755));
        let full: PathBuf = root.join(path.trim_end_matches('/'));
        if path.ends_with('/') {
            fs::create_dir_all(&full).unwrap();
            continue;
        }
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        match content.strip_prefix("->") {
            Some(target) => symlink(target, &full).unwrap(),
            None => {
                fs::write(&full, content).unwrap();
                fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
                // Files are the same only when their times are: the clock must not decide.
                let file = fs::File::options().write(true).open(&full).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 30))
                    .unwrap();
            }
        }
    }
}
