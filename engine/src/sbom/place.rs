//! Where a document's facts go: new names for ids, licences and files.
//!
//! Enters: names as one image's document has them. Leaves: names that no other image's document
//! can have, and paths in the system. Ids are letters, digits, `.` and `-` (SPDX 2.3, 7.2); a
//! place's own part has no `-`, so the first one ends it and nothing collides.

/// A component of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The component's id.
    own: String,
    /// What its elements' ids begin with.
    id: String,
    path: String,
}

impl Place {
    /// Names a place: `kernel`, `init/0`, `services/NAME`; and where its files are in the system,
    /// relative to the root, empty for the root itself.
    pub(crate) fn new(key: &str, path: &str) -> Self {
        Self {
            own: encode(key),
            id: encode(key),
            path: path.to_owned(),
        }
    }

    /// Returns the place for a component's next document, `index` counting from 0.
    pub(crate) fn nth(&self, index: usize) -> Self {
        match index {
            0 => self.clone(),
            more => Self {
                id: format!("{}.{more}", self.own),
                ..self.clone()
            },
        }
    }

    /// Returns the id of the component itself.
    pub(crate) fn own(&self) -> String {
        format!("SPDXRef-{}", self.own)
    }

    /// Returns an id within the component.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("SPDXRef-{}-{}", self.id, clean(name))
    }

    /// Returns where its files are.
    pub(crate) fn root(&self) -> &str {
        &self.path
    }

    /// Rewrites the id of an element. What the document says of itself is said of the component.
    pub(super) fn element(&self, id: &str) -> String {
        if let Some((document, element)) = id.split_once(':')
            && document.starts_with("DocumentRef-")
        {
            return format!("{}:{}", self.document(document), clean(element));
        }
        match id.strip_prefix("SPDXRef-") {
            Some("DOCUMENT") => self.own(),
            Some(name) => self.named(name),
            None if id.starts_with("DocumentRef-") => self.document(id),
            None if id == "NONE" || id == "NOASSERTION" => id.to_owned(),
            None => self.named(id),
        }
    }

    /// Rewrites the id of another document.
    pub(super) fn document(&self, id: &str) -> String {
        let name = id.strip_prefix("DocumentRef-").unwrap_or(id);
        format!("DocumentRef-{}-{}", self.id, clean(name))
    }

    /// Rewrites the references in a licence expression (SPDX 2.3, annex D).
    pub(super) fn license(&self, expression: &str) -> String {
        let part = |character: char| character.is_ascii_alphanumeric() || "-.:".contains(character);
        let mut out = String::with_capacity(expression.len());
        let mut rest = expression;
        while !rest.is_empty() {
            let end = rest
                .find(|character| !part(character))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            match (word.split_once(':'), word.strip_prefix("LicenseRef-")) {
                (Some((document, license)), _) if document.starts_with("DocumentRef-") => {
                    out.push_str(&format!("{}:{license}", self.document(document)));
                }
                (_, Some(name)) => out.push_str(&format!("LicenseRef-{}-{name}", self.id)),
                _ => out.push_str(word),
            }
            let other = after.find(part).unwrap_or(after.len());
            out.push_str(&after[..other]);
            rest = &after[other..];
        }
        out
    }

    /// Puts the component's path in front of a file's, as LinuxKit does (Go's `filepath.Join`).
    pub(crate) fn path(&self, name: &str) -> String {
        let rooted = match self.path.is_empty() {
            true => name.starts_with('/'),
            false => self.path.starts_with('/'),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in self.path.split('/').chain(name.split('/')) {
            match part {
                "" | "." => {}
                // A document's names stay in its component, whatever they say.
                ".." => {
                    if parts.len() > self.path.split('/').filter(|part| !part.is_empty()).count() {
                        parts.pop();
                    }
                }
                part => parts.push(part),
            }
        }
        format!("{}{}", if rooted { "/" } else { "" }, parts.join("/"))
    }
}

