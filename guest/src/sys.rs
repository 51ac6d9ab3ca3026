//! The kernel calls that neither std nor rustix offers safely: the crate's only `unsafe`.
//!
//! Everything here is single-threaded by design. PID 1 never makes a thread, so a forked child
//! may allocate and use std like any program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Set in a child between fork and exec: there, a panic must not power the machine off.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Returns whether this process is a child that has not called exec yet.
pub(crate) fn in_child() -> bool {
    IN_CHILD.load(Ordering::Relaxed)
}

/// Returns what a call of the C library says of itself by its status.
fn done(status: libc::c_int) -> io::Result<()> {
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The C entry point, used instead of std's own.
///
/// std's start-up opens `/dev/null` for closed standard fds and aborts when it cannot; in an
/// initramfs without a usable console that would be a kernel panic before our first line.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(argc: libc::c_int, argv: *const *const libc::c_char) -> libc::c_int {
    use std::ffi::CStr;
    let arguments: Vec<&CStr> = (0..usize::try_from(argc).unwrap_or(0))
        // SAFETY: the C library hands over `argc` strings, which live as long as the process.
        .map(|n| unsafe { CStr::from_ptr(*argv.add(n)) })
        .collect();
    crate::life(&arguments)
}

/// Marks where a forked process continues.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    /// In the parent: the child's id in our pid namespace.
    Parent(rustix::process::Pid),
    /// In the child.
    Child,
}

/// `include/uapi/linux/sched.h`; libc's is too narrow.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks with the `CLONE_NEW*` flags given (clone3(2), Linux 5.3). With `CLONE_PARENT` the child is
/// our parent's, and announces its end as we would.
pub(crate) fn fork(flags: u64) -> io::Result<Fork> {
    clone(flags, None)
}

/// Forks into a control group, unless the kernel cannot (Linux 5.7): then the child is in ours, and
/// has to be moved.
///
/// To move a process the kernel waits until no other is being forked anywhere, which takes ten
/// milliseconds; a new one just begins there.
pub(crate) fn fork_into(flags: u64, group: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    match group {
        Some(_) => clone(flags, group).or_else(|_| clone(flags, None)),
        None => clone(flags, None),
    }
}

fn clone(flags: u64, group: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let flags = match group {
        Some(_) => flags | CLONE_INTO_CGROUP,
        None => flags,
    };
    let is_sibling = flags & libc::CLONE_PARENT as u64 != 0;
    let arguments = libc::clone_args {
        flags,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: if is_sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.map_or(0, |group| group.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child gets a copy of our
    // memory. There is one thread, so no lock is held by a thread the child lacks.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    let denied = pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
    let pid = match denied && flags == 0 {
        // Under a filter of system calls: they cannot look into clone3's arguments.
        // SAFETY: as above.
        true => unsafe { libc::fork() }.into(),
        false => pid,
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            IN_CHILD.store(true, Ordering::Relaxed);
            Ok(Fork::Child)
        }
        pid => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            rustix::process::Pid::from_raw(pid)
                .map(Fork::Parent)
                .ok_or_else(|| io::Error::other("clone3 returned pid 0 to the parent"))
        }
    }
}

/// Moves this process into new namespaces, `CLONE_NEW*` flags as for unshare(2).
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: unsafe because of CLONE_FILES, which the callers never pass.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Replaces this process; returns only on failure.
pub(crate) fn exec(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Has exec close everything but the standard streams, whoever opened it without `O_CLOEXEC`.
pub(crate) fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: marks descriptors, closes none of those that are owned in this process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor from 3 on but those given, in a process that ends with [`exit_now`].
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| (*fd).try_into().ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.into_iter().chain([u32::MAX]) {
        if first < last {
            // SAFETY: values that own one of these are never dropped nor used again, since the
            // process ends without running destructors.
            unsafe { libc::syscall(libc::SYS_close_range, first, last - 1, 0) };
        }
        first = first.max(last.saturating_add(1));
    }
}

/// Ends a forked child without running the parent's exit handlers.
pub(crate) fn exit_now(status: libc::c_int) -> ! {
    // SAFETY: plain system call that does not return.
    unsafe { libc::_exit(status) }
}

