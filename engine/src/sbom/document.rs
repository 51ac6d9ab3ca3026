//! The document: what is known of every component, in one text.
//!
//! Enters: sections, one per component, and the lists taken from their images' documents, as
//! objects of the cache. Leaves: SPDX 2.3 or CycloneDX 1.6 in JSON, on one line. Lists are copied,
//! not parsed: memory does not depend on their size.

use std::io::{self, Read, Write};

use serde_json::{Map, Value, json};

use super::place::Place;
use super::statement::{List, relationship};
use super::{Format, cyclonedx, purl};
use crate::digest::Sha256;
use crate::source::Reference;
use crate::source::debian::Package;
use crate::source::debian::packages::Stanza;

/// kiln's version, which the document names as its maker.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One component of the system.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// Where it is.
    pub(crate) place: Place,
    /// Its image, as the provenance records call it.
    pub(crate) name: String,
    /// What it is.
    pub(crate) what: What,
}

/// What a component is made from.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// An image.
    Image {
        /// The manifest.
        manifest: Sha256,
        /// Its architecture, in Go's spelling.
        architecture: String,
        /// Its reference, when it is in a registry.
        reference: Option<Reference>,
    },
    /// Debian packages.
    Debian(Vec<Package>),
    /// A directory of the host.
    Directory,
    /// kiln's own init.
    Kiln,
}

/// Elements of one list, in order, without the commas between those of different texts.
pub(crate) trait Lists {
    /// Opens the texts that a section has for a list: elements of a JSON array, separated by commas.
    ///
    /// # Errors
    /// When the cache cannot give them.
    fn open(&self, section: usize, list: List) -> io::Result<Vec<Box<dyn Read + '_>>>;
}

/// How the document is made.
pub(crate) struct Head<'a> {
    pub(crate) format: Format,
    /// `YYYY-MM-DDThh:mm:ssZ`.
    pub(crate) created: &'a str,
    /// What names the content: equal only when everything else in the document is.
    pub(crate) identity: &'a [u8; 32],
}

/// Writes the document.
///
/// # Errors
/// When a list cannot be read, or the document not be written.
pub(crate) fn write(
    head: &Head<'_>,
    sections: &[Section],
    lists: &dyn Lists,
    out: &mut dyn Write,
) -> io::Result<()> {
    match head.format {
        Format::Spdx => spdx(head, sections, lists, out)?,
        Format::CycloneDx => cyclone(head, sections, lists, out)?,
    }
    out.write_all(b"\n")
}

fn spdx(
    head: &Head<'_>,
    sections: &[Section],
    lists: &dyn Lists,
    out: &mut dyn Write,
) -> io::Result<()> {
    // SPDX 2.3, 6.5, gives this form to those who own no domain.
    let namespace = format!("https://spdx.org/spdxdocs/sbom-{}", uuid(head.identity));
    let creation = json!({
        "licenseListVersion": "3.20",
        "creators": [format!("Tool: kiln-{VERSION}")],
        "created": head.created,
    });
    write!(
        out,
        r#"{{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"sbom","documentNamespace":"{namespace}","creationInfo":{creation}"#
    )?;
    for list in [
        List::Packages,
        List::Files,
        List::Snippets,
        List::Licenses,
        List::Relationships,
        List::Documents,
    ] {
        let mut array = Array::new(out, list.name());
        for (index, section) in sections.iter().enumerate() {
            match list {
                List::Packages => {
                    let mut own = section.package();
                    let notes = text(lists, index, List::Annotations)?;
                    if let (Some(own), false) = (own.as_object_mut(), notes.is_empty()) {
                        own.insert("annotations".into(), notes.into());
                    }
                    array.value(&own)?;
                    for package in section.debian() {
                        array.value(&section.deb(package))?;
                    }
                }
                List::Relationships => {
                    let own = section.place.own();
                    let describes = relationship("SPDXRef-DOCUMENT", "DESCRIBES", &own);
                    array.value(&describes.into())?;
                    for package in section.debian() {
                        let id = section.place.named(&package.name);
                        array.value(&relationship(&own, "CONTAINS", &id).into())?;
                    }
                }
                _ => {}
            }
            for mut elements in lists.open(index, list)? {
                array.copy(&mut *elements)?;
            }
        }
        array.end()?;
    }
    out.write_all(b"}")
}

