//! The tables of the top level: kernel, init, files, volumes, and the two kinds of image.

use std::collections::BTreeMap;

use super::builtin;
use super::decode::{Decoder, Fields, Path};
use super::error::Warning;
use super::grammar;
use super::model::{
    Debian, FileContent, FileEntry, ImageSource, InitEntry, Kernel, MetadataFormat, Modules, Spec,
    Trust, Volume, VolumeFormat,
};
use super::node::{Node, Value, clip};
use super::position::{Position, Spanned};
use super::read_container::{container, id};
use super::read_oci::mode;

/// The whole document.
pub(super) fn spec(decoder: &mut Decoder<'_>, node: &Node) -> Option<Spec> {
    if matches!(node.value, Value::Null) {
        return Some(Spec::default());
    }
    let mut fields = Fields::open(decoder, node, &Path::Root)?;
    let spec = Spec {
        kernel: fields.plain("kernel", kernel),
        init: fields
            .plain("init", |d, n, p| d.list(n, p, init_entry))
            .unwrap_or_default(),
        onboot: fields
            .plain("onboot", |d, n, p| d.list(n, p, container))
            .unwrap_or_default(),
        onshutdown: fields
            .plain("onshutdown", |d, n, p| d.list(n, p, container))
            .unwrap_or_default(),
        services: fields
            .plain("services", |d, n, p| d.list(n, p, container))
            .unwrap_or_default(),
        files: fields
            .plain("files", |d, n, p| d.list(n, p, file))
            .unwrap_or_default(),
        volumes: fields
            .plain("volumes", |d, n, p| d.list(n, p, volume))
            .unwrap_or_default(),
        trust: fields.field("trust", trust),
        warnings: Vec::new(),
    };
    fields.close();
    unique(
        decoder,
        "service",
        spec.services.iter().map(|service| &service.name),
    );
    unique(
        decoder,
        "volume",
        spec.volumes.iter().map(|volume| &volume.name),
    );
    if let Some(trust) = &spec.trust {
        decoder.warn(Warning::TrustIgnored {
            at: trust.at.clone(),
        });
    }
    Some(spec)
}

/// Reports names that were given before.
fn unique<'a>(
    decoder: &mut Decoder<'_>,
    kind: &str,
    names: impl Iterator<Item = &'a Spanned<String>>,
) {
    let mut seen: BTreeMap<&str, &Position> = BTreeMap::new();
    for name in names {
        match seen.get(name.as_str()) {
            Some(first) => decoder.errors.push(|| duplicate(kind, name, first)),
            None => {
                seen.insert(name, &name.at);
            }
        }
    }
}

/// The error for a name that `first` took already.
pub(super) fn duplicate(kind: &str, name: &Spanned<String>, first: &Position) -> super::SpecError {
    name.at.error(format!(
        "duplicate {kind} name \"{}\", first given at {first}",
        name.value
    ))
}

/// `image` or `debian`, exactly one. `None` was reported; `Some(None)` is neither, or an empty image.
pub(super) fn image_source(
    fields: &mut Fields<'_, '_, '_>,
) -> Option<Option<Spanned<ImageSource>>> {
    let both = fields.present("debian").is_some();
    let image = match fields.entry("image") {
        Some(entry) => {
            let range = entry.key_range.clone();
            if both {
                let path = *fields.path;
                fields.decoder.report(
                    &range,
                    &path,
                    "image stands beside debian; give one of them",
                );
            }
            Some(fields.field("image", reference)?)
        }
        None => None,
    };
    let debian = match fields.entry("debian") {
        Some(_) => Some(fields.field("debian", debian)?),
        None => None,
    };
    let image = image.and_then(|image| {
        let source = image.value?;
        Some(Spanned::new(source, image.at))
    });
    let debian = debian.map(|debian| Spanned::new(ImageSource::Debian(debian.value), debian.at));
    Some(image.or(debian))
}

/// `image`, `debian` or `builtin`, exactly one; as [`image_source`].
pub(super) fn container_source(
    fields: &mut Fields<'_, '_, '_>,
) -> Option<Option<Spanned<ImageSource>>> {
    // The others are asked for in any case: their own mistakes show too.
    let others = image_source(fields);
    let Some(entry) = fields.entry("builtin") else {
        return others;
    };
    let path = *fields.path;
    for other in ["image", "debian"] {
        if fields.present(other).is_some() {
            let message = format!("builtin stands beside {other}; give one of them");
            fields.decoder.report(&entry.key_range, &path, message);
        }
    }
    fields.field("builtin", builtin::job).map(Some)
}

