// SPDX-License-Identifier: Apache-2.0
//! Uevents: what the kernel says of devices that come and go, by netlink (lib/kobject_uevent.c).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use unmoor_images::{Error, Result};

/// The kernel's group; udev's own messages are in group 2.
const KERNEL_GROUP: u32 = 1;
/// The kernel's messages have at most 2 KiB (UEVENT_BUFFER_SIZE) and a path.
const LONGEST: usize = 8 << 10;

/// A socket on which they arrive.
pub(crate) struct Uevents(OwnedFd);

/// One of them.
pub(crate) struct Uevent(Vec<u8>);

impl Uevent {
    /// The value of `NAME=VALUE`.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let texts = self.0.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
        texts
            .filter_map(|text| text.split_once('='))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

impl Uevents {
    /// From here on none is missed.
    pub(crate) fn open() -> Result<Self> {
        let failed = |error: Errno| Error::io("listening to the kernel's device events", error.into());
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .map_err(failed)?;
        // Not all kernels let everyone have as much.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20));
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP)).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Waits for the next; `None` where some were lost.
    pub(crate) fn next(&self) -> Result<Option<Uevent>> {
        let mut buffer = vec![0; LONGEST];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(Some(Uevent(buffer)));
                }
                Err(Errno::ENOBUFS) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::io("listening to the kernel's device events", error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Uevent;

    #[test]
    fn values_are_found_by_name() {
        let event = Uevent(b"add@/devices/x\0ACTION=add\0MODALIAS=pci:v1=2\0\xff\0".to_vec());
        assert_eq!(event.value("ACTION"), Some("add"));
        assert_eq!(event.value("MODALIAS"), Some("pci:v1=2"));
        assert_eq!(event.value("DEVPATH"), None);
    }
}
