//! The small languages inside strings: binds, limits, capabilities, modes, names and paths.
//!
//! Each parser takes the text and says what is wrong with it; positions are the decoder's work.

use super::decode::GrammarError;
use super::model::FileMode;
use super::nearest::nearest;
use super::node::clip;

/// Every capability, in kernel number order (linux/capability.h, 0 to 40).
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Resource limits of the OCI specification, without `RLIMIT_`.
pub(super) const LIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// A container or volume name becomes one path component.
pub(super) const NAME_MAX_BYTES: usize = 200;

/// `SRC:DST[:OPTS]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// As written.
    pub text: String,
    /// An absolute path, or the name of a volume.
    pub source: String,
    /// Where it appears in the container.
    pub destination: String,
    /// The third part split at commas, if there is one.
    pub options: Option<Vec<String>>,
}

/// `DST[:OPTS]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// As written.
    pub text: String,
    /// Where it appears in the container.
    pub destination: String,
    /// The second part split at commas; empty without.
    pub options: Vec<String>,
}

/// `NAME,SOFT,HARD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// As written.
    pub text: String,
    /// `RLIMIT_…`
    pub kind: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

fn plain(message: impl Into<String>) -> GrammarError {
    (message.into(), None)
}

fn hinted(message: impl Into<String>, hint: impl Into<String>) -> GrammarError {
    (message.into(), Some(hint.into()))
}

fn split_commas(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// Parses a bind.
pub(super) fn bind(text: &str) -> Result<Bind, GrammarError> {
    let shape = "a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts[..] {
        [source, destination] => (source, destination, None),
        [source, destination, options] => (source, destination, Some(split_commas(options))),
        [_] => return Err(hinted(format!("bind \"{}\" has no ':'", clip(text)), shape)),
        _ => {
            return Err(hinted(
                format!("bind \"{}\" has too many ':'", clip(text)),
                shape,
            ));
        }
    };
    if source.is_empty() || destination.is_empty() {
        return Err(hinted(
            format!("bind \"{}\" has an empty part", clip(text)),
            shape,
        ));
    }
    Ok(Bind {
        text: text.to_owned(),
        source: source.to_owned(),
        destination: destination.to_owned(),
        options,
    })
}

/// Parses a tmpfs.
pub(super) fn tmpfs(text: &str) -> Result<Tmpfs, GrammarError> {
    let shape = "a tmpfs is DESTINATION or DESTINATION:OPTION,OPTION";
    let parts: Vec<&str> = text.split(':').collect();
    let (destination, options) = match parts[..] {
        [destination] => (destination, Vec::new()),
        [destination, options] => (destination, split_commas(options)),
        _ => {
            return Err(hinted(
                format!("tmpfs \"{}\" has too many ':'", clip(text)),
                shape,
            ));
        }
    };
    if destination.is_empty() {
        return Err(hinted(
            format!("tmpfs \"{}\" has no destination", clip(text)),
            shape,
        ));
    }
    Ok(Tmpfs {
        text: text.to_owned(),
        destination: destination.to_owned(),
        options,
    })
}

/// Parses a resource limit.
pub(super) fn rlimit(text: &str) -> Result<Rlimit, GrammarError> {
    let parts: Vec<&str> = text.splitn(3, ',').map(str::trim).collect();
    let [name, soft, hard] = parts[..] else {
        return Err(hinted(
            format!("rlimit \"{}\" does not have three parts", clip(text)),
            "a limit is NAME,SOFT,HARD, such as nofile,1024,4096",
        ));
    };
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
    if !LIMITS.contains(&bare) {
        let message = format!("unknown rlimit \"{}\"", clip(name));
        return Err(match nearest(bare, &LIMITS) {
            Some(meant) => hinted(
                message,
                format!("did you mean \"{}\"?", meant.to_lowercase()),
            ),
            None => hinted(
                message,
                format!("known limits: {}", LIMITS.join(", ").to_lowercase()),
            ),
        });
    }
    let value = |part: &str| {
        if part.eq_ignore_ascii_case("unlimited") {
            return Ok(u64::MAX);
        }
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = part.parse().ok().filter(|_| digits);
        parsed.ok_or_else(|| {
            hinted(
                format!("rlimit value \"{}\" is not a number", clip(part)),
                "write a number of 64 bits or unlimited",
            )
        })
    };
    Ok(Rlimit {
        text: text.to_owned(),
        kind: format!("RLIMIT_{bare}"),
        soft: value(soft)?,
        hard: value(hard)?,
    })
}

/// Checks a capability name, or `all` or `none` in any case.
pub(super) fn capability(text: &str) -> Result<String, GrammarError> {
    let known = |name: &str| CAPABILITIES.contains(&name);
    if known(text) || text.eq_ignore_ascii_case("all") || text.eq_ignore_ascii_case("none") {
        return Ok(text.to_owned());
    }
    let message = format!("unknown capability \"{}\"", clip(text));
    let upper = text.to_uppercase();
    let prefixed = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    let meant = if known(&prefixed) {
        Some(prefixed.as_str())
    } else {
        nearest(&prefixed, &CAPABILITIES)
    };
    Err(match meant {
        Some(meant) => hinted(message, format!("did you mean \"{meant}\"?")),
        None => plain(message),
    })
}

