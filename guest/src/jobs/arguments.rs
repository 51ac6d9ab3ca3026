//! Words of a job's command line: flags as Go's `flag` package takes them, then the rest.
//!
//! In: the arguments and the names of the flags. Out: values, switches and words. `-x`, `--x`,
//! `-x V` and `-x=V` are all the same flag, before or between words, until `--`.

use crate::error::{Error, Result};

/// Parsed arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments<'a> {
    flags: Vec<(&'a str, &'a str)>,
    /// What is no flag.
    pub(super) words: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    /// Parses; `valued` flags take a value, `switches` may have `=true` or `=false`.
    pub(super) fn parse(args: &'a [String], valued: &[&str], switches: &[&str]) -> Result<Self> {
        let mut parsed = Self {
            flags: Vec::new(),
            words: Vec::new(),
        };
        let mut rest = args.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let Some(flag) = word.strip_prefix('-').filter(|f| !f.is_empty()) else {
                parsed.words.push(word);
                continue;
            };
            if flag == "-" {
                parsed.words.extend(rest);
                break;
            }
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            let value = if valued.contains(&name) {
                let value = value.or_else(|| rest.next());
                value.ok_or_else(|| Error::new(format!("{word} needs a value")))?
            } else if switches.contains(&name) {
                value.unwrap_or("true")
            } else {
                return Err(Error::new(format!("unknown flag {word}")));
            };
            parsed.flags.push((name, value));
        }
        Ok(parsed)
    }

    /// Returns the last value of a flag.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.values(name).last()
    }

    /// Returns every value of a flag, in order.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let flags = self.flags.iter();
        flags
            .filter(move |(flag, _)| *flag == name)
            .map(|(_, value)| *value)
    }

    /// Returns whether a switch is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
}

/// Makes arguments of words; for tests.
#[cfg(test)]
pub(super) fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_as_go_takes_them() {
        let args = strings(&["-a", "1", "--b=x=y", "w", "-s", "-", "-t=false", "--", "-a"]);
        let parsed = Arguments::parse(&args, &["a", "b"], &["s", "t"]).unwrap();
        assert_eq!(parsed.value("a"), Some("1"));
        assert_eq!(parsed.value("b"), Some("x=y"));
        assert!(parsed.is_on("s") && !parsed.is_on("t"));
        assert_eq!(parsed.words, ["w", "-", "-a"]);
    }

    #[test]
    fn mistakes_are_named() {
        let parse = |words: &[&str]| {
            let args = strings(words);
            Arguments::parse(&args, &["a"], &[])
                .unwrap_err()
                .to_string()
        };
        assert_eq!(parse(&["--c"]), "unknown flag --c");
        assert_eq!(parse(&["-a"]), "-a needs a value");
    }
}
