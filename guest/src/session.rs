//! One conversation with whoever controls the machine, `kilnctl` inside or `kiln vm` outside.
//!
//! ```text
//! client:  mark  {"args":["logs","-f","web"],"terminal":[24,80],"number":5}\n  then frames
//! machine: frames, from a beginning with that number to an end
//! frame:   kind (1 byte), length (4 bytes, little endian), that many bytes
//! ```
//!
//! A port does not say reliably that one client went and another came, and the last one may have
//! gone in the middle of a frame. So the mark `ff 01` is nowhere but before a request, which ends
//! whatever was going on: what a client says has `ff 00` for each `ff`. In what the machine says a
//! client looks for its beginning. A client sends no more than [`WINDOW_BYTES`] of standard input
//! that the machine has not said to be taken, so the machine reads all that comes, and sees the mark
//! however little a program reads.
//!
//! The client is a pipe with a terminal: commands are understood, and their output is written,
//! here alone. A conversation goes over a socket in `/run/kiln`, or over one of the virtio serial
//! ports named `kiln.control.N`, whose other end is a socket of whoever runs the virtual machine, or
//! over a vsock connection from there to [`VSOCK_PORT`]. None can be reached over a network.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Context, Error, Result};
use crate::json::{self, record};
use crate::{say, sys};

/// Where the machine listens.
pub(crate) const SOCKET: &str = "/run/kiln/control.sock";
/// Where the machine listens for its host. A container would need CAP_NET_BIND_SERVICE to take it.
const VSOCK_PORT: u32 = 1010;
/// Whether there is vsock(7) at all: to ask for a socket would have the kernel look for a module.
const VSOCK_DEVICE: &str = "/dev/vsock";
/// Names of the virtio ports; a number follows.
const PORT_PREFIX: &str = "kiln.control.";
/// Longest request, in bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest frame of a client, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;
/// Standard input on its way to a program, in bytes.
pub(crate) const WINDOW_BYTES: usize = 256 << 10;
/// Who sends more than this at once does not keep to the window.
const INPUT_BYTES_MAX: usize = 2 * WINDOW_BYTES;
/// Begins a mark, or stands for itself.
const ESCAPE: u8 = 0xff;
/// After [`ESCAPE`]: that byte.
const ITSELF: u8 = 0;
/// After [`ESCAPE`]: a request follows.
const MARK: u8 = 1;
/// With more than this waiting to be taken, nothing more is made.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the machine: for standard output.
    Stdout = 1,
    /// Of the machine: for standard error.
    Stderr = 2,
    /// Of the client: standard input; empty at its end.
    Stdin = 3,
    /// Of the client: rows and columns of its terminal, two bytes each, little endian.
    Window = 4,
    /// Of the client: a signal's number, one byte.
    Signal = 5,
    /// Of the machine: the exit status, one byte. The last frame.
    End = 6,
    /// Of the machine: the number of the request, eight bytes, little endian. The first frame.
    Begin = 7,
    /// Of the machine: how many bytes of standard input have been taken, eight bytes, little endian.
    Taken = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Stdout,
            Self::Stderr,
            Self::Stdin,
            Self::Window,
            Self::Signal,
            Self::End,
            Self::Begin,
            Self::Taken,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Rows and columns.
pub(crate) type Window = (u16, u16);

record! {
    /// What a client begins with.
    #[derive(PartialEq, Eq)]
    Request {
        /// A command and its arguments.
        args: Vec<String> = "args",
        /// The client's terminal, if it has one on both sides.
        terminal: Option<Window> = "terminal",
        /// Any number, to be told in the answer.
        number: u64 = "number",
    }
    required "args"
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Request(Request),
    Frame(Kind, Vec<u8>),
}

/// Puts a frame together.
pub(crate) fn frame(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut frame = vec![kind as u8];
    frame.extend(length.to_le_bytes());
    frame.extend(bytes);
    frame
}

/// Returns what a client sends in place of these bytes.
pub(crate) fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        out.push(*byte);
        if *byte == ESCAPE {
            out.push(ITSELF);
        }
    }
    out
}

/// Returns a request as a client sends it, marked.
pub(crate) fn marked(request: &str) -> Vec<u8> {
    let mut out = vec![ESCAPE, MARK];
    out.extend(escaped(request.as_bytes()));
    out.push(b'\n');
    out
}

