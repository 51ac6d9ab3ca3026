//! A QEMU command line for a kernel in memory or a medium: a machine with a serial console, user
//! networking, a source of randomness and lines for talking to the guest.
//!
//! Enters: files, wishes, and where its sockets go. Leaves: arguments; [`crate::vm`] executes them.

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::firmware::Firmware;
use crate::vm::disk::Disk;
use crate::vm::place::{PORTS, Place};

/// What to boot, and on what.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// In Go's spelling.
    pub(crate) architecture: String,
    /// Where it begins.
    pub(crate) boot: Boot,
    /// Firmware in place of QEMU's own.
    pub(crate) firmware: Firmware,
    /// In MiB.
    pub(crate) memory: u32,
    /// Processors.
    pub(crate) cpus: u16,
    /// Whether KVM runs the processors.
    pub(crate) kvm: bool,
    /// What its network card leads to.
    pub(crate) networking: Networking,
    /// Forwarded ports.
    pub(crate) publish: Vec<Publish>,
    /// Its disks, behind one that it begins with: `/dev/sda` and so on.
    pub(crate) disks: Vec<Disk>,
    /// A disc that it can read, behind one that it begins with: `/dev/sr0`.
    pub(crate) disc: Option<PathBuf>,
    /// How many directories it shares with this machine, tagged `virtiofs0` and so on.
    pub(crate) shares: usize,
}

/// Where a machine begins.
#[derive(Debug, Clone)]
pub(crate) enum Boot {
    /// A kernel that is in memory when it begins.
    Kernel {
        /// The kernel image.
        kernel: PathBuf,
        /// The initial RAM disk, when there is one.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
        /// The root file system, when that is not in memory: `/dev/vda`, which is only read.
        root: Option<PathBuf>,
    },
    /// The first disk.
    Disk(Disk),
    /// A disc, as a CD-ROM.
    Disc(PathBuf),
    /// A directory that it sees as an EFI system partition.
    SystemPartition(PathBuf),
}

/// What a network card leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Networking {
    /// A network of QEMU's own, from which the outside can be reached.
    #[default]
    User,
    /// An interface of this machine, which is there.
    Tap(String),
    /// A bridge of this machine, by QEMU's own helper; for Hyper-V a switch, whose name may be anything.
    Bridge(String),
    /// There is no card.
    None,
}

impl FromStr for Networking {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_bridge =
            |name: &str| !name.is_empty() && !name.contains(|c: char| c == ',' || c.is_control());
        match text.split_once(',') {
            None if text == "user" => Ok(Self::User),
            None if text == "none" => Ok(Self::None),
            Some(("tap", name)) if is_interface(name) => Ok(Self::Tap(name.to_owned())),
            Some(("tap", name)) => Err(format!("\"{name}\" is not the name of an interface")),
            Some(("bridge", name)) if is_bridge(name) => Ok(Self::Bridge(name.to_owned())),
            _ => Err("expected user, none, tap,INTERFACE or bridge,BRIDGE".to_owned()),
        }
    }
}

/// Returns whether an interface can have this name (`dev_valid_name` of Linux, without what QEMU's
/// options could not hold).
pub(crate) fn is_interface(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=15).contains(&name.len()) && name.bytes().all(plain)
}

/// What QEMU calls an architecture, and the machine kiln boots there.
#[derive(Debug)]
pub(crate) struct Model {
    /// The program.
    pub(crate) program: &'static str,
    /// Debian's package of the program.
    pub(crate) package: &'static str,
    machine: &'static str,
    emulated: &'static str,
}

/// Returns the model of an architecture in Go's spelling.
pub(crate) fn model(architecture: &str) -> Option<Model> {
    // QEMU's default x86 processor lacks what x86-64-v2 programs need; five levels of page tables
    // only make emulation slower.
    let x86 = "max,la57=off";
    let (program, package, machine, emulated) = match architecture {
        "amd64" => ("qemu-system-x86_64", "qemu-system-x86", "q35", x86),
        "arm64" => ("qemu-system-aarch64", "qemu-system-arm", "virt", "max"),
        "riscv64" => ("qemu-system-riscv64", "qemu-system-misc", "virt", "rv64"),
        _ => return None,
    };
    Some(Model {
        program,
        package,
        machine,
        emulated,
    })
}

