// SPDX-License-Identifier: Apache-2.0
//! DHCP messages (RFC 2131, RFC 2132) and the IPv4 and UDP headers around them (RFC 791, RFC 768).

use std::net::Ipv4Addr;

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const UDP: u8 = 17;
/// RFC 2131, 3: the first four bytes of the options.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where they are.
const OPTIONS: usize = 236;
/// RFC 2132, 9.6.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    /// A number of this exchange.
    pub(super) transaction: u32,
    pub(super) mac: [u8; 6],
}

/// What a server offers or grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
    pub(super) routers: Vec<Ipv4Addr>,
    pub(super) name_servers: Vec<Ipv4Addr>,
    pub(super) domain: Option<String>,
    pub(super) server: Ipv4Addr,
    /// Seconds.
    pub(super) duration: u32,
    /// Seconds after which it is to be renewed.
    pub(super) renewal: u32,
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Offer(Lease),
    Granted(Lease),
    Refused,
}

impl Client {
    /// A packet that asks who has an address.
    pub(super) fn discover(&self) -> Vec<u8> {
        self.packet(Ipv4Addr::UNSPECIFIED, &[(53, &[DISCOVER])])
    }

    /// A packet that asks for what was offered.
    pub(super) fn request(&self, lease: &Lease) -> Vec<u8> {
        let (address, server) = (lease.address.octets(), lease.server.octets());
        self.packet(Ipv4Addr::UNSPECIFIED, &[(53, &[REQUEST]), (50, &address), (54, &server)])
    }

    /// A packet that asks any server to let it keep its address (RFC 2131, 4.3.2, REBINDING).
    pub(super) fn renew(&self, lease: &Lease) -> Vec<u8> {
        self.packet(lease.address, &[(53, &[REQUEST])])
    }

    fn packet(&self, own: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut message = vec![1, 1, 6, 0];
        message.extend_from_slice(&self.transaction.to_be_bytes());
        // Seconds 0; flag "answer by broadcast", since there is no address yet that the kernel would take packets for.
        message.extend_from_slice(&[0, 0, 0x80, 0]);
        message.extend_from_slice(&own.octets());
        message.resize(28, 0);
        message.extend_from_slice(&self.mac);
        message.resize(OPTIONS, 0);
        message.extend_from_slice(&COOKIE);
        // Mask, router, name servers, domain, lease, renewal, rebinding.
        let wanted: (u8, &[u8]) = (55, &[1, 3, 6, 15, 51, 54, 58]);
        let mut id = vec![1];
        id.extend_from_slice(&self.mac);
        for (code, value) in options.iter().copied().chain([wanted, (61, id.as_slice())]) {
            message.extend_from_slice(&[code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
            message.extend_from_slice(value);
        }
        message.push(255);
        // BOOTP relays drop what is shorter than a BOOTP message (RFC 1542, 2.1).
        message.resize(message.len().max(300), 0);
        wrap(own, &message)
    }

    /// The server's answer to this client in an IPv4 packet; `None` for any other packet.
    pub(super) fn answer(&self, packet: &[u8]) -> Option<Answer> {
        self.parse(packet).ok().flatten()
    }

    fn parse(&self, packet: &[u8]) -> Result<Option<Answer>> {
        let packet = Bytes::new(packet, "a packet");
        let header = usize::from(packet.u8(0)? & 15).saturating_mul(4);
        let is_fragment = packet.u16_be(6)? & 0x3fff != 0;
        if packet.u8(0)? >> 4 != 4 || header < 20 || packet.u8(9)? != UDP || is_fragment {
            return Ok(None);
        }
        if (packet.u16_be(header)?, packet.u16_be(header.saturating_add(2))?) != (SERVER_PORT, CLIENT_PORT) {
            return Ok(None);
        }
        let start = header.saturating_add(8);
        let message = packet.sub(start, packet.len().saturating_sub(start))?;
        let is_own = message.u8(0)? == 2
            && message.u32_be(4)? == self.transaction
            && message.slice(28, 6)? == self.mac;
        if !is_own || message.slice(OPTIONS, 4)? != COOKIE {
            return Ok(None);
        }
        let options = options(message.slice(OPTIONS + 4, message.len().saturating_sub(OPTIONS + 4))?)?;
        let value =
            |code: u8| options.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice());
        let addresses = |code: u8| -> Vec<Ipv4Addr> {
            let bytes = value(code).unwrap_or_default();
            bytes
                .chunks_exact(4)
                .filter_map(|four| Some(Ipv4Addr::from(<[u8; 4]>::try_from(four).ok()?)))
                .collect()
        };
        let number =
            |code: u8| value(code).and_then(|value| Some(u32::from_be_bytes(value.try_into().ok()?)));
        let kind = value(53).and_then(|value| value.first().copied());
        if kind == Some(NAK) {
            return Ok(Some(Answer::Refused));
        }
        let address = Ipv4Addr::from(message.u32_be(16)?);
        let Some(server) = addresses(54).first().copied() else { return Ok(None) };
        if address.is_unspecified() || address.is_broadcast() || address.is_multicast() {
            return Ok(None);
        }
        let duration = number(51).unwrap_or(3600).max(60);
        let lease = Lease {
            address,
            mask: addresses(1).first().copied().unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
            routers: addresses(3),
            name_servers: addresses(6),
            domain: value(15).map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()),
            server,
            duration,
            renewal: number(58).unwrap_or(duration / 2).clamp(30, duration),
        };
        Ok(match kind {
            Some(OFFER) => Some(Answer::Offer(lease)),
            Some(ACK) => Some(Answer::Granted(lease)),
            _ => None,
        })
    }
}

