//! What maintainer scripts would have done and matters, as plain files.
//!
//! Enters: what the packages of one request hold together, and the packages. Leaves: further
//! entries, to be laid over them. Nothing is run; nothing depends on the machine or the time.
//! Where an entry exists already, it stays.
//!
//! | done here | as the script of |
//! |---|---|
//! | `/bin`, `/sbin`, `/lib*` are links into `/usr` ([`merge`]) | usrmerge, debootstrap |
//! | `/var/run`, `/var/lock` are links into `/run` | base-files |
//! | directories, `/etc/profile`, `/etc/nsswitch.conf`, `sshd_config` … | base-files, libc-bin … |
//! | passwd, group, shadow, gshadow and system users ([`users`]) | base-passwd, passwd, sysusers |
//! | `awk`, `iptables`, `editor` … ([`alternatives`]) | update-alternatives |
//! | PAM's common stacks ([`pam`]) | libpam-runtime |
//! | the bundle of certificates | ca-certificates |
//! | `/var/lib/dpkg/status` ([`status`]) | dpkg itself |
//!
//! Not done, on purpose: `ldconfig` (Debian's ld.so looks into `/lib/TRIPLET` and
//! `/usr/lib/TRIPLET` by itself, as `ld.so --list-diagnostics` shows, and packages ship their
//! SONAME links; a cache would only save a few `open` calls); host keys of ssh (secrets belong
//! to machines, not to images); `/etc/machine-id`; links of certificates by hash (OpenSSL finds
//! the bundle through `cert.pem`); debconf; anything that starts services.

pub mod alternatives;
pub mod merge;
pub mod order;
pub mod pam;
pub mod status;
pub mod users;

use std::collections::BTreeMap;
use std::io;

use super::Package;

/// Kinds of entries, as far as they matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Directory.
    Directory,
    /// Regular file.
    File,
    /// Symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// What the packages hold together, with paths as [`merge::map_path`] maps them: relative,
/// without a final slash.
pub trait Listing {
    /// What is at a path, if anything. Symbolic links are not followed.
    fn kind(&self, path: &[u8]) -> Option<Kind>;
    /// Names in a directory, in byte order; empty when there is none.
    fn names(&self, directory: &[u8]) -> Vec<Vec<u8>>;
    /// The bytes of a regular file.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &[u8]) -> io::Result<Vec<u8>>;
}

/// One further entry. Its time is the integrator's choice, as for missing parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub what: What,
}

/// What an [`Extra`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
}

/// Further entries by path, relative and without a final slash.
pub type Extras = BTreeMap<Vec<u8>, Extra>;

/// Collects entries, leaving alone what exists.
pub(super) struct Overlay<'l> {
    listing: &'l dyn Listing,
    extras: Extras,
}

impl Overlay<'_> {
    fn has(&self, path: &[u8]) -> bool {
        self.listing.kind(path).is_some() || self.extras.contains_key(path)
    }

    fn put(&mut self, path: &[u8], mode: u32, gid: u32, what: What) {
        if !self.has(path) {
            self.extras.insert(
                path.to_vec(),
                Extra {
                    mode,
                    uid: 0,
                    gid,
                    what,
                },
            );
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8]) {
        self.put(path, 0o777, 0, What::Symlink(target.to_vec()));
    }

    fn file(&mut self, path: &[u8], mode: u32, gid: u32, bytes: Vec<u8>) {
        self.put(path, mode, gid, What::File(bytes));
    }

    fn read(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.listing.kind(path) {
            Some(Kind::File) => self.listing.read(path).map(Some),
            _ => Ok(None),
        }
    }
}

