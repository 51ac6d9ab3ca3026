//! The description itself, as a file of the system: `files` entries with `metadata`.
//!
//! The merged description in LinuxKit's key order, image references of the kernel, init and
//! containers canonical, nothing filled in. kiln's own keys (`debian`, `builtin`, `modules`) appear where they
//! were given, so that kiln can read the file back.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::json;
use super::yaml_text::{self, Style};
use crate::spec::{
    Bind, Config, Container, Debian, Device, Field, FileContent, FileEntry, Id, ImageSource,
    InitEntry, Interface, Kernel, ListField, MetadataFormat, Modules, Mount, Rlimit, Runtime, Spec,
    Tmpfs, Volume, VolumeFormat,
};

/// Returns the file's bytes: JSON without, YAML with a final newline.
#[must_use]
pub fn metadata(spec: &Spec, format: MetadataFormat) -> Vec<u8> {
    let canonical = canonical_reference;
    let value = Writer { format, canonical }.spec(spec);
    match format {
        MetadataFormat::Json => json::to_vec(&value),
        MetadataFormat::Yaml => yaml_text::to_string(&value, Style::V2).into_bytes(),
    }
}

/// Returns the merged description as `--dry-run` prints it: references as written, the layout of
/// go-yaml 3, and one empty line at the end.
#[must_use]
pub fn dry_run(spec: &Spec) -> String {
    let (format, canonical) = (MetadataFormat::Yaml, str::to_owned);
    let value = Writer { format, canonical }.spec(spec);
    yaml_text::to_string(&value, Style::V3) + "\n"
}

/// Returns the canonical form of an image reference: with registry and, on Docker Hub, `library`.
/// Neither tag nor digest is added.
#[must_use]
pub fn canonical_reference(reference: &str) -> String {
    let parts: Vec<&str> = reference.split('/').collect();
    match parts[..] {
        [_] => format!("docker.io/library/{reference}"),
        [host, _] if host.contains(['.', ':']) || host == "localhost" => reference.to_owned(),
        [_, _] => format!("docker.io/{reference}"),
        _ => reference.to_owned(),
    }
}

