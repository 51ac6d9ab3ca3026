//! The job from outside: every provider, what it leaves in `/run/config`, and the order.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;

use super::super::arguments::strings;
use super::super::superblock::tests::{image, iso, tool};
use super::fake::{Server, answer};
use super::*;

thread_local! {
    static HOSTNAME: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A machine: places in a directory, devices as image files. `NAME.d` beside an image is what a
/// mount of it shows.
struct Machine {
    root: tempfile::TempDir,
    places: Places,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            config: root.path().join("config"),
            sys: root.path().join("sys"),
            dev: root.path().join("dev"),
            mount_point: root.path().join("mnt"),
            mount: |device, at, kind| {
                assert!(matches!(kind, "iso9660" | "vfat"));
                let shown = format!("{}.d", device.display());
                fs::remove_dir(at).unwrap();
                tool("cp", "coreutils", &["-a", &shown, at.to_str().unwrap()]);
                Ok(())
            },
            unmount: |at| {
                fs::remove_dir_all(at).unwrap();
                fs::create_dir(at).unwrap();
                Ok(())
            },
            set_hostname: |name| {
                HOSTNAME.with(|h| *h.borrow_mut() = name.to_owned());
                Ok(())
            },
        };
        for directory in ["sys/class/block", "dev"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        Self { root, places }
    }

    /// Adds a device that is an image with files on it.
    fn device(&self, name: &str, image: &Path, files: &[(&str, &str)]) {
        fs::create_dir(self.places.sys.join("class/block").join(name)).unwrap();
        let device = self.places.dev.join(name);
        fs::rename(image, &device).unwrap();
        for (path, text) in files {
            let path = self.places.dev.join(format!("{name}.d")).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn iso(&self, name: &str, label: &str, files: &[(&str, &str)]) {
        self.device(name, &iso(self.root.path(), label), files);
    }

    fn run(&self, server: Option<&Server>, words: &[&str]) -> Result<()> {
        let mut client = Client::new(&self.places.sys);
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // The port of a listener that is gone by the time it is asked.
        client.server = Some(server.map_or_else(|| closed.local_addr().unwrap(), |s| s.address));
        drop(closed);
        client.low_ports = 40_000..=60_000;
        find_and_write(&strings(words), &self.places, &client)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.places.config.join(name)).unwrap_or_else(|e| format!("({e})"))
    }

    /// Everything in `/run/config`, sorted.
    fn files(&self) -> String {
        let list = tool(
            "find",
            "findutils",
            &[
                self.places.config.to_str().unwrap(),
                "-type",
                "f",
                "-printf",
                "%P\n",
            ],
        );
        let mut names: Vec<&str> = list.lines().collect();
        names.sort_unstable();
        names.join(" ")
    }
}

/// Paths of EC2's kind, which four providers offer.
const EC2: &[(&str, &str)] = &[
    ("/latest/meta-data/hostname", "host-1\n"),
    ("/latest/meta-data/public-ipv4", "1.2.3.4"),
    ("/latest/meta-data/local-ipv4", "10.0.0.1"),
    ("/latest/meta-data/placement/availability-zone", "eu-1a"),
    ("/latest/meta-data/instance-type", "t9"),
    ("/latest/meta-data/instance-id", "i-1"),
    ("/latest/meta-data/local-hostname", "l1"),
    ("/latest/meta-data/public-keys/0/openssh-key", "ssh-rsa AAA"),
    ("/latest/user-data", r#"{"a": {"content": "A"}}"#),
];

#[test]
fn aws_with_a_token() {
    let server = Server::start(|request| {
        let token = request
            .headers
            .get("x-aws-ec2-metadata-token")
            .map(String::as_str);
        match (&*request.method, &*request.path, token) {
            ("PUT", "/latest/api/token", None) => {
                assert_eq!(
                    request.headers["x-aws-ec2-metadata-token-ttl-seconds"],
                    "300"
                );
                answer("t0ken")
            }
            ("GET", path, Some("t0ken")) => match EC2.iter().find(|(p, _)| *p == path) {
                Some((_, body)) => answer(body),
                None => "HTTP/1.1 404 x\r\n\r\n".to_owned(),
            },
            _ => "HTTP/1.1 401 Unauthorized\r\n\r\n".to_owned(),
        }
    });
    let machine = Machine::new();
    machine.run(Some(&server), &[]).unwrap();
    assert_eq!(
        machine.files(),
        "a availability_zone hostname instance_id instance_type local_hostname local_ipv4 \
         provider public_ipv4 ssh/authorized_keys userdata"
    );
    assert_eq!(machine.text("provider"), "AWS");
    assert_eq!(machine.text("hostname"), "host-1\n");
    assert_eq!(machine.text("availability_zone"), "eu-1a");
    assert_eq!(machine.text("a"), "A");
    let keys = machine.places.config.join("ssh/authorized_keys");
    assert_eq!(
        fs::metadata(keys).unwrap().permissions().mode() & 0o777,
        0o600
    );
    HOSTNAME.with(|h| assert_eq!(*h.borrow(), "host-1"));
    assert_eq!(server.requests()[1].headers["host"], "169.254.169.254");
}

#[test]
fn aws_and_openstack_without() {
    let server = Server::of(EC2);
    for (name, title) in [("aws", "AWS"), ("openstack", "openstack")] {
        let machine = Machine::new();
        machine.run(Some(&server), &[name]).unwrap();
        assert_eq!(machine.text("provider"), title);
        assert_eq!(machine.text("instance_id"), "i-1");
        assert_eq!(machine.text("ssh/authorized_keys"), "ssh-rsa AAA");
    }
}

#[test]
fn hetzner_has_keys_in_json() {
    let server = Server::of(&[
        ("/latest/meta-data/hostname", "h"),
        ("/latest/meta-data/public-ipv4", "1.2.3.4"),
        ("/latest/meta-data/instance-id", "7"),
        (
            "/latest/meta-data/public-keys",
            r#"["ssh-rsa A", "ssh-rsa B"]"#,
        ),
        ("/latest/user-data", "#cloud-config"),
    ]);
    let machine = Machine::new();
    machine.run(Some(&server), &["hetzner"]).unwrap();
    assert_eq!(
        machine.files(),
        "hostname instance_id provider public_ipv4 ssh/authorized_keys userdata"
    );
    assert_eq!(
        machine.text("ssh/authorized_keys"),
        "ssh-rsa A\nssh-rsa B\n"
    );
    assert_eq!(machine.text("userdata"), "#cloud-config");
}

#[test]
fn gcp_needs_its_header_and_has_users_before_keys() {
    let server = Server::start(|request| {
        let v1 = request.path.strip_prefix("/computeMetadata/v1/");
        let flavor = request.headers.get("metadata-flavor").map(String::as_str);
        match (v1, flavor) {
            (Some("instance/hostname"), Some("Google")) => answer("vm.c.project.internal"),
            (Some("project/attributes/ssh-keys"), Some("Google")) => {
                answer("me:ssh-rsa A me@x\nyou:ssh-rsa B\nbroken\n")
            }
            (Some("instance/attributes/user-data"), Some("Google")) => answer("u"),
            _ => "HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(),
        }
    });
    let machine = Machine::new();
    machine.run(Some(&server), &["gcp"]).unwrap();
    assert_eq!(
        machine.text("ssh/authorized_keys"),
        "ssh-rsa A me@x\nssh-rsa B\n"
    );
    assert_eq!(machine.text("userdata"), "u");
    assert_eq!(
        server.requests()[0].headers["host"],
        "metadata.google.internal"
    );
}

#[test]
fn digitalocean_vultr_and_metaldata() {
    let server = Server::of(&[
        ("/metadata/v1/", "list"),
        ("/metadata/v1/hostname", "do"),
        ("/metadata/v1/interfaces/public/0/ipv4/address", "1.1.1.1"),
        ("/metadata/v1/interfaces/private/0/ipv4/address", "10.1.1.1"),
        ("/metadata/v1/region", "ams"),
        ("/metadata/v1/id", "42"),
        ("/metadata/v1/public-keys", "k\n"),
        ("/metadata/v1/user-data", "do-user"),
    ]);
    let machine = Machine::new();
    machine.run(Some(&server), &["digitalocean"]).unwrap();
    assert_eq!(
        machine.files(),
        "hostname id private_ipv4 provider public_ipv4 region ssh/authorized_keys userdata"
    );
    assert_eq!(machine.text("provider"), "DigitalOcean");

    let server = Server::of(&[
        ("/v1/", "list"),
        ("/v1/hostname", "v"),
        ("/v1/interfaces/0/ipv4/address", "1.1.1.1"),
        ("/v1/interfaces/1/ipv4/netmask", "255.0.0.0"),
        ("/v1/region/regioncode", "FRA"),
        ("/v1/instanceid", "9"),
        ("/v1/public-keys", "k"),
        ("/latest/user-data", "not for Vultr"),
    ]);
    let machine = Machine::new();
    machine.run(Some(&server), &["vultr"]).unwrap();
    assert_eq!(
        machine.files(),
        "hostname instance_id private_netmask provider public_ipv4 region_code ssh/authorized_keys"
    );

    let server = Server::of(&[
        ("/get/meta/hostname", "m"),
        ("/get/meta/machine-type", "big"),
        ("/get/meta/failure-domain", "f"),
        ("/get/meta/authorized-keys", "k"),
        ("/get/user", "m-user"),
    ]);
    let machine = Machine::new();
    machine.run(Some(&server), &["metaldata"]).unwrap();
    assert_eq!(
        machine.files(),
        "failure_domain hostname machine_type provider ssh/authorized_keys userdata"
    );
}

#[test]
fn scaleway_speaks_to_roots_ports() {
    let server = Server::start(|request| match &*request.path {
        "/conf" => answer(
            "ID=s-1\nHOSTNAME=sc\nLOCATION_ZONE_ID=par1\nPRIVATE_IP=10.9.9.9\n\
             SSH_PUBLIC_KEYS=2\nSSH_PUBLIC_KEYS_0_KEY='ssh-rsa A'\nSSH_PUBLIC_KEYS_1_KEY='ssh-rsa B'\n",
        ),
        "/user_data/cloud-init" if (40_000..=60_000).contains(&request.from.port()) => {
            answer("sc-user")
        }
        _ => "HTTP/1.1 404 x\r\n\r\n".to_owned(),
    });
    let machine = Machine::new();
    machine.run(Some(&server), &["scaleway"]).unwrap();
    assert_eq!(
        machine.files(),
        "hostname instance_id instance_location private_ip provider ssh/authorized_keys userdata"
    );
    assert_eq!(machine.text("instance_location"), "par1");
    assert_eq!(
        machine.text("ssh/authorized_keys"),
        "ssh-rsa A\nssh-rsa B\n"
    );
    assert_eq!(machine.text("userdata"), "sc-user");
}

#[test]
fn equinix_metal_ignores_a_boot_script() {
    let server = Server::of(&[
        (
            "/metadata",
            r#"{"hostname": "eq", "ssh_keys": ["a", "b"], "network": {}}"#,
        ),
        ("/userdata", "#!ipxe\nboot"),
    ]);
    let machine = Machine::new();
    machine.run(Some(&server), &["equinixmetal"]).unwrap();
    assert_eq!(machine.files(), "hostname provider ssh/authorized_keys");
    assert_eq!(machine.text("ssh/authorized_keys"), "a\nb\n");

    let server = Server::of(&[("/metadata", r#"{"error": "not found"}"#)]);
    let machine = Machine::new();
    machine.run(Some(&server), &["equinixmetal"]).unwrap();
    assert!(!machine.places.config.exists());
}

#[test]
fn azure() {
    let server = Server::start(|request| {
        let asked = request.path == "/metadata/instance?api-version=2021-02-01";
        if !asked || request.headers.get("metadata").map(String::as_str) != Some("true") {
            return "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned();
        }
        answer(
            r#"{"compute": {"name": "vm", "osProfile": {"computerName": "az-1"}, "zone": "",
                "vmSize": "B1", "vmId": "u-1", "customData": "", "userData": "eyJhIjogeyJjb250ZW50IjogIkEifX0=",
                "publicKeys": [{"keyData": "ssh-rsa A\r\n", "path": "x"}, {"keyData": "ssh-rsa B"}]},
                "network": {"interface": [{"ipv4": {"ipAddress": [
                  {"privateIpAddress": "10.0.0.4", "publicIpAddress": "5.6.7.8"}]}}]}}"#,
        )
    });
    let machine = Machine::new();
    machine.run(Some(&server), &[]).unwrap();
    assert_eq!(
        machine.files(),
        "a hostname instance_id instance_type local_ipv4 provider public_ipv4 \
         ssh/authorized_keys userdata"
    );
    assert_eq!(machine.text("provider"), "Azure");
    assert_eq!(machine.text("hostname"), "az-1");
    assert_eq!(machine.text("a"), "A");
    assert_eq!(
        machine.text("ssh/authorized_keys"),
        "ssh-rsa A\nssh-rsa B\n"
    );
}

#[test]
fn cdrom_by_label_then_by_name() {
    let machine = Machine::new();
    machine.iso(
        "sr0",
        "OTHER",
        &[("config", r#"{"x": {"content": "sr0"}}"#)],
    );
    machine.iso("sr1", "EMPTY", &[("readme", "")]);
    machine.run(None, &[]).unwrap();
    assert_eq!(machine.files(), "provider userdata x");
    assert_eq!(
        machine.text("provider"),
        format!("CDROM {}/sr0", machine.places.dev.display())
    );
    assert!(!machine.places.mount_point.exists());

    let fat = image(machine.root.path(), 8);
    tool(
        "mkfs.vfat",
        "dosfstools",
        &["-n", "CIDATA", fat.to_str().unwrap()],
    );
    let meta = "instance-id: i\nlocal-hostname: seed\npublic-keys:\n  - ssh-rsa A\n";
    machine.device(
        "vdb",
        &fat,
        &[
            ("user-data", "#cloud"),
            ("config", "no"),
            ("meta-data", meta),
        ],
    );
    machine.run(None, &[]).unwrap();
    assert_eq!(machine.text("userdata"), "#cloud");
    assert_eq!(machine.text("hostname"), "seed");
    assert_eq!(machine.text("ssh/authorized_keys"), "ssh-rsa A\n");
    assert_eq!(
        machine.text("provider"),
        format!("CDROM {}/vdb", machine.places.dev.display())
    );
}

#[test]
fn nocloud_and_config_drive_by_label_alone() {
    let machine = Machine::new();
    machine.iso("sr0", "OTHER", &[("user-data", "no")]);
    machine.run(None, &["nocloud"]).unwrap();
    assert!(!machine.places.config.exists());
    machine.iso("loop3", "cidata", &[("user-data", "no")]);
    machine.iso("sda1", "cidata", &[("meta-data", "local-hostname: n\n")]);
    machine.run(None, &["nocloud"]).unwrap();
    assert_eq!(
        machine.files(),
        "hostname instance_id provider".replace("instance_id ", "")
    );

    let machine = Machine::new();
    machine.iso("vdc", "config-2", &[
        ("openstack/latest/meta_data.json",
         r#"{"hostname": "os", "uuid": "u", "availability_zone": "z", "public_keys": {"k": "ssh-rsa A\n"}}"#),
        ("openstack/latest/user_data", "ud"),
    ]);
    machine.run(None, &["configdrive"]).unwrap();
    assert_eq!(
        machine.files(),
        "availability_zone hostname instance_id provider ssh/authorized_keys userdata"
    );
    assert_eq!(machine.text("ssh/authorized_keys"), "ssh-rsa A\n");
}

#[test]
fn a_disk_cannot_point_at_the_machines_own_files() {
    let machine = Machine::new();
    machine.iso("sr0", "cidata", &[("meta-data", "local-hostname: n\n")]);
    let link = machine.places.dev.join("sr0.d/user-data");
    std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
    machine.run(None, &["cdrom"]).unwrap();
    assert!(!machine.places.config.exists());
}

#[test]
fn the_network_comes_first_and_files_last() {
    let machine = Machine::new();
    let file = machine.root.path().join("seed");
    fs::write(&file, "from a file").unwrap();
    let argument = format!("file={}", file.display());
    let server = Server::of(&[
        ("/get/meta/hostname", "m"),
        ("/get/user", "from the network"),
    ]);
    machine.iso("sr0", "x", &[("user-data", "from a disk")]);
    let words = [&*argument, "cdrom", "metaldata"];
    machine.run(Some(&server), &words).unwrap();
    assert_eq!(machine.text("userdata"), "from the network");
    machine.run(None, &words).unwrap();
    assert_eq!(machine.text("userdata"), "from a disk");
    machine.run(None, &words[..1]).unwrap();
    assert_eq!(machine.text("userdata"), "from a file");
    assert_eq!(machine.text("provider"), file.to_str().unwrap());
}

#[test]
fn wrong_names_are_refused_and_nothing_found_is_fine() {
    let machine = Machine::new();
    machine.run(None, &[]).unwrap();
    assert!(!machine.places.config.exists());
    let error = |name| machine.run(None, &[name]).unwrap_err().to_string();
    assert!(error("vmware").contains("not built in"));
    assert!(error("awss").contains("unknown provider \"awss\""));
}

#[test]
fn host_names() {
    let long = format!("short.{}", "x".repeat(70));
    assert_eq!(hostname(long.as_bytes()).as_deref(), Some("short"));
    assert_eq!(hostname(b"a.b\n").as_deref(), Some("a.b"));
    for wrong in [&b"\n"[..], b"a b", b"a\nb", &[b'x'; 65], "ä".as_bytes()] {
        assert_eq!(hostname(wrong), None);
    }
}