/// Blocks `signals` and returns a descriptor that yields them (signalfd(2)), non-blocking.
pub(crate) fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; the result is checked before it becomes an OwnedFd.
    unsafe {
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives a child the default treatment of every signal before exec.
pub(crate) fn reset_signals() {
    let none = signal_set(&[]);
    // SAFETY: `none` is initialised; SIG_DFL installs no handler of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Makes a write to a closed pipe an error instead of a signal.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set before it is read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Sends a signal to every process but PID 1 and the caller (kill(2) with −1).
pub(crate) fn kill_all(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: plain system call.
    done(unsafe { libc::kill(-1, signal) })
}

/// Sends a signal, real-time ones included, to one process.
pub(crate) fn kill(pid: rustix::process::Pid, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: plain system call.
    done(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) })
}

/// Has the kernel use a file or device as swap (swapon(2)).
pub(crate) fn swap_on(path: &std::path::Path) -> io::Result<()> {
    let path = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    // SAFETY: the path is a C string that outlives the call.
    done(unsafe { libc::swapon(path.as_ptr(), 0) })
}

/// Ends that (swapoff(2)): what is in it comes back into memory.
pub(crate) fn swap_off(path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    // SAFETY: the path is a C string that outlives the call.
    done(unsafe { libc::swapoff(path.as_ptr()) })
}