/// An object being built in order.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Puts a value unless there is none.
    fn maybe(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// Puts a string unless it is absent or empty, as Go's omitempty does.
    fn text(&mut self, key: &str, field: &Field<String>) {
        self.maybe(
            key,
            field
                .as_ref()
                .map(|text| text.value.clone())
                .filter(|text| !text.is_empty()),
        );
    }

    /// Puts a list or scalar that was given, even an empty one.
    fn given<T: Serialize>(&mut self, key: &str, field: &Field<T>) {
        self.maybe(key, field.as_ref().map(|field| json!(field.value)));
    }

    fn texts<T>(&mut self, key: &str, field: &ListField<T>, text: impl Fn(&T) -> &str) {
        self.maybe(
            key,
            field.as_ref().map(|list| {
                list.iter()
                    .map(|item| json!(text(&item.value)))
                    .collect::<Value>()
            }),
        );
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

struct Writer {
    format: MetadataFormat,
    /// What becomes of the references of kernel, init and containers.
    canonical: fn(&str) -> String,
}

impl Writer {
    fn spec(&self, spec: &Spec) -> Value {
        let containers =
            |list: &[Container]| self.list(list, |container| self.container(container));
        let mut object = Object::default();
        object.put("kernel", self.kernel(spec.kernel.as_ref()));
        object.put(
            "init",
            self.list(&spec.init, |entry| self.init(&entry.value)),
        );
        object.put("onboot", containers(&spec.onboot));
        object.put("onshutdown", containers(&spec.onshutdown));
        object.put("services", containers(&spec.services));
        object.put("files", self.list(&spec.files, file));
        object.put("volumes", self.list(&spec.volumes, volume));
        object.into()
    }

    /// Go writes an absent list as null in JSON and as an empty one in YAML.
    fn list<T>(&self, items: &[T], value: impl Fn(&T) -> Value) -> Value {
        match self.format {
            MetadataFormat::Json if items.is_empty() => Value::Null,
            _ => items.iter().map(value).collect(),
        }
    }

    fn kernel(&self, kernel: Option<&Kernel>) -> Value {
        let mut object = Object::default();
        match kernel.and_then(|kernel| kernel.image.as_ref()) {
            Some(image) => source(&mut object, &image.value, self.canonical),
            None => object.put("image", ""),
        }
        if let Some(kernel) = kernel {
            object.text("cmdline", &kernel.cmdline);
            object.text("binary", &kernel.binary);
            object.given("tar", &kernel.tar);
            object.given("ucode", &kernel.ucode);
            object.maybe(
                "modules",
                kernel.modules.as_ref().map(|modules| match &modules.value {
                    Modules::All => json!("all"),
                    Modules::Matching(patterns) => json!(patterns),
                }),
            );
        }
        object.into()
    }

    fn init(&self, entry: &InitEntry) -> Value {
        match entry {
            InitEntry::Kiln => json!("kiln"),
            InitEntry::Image(ImageSource::Image(reference)) => json!((self.canonical)(reference)),
            InitEntry::Image(image) => {
                let mut object = Object::default();
                source(&mut object, image, self.canonical);
                object.into()
            }
        }
    }

    fn container(&self, container: &Container) -> Value {
        let mut object = Object::default();
        object.put("name", container.name.value.as_str());
        source(&mut object, &container.image.value, self.canonical);
        self.config(&mut object, &container.config);
        object.into()
    }

    fn config(&self, object: &mut Object, config: &Config) {
        object.texts("capabilities", &config.capabilities, String::as_str);
        object.texts("capabilities.add", &config.capabilities_add, String::as_str);
        object.texts("ambient", &config.ambient, String::as_str);
        object.maybe(
            "mounts",
            config.mounts.as_ref().map(|list| {
                list.iter()
                    .map(|mount| self.mount(&mount.value))
                    .collect::<Value>()
            }),
        );
        object.texts("binds", &config.binds, bind_text);
        object.texts("binds.add", &config.binds_add, bind_text);
        object.maybe(
            "devices",
            config
                .devices
                .as_ref()
                .map(|list| list.iter().map(device).collect::<Value>()),
        );
        object.maybe(
            "tmpfs",
            config
                .tmpfs
                .as_ref()
                .map(|list| list.iter().map(tmpfs_text).collect::<Value>()),
        );
        object.given("command", &config.command);
        object.given("env", &config.env);
        object.text("cwd", &config.cwd);
        object.text("net", &config.net);
        object.text("pid", &config.pid);
        object.text("ipc", &config.ipc);
        object.text("uts", &config.uts);
        object.text("userns", &config.userns);
        object.text("hostname", &config.hostname);
        object.given("readonly", &config.readonly);
        object.given("maskedPaths", &config.masked_paths);
        object.given("readonlyPaths", &config.readonly_paths);
        object.maybe("uid", config.uid.as_ref().map(|id| self::id(&id.value)));
        object.maybe("gid", config.gid.as_ref().map(|id| self::id(&id.value)));
        object.maybe(
            "additionalGids",
            config
                .additional_gids
                .as_ref()
                .map(|list| list.iter().map(|id| self::id(&id.value)).collect::<Value>()),
        );
        object.given("noNewPrivileges", &config.no_new_privileges);
        object.given("oomScoreAdj", &config.oom_score_adj);
        object.given("rootfsPropagation", &config.rootfs_propagation);
        object.given("cgroupsPath", &config.cgroups_path);
        object.maybe(
            "resources",
            config.resources.as_ref().map(|resources| {
                // The schema's spelling, not the specification's.
                rename(json!(resources.value), &[("blockIO", "blockio")])
            }),
        );
        object.given("sysctl", &config.sysctl);
        object.maybe(
            "rlimits",
            config
                .rlimits
                .as_ref()
                .map(|list| list.iter().map(rlimit_text).collect::<Value>()),
        );
        object.given("uidMappings", &config.uid_mappings);
        object.given("gidMappings", &config.gid_mappings);
        object.given("annotations", &config.annotations);
        object.maybe(
            "runtime",
            config
                .runtime
                .as_ref()
                .map(|runtime| self.runtime(&runtime.value)),
        );
    }

    /// In YAML, Go writes all six members of a mount and spells them in lower case.
    fn mount(&self, mount: &Mount) -> Value {
        match self.format {
            MetadataFormat::Json => json!(mount),
            MetadataFormat::Yaml => json!({
                "destination": mount.destination,
                "type": mount.kind,
                "source": mount.source,
                "options": mount.options,
                "uidmappings": mount.uid_mappings,
                "gidmappings": mount.gid_mappings,
            }),
        }
    }

    fn runtime(&self, runtime: &Runtime) -> Value {
        let mut object = Object::default();
        object.given("cgroups", &runtime.cgroups);
        object.maybe(
            "mounts",
            runtime.mounts.as_ref().map(|list| {
                list.iter()
                    .map(|mount| self.mount(mount))
                    .collect::<Value>()
            }),
        );
        object.given("mkdir", &runtime.mkdir);
        object.maybe(
            "interfaces",
            runtime
                .interfaces
                .as_ref()
                .map(|list| list.iter().map(interface).collect::<Value>()),
        );
        let mut bind_ns = Object::default();
        let paths = &runtime.bind_ns;
        for (key, path) in [
            ("cgroup", &paths.cgroup),
            ("ipc", &paths.ipc),
            ("mnt", &paths.mnt),
            ("net", &paths.net),
            ("pid", &paths.pid),
            ("user", &paths.user),
            ("uts", &paths.uts),
        ] {
            bind_ns.given(key, path);
        }
        // Go's JSON never omits a structure, its YAML does when all of it is empty.
        if self.format == MetadataFormat::Json || !bind_ns.0.is_empty() {
            object.put("bindNS", bind_ns);
        }
        object.given("namespace", &runtime.namespace);
        object.into()
    }
}

/// Puts `image`, `debian` or `builtin`.
fn source(object: &mut Object, source: &ImageSource, canonical: fn(&str) -> String) {
    match source {
        ImageSource::Image(reference) => object.put("image", canonical(reference)),
        ImageSource::Debian(source) => object.put("debian", debian(source)),
        ImageSource::Builtin(job) => object.put("builtin", *job),
    }
}

fn debian(source: &Debian) -> Value {
    let mut object = Object::default();
    if let Some(suite) = &source.suite {
        object.put("suite", suite.value.as_str());
    }
    object.put(
        "packages",
        source
            .packages
            .iter()
            .map(|package| json!(package.value))
            .collect::<Value>(),
    );
    object.text("mirror", &source.mirror);
    object.text("keyring", &source.keyring);
    object.into()
}

fn file(file: &FileEntry) -> Value {
    let mut object = Object::default();
    object.put("path", file.path.value.as_str());
    object.put("directory", file.content == FileContent::Directory);
    match &file.content {
        FileContent::Directory => {}
        FileContent::Symlink(target) => object.put("symlink", target.value.as_str()),
        FileContent::Contents(text) => object.put("contents", text.value.as_str()),
        FileContent::Source(source) => object.put("source", source.value.as_str()),
        FileContent::Metadata(MetadataFormat::Yaml) => object.put("metadata", "yaml"),
        FileContent::Metadata(MetadataFormat::Json) => object.put("metadata", "json"),
    }
    object.put("optional", file.optional);
    object.maybe("mode", file.mode.as_ref().map(|mode| mode.text.as_str()));
    object.maybe("uid", file.uid.as_ref().map(|id| self::id(&id.value)));
    object.maybe("gid", file.gid.as_ref().map(|id| self::id(&id.value)));
    object.into()
}

fn volume(volume: &Volume) -> Value {
    let mut object = Object::default();
    object.put("name", volume.name.value.as_str());
    if let Some(image) = &volume.image {
        // LinuxKit leaves volumes' references as they were written.
        source(&mut object, &image.value, str::to_owned);
    }
    object.maybe("readonly", volume.readonly.then_some(true));
    object.maybe(
        "format",
        volume.format.as_ref().map(|format| match format.value {
            VolumeFormat::Filesystem => "filesystem",
            VolumeFormat::Oci => "oci",
        }),
    );
    if !volume.platforms.is_empty() {
        object.put(
            "platforms",
            volume
                .platforms
                .iter()
                .map(|platform| json!(platform.value))
                .collect::<Value>(),
        );
    }
    object.into()
}

fn id(id: &Id) -> Value {
    match id {
        Id::Number(number) => json!(number),
        Id::Name(name) => json!(name),
    }
}

fn bind_text(bind: &Bind) -> &str {
    &bind.text
}

fn tmpfs_text(tmpfs: &Tmpfs) -> Value {
    json!(tmpfs.text)
}

fn rlimit_text(limit: &Rlimit) -> Value {
    json!(limit.text)
}

fn device(device: &Device) -> Value {
    let mut object = Object::default();
    object.put("path", device.path.as_str());
    object.put("type", device.kind.as_str());
    object.put("major", device.major);
    object.put("minor", device.minor);
    object.maybe("mode", device.mode.as_ref().map(|mode| mode.text.as_str()));
    object.into()
}

fn interface(interface: &Interface) -> Value {
    let mut object = Object::default();
    for (key, value) in [
        ("name", &interface.name),
        ("add", &interface.add),
        ("peer", &interface.peer),
    ] {
        object.maybe(key, (!value.is_empty()).then_some(value.as_str()));
    }
    object.put("createInRoot", interface.create_in_root);
    object.into()
}

/// Renames keys of an object, in place.
fn rename(value: Value, names: &[(&str, &str)]) -> Value {
    let Value::Object(map) = value else {
        return value;
    };
    let renamed = map.into_iter().map(|(key, value)| {
        let name = names
            .iter()
            .find(|(from, _)| *from == key)
            .map(|(_, to)| (*to).to_owned());
        (name.unwrap_or(key), value)
    });
    Value::Object(renamed.collect())
}