/// Codes and values; a value in several parts is put together (RFC 3396).
fn options(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>> {
    let bytes = Bytes::new(bytes, "DHCP options");
    let mut found: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes.u8(at)? {
            0 => at += 1,
            255 => break,
            code => {
                let length = usize::from(bytes.u8(at + 1)?);
                let value = bytes.slice(at + 2, length)?;
                match found.iter_mut().find(|(known, _)| *known == code) {
                    Some((_, known)) => known.extend_from_slice(value),
                    None => found.push((code, value.to_vec())),
                }
                at = at.saturating_add(2 + length);
            }
        }
    }
    if found.is_empty() { Err(Error::malformed("reading DHCP options", "there are none")) } else { Ok(found) }
}

/// Puts the headers in front: from `own` to everyone.
fn wrap(own: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(message.len() + 8).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&udp.saturating_add(20).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend_from_slice(&own.octets());
    packet.extend_from_slice(&[255; 4]);
    let sum = checksum(&packet);
    packet.splice(10..12, sum.to_be_bytes());
    packet.extend_from_slice(&CLIENT_PORT.to_be_bytes());
    packet.extend_from_slice(&SERVER_PORT.to_be_bytes());
    packet.extend_from_slice(&udp.to_be_bytes());
    // No checksum, as RFC 768 allows.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(message);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const CLIENT: Client = Client { transaction: 0x1234_5678, mac: [2, 0, 0, 1, 2, 3] };

    /// A server's packet with these options.
    fn served(options: &[u8]) -> Vec<u8> {
        let mut packet = CLIENT.discover();
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet[28] = 2;
        packet[28 + 16..28 + 20].copy_from_slice(&[10, 0, 2, 15]);
        packet.truncate(28 + OPTIONS + 4);
        packet.extend_from_slice(options);
        packet
    }

    const GRANT: [u8; 41] = [
        53, 1, 5, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 4, 10, 0, 2, 3, 51, 4, 0,
        1, 0x51, 0x80, 15, 3, b'l', b'a', b'b', 0, 0, 255,
    ];

    #[test]
    fn a_grant_is_read_and_other_packets_are_not_ours() {
        let packet = served(&GRANT);
        let Some(Answer::Granted(lease)) = CLIENT.answer(&packet) else {
            panic!("{:?}", CLIENT.parse(&packet))
        };
        assert_eq!((lease.address, lease.server), (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!((lease.duration, lease.renewal, lease.domain.as_deref()), (86_400, 43_200, Some("lab")));
        assert_eq!(
            (lease.routers, lease.name_servers),
            (vec![Ipv4Addr::new(10, 0, 2, 2)], vec![Ipv4Addr::new(10, 0, 2, 3)])
        );
        assert_eq!(Client { transaction: 1, ..CLIENT }.answer(&packet), None);
        assert_eq!(CLIENT.answer(&CLIENT.discover()), None);
        assert_eq!(CLIENT.answer(&served(&[53, 1, 6, 255])), Some(Answer::Refused));
    }

    #[test]
    fn the_header_of_a_request_sums_up_to_nothing() {
        let packet = CLIENT.discover();
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    }

    #[test]
    fn hostile_packets_never_panic() {
        let packet = served(&GRANT);
        for cut in 0..packet.len() {
            let _ = CLIENT.answer(&packet[..cut]);
        }
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut damaged = packet.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(state >> 33).unwrap() % damaged.len();
                damaged[at] = (state >> 20) as u8;
            }
            let _ = CLIENT.answer(&damaged);
        }
    }
}
