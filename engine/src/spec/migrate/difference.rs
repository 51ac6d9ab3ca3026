//! Every difference that a description alone can tell, in words: `docs/linuxkit.md` has the same.

/// How much a difference matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The system is another one than LinuxKit's.
    Differs,
    /// It works alike; perhaps it is not meant, or can be better.
    Note,
}

/// One row of the list of differences.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name for programs; never changes.
    pub id: &'static str,
    /// How much it matters.
    pub class: Class,
    /// What in the description it is about.
    pub title: &'static str,
    /// What LinuxKit does; empty when both do what `kiln` says.
    pub linuxkit: &'static str,
    /// What kiln does, or what follows.
    pub kiln: &'static str,
}

const fn differs(
    id: &'static str,
    title: &'static str,
    linuxkit: &'static str,
    kiln: &'static str,
) -> Difference {
    Difference {
        id,
        class: Class::Differs,
        title,
        linuxkit,
        kiln,
    }
}

const fn note(id: &'static str, title: &'static str, follows: &'static str) -> Difference {
    Difference {
        id,
        class: Class::Note,
        title,
        linuxkit: "",
        kiln: follows,
    }
}

macro_rules! differences {
    ($($name:ident = $value:expr;)*) => {
        $(pub(super) static $name: Difference = $value;)*
        /// All of them, the weightier first.
        pub static DIFFERENCES: &[&Difference] = &[$(&$name),*];
    };
}

differences! {
    DROPPED_KEY = differs(
        "dropped-key",
        "keys that LinuxKit accepts and drops",
        "leaves them out of config.json",
        "honours them: a limit or mapping that never was in force now is",
    );
    AT_TEXT = differs(
        "at-text",
        "text that begins with @",
        "puts an empty string in its place",
        "leaves it as it is",
    );
    MOUNT_VOLUME = differs(
        "mount-volume",
        "mounts of a volume by its name",
        "leaves the bare name in config.json, so that the mount fails at boot",
        "puts the volume's path in its place, as in binds",
    );
    EARLIER_VOLUME = differs(
        "earlier-volume",
        "volumes of a file before the last",
        "knows the last file's volumes only, and fails",
        "knows the volumes of all files",
    );
    READONLY_VOLUME = differs(
        "readonly-volume",
        "binds of a read-only volume with further options",
        "wants ro and nothing else, and fails",
        "takes ro among other options",
    );
    ALL_AMONG_OTHERS = differs(
        "all-among-others",
        "all beside other capabilities",
        "fails: unknown capability; with .add, when the image's label lists any",
        "takes it as all",
    );
    CAPABILITY_TWICE = differs(
        "capability-twice",
        "a capability listed twice",
        "lists it twice in the effective set",
        "lists it once",
    );
    NAMESPACE_NONE = differs(
        "namespace-none",
        "none as ipc or uts",
        "takes it as the path of a namespace",
        "makes a new namespace, as for net",
    );
    EMPTY_TEXT = differs(
        "empty-text",
        "empty strings",
        "takes the value of the image's label all the same",
        "has it empty, whatever the label says",
    );
    PARENT_MODE = differs(
        "parent-mode",
        "directories above files",
        "gives them the mode (with x) and the owner of the first file below",
        "leaves directories of images alone; makes missing ones 0755, of root",
    );
    UNCLEAN_PATH = differs(
        "unclean-path",
        "paths with empty or . parts",
        "writes them as they are",
        "cleans them",
    );
    UCODE = differs(
        "ucode",
        "microcode",
        "leaves it out when the image has no such file, and of most formats",
        "fails when the image has no such file, and puts it into every initrd",
    );
    HIDDEN_AT_BOOT = note(
        "hidden-at-boot",
        "files in /run, /tmp or /var",
        "empty file systems are mounted there at boot and hide them",
    );
    NOT_IN_INITRD = note(
        "not-in-initrd",
        "files in /boot",
        "they are in tar outputs only: an initrd holds nothing of /boot",
    );
    MOUNT_TWICE = note(
        "mount-twice",
        "several mounts in one place",
        "the last one counts, mounts after binds after tmpfs",
    );
    NO_IMAGE = note(
        "no-kernel-image",
        "a kernel section without an image",
        "it yields nothing, its command line included",
    );
    NO_TAG = note(
        "no-tag",
        "images without a tag or digest",
        "they mean :latest, whatever that is at the first build; kiln lock pins it",
    );
    DIGEST = note(
        "digest",
        "images pinned by digest",
        "they are found in the cache, which LinuxKit's never does",
    );
    KILN_ONLY = note(
        "kiln-only",
        "what only kiln knows",
        "LinuxKit refuses the description",
    );
}
