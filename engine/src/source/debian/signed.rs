//! Clear-signed texts: who signed them, and whether that counts.
//!
//! Enters: the bytes of an `InRelease`, public keys, and the time. Leaves: the signed text, and
//! nothing else.
//!
//! ```text
//! -----BEGIN PGP SIGNED MESSAGE-----        exactly the first line
//! Hash: SHA256                              any number of Hash headers
//!                                           an empty line
//! Origin: Debian                            the text; a leading "-" is written "- -"
//! -----BEGIN PGP SIGNATURE-----
//! …                                         one or several signatures
//! -----END PGP SIGNATURE-----               and nothing but white space after it
//! ```
//!
//! Framing: RFC 9580, section 7; strict, since text outside the frame was the way around
//! apt's own check once. Signatures: rPGP. A release is believed as apt believes it: at least one
//! good signature of a known key that is neither expired nor revoked, and no bad signature of a
//! known key. Signatures of unknown keys do not count. SHA-1 and older do not count.

use std::io::Cursor;

use pgp::composed::{Deserializable as _, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{Tag, VerifyingKey};

use super::apt::KeyFile;

/// Most signatures looked at in one text (Debian's have two or three).
const SIGNATURES: usize = 16;
/// Most public keys taken from all keyrings of one source.
const KEYS: usize = 4096;

/// Why a text is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// Not a clear-signed text.
    #[error("not a clear-signed text: line {line}: {why}")]
    Frame {
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// A keyring that is not one.
    #[error("{name} holds no public key: {why}")]
    Keyring {
        /// The keyring.
        name: String,
        /// Why.
        why: String,
    },
    /// The signature block cannot be read.
    #[error("the signature block cannot be read: {0}")]
    Armor(String),
    /// No signature that counts.
    #[error("no good signature: {}", .0.join("; "))]
    Unsigned(Vec<String>),
    /// A known key's signature does not fit the text.
    #[error("bad signature of the known key {key}: the text or the signature was changed")]
    Bad {
        /// Fingerprint.
        key: String,
    },
}

/// Words for a time span in the past.
pub(super) fn ago(seconds: i64) -> String {
    match seconds / 86_400 {
        0 => format!("{} hours ago", seconds / 3600),
        days => format!("{days} days ago"),
    }
}

/// The two parts of a clear-signed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed<'a> {
    /// The text, lines ending in `\n`, dash-escapes undone, white space at line ends cut.
    pub text: String,
    /// The armored signatures.
    pub armor: &'a str,
}

/// Takes a clear-signed text apart, in one pass.
///
/// # Errors
/// Anything before, between or after the parts, and control characters.
pub fn frame(bytes: &[u8]) -> Result<Framed<'_>, SignedError> {
    let fail = |line, why| Err(SignedError::Frame { line, why });
    let Ok(whole) = std::str::from_utf8(bytes) else {
        return fail(1, "not UTF-8");
    };
    let mut lines = Lines {
        whole,
        at: 0,
        number: 0,
    };
    if lines.next() != Some("-----BEGIN PGP SIGNED MESSAGE-----") {
        return fail(1, "it does not begin with BEGIN PGP SIGNED MESSAGE");
    }
    loop {
        match lines.next() {
            Some("") => break,
            Some(line) if line.starts_with("Hash: ") => {}
            _ => return fail(lines.number, "not a Hash header"),
        }
    }
    let mut text = String::with_capacity(whole.len());
    let armor_at = loop {
        let at = lines.at;
        let Some(line) = lines.next() else {
            return fail(lines.number, "it ends before the signature");
        };
        if line == "-----BEGIN PGP SIGNATURE-----" {
            break at;
        }
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return fail(lines.number, "control character");
        }
        let line = match line.strip_prefix("- ") {
            Some(line) => line,
            None if line.starts_with('-') => return fail(lines.number, "unescaped dash"),
            None => line,
        };
        text.push_str(line.trim_end_matches([' ', '\t']));
        text.push('\n');
    };
    while lines
        .next()
        .is_some_and(|line| line != "-----END PGP SIGNATURE-----")
    {}
    let armor = &whole[armor_at..lines.at];
    if !armor.trim_end().ends_with("-----END PGP SIGNATURE-----") {
        return fail(lines.number, "it ends within the signature");
    }
    if !whole[lines.at..].trim().is_empty() {
        return fail(lines.number + 1, "something follows the signature");
    }
    Ok(Framed { text, armor })
}

