//! kiln's annotations: what kiln-init is asked to do with a container. docs/guest.md says what they
//! mean; here is what they may be, so that a slip shows where it was made and not at boot.

use super::BUILTIN_ANNOTATION;
use super::decode::{Decoder, GrammarError, Path};
use super::nearest::nearest;
use super::node::{Node, Value, clip};
use std::collections::BTreeMap;

const PREFIX: &str = "kiln.";

/// An annotation, and what its values are.
type Known = (&'static str, fn(&str) -> bool, &'static str);

const KNOWN: [Known; 10] = [
    (
        "kiln.restart",
        |value| match value.strip_prefix("on-failure:") {
            Some(times) => times.parse::<u32>().is_ok(),
            None => ["never", "always", "on-failure"].contains(&value),
        },
        "never, always, on-failure or on-failure:TIMES",
    ),
    (
        "kiln.depends-on",
        |value| value.split(',').all(|name| !name.trim().is_empty()),
        "names of services, such as db,cache",
    ),
    (
        "kiln.ready",
        |value| match value.split_once(':') {
            Some(("tcp", port)) => port.parse::<u16>().is_ok_and(|port| port != 0),
            Some(("file", path)) => path.starts_with('/'),
            Some(_) => false,
            None => ["started", "notify"].contains(&value),
        },
        "started, tcp:PORT, file:/PATH or notify",
    ),
    (
        "kiln.stop-signal",
        |value| {
            let name = value.strip_prefix("SIG").unwrap_or(value);
            let above = name.strip_prefix("RTMIN+");
            let number = above.unwrap_or(name).parse::<u8>();
            SIGNALS.contains(&name) || number.is_ok_and(|number| (1..=64).contains(&number))
        },
        "a signal, such as SIGQUIT or 3",
    ),
    (
        "kiln.stop-timeout",
        |value| value.parse::<u32>().is_ok(),
        "a number of seconds",
    ),
    (
        "kiln.on-failure",
        |value| ["continue", "stop"].contains(&value),
        "continue or stop",
    ),
    (
        "kiln.user",
        |value| {
            let mut parts = value.split(':');
            parts.clone().count() <= 2 && parts.all(|part| !part.is_empty())
        },
        "a user, or USER:GROUP",
    ),
    (
        "kiln.main",
        |value| ["off", "on", "attach"].contains(&value),
        "off, on or attach",
    ),
    (
        "kiln.terminal",
        |value| ["on", "off"].contains(&value),
        "on or off",
    ),
    (
        "kiln.console",
        |value| ["on", "off"].contains(&value),
        "on or off",
    ),
];

/// What a container is stopped with (signal(7)), as far as anyone does.
const SIGNALS: [&str; 10] = [
    "HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "USR2", "TERM", "WINCH", "PWR",
];

/// `annotations`.
pub(super) fn annotations(
    decoder: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<BTreeMap<String, String>> {
    let all = decoder.string_map(node, path)?;
    if let Value::Map(entries) = &node.value {
        for entry in entries {
            let value = all.get(&entry.key).map(String::as_str).unwrap_or_default();
            if let Err((message, hint)) = check(&entry.key, value) {
                let path = Path::Key(path, &entry.key);
                decoder.report_maybe_hint(&entry.value.range, &path, message, hint);
            }
        }
    }
    Some(all)
}

/// Checks one annotation; those of others may be anything.
fn check(key: &str, value: &str) -> Result<(), GrammarError> {
    if !key.starts_with(PREFIX) {
        return Ok(());
    }
    let Some((_, is_good, expected)) = KNOWN.iter().find(|(known, ..)| *known == key) else {
        if key == BUILTIN_ANNOTATION {
            let hint = "write builtin: NAME beside the container's name";
            return Err((format!("{key} is the build's own"), Some(hint.to_owned())));
        }
        let names: Vec<&str> = KNOWN.iter().map(|(known, ..)| *known).collect();
        let hint = match nearest(key, &names) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("kiln knows {}", names.join(", ")),
        };
        return Err((format!("unknown annotation \"{}\"", clip(key)), Some(hint)));
    };
    match is_good(value) {
        true => Ok(()),
        false => Err((
            format!("\"{}\" is not understood", clip(value)),
            Some(format!("write {expected}")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        for (key, value) in [
            ("kiln.restart", "on-failure:3"),
            ("kiln.depends-on", "a, b"),
            ("kiln.ready", "tcp:80"),
            ("kiln.ready", "file:/run/x"),
            ("kiln.stop-signal", "SIGQUIT"),
            ("kiln.stop-signal", "RTMIN+3"),
            ("kiln.stop-timeout", "0"),
            ("org.example.kiln.restart", "whatever"),
        ] {
            assert!(check(key, value).is_ok(), "{key}: {value}");
        }
        for (key, value) in [
            ("kiln.restart", "sometimes"),
            ("kiln.restart", "on-failure:-1"),
            ("kiln.depends-on", "a,,b"),
            ("kiln.ready", "tcp:0"),
            ("kiln.ready", "file:x"),
            ("kiln.stop-signal", "SIGNOPE"),
            ("kiln.stop-timeout", "1m"),
            ("kiln.console", ""),
        ] {
            assert!(check(key, value).is_err(), "{key}: {value}");
        }
        let (message, _) = check(BUILTIN_ANNOTATION, "mount").unwrap_err();
        assert_eq!(message, "kiln.builtin is the build's own");
        let (message, hint) = check("kiln.restrat", "always").unwrap_err();
        assert_eq!(message, "unknown annotation \"kiln.restrat\"");
        assert_eq!(hint.as_deref(), Some("did you mean \"kiln.restart\"?"));
    }
}