/// Takes frames out of bytes as they come. Nothing until one is whole.
pub(crate) fn take_frame(input: &mut VecDeque<u8>) -> Result<Option<(Kind, Vec<u8>)>> {
    let header: Vec<u8> = input.iter().take(5).copied().collect();
    let [kind, length @ ..] = header.as_slice() else {
        return Ok(None);
    };
    let Ok(length) = <[u8; 4]>::try_from(length) else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(length) as usize;
    let kind =
        Kind::of(*kind).ok_or_else(|| Error::new(format!("frame of unknown kind {kind}")))?;
    if length > FRAME_BYTES_MAX {
        return Err(Error::new(format!("frame of {length} bytes")));
    }
    if input.len() < header.len() + length {
        return Ok(None);
    }
    input.drain(..header.len());
    Ok(Some((kind, input.drain(..length).collect())))
}

/// A conversation.
#[derive(Debug)]
pub(crate) struct Session {
    fd: OwnedFd,
    /// The virtio port it goes over: it has another conversation after this one.
    port: Option<PathBuf>,
    /// The other end is there.
    connected: bool,
    input: VecDeque<u8>,
    /// The last byte read was an [`ESCAPE`].
    escape: bool,
    next: Next,
    output: VecDeque<u8>,
    /// The last frame is in `output`, or none was asked for.
    ended: bool,
    /// The number of the last request: one that is sent again is the same.
    number: u64,
    /// Bytes of standard input that have come, and those that the client knows to be taken.
    received: u64,
    told: u64,
}

/// What `input` begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Rests of a conversation that is over, to be passed over.
    Rests,
    Request,
    Frames,
}

impl Session {
    fn new(fd: OwnedFd, port: Option<PathBuf>) -> Self {
        Self {
            fd,
            connected: port.is_none(),
            port,
            input: VecDeque::new(),
            escape: false,
            next: Next::Rests,
            output: VecDeque::new(),
            ended: false,
            number: 0,
            received: 0,
            told: 0,
        }
    }

    /// Accepts a conversation over the socket.
    pub(crate) fn accept(listener: &OwnedFd) -> Option<Self> {
        accept(listener).map(|fd| Self::new(fd, None))
    }

    /// Accepts a conversation from the host; whoever else knocks is hung up on.
    pub(crate) fn accept_host(listener: &OwnedFd) -> Option<Self> {
        loop {
            let fd = accept(listener)?;
            if sys::is_of_host(fd.as_fd()) {
                return Some(Self::new(fd, None));
            }
        }
    }

