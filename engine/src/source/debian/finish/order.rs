//! In which order packages lie upon each other, where two ship the same path.
//!
//! Enters: packages. Leaves: an order of layers, lowest first. dpkg lets a package take over
//! files of those it `Replaces` (policy 7.6); the same must come out here, whatever the names.

use std::collections::BTreeMap;

use super::super::Package;
use super::super::packages::Stanza;
use super::super::relation;

/// Returns indexes into `packages`, lowest layer first: a package lies above those it replaces;
/// otherwise in the order given. Two that replace each other stay in the order given.
#[must_use]
pub fn layers(packages: &[Package]) -> Vec<usize> {
    let names = packages
        .iter()
        .enumerate()
        .map(|(at, package)| (package.name.as_str(), at));
    let by_name: BTreeMap<&str, usize> = names.collect();
    let below: Vec<Vec<usize>> = packages
        .iter()
        .map(|package| replaced(&by_name, packages, package))
        .collect();
    let mut state = vec![State::New; packages.len()];
    let mut order = Vec::with_capacity(packages.len());
    for start in 0..packages.len() {
        visit(start, &below, &mut state, &mut order);
    }
    order
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    Seen,
}

/// Depth first, with a stack of its own: chains are as long as a hostile index wants.
fn visit(start: usize, below: &[Vec<usize>], state: &mut [State], order: &mut Vec<usize>) {
    let mut stack = vec![(start, 0)];
    if std::mem::replace(&mut state[start], State::Seen) == State::Seen {
        return;
    }
    while let Some((package, next)) = stack.pop() {
        match below[package].get(next) {
            None => order.push(package),
            Some(&other) => {
                stack.push((package, next + 1));
                if std::mem::replace(&mut state[other], State::Seen) == State::New {
                    stack.push((other, 0));
                }
            }
        }
    }
}

fn replaced(
    by_name: &BTreeMap<&str, usize>,
    packages: &[Package],
    package: &Package,
) -> Vec<usize> {
    let field = Stanza::new(&package.control)
        .field("Replaces")
        .unwrap_or_default();
    let mut found = Vec::new();
    for relation in relation::parse(field).unwrap_or_default().iter().flatten() {
        if let Some(&at) = by_name.get(relation.name)
            && packages[at].name != package.name
            && relation.admits(&packages[at].version)
        {
            found.push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::super::packages::testing;
    use super::super::super::{DebianRequest, solve::solve};
    use super::*;

    fn order(short: &str) -> String {
        let index = testing::index(short);
        let request = DebianRequest {
            suite: None,
            packages: index.names().map(str::to_owned).collect(),
            mirror: None,
            keyring: None,
            architecture: "amd64".to_owned(),
        };
        let packages = solve(&index, &request).unwrap();
        layers(&packages)
            .into_iter()
            .map(|at| packages[at].name.as_str())
            .collect()
    }

    #[test]
    fn replacers_lie_above() {
        assert_eq!(order("a 1\nb 1\nc 1"), "abc");
        assert_eq!(order("a 1; Replaces: c, gone\nb 1\nc 1"), "cab");
        assert_eq!(
            order("a 1; Replaces: b (<< 1)\nb 1\nc 1"),
            "abc",
            "of older versions only"
        );
        assert_eq!(order("a 1; Replaces: b\nb 1; Replaces: c\nc 1"), "cba");
        assert_eq!(order("a 1; Replaces: b\nb 1; Replaces: a\nc 1"), "bac");
        assert_eq!(order("a 1; Replaces: a\nb 1"), "ab");
    }
}