impl Machine {
    /// Returns QEMU's arguments; `machine` comes from [`model`]. A machine that `waits` begins when
    /// somebody has connected to its console.
    pub(crate) fn arguments(&self, model: &Model, place: &Place, waits: bool) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |flag: &str, value: OsString| {
            arguments.push(flag.into());
            arguments.push(value);
        };
        add(
            "-machine",
            format!("{}{}", model.machine, self.screen()).into(),
        );
        if self.kvm {
            add("-accel", "kvm".into());
            add("-cpu", "host".into());
        } else {
            add("-accel", "tcg".into());
            add("-cpu", model.emulated.into());
        }
        add("-smp", self.cpus.to_string().into());
        add("-m", format!("{}M", self.memory).into());
        self.add_beginning(&mut add);
        let network = match &self.networking {
            Networking::User => Some("user,id=net0".to_owned()),
            Networking::Tap(name) => {
                Some(format!("tap,id=net0,ifname={name},script=no,downscript=no"))
            }
            Networking::Bridge(name) => Some(format!("bridge,id=net0,br={name}")),
            Networking::None => None,
        };
        if let Some(mut network) = network {
            for publish in &self.publish {
                network.push_str(&format!(",hostfwd={publish}"));
            }
            add("-netdev", network.into());
            // No option ROM: nothing is booted from the network.
            add("-device", "virtio-net-pci,netdev=net0,romfile=".into());
        }
        self.add_drives(&mut add);
        if self.shares > 0 {
            // Its server sees the machine's memory.
            let memory = self.memory;
            let memory = format!("memory-backend-memfd,id=mem,size={memory}M,share=on");
            add("-object", memory.into());
            add("-numa", "node,memdev=mem".into());
        }
        for index in 0..self.shares {
            let path = escaped(&place.share(index));
            let chardev = format!("socket,id=share{index},path={path}");
            add("-chardev", chardev.into());
            let device = format!("vhost-user-fs-pci,chardev=share{index},tag=virtiofs{index}");
            add("-device", device.into());
        }
        add("-device", "virtio-rng-pci".into());
        let socket = |id: &str, path: &Path, rest: &str| -> OsString {
            let path = escaped(path);
            format!("socket,id={id},path={path},server=on,{rest}").into()
        };
        // Whoever is the console sees it all.
        let console = match waits {
            true => "wait=on".to_owned(),
            false => format!("wait=off,logfile={}", escaped(&place.console_log())),
        };
        add("-chardev", socket("console", &place.console(), &console));
        add("-serial", "chardev:console".into());
        add("-chardev", socket("qmp", &place.qmp(), "wait=off"));
        add("-mon", "chardev=qmp,mode=control".into());
        // Port 0 is a console's.
        let ports = format!("virtio-serial-pci,max_ports={}", PORTS + 1);
        add("-device", ports.into());
        for number in 0..PORTS {
            let id = format!("control{number}");
            add("-chardev", socket(&id, &place.port(number), "wait=off"));
            let port = format!("virtserialport,chardev={id},name=kiln.control.{number}");
            add("-device", port.into());
        }
        add("-name", place.name().into());
        arguments.extend(["-nodefaults", "-no-user-config"].map(Into::into));
        // As -nographic, less the firmware's own use of the console, which clears the screen.
        arguments.extend(["-display", "none", "-no-reboot"].map(Into::into));
        arguments
    }
}

/// Returns a path as a value in one of QEMU's options, where a comma ends it.
pub(crate) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A forwarded port; displays as QEMU's `hostfwd` rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish {
    /// The address of this machine to listen on. Not all of them unless asked: what is being tried
    /// out is nobody else's business.
    pub(crate) address: Ipv4Addr,
    /// The port of this machine.
    pub(crate) host: u16,
    /// The port of the guest.
    pub(crate) guest: u16,
    /// UDP rather than TCP.
    pub(crate) udp: bool,
}

impl Publish {
    /// Returns it as people read it.
    pub(crate) fn for_people(&self) -> String {
        let protocol = self.protocol();
        format!(
            "{}:{} -> {}/{protocol}",
            self.address, self.host, self.guest
        )
    }

    /// Returns `tcp` or `udp`.
    pub(crate) const fn protocol(self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ports, udp) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), false),
            Some((ports, "udp")) => (ports, true),
            Some((_, other)) => return Err(format!("\"{other}\" is neither tcp nor udp")),
        };
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("\"{text}\" is not a port (1 to 65535)")),
            Ok(port) => Ok(port),
        };
        let mut parts = ports.rsplitn(3, ':');
        let (Some(guest), Some(host)) = (parts.next(), parts.next()) else {
            return Err("expected HOST:GUEST, such as 8080:80".to_owned());
        };
        let address = match parts.next() {
            None => Ipv4Addr::LOCALHOST,
            Some(address) => address
                .parse()
                .map_err(|_| format!("\"{address}\" is not an IPv4 address"))?,
        };
        Ok(Self {
            address,
            host: port(host)?,
            guest: port(guest)?,
            udp,
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol();
        write!(
            f,
            "{protocol}:{}:{}-:{}",
            self.address, self.host, self.guest
        )
    }
}

