//! The key a person probably meant.

/// Returns the candidate nearest to `word`: same but for case, a prefix either way, or a few edits
/// away. Ties go to the earlier candidate.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    // A hint for something absurdly long helps nobody, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let score = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let distance = edit_distance(&word, &candidate);
        let shorter = word.len().min(candidate.len());
        let is_prefix =
            shorter >= 3 && (word.starts_with(&candidate) || candidate.starts_with(&word));
        let allowed = match shorter {
            0..=2 => 0,
            3..=4 => 1,
            5..=7 => 2,
            _ => 3,
        };
        // A prefix counts as one edit more than the allowance: a real near miss comes first.
        if distance <= allowed {
            Some(distance)
        } else {
            is_prefix.then_some(allowed + 1)
        }
    };
    candidates
        .iter()
        .filter_map(|candidate| score(candidate).map(|score| (score, *candidate)))
        .min_by_key(|(score, _)| *score)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 0..left.len() {
        let mut row = vec![i + 1];
        for j in 0..right.len() {
            let substitution = last[j] + usize::from(left[i] != right[j]);
            let mut best = substitution.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left[i] == right[j - 1] && left[i - 1] == right[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let keys = [
            "services",
            "binds",
            "binds.add",
            "env",
            "command",
            "oomScoreAdj",
            "net",
            "uid",
        ];
        let cases = [
            ("service", Some("services")),
            ("bind", Some("binds")),
            ("environment", Some("env")),
            ("cmmand", Some("command")),
            ("ocmmand", Some("command")),
            ("OOMScoreAdj", Some("oomScoreAdj")),
            ("oomscoradj", Some("oomScoreAdj")),
            ("uis", Some("uid")),
            ("ports", None),
            ("x", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, &keys), expected, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), &keys), None);
    }

    #[test]
    fn measures() {
        for (left, right, distance) in [
            ("", "", 0),
            ("abc", "", 3),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(left, right), distance, "{left} {right}");
            assert_eq!(edit_distance(right, left), distance, "{right} {left}");
        }
    }
}
