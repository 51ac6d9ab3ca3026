//! A directory that a child of ours can only read, whatever it does.
//!
//! Enters: a command, and a directory. The command then begins in a mount namespace of its own, where
//! that directory is mounted over itself to be read only, and with it all that is mounted below
//! (mount_setattr(2), Linux 5.12). Who is not root is it for that, in a user namespace
//! (user_namespaces(7)) in which files are still this user's.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Has a command see a directory, by its absolute path, that it cannot write to.
///
/// # Errors
/// When the path has a zero byte. What the kernel refuses is an error of the command's start.
pub(crate) fn confine(command: &mut Command, directory: &Path) -> io::Result<()> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    let confine = move || {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let mut flags = UnshareFlags::NEWNS;
        if user != 0 {
            flags |= UnshareFlags::NEWUSER;
        }
        // SAFETY: it is of file descriptors that the documentation warns, and they stay as they are.
        unsafe { unshare_unsafe(flags) }?;
        if user != 0 {
            write(c"/proc/self/setgroups", format_args!("deny"))?;
            write(c"/proc/self/uid_map", format_args!("0 {user} 1"))?;
            write(c"/proc/self/gid_map", format_args!("0 {group} 1"))?;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private)?;
        mount_bind_recursive(&*directory, &*directory)?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_RDONLY,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the path ends in a zero; the kernel reads the attributes, of which the size is
        // passed.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                directory.as_ptr(),
                libc::AT_RECURSIVE,
                std::ptr::from_ref(&attributes),
                size_of_val(&attributes),
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: system calls alone, with paths that are there and texts on the stack: nothing is
    // allocated, and no lock taken.
    unsafe { command.pre_exec(confine) };
    Ok(())
}

/// Writes a short text to a file of the kernel, in one call and without allocating.
fn write(path: &std::ffi::CStr, text: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut buffer = [0; 64];
    let mut rest = &mut buffer[..];
    rest.write_fmt(text)?;
    let left = rest.len();
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, &buffer[..buffer.len() - left])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// By root, and by somebody who is not, in a directory where both may write.
    #[test]
    fn a_directory_is_read_and_not_written() {
        let space = tempfile::tempdir().unwrap();
        for directory in [space.path(), &space.path().join("d")] {
            let _ = fs::create_dir(directory);
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let directory = space.path().join("d");
        fs::write(directory.join("word"), "outside").unwrap();
        let nobody = geteuid().is_root().then_some(65534);
        for user in [None, nobody] {
            let run = |confined| {
                let script = "read word < word; echo $word; echo $word > new && rm new \
                              || { echo $word > ../new && rm ../new && exit 9; }";
                let script = format!("cd {} && {script}", directory.display());
                let mut command = Command::new("sh");
                command.args(["-c", &script]);
                if let Some(user) = user {
                    command.uid(user).gid(user);
                    let own = || Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?);
                    // SAFETY: one system call. Who was root may else not say who he is.
                    unsafe { command.pre_exec(own) };
                }
                if confined {
                    confine(&mut command, &directory).unwrap();
                }
                let output = command.output().unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), "outside\n");
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(said.contains("Read-only file system"), confined, "{said}");
                output.status.code()
            };
            assert_eq!(run(false), Some(0));
            // The rest of the machine is as it was.
            assert_eq!(run(true), Some(9));
        }
    }
}
