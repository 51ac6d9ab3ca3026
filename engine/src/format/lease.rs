//! Write leases: proof that nobody else has a file open. The crate's only `fcntl` by hand.
//!
//! `F_SETLEASE` with `F_WRLCK` (fcntl(2)) succeeds only while no other open file description of
//! the file exists. Whoever opens it later waits, and the lease shows that someone does.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const F_SETSIG: c_int = 10;
const F_SETLEASE: c_int = 1024;
const F_GETLEASE: c_int = 1025;
const F_WRLCK: c_int = 1;
const F_UNLCK: c_int = 2;
/// What the kernel sends when someone opens the file. Ignored unless asked for, whereas its
/// usual choice, `SIGIO`, would end the process.
const SIGURG: c_int = 23;

mod sys {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    }

    /// `fcntl` with one of this file's commands, all of which take a number or nothing.
    pub(super) fn control(fd: c_int, command: c_int, argument: c_int) -> std::io::Result<c_int> {
        // SAFETY: the commands used read no memory of ours; a bad descriptor is an error code.
        let result = unsafe { fcntl(fd, command, argument) };
        if result < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(result)
    }
}

/// A write lease; given back when dropped.
pub(super) struct Lease<'a>(&'a File);

impl<'a> Lease<'a> {
    /// Takes the lease of a file.
    ///
    /// # Errors
    /// When someone else has the file open, it is not ours, or its file system has no leases.
    pub(super) fn take(file: &'a File) -> io::Result<Self> {
        sys::control(file.as_raw_fd(), F_SETSIG, SIGURG)?;
        sys::control(file.as_raw_fd(), F_SETLEASE, F_WRLCK)?;
        Ok(Self(file))
    }

    /// Returns true while nobody waits to open the file.
    pub(super) fn is_undisturbed(&self) -> bool {
        sys::control(self.0.as_raw_fd(), F_GETLEASE, 0).is_ok_and(|kind| kind == F_WRLCK)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Fails only when the kernel took it back already.
        let _ = sys::control(self.0.as_raw_fd(), F_SETLEASE, F_UNLCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_refused_while_the_file_is_open_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        {
            let lease = Lease::take(&file).unwrap();
            assert!(lease.is_undisturbed());
        }
        let reader = File::open(&path).unwrap();
        assert!(Lease::take(&file).is_err());
        drop(reader);
        assert!(Lease::take(&file).is_ok());
    }

    #[test]
    fn shows_who_waits_and_survives_the_signal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let lease = Lease::take(&file).unwrap();
        let waiter = std::thread::spawn(move || File::open(&path).map(drop));
        while lease.is_undisturbed() {
            std::thread::yield_now();
        }
        drop(lease);
        waiter.join().unwrap().unwrap();
    }
}