    /// Opens a virtio port by the name of its device; none if it is not for us.
    pub(crate) fn open_port(device: &str) -> Option<Self> {
        let name = fs::read_to_string(format!("/sys/class/virtio-ports/{device}/name")).ok()?;
        name.trim().strip_prefix(PORT_PREFIX)?;
        let path = Path::new("/dev").join(device);
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).ok()?;
        // It says with SIGIO that somebody came or went; to wait for that with poll(2) would be to
        // be woken all the time that nobody is there.
        sys::signal_io(fd.as_fd()).ok()?;
        let mut session = Self::new(fd, Some(path));
        session.look();
        Some(session)
    }

    /// Returns whether it goes over this port.
    pub(crate) fn is_port(&self, device: &str) -> bool {
        let name = self.port.as_deref().and_then(Path::file_name);
        name.is_some_and(|name| name == device)
    }

    /// Finds out whether the other end of a port has come.
    pub(crate) fn look(&mut self) {
        if self.port.is_none() || self.connected {
            return;
        }
        self.connected = !self.is_hung_up();
    }

    /// Returns what to wait for, if there is anything.
    pub(crate) fn waits(&self) -> Option<(&OwnedFd, PollFlags)> {
        let mut flags = PollFlags::IN;
        if !self.output.is_empty() {
            flags |= PollFlags::OUT;
        }
        self.connected.then_some((&self.fd, flags))
    }

    /// Returns whether it may be given more to say.
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Reads and writes what can be; false when the other end is gone or everything is said.
    pub(crate) fn pump(&mut self) -> bool {
        self.read() && self.write()
    }

    /// Returns whether the other end is gone.
    fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = rustix::time::Timespec::default();
        poll(&mut fds, Some(&now)).is_err() || fds[0].revents().contains(PollFlags::HUP)
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        while self.input.len() < INPUT_BYTES_MAX {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.take(&buffer[..n]),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        // The rest is dealt with first.
        true
    }

    /// Takes bytes as they were sent.
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (std::mem::replace(&mut self.escape, *byte == ESCAPE), *byte) {
                (true, MARK) => {
                    // What came before it is of another client, or another try.
                    self.input.clear();
                    self.next = Next::Request;
                }
                (true, ITSELF) => self.input.push_back(ESCAPE),
                (_, ESCAPE) => {}
                (_, other) => self.input.push_back(other),
            }
        }
    }

    /// Writes what can be; false as [`Self::pump`].
    pub(crate) fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            let (head, _) = self.output.as_slices();
            match rustix::io::write(&self.fd, head) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        // A port has another client after this one.
        !self.ended || self.port.is_some()
    }

    /// Returns the next thing the client said.
    pub(crate) fn said(&mut self) -> Result<Option<Said>> {
        match self.next {
            Next::Rests => {
                self.input.clear();
                Ok(None)
            }
            Next::Request => self.request(),
            Next::Frames => {
                let frame = take_frame(&mut self.input)?;
                if let Some((Kind::Stdin, bytes)) = &frame {
                    self.received += bytes.len() as u64;
                    if self.received - self.told > WINDOW_BYTES as u64 {
                        return Err(Error::new("more standard input than may be on its way"));
                    }
                }
                Ok(frame.map(|(kind, bytes)| Said::Frame(kind, bytes)))
            }
        }
    }

    fn request(&mut self) -> Result<Option<Said>> {
        let request = self.read_request();
        if request.is_err() {
            // Whatever follows is of it, up to the next mark.
            self.next = Next::Rests;
            self.input.clear();
        }
        let Some(request) = request? else {
            return Ok(None);
        };
        self.next = Next::Frames;
        if request.number != 0 && request.number == self.number {
            return self.said();
        }
        self.number = request.number;
        self.ended = false;
        (self.received, self.told) = (0, 0);
        // Of what was said to another client he has no use.
        self.output.clear();
        let number = request.number.to_le_bytes();
        self.output.extend(frame(Kind::Begin, &number));
        Ok(Some(Said::Request(request)))
    }

    fn read_request(&mut self) -> Result<Option<Request>> {
        let end = self.input.iter().position(|byte| *byte == b'\n');
        let Some(end) = end.filter(|end| *end <= REQUEST_BYTES_MAX) else {
            return match self.input.len() {
                0..=REQUEST_BYTES_MAX => Ok(None),
                _ => Err(Error::new("request too long")),
            };
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        json::parse(&line).context(|| "request").map(Some)
    }

    /// Lets the client send more, with so much of what it sent still waiting.
    pub(crate) fn tell_taken(&mut self, waiting: usize) {
        let taken = self.received - (waiting as u64).min(self.received);
        if taken - self.told.min(taken) >= WINDOW_BYTES as u64 / 4 && !self.ended {
            self.told = taken;
            self.output.extend(frame(Kind::Taken, &taken.to_le_bytes()));
        }
    }

    /// Queues output of a command.
    pub(crate) fn say(&mut self, kind: Kind, bytes: &[u8]) {
        for piece in bytes.chunks(FRAME_BYTES_MAX) {
            self.output.extend(frame(kind, piece));
        }
    }

    /// Queues the end of a command.
    pub(crate) fn end(&mut self, status: u8) {
        if !self.ended {
            self.output.extend(frame(Kind::End, &[status]));
            self.ended = true;
        }
    }

    /// Returns whether the client has had the end. Through a port it has when it hangs up.
    pub(crate) fn is_silent(&self) -> bool {
        self.ended && self.output.is_empty() && self.port.is_none()
    }

    /// Returns whether the end has been said.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Makes a port ready for its next conversation; false for a socket, which has none.
    pub(crate) fn reset(&mut self) -> bool {
        if self.port.is_none() {
            return false;
        }
        self.connected = false;
        self.ended = false;
        // A request may have come already: that is of the next client.
        if self.next != Next::Request {
            self.next = Next::Rests;
            self.input.clear();
            // One that is sent again was not answered.
            self.number = 0;
        }
        self.output.clear();
        self.look();
        true
    }
}

/// Opens the socket.
pub(crate) fn listen() -> Result<OwnedFd> {
    let path = Path::new(SOCKET);
    if let Some(directory) = path.parent() {
        crate::mounts::make_directory(&directory.to_string_lossy(), 0o700)
            .context(|| directory.display())?;
    }
    let make = || -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::STREAM;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 8)?;
        Ok(socket)
    };
    make().context(|| SOCKET)
}

/// Listens for the host, where there is a device for that.
pub(crate) fn listen_host() -> Option<OwnedFd> {
    let there = Path::new(VSOCK_DEVICE).exists();
    let opened = there.then(|| sys::listen_vsock(VSOCK_PORT));
    opened?.inspect_err(|cause| say!("vsock: {cause}")).ok()
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::accept_with(listener, flags).ok()
}