/// Directories that base-files makes: path, mode, group (8 is `mail` in base-passwd).
const DIRECTORIES: [(&str, u32, u32); 11] = [
    ("mnt", 0o755, 0),
    ("srv", 0o755, 0),
    ("opt", 0o755, 0),
    ("etc/opt", 0o755, 0),
    ("var/opt", 0o755, 0),
    ("media", 0o755, 0),
    ("var/mail", 0o2775, 8),
    ("run/lock", 0o1777, 0),
    ("usr/local/bin", 0o755, 0),
    ("usr/local/lib", 0o755, 0),
    ("usr/local/sbin", 0o755, 0),
];

/// Files that a script copies when they are not there: from, to.
const COPIES: [(&str, &str); 7] = [
    ("usr/share/base-files/dot.profile", "root/.profile"),
    ("usr/share/base-files/dot.bashrc", "root/.bashrc"),
    ("usr/share/base-files/profile", "etc/profile"),
    ("usr/share/base-files/motd", "etc/motd"),
    ("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
    ("usr/share/openssh/sshd_config", "etc/ssh/sshd_config"),
    (
        "usr/share/nginx/html/index.html",
        "var/www/html/index.nginx-debian.html",
    ),
];

/// Links that a script makes: where the second exists, the first leads to the third.
const LINKS: [(&str, &str, &str); 5] = [
    (
        "etc/dpkg/origins/default",
        "etc/dpkg/origins/debian",
        "debian",
    ),
    ("var/run", "run", "/run"),
    ("var/lock", "run", "/run/lock"),
    ("var/spool/mail", "usr/share/base-files", "../mail"),
    (
        "etc/nginx/sites-enabled/default",
        "etc/nginx/sites-available/default",
        "/etc/nginx/sites-available/default",
    ),
];

/// Works out all further entries.
///
/// # Errors
/// Files of the listing that cannot be read.
pub fn finish(listing: &dyn Listing, packages: &[Package]) -> io::Result<Extras> {
    let mut overlay = Overlay {
        listing,
        extras: Extras::new(),
    };
    merge::links(&mut overlay);
    for (from, to) in COPIES {
        if let Some(bytes) = overlay.read(from.as_bytes())? {
            overlay.file(to.as_bytes(), 0o644, 0, bytes);
        }
    }
    if overlay.has(b"usr/share/base-files") {
        for (path, mode, gid) in DIRECTORIES {
            overlay.put(path.as_bytes(), mode, gid, What::Directory);
        }
    }
    for (link, witness, target) in LINKS {
        if overlay.has(witness.as_bytes()) {
            overlay.link(link.as_bytes(), target.as_bytes());
        }
    }
    alternatives::choose(&mut overlay);
    users::write(&mut overlay, packages)?;
    pam::write(&mut overlay)?;
    certificates(&mut overlay)?;
    let text = status::status(packages);
    overlay.file(b"var/lib/dpkg/status", 0o644, 0, text.into_bytes());
    overlay.file(b"var/lib/dpkg/info/format", 0o644, 0, b"1\n".to_vec());
    Ok(overlay.extras)
}

/// All of Mozilla's certificates in one file, as `update-ca-certificates` writes it.
fn certificates(overlay: &mut Overlay<'_>) -> io::Result<()> {
    let directory = b"usr/share/ca-certificates/mozilla";
    let mut bundle = Vec::new();
    for name in overlay.listing.names(directory) {
        if name.ends_with(b".crt") {
            let path = [&directory[..], b"/", &name].concat();
            bundle.extend(overlay.read(&path)?.unwrap_or_default());
            if bundle.last().is_some_and(|&byte| byte != b'\n') {
                bundle.push(b'\n');
            }
        }
    }
    if !bundle.is_empty() {
        overlay.file(b"etc/ssl/certs/ca-certificates.crt", 0o644, 0, bundle);
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A listing in memory; a path that ends in `/` is a directory.
    #[derive(Default)]
    pub(crate) struct Memory(BTreeMap<Vec<u8>, (Kind, Vec<u8>)>);

    impl Memory {
        pub(crate) fn new(entries: &[(&str, &str)]) -> Self {
            let mut this = Self::default();
            for (path, text) in entries {
                let (path, kind) = match path.strip_suffix('/') {
                    Some(path) => (path, Kind::Directory),
                    None => (*path, Kind::File),
                };
                this.add(path.as_bytes(), kind, text.as_bytes());
            }
            this
        }

        pub(crate) fn add(&mut self, path: &[u8], kind: Kind, bytes: &[u8]) {
            for (at, byte) in path.iter().enumerate() {
                if *byte == b'/' {
                    let parent = (Kind::Directory, Vec::new());
                    self.0.entry(path[..at].to_vec()).or_insert(parent);
                }
            }
            self.0.insert(path.to_vec(), (kind, bytes.to_vec()));
        }
    }

    impl Listing for Memory {
        fn kind(&self, path: &[u8]) -> Option<Kind> {
            self.0.get(path).map(|(kind, _)| *kind)
        }

        fn names(&self, directory: &[u8]) -> Vec<Vec<u8>> {
            let inside = |path: &Vec<u8>| {
                let name = path.strip_prefix(directory)?.strip_prefix(b"/")?;
                (!name.contains(&b'/')).then(|| name.to_vec())
            };
            self.0.keys().filter_map(inside).collect()
        }

        fn read(&self, path: &[u8]) -> io::Result<Vec<u8>> {
            Ok(self.0[path].1.clone())
        }
    }

    pub(crate) fn text(extras: &Extras, path: &str) -> String {
        match extras.get(path.as_bytes()).map(|extra| &extra.what) {
            Some(What::File(bytes) | What::Symlink(bytes)) => {
                String::from_utf8(bytes.clone()).unwrap()
            }
            Some(What::Directory) => "directory".to_owned(),
            None => "nothing".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::super::transport::testing::Net;
    use super::super::{DebianRequest, fetch, index, solve::solve, sources};
    use super::testing::{Memory, text};
    use super::*;

    #[test]
    fn does_what_scripts_of_base_packages_do() {
        let listing = Memory::new(&[
            ("usr/share/base-files/profile", "P"),
            ("usr/share/base-files/dot.profile", "D"),
            ("usr/share/libc-bin/nsswitch.conf", "N"),
            ("usr/share/ca-certificates/mozilla/B.crt", "b"),
            ("usr/share/ca-certificates/mozilla/A.crt", "a\n"),
            ("etc/dpkg/origins/debian", ""),
            ("etc/profile", "mine"),
            ("run/", ""),
            ("usr/bin/", ""),
        ]);
        let extras = finish(&listing, &[]).unwrap();
        for (path, wanted) in [
            ("etc/profile", "nothing"),
            ("root/.profile", "D"),
            ("etc/nsswitch.conf", "N"),
            ("etc/ssl/certs/ca-certificates.crt", "a\nb\n"),
            ("etc/dpkg/origins/default", "debian"),
            ("var/run", "/run"),
            ("run/lock", "directory"),
            ("bin", "usr/bin"),
            ("sbin", "nothing"),
            ("etc/passwd", "nothing"),
            ("var/lib/dpkg/status", ""),
        ] {
            assert_eq!(text(&extras, path), wanted, "{path}");
        }
        assert_eq!(
            (extras[&b"var/mail"[..]].mode, extras[&b"var/mail"[..]].gid),
            (0o2775, 8)
        );
        let bare = finish(&Memory::default(), &[]).unwrap();
        assert_eq!(
            bare.len(),
            2,
            "a static program alone gets nothing but its record"
        );
    }

    /// A directory on disk.
    struct Disk(PathBuf);

    impl Disk {
        fn path(&self, path: &[u8]) -> PathBuf {
            self.0.join(std::ffi::OsStr::from_bytes(path))
        }
    }

    impl Listing for Disk {
        fn kind(&self, path: &[u8]) -> Option<Kind> {
            let kind = fs::symlink_metadata(self.path(path)).ok()?.file_type();
            Some(match () {
                () if kind.is_dir() => Kind::Directory,
                () if kind.is_symlink() => Kind::Symlink,
                () => Kind::File,
            })
        }

        fn names(&self, directory: &[u8]) -> Vec<Vec<u8>> {
            let Ok(entries) = fs::read_dir(self.path(directory)) else {
                return Vec::new();
            };
            let names: BTreeSet<Vec<u8>> = entries
                .map(|e| e.unwrap().file_name().as_bytes().to_vec())
                .collect();
            names.into_iter().collect()
        }

        fn read(&self, path: &[u8]) -> io::Result<Vec<u8>> {
            fs::read(self.path(path))
        }
    }

    fn unpack(package: &Package, disk: &Disk) {
        let net = Net::new();
        let mut data = fetch(&net, package).unwrap_or_else(|error| panic!("{error}"));
        for entry in tar::Archive::new(&mut data).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path_bytes().to_vec();
            let path = path.strip_prefix(b"./").unwrap_or(&path);
            let target = disk.path(&merge::map_path(path.strip_suffix(b"/").unwrap_or(path)));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            if entry.header().entry_type() == tar::EntryType::Link {
                let link = entry.link_name_bytes().unwrap().to_vec();
                let link = link.strip_prefix(b"./").unwrap_or(&link);
                fs::hard_link(disk.path(&merge::map_path(link)), target).unwrap();
            } else {
                entry.unpack(target).unwrap();
            }
        }
        data.finish().unwrap();
    }

    fn lay(extras: &Extras, disk: &Disk) {
        for (path, extra) in extras {
            let target = disk.path(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            match &extra.what {
                What::Directory => fs::create_dir_all(&target).unwrap(),
                What::File(bytes) => fs::write(&target, bytes).unwrap(),
                What::Symlink(link) => symlink(std::ffi::OsStr::from_bytes(link), &target).unwrap(),
            }
            if !matches!(extra.what, What::Symlink(_)) {
                fs::set_permissions(&target, fs::Permissions::from_mode(extra.mode)).unwrap();
            }
        }
    }

    /// Real packages, unpacked and finished, work: programs find their libraries without a cache
    /// of ld.so, `awk` through its alternative, users by name, and dpkg finds its record.
    #[test]
    fn a_system_of_real_packages_runs() {
        let names = [
            "base-files",
            "base-passwd",
            "libc-bin",
            "dash",
            "coreutils",
            "mawk",
            "dpkg",
            "ca-certificates",
        ];
        let request = DebianRequest {
            suite: None,
            packages: names.map(str::to_owned).to_vec(),
            mirror: None,
            keyring: None,
            architecture: "amd64".to_owned(),
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let trusted = sources(Path::new("/"), &request).unwrap();
        let index = index(&Net::new(), &trusted, "amd64", i64::try_from(now).unwrap())
            .unwrap_or_else(|error| panic!("{error}"));
        let packages = solve(&index, &request).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk(dir.path().to_owned());
        for at in order::layers(&packages) {
            unpack(&packages[at], &disk);
        }
        lay(&finish(&disk, &packages).unwrap(), &disk);
        let script = "id -un; echo 6 7 | awk '{ print $1 * $2 }'; readlink /bin /lib64; \
                      stat -c %U:%a /etc/passwd; ls -d /var/run/lock; \
                      dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' dash; \
                      awk '/BEGIN CERT/ { n++ } END { print (n > 100) }' /etc/ssl/certs/ca-certificates.crt; \
                      openssl verify /usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "chroot"])
            .arg(dir.path())
            .args([
                "/usr/bin/env",
                "-i",
                "PATH=/usr/bin:/bin",
                "sh",
                "-c",
                script,
            ])
            .output()
            .expect("unshare is there");
        let said = String::from_utf8_lossy(&output.stdout);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{log}");
        assert_eq!(
            said,
            "root\n42\nusr/bin\nusr/lib64\nroot:644\n/var/run/lock\nii dash\n1\n\
             /usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt: OK\n"
        );
    }
}