/// Lines without their ends, with the position behind them.
struct Lines<'a> {
    whole: &'a str,
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = &self.whole[self.at..];
        if rest.is_empty() {
            return None;
        }
        self.number += 1;
        let (line, used) = match rest.split_once('\n') {
            Some((line, _)) => (line, line.len() + 1),
            None => (rest, rest.len()),
        };
        self.at += used;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }
}

/// Public keys that may sign.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
    /// Upper-case hex, perhaps with a final `!`; empty: all keys.
    only: Vec<String>,
}

impl Keyring {
    /// Reads keyring files, binary or armored; `fingerprints` selects among their keys
    /// (see [`super::apt::SignedBy`]).
    ///
    /// # Errors
    /// Files that hold no readable public key, though not empty.
    pub fn read(files: &[KeyFile], fingerprints: &[String]) -> Result<Self, SignedError> {
        let mut keys = Vec::new();
        for file in files {
            let before = keys.len();
            let fail = |why: String| SignedError::Keyring {
                name: file.name.clone(),
                why,
            };
            if file.bytes.is_empty() {
                continue;
            }
            let (found, _) = SignedPublicKey::from_reader_many(Cursor::new(&file.bytes))
                .map_err(|error| fail(error.to_string()))?;
            let mut last = None;
            for key in found.take(KEYS) {
                match key {
                    Ok(key) if keys.len() < KEYS => keys.push(key),
                    Ok(_) => break,
                    Err(error) => last = Some(error.to_string()),
                }
            }
            if keys.len() == before {
                return Err(fail(
                    last.unwrap_or_else(|| "it is not an OpenPGP keyring".to_owned()),
                ));
            }
        }
        Ok(Self {
            keys,
            only: fingerprints.to_vec(),
        })
    }

    /// Whether a signature by `signer`, a key or subkey of `owner`, counts.
    fn admits(&self, owner: &str, signer: &str) -> bool {
        self.only.is_empty()
            || self.only.iter().any(|only| match only.strip_suffix('!') {
                Some(exact) => signer.ends_with(exact),
                None => owner.ends_with(only.as_str()) || signer.ends_with(only.as_str()),
            })
    }
}

/// Checks the signatures and returns the signed text.
///
/// `now` is in seconds since 1970.
///
/// # Errors
/// Wrong framing, no good signature, or a bad one of a known key.
pub fn verify(inrelease: &[u8], keyring: &Keyring, now: i64) -> Result<String, SignedError> {
    let framed = frame(inrelease)?;
    let mut signed = framed.text.replace('\n', "\r\n").into_bytes();
    signed.truncate(signed.len().saturating_sub(2)); // the last line end belongs to the frame
    let (signatures, _) = DetachedSignature::from_armor_many(Cursor::new(framed.armor))
        .map_err(|error| SignedError::Armor(error.to_string()))?;
    let (mut good, mut reasons) = (false, Vec::new());
    for signature in signatures.take(SIGNATURES) {
        let signature = signature
            .map_err(|error| SignedError::Armor(error.to_string()))?
            .signature;
        match judge(&signature, &signed, keyring, now)? {
            None => good = true,
            Some(reason) => reasons.push(reason),
        }
    }
    if !good {
        if reasons.is_empty() {
            reasons.push("there is none".to_owned());
        }
        return Err(SignedError::Unsigned(reasons));
    }
    Ok(framed.text)
}