/// Parses an octal mode of at most 12 bits.
pub(super) fn mode(text: &str) -> Result<FileMode, GrammarError> {
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let bits = u16::from_str_radix(text, 8)
        .ok()
        .filter(|bits| octal && *bits <= 0o7777);
    match bits {
        Some(bits) => Ok(FileMode {
            text: text.to_owned(),
            bits,
        }),
        None => Err(hinted(
            format!("mode \"{}\" is not octal", clip(text)),
            "write octal digits from 0 to 7777, such as \"0644\"",
        )),
    }
}

/// Checks a container name.
pub(super) fn container_name(text: &str) -> Result<String, GrammarError> {
    let refused = text
        .chars()
        .find(|c| *c == '/' || c.is_whitespace() || c.is_control());
    let message = match refused {
        Some(c) => format!("container name \"{}\" contains {c:?}", clip(text)),
        None if text.is_empty() => "container name is empty".to_owned(),
        None if text == "." || text == ".." => {
            format!("container name \"{text}\" stands for another directory")
        }
        None if text.len() > NAME_MAX_BYTES => {
            format!("container name is longer than {NAME_MAX_BYTES} bytes")
        }
        None => return Ok(text.to_owned()),
    };
    Err(hinted(
        message,
        "the name becomes a directory: use letters, digits, '-', '_' and '.'",
    ))
}

/// Checks a volume name.
pub(super) fn volume_name(text: &str) -> Result<String, GrammarError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if !text.is_empty() && text.len() <= NAME_MAX_BYTES && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(hinted(
        format!("invalid volume name \"{}\"", clip(text)),
        "use lower case letters, digits, '-' and '_'",
    ))
}

/// Checks `os/arch[/variant]`.
pub(super) fn platform(text: &str) -> Result<String, GrammarError> {
    let parts: Vec<&str> = text.split('/').collect();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (2..=3).contains(&parts.len())
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(allowed))
    {
        return Ok(text.to_owned());
    }
    Err(hinted(
        format!("invalid platform \"{}\"", clip(text)),
        "write os/arch or os/arch/variant, such as linux/arm64",
    ))
}

/// Checks that an image reference can be one; the source parses it.
pub(super) fn reference(text: &str) -> Result<String, GrammarError> {
    if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(plain(format!(
            "image reference \"{}\" contains {c:?}",
            clip(text)
        )));
    }
    if text.contains("://") {
        return Err(hinted(
            format!("image reference \"{}\" is a URL", clip(text)),
            "write registry/path:tag without a scheme",
        ));
    }
    Ok(text.to_owned())
}

/// Checks a Debian suite or code name, `bookworm` or `bookworm-backports`.
pub(super) fn suite(text: &str) -> Result<String, GrammarError> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+' | b'/');
    let plain_parts = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain_parts && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(hinted(
        format!("invalid suite \"{}\"", clip(text)),
        "write a code name, such as bookworm",
    ))
}

/// Checks `NAME`, `NAME:ARCH`, `NAME=VERSION` or `NAME:ARCH=VERSION` (Debian policy 5.6.1, 5.6.12).
pub(super) fn package(text: &str) -> Result<String, GrammarError> {
    let (name, version) = text
        .split_once('=')
        .map_or((text, None), |(name, version)| (name, Some(version)));
    let (name, arch) = name
        .split_once(':')
        .map_or((name, None), |(name, arch)| (name, Some(arch)));
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let name_fits = name.len() >= 2
        && name
            .bytes()
            .all(|byte| lower(byte) || matches!(byte, b'+' | b'-' | b'.'))
        && name.bytes().next().is_some_and(lower);
    let arch_fits = arch.is_none_or(|arch| {
        !arch.is_empty() && arch.bytes().all(|byte| lower(byte) || byte == b'-')
    });
    let version_fits = version.is_none_or(|version| {
        let allowed = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-' | b'~' | b':')
        };
        !version.is_empty() && version.bytes().all(allowed)
    });
    if name_fits && arch_fits && version_fits {
        return Ok(text.to_owned());
    }
    Err(hinted(
        format!("invalid package name \"{}\"", clip(text)),
        "write NAME or NAME=VERSION, one package per item",
    ))
}

