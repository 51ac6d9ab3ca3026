//! `WWW-Authenticate`: which proof a server asks for (RFC 9110, 11.6.1).
//!
//! Enters: a header's value, written by anyone. Leaves: challenges with their parameters.

use std::collections::BTreeMap;

/// Bytes of a header that are looked at; longer ones are no challenge.
const SIZE_MAX: usize = 8 << 10;
/// Challenges of one header, and parameters of one challenge.
const COUNT_MAX: usize = 16;

/// One challenge: a scheme and its parameters, names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    pub(super) parameters: BTreeMap<String, String>,
}

/// Parses a header's value; what cannot be understood ends the list.
pub(super) fn parse(value: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    if value.len() > SIZE_MAX {
        return challenges;
    }
    let mut cursor = Cursor { rest: value };
    while challenges.len() < COUNT_MAX {
        cursor.skip(" \t,");
        let scheme = cursor.token().to_ascii_lowercase();
        if scheme.is_empty() {
            break;
        }
        let mut parameters = BTreeMap::new();
        while let Some((name, value)) = cursor.parameter() {
            // The first one counts: a repeated realm is an attempt to confuse.
            if parameters.len() < COUNT_MAX {
                parameters.entry(name).or_insert(value);
            }
        }
        challenges.push(Challenge { scheme, parameters });
    }
    challenges
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, characters: &str) {
        self.rest = self.rest.trim_start_matches(|c| characters.contains(c));
    }

    fn token(&mut self) -> &'a str {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    /// Reads `name=value`; leaves the cursor where it was when a new scheme begins.
    fn parameter(&mut self) -> Option<(String, String)> {
        let start = self.rest;
        self.skip(" \t,");
        let name = self.token().to_ascii_lowercase();
        self.skip(" \t");
        let Some(rest) = self.rest.strip_prefix('=').filter(|_| !name.is_empty()) else {
            self.rest = start;
            return None;
        };
        self.rest = rest;
        self.skip(" \t");
        let value = match self.rest.strip_prefix('"') {
            Some(rest) => {
                self.rest = rest;
                self.quoted()?
            }
            None => self.token().to_owned(),
        };
        Some((name, value))
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                _ => value.push(character),
            }
        }
        self.rest = "";
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(value: &str) -> String {
        let challenges = parse(value);
        let shown = challenges.iter().map(|challenge| {
            let parameters = challenge
                .parameters
                .iter()
                .map(|(k, v)| format!(" {k}={v}"));
            format!("{}{}", challenge.scheme, parameters.collect::<String>())
        });
        shown.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn reads_what_registries_send() {
        assert_eq!(
            shown(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#
            ),
            "bearer realm=https://auth.docker.io/token scope=repository:a/b:pull service=registry.docker.io"
        );
        assert_eq!(
            shown("Basic realm=\"a \\\"b\\\", c\""),
            "basic realm=a \"b\", c"
        );
        assert_eq!(
            shown(r#"Negotiate, Basic realm = x , BEARER Realm="y",realm="z""#),
            "negotiate | basic realm=x | bearer realm=y"
        );
    }

    #[test]
    fn broken_ones_end_the_list() {
        for broken in ["", ",,,", "=", "\"", "Bearer realm=\"open", "é"] {
            assert!(
                parse(broken)
                    .iter()
                    .all(|challenge| challenge.parameters.is_empty()),
                "{broken}"
            );
        }
        assert!(parse(&"Basic ".repeat(9000)).is_empty());
        assert_eq!(parse(&"Basic,".repeat(900)).len(), COUNT_MAX);
    }

    proptest! {
        #[test]
        fn any_text_is_harmless(text in "\\PC{0,200}") {
            prop_assert!(parse(&text).len() <= COUNT_MAX);
        }

        #[test]
        fn near_challenges_are_harmless(text in "(Bearer|Basic|[a-z]|=|\"|\\\\|,| |é){0,40}") {
            prop_assert!(parse(&text).len() <= COUNT_MAX);
        }
    }
}
