//! `kiln run IMAGE`: any container image as a machine of its own, with the habits of `docker run`.
//!
//! Enters: an image and flags. Leaves: a description of a system with Debian's kernel, kiln-init
//! and the image as the one service, for which the machine is there. Its outputs are kept below the
//! cache by what the description says, so that the same image is not built twice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use kiln_cache::KeyBuilder;
use kiln_engine::build::{Description, Destination, Format, Request, image_settings};
use kiln_engine::system::container::ImageConfig;
use serde_json::{Value, json};

use super::super::{build, request};
use super::vmm;
use crate::args::{Common, Run, Vmm};
use crate::failure::Failure;
use crate::machine::Networking;
use crate::signals::Interruption;
use crate::ui::printer::Printer;
use crate::ui::progress::Progress;

/// The service's name.
pub(super) const SERVICE: &str = "main";
/// Outputs that nobody has booted for so long are removed.
const KEPT: Duration = Duration::from_secs(14 * 86_400);

/// What Docker grants (moby `oci/caps/defaults.go`).
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What the service needs of Debian's kernel, and any virtual machine.
const MODULES: [&str; 3] = ["virtio_net", "virtio_rng", "overlay"];

/// What shared directories need besides.
const SHARES: &str = "virtiofs";

fn modules(arguments: &Run) -> Vec<&'static str> {
    let shares = (!arguments.volume.is_empty()).then_some(SHARES);
    let of_monitor = vmm::modules(arguments.vmm).into_iter();
    of_monitor.chain(MODULES).chain(shares).collect()
}

/// Returns the kernel's command line. QEMU's user network is always the same one
/// (docs/system/devices/net): to ask by DHCP takes longer.
fn cmdline(networking: &Networking, architecture: &str, vmm: Vmm) -> String {
    let network = match networking {
        Networking::User => "kiln.net=wait ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off:10.0.2.3",
        Networking::Tap(_) | Networking::Bridge(_) => "kiln.net=wait",
        Networking::None => "kiln.net=off",
    };
    let console = match (architecture, vmm) {
        // An ns16550a (`src/vmm/src/arch/aarch64/fdt.rs`); the others have a PL011.
        ("arm64", Vmm::Firecracker) => "ttyS0",
        ("arm64", _) => "ttyAMA0",
        _ => "ttyS0",
    };
    format!("console={console} quiet panic=-1 {network}")
}

/// Builds the machine of an image; returns the prefix of its outputs, and what was built.
pub(super) fn build_prefix(
    arguments: &Run,
    image: &str,
    architecture: &str,
    interruption: &Interruption,
    printer: Printer,
) -> Result<(PathBuf, Request), Failure> {
    let common = Common {
        name: Some(SERVICE.to_owned()),
        dir: None,
        cache_from: arguments.common.cache_from.clone(),
        sources: arguments.common.sources.clone(),
    };
    let mut asked = request::request(&[], vec![Format::KernelInitrd], &common)?;
    asked.docker = request::docker(arguments.docker)?;
    let look =
        |progress: &Progress, cancel: &AtomicBool| image_settings(&asked, image, progress, cancel);
    let settings = build::with_progress_until(interruption, &asked.cache, printer, look)?;
    let yaml = description(arguments, image, &settings, architecture)?;
    let key = KeyBuilder::new("run", 1)
        .field("description", &yaml)
        .field("architecture", architecture)
        .field("vmm", vmm::modules(arguments.vmm)[0])
        .finish();
    let all = std::path::absolute(&asked.cache)
        .map_err(|error| Failure::failed("cannot find the cache", Some(&error), None))?
        .join("run");
    let directory = all.join(&key.to_string()[..16]);
    make(&all, &directory)?;
    asked.descriptions = vec![text(image, &yaml)?];
    vmm::shape(&mut asked, arguments);
    asked.destination = Destination::Directory {
        directory: directory.clone(),
        name: SERVICE.to_owned(),
    };
    build::build(&asked, interruption, printer)?;
    Ok((directory.join(SERVICE), asked))
}

fn text(name: &str, yaml: &str) -> Result<Description, Failure> {
    Description::read(name, yaml.as_bytes())
        .map_err(|error| Failure::failed("the description", Some(&error), None))
}

