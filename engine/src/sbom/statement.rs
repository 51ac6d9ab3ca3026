//! One SPDX document, as BuildKit attests it, taken apart element by element.
//!
//! Enters: an in-toto statement (`application/vnd.in-toto+json`) whose predicate is an SPDX 2
//! document in JSON. Leaves: its elements, rewritten for their place, one at a time into a
//! [`Sink`]: the document is never in memory as values. Who made it does not matter: what is no
//! valid element is left out and counted, what is no such document is an error.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::place::Place;
use super::rules::{self, Rule};

/// The in-toto predicate type of an SPDX document.
pub(crate) const PREDICATE_TYPE: &str = "https://spdx.dev/Document";
/// Bytes of a statement. Syft writes some megabytes for a large image.
pub(crate) const STATEMENT_MAX_BYTES: u64 = 128 << 20;
/// Bytes of one element: a licence text, a package with its references.
const ELEMENT_MAX_BYTES: usize = 4 << 20;
/// Ids of left-out elements that are remembered, and ids that a document says it describes.
const IDS_MAX: usize = 100_000;

/// Why a statement cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatementError {
    /// It is not JSON of the right form.
    #[error("not an in-toto statement with an SPDX document: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It states something else.
    #[error("it states {0}, not {PREDICATE_TYPE}")]
    Predicate(String),
    /// A version whose meaning is not known.
    #[error("it is {0}; known are SPDX-2.0 to SPDX-2.3")]
    Version(String),
    /// More than any real document has.
    #[error("{0}")]
    TooMuch(String),
    /// What was taken over cannot be kept.
    #[error("cannot write it: {0}")]
    Write(#[from] io::Error),
}

/// A list of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    /// `packages`.
    Packages,
    /// `files`.
    Files,
    /// `snippets`.
    Snippets,
    /// `hasExtractedLicensingInfos`.
    Licenses,
    /// `externalDocumentRefs`.
    Documents,
    /// `relationships`.
    Relationships,
    /// Annotations of the document itself.
    Annotations,
}

impl List {
    const fn rule(self) -> &'static Rule {
        match self {
            Self::Packages => &rules::PACKAGE,
            Self::Files => &rules::FILE,
            Self::Snippets => &rules::SNIPPET,
            Self::Licenses => &rules::LICENSE,
            Self::Documents => &rules::DOCUMENT,
            Self::Relationships => &rules::RELATIONSHIP,
            Self::Annotations => &rules::DOCUMENT_ANNOTATION,
        }
    }

    /// The key of a list in SPDX's JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Packages => "packages",
            Self::Files => "files",
            Self::Snippets => "snippets",
            Self::Licenses => "hasExtractedLicensingInfos",
            Self::Documents => "externalDocumentRefs",
            Self::Relationships => "relationships",
            Self::Annotations => "annotations",
        }
    }
}

/// Takes elements.
pub(crate) trait Sink {
    /// Takes one.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn element(&mut self, list: List, element: Map<String, Value>) -> io::Result<()>;
}

/// What was left out.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    /// How many elements.
    pub(crate) count: u64,
    /// The first one, and why.
    pub(crate) first: Option<String>,
}

#[derive(Deserialize)]
struct Statement<'a> {
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(borrow)]
    predicate: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    spdx_version: String,
    #[serde(default)]
    document_describes: Option<Vec<String>>,
    #[serde(borrow, default)]
    packages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    files: Option<&'a RawValue>,
    #[serde(borrow, default)]
    snippets: Option<&'a RawValue>,
    #[serde(borrow, default)]
    has_extracted_licensing_infos: Option<&'a RawValue>,
    #[serde(borrow, default)]
    external_document_refs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    relationships: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
}

/// Takes a statement apart.
///
/// # Errors
/// When it is none, or the sink fails.
pub(crate) fn read(
    statement: &[u8],
    place: &Place,
    sink: &mut dyn Sink,
) -> Result<LeftOut, StatementError> {
    let statement: Statement<'_> = serde_json::from_slice(statement)?;
    if statement.predicate_type != PREDICATE_TYPE {
        return Err(StatementError::Predicate(shown(&statement.predicate_type)));
    }
    let document: Document<'_> = serde_json::from_str(statement.predicate.get())?;
    if !matches!(
        document.spdx_version.as_str(),
        "SPDX-2.0" | "SPDX-2.1" | "SPDX-2.2" | "SPDX-2.3"
    ) {
        return Err(StatementError::Version(shown(&document.spdx_version)));
    }
    let mut reader = Reader {
        place,
        sink,
        left_out: LeftOut::default(),
        missing: BTreeSet::new(),
        described: BTreeSet::new(),
    };
    for (list, elements) in [
        (List::Packages, document.packages),
        (List::Files, document.files),
        (List::Snippets, document.snippets),
        (List::Licenses, document.has_extracted_licensing_infos),
        (List::Documents, document.external_document_refs),
        (List::Annotations, document.annotations),
        (List::Relationships, document.relationships),
    ] {
        if let Some(elements) = elements {
            reader.list(list, elements)?;
        }
    }
    for id in document.document_describes.unwrap_or_default() {
        reader.describes(&place.element(&id))?;
    }
    Ok(reader.left_out)
}

