//! What was found, as files below `/run/config`; LinuxKit's layout.
//!
//! In: a [`Found`]. Out: `provider`, `hostname`, `userdata`, `ssh/authorized_keys` and the
//! provider's own files; and if userdata is JSON, the tree that it describes: `{"NAME": ENTRY}`,
//! where an entry is `{"content": TEXT, "perm": "0644"}` or `{"entries": {…}, "perm": "0755"}`. A
//! name that leads out of its directory is refused. One entry that is wrong does not stop the
//! others.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use serde_json::Value;

use super::{Found, json};
use crate::bundle::make_directories;
use crate::error::{Context, Error, Result};
use crate::jobs::tell;

/// Permission bits that an entry may have.
const MODE_BITS: u32 = 0o777;

/// Writes everything.
pub(super) fn write(config: &Path, found: &Found) -> Result<()> {
    make_directories(config)?;
    write_file(&config.join("provider"), found.provider.as_bytes(), 0o644)?;
    if let Some(hostname) = &found.hostname {
        write_file(&config.join("hostname"), hostname, 0o644)?;
    }
    for (name, value) in &found.files {
        write_file(&config.join(name), value, 0o644)?;
    }
    if let Some(keys) = &found.keys {
        make_directories(&config.join("ssh"))?;
        write_file(&config.join("ssh/authorized_keys"), keys, 0o600)?;
    }
    if let Some(userdata) = &found.userdata {
        write_file(&config.join("userdata"), userdata, 0o644)?;
        expand(config, userdata);
    }
    Ok(())
}

/// Writes what JSON userdata describes; anything else is for the containers to understand.
fn expand(config: &Path, userdata: &[u8]) {
    match json(userdata) {
        Ok(Value::Object(entries)) => write_entries(config, &entries),
        Ok(_) => tell!("metadata: userdata is JSON but no object, kept as it is"),
        Err(_) => tell!("metadata: userdata is not JSON, kept as it is"),
    }
}

fn write_entries(directory: &Path, entries: &serde_json::Map<String, Value>) {
    for (name, entry) in entries {
        if let Err(cause) = write_entry(directory, name, entry) {
            tell!("metadata: userdata: {cause}");
        }
    }
}

/// Writes one entry and what is in it; the depth is limited by the JSON reader's own.
fn write_entry(directory: &Path, name: &str, entry: &Value) -> Result<()> {
    // LinuxKit joins, so `/a` is `a` here and `a/b` may be written if `a` exists.
    let relative = Path::new(name.trim_start_matches('/'));
    let is_below = |part| matches!(part, Component::Normal(_));
    if relative.as_os_str().is_empty() || !relative.components().all(is_below) {
        return Err(Error::new(format!(
            "{name:?} leads out of {}",
            directory.display()
        )));
    }
    let path = directory.join(relative);
    let mode = |default| match entry.get("perm") {
        None | Some(Value::Null) => Ok(default),
        Some(perm) => {
            let digits = perm.as_str().unwrap_or_default();
            u32::from_str_radix(digits, 8)
                .map(|mode| mode & MODE_BITS)
                .map_err(|_| Error::new(format!("{}: perm {digits:?} is no mode", path.display())))
        }
    };
    match (entry.get("content"), entry.get("entries")) {
        (Some(Value::String(content)), None | Some(Value::Null)) => {
            write_file(&path, content.as_bytes(), mode(0o644)?)
        }
        (None | Some(Value::Null), Some(Value::Object(entries))) => {
            let mode = mode(0o755)?;
            make_directories(&path)?;
            // Afterwards, so that a directory nobody may write to can have contents.
            write_entries(&path, entries);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context(|| path.display())
        }
        _ => Err(Error::new(format!(
            "{}: needs either content (a text) or entries",
            path.display()
        ))),
    }
}

/// Writes a file with exactly this mode, never readable by more people in between.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    options
        .custom_flags(nofollow)
        .open(path)
        .and_then(|mut file| {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(bytes)
        })
        .context(|| path.display())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn json_becomes_files_with_their_modes() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("run/config");
        let mut found = Found::new("X");
        found.keys = Some(b"key\n".to_vec());
        found.userdata = Some(
            br#"{"a": {"content": "1"},
                 "b": {"perm": "0500", "entries": {
                   "c": {"content": "", "perm": "4640", "entries": null},
                   "d": {"entries": {"e": {"content": "x\ny"}}}}},
                 "/f": {"content": "2"},
                 "docker/g": {"content": "no such directory"},
                 "both": {"content": "", "entries": {}},
                 "neither": {}, "text": "x", "badperm": {"content": "", "perm": "rw"},
                 "": {"content": ""}, "..": {"content": ""}, "../out": {"content": ""},
                 "b/../../out": {"content": ""}, "h/..": {"entries": {}}}"#
                .to_vec(),
        );
        write(&config, &found).unwrap();
        let text = |name: &str| fs::read_to_string(config.join(name)).unwrap();
        assert_eq!(text("a"), "1");
        assert_eq!(text("f"), "2");
        assert_eq!(text("b/d/e"), "x\ny");
        assert_eq!(mode(&config.join("a")), 0o644);
        assert_eq!(mode(&config.join("b")), 0o500);
        assert_eq!(mode(&config.join("b/c")), 0o640);
        assert_eq!(mode(&config.join("ssh/authorized_keys")), 0o600);
        for absent in [
            "docker",
            "both",
            "neither",
            "text",
            "badperm",
            "h",
            "../out",
            "../../out",
        ] {
            assert!(!config.join(absent).exists(), "{absent}");
        }
        fs::set_permissions(config.join("b"), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "s").unwrap();
        std::os::unix::fs::symlink(&secret, directory.path().join("userdata")).unwrap();
        let mut found = Found::new("X");
        found.userdata = Some(b"x".to_vec());
        assert!(write(directory.path(), &found).is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "s");
    }

    /// JSON whose names, kinds and modes are of any kind.
    fn entry() -> impl Strategy<Value = Value> {
        let name = prop_oneof!["[a-b./]{0,5}", ".{0,8}", Just("..".to_owned())];
        let leaf = prop_oneof![
            (".{0,9}", "[0-9a]{0,5}")
                .prop_map(|(c, p)| serde_json::json!({"content": c, "perm": p})),
            ".{0,9}".prop_map(|c| serde_json::json!({"content": c})),
            any::<i32>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|entries| serde_json::json!({"entries": entries, "perm": "0755"}))
        })
    }

    proptest! {
        #[test]
        fn nothing_is_written_outside(entry in entry(), bytes: Vec<u8>) {
            let directory = tempfile::tempdir().unwrap();
            let config = directory.path().join("a/config");
            make_directories(&config).unwrap();
            let entries = entry.get("entries").cloned().unwrap_or(entry);
            expand(&config, entries.to_string().as_bytes());
            expand(&config, &bytes);
            let names = |path: &Path| -> Vec<_> {
                fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect()
            };
            prop_assert_eq!(names(directory.path()), ["a"]);
            prop_assert_eq!(names(&directory.path().join("a")), ["config"]);
        }
    }
}
