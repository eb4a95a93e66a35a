// SPDX-License-Identifier: Apache-2.0
//! Sockets on an interface: port 67, and 4011 where firmware asks a proxy again.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use unmoor_images::{Error, Monitor, Result};

use super::answer::{PROXY, Responder, SERVER};
use super::client::Client;
use super::packet::Packet;

/// Largest datagram.
const MOST: usize = 65_536;
const TICK: Duration = Duration::from_millis(250);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The interface, "eth1". Messages of others are not seen, and answers go out nowhere else.
    pub interface: String,
}

/// A server that listens.
pub struct Server {
    sockets: Vec<(u16, UdpSocket)>,
    responder: Responder,
}

impl Server {
    /// Listens. Takes CAP_NET_BIND_SERVICE, and CAP_NET_RAW for the interface.
    ///
    /// # Errors
    ///
    /// `Io` where a port is taken: by another DHCP server of this host.
    pub fn bind(settings: &Settings, responder: Responder) -> Result<Self> {
        let listen = |port| Ok((port, open(&settings.interface, port)?));
        Ok(Self { sockets: [SERVER, PROXY].into_iter().map(listen).collect::<Result<_>>()?, responder })
    }

    /// Answers until the monitor is cancelled. What cannot be read or sent is told, and no reason to end.
    pub fn serve(&mut self, monitor: &dyn Monitor) -> Result<()> {
        let mut buffer = vec![0; MOST];
        while !monitor.cancelled() {
            let mut waiting: Vec<PollFd<'_>> = self
                .sockets
                .iter()
                .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            let tick = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
            match poll(&mut waiting, tick) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Error::io("waiting for DHCP messages", error.into())),
            }
            for index in 0..self.sockets.len() {
                // A flood must not keep the other port from being looked at.
                for _ in 0..64 {
                    let Some((port, socket)) = self.sockets.get(index) else { break };
                    let Ok((len, SocketAddr::V4(from))) = socket.recv_from(&mut buffer) else { break };
                    let (port, data) = (*port, buffer.get(..len).unwrap_or_default());
                    // Most of what is broadcast here is somebody else's.
                    let Ok(packet) = Packet::parse(data) else { continue };
                    self.handle(&packet, (port, from), index, monitor);
                }
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        packet: &Packet,
        (port, from): (u16, SocketAddrV4),
        index: usize,
        monitor: &dyn Monitor,
    ) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let answer = match self.responder.answer(packet, (port, from), now) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(error) => return monitor.warn(error.chain()),
        };
        let Some((_, socket)) = self.sockets.get(index) else { return };
        let sent = answer.packet.encode().and_then(|data| {
            socket
                .send_to(&data, answer.to)
                .map_err(|error| Error::io(format!("answering {}", answer.to), error))
        });
        match (sent, Client::of(packet)) {
            (Err(error), _) => monitor.warn(error.chain()),
            (Ok(_), Some(client)) => {
                let file = Some(answer.packet.file.as_str()).filter(|file| !file.is_empty());
                let address = Some(answer.packet.yiaddr).filter(|address| !address.is_unspecified());
                let address = address.map(|address| format!(" gets {address}")).unwrap_or_default();
                let file = file.map(|file| format!(" loads {file:?}")).unwrap_or_default();
                monitor.note(format!("{client}{address}{file}"));
            }
            (Ok(_), None) => {}
        }
    }
}

fn open(interface: &str, port: u16) -> Result<UdpSocket> {
    let failed = |error: nix::errno::Errno| {
        Error::io(format!("listening for DHCP on {interface}, port {port}"), error.into())
    };
    let socket =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    setsockopt(&socket, sockopt::Broadcast, &true).map_err(failed)?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into()).map_err(failed)?;
    // A broadcast reaches only what listens on all addresses.
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    bind(socket.as_raw_fd(), &any).map_err(failed)?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true).map_err(|error| Error::io("listening for DHCP", error))?;
    Ok(socket)
}
