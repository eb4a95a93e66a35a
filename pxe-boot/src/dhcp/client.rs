// SPDX-License-Identifier: Apache-2.0
//! Who asks: its hardware, its firmware, and which loader it runs already.

use std::fmt;

use unmoor_images::parse::{guid_bytes, uuid_text};

use super::options::{ARCHITECTURE, CLIENT_ID, MACHINE_ID, MESSAGE_TYPE, USER_CLASS, VENDOR_CLASS};
use super::packet::{Op, Packet};

/// Processor and firmware (RFC 4578 section 2.1, and IANA's "Processor Architecture Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86 with BIOS.
    Bios,
    /// 32-bit x86 with UEFI.
    UefiX86,
    /// 64-bit x86 with UEFI.
    UefiX64,
    /// 64-bit Arm with UEFI.
    UefiArm64,
    /// Something else, by its number.
    Other(u16),
}

impl Architecture {
    /// By the number of option 93; those for booting by HTTP mean the same processors.
    pub fn of(number: u16) -> Self {
        match number {
            0 => Self::Bios,
            6 | 15 => Self::UefiX86,
            // 7 is "EFI byte code", which firmware of 64-bit x86 has sent since the beginning (RFC 4578, errata 4625).
            7 | 9 | 16 => Self::UefiX64,
            11 | 19 => Self::UefiArm64,
            other => Self::Other(other),
        }
    }

    /// True for the numbers of machines that load by HTTP.
    pub fn is_http(number: u16) -> bool {
        (15..=20).contains(&number)
    }
}

/// What asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loader {
    /// Firmware that loads by TFTP.
    Pxe,
    /// Firmware that loads by HTTP.
    Http,
    /// iPXE, which takes a script.
    Ipxe,
    /// No loader: an operating system that wants an address.
    None,
}

/// A machine, as its message shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its adapter's address.
    pub hardware: Vec<u8>,
    /// SMBIOS' UUID as text, where the firmware tells one that is not all zeros or ones.
    pub uuid: Option<String>,
    /// What it is; none where it does not say.
    pub architecture: Option<Architecture>,
    /// What asks.
    pub loader: Loader,
    /// What identifies it between messages: option 61, else type and address.
    pub id: Vec<u8>,
    /// [`super::options::message`]
    pub message: u8,
}

impl Client {
    /// Of a client's message; none where it is a server's, or BOOTP's.
    pub fn of(packet: &Packet) -> Option<Self> {
        let message = packet.option(MESSAGE_TYPE)?.first().copied()?;
        if packet.op != Op::Request || packet.hardware.is_empty() {
            return None;
        }
        let number = packet.option(ARCHITECTURE).and_then(|value| {
            let [high, low, ..] = value else { return None };
            Some(u16::from_be_bytes([*high, *low]))
        });
        let class = packet.text(VENDOR_CLASS).unwrap_or_default();
        let number = number.or_else(|| class.split_once(":Arch:")?.1.get(..5)?.parse().ok());
        let user = packet.option(USER_CLASS).unwrap_or_default();
        // RFC 3004 puts lengths in front, which iPXE does not.
        let ipxe = user == b"iPXE" || user == b"\x04iPXE";
        let loader = if ipxe {
            Loader::Ipxe
        } else if class.starts_with("HTTPClient") || number.is_some_and(Architecture::is_http) {
            Loader::Http
        } else if class.starts_with("PXEClient") {
            Loader::Pxe
        } else {
            Loader::None
        };
        let id = packet.option(CLIENT_ID).map(<[u8]>::to_vec).unwrap_or_else(|| {
            let mut id = vec![packet.hardware_type];
            id.extend(&packet.hardware);
            id
        });
        Some(Self {
            hardware: packet.hardware.clone(),
            uuid: packet.option(MACHINE_ID).and_then(uuid),
            architecture: number.map(Architecture::of),
            loader,
            id,
            message,
        })
    }

    /// "52:54:00:12:34:56"
    pub fn mac(&self) -> String {
        let bytes: Vec<String> = self.hardware.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}", self.mac(), self.loader)?;
        self.architecture.map_or(Ok(()), |architecture| write!(f, ", {architecture:?}"))?;
        f.write_str(")")
    }
}

/// The first three fields are little-endian, as SMBIOS has them since 2.6.
fn uuid(value: &[u8]) -> Option<String> {
    let (0, raw) = (*value.first()?, value.get(1..17)?) else { return None };
    let raw: [u8; 16] = raw.try_into().ok()?;
    let told = raw.iter().any(|byte| *byte != 0) && raw.iter().any(|byte| *byte != 0xff);
    told.then(|| uuid_text(&guid_bytes(&raw)))
}
