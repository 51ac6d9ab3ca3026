//! LinuxKit's `build.yml`: what a package says about itself.
//!
//! Every key LinuxKit knows is checked; kept is what decides the package's reference, because
//! kiln builds no packages. Scalars are typed as LinuxKit's reader does here, which is laxer than
//! for descriptions: a number is a string where a string is wanted, `yes` and `on` are true.

use super::decode::{Decoder, Fields, Path};
use super::error::SpecErrors;
use super::node::{Node, Value, clip};
use super::position::{Position, Spanned};
use super::{decode, read_container, text, yaml};

/// A `build.yml`. Absent values are `None`; LinuxKit's defaults are not filled in.
#[derive(Debug, Clone)]
pub struct PackageFile {
    /// The image's name, without organisation and tag; not empty.
    pub image: Spanned<String>,
    /// The organisation: what stands before the image's name.
    pub org: Option<String>,
    /// The template of the tag.
    pub tag: Option<Spanned<String>>,
    /// The source of each `extra-sources` item, as written; where it goes in a build is dropped.
    pub extra_sources: Vec<Spanned<String>>,
}

impl PackageFile {
    /// Parses one `build.yml`; `file` is the name errors show.
    ///
    /// # Errors
    /// Everything wrong with it, as for a description.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, SpecErrors> {
        let source = text(bytes, file)?;
        let empty = || {
            Position::new(&source, 0..1)
                .error("the file holds nothing")
                .with_hint("a package needs a name at least: image: NAME")
        };
        let node = yaml::load(&source, None)?.ok_or_else(empty)?;
        if matches!(node.value, Value::Null) {
            return Err(empty().into());
        }
        let (package, _) = decode(&source, |decoder| package(decoder, &node))?;
        package.ok_or_else(|| empty().into())
    }
}

fn package(decoder: &mut Decoder<'_>, node: &Node) -> Option<PackageFile> {
    let mut fields = Fields::open(decoder, node, &Path::Root)?;
    let image = fields.required("image", |d, n, p| {
        let name = word(d, n, p)?;
        if name.is_empty() {
            d.report(&n.range, p, "the name is empty");
            return None;
        }
        Some(name)
    });
    let org = fields.plain("org", nullable(word)).flatten();
    let tag = fields.field("tag", nullable(word));
    let extra_sources = fields.plain("extra-sources", nullable(sources)).flatten();
    fields.field("dockerfile", nullable(word));
    fields.field("gitrepo", nullable(word));
    fields.field("arches", nullable(words));
    fields.field("network", nullable(flag));
    fields.field("disable-cache", nullable(flag));
    fields.field("buildArgs", nullable(words));
    fields.field("depends", nullable(depends));
    fields.field("config", nullable(config));
    fields.close();
    Some(PackageFile {
        image: image?,
        org,
        tag: tag.and_then(|tag| Some(Spanned::new(tag.value?, tag.at))),
        extra_sources: extra_sources.unwrap_or_default(),
    })
}

/// A key without a value is one that is not there.
fn nullable<T>(
    read: impl Fn(&mut Decoder<'_>, &Node, &Path<'_>) -> Option<T>,
) -> impl Fn(&mut Decoder<'_>, &Node, &Path<'_>) -> Option<Option<T>> {
    move |decoder, node, path| match node.value {
        Value::Null => Some(None),
        _ => read(decoder, node, path).map(Some),
    }
}

/// A string, or a number as it is spelt: `tag: 1.0`.
fn word(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    match &node.value {
        Value::Integer(_, text) | Value::Float(text) => Some(text.clone()),
        _ => decoder.string(node, path),
    }
}