/// Judges one signature: none when it is good, else why it does not count.
fn judge(
    signature: &Signature,
    signed: &[u8],
    keyring: &Keyring,
    now: i64,
) -> Result<Option<String>, SignedError> {
    let strong = matches!(
        signature.hash_alg(),
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    );
    let mut reason = None;
    for key in &keyring.keys {
        let owner = hex(key);
        if issued_by(signature, &key.primary_key) && keyring.admits(&owner, &owner) {
            reason = Some(
                check(signature, signed, &key.primary_key, strong, now)?
                    .or_else(|| primary_reason(key, now))
                    .map(|why| format!("{owner} {why}")),
            );
        }
        for subkey in &key.public_subkeys {
            let signer = hex(&subkey.key);
            if issued_by(signature, &subkey.key) && keyring.admits(&owner, &signer) {
                reason = Some(
                    check(signature, signed, &subkey.key, strong, now)?
                        .or_else(|| primary_reason(key, now))
                        .or_else(|| subkey_reason(key, subkey, now))
                        .map(|why| format!("{signer} {why}")),
                );
            }
        }
        if reason == Some(None) {
            return Ok(None);
        }
    }
    Ok(Some(match reason.flatten() {
        Some(reason) => reason,
        None => format!("{} is not among the keys", issuer(signature)),
    }))
}

fn check(
    signature: &Signature,
    signed: &[u8],
    key: &impl VerifyingKey,
    strong: bool,
    now: i64,
) -> Result<Option<String>, SignedError> {
    if signature.typ() != Some(SignatureType::Text)
        && signature.typ() != Some(SignatureType::Binary)
    {
        return Ok(Some("made a signature of another kind".to_owned()));
    }
    if !strong {
        return Ok(Some("signed with a hash that is too weak".to_owned()));
    }
    if signature.verify(key, signed).is_err() {
        return Err(SignedError::Bad { key: hex(key) });
    }
    let made = signature.created().map_or(0, |at| i64::from(at.as_secs()));
    let life = signature
        .signature_expiration_time()
        .map_or(0, |life| i64::from(life.as_secs()));
    if life != 0 && made + life < now {
        return Ok(Some("made a signature that has expired".to_owned()));
    }
    Ok(None)
}

/// Why the primary key of `key` is not good at `now`, if it is not.
fn primary_reason(key: &SignedPublicKey, now: i64) -> Option<String> {
    let primary = &key.primary_key;
    let revoked = |signature: &Signature| signature.verify_key(primary).is_ok();
    if key.details.revocation_signatures.iter().any(revoked) {
        return Some("is revoked".to_owned());
    }
    let users = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && signature.typ() != Some(SignatureType::CertRevocation)
                && signature
                    .verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    let direct = key.details.direct_signatures.iter().filter(|s| revoked(s));
    let Some(latest) = users
        .chain(direct)
        .max_by_key(|signature| signature.created())
    else {
        return Some("has no valid self-signature".to_owned());
    };
    expired(primary, latest, now)
}

/// Why a subkey is not good for signing at `now`, if it is not.
fn subkey_reason(key: &SignedPublicKey, subkey: &SignedPublicSubKey, now: i64) -> Option<String> {
    let primary = &key.primary_key;
    let bound = subkey.signatures.iter().filter(|signature| {
        signature
            .verify_subkey_binding(primary, &subkey.key)
            .is_ok()
    });
    let (revocations, bindings): (Vec<_>, Vec<_>) =
        bound.partition(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation));
    if !revocations.is_empty() {
        return Some("is revoked".to_owned());
    }
    let Some(binding) = bindings
        .into_iter()
        .max_by_key(|signature| signature.created())
    else {
        return Some("is not bound to its primary key".to_owned());
    };
    let back = binding.embedded_signature().is_some_and(|back| {
        back.verify_primary_key_binding(&subkey.key, primary)
            .is_ok()
    });
    if !binding.key_flags().sign() || !back {
        return Some("is not a signing key".to_owned());
    }
    expired(&subkey.key, binding, now)
}

