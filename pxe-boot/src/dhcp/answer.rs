// SPDX-License-Identifier: Apache-2.0
//! What is answered to whom.
//!
//! Beside another DHCP server (`Role::Proxy`) only boot files are told, to machines that ask for one, and no address is ever given:
//! PXE specification 2.1, section 2.2. As the network's server both come in one answer.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use unmoor_images::Result;

use super::client::{Client, Loader};
use super::leases::Pool;
use super::options::{
    BOOT_FILE, DNS, LEASE_TIME, MACHINE_ID, MESSAGE, MESSAGE_TYPE, REQUESTED_ADDRESS, ROUTER, SERVER_ID,
    SUBNET_MASK, TFTP_SERVER, VENDOR, VENDOR_CLASS, message,
};
use super::packet::Packet;

/// The port of servers, and of clients.
pub(super) const SERVER: u16 = 67;
pub(super) const CLIENT: u16 = 68;
/// Where a proxy is asked again.
pub(super) const PROXY: u16 = 4011;
/// PXE option 6, "discovery control": bit 3, take the boot file of this answer and look for no other server.
const DISCOVERY_CONTROL: [u8; 4] = [6, 1, 8, 255];

/// What a machine is to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Where from.
    pub server: Ipv4Addr,
    /// The file by TFTP, or a URL for [`Loader::Http`] and [`Loader::Ipxe`].
    pub file: String,
}

/// Who decides what a machine loads.
pub trait Menu: Send + Sync {
    /// None where it is not to start from here.
    fn boot(&self, client: &Client) -> Option<Boot>;
}

/// What clients are told of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Mask of the addresses that are given.
    pub mask: Ipv4Addr,
    /// Where other networks are reached, if they are.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is given for.
    pub lease: Duration,
}

/// What this server is to the network.
pub enum Role {
    /// Another server gives addresses.
    Proxy,
    /// This one does, and no other.
    Server(Network, Box<Pool>),
}

/// Answers messages.
pub struct Responder {
    /// This server's address.
    pub address: Ipv4Addr,
    /// What it is to the network.
    pub role: Role,
    /// Who decides.
    pub menu: Box<dyn Menu>,
}

/// An answer and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) packet: Packet,
    pub(super) to: SocketAddrV4,
}

impl Responder {
    /// Answers a message that came to `port` from `from`; none where it is not for this server. `now` is seconds since the epoch.
    ///
    /// # Errors
    ///
    /// As the pool where leases cannot be kept.
    pub(super) fn answer(
        &mut self,
        packet: &Packet,
        (port, from): (u16, SocketAddrV4),
        now: u64,
    ) -> Result<Option<Answer>> {
        let Some(client) = Client::of(packet) else { return Ok(None) };
        // What is meant for another server is none of our business, but for the end of our own offer.
        let server = packet.address(SERVER_ID);
        if port == PROXY {
            return Ok(self.proxied(packet, &client, from));
        }
        match &mut self.role {
            Role::Proxy => Ok(self.proxy_offer(packet, &client)),
            Role::Server(network, pool) => {
                let kind = match client.message {
                    message::DISCOVER => {
                        let wanted = packet.address(REQUESTED_ADDRESS);
                        let Some(address) = pool.offer(&client.id, wanted, now)? else { return Ok(None) };
                        (message::OFFER, Some(address))
                    }
                    message::REQUEST if server.is_some_and(|server| server != self.address) => {
                        pool.withdraw(&client.id, now);
                        return Ok(None);
                    }
                    message::REQUEST => {
                        let held = Some(packet.ciaddr).filter(|address| !address.is_unspecified());
                        let Some(wanted) = packet.address(REQUESTED_ADDRESS).or(held) else {
                            return Ok(None);
                        };
                        let until = now.saturating_add(network.lease.as_secs());
                        if pool.take(&client.id, wanted, now, until)? {
                            (message::ACK, Some(wanted))
                        } else {
                            (message::NAK, None)
                        }
                    }
                    message::DECLINE => {
                        if let Some(address) = packet.address(REQUESTED_ADDRESS) {
                            pool.decline(&client.id, address, now)?;
                        }
                        return Ok(None);
                    }
                    message::RELEASE => {
                        pool.release(&client.id, packet.ciaddr)?;
                        return Ok(None);
                    }
                    message::INFORM => (message::ACK, None),
                    _ => return Ok(None),
                };
                Ok(Some(self.given(packet, &client, kind)))
            }
        }
    }

