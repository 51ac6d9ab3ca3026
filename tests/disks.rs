//! Disks and data of a machine: what LinuxKit's `run` gives it, and kiln-init's jobs take.

use super::boot::Machine;
use super::support::Space;

const SYSTEM: &str = r#"
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay, virtio_pci, virtio_scsi, sd_mod, sr_mod, isofs, ext4]
  cmdline: console=ttyS0 quiet kiln.net=off
init: [kiln]
onboot:
  - {name: format, builtin: format, command: [-label, data]}
  - {name: mount, builtin: mount, command: [-label, data, /var/data]}
  - {name: metadata, builtin: metadata, command: [cdrom]}
services:
  - name: look
    debian: {suite: bookworm, packages: [busybox-static]}
    pid: host
    capabilities: [CAP_KILL]
    binds: ["/var/data:/data", "/run/config:/config", "/sys:/sys"]
    command:
      - /bin/busybox
      - sh
      - -c
      - |
        b=/bin/busybox
        [ -e /data/word ] && echo "kept: $($b cat /data/word)"
        echo first boot > /data/word
        echo "sectors: $($b cat /sys/block/sda/size) $($b cat /sys/block/sdb/size)"
        echo "data: $($b cat /config/greeting)"
        $b kill -USR2 1
"#;

#[test]
fn a_disk_is_formatted_once_and_kept_and_data_comes_along() {
    let space = Space::new();
    space.write("box.yml", SYSTEM);
    let data = r#"{"greeting": {"content": "from the disc"}}"#;
    let boot = || {
        let arguments = [
            "--accel",
            "tcg",
            "--disk",
            "size=64M",
            "--disk",
            "file=second.qcow2,size=32M,format=raw",
            "--networking",
            "none",
            "--data",
            data,
            "box.yml",
        ];
        Machine::boot(&space, &arguments).end()
    };
    let console = boot();
    assert!(!console.contains("kept:"), "{console}");
    // Which of them is the first is left to chance.
    let sizes = ["sectors: 131072 65536", "sectors: 65536 131072"];
    assert!(sizes.iter().any(|it| console.contains(it)), "{console}");
    assert!(console.contains("data: from the disc"), "{console}");
    // Where LinuxKit has it, and as large as was asked for.
    let disk = std::fs::metadata(space.path("box-state/disk.img")).unwrap();
    assert_eq!(disk.len(), 64 << 20);
    let console = boot();
    assert!(console.contains("kept: first boot"), "{console}");

    let refused = |arguments: &[&str], code: i32, text: &str| {
        let said = space.kiln(&[&["run", "--accel", "tcg"], arguments, &["box.yml"]].concat());
        assert_eq!(said.code, Some(code), "{}", said.stderr);
        assert!(said.stderr.contains(text), "{}", said.stderr);
    };
    refused(
        &["--disk", "missing.img"],
        1,
        "cannot use the disk missing.img",
    );
    refused(
        &["--networking", "none", "-p", "80:80"],
        2,
        "--networking user",
    );
    // A colon makes no protocol of a name.
    let colon = ["--disk", "a:b.qcow2,size=1M", "--virtiofs", "missing"];
    refused(&colon, 1, "cannot share missing");
    let image = std::fs::read(space.path("a:b.qcow2")).unwrap();
    assert!(image.starts_with(b"QFI\xfb"));
}