/// `BLKRRPART` and `BLKPG` (`include/uapi/linux/fs.h`, `blkpg.h`).
const BLKRRPART: libc::c_ulong = 0x125f;
const BLKPG: libc::c_ulong = 0x1269;
/// `BLKPG_RESIZE_PARTITION` (Linux 3.6).
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;
/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)` (`fs/ext4/ext4.h`).
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Has the kernel read a disk's partition table again; busy partitions are an error.
pub(crate) fn reread_partitions(disk: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    done(unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART as _) })
}

/// Tells the kernel a partition's new length in bytes, mounted or not.
pub(crate) fn resize_partition(
    disk: BorrowedFd<'_>,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    /// `struct blkpg_partition`.
    #[repr(C)]
    struct Partition {
        start: i64,
        length: i64,
        number: libc::c_int,
        names: [u8; 128],
    }
    /// `struct blkpg_ioctl_arg`.
    #[repr(C)]
    struct Argument {
        operation: libc::c_int,
        flags: libc::c_int,
        length: libc::c_int,
        data: *mut Partition,
    }
    let mut partition = Partition {
        start: start as i64,
        length: length as i64,
        number: number as libc::c_int,
        names: [0; 128],
    };
    let argument = Argument {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: size_of::<Partition>() as libc::c_int,
        data: &raw mut partition,
    };
    // SAFETY: both structures are the kernel's and outlive the call.
    done(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw const argument) })
}

/// Grows the mounted ext4 file system that `inside` is in to a number of blocks.
pub(crate) fn resize_ext4(inside: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64.
    done(unsafe {
        libc::ioctl(
            inside.as_raw_fd(),
            EXT4_IOC_RESIZE_FS as _,
            &raw const blocks,
        )
    })
}

/// `struct dm_ioctl` (`include/uapi/linux/dm-ioctl.h`), and where in it the length is.
pub(crate) const DM_IOCTL_BYTES: usize = 312;
const DM_LENGTH: std::ops::Range<usize> = 12..16;

/// Orders something from the device mapper's control device; the answer stands in the request.
pub(crate) fn device_mapper(
    control: BorrowedFd<'_>,
    command: u8,
    request: &mut [u8],
) -> io::Result<()> {
    if request.len() < DM_IOCTL_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = request.len() as u32;
    request[DM_LENGTH].copy_from_slice(&length.to_ne_bytes());
    // `_IOWR(0xfd, command, struct dm_ioctl)`.
    let number = 0xc000_fd00 | (DM_IOCTL_BYTES as u32) << 16 | u32::from(command);
    // SAFETY: the kernel reads and writes no more than the length that the request says.
    done(unsafe { libc::ioctl(control.as_raw_fd(), number as _, request.as_mut_ptr()) })
}

/// Brings the loopback interface up; the kernel gives it its addresses (netdevice(7)).
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: all zeroes is a request, and `lo` with its NUL fits into its name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&b"lo".map(|byte| byte as libc::c_char));
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    // SAFETY: the kernel reads one `struct ifreq`.
    done(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    })
}

/// EtherType of IPv4.
const ETH_P_IP: u16 = 0x0800;

/// Opens a packet(7) socket for IPv4 on one interface, link header stripped, non-blocking.
pub(crate) fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the descriptor is checked before it becomes an OwnedFd.
    let socket = unsafe {
        match libc::socket(libc::AF_PACKET, kind, i32::from(ETH_P_IP.to_be())) {
            fd @ 0.. => OwnedFd::from_raw_fd(fd),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    let address = link_address(interface);
    // SAFETY: `address` is a whole sockaddr_ll and its size is passed.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    match bound {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Broadcasts an IPv4 packet on the link of `interface`.
pub(crate) fn send_broadcast(
    socket: BorrowedFd<'_>,
    interface: u32,
    packet: &[u8],
) -> io::Result<()> {
    let address = link_address(interface);
    // SAFETY: the buffer and the address are valid for the lengths passed.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn link_address(interface: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETH_P_IP.to_be(),
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    }
}

/// Subscribes a netlink socket to a multicast group by number (netlink(7)).
pub(crate) fn join_netlink_group(socket: BorrowedFd<'_>, group: u32) -> io::Result<()> {
    let value = group.to_ne_bytes();
    set_option(
        socket,
        libc::SOL_NETLINK,
        libc::NETLINK_ADD_MEMBERSHIP,
        &value,
    )
}

/// Has the kernel send SIGIO to this process when something becomes of `fd` (fcntl(2), O_ASYNC).
pub(crate) fn signal_io(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl(2) with numbers only.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0
            && libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, libc::getpid()) >= 0
            && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_ASYNC) >= 0
    };
    match done {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the buffer is valid for the length passed.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the sockets that listen beside this one get their connections by a classic BPF program: those
/// with the numbers `first..first + count` of the group, at random, or `by_hash` of who comes where it
/// matters that he comes to the same one again (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).
pub(crate) fn steer_connections(
    listener: BorrowedFd<'_>,
    first: u32,
    count: u32,
    by_hash: bool,
) -> io::Result<()> {
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let number = match by_hash {
        true => libc::SKF_AD_RXHASH,
        false => libc::SKF_AD_RANDOM,
    };
    let number = (libc::SKF_AD_OFF + number) as u32;
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count.max(1)),
        step(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, first),
        // `BPF_A`: what has been computed.
        step(libc::BPF_RET | 0x10, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes that program away.
pub(crate) fn leave_connections(listener: BorrowedFd<'_>) -> io::Result<()> {
    let none = 0_u32.to_ne_bytes();
    set_option(
        listener,
        libc::SOL_SOCKET,
        libc::SO_DETACH_REUSEPORT_BPF,
        &none,
    )
}

/// Opens a vsock(7) stream socket that listens at a port on whatever address this machine has.
pub(crate) fn listen_vsock(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the descriptor is checked before it becomes an OwnedFd.
    let socket = unsafe {
        match libc::socket(libc::AF_VSOCK, kind, 0) {
            fd @ 0.. => OwnedFd::from_raw_fd(fd),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: all zeros are a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_port = port;
    address.svm_cid = libc::VMADDR_CID_ANY;
    let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_vm and its size is passed; the rest are numbers.
    let done = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) == 0
            && libc::listen(socket.as_raw_fd(), 8) == 0
    };
    match done {
        true => Ok(socket),
        false => Err(io::Error::last_os_error()),
    }
}

/// Returns whether the other end of a vsock connection is the machine's host, rather than something
/// inside the machine or beside it.
pub(crate) fn is_of_host(connection: BorrowedFd<'_>) -> bool {
    // SAFETY: all zeros are a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes of `address`.
    let done = unsafe {
        libc::getpeername(
            connection.as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut size,
        )
    };
    done == 0
        && libc::c_int::from(address.svm_family) == libc::AF_VSOCK
        && address.svm_cid == libc::VMADDR_CID_HOST
}

/// The C library's fnmatch(3), the oracle of our own.
#[cfg(test)]
pub(crate) fn fnmatch(pattern: &std::ffi::CStr, text: &std::ffi::CStr) -> bool {
    // SAFETY: both are valid C strings.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}