    /// A proxy's offer: boot file, no address.
    fn proxy_offer(&self, packet: &Packet, client: &Client) -> Option<Answer> {
        if client.message != message::DISCOVER {
            return None;
        }
        let boot = self.boot(client)?;
        let mut reply = self.reply(packet, message::OFFER);
        add_boot(&mut reply, packet, client, &boot);
        Some(Answer { to: destination(packet, None), packet: reply })
    }

    /// The second question of firmware that got its address elsewhere.
    fn proxied(&self, packet: &Packet, client: &Client, from: SocketAddrV4) -> Option<Answer> {
        if !matches!(client.message, message::REQUEST | message::INFORM) {
            return None;
        }
        let boot = self.boot(client)?;
        let mut reply = self.reply(packet, message::ACK);
        reply.ciaddr = packet.ciaddr;
        add_boot(&mut reply, packet, client, &boot);
        Some(Answer { packet: reply, to: from })
    }

    fn boot(&self, client: &Client) -> Option<Boot> {
        if client.loader == Loader::None { None } else { self.menu.boot(client) }
    }

    fn reply(&self, packet: &Packet, kind: u8) -> Packet {
        let mut reply = packet.reply();
        reply.push(MESSAGE_TYPE, [kind]);
        reply.push(SERVER_ID, self.address.octets());
        reply
    }

    fn given(&self, packet: &Packet, client: &Client, (kind, address): (u8, Option<Ipv4Addr>)) -> Answer {
        let mut reply = self.reply(packet, kind);
        if kind == message::NAK {
            reply.push(MESSAGE, b"that address is not for you: ask anew".as_slice());
            // RFC 2131 section 4.3.2: the client may not be reachable where it thinks it is.
            reply.flags |= 0x8000;
            return Answer { to: destination(packet, Some(true)), packet: reply };
        }
        if let Role::Server(network, _) = &self.role {
            reply.yiaddr = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            if address.is_some() {
                reply.push(
                    LEASE_TIME,
                    (network.lease.as_secs().min(u64::from(u32::MAX)) as u32).to_be_bytes(),
                );
            } else {
                reply.ciaddr = packet.ciaddr;
            }
            reply.push(SUBNET_MASK, network.mask.octets());
            if let Some(router) = network.router {
                reply.push(ROUTER, router.octets());
            }
            if !network.dns.is_empty() {
                reply.push(DNS, network.dns.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>());
            }
        }
        if let Some(boot) = self.boot(client) {
            add_boot(&mut reply, packet, client, &boot);
        }
        Answer { to: destination(packet, None), packet: reply }
    }
}

/// The boot file, as each kind of loader looks for it.
fn add_boot(reply: &mut Packet, packet: &Packet, client: &Client, boot: &Boot) {
    reply.siaddr = boot.server;
    match client.loader {
        Loader::Http => reply.push(VENDOR_CLASS, b"HTTPClient".as_slice()),
        Loader::Pxe => {
            reply.push(VENDOR_CLASS, b"PXEClient".as_slice());
            reply.push(VENDOR, DISCOVERY_CONTROL);
        }
        // iPXE takes an offer without an address only from who is a PXE server.
        Loader::Ipxe => reply.push(VENDOR_CLASS, b"PXEClient".as_slice()),
        Loader::None => {}
    }
    if let Some(id) = packet.option(MACHINE_ID) {
        reply.push(MACHINE_ID, id);
    }
    reply.push(TFTP_SERVER, boot.server.to_string().into_bytes());
    // The field is what old ROMs read; what is longer stands in the option alone.
    if boot.file.len() < 128 {
        reply.file.clone_from(&boot.file);
    }
    reply.push(BOOT_FILE, boot.file.as_bytes());
}

/// RFC 2131 section 4.1. A client without an address cannot be sent to by IP alone, so that it gets a broadcast.
fn destination(packet: &Packet, broadcast: Option<bool>) -> SocketAddrV4 {
    if !packet.giaddr.is_unspecified() {
        SocketAddrV4::new(packet.giaddr, SERVER)
    } else if !packet.ciaddr.is_unspecified() && !broadcast.unwrap_or(packet.wants_broadcast()) {
        SocketAddrV4::new(packet.ciaddr, CLIENT)
    } else {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT)
    }
}
