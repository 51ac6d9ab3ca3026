//! Media that real tools made, booted: an ISO image and a disk by a BIOS, a disk and a program by
//! EFI, a root file system that is not in memory.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::boot::Machine;
use super::support::{Space, said, tool};

/// Says by what it was booted and which disks it sees, writes to the first one, and ends.
const SYSTEM: &str = r#"
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay, virtio_pci, virtio_blk, virtio_scsi, sd_mod, sr_mod, squashfs, dm_verity]
  cmdline: console=ttyS0 quiet kiln.net=off panic=1
init: [kiln]
services:
  - name: look
    debian: {suite: bookworm, packages: [busybox-static]}
    pid: host
    capabilities: [CAP_KILL]
    binds: ["/sys:/sys"]
    devices: [{path: /dev/sda, type: b, major: 8, minor: 0, mode: "0600"}]
    command:
      - /bin/busybox
      - sh
      - -c
      - |
        b=/bin/busybox
        [ -d /sys/firmware/efi ] && echo by EFI || echo by BIOS
        for d in vda sda sr0 sr1; do
          [ -e /sys/block/$d ] && echo "$d: $($b cat /sys/block/$d/size) sectors, read-only $($b cat /sys/block/$d/ro)"
        done
        echo "root: $($b awk '$2 == "/" {print $1, $3}' /proc/1/mounts)"
        echo "written by the guest" | $b dd of=/dev/sda bs=512 seek=1 conv=notrunc,fsync 2>/dev/null && echo wrote to sda
        $b kill -USR2 1
"#;

