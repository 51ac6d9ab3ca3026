//! Kernel uevents: devices that appear after boot, for their modules and for the network.
//!
//! In: datagrams of `NETLINK_KOBJECT_UEVENT` group 1 (the kernel's own, not udev's): a header
//! `action@path`, then `KEY=value` strings, each ended by NUL (`lib/kobject_uevent.c`).

use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SocketFlags};

use crate::error::Result;
use crate::netlink;

/// `NETLINK_KOBJECT_UEVENT`.
const PROTOCOL: i32 = 15;

/// What we care about in an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A device that wants a driver.
    Modalias(Vec<u8>),
    /// A network interface.
    Interface,
    /// A virtio serial port, which has a name now: its device.
    Port(String),
    /// There is vsock(7) now.
    Vsock,
}

/// A subscription.
#[derive(Debug)]
pub(crate) struct Uevents {
    /// Readable when something happened.
    pub(crate) socket: OwnedFd,
}

impl Uevents {
    /// Subscribes to the kernel's events.
    pub(crate) fn open() -> Result<Self> {
        let socket = netlink::socket(PROTOCOL, 1, SocketFlags::NONBLOCK)?;
        Ok(Self { socket })
    }

    /// Reads all waiting events.
    pub(crate) fn read(&self) -> Vec<Event> {
        let mut buffer = [0; 8192];
        let mut all = Vec::new();
        while let Ok((length, _)) =
            rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
        {
            all.extend(parse(&buffer[..length.min(buffer.len())]));
        }
        all
    }
}

fn parse(datagram: &[u8]) -> Option<Event> {
    let mut strings = datagram.split(|b| *b == 0);
    let header = strings.next()?;
    let value = |key: &[u8]| {
        let mut all = strings.clone();
        all.find_map(|s| s.strip_prefix(key)?.strip_prefix(b"="))
    };
    // A port gets its name after it was added (`drivers/char/virtio_console.c`).
    if header.starts_with(b"change@") && value(b"SUBSYSTEM")? == b"virtio-ports" {
        let device = str::from_utf8(value(b"DEVNAME")?).ok()?;
        return Some(Event::Port(device.to_owned()));
    }
    if !header.starts_with(b"add@") {
        return None;
    }
    if let Some(modalias) = value(b"MODALIAS") {
        return Some(Event::Modalias(modalias.to_vec()));
    }
    match value(b"SUBSYSTEM")? {
        b"net" => Some(Event::Interface),
        b"misc" if value(b"DEVNAME")? == b"vsock" => Some(Event::Vsock),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn devices_and_interfaces() {
        let device = b"add@/devices/pci0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v1\0SEQNUM=1\0";
        assert_eq!(parse(device), Some(Event::Modalias(b"pci:v1".to_vec())));
        let net = b"add@/devices/x/net/eth0\0ACTION=add\0SUBSYSTEM=net\0INTERFACE=eth0\0";
        assert_eq!(parse(net), Some(Event::Interface));
        let port = b"change@/x/vport1p1\0ACTION=change\0SUBSYSTEM=virtio-ports\0DEVNAME=vport1p1\0";
        assert_eq!(parse(port), Some(Event::Port("vport1p1".to_owned())));
        let vsock = b"add@/devices/virtual/misc/vsock\0SUBSYSTEM=misc\0MAJOR=10\0DEVNAME=vsock\0";
        assert_eq!(parse(vsock), Some(Event::Vsock));
        assert_eq!(parse(b"add@/x\0SUBSYSTEM=misc\0DEVNAME=kvm\0"), None);
        assert_eq!(parse(b"change@/x\0SUBSYSTEM=net\0"), None);
        assert_eq!(parse(b"remove@/x\0MODALIAS=a\0"), None);
        assert_eq!(parse(b"libudev\0\xfe\xed"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