/// Writes a key with letters, digits and `.`: `/` is `.`, anything else `..` and two hex digits.
fn encode(key: &str) -> String {
    let mut out = String::new();
    for byte in key.bytes() {
        match byte {
            b'/' => out.push('.'),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("..{byte:02x}")),
        }
    }
    out
}

/// Writes what an id must not hold as `..` and two hex digits a byte.
fn clean(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'-' | b'.' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("..{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_say_where_they_come_from() {
        let web = Place::new("services/web", "containers/services/web/lower");
        assert_eq!(web.element("SPDXRef-DOCUMENT"), "SPDXRef-services.web");
        assert_eq!(web.element("SPDXRef-File-x"), "SPDXRef-services.web-File-x");
        assert_eq!(web.element("NOASSERTION"), "NOASSERTION");
        assert_eq!(
            web.element("DocumentRef-a:SPDXRef-b"),
            "DocumentRef-services.web-a:SPDXRef-b"
        );
        assert_eq!(
            web.element("SPDXRef-odd_ü"),
            "SPDXRef-services.web-odd..5f..c3..bc"
        );
        assert_eq!(
            Place::new("onboot/000-a", "").own(),
            "SPDXRef-onboot.000..2da"
        );
        let second = web.nth(1);
        assert_eq!(second.own(), web.own());
        assert_eq!(second.element("SPDXRef-x"), "SPDXRef-services.web.1-x");
    }

    #[test]
    fn licence_references_are_rewritten_wherever_they_stand() {
        let place = Place::new("kernel", "");
        for (given, wanted) in [
            ("MIT", "MIT"),
            ("NOASSERTION", "NOASSERTION"),
            ("LicenseRef-1", "LicenseRef-kernel-1"),
            (
                "(MIT OR LicenseRef-a.b) AND LicenseRef-c WITH x",
                "(MIT OR LicenseRef-kernel-a.b) AND LicenseRef-kernel-c WITH x",
            ),
            (
                "DocumentRef-d:LicenseRef-e",
                "DocumentRef-kernel-d:LicenseRef-e",
            ),
            ("ü LicenseRef-f", "ü LicenseRef-kernel-f"),
        ] {
            assert_eq!(place.license(given), wanted);
        }
    }

    #[test]
    fn paths_are_joined_as_go_joins_them() {
        let web = Place::new("services/web", "containers/services/web/lower");
        for (given, wanted) in [
            ("/bin/x", "containers/services/web/lower/bin/x"),
            ("./bin//x", "containers/services/web/lower/bin/x"),
            ("", "containers/services/web/lower"),
            // Go would leave the component here.
            (
                "../../../../etc/passwd",
                "containers/services/web/lower/etc/passwd",
            ),
            ("a/../b", "containers/services/web/lower/b"),
        ] {
            assert_eq!(web.path(given), wanted);
        }
        let root = Place::new("kernel", "");
        for (given, wanted) in [
            ("/bin/x", "/bin/x"),
            ("./x", "x"),
            ("", ""),
            ("/../x", "/x"),
        ] {
            assert_eq!(root.path(given), wanted);
        }
    }

    proptest! {
        #[test]
        fn different_components_never_share_an_id(
            one in "[a-c/.-]{1,6}", two in "[a-c/.-]{1,6}", x in "[a-b.-]{0,5}", y in "[a-b.-]{0,5}",
        ) {
            // Names are not empty, so no two slashes follow each other.
            prop_assume!(one != two && !one.contains("//") && !two.contains("//"));
            let (one, two) = (Place::new(&one, ""), Place::new(&two, ""));
            prop_assert_ne!(one.own(), two.own());
            prop_assert_ne!(one.named(&x), two.named(&y));
        }

        #[test]
        fn any_text_gives_an_id(text in "\\PC{0,40}") {
            let place = Place::new(&text, "x");
            for id in [place.own(), place.element(&format!("SPDXRef-{text}"))] {
                prop_assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)));
            }
            let _ = place.license(&text);
            prop_assert!(place.path(&text).starts_with('x'));
        }
    }
}
