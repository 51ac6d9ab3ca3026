//! What an element of an SPDX 2.3 document may hold, as a table, and how it is taken over.
//!
//! Enters: a JSON value from someone else's document. Leaves: the same facts in the table's order,
//! with ids, licence references and file names rewritten for their new place; or the reason why it
//! is no such element. What the table does not know is left out. The table is that of SPDX 2.3
//! (clauses 7 to 12) in its JSON form (`spdx-schema.json`), which allows no other keys.

use serde_json::{Map, Value};

use super::place::Place;

/// One kind of value.
pub(super) enum Rule {
    /// Any text.
    Text,
    /// True or false.
    Flag,
    /// A whole number.
    Number,
    /// One of these words; another spelling of `-` is corrected, nothing at all is left out.
    Word(&'static [&'static str]),
    /// Names an element: `SPDXRef-…`, `DocumentRef-…:SPDXRef-…`, `NONE`, `NOASSERTION`.
    Id,
    /// Names another document: `DocumentRef-…`.
    DocumentId,
    /// A licence expression.
    License,
    /// A path in the image.
    FileName,
    /// A list.
    List(&'static Rule),
    /// A list that is not empty.
    Some(&'static Rule),
    /// An object.
    Object(&'static [Field]),
}

/// One key of an object.
pub(super) struct Field {
    name: &'static str,
    rule: Rule,
    need: Need,
}

enum Need {
    May,
    Must,
    /// What stands for a missing one.
    Or(&'static str),
}

const fn may(name: &'static str, rule: Rule) -> Field {
    let need = Need::May;
    Field { name, rule, need }
}

const fn must(name: &'static str, rule: Rule) -> Field {
    let need = Need::Must;
    Field { name, rule, need }
}

const TEXTS: Rule = Rule::List(&Rule::Text);
const LICENSES: Rule = Rule::List(&Rule::License);

const CHECKSUM: Rule = Rule::Object(&[
    must(
        "algorithm",
        Rule::Word(&[
            "ADLER32",
            "BLAKE2b-256",
            "BLAKE2b-384",
            "BLAKE2b-512",
            "BLAKE3",
            "MD2",
            "MD4",
            "MD5",
            "MD6",
            "SHA1",
            "SHA224",
            "SHA256",
            "SHA384",
            "SHA512",
            "SHA3-256",
            "SHA3-384",
            "SHA3-512",
        ]),
    ),
    must("checksumValue", Rule::Text),
]);

const ANNOTATION: Rule = Rule::Object(&[
    must("annotationDate", Rule::Text),
    must("annotationType", Rule::Word(&["OTHER", "REVIEW"])),
    must("annotator", Rule::Text),
    must("comment", Rule::Text),
]);

const ANNOTATIONS: Rule = Rule::List(&ANNOTATION);

/// An annotation of the document itself.
pub(super) const DOCUMENT_ANNOTATION: Rule = ANNOTATION;

/// An element of `packages`.
pub(super) const PACKAGE: Rule = Rule::Object(&[
    must("name", Rule::Text),
    must("SPDXID", Rule::Id),
    may("versionInfo", Rule::Text),
    may("packageFileName", Rule::FileName),
    may("supplier", Rule::Text),
    may("originator", Rule::Text),
    Field {
        name: "downloadLocation",
        rule: Rule::Text,
        need: Need::Or("NOASSERTION"),
    },
    may("filesAnalyzed", Rule::Flag),
    may(
        "packageVerificationCode",
        Rule::Object(&[
            must("packageVerificationCodeValue", Rule::Text),
            may("packageVerificationCodeExcludedFiles", TEXTS),
        ]),
    ),
    may("checksums", Rule::List(&CHECKSUM)),
    may("homepage", Rule::Text),
    may("sourceInfo", Rule::Text),
    may("licenseConcluded", Rule::License),
    may("licenseInfoFromFiles", LICENSES),
    may("licenseDeclared", Rule::License),
    may("licenseComments", Rule::Text),
    may("copyrightText", Rule::Text),
    may("summary", Rule::Text),
    may("description", Rule::Text),
    may("comment", Rule::Text),
    may(
        "externalRefs",
        Rule::List(&Rule::Object(&[
            must(
                "referenceCategory",
                Rule::Word(&["OTHER", "PACKAGE-MANAGER", "PERSISTENT-ID", "SECURITY"]),
            ),
            must("referenceType", Rule::Text),
            must("referenceLocator", Rule::Text),
            may("comment", Rule::Text),
        ])),
    ),
    may("attributionTexts", TEXTS),
    may(
        "primaryPackagePurpose",
        Rule::Word(&[
            "APPLICATION",
            "ARCHIVE",
            "CONTAINER",
            "DEVICE",
            "FILE",
            "FIRMWARE",
            "FRAMEWORK",
            "INSTALL",
            "LIBRARY",
            "OPERATING_SYSTEM",
            "OTHER",
            "SOURCE",
        ]),
    ),
    may("builtDate", Rule::Text),
    may("releaseDate", Rule::Text),
    may("validUntilDate", Rule::Text),
    may("annotations", ANNOTATIONS),
    may("hasFiles", Rule::List(&Rule::Id)),
]);

/// An element of `files`.
pub(super) const FILE: Rule = Rule::Object(&[
    must("fileName", Rule::FileName),
    must("SPDXID", Rule::Id),
    may(
        "fileTypes",
        Rule::List(&Rule::Word(&[
            "APPLICATION",
            "ARCHIVE",
            "AUDIO",
            "BINARY",
            "DOCUMENTATION",
            "IMAGE",
            "OTHER",
            "SOURCE",
            "SPDX",
            "TEXT",
            "VIDEO",
        ])),
    ),
    must("checksums", Rule::Some(&CHECKSUM)),
    may("licenseConcluded", Rule::License),
    may("licenseInfoInFiles", LICENSES),
    may("licenseComments", Rule::Text),
    may("copyrightText", Rule::Text),
    may("comment", Rule::Text),
    may("noticeText", Rule::Text),
    may("fileContributors", TEXTS),
    may("attributionTexts", TEXTS),
    may("fileDependencies", Rule::List(&Rule::Id)),
    may("annotations", ANNOTATIONS),
]);

const POINTER: Rule = Rule::Object(&[
    must("reference", Rule::Id),
    may("offset", Rule::Number),
    may("lineNumber", Rule::Number),
]);

/// An element of `snippets`.
pub(super) const SNIPPET: Rule = Rule::Object(&[
    must("SPDXID", Rule::Id),
    must("snippetFromFile", Rule::Id),
    must(
        "ranges",
        Rule::Some(&Rule::Object(&[
            must("startPointer", POINTER),
            must("endPointer", POINTER),
        ])),
    ),
    must("name", Rule::Text),
    may("licenseConcluded", Rule::License),
    may("licenseInfoInSnippets", LICENSES),
    may("licenseComments", Rule::Text),
    may("copyrightText", Rule::Text),
    may("comment", Rule::Text),
    may("attributionTexts", TEXTS),
    may("annotations", ANNOTATIONS),
]);

/// An element of `hasExtractedLicensingInfos`.
pub(super) const LICENSE: Rule = Rule::Object(&[
    must("licenseId", Rule::License),
    must("extractedText", Rule::Text),
    may("name", Rule::Text),
    may("seeAlsos", TEXTS),
    may("comment", Rule::Text),
]);

/// An element of `externalDocumentRefs`.
pub(super) const DOCUMENT: Rule = Rule::Object(&[
    must("externalDocumentId", Rule::DocumentId),
    must("spdxDocument", Rule::Text),
    must("checksum", CHECKSUM),
]);

/// An element of `relationships`.
pub(super) const RELATIONSHIP: Rule = Rule::Object(&[
    must("spdxElementId", Rule::Id),
    must(
        "relationshipType",
        Rule::Word(&[
            "AMENDS",
            "ANCESTOR_OF",
            "BUILD_DEPENDENCY_OF",
            "BUILD_TOOL_OF",
            "CONTAINED_BY",
            "CONTAINS",
            "COPY_OF",
            "DATA_FILE_OF",
            "DEPENDENCY_MANIFEST_OF",
            "DEPENDENCY_OF",
            "DEPENDS_ON",
            "DESCENDANT_OF",
            "DESCRIBED_BY",
            "DESCRIBES",
            "DEV_DEPENDENCY_OF",
            "DEV_TOOL_OF",
            "DISTRIBUTION_ARTIFACT",
            "DOCUMENTATION_OF",
            "DYNAMIC_LINK",
            "EXAMPLE_OF",
            "EXPANDED_FROM_ARCHIVE",
            "FILE_ADDED",
            "FILE_DELETED",
            "FILE_MODIFIED",
            "GENERATED_FROM",
            "GENERATES",
            "HAS_PREREQUISITE",
            "METAFILE_OF",
            "OPTIONAL_COMPONENT_OF",
            "OPTIONAL_DEPENDENCY_OF",
            "OTHER",
            "PACKAGE_OF",
            "PATCH_APPLIED",
            "PATCH_FOR",
            "PREREQUISITE_FOR",
            "PROVIDED_DEPENDENCY_OF",
            "REQUIREMENT_DESCRIPTION_FOR",
            "RUNTIME_DEPENDENCY_OF",
            "SPECIFICATION_FOR",
            "STATIC_LINK",
            "TEST_CASE_OF",
            "TEST_DEPENDENCY_OF",
            "TEST_OF",
            "TEST_TOOL_OF",
            "VARIANT_OF",
        ]),
    ),
    must("relatedSpdxElement", Rule::Id),
    may("comment", Rule::Text),
]);

impl Rule {
    /// Takes a value over to `place`.
    ///
    /// # Errors
    /// Why it is no such value.
    pub(super) fn apply(&self, value: Value, place: &Place) -> Result<Value, String> {
        let text = |rewrite: &dyn Fn(&str) -> String| match &value {
            Value::String(text) => Ok(Value::String(rewrite(text))),
            _ => Err("is no text".to_owned()),
        };
        match self {
            Self::Text => text(&str::to_owned),
            Self::Id => text(&|id| place.element(id)),
            Self::DocumentId => text(&|id| place.document(id)),
            Self::License => text(&|expression| place.license(expression)),
            Self::FileName => text(&|name| place.path(name)),
            Self::Flag => match value {
                Value::Bool(_) => Ok(value),
                _ => Err("is neither true nor false".to_owned()),
            },
            Self::Number => match value.as_i64() {
                Some(_) => Ok(value),
                None => Err("is no whole number".to_owned()),
            },
            Self::Word(words) => {
                let given = value.as_str().unwrap_or_default();
                let same = |word: &&&str| {
                    word.len() == given.len()
                        && word.bytes().zip(given.bytes()).all(|(ours, theirs)| {
                            ours == theirs || (matches!(ours, b'-' | b'_') && theirs == b'_')
                        })
                };
                match words.iter().find(same) {
                    Some(word) => Ok(Value::from(*word)),
                    None => Err(format!(
                        "is {}, which SPDX 2.3 does not know",
                        short(&value)
                    )),
                }
            }
            Self::List(rule) | Self::Some(rule) => {
                let Value::Array(items) = value else {
                    return Err("is no list".to_owned());
                };
                if items.is_empty() && matches!(self, Self::Some(_)) {
                    return Err("is empty".to_owned());
                }
                let items = items.into_iter().enumerate();
                items
                    .map(|(at, item)| {
                        rule.apply(item, place)
                            .map_err(|why| within(&format!("[{at}]"), &why))
                    })
                    .collect::<Result<Vec<_>, _>>()
                    .map(Value::Array)
            }
            Self::Object(fields) => {
                let Value::Object(mut given) = value else {
                    return Err("is no object".to_owned());
                };
                let mut out = Map::new();
                for field in *fields {
                    let found = given
                        .remove(field.name)
                        .filter(|value| !field.is_blank(value));
                    match (found, &field.need) {
                        (Some(value), _) => {
                            let value = field.rule.apply(value, place);
                            let value = value.map_err(|why| within(field.name, &why))?;
                            out.insert(field.name.to_owned(), value);
                        }
                        (None, Need::May) => {}
                        (None, Need::Or(default)) => {
                            out.insert(field.name.to_owned(), Value::from(*default));
                        }
                        (None, Need::Must) => return Err(format!("{} is missing", field.name)),
                    }
                }
                Ok(Value::Object(out))
            }
        }
    }
}

impl Field {
    /// `null` says nothing, and neither does an empty text where a word or a place is wanted.
    fn is_blank(&self, value: &Value) -> bool {
        let empty = value.as_str() == Some("");
        let wants = matches!(
            self.rule,
            Rule::Word(_) | Rule::FileName | Rule::License | Rule::Id
        );
        value.is_null() || (empty && (wants || matches!(self.need, Need::Or(_))))
    }
}

/// Puts where something is before what is wrong with it.
fn within(outer: &str, why: &str) -> String {
    match why.strip_prefix('[') {
        Some(_) => format!("{outer}{why}"),
        None => format!("{outer} {why}"),
    }
}

/// Prints a hostile value for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
