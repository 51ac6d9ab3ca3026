//! Which packages it takes, or why none will do.
//!
//! Enters: an [`Index`] and a request. Leaves: packages, sorted by name, one version each, such that
//! every `Pre-Depends` and `Depends` is fulfilled and no `Conflicts` or `Breaks` is violated; or
//! an explanation. The same question has the same answer, whatever the order of the request.
//!
//! - The highest version in any of the suites is preferred; then the first alternative as written;
//!   then real packages over providers; then providers of higher priority; then the first name.
//! - `Recommends` and `Suggests` are not followed. `Essential` packages are not added on their own:
//!   a system of one static program needs none. What needs them without saying so (policy 3.8)
//!   has to be asked for: `packages: [dash, coreutils, …]`.
//! - There is one architecture. `Multi-Arch` only matters for `name:any`.

use resolvo::{Problem, Solver, UnsolvableOrCancelled};

use super::packages::{Id, Index};
use super::relation::{self, Relation};
use super::universe::Universe;
use super::{DebianRequest, Package};
use crate::digest::Sha256;

/// How many similar names are offered for an unknown one.
const NEAREST: usize = 3;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SolveError {
    /// Nothing has that name.
    #[error("there is no package \"{name}\" in {suites}{}", nearest_text(.nearest))]
    Unknown {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        suites: String,
        /// Similar names.
        nearest: Vec<String>,
    },
    /// There is such a package, but not in that version.
    #[error("there is no version \"{version}\" of {name} (there is {})", .available.join(", "))]
    NoVersion {
        /// Package.
        name: String,
        /// As asked for.
        version: String,
        /// What there is, best first.
        available: Vec<String>,
    },
    /// Several packages provide it.
    #[error("\"{name}\" is a virtual package: name one of {}", .providers.join(", "))]
    Virtual {
        /// As asked for.
        name: String,
        /// Who provides it.
        providers: Vec<String>,
    },
    /// Not a name, nor `NAME=VERSION`.
    #[error("\"{0}\" is not a package (NAME, or NAME=VERSION)")]
    Malformed(String),
    /// What was asked for excludes itself.
    #[error("these packages cannot be installed together:\n{0}")]
    Conflict(String),
}

fn nearest_text(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; similar: {}", names.join(", ")),
    }
}

/// Finds the packages that `request` takes.
///
/// # Errors
/// Unknown names, and requests that cannot be fulfilled.
pub fn solve(index: &Index, request: &DebianRequest) -> Result<Vec<Package>, SolveError> {
    let universe = Universe::new(index, &request.architecture);
    let mut wanted = request.packages.clone();
    wanted.sort();
    wanted.dedup();
    let mut requirements = Vec::with_capacity(wanted.len());
    for text in &wanted {
        requirements.push(wish(index, &universe, text)?.into());
    }
    let mut solver = Solver::new(universe);
    let ids = match solver.solve(Problem::new().requirements(requirements)) {
        Ok(ids) => ids,
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let text = conflict.display_user_friendly(&solver).to_string();
            // Its head says what ours says already.
            let tree = text.split_once('\n').map_or("", |(_, tree)| tree);
            return Err(SolveError::Conflict(tree.trim_end().to_owned()));
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => unreachable!("nothing here cancels"),
    };
    let mut ids: Vec<Id> = ids.into_iter().map(|id| Id(id.into_raw())).collect();
    ids.sort_unstable(); // the table is sorted by name
    Ok(ids.into_iter().map(|id| package(index, id)).collect())
}

/// Turns one word of the request into a requirement.
fn wish(
    index: &Index,
    universe: &Universe<'_>,
    text: &str,
) -> Result<resolvo::Requirement, SolveError> {
    let malformed = || SolveError::Malformed(text.to_owned());
    let (name, version) = match text.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    if !relation::is_name(name) || version.is_some_and(|text| relation::version(text).is_none()) {
        return Err(malformed());
    }
    let ids = universe.versions(name);
    if ids.is_empty() {
        return virtual_wish(index, universe, name);
    }
    let Some(version) = version else {
        return Ok(universe.require_ids(name, ids, String::new()));
    };
    let fits = |&id: &Id| relation::compare(index.version(id), version).is_some_and(|o| o.is_eq());
    let fitting: Vec<Id> = ids.iter().copied().filter(fits).collect();
    if fitting.is_empty() {
        return Err(SolveError::NoVersion {
            name: name.to_owned(),
            version: version.to_owned(),
            available: ids.iter().map(|&id| index.version(id).to_owned()).collect(),
        });
    }
    Ok(universe.require_ids(name, fitting, format!("(= {version})")))
}

