//! PAM's common stacks, as pam-auth-update(8) of libpam-runtime writes them the first time.
//!
//! Enters: templates (`/usr/share/pam/common-*`) and profiles (`/usr/share/pam-configs/*`) of
//! packages. Leaves: `/etc/pam.d/common-*`, which `sshd`, `login` and `su` include. Profiles with
//! `Default: yes` count, those of higher `Priority` first; a jump to `end` becomes the number of
//! lines that are left in the primary block.

use std::collections::BTreeMap;
use std::io;

use super::Overlay;

/// The stacks: file, kind of module in it, and fields of profiles that serve it.
const STACKS: [(&str, &str, &str); 5] = [
    ("auth", "auth", "Auth"),
    ("account", "account", "Account"),
    ("password", "password", "Password"),
    ("session", "session", "Session"),
    ("session-noninteractive", "session", "Session"),
];

/// Modules that are gone; profiles that name them do not count.
const GONE: &str = "pam_tally";

/// A profile's fields; continuation lines are joined by newlines.
type Profile = BTreeMap<String, String>;

/// Writes the stacks whose templates are there.
pub(super) fn write(overlay: &mut Overlay<'_>) -> io::Result<()> {
    let directory = b"usr/share/pam-configs";
    let mut profiles = Vec::new();
    for name in overlay.listing.names(directory) {
        if let Some(bytes) = overlay.read(&[&directory[..], b"/", &name].concat())? {
            profiles.push((name, parse(&String::from_utf8_lossy(&bytes))));
        }
    }
    let profiles = enabled(profiles);
    for (file, kind, field) in STACKS {
        let template = overlay.read(format!("usr/share/pam/common-{file}").as_bytes())?;
        if let Some(template) = template.filter(|_| !profiles.is_empty()) {
            let serves = |profile: &&Profile| {
                file != "session-noninteractive"
                    || !profile.contains_key("Session-Interactive-Only")
            };
            let serving: Vec<&Profile> = profiles.iter().filter(serves).collect();
            let text = fill(&String::from_utf8_lossy(&template), kind, field, &serving);
            overlay.file(
                format!("etc/pam.d/common-{file}").as_bytes(),
                0o644,
                0,
                text.into_bytes(),
            );
        }
    }
    Ok(())
}

fn parse(text: &str) -> Profile {
    let mut profile = Profile::new();
    let mut current = String::new();
    for line in text.lines() {
        // A field starts in the first column, and its name has no spaces.
        let field = line
            .split_once(':')
            .filter(|(name, _)| !name.contains(char::is_whitespace));
        if let Some((name, value)) = field {
            name.strip_suffix("-Final")
                .unwrap_or(name)
                .clone_into(&mut current);
            profile.insert(current.clone(), value.trim().to_owned());
        } else if let Some(value) = profile.get_mut(&current) {
            let line = line.trim();
            if !value.is_empty() && !line.is_empty() {
                value.push('\n');
            }
            value.push_str(line);
        }
    }
    profile
}

fn enabled(mut profiles: Vec<(Vec<u8>, Profile)>) -> Vec<Profile> {
    profiles.retain(|(_, profile)| {
        profile.get("Default").is_some_and(|value| value == "yes")
            && !profile.values().any(|value| value.contains(GONE))
    });
    let priority = |profile: &Profile| {
        profile
            .get("Priority")
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or(0)
    };
    profiles.sort_by(|(one, a), (two, b)| priority(b).cmp(&priority(a)).then_with(|| two.cmp(one)));
    profiles.into_iter().map(|(_, profile)| profile).collect()
}

/// The lines of a block. The first profile of a block may have lines of its own for that place.
fn block<'p>(profiles: &[&'p Profile], field: &str, block: &str) -> Vec<&'p str> {
    let in_block = |profile: &&&Profile| {
        profile
            .get(&format!("{field}-Type"))
            .is_some_and(|kind| kind == block)
    };
    let lines = profiles
        .iter()
        .filter(in_block)
        .enumerate()
        .filter_map(|(at, profile)| {
            let initial = profile
                .get(&format!("{field}-Initial"))
                .filter(|text| at == 0 && !text.is_empty());
            initial.or_else(|| profile.get(field))
        });
    lines.flat_map(|text| text.lines()).collect()
}

/// Puts the lines of both blocks into a template, in place of its variables.
fn fill(template: &str, kind: &str, field: &str, profiles: &[&Profile]) -> String {
    let mut out = String::new();
    for line in template.lines() {
        let Some(variable) = line.strip_prefix('$') else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let primary = variable.trim_end().ends_with("_primary");
        let lines = block(
            profiles,
            field,
            if primary { "Primary" } else { "Additional" },
        );
        if primary && lines.is_empty() {
            out.push_str(&format!("{kind}\t[default=1]\t\t\tpam_permit.so\n"));
        }
        for (at, line) in lines.iter().enumerate() {
            let left = lines.len() - at - usize::from(!primary);
            out.push_str(&format!("{kind}\t{}\n", jump(line, left)));
        }
    }
    out
}

