// SPDX-License-Identifier: Apache-2.0
//! Numbers of options and messages (RFC 2132; RFC 4578 for PXE).

/// Subnet mask, 4 bytes.
pub const SUBNET_MASK: u8 = 1;
/// Routers, 4 bytes each.
pub const ROUTER: u8 = 3;
/// Name servers, 4 bytes each.
pub const DNS: u8 = 6;
/// What the vendor's clients understand; for PXE itself options.
pub const VENDOR: u8 = 43;
/// The address that a client would like to have.
pub const REQUESTED_ADDRESS: u8 = 50;
/// Seconds, 4 bytes.
pub const LEASE_TIME: u8 = 51;
/// Which of `file` and `sname` hold options: 1, 2, 3 both.
pub const OVERLOAD: u8 = 52;
/// [`message`]
pub const MESSAGE_TYPE: u8 = 53;
/// The server that answers, or that is meant.
pub const SERVER_ID: u8 = 54;
/// Text for people.
pub const MESSAGE: u8 = 56;
/// Text: "PXEClient:Arch:00007:UNDI:003016", "HTTPClient:...".
pub const VENDOR_CLASS: u8 = 60;
/// What identifies a client instead of its hardware address.
pub const CLIENT_ID: u8 = 61;
/// A server's name or address for the boot file.
pub const TFTP_SERVER: u8 = 66;
/// The boot file, as in the field of that name.
pub const BOOT_FILE: u8 = 67;
/// "iPXE" where that asks.
pub const USER_CLASS: u8 = 77;
/// Architectures, 2 bytes each, big-endian (RFC 4578 section 2.1).
pub const ARCHITECTURE: u8 = 93;
/// 0, and the SMBIOS UUID as it stands there (RFC 4578 section 2.3).
pub const MACHINE_ID: u8 = 97;

/// What a message is (RFC 2132 section 9.6).
pub mod message {
    /// Who is there?
    pub const DISCOVER: u8 = 1;
    /// This could be had.
    pub const OFFER: u8 = 2;
    /// It is taken.
    pub const REQUEST: u8 = 3;
    /// The address is somebody else's.
    pub const DECLINE: u8 = 4;
    /// It is given.
    pub const ACK: u8 = 5;
    /// It is not.
    pub const NAK: u8 = 6;
    /// It is given back.
    pub const RELEASE: u8 = 7;
    /// All but an address is wanted.
    pub const INFORM: u8 = 8;
}
