//! Versions and relations between packages, as Debian policy chapters 5.6.12 and 7 write them.
//!
//! Enters: text such as `libc6 (>= 2.36), mawk | awk, python3:any`. Leaves: groups of
//! alternatives. Order of versions: the `debversion` crate; `dpkg --compare-versions` is the
//! oracle.

use std::cmp::Ordering;
use std::fmt;

use debversion::Version;

/// Longest version that is looked at, in bytes; longer ones are malformed.
pub const VERSION_LIMIT: usize = 255;

/// A relation that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a relation: {why}")]
pub struct RelationError {
    /// The alternative at fault.
    pub text: String,
    /// What is wrong.
    pub why: &'static str,
}

/// How a version is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `<<`
    Before,
    /// `<=`, also written `<`
    AtMost,
    /// `=`
    Equal,
    /// `>=`, also written `>`
    AtLeast,
    /// `>>`
    After,
}

/// One alternative: a name, perhaps with an architecture qualifier and a version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// Package name.
    pub name: &'a str,
    /// `any`, `native` or an architecture, after a colon.
    pub qualifier: Option<&'a str>,
    /// The condition on the version.
    pub version: Option<(Op, &'a str)>,
}

impl Op {
    fn admits(self, order: Ordering) -> bool {
        match self {
            Self::Before => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::AtLeast => order.is_ge(),
            Self::After => order.is_gt(),
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Before => "<<",
            Self::AtMost => "<=",
            Self::Equal => "=",
            Self::AtLeast => ">=",
            Self::After => ">>",
        }
    }
}

impl Relation<'_> {
    /// Whether `version` fulfils the condition on the version; malformed versions fulfil none.
    #[must_use]
    pub fn admits(&self, version: &str) -> bool {
        match self.version {
            None => true,
            Some((op, wanted)) => compare(version, wanted).is_some_and(|order| op.admits(order)),
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        match self.version {
            Some((op, version)) => write!(f, " ({} {version})", op.sign()),
            None => Ok(()),
        }
    }
}

/// Compares two versions; none when one is malformed.
#[must_use]
pub fn compare(one: &str, two: &str) -> Option<Ordering> {
    if one == two {
        return Some(Ordering::Equal);
    }
    Some(version(one)?.cmp(&version(two)?))
}

/// Reads a version of bounded length.
#[must_use]
pub fn version(text: &str) -> Option<Version> {
    if text.len() > VERSION_LIMIT {
        return None;
    }
    Version::parse_lenient(text).ok()
}

/// Parses a relation field: groups that must all hold, of alternatives of which one must.
/// Empty groups are left out, as dpkg does.
///
/// # Errors
/// The first alternative that is malformed. Architecture lists and build profiles
/// (`[amd64]`, `<!nocheck>`) belong to source packages and are malformed here.
pub fn parse(field: &str) -> Result<Vec<Vec<Relation<'_>>>, RelationError> {
    field
        .split(',')
        .filter(|group| !group.trim().is_empty())
        .map(|group| group.split('|').map(parse_one).collect())
        .collect()
}

fn parse_one(text: &str) -> Result<Relation<'_>, RelationError> {
    let text = text.trim();
    let fail = |why| RelationError {
        text: text.chars().take(120).collect(),
        why,
    };
    let (head, rest) = match text.split_once('(') {
        Some((head, rest)) => (head.trim_end(), Some(rest)),
        None => (text, None),
    };
    let (name, qualifier) = match head.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (head, None),
    };
    if !is_name(name) || qualifier.is_some_and(|qualifier| !is_name(qualifier)) {
        return Err(fail("the name is malformed"));
    }
    let version = match rest {
        None => None,
        Some(rest) => {
            let inner = rest
                .strip_suffix(')')
                .ok_or_else(|| fail("no closing bracket"))?
                .trim();
            let signs = inner
                .find(|c| !matches!(c, '<' | '=' | '>'))
                .unwrap_or(inner.len());
            let op = match &inner[..signs] {
                "<<" => Op::Before,
                "<=" | "<" => Op::AtMost,
                "=" => Op::Equal,
                ">=" | ">" => Op::AtLeast,
                ">>" => Op::After,
                _ => return Err(fail("it compares with none of << <= = >= >>")),
            };
            let wanted = inner[signs..].trim_start();
            version(wanted).ok_or_else(|| fail("the version is malformed"))?;
            Some((op, wanted))
        }
    };
    Ok(Relation {
        name,
        qualifier,
        version,
    })
}