/// A name that only providers have: as apt does, taken when there is one, refused when there are
/// several.
fn virtual_wish(
    index: &Index,
    universe: &Universe<'_>,
    name: &str,
) -> Result<resolvo::Requirement, SolveError> {
    let mut providers: Vec<String> = index
        .providers(name)
        .map(|(id, _)| index.name(id).to_owned())
        .collect();
    providers.sort();
    providers.dedup();
    match providers.len() {
        0 => Err(SolveError::Unknown {
            name: name.to_owned(),
            suites: suites(index),
            nearest: nearest(index, name),
        }),
        1 => Ok(universe.require(&[Relation {
            name,
            qualifier: None,
            version: None,
        }])),
        _ => Err(SolveError::Virtual {
            name: name.to_owned(),
            providers,
        }),
    }
}

fn suites(index: &Index) -> String {
    let mut names: Vec<String> = Vec::new();
    for archive in index.archives() {
        let name = format!("{}/{}", archive.suite, archive.component);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// The names that are most like an unknown one.
fn nearest(index: &Index, name: &str) -> Vec<String> {
    let most = (name.len() / 3).clamp(1, 4);
    let mut found: Vec<(usize, &str)> = index
        .names()
        .filter(|other| other.len().abs_diff(name.len()) <= most)
        .map(|other| (distance(name.as_bytes(), other.as_bytes()), other))
        .filter(|&(distance, _)| distance <= most)
        .collect();
    found.sort_unstable();
    found
        .into_iter()
        .take(NEAREST)
        .map(|(_, other)| other.to_owned())
        .collect()
}

/// Levenshtein's distance.
fn distance(one: &[u8], two: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (index, a) in one.iter().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], index + 1);
        for (column, b) in two.iter().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[column + 1];
            row[column + 1] = change.min(corner + 1).min(row[column] + 1);
        }
    }
    row[two.len()]
}