#[cfg(test)]
impl Machine {
    /// A machine of the plainest kind, for tests to make theirs of.
    pub(crate) fn plain() -> Self {
        Self {
            architecture: "amd64".into(),
            boot: Boot::Kernel {
                kernel: "box-kernel".into(),
                initrd: Some("box-initrd.img".into()),
                cmdline: "console=ttyS0".into(),
                root: None,
            },
            firmware: Firmware::default(),
            memory: 512,
            cpus: 2,
            kvm: true,
            networking: Networking::None,
            publish: Vec::new(),
            disks: Vec::new(),
            disc: None,
            shares: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        for (text, rule) in [
            ("8080:80", "tcp:127.0.0.1:8080-:80"),
            ("8080:80/tcp", "tcp:127.0.0.1:8080-:80"),
            ("53:5353/udp", "udp:127.0.0.1:53-:5353"),
            ("0.0.0.0:22:2222", "tcp:0.0.0.0:22-:2222"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), rule);
        }
        for wrong in [
            "",
            "80",
            "0:80",
            "80:0",
            "a:b",
            "1:70000",
            "x:1:2",
            "1:2/sctp",
            "1:2,net=0",
        ] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_are_read() {
        let of = |text: &str| text.parse::<Networking>();
        assert_eq!(of("user"), Ok(Networking::User));
        assert_eq!(of("tap,tap0"), Ok(Networking::Tap("tap0".into())));
        assert_eq!(of("bridge,br-lan"), Ok(Networking::Bridge("br-lan".into())));
        let switch = Networking::Bridge("External Switch".into());
        assert_eq!(of("bridge,External Switch"), Ok(switch));
        assert_eq!(of("none"), Ok(Networking::None));
        for wrong in [
            "",
            "tap",
            "tap,",
            "bridge",
            "bridge,",
            "bridge,a,b",
            "bridge,a\nb",
            "vmnet",
            "tap,a,b",
            "tap,0123456789abcdef",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_is_a_command_line() {
        let machine = Machine {
            boot: Boot::Kernel {
                kernel: "a,b-kernel".into(),
                initrd: Some("a,b-initrd.img".into()),
                cmdline: "console=ttyS0 a,b".into(),
                root: None,
            },
            kvm: false,
            networking: Networking::User,
            publish: vec!["8080:80".parse().unwrap(), "53:53/udp".parse().unwrap()],
            ..Machine::plain()
        };
        let place = Place::at(Path::new("/run/a,b"), "a");
        let arguments = machine.arguments(&model("amd64").unwrap(), &place, true);
        let arguments: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        let text = arguments.join(" ");
        let (text, rest) = text.split_once(" -chardev socket,id=control1,").unwrap();
        insta::assert_snapshot!(text, @"-machine q35 -accel tcg -cpu max,la57=off -smp 2 -m 512M -kernel a,b-kernel -initrd a,b-initrd.img -append console=ttyS0 a,b -netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:127.0.0.1:53-:53 -device virtio-net-pci,netdev=net0,romfile= -device virtio-rng-pci -chardev socket,id=console,path=/run/a,,b/console.sock,server=on,wait=on -serial chardev:console -chardev socket,id=qmp,path=/run/a,,b/qmp.sock,server=on,wait=off -mon chardev=qmp,mode=control -device virtio-serial-pci,max_ports=9 -chardev socket,id=control0,path=/run/a,,b/control.0,server=on,wait=off -device virtserialport,chardev=control0,name=kiln.control.0");
        let end = "-name a -nodefaults -no-user-config -display none -no-reboot";
        assert!(rest.ends_with(end), "{rest}");
        let kvm = Machine {
            disks: vec![Disk {
                file: "a,b.img".into(),
                format: "raw".into(),
            }],
            disc: Some("d.iso".into()),
            shares: 1,
            ..Machine::plain()
        };
        let arguments = kvm.arguments(&model("arm64").unwrap(), &place, false);
        assert!(arguments.contains(&"host".into()));
        let arguments: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        let text = arguments.join(" ");
        assert!(!text.contains("net0"), "{text}");
        for part in [
            "console.sock,server=on,wait=off,logfile=/run/a,,b/console.log ",
            "-device virtio-scsi-pci -drive file=a,,b.img,if=none,id=disk0,format=raw -device scsi-hd,drive=disk0",
            "-object memory-backend-memfd,id=mem,size=512M,share=on -numa node,memdev=mem -chardev socket,id=share0,path=/run/a,,b/share.0 -device vhost-user-fs-pci,chardev=share0,tag=virtiofs0",
            "-drive file=d.iso,if=none,id=disc0,format=raw,media=cdrom,readonly=on -device scsi-cd,drive=disc0 ",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(model("s390x").is_none());
    }
}