fn expired(key: &impl pgp::types::KeyDetails, signature: &Signature, now: i64) -> Option<String> {
    let life = signature
        .key_expiration_time()
        .map_or(0, |life| i64::from(life.as_secs()));
    let until = i64::from(key.created_at().as_secs()) + life;
    (life != 0 && until < now).then(|| format!("expired {}", ago(now - until)))
}

fn hex(key: &impl pgp::types::KeyDetails) -> String {
    key.fingerprint().to_string().to_uppercase()
}

fn issued_by(signature: &Signature, key: &impl pgp::types::KeyDetails) -> bool {
    let prints = signature.issuer_fingerprint();
    if prints.is_empty() {
        let id = key.legacy_key_id();
        return signature
            .issuer_key_id()
            .into_iter()
            .any(|issuer| *issuer == id);
    }
    let print = key.fingerprint();
    prints.into_iter().any(|issuer| *issuer == print)
}

fn issuer(signature: &Signature) -> String {
    let print = signature
        .issuer_fingerprint()
        .first()
        .map(ToString::to_string);
    let id = || signature.issuer_key_id().first().map(ToString::to_string);
    print
        .or_else(id)
        .map_or_else(|| "a nameless key".to_owned(), |name| name.to_uppercase())
}

#[cfg(test)]
pub(super) mod testing {
    //! GnuPG makes keys and signatures for tests.

    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use super::KeyFile;

    /// A GnuPG home with keys of its own; its agent ends with it.
    pub(crate) struct Gpg(pub(super) tempfile::TempDir);

    impl Gpg {
        pub(crate) fn new() -> Self {
            let dir = tempfile::Builder::new()
                .prefix("kg")
                .tempdir_in("/tmp")
                .unwrap();
            Self(dir)
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        pub(crate) fn run(&self, args: &[&str]) -> Vec<u8> {
            let output = Command::new("gpg")
                .arg("--homedir")
                .arg(self.0.path())
                .args([
                    "--batch",
                    "--yes",
                    "--no-tty",
                    "--passphrase",
                    "",
                    "--pinentry-mode",
                    "loopback",
                ])
                .args(args)
                .output()
                .expect("gpg is there");
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "gpg {args:?}: {log}");
            output.stdout
        }

        pub(crate) fn key(&self, name: &str, algorithm: &str, extra: &[&str], expire: &str) {
            let args = ["--quick-gen-key", name, algorithm, "sign", expire];
            self.run(&[extra, &args].concat());
        }

        pub(crate) fn export(&self, name: &str, armor: bool) -> KeyFile {
            let args: &[&str] = if armor {
                &["--armor", "--export", name]
            } else {
                &["--export", name]
            };
            let bytes = self.run(args);
            KeyFile {
                name: name.to_owned(),
                bytes,
            }
        }

        pub(crate) fn sign(&self, text: &str, extra: &[&str]) -> Vec<u8> {
            let path = self.path("text");
            fs::write(&path, text).unwrap();
            let path = path.to_str().unwrap().to_owned();
            self.run(&[extra, &["--clearsign", "--output", "-", &path]].concat())
        }
    }

    impl Drop for Gpg {
        fn drop(&mut self) {
            let home = self.0.path();
            let _ = Command::new("gpgconf")
                .arg("--homedir")
                .arg(home)
                .args(["--kill", "gpg-agent"])
                .status();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::super::apt::{HostApt, pick};
    use super::super::release::Release;
    use super::super::transport::{read_all, testing::Net};
    use super::testing::Gpg;
    use super::*;

    const TEXT: &str = "\
Origin: Test
Suite: oldstable
Codename: bookworm
Date: Mon, 23 Nov 2026 11:22:37 UTC
Valid-Until: Mon, 30 Nov 2026 11:22:37 UTC
Acquire-By-Hash: yes
Architectures: all amd64
Components: main
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages
 515e692f2c4121c6fcec444ef100cc18f79a991910615f3a88c8b7becfc94d2f 7 main/binary-amd64/Packages.xz
 9e0b5aabb2465b3d2e7a7fe27f9913846277833f7a2826e7767acccff5b588c5 9 main/binary-all/Packages.gz
- a line with a dash
";

    fn now() -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(since.as_secs()).unwrap()
    }

