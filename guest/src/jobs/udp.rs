//! One question over UDP: a message out, the first message that answers it in.
//!
//! In: who to ask, what, and what counts as an answer. Only the server asked can answer, since
//! the socket is connected to it; what it sends that is no answer is passed over.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// Longest message read; more is cut off.
const MESSAGE_BYTES_MAX: usize = 512;

/// Sends a message and hands what comes back to `accept`, until that is content.
pub(super) fn ask(
    server: SocketAddr,
    message: &[u8],
    timeout: Duration,
    accept: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context(|| "socket")?;
    socket.connect(server).context(|| "connect")?;
    socket.send(message).context(|| "send")?;
    let end = Instant::now() + timeout;
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new("no answer"));
        }
        socket.set_read_timeout(Some(left)).context(|| "timeout")?;
        match socket.recv(&mut buffer) {
            Ok(count) if accept(buffer.get(..count).unwrap_or_default()) => return Ok(()),
            Ok(_) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(cause) => return Err(cause).context(|| "receive"),
        }
    }
}