/// Writes a line as pam-auth-update does: jumps in its control resolved, one space before the
/// options, which may be none.
fn jump(line: &str, left: usize) -> String {
    let control = match line.starts_with('[') {
        true => line.find(']').map_or(line.len(), |end| end + 1),
        false => line.find(char::is_whitespace).unwrap_or(line.len()),
    };
    let rest = &line[control..];
    let gap = rest.len() - rest.trim_start().len();
    let module = rest[gap..]
        .find(char::is_whitespace)
        .map_or(rest.len(), |end| gap + end);
    let options: Vec<&str> = rest[module..].split_whitespace().collect();
    let head = format!(
        "{}{}",
        line[..control].replace("end", &left.to_string()),
        &rest[..module]
    );
    format!("{head} {}", options.join(" "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::finish;
    use super::super::testing::{Memory, text};
    use super::*;

    const TEMPLATE: &str = "# head\n# here are the per-package modules (the \"Primary\" block)\n$auth_primary\n# here's the fallback if no module succeeds\nauth\trequisite\t\t\tpam_deny.so\n# and here are more per-package modules (the \"Additional\" block)\n$auth_additional\n# end of pam-auth-update config\n";
    const UNIX: &str = "Name: Unix authentication\nDefault: yes\nPriority: 256\nAuth-Type: Primary\nAuth:\n\t[success=end default=ignore]\tpam_unix.so nullok try_first_pass\nAuth-Initial:\n\t[success=end default=ignore]\tpam_unix.so nullok\nSession-Type: Additional\nSession:\n\trequired\tpam_unix.so\n";

    #[test]
    fn fills_the_stacks() {
        let session = TEMPLATE.replace("auth", "session");
        let listing = Memory::new(&[
            ("usr/share/pam/common-auth", TEMPLATE),
            ("usr/share/pam/common-session", &session),
            ("usr/share/pam/common-session-noninteractive", &session),
            ("usr/share/pam-configs/unix", UNIX),
            (
                "usr/share/pam-configs/capability",
                "Name: c\nDefault: yes\nPriority: 0\nAuth-Type: Additional\nAuth-Final:\n\toptional\tpam_cap.so\n",
            ),
            (
                "usr/share/pam-configs/systemd",
                "Name: s\nDefault: yes\nPriority: 0\nSession-Interactive-Only: yes\nSession-Type: Additional\nSession:\n\toptional\tpam_systemd.so\n",
            ),
            (
                "usr/share/pam-configs/krb5",
                "Name: k\nDefault: yes\nPriority: 704\nAuth-Type: Primary\nAuth:\n\t[success=end default=ignore]\tpam_krb5.so minimum_uid=1000\n",
            ),
            (
                "usr/share/pam-configs/mkhomedir",
                "Name: m\nDefault: no\nSession-Type: Additional\nSession:\n\toptional pam_mkhomedir.so\n",
            ),
        ]);
        let extras = finish(&listing, &[]).unwrap();
        let lines = |file: &str| -> Vec<String> {
            let text = text(&extras, &format!("etc/pam.d/common-{file}"));
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(
            lines("auth"),
            [
                "auth\t[success=2 default=ignore]\tpam_krb5.so minimum_uid=1000",
                "auth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass",
                "auth\trequisite\t\t\tpam_deny.so",
                "auth\toptional\tpam_cap.so ",
            ]
        );
        let deny = "session\trequisite\t\t\tpam_deny.so";
        let permit = "session\t[default=1]\t\t\tpam_permit.so";
        let unix = "session\trequired\tpam_unix.so ";
        assert_eq!(
            lines("session"),
            [permit, deny, unix, "session\toptional\tpam_systemd.so "]
        );
        assert_eq!(lines("session-noninteractive"), [permit, deny, unix]);
        assert_eq!(text(&extras, "etc/pam.d/common-account"), "nothing");
    }

    proptest! {
        #[test]
        fn never_panics(profile in "((Auth|Auth-Initial|Default|Auth-Type|a b):( yes| Primary)?\n|[\t \\[\\]a=é]{0,9}\n){0,9}", line in "[\\[\\]\t aé=end]{0,12}") {
            let profile = parse(&profile);
            let _ = fill(TEMPLATE, "auth", "Auth", &[&profile]);
            let _ = jump(&line, 3);
        }
    }
}
