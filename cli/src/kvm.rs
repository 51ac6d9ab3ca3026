//! Does KVM work here? `/dev/kvm` is not proof: in some containers and nested machines it opens,
//! makes machines and processors, and then never executes an instruction.
//!
//! So a machine of one instruction is run: 64 KiB of firmware whose reset vector writes to QEMU's
//! debug-exit port. Where KVM works this takes some 0.1 s; where it hangs, QEMU is killed after
//! [`TRIAL`].

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A machine of one instruction that has not ended by now will not.
const TRIAL: Duration = Duration::from_secs(2);
/// Firmware must be a multiple of this.
const FIRMWARE_SIZE: usize = 64 * 1024;
/// The x86 reset vector's distance from the firmware's end.
const RESET_VECTOR: usize = 16;
/// What the firmware writes; QEMU then exits with `value << 1 | 1`.
const VALUE: u8 = 0x20;

/// Returns why KVM does not work here, or nothing when it does.
///
/// `program` is QEMU for the host's own architecture; `directory` takes a small file for a moment.
pub(crate) fn trouble(program: &Path, directory: &Path) -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(match error.kind() {
            io::ErrorKind::NotFound => "this machine has no /dev/kvm".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "/dev/kvm may not be opened (is this user in the group kvm?)".to_owned()
            }
            _ => format!("/dev/kvm: {error}"),
        });
    }
    if !cfg!(target_arch = "x86_64") {
        // The debug-exit port is x86's.
        return None;
    }
    match trial(program, directory) {
        Ok(None) => Some("KVM is there but does not run a machine".to_owned()),
        Ok(Some(true)) => None,
        Ok(Some(false)) => Some("QEMU cannot use KVM here".to_owned()),
        Err(error) => Some(format!("KVM could not be tried: {error}")),
    }
}

/// Runs the machine of one instruction: whether it ended as it should, nothing when it hung.
fn trial(program: &Path, directory: &Path) -> io::Result<Option<bool>> {
    fs::create_dir_all(directory)?;
    let firmware = directory.join(format!("kvm-trial-{}", std::process::id()));
    fs::write(&firmware, image())?;
    let result = run(program, &firmware);
    // It is small, and the directory is the cache's own tmp: rubbish there is swept.
    let _ = fs::remove_file(&firmware);
    result
}

fn run(program: &Path, firmware: &Path) -> io::Result<Option<bool>> {
    let mut child = Command::new(program)
        .args([
            "-accel",
            "kvm",
            "-machine",
            "q35",
            "-m",
            "16M",
            "-nodefaults",
        ])
        .args(["-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"])
        .arg(firmware)
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

/// Returns firmware that does nothing but leave.
fn image() -> Vec<u8> {
    let mut image = vec![0xf4; FIRMWARE_SIZE];
    // mov al, VALUE; out 0xf4, al; hlt
    let code = [0xb0, VALUE, 0xe6, 0xf4, 0xf4];
    let start = FIRMWARE_SIZE - RESET_VECTOR;
    image[start..start + code.len()].copy_from_slice(&code);
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

    /// The same machine under emulation proves that the firmware does what it says.
    #[test]
    fn the_firmware_ends_a_machine() {
        let directory = tempfile::tempdir().unwrap();
        let wrapper = stand_in(
            directory.path(),
            "shift 2; exec qemu-system-x86_64 -accel tcg \"$@\"",
        );
        assert_eq!(trial(&wrapper, directory.path()).unwrap(), Some(true));
    }
}
