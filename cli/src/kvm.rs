//! Does KVM work here? `/dev/kvm` is not proof: in some containers and nested machines it opens,
//! makes machines and processors, and then aborts on a register or stops in the firmware.
//!
//! So the machine that is wanted is run with a kernel of four instructions, which QEMU's firmware
//! loads and which writes to QEMU's debug-exit port. Where KVM works this takes some 0.2 s; where
//! it hangs, QEMU is killed after [`TRIAL`].

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A trial that has not ended by now will not.
const TRIAL: Duration = Duration::from_secs(2);
/// What the kernel writes; QEMU then exits with `value << 1 | 1`.
const VALUE: u8 = 0x20;
/// Where the kernel is loaded: 1 MiB, as any multiboot kernel.
const ADDRESS: u32 = 0x10_0000;

/// Returns why KVM does not work here, or nothing when it does.
///
/// `program` is QEMU for the host's own architecture; `directory` takes a small file for a moment.
pub(crate) fn trouble(program: &Path, directory: &Path) -> Option<String> {
    if let Some(trouble) = missing() {
        return Some(trouble);
    }
    if !cfg!(target_arch = "x86_64") {
        // The debug-exit port is x86's.
        return None;
    }
    match trial(program, directory) {
        Ok(None) => Some("KVM is there but hangs".to_owned()),
        Ok(Some(true)) => None,
        Ok(Some(false)) => Some("QEMU cannot use KVM here".to_owned()),
        Err(error) => Some(format!("KVM could not be tried: {error}")),
    }
}

/// Returns why KVM cannot even be opened, or nothing when it can.
pub(crate) fn missing() -> Option<String> {
    let error = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .err()?;
    Some(match error.kind() {
        io::ErrorKind::NotFound => "this machine has no /dev/kvm".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "/dev/kvm may not be opened (is this user in the group kvm?)".to_owned()
        }
        _ => format!("/dev/kvm: {error}"),
    })
}

/// Runs the machine: whether it ended as it should, nothing when it hung.
fn trial(program: &Path, directory: &Path) -> io::Result<Option<bool>> {
    fs::create_dir_all(directory)?;
    let kernel = directory.join(format!("kvm-trial-{}", std::process::id()));
    fs::write(&kernel, kernel_image())?;
    let result = run(program, &kernel);
    // It is small, and the directory is the cache's own tmp: rubbish there is swept.
    let _ = fs::remove_file(&kernel);
    result
}

fn run(program: &Path, kernel: &Path) -> io::Result<Option<bool>> {
    let mut child = Command::new(program)
        .args([
            "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "64M",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code() == Some(i32::from(VALUE) << 1 | 1)));
        }
        if began.elapsed() >= TRIAL {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a kernel that does nothing but leave: a multiboot header with addresses (Multiboot
/// Specification 0.6.96, 3.1), then code.
fn kernel_image() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const HAS_ADDRESSES: u32 = 1 << 16;
    const HEADER_SIZE: u32 = 32;
    // mov al, VALUE; out 0xf4, al; hlt; jmp $
    let code = [0xb0, VALUE, 0xe6, 0xf4, 0xf4, 0xeb, 0xfe, 0];
    let end = ADDRESS + HEADER_SIZE + 8;
    let header = [
        MAGIC,
        HAS_ADDRESSES,
        0_u32.wrapping_sub(MAGIC + HAS_ADDRESSES),
        ADDRESS,               // of the header
        ADDRESS,               // of the first byte
        end,                   // of what is loaded
        end,                   // of what is zeroed
        ADDRESS + HEADER_SIZE, // of the first instruction
    ];
    let mut image: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    image.extend(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand_in(directory: &Path, script: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_trial_tells_running_from_failing_from_hanging() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let runs = stand_in(at, "exit 65");
        assert_eq!(trial(&runs, at).unwrap(), Some(true));
        let fails = stand_in(at, "exit 1");
        assert_eq!(trial(&fails, at).unwrap(), Some(false));
        let hangs = stand_in(at, "exec sleep 60");
        let began = Instant::now();
        assert_eq!(trial(&hangs, at).unwrap(), None);
        assert!(began.elapsed() < TRIAL + Duration::from_secs(5));
        let rubbish = fs::read_dir(at).unwrap().count();
        assert_eq!(rubbish, 1, "only the stand-in is left");
    }

    /// The same machine under emulation proves that the kernel does what it says.
    #[test]
    fn the_kernel_ends_a_machine() {
        let directory = tempfile::tempdir().unwrap();
        let wrapper = stand_in(
            directory.path(),
            "shift 4; exec qemu-system-x86_64 -accel tcg \"$@\"",
        );
        assert_eq!(trial(&wrapper, directory.path()).unwrap(), Some(true));
    }
}
