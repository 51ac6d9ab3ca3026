//! The kernel command line: words in, typed answers out.
//!
//! Splitting follows the kernel (`lib/cmdline.c`, `next_arg`): blanks separate words unless
//! inside double quotes, and quotes around a value are dropped.

/// Bytes of a command line that are looked at; the kernel's own limit is 2048 on x86.
const CMDLINE_BYTES_MAX: usize = 16 << 10;

/// A parsed kernel command line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Cmdline {
    words: Vec<(String, Option<String>)>,
}

/// What PID 1 does about the network (`kiln.net=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    /// Configure it beside everything else; services do not wait. The default.
    Background,
    /// Services start when there is an address, or after a time limit.
    Wait,
    /// Leave it to containers.
    Off,
}

impl Cmdline {
    /// Parses the bytes of `/proc/cmdline`.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(CMDLINE_BYTES_MAX)];
        let text = String::from_utf8_lossy(bytes);
        let mut words = Vec::new();
        let mut quoted = false;
        for word in text.split(|c: char| {
            quoted ^= c == '"';
            c.is_ascii_whitespace() && !quoted
        }) {
            let word = word.replace('"', "");
            // Words behind "--" belong to init itself, in the kernel's view.
            if word.is_empty() || word == "--" {
                continue;
            }
            match word.split_once('=') {
                Some((key, value)) => words.push((key.to_owned(), Some(value.to_owned()))),
                None => words.push((word, None)),
            }
        }
        Self { words }
    }

    /// Returns the value of the last `key=value`, as the kernel lets the last one win.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        let mut words = self.words.iter().rev();
        words.find(|(k, v)| k == key && v.is_some())?.1.as_deref()
    }

    /// Returns the values of every `key=value`, in order.
    pub(crate) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.words
            .iter()
            .filter(move |(k, _)| k == key)
            .filter_map(|(_, v)| v.as_deref())
    }

    /// Returns the items of every `key=a,b`.
    pub(crate) fn list<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(key)
            .flat_map(|v| v.split(','))
            .filter(|v| !v.is_empty())
    }

    /// Returns the parameters `module.name=value` of one module, as for finit_module(2).
    ///
    /// `-` and `_` are the same in both places, as in the kernel.
    pub(crate) fn module_parameters(&self, module: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (key, value) in &self.words {
            let Some((owner, name)) = key.split_once('.') else {
                continue;
            };
            if owner.replace('-', "_") == module {
                match value {
                    Some(v) if v.contains(' ') => found.push(format!("{name}=\"{v}\"")),
                    Some(v) => found.push(format!("{name}={v}")),
                    None => found.push(name.to_owned()),
                }
            }
        }
        found
    }

    /// Returns whether some `module.…` word exists: a request for a module with no device to
    /// announce it, such as `virtio_mmio.device=`.
    pub(crate) fn mentions_module(&self, module: &str) -> bool {
        !self.module_parameters(module).is_empty()
    }

    /// Returns whether a word stands there, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.words.iter().any(|(k, _)| k == key)
    }

    /// Returns whether the root is to be mounted for writing: the last of `ro` and `rw` says so.
    pub(crate) fn is_writable(&self) -> bool {
        let mut words = self.words.iter().rev().map(|(key, _)| key.as_str());
        words.find(|key| matches!(*key, "ro" | "rw")) == Some("rw")
    }

    /// Returns the network mode; an unknown word is the default and is named in the error.
    pub(crate) fn network_mode(&self) -> Result<NetworkMode, String> {
        match self.value("kiln.net") {
            None | Some("background") => Ok(NetworkMode::Background),
            Some("wait") => Ok(NetworkMode::Wait),
            Some("off" | "none") => Ok(NetworkMode::Off),
            Some(other) => Err(format!(
                "kiln.net={other}: unknown value, expected background, wait or off"
            )),
        }
    }

    /// Returns rows and columns of the terminal of whoever will attach (`kiln.window=24x80`).
    pub(crate) fn window(&self) -> Option<(u16, u16)> {
        let (rows, columns) = self.value("kiln.window")?.split_once('x')?;
        Some((rows.parse().ok()?, columns.parse().ok()?))
    }

    /// Returns whether the machine is off after a reset, and never without one
    /// (`kiln.poweroff=reset`): so it is on Firecracker, which has no other way out.
    pub(crate) fn resets_to_power_off(&self) -> bool {
        self.value("kiln.poweroff") == Some("reset")
    }

    /// Returns the kernel's `panic=` in seconds: positive waits and reboots, negative reboots at
    /// once, zero (or none) does not reboot.
    pub(crate) fn panic_seconds(&self) -> i64 {
        self.value("panic")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_values_and_quotes() {
        let c = Cmdline::parse(
            b"console=ttyS0,115200 quiet  ip=dhcp modules=a,b modules=c foo=\"a b\" \"x=1 2\"\n",
        );
        assert_eq!(c.value("console"), Some("ttyS0,115200"));
        assert_eq!(c.list("modules").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(c.value("foo"), Some("a b"));
        assert_eq!(c.value("x"), Some("1 2"));
        assert_eq!(c.value("quiet"), None);
        assert_eq!(c.value("absent"), None);
    }

    #[test]
    fn module_parameters_ignore_dash_and_underscore() {
        let c = Cmdline::parse(
            b"virtio-mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11 kvm.x",
        );
        assert_eq!(
            c.module_parameters("virtio_mmio"),
            ["device=512@0xfeb00e00:12", "device=512@0xfeb00c00:11"]
        );
        assert_eq!(c.module_parameters("kvm"), ["x"]);
        assert!(!c.mentions_module("loop"));
    }

    #[test]
    fn typed_answers() {
        assert_eq!(
            Cmdline::default().network_mode(),
            Ok(NetworkMode::Background)
        );
        let c = Cmdline::parse(b"kiln.net=off kiln.net=wait panic=-1 kiln.window=24x80");
        assert!(!c.resets_to_power_off());
        assert!(Cmdline::parse(b"reboot=k kiln.poweroff=reset").resets_to_power_off());
        assert_eq!(c.window(), Some((24, 80)));
        assert_eq!(c.network_mode(), Ok(NetworkMode::Wait));
        assert_eq!(c.panic_seconds(), -1);
        assert!(Cmdline::parse(b"ro rw").is_writable());
        assert!(!Cmdline::parse(b"rw ro").is_writable() && !c.is_writable());
        assert!(Cmdline::parse(b"kiln.net=of").network_mode().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>) {
            let c = Cmdline::parse(&bytes);
            prop_assert!(c.words.iter().all(|(k, _)| !k.contains('"')));
        }

        #[test]
        fn plain_words_survive(words in proptest::collection::vec("[a-z.]{1,8}=[a-z0-9:,]{0,8}", 0..8)) {
            let c = Cmdline::parse(words.join(" ").as_bytes());
            let back: Vec<String> =
                c.words.iter().map(|(k, v)| format!("{k}={}", v.as_deref().unwrap())).collect();
            prop_assert_eq!(back, words);
        }
    }
}
