//! What people wrote: LinuxKit's YAML, typed, with positions.
//!
//! Enters: the bytes of one YAML file and the name to show for it. Leaves: a [`Spec`] in which
//! every value is checked as far as one file can tell and nothing is filled in; or all that is
//! wrong with it, each with its place. [`Spec::append`] folds several files into one.
//!
//! In reading order: `model`, `container` and `oci` are what a description can say; `grammar` the
//! small languages inside strings, `policy` and `builtin` what kiln-init can be asked for; `yaml`
//! and `node` turn text into a tree; `decode` is the small decoder that `read`, `read_container`
//! and `read_oci` are written in. Beside them, [`schema`] tells editors what a description can say,
//! and [`migrate`] where LinuxKit takes it otherwise.

mod append;
mod builtin;
mod container;
mod decode;
mod error;
mod grammar;
pub mod migrate;
mod model;
mod nearest;
mod node;
mod oci;
mod policy;
mod position;
mod read;
mod read_container;
mod read_oci;
mod read_package;
pub mod schema;
mod yaml;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use builtin::JOBS;
pub use container::{BindNs, Config, Container, Field, Interface, ListField, Runtime};
pub use error::{ERRORS_MAX, SpecError, SpecErrors, Warning};
pub use grammar::{Bind, CAPABILITIES, Rlimit, Tmpfs, relative_path};
pub use model::{
    Debian, FileContent, FileEntry, FileMode, Id, ImageSource, InitEntry, Kernel, MetadataFormat,
    Modules, Section, Spec, Trust, Volume, VolumeFormat,
};
pub use oci::{
    BlockIo, Cpu, Device, DeviceRule, HugepageLimit, IdMapping, InterfacePriority, Memory, Mount,
    Network, Pids, Resources, ThrottleDevice, WeightDevice,
};
pub use position::{Position, Spanned};
pub use read_package::PackageFile;
pub use yaml::{DEPTH_MAX, EXPANSION_MAX, NODES_MAX, TEXT_MAX_BYTES};

pub(crate) use builtin::ANNOTATION as BUILTIN_ANNOTATION;
pub(crate) use error::ErrorList;
pub(crate) use nearest::nearest;

use decode::{Decoder, Fields, Path};
use position::Source;

/// Turns the PATH of `@pkg:PATH` into an image reference; or says why not, and what to do.
pub type PackageResolver<'a> = dyn FnMut(&str) -> Result<String, (String, Option<String>)> + 'a;

/// What to write into an empty file.
const SECTIONS: &str =
    "it has at least one of kernel, init, onboot, onshutdown, services, files and volumes";

impl Spec {
    /// Parses one YAML description; `file` is the name errors show. Text that begins with `@pkg:`
    /// is text.
    ///
    /// # Errors
    /// Everything wrong with it, up to [`ERRORS_MAX`], sorted by position.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, SpecErrors> {
        Self::read(bytes, file, None)
    }

    /// As [`Spec::parse`]; every string that begins with `@pkg:`, key or value, becomes what
    /// `packages` makes of the rest.
    ///
    /// # Errors
    /// As for [`Spec::parse`], and what `packages` says, where the string stands.
    pub fn parse_with(
        bytes: &[u8],
        file: &str,
        packages: &mut PackageResolver<'_>,
    ) -> Result<Self, SpecErrors> {
        Self::read(bytes, file, Some(packages))
    }

    fn read(
        bytes: &[u8],
        file: &str,
        packages: Option<&mut PackageResolver<'_>>,
    ) -> Result<Self, SpecErrors> {
        let source = text(bytes, file)?;
        let empty = || {
            Position::new(&source, 0..1)
                .error("the file holds no description")
                .with_hint(SECTIONS)
        };
        let node = yaml::load(&source, packages)?.ok_or_else(empty)?;
        // An explicit null is an empty description; nothing but comments is a mistake.
        if matches!(node.value, node::Value::Null) && node.range.is_empty() {
            return Err(empty().into());
        }
        let (spec, warnings) = decode(&source, |decoder| read::spec(decoder, &node))?;
        let mut spec = spec.unwrap_or_default();
        spec.warnings = warnings;
        Ok(spec)
    }
}

impl Config {
    /// Parses an image's `org.mobyproject.config` label, JSON or YAML; `image` is the name errors
    /// show.
    ///
    /// # Errors
    /// As for [`Spec::parse`]; a label may set neither name nor image.
    pub fn parse_label(text: &str, image: &str) -> Result<Self, SpecErrors> {
        let source = Source::new(&format!("label org.mobyproject.config of {image}"), text);
        let empty = || Position::new(&source, 0..1).error("the label holds nothing");
        let node = yaml::load(&source, None)?.ok_or_else(empty)?;
        let (config, _) = decode(&source, |decoder| {
            let mut fields = Fields::open(decoder, &node, &Path::Root)?;
            let config = read_container::config(&mut fields);
            read_container::refuse_label_keys(&mut fields);
            fields.close();
            Some(config)
        })?;
        Ok(config.unwrap_or_default())
    }
}

/// Checks length and encoding.
fn text(bytes: &[u8], file: &str) -> Result<Arc<Source>, SpecErrors> {
    if bytes.len() > TEXT_MAX_BYTES {
        let source = Source::new(file, "");
        let message = format!("the file is longer than {TEXT_MAX_BYTES} bytes");
        return Err(Position::new(&source, 0..1).error(message).into());
    }
    match std::str::from_utf8(bytes) {
        // A byte-order mark is no column to count.
        Ok(text) => Ok(Source::new(
            file,
            text.strip_prefix('\u{feff}').unwrap_or(text),
        )),
        Err(error) => {
            let offset = error.valid_up_to();
            let source = Source::new(file, &String::from_utf8_lossy(bytes));
            let message = format!("not UTF-8: byte {:#04x} at offset {offset}", bytes[offset]);
            Err(Position::new(&source, offset..offset + 1)
                .error(message)
                .with_hint("a description is text: is this the right file?")
                .into())
        }
    }
}

/// Runs a decoder over a source and fails when it reported anything.
fn decode<T>(
    source: &Arc<Source>,
    read: impl FnOnce(&mut Decoder<'_>) -> Option<T>,
) -> Result<(Option<T>, Vec<Warning>), SpecErrors> {
    let mut decoder = Decoder::new(source);
    let value = read(&mut decoder);
    decoder.errors.finish()?;
    Ok((value, decoder.warnings))
}