/// Reports a container or init item without an image, at the empty image if there is one.
pub(super) fn report_no_image(fields: &mut Fields<'_, '_, '_>, wanted: &str) {
    match fields
        .present("image")
        .map(|entry| entry.value.range.clone())
    {
        Some(range) => {
            let path = *fields.path;
            fields.decoder.report(
                &range,
                &Path::Key(&path, "image"),
                "image reference is empty",
            );
        }
        None => fields.report(format!("{wanted} is required")),
    }
}

/// An image reference; `Some(None)` is the empty string.
fn reference(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Option<ImageSource>> {
    let text = decoder.parsed(node, path, grammar::reference)?;
    if text.starts_with('@') {
        let message = format!(
            "\"{}\" is neither an image reference nor a template",
            clip(&text)
        );
        decoder.report_hint(
            &node.range,
            path,
            message,
            "the only template is @pkg:DIRECTORY",
        );
        return None;
    }
    Some((!text.is_empty()).then_some(ImageSource::Image(text)))
}

fn debian(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Debian> {
    let mut fields = Fields::open(decoder, node, path)?;
    let suite = fields.field("suite", |d, n, p| d.parsed(n, p, grammar::suite));
    let packages = fields.required("packages", |d, n, p| {
        if matches!(&n.value, Value::List(items) if items.is_empty()) {
            d.report(&n.range, p, "no package is named");
        }
        d.list(n, p, |d, n, p| {
            d.spanned(n, p, |d, n, p| d.parsed(n, p, grammar::package))
        })
    });
    let mirror = fields.field("mirror", |d, n, p| d.parsed(n, p, grammar::mirror));
    let keyring = fields.field("keyring", Decoder::string);
    fields.close();
    Some(Debian {
        suite,
        packages: packages?.value,
        mirror,
        keyring,
    })
}

fn kernel(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Kernel> {
    let mut fields = Fields::open(decoder, node, path)?;
    let kernel = Kernel {
        at: fields.decoder.at(&fields.range),
        image: image_source(&mut fields).flatten(),
        cmdline: fields.field("cmdline", Decoder::string),
        binary: fields.field("binary", Decoder::string),
        tar: fields.field("tar", Decoder::string),
        ucode: fields.field("ucode", Decoder::string),
        modules: fields.field("modules", modules),
    };
    fields.close();
    Some(kernel)
}

fn modules(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Modules> {
    match &node.value {
        Value::String(word) if word == "all" => Some(Modules::All),
        Value::List(_) => decoder.strings(node, path).map(Modules::Matching),
        _ => {
            decoder.mismatch(node, path, "all or a list of module names");
            None
        }
    }
}

fn init_entry(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Spanned<InitEntry>> {
    let source = match &node.value {
        Value::String(word) if word == "kiln" => {
            return Some(Spanned::new(InitEntry::Kiln, decoder.at(&node.range)));
        }
        Value::Map(_) => {
            let mut fields = Fields::open(decoder, node, path)?;
            let source = image_source(&mut fields);
            if let Some(None) = source {
                report_no_image(&mut fields, "image or debian");
            }
            fields.close();
            source??
        }
        _ => {
            let source = reference(decoder, node, path)?;
            if source.is_none() {
                decoder.report(&node.range, path, "image reference is empty");
            }
            Spanned::new(source?, decoder.at(&node.range))
        }
    };
    Some(Spanned::new(InitEntry::Image(source.value), source.at))
}

fn trust(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Trust> {
    let mut fields = Fields::open(decoder, node, path)?;
    let trust = Trust {
        image: fields.plain("image", Decoder::strings).unwrap_or_default(),
        org: fields.plain("org", Decoder::strings).unwrap_or_default(),
    };
    fields.close();
    Some(trust)
}

fn volume(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Volume> {
    let mut fields = Fields::open(decoder, node, path)?;
    let at = fields.decoder.at(&fields.range);
    let name = fields.required("name", |d, n, p| d.parsed(n, p, grammar::volume_name));
    let volume = Volume {
        at,
        image: image_source(&mut fields).flatten(),
        readonly: fields
            .plain("readonly", Decoder::boolean)
            .unwrap_or_default(),
        format: fields.field("format", volume_format),
        platforms: fields
            .items("platforms", |d, n, p| d.parsed(n, p, grammar::platform))
            .map_or_else(Vec::new, |platforms| platforms.value),
        // The rest is decoded before a missing name gives up, so that all of it is checked.
        name: match name {
            Some(name) => name,
            None => {
                fields.close();
                return None;
            }
        },
    };
    fields.close();
    Some(volume)
}

fn volume_format(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<VolumeFormat> {
    word(
        decoder,
        node,
        path,
        &[
            ("filesystem", VolumeFormat::Filesystem),
            ("oci", VolumeFormat::Oci),
        ],
    )
}

fn metadata_format(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<MetadataFormat> {
    word(
        decoder,
        node,
        path,
        &[
            ("yaml", MetadataFormat::Yaml),
            ("json", MetadataFormat::Json),
        ],
    )
}

/// One of a few words.
fn word<T: Copy>(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    words: &[(&str, T)],
) -> Option<T> {
    let text = decoder.string(node, path)?;
    let found = words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value);
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("\"{}\" is not one of {}", clip(&text), known.join(", "));
        decoder.report(&node.range, path, message);
    }
    found
}

fn file(decoder: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<FileEntry> {
    let mut fields = Fields::open(decoder, node, path)?;
    let at = fields.decoder.at(&fields.range);
    let name = fields.required("path", |d, n, p| {
        d.parsed(n, p, |text| {
            grammar::relative_path(text)
                .map(|_| text.to_owned())
                .map_err(|message| (message, None))
        })
    });
    let content = file_content(&mut fields);
    let optional = fields
        .plain("optional", Decoder::boolean)
        .unwrap_or_default();
    let mode = fields.field("mode", file_mode);
    let uid = fields.field("uid", id);
    let gid = fields.field("gid", id);
    fields.close();
    Some(FileEntry {
        at,
        path: name?,
        content: content?,
        optional,
        mode: mode.and_then(given),
        uid,
        gid,
    })
}

/// An empty mode counts as none.
fn file_mode(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<Option<super::model::FileMode>> {
    match &node.value {
        Value::String(text) if text.is_empty() => Some(None),
        _ => mode(decoder, node, path).map(Some),
    }
}

fn given<T>(field: Spanned<Option<T>>) -> Option<Spanned<T>> {
    field.value.map(|value| Spanned::new(value, field.at))
}

/// The one thing an item puts there. A directory wins over a link and a link over contents, as in
/// LinuxKit; every other pair is refused.
fn file_content(fields: &mut Fields<'_, '_, '_>) -> Option<FileContent> {
    let is_directory = fields
        .plain("directory", Decoder::boolean)
        .unwrap_or_default();
    let filled = |field: &Spanned<String>| !field.is_empty();
    let symlink = fields.field("symlink", Decoder::string).filter(filled);
    let contents = fields.field("contents", Decoder::string);
    let source = fields.field("source", Decoder::string).filter(filled);
    let metadata = fields.field("metadata", |d, n, p| match &n.value {
        Value::String(text) if text.is_empty() => Some(None),
        _ => metadata_format(d, n, p).map(Some),
    });
    let has_bad_metadata = metadata.is_none() && fields.present("metadata").is_some();
    let metadata = metadata.and_then(given);

    let origins = [
        ("contents", contents.is_some() && symlink.is_none()),
        ("source", source.is_some()),
        ("metadata", metadata.is_some()),
        ("symlink", symlink.is_some() && !is_directory),
        ("directory", is_directory),
    ];
    let present: Vec<&str> = origins
        .iter()
        .filter(|(_, present)| *present)
        .map(|(key, _)| *key)
        .collect();
    if let [first, second, ..] = present[..] {
        fields.report(format!("{first} stands beside {second}; give one of them"));
        return None;
    }
    if is_directory {
        return Some(FileContent::Directory);
    }
    let content = symlink
        .map(FileContent::Symlink)
        .or(contents.map(FileContent::Contents))
        .or(source.map(FileContent::Source))
        .or(metadata.map(|metadata| FileContent::Metadata(metadata.value)));
    let has_mistyped = ["directory", "symlink", "contents", "source"]
        .iter()
        .any(|key| {
            fields.present(key).is_some_and(|entry| {
                !matches!(entry.value.value, Value::String(_) | Value::Bool(false))
            })
        });
    if content.is_none() && !has_bad_metadata && !has_mistyped {
        fields.report(
            "nothing to put there: give contents, source, metadata, symlink or directory: true",
        );
    }
    content
}