    /// What gpgv says, read as apt reads it.
    fn gpgv(dir: &Path, inrelease: &[u8], keys: &[KeyFile]) -> bool {
        let file = dir.join("inrelease");
        fs::write(&file, inrelease).unwrap();
        let mut command = Command::new("gpgv");
        command.args(["--status-fd", "1"]);
        for (index, key) in keys.iter().enumerate() {
            let ring = dir.join(format!("ring{index}.gpg"));
            let bytes = match std::str::from_utf8(&key.bytes) {
                Ok(_) => {
                    let armored = dir.join("armored");
                    fs::write(&armored, &key.bytes).unwrap();
                    Command::new("gpg")
                        .args(["--dearmor", "--output", "-"])
                        .arg(armored)
                        .output()
                        .unwrap()
                        .stdout
                }
                Err(_) => key.bytes.clone(),
            };
            fs::write(&ring, bytes).unwrap();
            command.arg("--keyring").arg(ring);
        }
        let output = command.arg(&file).output().expect("gpgv is there");
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        let has = |word: &str| status.lines().any(|line| line.contains(word));
        has("[GNUPG:] GOODSIG") && has("[GNUPG:] VALIDSIG") && !has("BADSIG") && !has("NODATA")
    }

    fn ring(files: &[KeyFile]) -> Keyring {
        Keyring::read(files, &[]).unwrap()
    }

    #[test]
    fn agrees_with_gpgv_on_good_and_changed_texts() {
        let gpg = Gpg::new();
        gpg.key("one", "rsa2048", &[], "never");
        gpg.key("two", "ed25519", &[], "never");
        let (one, two) = (gpg.export("one", false), gpg.export("two", true));
        let signed = gpg.sign(TEXT, &["-u", "one", "-u", "two"]);
        let both = [one, two];
        for keys in [&both[..], &both[..1], &both[1..]] {
            assert_eq!(verify(&signed, &ring(keys), now()).unwrap(), TEXT);
            assert!(gpgv(gpg.0.path(), &signed, keys));
        }
        let text = String::from_utf8(signed).unwrap();
        let tampered = [
            text.replace("oldstable", "stable"),
            text.replace("- - a line", "- - b line"),
            text.replace("Components: main\n", "Components: main\n\n"),
            text.replace(" 7 main/", " 8 main/"),
            text.replacen("Suite:", "suite:", 1),
        ];
        for changed in tampered {
            assert_ne!(changed, text);
            let error = verify(changed.as_bytes(), &ring(&both), now()).unwrap_err();
            assert!(matches!(error, SignedError::Bad { .. }), "{error}");
            assert!(!gpgv(gpg.0.path(), changed.as_bytes(), &both));
        }
        // White space at line ends and the kind of line end are not signed: both accept it.
        let spaced = text.replace("Origin: Test\n", "Origin: Test  \r\n");
        assert_eq!(
            verify(spaced.as_bytes(), &ring(&both), now()).unwrap(),
            TEXT
        );
        assert!(gpgv(gpg.0.path(), spaced.as_bytes(), &both));
    }

