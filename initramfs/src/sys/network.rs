// SPDX-License-Identifier: Apache-2.0
//! Network interfaces: up, an address, a route (netdevice(7)); and IPv4 packets to and from one that has no address (packet(7)).

use std::io::Error as IoError;
use std::mem::{size_of, zeroed};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_ulong, sockaddr, sockaddr_in, sockaddr_ll};
use unmoor_images::{Error, Result};

/// EtherType of IPv4 (IEEE 802 Numbers).
const IPV4: u16 = 0x0800;

fn last(doing: &'static str, name: &str) -> Error {
    Error::io(doing, IoError::last_os_error()).path(name)
}

fn socket(domain: c_int, kind: c_int, protocol: c_int) -> std::io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers; what it returns, if not negative, is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(IoError::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A request about the interface `name`.
fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data, valid with all bytes zero.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(Error::malformed("naming a network interface", format!("{name:?} is no name of one")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn control(name: &str, doing: &'static str, number: c_ulong, request: &mut libc::ifreq) -> Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(|error| Error::io(doing, error))?;
    // SAFETY: all requests that are passed here read or write one ifreq, which the reference is.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), number, std::ptr::from_mut(request)) };
    if done < 0 { Err(last(doing, name)) } else { Ok(()) }
}

/// Brings an interface up.
pub(crate) fn bring_up(name: &str) -> Result<()> {
    let doing = "bringing up the network interface";
    let mut ask = request(name)?;
    control(name, doing, libc::SIOCGIFFLAGS, &mut ask)?;
    // SAFETY: SIOCGIFFLAGS has filled in the flags.
    let flags = unsafe { ask.ifr_ifru.ifru_flags };
    ask.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    control(name, doing, libc::SIOCSIFFLAGS, &mut ask)
}

fn index(name: &str) -> Result<c_int> {
    let mut ask = request(name)?;
    control(name, "looking for the network interface", libc::SIOCGIFINDEX, &mut ask)?;
    // SAFETY: SIOCGIFINDEX has filled in the index.
    Ok(unsafe { ask.ifr_ifru.ifru_ifindex })
}

fn internet(address: Ipv4Addr) -> sockaddr {
    // SAFETY: both are plain old data of 16 bytes (ip(7), sockaddr(3type)).
    unsafe {
        let mut internet: sockaddr_in = zeroed();
        internet.sin_family = libc::AF_INET as libc::sa_family_t;
        internet.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
        std::mem::transmute::<sockaddr_in, sockaddr>(internet)
    }
}

/// Gives an interface its address.
pub(crate) fn set_address(name: &str, address: Ipv4Addr, mask: Ipv4Addr) -> Result<()> {
    for (number, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        let mut ask = request(name)?;
        ask.ifr_ifru.ifru_addr = internet(value);
        control(name, "setting the address of the network interface", number, &mut ask)?;
    }
    Ok(())
}

/// The default route. One that is there already stays.
pub(crate) fn set_default_route(name: &str, gateway: Ipv4Addr) -> Result<()> {
    let doing = "setting the default route";
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(|error| Error::io(doing, error))?;
    // SAFETY: rtentry is plain old data, valid with all bytes zero; the kernel reads it during the call.
    let done = unsafe {
        let mut route: libc::rtentry = zeroed();
        route.rt_dst = internet(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = internet(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = internet(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw mut route)
    };
    if done < 0 && IoError::last_os_error().raw_os_error() != Some(libc::EEXIST) {
        return Err(last(doing, name));
    }
    Ok(())
}

/// IPv4 packets of one interface, headers included.
pub(crate) struct Packets {
    socket: OwnedFd,
    index: c_int,
}

impl Packets {
    /// Opens the interface, which must be up to be of use.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let doing = "opening the network interface";
        let index = index(name)?;
        let socket = socket(libc::AF_PACKET, libc::SOCK_DGRAM, c_int::from(IPV4.to_be()))
            .map_err(|error| Error::io(doing, error).path(name))?;
        let address = link(index);
        // SAFETY: bind reads the address' bytes, whose number it is given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound < 0 { Err(last(doing, name)) } else { Ok(Self { socket, index }) }
    }

    /// Sends a packet to everyone on the link.
    pub(crate) fn broadcast(&self, packet: &[u8]) -> std::io::Result<()> {
        let address = link(self.index);
        // SAFETY: sendto reads the packet and the address, whose lengths it is given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of::<sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(IoError::last_os_error()) } else { Ok(()) }
    }

    /// The next packet within `wait`; `None` after that.
    pub(crate) fn receive(&self, wait: Duration) -> std::io::Result<Option<Vec<u8>>> {
        let mut ready = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        let mut packet = vec![0_u8; 2048];
        // SAFETY: poll gets one pollfd; recv writes at most as many bytes as the buffer has.
        let received = unsafe {
            match libc::poll(&raw mut ready, 1, wait) {
                0 => return Ok(None),
                count if count < 0 => -1,
                _ => libc::recv(self.socket.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0),
            }
        };
        match usize::try_from(received) {
            Ok(length) => {
                packet.truncate(length);
                Ok(Some(packet))
            }
            Err(_) => Err(IoError::last_os_error()),
        }
    }
}

/// Everyone on a link, by IPv4.
fn link(index: c_int) -> sockaddr_ll {
    // SAFETY: sockaddr_ll is plain old data, valid with all bytes zero.
    let mut address: sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = IPV4.to_be();
    address.sll_ifindex = index;
    address.sll_halen = 6;
    address.sll_addr = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    address
}