fn cyclone(
    head: &Head<'_>,
    sections: &[Section],
    lists: &dyn Lists,
    out: &mut dyn Write,
) -> io::Result<()> {
    let metadata = json!({
        "timestamp": head.created,
        "tools": {"components": [{"type": "application", "name": "kiln", "version": VERSION}]},
        "component": {"type": "operating-system", "bom-ref": "system", "name": "system"},
    });
    write!(
        out,
        r#"{{"$schema":"http://cyclonedx.org/schema/bom-1.6.schema.json","bomFormat":"CycloneDX","specVersion":"1.6","serialNumber":"urn:uuid:{}","version":1,"metadata":{metadata},"components":["#,
        uuid(head.identity)
    )?;
    for (index, section) in sections.iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        let package = section.package();
        let component = cyclonedx::package(package.as_object().unwrap_or(&Map::new()));
        let component = Value::from(component).to_string();
        // Its parts go inside, before the brace that ends it.
        out.write_all(component.strip_suffix('}').unwrap_or_default().as_bytes())?;
        let mut array = Array::new(out, "components");
        for package in section.debian() {
            let package = section.deb(package);
            let component = cyclonedx::package(package.as_object().unwrap_or(&Map::new()));
            array.value(&component.into())?;
        }
        for mut elements in lists.open(index, List::Packages)? {
            array.copy(&mut *elements)?;
        }
        array.end()?;
        out.write_all(b"}")?;
    }
    out.write_all(b"]}")
}

/// Reads a short list.
fn text(lists: &dyn Lists, section: usize, list: List) -> io::Result<Vec<Value>> {
    let mut out = Vec::new();
    for mut elements in lists.open(section, list)? {
        let mut array = String::from("[");
        elements.read_to_string(&mut array)?;
        array.push(']');
        out.extend(serde_json::from_str::<Vec<Value>>(&array)?);
    }
    Ok(out)
}

/// A key with a list that appears once it has an element.
struct Array<'a> {
    out: &'a mut dyn Write,
    name: &'static str,
    begun: bool,
}

impl<'a> Array<'a> {
    fn new(out: &'a mut dyn Write, name: &'static str) -> Self {
        Self {
            out,
            name,
            begun: false,
        }
    }