impl Space {
    /// Builds the system as `NAME-kernel` and so on; returns its kernel's command line.
    fn system(&self, name: &str) -> String {
        self.write("box.yml", SYSTEM);
        self.build(&["--name", name, "box.yml"]);
        let cmdline = fs::read_to_string(self.path(&format!("{name}-cmdline"))).unwrap();
        cmdline.trim_end().to_owned()
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Makes a directory with the parts of a system and the configuration of a boot loader.
    fn loader(&self, directory: &str, name: &str, cmdline: &str) -> PathBuf {
        let configuration = format!(
            "default box\nprompt 0\nlabel box\n  kernel /kernel\n  initrd /initrd\n  append {cmdline}\n"
        );
        self.write(&format!("{directory}/isolinux.cfg"), &configuration);
        self.write(&format!("{directory}/syslinux.cfg"), &configuration);
        for (part, file) in [("kernel", "kernel"), ("initrd.img", "initrd")] {
            let to = self.path(&format!("{directory}/{file}"));
            fs::copy(self.path(&format!("{name}-{part}")), to).unwrap();
        }
        self.path(directory)
    }

    /// Makes a FAT file system of so many MiB with these files.
    fn fat(&self, name: &str, mebibytes: u64, files: &[(&str, &str)]) -> String {
        let image = self.text(name);
        let made = fs::File::create(&image).unwrap();
        made.set_len(mebibytes << 20).unwrap();
        tool("/usr/sbin/mkfs.vfat", &[&image]);
        for (from, to) in files {
            let mut parent = String::from("::");
            for part in to.split('/').rev().skip(1).collect::<Vec<_>>().iter().rev() {
                parent = format!("{parent}/{part}");
                tool("mmd", &["-D", "s", "-i", &image, &parent]);
            }
            tool("mcopy", &["-i", &image, from, &format!("::/{to}")]);
        }
        image
    }

    /// Copies a file into another one.
    fn put(&self, from: &str, to: &str, at: u64) {
        let (from, to) = (format!("if={from}"), format!("of={to}"));
        let seek = format!("seek={at}");
        tool(
            "dd",
            &[
                &from,
                &to,
                "bs=4K",
                &seek,
                "oflag=seek_bytes",
                "conv=notrunc",
                "status=none",
            ],
        );
    }

    /// Makes a unified kernel image with systemd's stub.
    fn unified(&self, name: &str, cmdline: &str, to: &str) -> String {
        self.write("cmdline", cmdline);
        let (linux, initrd) = (
            self.text(&format!("{name}-kernel")),
            self.text(&format!("{name}-initrd.img")),
        );
        let sections = [
            (".cmdline", self.text("cmdline"), "0x30000"),
            (".linux", linux, "0x2000000"),
            (".initrd", initrd, "0x6000000"),
        ];
        let mut arguments = Vec::new();
        for (section, file, address) in sections {
            arguments.extend(["--add-section".to_owned(), format!("{section}={file}")]);
            let address = format!("{section}={address}");
            arguments.extend(["--change-section-vma".to_owned(), address]);
        }
        let stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
        let program = self.text(to);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend([stub, &program]);
        tool("objcopy", &arguments);
        program
    }

    /// Builds an initrd that finds a root (kiln-init and modules, no containers), and a root for it.
    fn finder_and_squashfs(&self) {
        self.system("box");
        self.write("finder.yml", SYSTEM.split("services:").next().unwrap());
        self.build(&["finder.yml"]);
        self.build(&["-o", "box.tar", "box.yml"]);
        let command = format!(
            "sqfstar -quiet -no-progress {} < {}",
            self.text("box-squashfs.img"),
            self.text("box.tar")
        );
        tool("sh", &["-c", &command]);
    }

    fn boot(&self, arguments: &[&str]) -> String {
        let arguments = [&["--accel", "tcg", "--networking", "none"], arguments].concat();
        Machine::boot(self, &arguments).end()
    }
}

fn assert_says(console: &str, texts: &[&str]) {
    for text in texts {
        assert!(console.contains(text), "no \"{text}\" in\n{console}");
    }
}

#[test]
fn a_bios_boots_an_iso_image_and_a_disk() {
    let space = Space::new();
    let cmdline = space.system("box");

    let tree = space.loader("tree", "box", &cmdline);
    for file in [
        "/usr/lib/ISOLINUX/isolinux.bin",
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    ] {
        let name = file.rsplit('/').next().unwrap();
        fs::copy(file, tree.join(name)).expect("needs Debian's isolinux and syslinux-common");
    }
    let iso = space.text("disc.iso");
    let arguments = "-as mkisofs -quiet -o ISO -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table";
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    let tree = tree.to_str().unwrap();
    arguments[4] = &iso;
    arguments.push(tree);
    tool("xorriso", &arguments);
    // By the prefix, with a further disc and a disk.
    let console = space.boot(&["--data", "x", "--disk", "size=32M", "disc"]);
    assert_says(
        &console,
        &[
            "ISOLINUX",
            "by BIOS",
            "sr0: ",
            "sr1: ",
            "sda: 65536 sectors",
        ],
    );
    assert_eq!(space.names("disc-state"), ["disk.img"]);

    // A partition table, a FAT partition at 1 MiB, SYSLINUX in it.
    let disk = space.text("disk.img");
    fs::File::create(&disk).unwrap().set_len(65 << 20).unwrap();
    let script = space.write("table", "label: dos\n2048,,e,*\n");
    let command = format!("sfdisk -q {disk} < {}", script.display());
    tool("sh", &["-c", &format!("PATH=$PATH:/usr/sbin; {command}")]);
    let tree = space.path("tree");
    let file = |name: &str| tree.join(name).to_str().unwrap().to_owned();
    let (kernel, initrd, configuration) = (file("kernel"), file("initrd"), file("syslinux.cfg"));
    let fat = space.fat(
        "fat",
        64,
        &[
            (&kernel, "kernel"),
            (&initrd, "initrd"),
            (&configuration, "syslinux.cfg"),
        ],
    );
    tool("syslinux", &["--install", &fat]);
    space.put(&fat, &disk, 1 << 20);
    space.put("/usr/lib/syslinux/mbr/mbr.bin", &disk, 0);
    let console = space.boot(&["disk.img"]);
    assert_says(
        &console,
        &[
            "by BIOS",
            "sda: 133120 sectors, read-only 0",
            "wrote to sda",
        ],
    );
    let mut image = fs::File::open(&disk).unwrap();
    image.seek(SeekFrom::Start(512)).unwrap();
    let mut written = [0; 20];
    image.read_exact(&mut written).unwrap();
    assert_eq!(&written, b"written by the guest");
}

#[test]
fn efi_boots_a_disk_and_a_program() {
    let space = Space::new();
    fs::create_dir(space.path("run")).unwrap();
    let cmdline = space.system("box");
    let program = space.unified("box", &cmdline, "unified.efi");

    // GPT with a system partition at 1 MiB; nothing that a BIOS could run.
    let disk = space.text("disk.raw");
    fs::File::create(&disk).unwrap().set_len(66 << 20).unwrap();
    tool(
        "/usr/sbin/sgdisk",
        &["--new=1:2048:+64M", "--typecode=1:ef00", &disk],
    );
    let fat = space.fat("esp", 64, &[(&program, "EFI/BOOT/BOOTX64.EFI")]);
    space.put(&fat, &disk, 1 << 20);
    let image = space.text("disk.qcow2");
    let arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", &disk, &image];
    tool("qemu-img", &arguments);
    let console = space.boot(&["disk.qcow2"]);
    assert_says(
        &console,
        &["amd64, EFI, by emulation", "by EFI", "sda: 135168 sectors"],
    );

    // In the background, by firmware that holds its variables itself.
    let booted = said(space.command().args([
        "run",
        "--accel",
        "tcg",
        "--networking",
        "none",
        "--disk",
        "size=32M",
        "--fw",
        "/usr/share/ovmf/OVMF.fd",
        "--detach",
        "unified.efi",
    ]));
    assert_eq!(booted.code, Some(0), "{}", booted.stderr);
    assert_eq!(booted.stdout, b"unified\n");
    let listed = space.kiln(&["vm", "ls"]);
    assert!(
        String::from_utf8_lossy(&listed.stdout).contains("unified.efi"),
        "{listed:?}"
    );
    let log = space.path("run/kiln/unified/console.log");
    let began = std::time::Instant::now();
    let console = loop {
        let console = fs::read(&log).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        if console.contains("wrote to sda") {
            break console;
        }
        assert!(began.elapsed().as_secs() < 180, "{console}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    // Its partition is no disk of the SCSI bus.
    assert_says(&console, &["by EFI", "sda: 65536 sectors"]);
}

#[test]
fn a_root_is_a_disk_that_is_only_read() {
    let space = Space::new();
    space.finder_and_squashfs();
    fs::rename(
        space.path("finder-initrd.img"),
        space.path("box-squashfs-initrd.img"),
    )
    .unwrap();
    let before = fs::read(space.path("box-squashfs.img")).unwrap();
    let console = space.boot(&["--squashfs", "--disk", "size=32M", "box"]);
    assert_says(&console, &["root: /dev/vda squashfs"]);
    assert!(
        console
            .lines()
            .any(|line| line.contains("vda: ") && line.trim_end().ends_with("read-only 1")),
        "{console}"
    );
    assert_eq!(fs::read(space.path("box-squashfs.img")).unwrap(), before);
}

/// The partitions are found by the root hash alone, as systemd and `systemd-repart` have it.
#[test]
fn a_root_is_what_its_hash_says_or_nothing() {
    let space = Space::new();
    space.finder_and_squashfs();
    let (squashfs, hashes) = (space.text("box-squashfs.img"), space.text("hashes"));
    let formatted = tool("/usr/sbin/veritysetup", &["format", &squashfs, &hashes]);
    let hash = formatted
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .unwrap_or_else(|| panic!("{formatted}"))
        .trim();
    let disk = space.text("disk.img");
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let (first, last) = (&hash[..32], &hash[32..]);
    let data = format!("--partition-guid=1:{}", uuid(first));
    let tree = format!("--partition-guid=2:{}", uuid(last));
    tool(
        "/usr/sbin/sgdisk",
        &["--new=1:2048:+40M", "--new=2:0:+8M", &data, &tree, &disk],
    );
    space.put(&squashfs, &disk, 1 << 20);
    space.put(&hashes, &disk, 41 << 20);
    let cmdline = fs::read_to_string(space.path("finder-cmdline")).unwrap();
    space.write(
        "finder-cmdline",
        &format!("{} roothash={hash}", cmdline.trim_end()),
    );

    // One bit of the file system is another one.
    let broken = space.text("broken.img");
    fs::copy(&disk, &broken).unwrap();
    let mut image = fs::File::options()
        .read(true)
        .write(true)
        .open(broken)
        .unwrap();
    let mut byte = [0];
    image.seek(SeekFrom::Start(1 << 20)).unwrap();
    image.read_exact(&mut byte).unwrap();
    image.seek(SeekFrom::Start(1 << 20)).unwrap();
    image.write_all(&[byte[0] ^ 1]).unwrap();
    let console = space.boot(&["--disk", "broken.img", "finder"]);
    assert_says(&console, &["data block 0 is corrupted", "/dev/dm-0"]);
    assert!(!console.contains("root: "), "{console}");
    let console = space.boot(&["--disk", "disk.img", "finder"]);
    assert_says(&console, &["root: /dev/dm-0 squashfs", "wrote to sda"]);
}

/// Writes 32 digits as a UUID.
fn uuid(digits: &str) -> String {
    let at = [0..8, 8..12, 12..16, 16..20, 20..32];
    at.map(|range| &digits[range]).join("-")
}

#[test]
fn what_cannot_be_booted_is_refused_with_the_reason() {
    let space = Space::new();
    let refused = |arguments: &[&str], code: i32, texts: &[&str]| {
        let said = space.kiln(&[&["run", "--accel", "tcg"], arguments].concat());
        assert_eq!(said.code, Some(code), "{}", said.stderr);
        for text in texts {
            assert!(said.stderr.contains(text), "no {text} in {}", said.stderr);
        }
    };
    space.write("etc/motd", "hello");
    let tar = space.text("x.img");
    let directory = space.text("");
    tool("tar", &["-cf", &tar, "-C", &directory, "etc"]);
    refused(&["x.img"], 1, &["x.img does not boot: it is a tar"]);

    let iso = space.text("plain.iso");
    let etc = space.text("etc");
    tool("xorriso", &["-as", "mkisofs", "-quiet", "-o", &iso, &etc]);
    refused(&["plain.iso"], 1, &["nothing in it boots", "plain-kernel"]);

    // The content decides, but a guest's disk is never a description.
    let text = "init: [kiln]\nkernal: x\n";
    space.write("text", text);
    refused(&["text"], 3, &["text:2:1", "did you mean \"kernel\""]);
    refused(&["--iso", "text"], 2, &["is not what --iso boots"]);
    space.write("text.qcow2", text);
    refused(&["text.qcow2"], 1, &["it is a text"]);
    refused(&["--iso", "--squashfs", "x"], 2, &["--iso and --squashfs"]);
    refused(&["--iso", "nothing"], 1, &["there is no", "nothing.iso"]);
    refused(
        &["--uefi", "registry.invalid/x"],
        2,
        &["--uefi and --fw are for systems"],
    );
    refused(&["--watch", "x.qcow2"], 2, &["--watch"]);

    // What a guest could write into its raw disk, to read a file of this machine.
    let (base, overlay) = (
        space.write("secret", "s").display().to_string(),
        space.text("o.qcow2"),
    );
    let arguments = [
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &overlay,
    ];
    tool("qemu-img", &arguments);
    fs::rename(&overlay, space.path("disk.img")).unwrap();
    refused(&["disk.img"], 1, &["parts in other files", "convert"]);

    let stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
    fs::copy(stub, space.path("stub.efi")).expect("needs Debian's systemd-boot-efi");
    let nowhere = ["--fw", "nowhere.fd", "stub.efi"];
    refused(&nowhere, 1, &["cannot use the firmware nowhere.fd", "ovmf"]);
}