/// Whether `text` can be the name of a package or architecture.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let first = text
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    first && text.len() <= 255 && text.bytes().all(rest)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_groups_and_alternatives() {
        let groups =
            parse("libc6 (>= 2.36), mawk | awk (<<1:2~x), python3:any, , a (= 1-1+b2)").unwrap();
        let shown: Vec<String> = groups
            .iter()
            .map(|group| {
                group
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" | ")
            })
            .collect();
        assert_eq!(
            shown,
            [
                "libc6 (>= 2.36)",
                "mawk | awk (<< 1:2~x)",
                "python3:any",
                "a (= 1-1+b2)"
            ]
        );
        assert_eq!(groups[2][0].qualifier, Some("any"));
        assert!(groups[1][1].admits("1:2~w") && !groups[1][1].admits("1:2"));
        assert!(groups[0][0].admits("2.36-9+deb12u13") && !groups[0][0].admits("2.35"));
        assert!(!groups[0][0].admits("not a version"));
    }

    #[test]
    fn refuses_what_is_malformed() {
        for bad in [
            "a (",
            "a (1)",
            "a (=> 1)",
            "a [amd64]",
            "a <!x>",
            "a b",
            "a |",
            "| a",
            "a: (>= 1)",
            "a (>= )",
            "é",
            "a (>= 1 2)",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let long = format!("a (= {})", "1".repeat(300));
        assert!(parse(&long).is_err());
    }

    /// dpkg's answer.
    fn dpkg(one: &str, two: &str) -> Ordering {
        let says = |op: &str| {
            let status = Command::new("dpkg")
                .args(["--compare-versions", one, op, two])
                .status();
            status.expect("dpkg is there").success()
        };
        match (says("lt"), says("gt")) {
            (true, _) => Ordering::Less,
            (_, true) => Ordering::Greater,
            _ => Ordering::Equal,
        }
    }

    #[test]
    fn orders_versions_as_dpkg_does() {
        let versions = [
            "0",
            "0-0",
            "1",
            "01",
            "1-0",
            "1-1",
            "1.0",
            "1.0~rc1",
            "1.0~~",
            "1.0~",
            "1.0+b1",
            "1.0-1+b1",
            "1:0",
            "0:1",
            "1.0-1~bpo12+1",
            "1.0-1+deb12u1",
            "1.0-1+deb12u10",
            "1.0a",
            "1.0.a",
            "1.0-a-1",
            "2.36-9",
            "10",
            "9",
            "1.0-",
            "1+dfsg-1",
            "18446744073709551616",
        ];
        for one in versions {
            for two in versions {
                // dpkg refuses an empty revision; we never get to compare one either way round
                if one.ends_with('-') || two.ends_with('-') {
                    continue;
                }
                assert_eq!(
                    compare(one, two),
                    Some(dpkg(one, two)),
                    "{one} against {two}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn orders_any_versions_as_dpkg_does(
            one in "([0-2]:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-b+~.]{1,4})?",
            two in "([0-2]:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-b+~.]{1,4})?",
        ) {
            prop_assert_eq!(compare(&one, &two), Some(dpkg(&one, &two)));
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_shows(
            name in "[a-z][a-z0-9+.-]{0,9}", qualifier in prop::option::of("any|native|amd64"),
            op in 0..6usize, version in "[0-9][0-9a-z.+~]{0,9}",
        ) {
            let ops = [Op::Before, Op::AtMost, Op::Equal, Op::AtLeast, Op::After];
            let version = ops.get(op).map(|&op| (op, version.as_str()));
            let relation = Relation { name: &name, qualifier: qualifier.as_deref(), version };
            let shown = relation.to_string();
            prop_assert_eq!(parse(&shown).unwrap(), vec![vec![relation.clone()]]);
        }

        #[test]
        fn never_panics(text in "([a(:)<=>|, 1é]|\\PC){0,40}", other in "\\PC{0,20}") {
            let _ = parse(&text);
            let forward = compare(&text, &other);
            prop_assert_eq!(forward.map(Ordering::reverse), compare(&other, &text));
        }
    }
}