fn words(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Vec<String>> {
    decoder.list(node, path, word)
}

fn flag(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<bool> {
    match &node.value {
        Value::String(word) if matches!(&**word, "y" | "Y" | "yes" | "on") => Some(true),
        Value::String(word) if matches!(&**word, "n" | "N" | "no" | "off") => Some(false),
        _ => decoder.boolean(node, path),
    }
}

/// `SOURCE:DESTINATION`, each.
fn sources(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Vec<Spanned<String>>> {
    decoder.list(node, path, |d, n, p| {
        d.spanned(n, p, |d, n, p| {
            d.parsed(n, p, |text| match text.split_once(':') {
                Some((source, destination)) if !source.is_empty() && !destination.contains(':') => {
                    Ok(source.to_owned())
                }
                _ => Err((
                    format!("\"{}\" is no extra source", clip(text)),
                    Some("it is written SOURCE:DESTINATION".to_owned()),
                )),
            })
        })
    })
}

fn depends(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<()> {
    let mut fields = Fields::open(decoder, node, path)?;
    fields.field("docker-images", nullable(docker_images));
    fields.close();
    Some(())
}

fn docker_images(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<()> {
    let mut fields = Fields::open(decoder, node, path)?;
    for key in ["target", "target-dir", "from-file"] {
        fields.field(key, nullable(word));
    }
    fields.field("list", nullable(words));
    fields.close();
    Some(())
}

/// What becomes the label `org.mobyproject.config`.
fn config(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<()> {
    let mut fields = Fields::open(decoder, node, path)?;
    read_container::config(&mut fields);
    read_container::refuse_label_keys(&mut fields);
    fields.close();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(yaml: &str) -> String {
        PackageFile::parse(yaml.as_bytes(), "build.yml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_key_is_known() {
        let yaml = "\
image: node_exporter
org: 17
tag: 1.0
dockerfile: Dockerfile.x
arches: [amd64]
extra-sources: [../lib:/lib, \"/abs:dst\"]
gitrepo: https://example.org/x
network: yes
disable-cache: off
buildArgs: [A=B]
depends: {docker-images: {target-dir: d, target: t, from-file: f, list: [a@b]}}
config:
  binds: [/dev:/dev]
  capabilities: [all]
";
        let package = PackageFile::parse(yaml.as_bytes(), "build.yml").unwrap();
        assert_eq!(package.image.value, "node_exporter");
        assert_eq!(package.org.as_deref(), Some("17"));
        assert_eq!(package.tag.unwrap().value, "1.0");
        let sources: Vec<&str> = package.extra_sources.iter().map(|s| &*s.value).collect();
        assert_eq!(sources, ["../lib", "/abs"]);
        let bare = "image: x\norg:\ntag:\narches:\nextra-sources:\nconfig:\nnetwork:\n";
        let package = PackageFile::parse(bare.as_bytes(), "build.yml").unwrap();
        assert!(package.org.is_none() && package.tag.is_none());
    }

    #[test]
    fn mistakes_have_their_place() {
        let cases = [
            ("", "build.yml:1:1: the file holds nothing"),
            ("org: x\n", "build.yml:1:1: image is required"),
            ("image: ''\n", "build.yml:1:8: image: the name is empty"),
            (
                "image: x\nimages: y\n",
                "build.yml:2:1: unknown key \"images\"",
            ),
            (
                "image: x\nextra-sources: [a]\n",
                "build.yml:2:17: extra-sources[0]: \"a\" is no extra source",
            ),
            (
                "image: x\nextra-sources: [\"a:b:c\"]\n",
                "build.yml:2:17: extra-sources[0]: \"a:b:c\" is no extra source",
            ),
            (
                "image: x\nnetwork: maybe\n",
                "build.yml:2:10: network: expected a boolean, found the string \"maybe\"",
            ),
            (
                "image: x\nconfig: {image: y}\n",
                "build.yml:2:10: config: image cannot be set in an image label",
            ),
            (
                "image: x\ndepends: {docker-image: {}}\n",
                "build.yml:2:11: depends: unknown key \"docker-image\"",
            ),
        ];
        for (yaml, expected) in cases {
            assert_eq!(errors(yaml), expected, "{yaml}");
        }
    }
}