/// Prints a hostile text for a message.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

struct Reader<'a> {
    place: &'a Place,
    sink: &'a mut dyn Sink,
    left_out: LeftOut,
    /// Elements that were left out: nothing may speak of them.
    missing: BTreeSet<String>,
    /// What the component is known to contain.
    described: BTreeSet<String>,
}

impl Reader<'_> {
    fn list(&mut self, list: List, elements: &RawValue) -> Result<(), StatementError> {
        let mut failure = None;
        let mut at = 0_usize;
        let mut take = |element: &RawValue| {
            let result = self.element(list, at, element);
            at += 1;
            result.map_err(|error| failure = Some(error)).is_ok()
        };
        let mut deserializer = serde_json::Deserializer::from_str(elements.get());
        let parsed = deserializer.deserialize_option(Elements(&mut take));
        match failure {
            Some(error) => Err(error),
            None => Ok(parsed?),
        }
    }

    fn element(&mut self, list: List, at: usize, raw: &RawValue) -> Result<(), StatementError> {
        let element = match raw.get().len() > ELEMENT_MAX_BYTES {
            true => Err(format!("is larger than {ELEMENT_MAX_BYTES} bytes")),
            false => match serde_json::from_str::<Value>(raw.get()) {
                Ok(value) => list.rule().apply(value, self.place),
                Err(error) => Err(format!("cannot be read: {error}")),
            },
        };
        match element {
            Ok(Value::Object(element)) => self.take(list, element),
            Ok(_) => Ok(()),
            Err(why) => self.leave_out(list, at, raw, &why),
        }
    }

    fn take(&mut self, list: List, mut element: Map<String, Value>) -> Result<(), StatementError> {
        match list {
            List::Packages => self.place_package(&mut element),
            List::Relationships => {
                let text = |key: &str| element.get(key).and_then(Value::as_str).unwrap_or_default();
                let (from, kind, to) = (
                    text("spdxElementId"),
                    text("relationshipType"),
                    text("relatedSpdxElement"),
                );
                if self.missing.contains(from) || self.missing.contains(to) {
                    return Ok(());
                }
                let own = self.place.own();
                // What a document describes, its component contains.
                match kind {
                    "DESCRIBES" if from == own => {
                        let to = to.to_owned();
                        return self.describes(&to);
                    }
                    "DESCRIBED_BY" if to == own => {
                        let from = from.to_owned();
                        return self.describes(&from);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(self.sink.element(list, element)?)
    }

    /// A package without a file of its own lies where its component does, as LinuxKit says.
    fn place_package(&self, element: &mut Map<String, Value>) {
        if !element.contains_key("packageFileName") && !self.place.root().is_empty() {
            let root = Value::from(self.place.path(""));
            element.insert("packageFileName".to_owned(), root);
        }
    }

    fn describes(&mut self, id: &str) -> Result<(), StatementError> {
        if self.missing.contains(id) || !self.described.insert(id.to_owned()) {
            return Ok(());
        }
        check(&self.described)?;
        let relationship = relationship(&self.place.own(), "CONTAINS", id);
        Ok(self.sink.element(List::Relationships, relationship)?)
    }

    fn leave_out(
        &mut self,
        list: List,
        at: usize,
        raw: &RawValue,
        why: &str,
    ) -> Result<(), StatementError> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "SPDXID")]
            id: String,
        }
        self.left_out.count += 1;
        self.left_out
            .first
            .get_or_insert_with(|| format!("{}[{at}]: {why}", list.name()));
        if let Ok(Named { id }) = serde_json::from_str(raw.get()) {
            self.missing.insert(self.place.element(&id));
        }
        check(&self.missing)
    }
}

fn check(ids: &BTreeSet<String>) -> Result<(), StatementError> {
    match ids.len() > IDS_MAX {
        true => Err(StatementError::TooMuch(format!(
            "more than {IDS_MAX} invalid or described elements"
        ))),
        false => Ok(()),
    }
}

/// Returns an element of `relationships`.
pub(crate) fn relationship(from: &str, kind: &str, to: &str) -> Map<String, Value> {
    let pairs = [
        ("spdxElementId", from),
        ("relationshipType", kind),
        ("relatedSpdxElement", to),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// Visits the elements of a list as raw text, one at a time; `null` is an empty list.
struct Elements<'f, F>(&'f mut F);

impl<'de, F: FnMut(&'de RawValue) -> bool> Visitor<'de> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element::<&'de RawValue>()? {
            if !(self.0)(element) {
                // The failure itself waits outside; this only ends the list.
                return Err(serde::de::Error::custom("given up"));
            }
        }
        Ok(())
    }
}