    #[test]
    fn refuses_unknown_expired_revoked_and_weak() {
        let gpg = Gpg::new();
        gpg.key("one", "ed25519", &[], "never");
        gpg.key("other", "ed25519", &[], "never");
        let past = ["--faked-system-time", "20200101T000000"];
        gpg.key("old", "ed25519", &past, "1y");
        gpg.key("brief", "ed25519", &past, "never");
        let check = |signed: &[u8], key: &KeyFile, why: &str| {
            let error = verify(signed, &ring(std::slice::from_ref(key)), now())
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{error}");
            assert!(
                !gpgv(gpg.0.path(), signed, std::slice::from_ref(key)),
                "{why}"
            );
        };
        let signed = gpg.sign(TEXT, &["-u", "one"]);
        check(
            &signed,
            &gpg.export("other", false),
            "is not among the keys",
        );

        let old = gpg.sign(TEXT, &[&past[..], &["-u", "old"]].concat());
        let key = gpg.export("old", false);
        check(&old, &key, "expired");
        let then = 1_590_000_000; // May 2020: the caller's time counts, not the machine's
        assert!(verify(&old, &ring(std::slice::from_ref(&key)), then).is_ok());
        // An extended key is good again, though an older copy of it comes first.
        let print = String::from_utf8(gpg.run(&["--with-colons", "--list-keys", "old"])).unwrap();
        let print = print
            .lines()
            .find_map(|line| line.strip_prefix("fpr:"))
            .unwrap();
        gpg.run(&["--quick-set-expire", print.trim_matches(':'), "20y"]);
        let extended = gpg.export("old", false);
        assert!(verify(&old, &ring(&[key, extended.clone()]), now()).is_ok());
        assert!(gpgv(gpg.0.path(), &old, &[extended]));

        let sig = gpg.sign(
            TEXT,
            &[
                "-u",
                "brief",
                "--default-sig-expire",
                "1d",
                "--faked-system-time",
                "20200102T000000",
            ],
        );
        check(
            &sig,
            &gpg.export("brief", false),
            "a signature that has expired",
        );

        let weak = gpg.sign(
            TEXT,
            &[
                "-u",
                "one",
                "--digest-algo",
                "SHA1",
                "--allow-weak-digest-algos",
            ],
        );
        let error = verify(&weak, &ring(&[gpg.export("one", false)]), now())
            .unwrap_err()
            .to_string();
        assert!(error.contains("too weak"), "{error}"); // gpgv takes it; apt does not

        let home = gpg.0.path().join("openpgp-revocs.d");
        let prints = String::from_utf8(gpg.run(&["--with-colons", "--list-keys", "one"])).unwrap();
        let print = prints
            .lines()
            .find_map(|line| line.strip_prefix("fpr:"))
            .unwrap()
            .trim_matches(':');
        let revocation = fs::read_to_string(home.join(format!("{print}.rev"))).unwrap();
        let path = gpg.path("revoke");
        fs::write(&path, revocation.replace(":-----", "-----")).unwrap();
        gpg.run(&["--import", path.to_str().unwrap()]);
        check(&signed, &gpg.export("one", false), "is revoked");
    }

    #[test]
    fn signing_subkeys_must_be_bound_and_may_be_excluded() {
        let gpg = Gpg::new();
        gpg.run(&["--quick-gen-key", "main", "ed25519", "cert", "never"]);
        let listing =
            || String::from_utf8(gpg.run(&["--with-colons", "--list-keys", "main"])).unwrap();
        let prints = || -> Vec<String> {
            listing()
                .lines()
                .filter_map(|l| l.strip_prefix("fpr:"))
                .map(|l| l.trim_matches(':').to_owned())
                .collect()
        };
        gpg.run(&["--quick-add-key", &prints()[0], "ed25519", "sign", "never"]);
        let signed = gpg.sign(TEXT, &["-u", "main"]);
        let key = gpg.export("main", true);
        let files = std::slice::from_ref(&key);
        assert!(verify(&signed, &ring(files), now()).is_ok());
        assert!(gpgv(gpg.0.path(), &signed, files));
        let prints = prints();
        let with = |only: String| verify(&signed, &Keyring::read(files, &[only]).unwrap(), now());
        assert!(with(prints[0].clone()).is_ok());
        assert!(with(prints[1].clone()).is_ok());
        assert!(with(format!("{}!", prints[1])).is_ok());
        assert!(with(format!("{}!", prints[0])).is_err());
        assert!(with("0000".to_owned()).is_err());
        // A signing subkey moved under another primary key is nobody's.
        gpg.key("victim", "ed25519", &[], "never");
        let parse = |file: &KeyFile| ring(std::slice::from_ref(file)).keys.remove(0);
        let mut moved = parse(&gpg.export("victim", false));
        moved.public_subkeys = parse(&key).public_subkeys;
        let keyring = Keyring {
            keys: vec![moved],
            only: Vec::new(),
        };
        let error = verify(&signed, &keyring, now()).unwrap_err().to_string();
        assert!(error.contains("is not bound to its primary key"), "{error}");
    }

