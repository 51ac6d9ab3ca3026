//! A terminal for a container's program: made in the container, used outside.
//!
//! It comes out of the container's own devpts, so that it has a name in there, and is also its
//! `/dev/console`, as with runc. The side that a person types into goes to whoever started the
//! container, over a socket: that side exists only once the root is entered.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pty::OpenptFlags;

use crate::error::{Context, Error, Result};
use crate::exec;
use crate::spec::Process;

/// Makes the socket, ours and the child's end, if the program wants a terminal.
pub(crate) fn socket(process: &Process) -> Result<Option<(OwnedFd, OwnedFd)>> {
    if !process.terminal {
        return Ok(None);
    }
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let pair = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None);
    pair.map(Some).context(|| "process.terminal: socket")
}

/// In the container's process, in its root: makes a terminal our standard streams and the one that
/// controls us, and sends its other side.
pub(crate) fn open(process: &Process, socket: &OwnedFd) -> Result<()> {
    open_and_send(process, socket).context(|| "process.terminal")
}

/// Makes a terminal by its multiplexer: the side to type into, and the program's.
pub(crate) fn pair(ptmx: &str) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open(ptmx, flags, Mode::empty()).context(|| ptmx)?;
    rustix::pty::unlockpt(&master).context(|| "unlock")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(|| "open")?;
    Ok((master, slave))
}

fn open_and_send(process: &Process, socket: &OwnedFd) -> Result<()> {
    let (master, slave) = pair("/dev/ptmx")?;
    if let Some(size) = &process.console_size {
        exec::set_window(&master, (size.height, size.width));
    }
    let name = rustix::pty::ptsname(&master, Vec::new()).context(|| "name")?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let made = rustix::fs::open("/dev/console", flags, Mode::from_raw_mode(0o666));
    drop(made.context(|| "/dev/console")?);
    rustix::mount::mount_bind(name.as_c_str(), c"/dev/console")
        .context(|| "bind to /dev/console")?;
    send(socket, &master)?;
    rustix::stdio::dup2_stdin(&slave).context(|| "standard input")?;
    rustix::stdio::dup2_stdout(&slave).context(|| "standard output")?;
    rustix::stdio::dup2_stderr(&slave).context(|| "standard error")?;
    rustix::process::ioctl_tiocsctty(&slave).context(|| "controlling terminal")
}

fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    let fds = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Error::new("no room for a descriptor"));
    }
    let data = [IoSlice::new(b"t")];
    match rustix::net::sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PIPE) => Err(Error::new("nobody takes it")),
        Err(cause) => Err(cause).context(|| "send"),
    }
}

/// Takes the side to type into from [`Started::terminal`]; does not wait for long once
/// [`Started::status`] has ended. An error if the container did not get that far.
///
/// [`Started::terminal`]: crate::container::Started::terminal
/// [`Started::status`]: crate::container::Started::status
pub(crate) fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
        .context(|| "process.terminal: receive")?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(Error::new(
        "process.terminal: the container has not sent it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Bundle, Phase};
    use crate::container;
    use std::fs;
    use std::path::Path;

    /// Waits until a non-blocking descriptor has ended, or its terminal has hung up.
    fn read_all(fd: &OwnedFd) -> String {
        use rustix::event::{PollFd, PollFlags, poll};
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            poll(&mut [PollFd::new(fd, PollFlags::IN)], None).unwrap();
            match rustix::io::read(fd, &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::IO) => return String::from_utf8(all).unwrap(),
                Ok(length) => all.extend_from_slice(&buffer[..length]),
                Err(cause) => panic!("{cause}"),
            }
        }
    }

    const CONFIG: &str = r#"{"process":{"terminal":true,"consoleSize":{"height":33,"width":99},
        "args":["/bin/sh","-c","test -t 0 && tty && stty size; ls -l /dev/console; echo hello > /dev/tty; read x; echo read $x"],
        "cwd":"/","env":["PATH=/bin"],"user":{"uid":100,"gid":100}},
        "root":{"path":"rootfs"},
        "mounts":[{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["ro"]},
        {"destination":"/proc","type":"proc","source":"proc"},
        {"destination":"/dev/pts","type":"devpts","source":"devpts",
        "options":["newinstance","ptmxmode=0666","mode=0620"]}],
        "linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}"#;

    /// Needs root and a static busybox.
    #[test]
    fn a_program_on_a_terminal() {
        let directory = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open).unwrap();
        let root = directory.path().join("rootfs");
        for name in ["bin", "dev", "proc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let path = std::env::var_os("PATH").unwrap();
        let mut places = std::env::split_paths(&path)
            .map(|path| path.join("busybox"))
            .filter(|path| path.exists());
        fs::copy(places.next().unwrap(), root.join("bin/busybox")).unwrap();
        for applet in ["sh", "test", "tty", "stty", "ls"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(directory.path().join("config.json"), CONFIG).unwrap();
        // The container's parent mount becomes private: in a mount namespace of this test's own.
        crate::sys::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        rustix::mount::mount_change(
            Path::new("/"),
            rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC,
        )
        .unwrap();

        let mut bundle = Bundle::read(directory.path(), Phase::Service).unwrap();
        let started = container::start(&mut bundle).unwrap();
        assert_eq!(read_all(&started.status), "");
        let master = receive(&started.terminal.unwrap()).unwrap();
        rustix::io::write(&master, b"typed\n").unwrap();
        let seen = read_all(&master);
        for expected in [
            "/dev/pts/0\r\n",
            "33 99\r\n",
            "crw--w----    1 100 ",
            "hello\r\n",
            "read typed\r\n",
        ] {
            assert!(seen.contains(expected), "{seen}");
        }
        assert_eq!(read_all(&started.stdout), "");
    }
}