/// Returns the devices of all virtio ports that are there.
pub(crate) fn ports() -> Vec<String> {
    fs::read_dir("/sys/class/virtio-ports")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Session, OwnedFd) {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        (Session::new(ours, None), theirs)
    }

    #[test]
    fn a_conversation() {
        let (mut session, client) = pair();
        let request = marked("{\"args\":[\"ps\"],\"terminal\":[24,80],\"number\":5,\"later\":1}");
        rustix::io::write(&client, &request).unwrap();
        rustix::io::write(&client, &frame(Kind::Stdin, b"hello")[..7]).unwrap();
        assert!(session.pump());
        let expected = Request {
            args: vec!["ps".into()],
            terminal: Some((24, 80)),
            number: 5,
        };
        assert_eq!(session.said().unwrap(), Some(Said::Request(expected)));
        assert_eq!(session.said().unwrap(), None);
        rustix::io::write(&client, &frame(Kind::Stdin, b"hello")[7..]).unwrap();
        assert!(session.pump());
        let hello = Said::Frame(Kind::Stdin, b"hello".to_vec());
        assert_eq!(session.said().unwrap(), Some(hello));
        session.say(Kind::Stdout, b"out");
        session.end(3);
        session.end(4);
        assert!(!session.pump(), "everything is said");
        let mut buffer = [0; 100];
        let n = rustix::io::read(&client, &mut buffer).unwrap();
        assert_eq!(
            buffer[..n],
            [
                &frame(Kind::Begin, &5_u64.to_le_bytes())[..],
                &frame(Kind::Stdout, b"out"),
                &frame(Kind::End, &[3])
            ]
            .concat()
        );
    }

    #[test]
    fn a_client_that_talks_nonsense_or_too_much_is_refused() {
        let fine = "{\"args\":[\"a\"]}";
        for bad in [
            marked("nonsense"),
            marked("{}"),
            [marked(fine), b"\x09\0\0\0\0".to_vec()].concat(),
            [marked(fine), escaped(b"\x03\xff\xff\xff\xff")].concat(),
            marked(&"a".repeat(REQUEST_BYTES_MAX + 1)),
        ] {
            let (mut session, client) = pair();
            assert_eq!(rustix::io::write(&client, &bad), Ok(bad.len()));
            assert!(session.pump());
            let mut said = session.said();
            if let Ok(Some(Said::Request(_))) = said {
                said = session.said();
            }
            assert!(said.is_err(), "{bad:?}");
            // The next one is heard.
            session.take(&marked(fine));
            assert!(matches!(session.said(), Ok(Some(Said::Request(_)))));
        }
        // Who does not keep to the window.
        let (mut session, _client) = pair();
        session.take(&marked(fine));
        session.said().unwrap();
        let full = escaped(&frame(Kind::Stdin, &vec![b'a'; FRAME_BYTES_MAX]));
        for _ in 0..WINDOW_BYTES / FRAME_BYTES_MAX {
            session.take(&full);
            session.said().unwrap();
        }
        session.take(&full);
        assert!(session.said().is_err());
    }

    #[test]
    fn the_next_client_is_heard_whatever_the_last_one_left() {
        let request = |number: u64| marked(&format!("{{\"args\":[\"ps\"],\"number\":{number}}}"));
        let input = escaped(&frame(Kind::Stdin, &[ESCAPE; 300]));
        for left in 0..input.len() {
            let (mut session, _client) = pair();
            session.take(b"rests of somebody");
            session.take(&request(1));
            assert!(matches!(session.said(), Ok(Some(Said::Request(_)))));
            session.take(&input[..left]);
            let _ = session.said();
            session.take(&request(2));
            let said = session.said();
            assert!(
                matches!(&said, Ok(Some(Said::Request(r))) if r.number == 2),
                "{said:?}"
            );
            // One that is sent again is the same.
            session.take(&request(2));
            session.take(&input);
            let frame = Said::Frame(Kind::Stdin, vec![ESCAPE; 300]);
            assert_eq!(session.said(), Ok(Some(frame)));
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(all in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..300), 0..5), cut in 1..50_usize) {
            let bytes: Vec<u8> = all.iter().flat_map(|bytes| frame(Kind::Stdin, bytes)).collect();
            let (mut input, mut out) = (VecDeque::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                input.extend(piece);
                while let Some((kind, bytes)) = take_frame(&mut input).unwrap() {
                    prop_assert_eq!(kind, Kind::Stdin);
                    out.push(bytes);
                }
            }
            prop_assert_eq!(out, all);
        }

        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>) {
            let (mut session, _client) = pair();
            session.take(&marked("{\"args\":[]}"));
            session.take(&bytes);
            while let Ok(Some(_)) = session.said() {}
        }
    }
}
