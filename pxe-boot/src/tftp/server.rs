// SPDX-License-Identifier: Apache-2.0
//! The port at which transfers are asked for.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use unmoor_images::{Error, Monitor, Result};

use super::packet::{self, Options, Packet, Problem};
use super::source::{Files, Opened};
use super::transfer::{self, End};

const TICK: Duration = Duration::from_millis(250);

/// What a network may take of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Transfers at a time.
    pub transfers: usize,
    /// Of them, to one address.
    pub of_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { transfers: 256, of_client: 8 }
    }
}

/// A server that listens.
pub struct Server {
    socket: UdpSocket,
    address: SocketAddr,
    limits: Limits,
}

/// Transfers that run, by client.
type Running = Mutex<HashMap<IpAddr, usize>>;

impl Server {
    /// Listens at an address of this host; firmware asks port 69. Replies come from that address, so that it has to be one, not all.
    ///
    /// # Errors
    ///
    /// `Io` where the port is taken; `Usage` for the address that means all.
    pub fn bind(address: SocketAddr, limits: Limits) -> Result<Self> {
        let failed = |error| Error::io(format!("listening for TFTP on {address}"), error);
        if address.ip().is_unspecified() {
            return Err(Error::new(
                unmoor_images::ErrorKind::Usage,
                format!("listening for TFTP on {address}"),
            )
            .because("replies have to come from the address that was asked: name one address of this host"));
        }
        let socket = UdpSocket::bind(address).map_err(failed)?;
        socket.set_read_timeout(Some(TICK)).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address, limits })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the monitor is cancelled; transfers that run end with it.
    pub fn serve(&self, files: &dyn Files, monitor: &dyn Monitor) -> Result<()> {
        let running = Running::default();
        let mut buffer = [0; 2048];
        std::thread::scope(|scope| {
            while !monitor.cancelled() {
                let (len, client) = match self.socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                        ) =>
                    {
                        continue;
                    }
                    // An earlier answer that did not arrive is told here.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                    Err(error) => return Err(Error::io("receiving TFTP messages", error)),
                };
                let (name, options) = match Packet::parse(buffer.get(..len).unwrap_or_default()) {
                    Ok(Packet::Read { name, options }) => (name, options),
                    Ok(Packet::Write) => {
                        self.refuse(client, Problem::Forbidden, "nothing is written here");
                        continue;
                    }
                    Ok(Packet::Ack(_)) => {
                        self.refuse(client, Problem::UnknownTransfer, "this port has no transfers");
                        continue;
                    }
                    // An error is not answered by an error.
                    Ok(Packet::Error { .. }) => continue,
                    Err(_) => {
                        self.refuse(client, Problem::Illegal, "this is no request");
                        continue;
                    }
                };
                if !self.admit(&running, client.ip()) {
                    self.refuse(client, Problem::Other, "too many transfers: try again later");
                    continue;
                }
                let running = &running;
                scope.spawn(move || {
                    self.transfer(&name, &options, client, files, monitor);
                    leave(running, client.ip());
                });
            }
            Ok(())
        })
    }

    fn admit(&self, running: &Running, client: IpAddr) -> bool {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = running.values().sum();
        let own = running.get(&client).copied().unwrap_or(0);
        let admitted = all < self.limits.transfers && own < self.limits.of_client;
        if admitted {
            running.insert(client, own + 1);
        }
        admitted
    }

    fn refuse(&self, client: SocketAddr, problem: Problem, text: &str) {
        // Whoever asked in vain asks again.
        let _ = self.socket.send_to(&packet::error(problem, text), client);
    }

    fn transfer(
        &self,
        name: &str,
        options: &Options,
        client: SocketAddr,
        files: &dyn Files,
        monitor: &dyn Monitor,
    ) {
        let opened = match files.open(name, client.ip()) {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                monitor.note(format!("{client}: {name:.200?} is not there"));
                return self.refuse(client, Problem::NotFound, "there is no such file");
            }
            Err(error) => {
                monitor.warn(format!("{client}: {}", error.chain()));
                return self.refuse(client, Problem::Other, "the file cannot be read");
            }
        };
        let size = opened.size();
        match self.send(&opened, options, client, monitor) {
            Ok(End::Complete) => monitor.note(format!("{client}: {name:.200?}, {size} bytes")),
            // Firmware asks for the size first, and then anew.
            Ok(End::Refused) => {}
            Ok(End::Silent) => {
                monitor.note(format!("{client}: {name:.200?}: the client does not answer any more"));
            }
            Err(error) => monitor.warn(format!("{client}: sending {name:.200?}: {error}")),
        }
    }

    fn send(
        &self,
        opened: &Opened,
        options: &Options,
        client: SocketAddr,
        monitor: &dyn Monitor,
    ) -> io::Result<End> {
        let socket = UdpSocket::bind((self.address.ip(), 0))?;
        socket.connect(client)?;
        transfer::send(&socket, opened, options, monitor)
    }
}

fn leave(running: &Running, client: IpAddr) {
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(own) = running.get_mut(&client) {
        *own = own.saturating_sub(1);
        if *own == 0 {
            running.remove(&client);
        }
    }
}