    fn separate(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return self.out.write_all(b",");
        }
        write!(self.out, ",\"{}\":[", self.name)
    }

    fn value(&mut self, value: &Value) -> io::Result<()> {
        self.separate()?;
        serde_json::to_writer(&mut *self.out, value).map_err(Into::into)
    }

    fn copy(&mut self, elements: &mut dyn Read) -> io::Result<()> {
        self.separate()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match elements.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.out.write_all(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn end(self) -> io::Result<()> {
        match self.begun {
            true => self.out.write_all(b"]"),
            false => Ok(()),
        }
    }
}

impl Section {
    fn debian(&self) -> &[Package] {
        match &self.what {
            What::Debian(packages) => packages,
            _ => &[],
        }
    }

    /// Returns the component itself as an SPDX package.
    fn package(&self) -> Value {
        let mut out = json!({"name": self.name, "SPDXID": self.place.own()});
        if !self.place.root().is_empty() {
            out["packageFileName"] = self.place.root().into();
        }
        out["downloadLocation"] = "NOASSERTION".into();
        out["filesAnalyzed"] = false.into();
        let purpose = match &self.what {
            What::Image {
                manifest,
                architecture,
                reference,
            } => {
                out["versionInfo"] = manifest.to_string().into();
                if let Some(reference) = reference {
                    out["externalRefs"] = purl_ref(&purl::oci(reference, manifest, architecture));
                }
                "CONTAINER"
            }
            What::Debian(_) | What::Directory => "INSTALL",
            What::Kiln => {
                out["versionInfo"] = VERSION.into();
                out["licenseDeclared"] = env!("CARGO_PKG_LICENSE").into();
                "APPLICATION"
            }
        };
        out["primaryPackagePurpose"] = purpose.into();
        out
    }

    /// Returns a Debian package as an SPDX package.
    fn deb(&self, package: &Package) -> Value {
        let stanza = Stanza::new(&package.control);
        let url = package.urls.first().map(|url| without_credentials(url));
        let mut out = json!({
            "name": package.name,
            "SPDXID": self.place.named(&package.name),
            "versionInfo": package.version,
        });
        if let Some(file) = url.as_deref().and_then(|url| url.rsplit('/').next()) {
            out["packageFileName"] = file.into();
        }
        if let Some(maintainer) = stanza.field("Maintainer") {
            out["supplier"] = supplier(maintainer).into();
        }
        out["downloadLocation"] = url.as_deref().unwrap_or("NOASSERTION").into();
        out["filesAnalyzed"] = false.into();
        out["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": package.sha256.hex()}]);
        if let Some(homepage) = stanza.field("Homepage") {
            out["homepage"] = homepage.into();
        }
        if let Some(source) = stanza.field("Source") {
            out["sourceInfo"] = format!("built from the source package {source}").into();
        }
        if let Some(summary) = stanza.field("Description") {
            out["summary"] = summary.into();
        }
        out["externalRefs"] = purl_ref(&purl::deb(
            &package.name,
            &package.version,
            &package.architecture,
        ));
        out
    }
}

fn purl_ref(purl: &str) -> Value {
    json!([{
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    }])
}

/// Returns `Maintainer: NAME <ADDRESS>` as SPDX writes people and teams (SPDX 2.3, 7.5).
fn supplier(maintainer: &str) -> String {
    let (name, address) = match maintainer.split_once('<') {
        Some((name, address)) => (name.trim(), address.trim_end_matches('>').trim()),
        None => (maintainer.trim(), ""),
    };
    // Debian's field does not say which of both it is; teams write to lists.
    let team = ["Team", "Maintainers", "Group", "Developers"];
    let lists = ["@lists.", "@tracker.", "@packages."];
    let is_team = team.iter().any(|word| name.contains(word))
        || lists.iter().any(|host| address.contains(host));
    let kind = if is_team { "Organization" } else { "Person" };
    match address {
        "" => format!("{kind}: {name}"),
        address => format!("{kind}: {name} ({address})"),
    }
}

/// Returns an address without the name and password of whoever fetched it.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or(host);
    format!("{scheme}://{host}{path}")
}

/// Returns a UUID of version 8 (RFC 9562, 5.8): the content's own, no random one.
fn uuid(identity: &[u8; 32]) -> String {
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&identity[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut out = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintainers_are_people_or_teams() {
        for (given, wanted) in [
            (
                "Debian Install System Team <debian-boot@lists.debian.org>",
                "Organization: Debian Install System Team (debian-boot@lists.debian.org)",
            ),
            (
                "A. Person <a@example.org>",
                "Person: A. Person (a@example.org)",
            ),
            ("Nobody", "Person: Nobody"),
        ] {
            assert_eq!(supplier(given), wanted);
        }
    }

    #[test]
    fn no_password_gets_into_the_document() {
        assert_eq!(
            without_credentials("https://me:secret@mirror.example/pool/a@b.deb"),
            "https://mirror.example/pool/a@b.deb"
        );
        assert_eq!(without_credentials("file:/srv/x.deb"), "file:/srv/x.deb");
    }

    #[test]
    fn the_uuid_says_what_it_is() {
        let text = uuid(&[0xff; 32]);
        assert_eq!(text, "ffffffff-ffff-8fff-bfff-ffffffffffff");
    }
}
