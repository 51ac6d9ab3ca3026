//! The power button, by the kernel's ACPI events (generic netlink family `acpi_event`).
//!
//! Chosen over `/dev/input`: one socket hears every button, whenever its driver arrives, and no
//! module but `button` is needed; evdev would need a second module and a watch for new devices.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvFlags, SocketFlags};

use crate::error::{Context, Result};
use crate::netlink;

/// `struct acpi_genl_event` (`drivers/acpi/event.c`): device class of 20 bytes, bus id of 15.
const DEVICE_CLASS_BYTES: usize = 20;
/// `ACPI_GENL_ATTR_EVENT`.
const ATTR_EVENT: u16 = 1;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS_BYTES: usize = 20;

/// A subscription to ACPI events.
#[derive(Debug)]
pub(crate) struct Button {
    /// Readable when something happened.
    pub(crate) socket: OwnedFd,
}

impl Button {
    /// Subscribes; an error on machines without ACPI.
    pub(crate) fn open() -> Result<Self> {
        let group = netlink::multicast_group("acpi_event", "acpi_mc_group")?;
        let socket = netlink::socket(libc::NETLINK_GENERIC, 0, SocketFlags::NONBLOCK)?;
        crate::sys::join_netlink_group(socket.as_fd(), group).context(|| "acpi_event")?;
        Ok(Self { socket })
    }

    /// Reads all waiting events; returns whether the button was pressed.
    pub(crate) fn pressed(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut pressed = false;
        while let Ok((length, _)) =
            rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
        {
            pressed |= is_power_button(&buffer[..length.min(buffer.len())]);
        }
        pressed
    }
}

fn is_power_button(message: &[u8]) -> bool {
    let Some(payload) = message.get(HEADERS_BYTES..) else {
        return false;
    };
    netlink::attributes(payload).any(|(kind, event)| {
        let class = &event[..event.len().min(DEVICE_CLASS_BYTES)];
        kind == ATTR_EVENT && class.starts_with(b"button/power")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_power_button() {
        let event = |class: &[u8]| {
            let mut message = vec![0; HEADERS_BYTES];
            message.extend_from_slice(&48u16.to_ne_bytes());
            message.extend_from_slice(&ATTR_EVENT.to_ne_bytes());
            message.extend_from_slice(class);
            message.resize(HEADERS_BYTES + 48, 0);
            message
        };
        assert!(is_power_button(&event(b"button/power")));
        assert!(!is_power_button(&event(b"button/sleep")));
        assert!(!is_power_button(b"short"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>) {
            let _ = is_power_button(&bytes);
        }
    }
}
