//! Built-in jobs on real disks: one boot with six of them, made by Debian's tools and looked at by
//! them afterwards. `format`, `mount` and LinuxKit's disc of data are in `disks`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::boot::{Machine, assert_order};
use super::support::{Space, tool};

const MIB: u64 = 1 << 20;

const SYSTEM: &str = r#"
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay, virtio_pci, virtio_scsi, sd_mod, ext4, vfat, nls_cp437, nls_ascii, isofs]
  cmdline: console=ttyS0 quiet kiln.net=off
init: [kiln]
onboot:
  - {name: old, builtin: mount, command: [-label, old, /var/old]}
  - {name: grow, builtin: extend}
  - {name: data, builtin: mount, command: [-label, data, /var/data]}
  - {name: again, builtin: extend}
  - name: swap
    builtin: swap
    command: [--path, /var/data/swap, --size, 8M, --condition, "part:/var/data:true"]
  - {name: swap-again, builtin: swap, command: [--path, /var/data/swap, --size, 8M]}
  - {name: first, builtin: metadata, command: [nocloud]}
  - &show
    name: show-1
    debian: {suite: bookworm, packages: [busybox-static]}
    binds: ["/run:/run", "/dev:/dev"]
    devices: [{path: all, type: b}]
    env: [PATH=/bin]
    command:
      - /bin/busybox
      - sh
      - -c
      - |
        busybox --install -s /bin
        cd /run/config
        for file in $(find . -type f | sort); do
            echo "$file $(stat -c %a $file): $(tr '\n' ' ' < $file)"
        done
        echo "host name: $(hostname)"
        # What was found is gone, so the next one is.
        disk=$(sed -n 's/.* //p' provider)
        dd if=/dev/zero of=$disk bs=64k count=2 2> /dev/null
        rm -r /run/config/*
  - {name: second, builtin: metadata, command: [nocloud]}
  - {<<: *show, name: show-2}
  - {name: third, builtin: metadata}
  - {<<: *show, name: show-3}
  - {name: fourth, builtin: metadata, command: [configdrive]}
  - {<<: *show, name: show-4}
  - {name: fifth, builtin: metadata, command: [nocloud, cdrom, configdrive]}
services:
  - name: look
    debian: {suite: bookworm, packages: [busybox-static]}
    pid: host
    capabilities: [CAP_KILL]
    binds: ["/var/data:/data", "/var/old:/old"]
    env: [PATH=/bin]
    command:
      - /bin/busybox
      - sh
      - -c
      - |
        busybox --install -s /bin
        echo "blocks: $(stat -fc %b /data) $(stat -fc %b /old)"
        sha256sum /data/word /old/word
        tail -n +2 /proc/swaps | tr -s '\t ' ' '
        kill -USR2 1
"#;

/// Makes a disk with one partition, whose ext4 holds a random file, and more room behind.
fn disk(space: &Space, name: &str, table: &str) -> String {
    let root = space.path(&format!("{name}-root"));
    fs::create_dir(&root).unwrap();
    let mut random = vec![0; 3 << 20];
    let source = File::open("/dev/urandom").unwrap();
    source.read_exact_at(&mut random, 0).unwrap();
    fs::write(root.join("word"), &random).unwrap();
    let path = space.path(&format!("{name}.img"));
    let image = path.to_str().unwrap();
    File::create(&path).unwrap().set_len(42 * MIB).unwrap();
    let script = format!("printf 'label: {table}\\nstart=2048, size=40MiB\\n' | sfdisk -q {image}");
    tool("sh", &["-c", &script]);
    let options = ["-q", "-L", name, "-d", root.to_str().unwrap()];
    let place = ["-E", "offset=1048576", "-b", "1024", image, "40960"];
    tool("mke2fs", &[&["-t", "ext4"], &options[..], &place].concat());
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(96 * MIB).unwrap();
    let sum = tool("sha256sum", &[root.join("word").to_str().unwrap()]);
    sum.split(' ').next().unwrap().to_owned()
}

/// Checks what the partition of a disk holds.
fn check(space: &Space, name: &str) {
    let path = space.path(&format!("{name}.img"));
    let listed = tool("sfdisk", &["--dump", path.to_str().unwrap()]);
    let (_, size) = listed.split_once("size=").unwrap();
    let sectors: u64 = size.split(',').next().unwrap().trim().parse().unwrap();
    // Of 96 MiB a table takes the first, and GPT the last.
    assert!(sectors * 512 >= 94 * MIB, "{listed}");
    let mut bytes = vec![0; sectors as usize * 512];
    let file = File::open(&path).unwrap();
    file.read_exact_at(&mut bytes, MIB).unwrap();
    let part = space.path(&format!("{name}.part"));
    fs::write(&part, bytes).unwrap();
    let said = tool("e2fsck", &["-f", "-n", part.to_str().unwrap()]);
    assert!(!said.contains("recover"), "{said}");
}

/// Makes a disk of metadata: FAT, or ISO 9660.
fn metadata(space: &Space, name: &str, kind: &str, label: &str, files: &[(&str, &str)]) {
    let root = space.path(&format!("{name}-root"));
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let path = space.path(&format!("{name}.img"));
    let (root, image) = (root.to_str().unwrap(), path.to_str().unwrap());
    if kind == "iso" {
        let options = format!("iso9660:volume-id={label}");
        let place = ["-cf", image, "-C", root, "."];
        let arguments = ["--format=iso9660", "--options", &options];
        tool("bsdtar", &[&arguments[..], &place].concat());
        // It makes a `-` another letter, as ISO 9660 wants and nobody who makes such disks does.
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(label.as_bytes(), 32_808).unwrap();
        return;
    }
    File::create(&path).unwrap().set_len(4 * MIB).unwrap();
    tool("mkfs.vfat", &["-n", label, image]);
    tool("sh", &["-c", &format!("mcopy -s -i {image} {root}/* ::")]);
}

#[test]
fn disks_are_extended_swapped_to_and_read() {
    let space = Space::new();
    space.write("box.yml", SYSTEM);
    let sums = [disk(&space, "data", "gpt"), disk(&space, "old", "dos")];
    let meta = "instance-id: i-1\nlocal-hostname: one\npublic-keys:\n  - ssh-ed25519 AAA me@x\n";
    let user = r#"{"app": {"entries": {"secret": {"content": "s3", "perm": "0600"}}}}"#;
    let files = [("meta-data", meta), ("user-data", user)];
    metadata(&space, "c", "fat", "CIDATA", &files);
    let files = [("meta-data", r#"{"hostname": "two"}"#), ("user-data", "#!")];
    metadata(&space, "d", "iso", "cidata", &files);
    let meta = r#"{"hostname": "three", "uuid": "u-3", "public_keys": {"a": "ssh-rsa BBB", "b": "ssh-rsa CCC"}}"#;
    let (meta_path, user_path) = (
        "openstack/latest/meta_data.json",
        "openstack/latest/user_data",
    );
    metadata(
        &space,
        "e",
        "fat",
        "config-2",
        &[(meta_path, meta), (user_path, "three's")],
    );
    let meta = r#"{"hostname": "four", "availability_zone": "z"}"#;
    metadata(&space, "f", "iso", "config-2", &[(meta_path, meta)]);
    let mut arguments = vec!["--accel", "tcg", "--networking", "none"];
    for disk in ["data", "old", "c", "d", "e", "f"].map(|it| format!("file={it}.img,format=raw")) {
        arguments.extend(["--disk", String::leak(disk)]);
    }
    arguments.push("box.yml");
    let console = Machine::boot(&space, &arguments).end();
    // Which disk has which letter is left to chance.
    for (name, bytes) in [("data", 98_566_144), ("old", 99_614_720)] {
        for done in [
            format!("grown from 41943040 to {bytes} bytes"),
            format!("fills the disk already ({bytes} bytes)"),
        ] {
            assert_eq!(
                console.matches(&done).count(),
                1,
                "{name}: {done}\n{console}"
            );
        }
    }
    assert_order(
        &console,
        &[
            "swap: made /var/data/swap of 8388608 bytes",
            "swap | swap: /var/data/swap in use",
            "swap-again | swap: /var/data/swap in use",
        ],
    );
    // Of two disks with a label the first is taken, so either pair may come in either order.
    let shown = ["show-1 | ", "show-2 | ", "show-3 | ", "show-4 | "].map(|prefix| {
        let lines = console.lines().filter(|line| line.contains(prefix));
        lines.collect::<Vec<_>>().join("\n")
    });
    for lines in [
        &[
            "./app/secret 600: s3",
            "./hostname 644: one",
            "./instance_id 644: i-1",
            "./provider 644: NoCloud /dev/sd",
            "./ssh/authorized_keys 600: ssh-ed25519 AAA me@x",
            "./userdata 644: {\"app\"",
            "host name: one",
        ][..],
        &[
            "./hostname 644: two",
            "./userdata 644: #!",
            "host name: two",
        ],
        &[
            "./hostname 644: three",
            "./instance_id 644: u-3",
            "./provider 644: ConfigDrive /dev/sd",
            "./ssh/authorized_keys 600: ssh-rsa BBB ssh-rsa CCC",
            "./userdata 644: three's",
            "host name: three",
        ],
        &[
            "./availability_zone 644: z",
            "./hostname 644: four",
            "host name: four",
        ],
    ] {
        let host_name = lines.last().unwrap();
        let one = shown.iter().find(|one| one.contains(host_name));
        assert_order(one.unwrap_or(&console), lines);
    }
    assert!(
        console.contains("fifth | metadata: no provider has anything"),
        "{console}"
    );
    for sum in sums {
        assert!(console.contains(&sum), "no {sum} in\n{console}");
    }
    let is_used = console.contains("/var/data/swap file 8184 0 ");
    assert!(is_used, "{console}");
    assert!(!console.contains("neither unmounted"), "{console}");
    check(&space, "data");
    check(&space, "old");
}