/// Checks a mirror's URL.
pub(super) fn mirror(text: &str) -> Result<String, GrammarError> {
    let rest = ["http://", "https://", "file:///"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if clean && rest.is_some_and(|rest| !rest.is_empty()) {
        return Ok(text.to_owned());
    }
    Err(hinted(
        format!("invalid mirror \"{}\"", clip(text)),
        "write an http, https or file URL, such as https://mirror.example/debian",
    ))
}

/// Cleans a path in the system: relative, without empty or `.` parts.
///
/// # Errors
/// When it leaves the root, names the root itself, or holds a NUL byte.
pub fn relative_path(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err(format!("path \"{}\" contains a NUL byte", clip(text)));
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err(format!("path \"{}\" contains \"..\"", clip(text)));
    }
    if parts.is_empty() {
        return Err(format!("path \"{}\" names the root directory", clip(text)));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Message and hint of one parser for each text.
    fn lines<T: std::fmt::Debug>(
        parse: fn(&str) -> Result<T, GrammarError>,
        texts: &[&str],
    ) -> Vec<String> {
        let line = |text: &&str| match parse(text) {
            Ok(value) => format!("ok {value:?}"),
            Err((message, hint)) => format!("{message} | {}", hint.unwrap_or_default()),
        };
        texts.iter().map(line).collect()
    }

    #[test]
    fn binds() {
        let parsed = bind("/a:/b:ro,nosuid").unwrap();
        assert_eq!(
            (parsed.source.as_str(), parsed.destination.as_str()),
            ("/a", "/b")
        );
        assert_eq!(
            parsed.options,
            Some(vec!["ro".to_owned(), "nosuid".to_owned()])
        );
        assert_eq!(bind("vol:/b").unwrap().options, None);
        assert_eq!(
            lines(bind, &["/a", "/a:/b:ro:x", ":/b", "/a:"]),
            [
                r#"bind "/a" has no ':' | a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION"#,
                r#"bind "/a:/b:ro:x" has too many ':' | a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION"#,
                r#"bind ":/b" has an empty part | a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION"#,
                r#"bind "/a:" has an empty part | a bind is SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION,OPTION"#,
            ]
        );
    }

    #[test]
    fn limits() {
        let parsed = rlimit(" nofile , 100,Unlimited").unwrap();
        assert_eq!(
            (parsed.kind.as_str(), parsed.soft, parsed.hard),
            ("RLIMIT_NOFILE", 100, u64::MAX)
        );
        assert_eq!(rlimit("RLIMIT_AS,1,2").unwrap().kind, "RLIMIT_AS");
        assert_eq!(
            lines(
                rlimit,
                &[
                    "nofile",
                    "nofiles,1,2",
                    "nofile,+1,2",
                    "nofile,1,2,3",
                    "zz,1,1"
                ]
            ),
            [
                r#"rlimit "nofile" does not have three parts | a limit is NAME,SOFT,HARD, such as nofile,1024,4096"#,
                r#"unknown rlimit "nofiles" | did you mean "nofile"?"#,
                r#"rlimit value "+1" is not a number | write a number of 64 bits or unlimited"#,
                r#"rlimit value "2,3" is not a number | write a number of 64 bits or unlimited"#,
                r#"unknown rlimit "zz" | known limits: cpu, fsize, data, stack, core, rss, nproc, nofile, memlock, as, locks, sigpending, msgqueue, nice, rtprio, rttime"#,
            ]
        );
    }

    #[test]
    fn capabilities_and_modes() {
        assert_eq!(
            lines(
                capability,
                &[
                    "CAP_BPF",
                    "ALL",
                    "None",
                    "NET_ADMIN",
                    "cap_kill",
                    "CAP_SYSADMIN",
                    "x"
                ]
            ),
            [
                r#"ok "CAP_BPF""#,
                r#"ok "ALL""#,
                r#"ok "None""#,
                r#"unknown capability "NET_ADMIN" | did you mean "CAP_NET_ADMIN"?"#,
                r#"unknown capability "cap_kill" | did you mean "CAP_KILL"?"#,
                r#"unknown capability "CAP_SYSADMIN" | did you mean "CAP_SYS_ADMIN"?"#,
                r#"unknown capability "x" | "#,
            ]
        );
        assert_eq!(mode("0755").unwrap().bits, 0o755);
        assert_eq!(mode("7777").unwrap().bits, 0o7777);
        for bad in ["", "0o644", "+644", "888", "17777", "200000000000000"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_paths() {
        for good in ["web", "Web_1.2-x", "ü"] {
            assert!(container_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\u{0}", &"x".repeat(201)] {
            assert!(container_name(bad).is_err(), "{bad}");
        }
        for (text, cleaned) in [
            ("/etc//foo/./bar/", "etc/foo/bar"),
            ("a", "a"),
            ("...", "..."),
        ] {
            assert_eq!(relative_path(text).as_deref(), Ok(cleaned));
        }
        for bad in ["", "/", "./", "a/../b", "..", "a\0b"] {
            assert!(relative_path(bad).is_err(), "{bad}");
        }
        for good in [
            "nginx-light",
            "g++:amd64",
            "libc6=2.36-9+deb12u1",
            "a0=1:2~rc1",
        ] {
            assert!(package(good).is_ok(), "{good}");
        }
        for bad in ["", "x", "Nginx", "a b", "nginx=", "nginx:", "-x", "../x"] {
            assert!(package(bad).is_err(), "{bad}");
        }
        assert!(
            platform("linux/arm/v7").is_ok()
                && platform("linux").is_err()
                && platform("a//b").is_err()
        );
        assert!(suite("bookworm/updates").is_ok() && suite("").is_err() && suite("../x").is_err());
        assert!(
            mirror("https://mirror.example/debian").is_ok()
                && mirror("ftp://x").is_err()
                && mirror("http://").is_err()
        );
    }
}