/// Makes the directory of the outputs, and removes those that were not booted for long.
fn make(all: &Path, directory: &Path) -> Result<(), Failure> {
    let made = fs::create_dir_all(directory)
        .and_then(|()| File::open(directory)?.set_modified(SystemTime::now()));
    made.map_err(|error| {
        let message = format!("cannot make {}", directory.display());
        Failure::failed(message, Some(&error), None)
    })?;
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Writes the description. JSON is YAML.
fn description(
    arguments: &Run,
    image: &str,
    settings: &ImageConfig,
    architecture: &str,
) -> Result<String, Failure> {
    let system = json!({
        "kernel": {
            "debian": {"packages": [kernel_package(architecture)]},
            "modules": modules(arguments),
            "cmdline": cmdline(&arguments.networking, architecture, arguments.vmm),
        },
        "init": ["kiln"],
        "services": [service(arguments, image, settings)?],
        "files": [
            {"path": "etc/hostname", "contents": arguments.hostname.clone().unwrap_or_else(|| hostname(image))},
            {"path": "etc/hosts", "contents": "127.0.0.1 localhost\n::1 localhost\n", "mode": "0644"},
        ],
    });
    Ok(format!("{system:#}\n"))
}

fn service(arguments: &Run, image: &str, settings: &ImageConfig) -> Result<Value, Failure> {
    let entrypoint = match &arguments.entrypoint {
        Some(program) => vec![program.clone()],
        None => settings.entrypoint.clone(),
    };
    let rest = match (arguments.words.is_empty(), &arguments.entrypoint) {
        (false, _) => arguments.words.clone(),
        (true, Some(_)) => Vec::new(),
        (true, None) => settings.cmd.clone(),
    };
    let command = [entrypoint, rest].concat();
    if command.is_empty() {
        return Err(Failure::usage(
            format!("{image} does not say what to run"),
            "say it: kiln run IMAGE -- PROGRAM ARGS",
        ));
    }
    let env = environment(arguments, settings)?;
    let mut annotations = match arguments.detach {
        true => json!({"kiln.main": "on"}),
        false => json!({"kiln.main": "attach", "kiln.console": "off"}),
    };
    if arguments.tty && !arguments.detach {
        annotations["kiln.terminal"] = json!("on");
    }
    let user = arguments.user.as_ref().unwrap_or(&settings.user);
    if !user.is_empty() {
        annotations["kiln.user"] = json!(user);
    }
    if !settings.stop_signal.is_empty() {
        annotations["kiln.stop-signal"] = json!(settings.stop_signal);
    }
    let directory = arguments.workdir.as_ref().unwrap_or(&settings.working_dir);
    let directory = Some(directory).filter(|directory| !directory.is_empty());
    let mut mounts = Vec::new();
    for (index, volume) in arguments.volume.iter().enumerate() {
        let options: &[&str] = if volume.readonly { &["ro"] } else { &["rw"] };
        mounts.push(json!({
            "type": "virtiofs",
            "source": format!("virtiofs{index}"),
            "destination": volume.path,
            "options": options,
        }));
    }
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    mounts
        .push(json!({"type": "tmpfs", "source": "shm", "destination": "/dev/shm", "options": shm}));
    Ok(json!({
        "name": SERVICE,
        "image": image,
        "command": command,
        "env": env,
        "cwd": directory.map_or("/", String::as_str),
        "capabilities": CAPABILITIES,
        "binds": ["/run/resolvconf/resolv.conf:/etc/resolv.conf", "/etc/hosts:/etc/hosts"],
        "mounts": mounts,
        "annotations": annotations,
    }))
}

/// Returns the image's variables with those of the command line, of which the last one counts.
fn environment(arguments: &Run, settings: &ImageConfig) -> Result<Vec<String>, Failure> {
    let mut env = settings.env.clone();
    let has_path = env.iter().any(|variable| variable.starts_with("PATH="));
    if !has_path {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    let mut given = Vec::new();
    for file in &arguments.env_file {
        let text = fs::read_to_string(file).map_err(|error| {
            let message = format!("cannot read the variables in {}", file.display());
            Failure::failed(message, Some(&error), None)
        })?;
        // As Docker: no quotes, no continuation; a value keeps the blanks at its end.
        let lines = text.lines().map(str::trim_start);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        given.extend(lines.map(str::to_owned));
    }
    for variable in given.iter().chain(&arguments.env) {
        let name = variable.split('=').next().unwrap_or_default();
        let value = match variable.contains('=') {
            true => variable.clone(),
            // As Docker: the name alone hands on ours.
            false => match std::env::var(name) {
                Ok(value) => format!("{name}={value}"),
                Err(_) => continue,
            },
        };
        env.retain(|other| other.split('=').next() != Some(name));
        env.push(value);
    }
    Ok(env)
}

/// Debian's smallest kernel for virtual machines.
fn kernel_package(architecture: &str) -> String {
    match architecture {
        "riscv64" => "linux-image-riscv64".to_owned(),
        other => format!("linux-image-cloud-{other}"),
    }
}

/// Returns a host name from an image's: `registry.example/a/web:1` is `web`.
pub(super) fn hostname(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    let name = last.split(['@', ':']).next().unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = name.chars().filter(plain).take(63).collect();
    match name.trim_matches('-') {
        "" => SERVICE.to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_those_of_the_machine() {
        for (architecture, vmm, console) in [
            ("amd64", Vmm::Qemu, "console=ttyS0 "),
            ("arm64", Vmm::Qemu, "console=ttyAMA0 "),
            ("arm64", Vmm::CloudHypervisor, "console=ttyAMA0 "),
            ("arm64", Vmm::Firecracker, "console=ttyS0 "),
        ] {
            let words = cmdline(&Networking::None, architecture, vmm);
            assert!(words.starts_with(console), "{words}");
        }
    }

    #[test]
    fn host_names_of_images() {
        assert_eq!(hostname("registry.example:5000/a/web:1.2"), "web");
        assert_eq!(hostname("nginx@sha256:00"), "nginx");
        assert_eq!(hostname("oci:./layout"), "layout");
        assert_eq!(hostname("a_b"), "ab");
        assert_eq!(hostname("--"), "main");
    }
}
