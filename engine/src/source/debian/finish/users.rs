//! Users and groups: passwd(5), group(5), shadow(5) and gshadow(5).
//!
//! Enters: base-passwd's master files, `sysusers.d` (sysusers.d(5): `u`, `g`, `m` lines) and the
//! packages. Leaves: the four files, in the order of their sources. Dynamic ids are taken from
//! 999 downwards, in the order of files and lines, so that they depend on the packages alone. No
//! user gets a password; the fields of shadow that would hold a date are left empty.

use std::collections::BTreeSet;
use std::io;

use super::super::Package;
use super::Overlay;

/// Highest id for a system user whose id is not fixed (`SYS_UID_MAX` of login.defs).
const HIGHEST: u32 = 999;
/// Lowest such id (`SYS_UID_MIN`).
const LOWEST: u32 = 100;
/// Group id of `shadow` in base-passwd: may read the password files.
const SHADOW: u32 = 42;
/// Where packages put their users, later directories first in rank.
const SYSUSERS: [&str; 2] = ["usr/lib/sysusers.d", "etc/sysusers.d"];
/// Users that scripts of bookworm make with adduser: package, user, home; their group is
/// `nogroup` unless they have their own.
const BY_SCRIPT: [(&str, &str, &str, bool); 3] = [
    ("openssh-server", "sshd", "/run/sshd", false),
    ("chrony", "_chrony", "/var/lib/chrony", true),
    ("dnsmasq-base", "dnsmasq", "/var/lib/misc", false),
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Users {
    passwd: Vec<User>,
    group: Vec<Group>,
}

#[derive(Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    /// `GECOS:HOME:SHELL`
    rest: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Writes the four files, unless there is a passwd already or nobody to write down.
pub(super) fn write(overlay: &mut Overlay<'_>, packages: &[Package]) -> io::Result<()> {
    if overlay.has(b"etc/passwd") {
        return Ok(());
    }
    let text =
        |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let passwd = text(overlay.read(b"usr/share/base-passwd/passwd.master")?);
    let group = text(overlay.read(b"usr/share/base-passwd/group.master")?);
    let mut users = Users::parse(&passwd.unwrap_or_default(), &group.unwrap_or_default());
    let mut lines = Vec::new();
    for file in sysusers_files(overlay) {
        let conf = text(overlay.read(&file)?).unwrap_or_default();
        lines.extend(conf.lines().map(str::to_owned));
    }
    for (package, user, home, own_group) in BY_SCRIPT {
        if packages.iter().any(|other| other.name == package) {
            let id = if own_group { "-" } else { "-:65534" };
            lines.push(format!("u {user} {id} \"\" {home} /usr/sbin/nologin"));
        }
    }
    users.add_all(&lines);
    if users.passwd.is_empty() && users.group.is_empty() {
        return Ok(());
    }
    users.ensure_root();
    overlay.file(b"etc/passwd", 0o644, 0, users.passwd_text().into_bytes());
    overlay.file(b"etc/group", 0o644, 0, users.group_text().into_bytes());
    overlay.file(
        b"etc/shadow",
        0o640,
        SHADOW,
        users.shadow_text().into_bytes(),
    );
    overlay.file(
        b"etc/gshadow",
        0o640,
        SHADOW,
        users.gshadow_text().into_bytes(),
    );
    Ok(())
}

/// All `*.conf` in order of names; one in `/etc` replaces its namesake.
fn sysusers_files(overlay: &Overlay<'_>) -> Vec<Vec<u8>> {
    let names = |directory: &str| overlay.listing.names(directory.as_bytes());
    let all: BTreeSet<Vec<u8>> = SYSUSERS
        .iter()
        .flat_map(|directory| names(directory))
        .collect();
    let path = |name: &Vec<u8>| {
        let in_directory = |directory: &&str| [directory.as_bytes(), b"/", name].concat();
        SYSUSERS
            .iter()
            .rev()
            .map(in_directory)
            .find(|path| overlay.has(path))
    };
    all.iter()
        .filter(|name| name.ends_with(b".conf"))
        .filter_map(path)
        .collect()
}

fn is_user_name(name: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let first = name
        .as_bytes()
        .first()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    first && name.len() <= 32 && name.bytes().all(byte)
}

/// Splits a line of sysusers.d into words; quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (word, after) = match quote {
            Some(quote) => rest[1..].split_once(quote).unwrap_or((&rest[1..], "")),
            None => rest.split_once([' ', '\t']).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

impl Users {
    /// Reads passwd(5) and group(5); malformed lines are left out.
    fn parse(passwd: &str, group: &str) -> Self {
        let user = |line: &str| {
            let mut fields = line.splitn(5, ':');
            let (name, _) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let rest = fields.next()?.to_owned();
            is_user_name(name).then(|| User {
                name: name.to_owned(),
                uid,
                gid,
                rest,
            })
        };
        let group_of = |line: &str| {
            let mut fields = line.splitn(4, ':');
            let (name, _) = (fields.next()?, fields.next()?);
            let gid = fields.next()?.parse().ok()?;
            let members = fields.next()?.split(',').filter(|name| is_user_name(name));
            let members = members.map(str::to_owned).collect();
            is_user_name(name).then(|| Group {
                name: name.to_owned(),
                gid,
                members,
            })
        };
        Self {
            passwd: passwd.lines().filter_map(user).collect(),
            group: group.lines().filter_map(group_of).collect(),
        }
    }

    /// Adds what sysusers.d lines ask for: fixed ids first, so that dynamic ones avoid them.
    fn add_all(&mut self, lines: &[String]) {
        let parsed: Vec<Vec<String>> = lines
            .iter()
            .map(|line| words(line))
            .filter(|words| words.len() >= 2 && is_user_name(&words[1]))
            .collect();
        let id = |words: &[String]| words.get(2).map_or("-", String::as_str).to_owned();
        let fixed = |words: &&Vec<String>| id(words).starts_with(|c: char| c.is_ascii_digit());
        let (first, second): (Vec<_>, Vec<_>) = parsed.iter().partition(fixed);
        for words in first.into_iter().chain(second) {
            match words[0].trim_end_matches('!') {
                "u" => self.add_user(words, &id(words)),
                "g" => {
                    self.group_id(&words[1], id(words).parse().ok());
                }
                _ => {}
            }
        }
        for words in parsed.iter().filter(|words| words[0] == "m") {
            self.add_member(&words[1], &id(words));
        }
    }

    fn add_user(&mut self, words: &[String], id: &str) {
        let name = &words[1];
        if self.passwd.iter().any(|user| user.name == *name) {
            return;
        }
        let (uid, gid) = id.split_once(':').unwrap_or((id, ""));
        let group = match gid {
            "" => None,
            gid if !gid.bytes().all(|byte| byte.is_ascii_digit()) && !is_user_name(gid) => None,
            gid => gid.parse().ok().or_else(|| Some(self.group_id(gid, None))),
        };
        let uid = match uid.parse() {
            Ok(uid) => uid,
            Err(_) => self.free(),
        };
        let gid = group.unwrap_or_else(|| self.group_id(name, Some(uid)));
        let field = |at: usize, default: &str| {
            let text = words.get(at).map_or("-", String::as_str);
            let bad = text.is_empty() || text == "-" || text.contains([':', '%']);
            if bad {
                default.to_owned()
            } else {
                text.to_owned()
            }
        };
        let (gecos, home, shell) = (field(3, ""), field(4, "/"), field(5, "/usr/sbin/nologin"));
        let rest = format!("{gecos}:{home}:{shell}");
        self.passwd.push(User {
            name: name.clone(),
            uid,
            gid,
            rest,
        });
    }

    /// The id of a group, which is made when it is not there: with the wished id if that is free.
    fn group_id(&mut self, name: &str, wish: Option<u32>) -> u32 {
        if let Some(group) = self.group.iter().find(|group| group.name == name) {
            return group.gid;
        }
        let taken = |gid: &u32| self.group.iter().any(|group| group.gid == *gid);
        let gid = wish
            .filter(|gid| !taken(gid))
            .unwrap_or_else(|| self.free());
        self.group.push(Group {
            name: name.to_owned(),
            gid,
            members: Vec::new(),
        });
        gid
    }

    fn add_member(&mut self, user: &str, group: &str) {
        if let Some(group) = self.group.iter_mut().find(|other| other.name == group)
            && !group.members.iter().any(|member| member == user)
        {
            group.members.push(user.to_owned());
        }
    }

    /// The highest system id that neither a user nor a group has.
    fn free(&self) -> u32 {
        let taken = |id: &u32| {
            self.passwd.iter().any(|user| user.uid == *id)
                || self.group.iter().any(|group| group.gid == *id)
        };
        (LOWEST..=HIGHEST)
            .rev()
            .find(|id| !taken(id))
            .unwrap_or(65_534)
    }

    fn ensure_root(&mut self) {
        if !self.group.iter().any(|group| group.gid == 0) {
            self.group.insert(
                0,
                Group {
                    name: "root".to_owned(),
                    gid: 0,
                    members: Vec::new(),
                },
            );
        }
        if !self.passwd.iter().any(|user| user.uid == 0) {
            let rest = "root:/root:/bin/sh".to_owned();
            self.passwd.insert(
                0,
                User {
                    name: "root".to_owned(),
                    uid: 0,
                    gid: 0,
                    rest,
                },
            );
        }
    }

    fn passwd_text(&self) -> String {
        let line =
            |user: &User| format!("{}:x:{}:{}:{}\n", user.name, user.uid, user.gid, user.rest);
        self.passwd.iter().map(line).collect()
    }

    fn group_text(&self) -> String {
        let line = |group: &Group| {
            format!(
                "{}:x:{}:{}\n",
                group.name,
                group.gid,
                group.members.join(",")
            )
        };
        self.group.iter().map(line).collect()
    }

    fn shadow_text(&self) -> String {
        self.passwd
            .iter()
            .map(|user| format!("{}:*::0:99999:7:::\n", user.name))
            .collect()
    }

    fn gshadow_text(&self) -> String {
        let line = |group: &Group| format!("{}:*::{}\n", group.name, group.members.join(","));
        self.group.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::finish;
    use super::super::testing::{Memory, text};
    use super::*;

    const PASSWD: &str =
        "root:*:0:0:root:/root:/bin/bash\nwww-data:*:33:33:www-data:/var/www:/usr/sbin/nologin\n";
    const GROUP: &str = "root:*:0:\nshadow:*:42:\nwww-data:*:33:\n";

    fn package(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            urls: Vec::new(),
            size: 0,
            sha256: crate::digest::Sha256::of(b""),
            control: String::new(),
        }
    }

    #[test]
    fn writes_master_files_and_system_users() {
        let listing = Memory::new(&[
            ("usr/share/base-passwd/passwd.master", PASSWD),
            ("usr/share/base-passwd/group.master", GROUP),
            (
                "usr/lib/sysusers.d/b.conf",
                "# users\nu messagebus - \"System Message Bus\"\ng tail -\nm www-data tail\nu fixed 999 - /x /bin/sh\nu %bad -\n",
            ),
            ("usr/lib/sysusers.d/c.conf", "u gone -"),
            ("etc/sysusers.d/c.conf", "u other -:shadow\nr - 500-600"),
        ]);
        let extras = finish(&listing, &[package("openssh-server")]).unwrap();
        assert_eq!(
            text(&extras, "etc/passwd"),
            "root:x:0:0:root:/root:/bin/bash\n\
             www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
             fixed:x:999:999::/x:/bin/sh\n\
             messagebus:x:998:998:System Message Bus:/:/usr/sbin/nologin\n\
             other:x:996:42::/:/usr/sbin/nologin\n\
             sshd:x:995:65534::/run/sshd:/usr/sbin/nologin\n"
        );
        assert_eq!(
            text(&extras, "etc/group"),
            "root:x:0:\nshadow:x:42:\nwww-data:x:33:\nfixed:x:999:\nmessagebus:x:998:\ntail:x:997:www-data\n"
        );
        assert!(text(&extras, "etc/shadow").starts_with("root:*::0:99999:7:::\n"));
        let shadow = &extras[&b"etc/shadow"[..]];
        assert_eq!((shadow.mode, shadow.gid), (0o640, 42));

        // pwck and grpck find nothing wrong with the format.
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = dir.path().join(name.trim_start_matches("etc/"));
            fs::write(&path, text(&extras, name)).unwrap();
            path
        };
        let (passwd, shadow) = (put("etc/passwd"), put("etc/shadow"));
        let output = Command::new("pwck")
            .args(["-r", "-q"])
            .args([passwd, shadow])
            .output()
            .expect("pwck is there");
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong: Vec<&str> = said
            .lines()
            .filter(|l| !l.contains("no group") && !l.contains("no changes"))
            .collect();
        assert!(wrong.is_empty(), "{said}");
    }

    #[test]
    fn leaves_alone_what_is_there_and_adds_root() {
        let listing = Memory::new(&[("etc/passwd", "x"), ("usr/lib/sysusers.d/b.conf", "u a -")]);
        assert_eq!(
            text(&finish(&listing, &[]).unwrap(), "etc/group"),
            "nothing"
        );
        let listing = Memory::new(&[("usr/lib/sysusers.d/b.conf", "u a -")]);
        let extras = finish(&listing, &[]).unwrap();
        assert_eq!(
            text(&extras, "etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\na:x:999:999::/:/usr/sbin/nologin\n"
        );
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_files(lines in prop::collection::vec("[ugm]!? [a-z_]{1,3} (-|[0-9]{1,3}|-:[a-z]{1,3}|\\PC{0,4}) (\"\\PC{0,6}\"|-)? ?(\\PC{0,6})?", 0..8)) {
            let mut users = Users::parse(PASSWD, GROUP);
            users.add_all(&lines);
            users.ensure_root();
            let back = Users::parse(&users.passwd_text(), &users.group_text());
            prop_assert_eq!(&back, &users);
            let names: BTreeSet<&str> = users.passwd.iter().map(|user| user.name.as_str()).collect();
            prop_assert_eq!(names.len(), users.passwd.len());
        }
    }
}
