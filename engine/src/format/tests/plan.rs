//! The share plan.

use proptest::prelude::*;

use kiln_cache::Cache;

use super::support::tree_of;
use crate::format::Part;
use crate::format::fragment::OpenFragment;
use crate::format::share::{meetings, overlap, shadowed};
use crate::tree::TreePath;

/// Opens fragments of one part each: a prefix, and paths (`name/` is a directory).
fn fragments(cache: &Cache, described: &[(String, Vec<String>)]) -> Vec<OpenFragment> {
    let open = |(prefix, paths): &(String, Vec<String>)| {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let part = Part {
            prefix: TreePath::parse(prefix.as_bytes()).unwrap(),
            tree: tree_of(cache, &paths),
            shared: false,
        };
        OpenFragment::open(cache, &[part]).unwrap()
    };
    described.iter().map(open).collect()
}

#[test]
fn bundles_do_not_meet_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let mut all = vec![(String::new(), vec!["bin/sh".into(), "etc/passwd".into()])];
    for number in 0..100 {
        let base = format!("containers/services/{number}");
        let own = vec![format!("{base}/"), format!("{base}/config.json")];
        all.push((String::new(), own));
        all.push((format!("{base}/rootfs"), vec!["/".into(), "bin/sh".into()]));
    }
    all.push((String::new(), vec!["etc/note".into()]));
    let open = fragments(&cache, &all);
    // Only the system's own root, whose files lie everywhere, meets all the others.
    assert_eq!(meetings(&open).len(), 201);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn finds_what_every_pair_would_show(
        described in prop::collection::vec(
            (
                prop::sample::select(vec!["", "a", "a/b", "c"]).prop_map(str::to_owned),
                prop::collection::vec("[abc](/[abc]){0,2}/?", 0..5),
            ),
            0..6,
        ),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let open = fragments(&cache, &described);
        let mut pairs = vec![Vec::new(); open.len()];
        for (at, fragment) in open.iter().enumerate() {
            for later in &open[at + 1..] {
                overlap(fragment, 0, later.part(0), &mut pairs[at]);
            }
            pairs[at].sort_unstable();
            pairs[at].dedup();
        }
        prop_assert_eq!(shadowed(&open), pairs);
    }
}