    /// The archives this machine uses: rPGP and gpgv both believe them; a changed digit, neither.
    #[test]
    fn believes_the_archives_of_this_host() {
        let host = HostApt::read(Path::new("/")).unwrap();
        let suite = host.suite().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for source in pick(&host.entries, &suite, "amd64").unwrap() {
            let url = format!("{}/dists/{}/InRelease", source.url, source.suite);
            let bytes = read_all(&Net::new(), &url, 8 << 20).unwrap_or_else(|e| panic!("{e}"));
            let keys = host.keys(&source.signed_by).unwrap();
            let text = verify(&bytes, &ring(&keys), now()).unwrap();
            assert!(gpgv(dir.path(), &bytes, &keys), "{url}");
            let release = Release::parse(&text).unwrap();
            release.check(&source.suite, None).unwrap();
            let index = &release.indexes("main", "amd64").unwrap()[0];
            assert_eq!(index.path, "main/binary-amd64/Packages.xz");
            let mut changed = bytes.clone();
            let at = changed
                .windows(5)
                .position(|window| window == b"Suite")
                .unwrap();
            changed[at + 1] ^= 1;
            assert!(verify(&changed, &ring(&keys), now()).is_err());
            assert!(!gpgv(dir.path(), &changed, &keys), "{url}");
        }
    }

    #[test]
    fn framing_is_strict() {
        let good = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\na\n- -b\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
        assert_eq!(frame(good.as_bytes()).unwrap().text, "a\n-b\n");
        let crlf = good.replace('\n', "\r\n");
        assert_eq!(frame(crlf.as_bytes()).unwrap().text, "a\n-b\n");
        for (bad, why) in [
            (format!("x\n{good}"), "line 1"),
            (format!("{good}x"), "something follows"),
            (
                good.replace("Hash: SHA256\n", "Comment: x\n"),
                "line 2: not a Hash header",
            ),
            (good.replace("- -b", "-b"), "line 5: unescaped dash"),
            (good.replace("\na\n", "\na\rb\n"), "control character"),
            (
                good.replace("-----END PGP SIGNATURE-----\n", ""),
                "ends within the signature",
            ),
            (
                good.replace("-----BEGIN PGP SIGNATURE-----\n", ""),
                "unescaped dash",
            ),
            (
                "-----BEGIN PGP SIGNED MESSAGE-----\n\na\n".to_owned(),
                "ends before",
            ),
        ] {
            let error = frame(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(frame(b"-----BEGIN PGP SIGNED MESSAGE-----\n\n\xff").is_err());
    }

    proptest! {
        #[test]
        fn frames_any_text(lines in prop::collection::vec("[ -~]{0,20}[!-~]|", 0..20)) {
            let mut message = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n".to_owned();
            let mut text = String::new();
            for line in &lines {
                let escape = if line.starts_with('-') { "- " } else { "" };
                message += &format!("{escape}{line}\n");
                text += &format!("{line}\n");
            }
            message += "-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
            prop_assert_eq!(frame(message.as_bytes()).unwrap().text, text);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(-----BEGIN PGP SIGNED MESSAGE-----|-----BEGIN PGP SIGNATURE-----|-----END PGP SIGNATURE-----|Hash: |SHA256:|[a\n -])*") {
            let _ = frame(&bytes);
            let _ = frame(text.as_bytes());
            let _ = verify(text.as_bytes(), &Keyring::default(), 0);
            let _ = Keyring::read(&[KeyFile { name: String::new(), bytes }], &[]);
        }
    }
}
