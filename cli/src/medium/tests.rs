use super::*;
use proptest::prelude::*;

/// Writes these bytes at these places of a file, and tells what it is.
fn of_bytes(parts: &[(usize, &[u8])]) -> Medium {
    let space = tempfile::tempdir().unwrap();
    let path = space.path().join("x.yml");
    let len = parts.iter().map(|(at, bytes)| at + bytes.len()).max();
    let mut whole = vec![0; len.unwrap_or(0)];
    for (at, bytes) in parts {
        whole[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    std::fs::write(&path, whole).unwrap();
    of(&path).unwrap()
}

const fn disk(name: &'static str, names_files: bool) -> Medium {
    Medium::Disk(Format { name, names_files })
}

#[test]
fn files_are_told_by_their_bytes() {
    let elsewhere = &1u64.to_be_bytes()[..];
    let version = (4, &[0, 0, 0, 3][..]);
    let signature = (510, &[0x55, 0xaa][..]);
    // One of QEMU's: capacity, the descriptor's sector, the grain directory's.
    let sparse = &[
        (0, &b"KDMV"[..]),
        (12, &[0, 0x50, 0, 0, 0, 0, 0, 0]),
        (28, &[1, 0, 0, 0, 0, 0, 0, 0]),
        (56, &[0x1a, 0, 0, 0, 0, 0, 0, 0]),
        (512, b"# Disk DescriptorFile"),
        (512 * 40, b"\0"),
    ][..];
    let parent = &[(3000, &b"\nparentfilenamehint=/x"[..])][..];
    for (parts, expected) in [
        (&[][..], Medium::Other("empty", None)),
        (&[(0, "init: [kiln] # ä".as_bytes())], Medium::Text),
        (
            &[(0, b"QFI\xfb"), version, (511, b"\0")],
            disk("qcow2", false),
        ),
        (
            &[(0, b"QFI\xfb"), version, (8, elsewhere), (511, b"\0")],
            disk("qcow2", true),
        ),
        (
            &[
                (0, b"QFI\xfb"),
                version,
                (72, &4u64.to_be_bytes()),
                (511, b"\0"),
            ],
            disk("qcow2", true),
        ),
        (
            &[(0, b"# Disk DescriptorFile\nversion=1\n")],
            disk("vmdk", true),
        ),
        (&[(0, b"KDMV")], disk("vmdk", true)),
        (sparse, disk("vmdk", false)),
        (&[sparse, &[(12, &[0; 8][..])]].concat(), disk("vmdk", true)),
        (
            &[sparse, &[(56, &[255; 8][..])]].concat(),
            disk("vmdk", true),
        ),
        (&[sparse, parent].concat(), disk("vmdk", true)),
        (&[(0, b"vhdxfile")], disk("vhdx", false)),
        (&[(0, b"conectix")], disk("vpc", false)),
        (
            &[signature, (4096 - 512, b"conectix"), (4095, b"\0")],
            disk("vpc", false),
        ),
        (&[signature], disk("raw", false)),
        (&[(512, b"EFI PART")], disk("raw", false)),
        (&[(0, b"hsqs")], Medium::Root("squashfs")),
        (&[(1024, &[0xe2, 0xe1, 0xf5, 0xe0])], Medium::Root("erofs")),
        (&[(1080, &[0x53, 0xef])], Medium::Root("ext4")),
        // A boot sector before a file system can be booted.
        (&[signature, (1080, &[0x53, 0xef])], disk("raw", false)),
        // A kernel has the boot sector's signature.
        (&[(0, b"MZ"), signature, (0x202, b"HdrS")], Medium::Kernel),
        (&[(56, b"ARM\x64")], Medium::Kernel),
    ] {
        assert_eq!(of_bytes(parts), expected, "{parts:?}");
    }
    let other = |parts: &[(usize, &[u8])]| match of_bytes(parts) {
        Medium::Other(what, _) => what,
        medium => panic!("{medium:?}"),
    };
    assert_eq!(other(&[(0, b"etc/"), (257, b"ustar")]), "a tar");
    assert_eq!(other(&[(0, b"\x1f\x8b")]), "compressed with gzip");
    assert_eq!(other(&[(0, b"\x7fELF")]), "a program of Linux (ELF)");
    assert_eq!(other(&[(0, b"text\0")]), "none of what kiln boots");
    assert_eq!(other(&[(0, b"text\xff")]), "none of what kiln boots");
}

#[test]
fn programs_for_efi_are_told() {
    let pe = |machine: u16, subsystem: u16| {
        of_bytes(&[
            (0, b"MZ"),
            (0x3c, &[0x80]),
            (0x80, b"PE\0\0"),
            (0x84, &machine.to_le_bytes()),
            (0x80 + 24 + 68, &subsystem.to_le_bytes()),
        ])
    };
    assert_eq!(pe(0x8664, 10), Medium::Program(Some("amd64")));
    assert_eq!(pe(0xaa64, 10), Medium::Program(Some("arm64")));
    assert_eq!(pe(0x14c, 10), Medium::Program(None));
    assert_eq!(
        pe(0x8664, 3),
        Medium::Other("a program, but none for EFI", None)
    );
    let far = of_bytes(&[(0, b"MZ"), (0x3c, &[0xff; 4])]);
    assert!(matches!(far, Medium::Other(..)), "{far:?}");
}

#[test]
fn boot_catalogues_are_read() {
    let catalogue = |entries: &[&[u8]]| {
        let (volume, record, end) = (16 * 2048, 17 * 2048, 18 * 2048);
        let mut parts: Vec<(usize, &[u8])> = vec![
            (volume, b"\x01CD001\x01"),
            (record, b"\0CD001\x01EL TORITO SPECIFICATION"),
            (record + 0x47, &[19]),
            (end, b"\xffCD001\x01"),
            (20 * 2048 - 1, b"\0"),
        ];
        let entries = entries.iter().enumerate();
        parts.extend(entries.map(|(number, entry)| (19 * 2048 + 32 * number, *entry)));
        of_bytes(&parts)
    };
    let iso = |bios, efi| Medium::Iso { bios, efi };
    assert_eq!(catalogue(&[]), iso(false, false));
    assert_eq!(catalogue(&[&[1, 0], &[0x88]]), iso(true, false));
    assert_eq!(catalogue(&[&[1, 0], &[0]]), iso(false, false));
    assert_eq!(catalogue(&[&[1, 0xef], &[0x88]]), iso(false, true));
    let both: &[&[u8]] = &[&[1, 0], &[0x88], &[0x91, 0xef, 1, 0], &[0x88]];
    assert_eq!(catalogue(both), iso(true, true));
    // More entries than there is room for.
    let wrong: &[&[u8]] = &[&[1, 0], &[0], &[0x90, 0xef, 0xff, 0xff]];
    assert_eq!(catalogue(wrong), iso(false, false));
}

#[test]
fn who_boots_a_disk() {
    let gpt = |code: u8, kind: &[u8]| {
        let mut disk = vec![0; PARTITIONS_HEAD];
        disk[0] = code;
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72] = 2;
        disk[512 + 80] = 128;
        disk[512 + 84] = 128;
        disk[1024 + 128..1024 + 128 + kind.len()].copy_from_slice(kind);
        disk
    };
    let system = [
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9,
        0x3b,
    ];
    assert!(is_for_efi_alone(&gpt(0, &system)));
    assert!(!is_for_efi_alone(&gpt(0xeb, &system)));
    assert!(!is_for_efi_alone(&gpt(0, b"something else")));
    let mut mbr = vec![0; 512];
    assert!(!is_for_efi_alone(&mbr));
    mbr[450] = 0xef;
    assert!(is_for_efi_alone(&mbr));
    mbr[0] = 0xeb;
    assert!(!is_for_efi_alone(&mbr));
}

proptest! {
    #[test]
    fn any_bytes_are_fine(bytes in proptest::collection::vec(any::<u8>(), 0..3000), magic in 0usize..5) {
        let magic: &[u8] = [&b"MZ"[..], b"QFI\xfb", b"hsqs", b"KDMV", b""][magic];
        let space = tempfile::tempdir().unwrap();
        let path = space.path().join("file");
        std::fs::write(&path, [magic, &bytes].concat()).unwrap();
        of(&path).unwrap();
        is_for_efi_alone(&bytes);
        let mut gpt = bytes;
        if let Some(room) = gpt.get_mut(512..520) {
            room.copy_from_slice(b"EFI PART");
            is_for_efi_alone(&gpt);
        }
    }
}
