// SPDX-License-Identifier: Apache-2.0
//! The message itself (RFC 2131 section 2). Long options come in pieces (RFC 3396), and may go on in `file` and `sname`.

use std::net::Ipv4Addr;

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

use super::options::OVERLOAD;

/// Bytes before the options, cookie included.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP relays and some ROMs drop shorter ones (RFC 1542 section 2.1).
const LEAST: usize = 300;
const PAD: u8 = 0;
const END: u8 = 255;
/// Bytes of an option's piece at most.
const PIECE: usize = 255;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A client.
    Request,
    /// A server.
    Reply,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who speaks.
    pub op: Op,
    /// Of the hardware's address; 1 is Ethernet.
    pub hardware_type: u8,
    /// Relays that it passed.
    pub hops: u8,
    /// Chosen by the client.
    pub xid: u32,
    /// Since the client began.
    pub secs: u16,
    /// The highest bit asks for a broadcast.
    pub flags: u16,
    /// The client's address, where it has one.
    pub ciaddr: Ipv4Addr,
    /// The address that the client gets.
    pub yiaddr: Ipv4Addr,
    /// Where the boot file is.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The hardware's address, 16 bytes at most.
    pub hardware: Vec<u8>,
    /// The server's name.
    pub sname: String,
    /// The boot file.
    pub file: String,
    /// In their order, each code once.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Packet {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// `Malformed` where it is no DHCP message: too short, without the cookie, an option that goes beyond the end.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let bytes = Bytes::new(data, "DHCP message");
        let address = |at| bytes.u32_be(at).map(Ipv4Addr::from_bits);
        let op = match bytes.u8(0)? {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(malformed(format!("its operation is {other}"))),
        };
        let length = usize::from(bytes.u8(2)?);
        if length > 16 {
            return Err(malformed(format!("its hardware address has {length} bytes")));
        }
        if bytes.slice(236, 4)? != COOKIE {
            return Err(malformed("the cookie is missing: this is BOOTP, or nothing at all".to_owned()));
        }
        let mut options = Options::default();
        options.read(bytes.slice(FIXED, data.len().saturating_sub(FIXED))?)?;
        let (sname, file) = (bytes.slice(44, 64)?, bytes.slice(108, 128)?);
        let overload = options.get(OVERLOAD).and_then(|value| value.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            options.read(file)?;
        }
        if overload & 2 != 0 {
            options.read(sname)?;
        }
        let text = |raw, hidden: bool| {
            if hidden { String::new() } else { unmoor_images::parse::c_text(raw) }
        };
        options.0.retain(|(code, _)| *code != OVERLOAD);
        Ok(Self {
            op,
            hardware_type: bytes.u8(1)?,
            hops: bytes.u8(3)?,
            xid: bytes.u32_be(4)?,
            secs: bytes.u16_be(8)?,
            flags: bytes.u16_be(10)?,
            ciaddr: address(12)?,
            yiaddr: address(16)?,
            siaddr: address(20)?,
            giaddr: address(24)?,
            hardware: bytes.slice(28, length)?.to_vec(),
            sname: text(sname, overload & 2 != 0),
            file: text(file, overload & 1 != 0),
            options: options.0,
        })
    }

    /// A reply to this message: its transaction, its client, its relay; nothing else yet.
    pub fn reply(&self) -> Self {
        Self {
            op: Op::Reply,
            hops: 0,
            secs: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            sname: String::new(),
            file: String::new(),
            options: Vec::new(),
            ..self.clone()
        }
    }

    /// The datagram. Options keep their order: some ROMs want the message's type and the server before anything else.
    ///
    /// # Errors
    ///
    /// `Unsupported` where a name is longer than its field.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut data = Vec::with_capacity(LEAST);
        data.push(match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        });
        data.push(self.hardware_type);
        data.push(self.hardware.len().min(16) as u8);
        data.push(self.hops);
        data.extend(self.xid.to_be_bytes());
        data.extend(self.secs.to_be_bytes());
        data.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            data.extend(address.octets());
        }
        field(&mut data, &self.hardware, 16)?;
        field(&mut data, self.sname.as_bytes(), 64)?;
        field(&mut data, self.file.as_bytes(), 128)?;
        data.extend(COOKIE);
        for (code, value) in &self.options {
            // An empty option is one piece of no bytes.
            let pieces = value.chunks(PIECE).chain(value.is_empty().then_some(&[][..]));
            for piece in pieces {
                data.extend([*code, piece.len() as u8]);
                data.extend(piece);
            }
        }
        data.push(END);
        data.resize(data.len().max(LEAST), PAD);
        Ok(data)
    }

    /// An option's bytes.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice())
    }

    /// An option that is one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(octets.into())
    }

    /// An option that is text.
    pub fn text(&self, code: u8) -> Option<String> {
        self.option(code).map(unmoor_images::parse::c_text)
    }

    /// Puts an option at the end.
    pub fn push(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        self.options.push((code, value.into()));
    }

    /// True if the client asked for a broadcast.
    pub fn wants_broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }
}

fn malformed(because: String) -> Error {
    Error::malformed("reading a DHCP message", because)
}

/// A field of `len` bytes. One that is full has no NUL at its end, which ROMs do not expect.
fn field(data: &mut Vec<u8>, value: &[u8], len: usize) -> Result<()> {
    if value.len() > len || (len > 16 && value.len() == len) {
        return Err(Error::unsupported(
            "writing a DHCP message",
            format!("{:?} has more than {len} bytes", String::from_utf8_lossy(value)),
        ));
    }
    data.extend(value);
    data.resize(data.len() + len - value.len(), 0);
    Ok(())
}

#[derive(Default)]
struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    fn read(&mut self, area: &[u8]) -> Result<()> {
        let area = Bytes::new(area, "DHCP options");
        let mut at = 0;
        while at < area.len() {
            let code = area.u8(at)?;
            at += 1;
            match code {
                PAD => {}
                END => break,
                _ => {
                    let len = usize::from(area.u8(at)?);
                    let value = area.slice(at + 1, len)?;
                    at += 1 + len;
                    match self.0.iter_mut().find(|(known, _)| *known == code) {
                        Some((_, known)) => known.extend(value),
                        None => self.0.push((code, value.to_vec())),
                    }
                }
            }
        }
        Ok(())
    }

    fn get(&self, code: u8) -> Option<&Vec<u8>> {
        self.0.iter().find(|(known, _)| *known == code).map(|(_, value)| value)
    }
}