fn package(index: &Index, id: Id) -> Package {
    let stanza = index.stanza(id);
    let field = |name| stanza.field(name).unwrap_or_default();
    let hash = field("SHA256");
    let same = |&other: &Id| {
        index.version(other) == index.version(id)
            && index.stanza(other).field("SHA256") == Some(hash)
    };
    let url = |other: Id| {
        let file = index.stanza(other).field("Filename").unwrap_or_default();
        format!("{}/{}", index.archive(other).url, escape(file))
    };
    let mut urls: Vec<String> = Vec::new();
    for other in index.named(index.name(id)).filter(same) {
        let url = url(other);
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    Package {
        name: index.name(id).to_owned(),
        version: index.version(id).to_owned(),
        architecture: field("Architecture").to_owned(),
        urls,
        size: field("Size")
            .parse()
            .expect("sizes are checked when stanzas are added"),
        sha256: Sha256::from_hex(hash).expect("hashes are checked when stanzas are added"),
        control: stanza.text().to_owned(),
    }
}

/// Escapes what cannot stand in the path of a URL (RFC 3986, section 3.3).
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            byte if b"/-._~+:@!$&'()*,;=".contains(&byte) => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::super::packages::testing;
    use super::super::transport::testing::Net;
    use super::super::{index, sources};
    use super::*;

    fn request(packages: &[&str]) -> DebianRequest {
        DebianRequest {
            suite: None,
            packages: packages.iter().map(|&name| name.to_owned()).collect(),
            mirror: None,
            keyring: None,
            architecture: "amd64".to_owned(),
        }
    }

    fn answer(universe: &str, packages: &[&str]) -> Result<String, String> {
        let index = testing::index(universe);
        let packages = solve(&index, &request(packages)).map_err(|error| error.to_string())?;
        let shown: Vec<String> = packages
            .iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect();
        Ok(shown.join(", "))
    }

    #[test]
    fn follows_dependencies_and_takes_the_highest_version() {
        let universe = "a 1; Depends: b (>= 2), c\nb 1\nb 2\nb 10\nc 1; Pre-Depends: d\nd 1\ne 1; Essential: yes\nc 0; Recommends: e";
        assert_eq!(answer(universe, &["a"]).unwrap(), "a 1, b 10, c 1, d 1");
        assert_eq!(
            answer(universe, &["b=2", "a"]).unwrap(),
            "a 1, b 2, c 1, d 1"
        );
        assert_eq!(
            answer(universe, &["a", "b=2"]),
            answer(universe, &["b=2", "a", "a"])
        );
        assert_eq!(
            answer(universe, &["c=0"]).unwrap(),
            "c 0",
            "recommends are not followed"
        );
        assert_eq!(answer(universe, &[]).unwrap(), "");
    }

    #[test]
    fn prefers_what_is_written_first() {
        let universe = "a 1; Depends: x | y\nb 1; Depends: y\nx 1\ny 1\nc 1; Depends: gone | y\nd 1; Depends: v";
        assert_eq!(answer(universe, &["a"]).unwrap(), "a 1, x 1");
        assert_eq!(
            answer(universe, &["a", "b"]).unwrap(),
            "a 1, b 1, y 1",
            "y is there anyway"
        );
        assert_eq!(answer(universe, &["c"]).unwrap(), "c 1, y 1");
        let providers = "p 1; Provides: v\no 1; Provides: v; Priority: important\nq 1; Provides: v";
        assert_eq!(
            answer(&format!("{universe}\n{providers}"), &["d"]).unwrap(),
            "d 1, o 1"
        );
        let real = "v 1\nr 1; Provides: v; Priority: required";
        assert_eq!(
            answer(&format!("{universe}\n{real}"), &["d"]).unwrap(),
            "d 1, v 1"
        );
    }

    #[test]
    fn provides_fulfil_versions_only_when_versioned() {
        let universe = "a 1; Depends: v (>= 2)\np 1; Provides: v\nq 1; Provides: v (= 3)\nb 1; Depends: v (>= 4)";
        assert_eq!(answer(universe, &["a"]).unwrap(), "a 1, q 1");
        assert!(answer(universe, &["b"]).is_err());
    }

    #[test]
    fn conflicts_lead_elsewhere_or_to_an_explanation() {
        let universe = "a 1; Depends: m\nm 1; Provides: mta; Conflicts: mta\nn 1; Provides: mta; Conflicts: mta\nb 1; Depends: n\nc 2; Breaks: d (<< 2)\nc 1\nd 1";
        assert_eq!(
            answer(universe, &["a"]).unwrap(),
            "a 1, m 1",
            "not with itself"
        );
        assert_eq!(answer(universe, &["c"]).unwrap(), "c 2");
        assert_eq!(
            answer(universe, &["c", "d"]).unwrap(),
            "c 1, d 1",
            "an older one will do"
        );
        let error = answer(universe, &["a", "b"]).unwrap_err();
        for part in ["a", "b", "m", "n", "Conflicts: mta"] {
            assert!(error.contains(part), "{error}");
        }
        for _ in 0..20 {
            assert_eq!(answer(universe, &["b", "a"]).unwrap_err(), error);
        }
    }

    #[test]
    fn qualifiers_mean_the_one_architecture() {
        let universe = "a 1; Depends: p:any\np 1; Multi-Arch: allowed\nb 1; Depends: q:any\nq 1\nc 1; Depends: q:native, q:amd64\nd 1; Depends: q:arm64";
        assert_eq!(answer(universe, &["a"]).unwrap(), "a 1, p 1");
        assert!(answer(universe, &["b"]).is_err());
        assert_eq!(answer(universe, &["c"]).unwrap(), "c 1, q 1");
        assert!(answer(universe, &["d"]).is_err());
    }

    #[test]
    fn names_what_is_wrong() {
        let universe = "nginx-light 1\nnginx 1\nnginx 2\nm 1; Provides: mta\nn 1; Provides: mta, solo\na 1; Depends: b | c (>= 3)\nc 2\nx 1; Depends: b b";
        for (name, expected) in [
            (
                "nginx-lite",
                "there is no package \"nginx-lite\" in s/main; similar: nginx-light",
            ),
            ("zzzzzzzz", "there is no package \"zzzzzzzz\" in s/main"),
            (
                "nginx=3",
                "there is no version \"3\" of nginx (there is 2, 1)",
            ),
            ("mta", "\"mta\" is a virtual package: name one of m, n"),
            ("a b", "\"a b\" is not a package (NAME, or NAME=VERSION)"),
            ("a=", "\"a=\" is not a package (NAME, or NAME=VERSION)"),
        ] {
            assert_eq!(answer(universe, &[name]).unwrap_err(), expected);
        }
        assert_eq!(answer(universe, &["solo"]).unwrap(), "n 1");
        let error = answer(universe, &["a"]).unwrap_err();
        assert!(error.contains('b') && error.contains("c (>= 3)"), "{error}");
        let error = answer(universe, &["x"]).unwrap_err();
        assert!(error.contains("\"b b\" is not a relation"), "{error}");
    }

    #[test]
    fn gives_all_addresses_of_one_package() {
        let mut builder = super::super::packages::Builder::default();
        for host in ["one", "two"] {
            let archive = super::super::packages::Archive {
                url: format!("http://{host}.test/debian"),
                suite: "s".to_owned(),
                component: "main".to_owned(),
                date: 0,
            };
            let text = testing::stanzas("a 1").replace("pool/", "pool/%/");
            builder.add(archive, None, text.as_bytes()).unwrap();
        }
        let package = solve(&builder.finish(), &request(&["a"]))
            .unwrap()
            .remove(0);
        assert_eq!(
            package.urls,
            [
                "http://one.test/debian/pool/%25/a_1.deb",
                "http://two.test/debian/pool/%25/a_1.deb"
            ]
        );
        assert_eq!(package.size, 1);
        let json = serde_json::to_string(&package).unwrap();
        assert_eq!(serde_json::from_str::<Package>(&json).unwrap(), package);
    }

    /// What apt would install into an empty system.
    fn apt(dir: &Path, args: &[&str]) -> String {
        let option = |name: &str, path: &str| {
            let path = dir.join(path);
            std::fs::create_dir_all(&path).unwrap();
            format!("-o{name}={}", path.display())
        };
        let output = Command::new("apt-get")
            .args([
                option("Dir::State", "state"),
                option("Dir::State::lists", "lists"),
                option("Dir::Cache", "cache"),
            ])
            .args([
                "-oDir::State::status=/dev/null",
                "-oDir::State::extended_states=/dev/null",
            ])
            .args([
                "-oAPT::Sandbox::User=",
                "-oAPT::Update::Post-Invoke-Success=",
                "-oAPT::Install-Recommends=no",
            ])
            .args(args)
            .output()
            .expect("apt-get is there");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "apt-get {args:?}: {log}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The host's own archives and apt's own answer. Also: time and size of the index.
    #[test]
    fn agrees_with_apt_on_the_archives_of_this_host() {
        let host = request(&[]);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let trusted = sources(Path::new("/"), &host).unwrap();
        let index = index(&Net::new(), &trusted, "amd64", i64::try_from(now).unwrap())
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(index.len() > 50_000);
        let stored = index.to_bytes().unwrap();
        let index = Index::from_bytes(&stored).unwrap();
        assert!(stored.len() < 16 << 20, "{}", stored.len());

        let dir = tempfile::tempdir().unwrap();
        apt(dir.path(), &["update"]);
        for names in [
            &["nginx-light"][..],
            &["busybox-static"],
            &["openssh-server"],
            &["python3-minimal"],
            &["linux-image-cloud-amd64"],
            &["dash", "coreutils", "libc-bin", "mawk"],
            &["postgresql", "default-jre-headless"],
        ] {
            let mine: BTreeMap<String, String> = solve(&index, &request(names))
                .unwrap_or_else(|error| panic!("{names:?}: {error}"))
                .into_iter()
                .map(|package| (package.name, package.version))
                .collect();
            let said = apt(dir.path(), &[&["-s", "install"][..], names].concat());
            let theirs: BTreeMap<String, String> = said
                .lines()
                .filter_map(|line| line.strip_prefix("Inst "))
                .map(|line| {
                    let (name, rest) = line.split_once(" (").unwrap();
                    (name.to_owned(), rest.split(' ').next().unwrap().to_owned())
                })
                .collect();
            assert_eq!(mine, theirs, "{names:?}");
        }
    }

    #[derive(Debug, Clone)]
    struct Toy {
        depends: Vec<Vec<usize>>,
        conflicts: Vec<usize>,
    }

    fn toys() -> impl Strategy<Value = Vec<Toy>> {
        let name = 0..6_usize;
        let depends = prop::collection::vec(prop::collection::vec(name.clone(), 1..3), 0..3);
        let conflicts = prop::collection::vec(name, 0..2);
        let toy = (depends, conflicts).prop_map(|(depends, conflicts)| Toy { depends, conflicts });
        prop::collection::vec(toy, 12)
    }

    /// Twelve packages: two versions of six names.
    fn text(toys: &[Toy]) -> String {
        let name = |n: &usize| format!("p{n}");
        let join = |list: &[usize], sep: &str| list.iter().map(name).collect::<Vec<_>>().join(sep);
        let mut out = String::new();
        for (number, toy) in toys.iter().enumerate() {
            let depends: Vec<String> = toy.depends.iter().map(|group| join(group, " | ")).collect();
            out += &format!("p{} {}", number / 2, number % 2 + 1);
            if !depends.is_empty() {
                out += &format!("; Depends: {}", depends.join(", "));
            }
            if !toy.conflicts.is_empty() {
                out += &format!("; Conflicts: {}", join(&toy.conflicts, ", "));
            }
            out.push('\n');
        }
        out
    }

    /// Whether a choice of versions (0: not installed) is consistent and holds package 0.
    fn holds(toys: &[Toy], choice: &[usize; 6]) -> bool {
        choice[0] > 0
            && (0..6).filter(|&name| choice[name] > 0).all(|name| {
                let toy = &toys[name * 2 + choice[name] - 1];
                toy.depends
                    .iter()
                    .all(|group| group.iter().any(|&other| choice[other] > 0))
                    && toy
                        .conflicts
                        .iter()
                        .all(|&other| other == name || choice[other] == 0)
            })
    }

    proptest! {
        /// Against trying all 729 choices: an answer is one, and there is one when there can be.
        #[test]
        fn answers_when_there_is_an_answer(toys in toys()) {
            let possible = (0..729_usize).any(|mut number| {
                let choice = [0; 6].map(|_: usize| { let digit = number % 3; number /= 3; digit });
                holds(&toys, &choice)
            });
            let answer = solve(&testing::index(&text(&toys)), &request(&["p0"]));
            prop_assert_eq!(answer.is_ok(), possible);
            if let Ok(packages) = answer {
                let mut choice = [0; 6];
                for package in &packages {
                    choice[package.name[1..].parse::<usize>().unwrap()] = package.version.parse().unwrap();
                }
                prop_assert!(holds(&toys, &choice), "{:?}", choice);
                let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
                prop_assert_eq!(names.len(), packages.len());
            }
        }

        #[test]
        fn distance_is_a_metric(one in "[ab]{0,6}", two in "[ab]{0,6}", three in "[ab]{0,6}") {
            let d = |a: &str, b: &str| distance(a.as_bytes(), b.as_bytes());
            prop_assert_eq!(d(&one, &two), d(&two, &one));
            prop_assert_eq!(d(&one, &two) == 0, one == two);
            prop_assert!(d(&one, &three) <= d(&one, &two) + d(&two, &three));
        }
    }
}
