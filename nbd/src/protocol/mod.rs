// SPDX-License-Identifier: Apache-2.0
//! The bytes of the NBD protocol: "newstyle" handshake, options, requests, replies. All integers are big-endian.
//!
//! The source is `doc/proto.md` of the NetworkBlockDevice project ("the specification" in this crate), without its
//! experimental extensions.

mod option;
mod reply;
mod request;

pub use option::{InfoRequest, MetaRequest, Opt, OptionHeader};
pub use reply::{chunk_header, descriptors, error_chunk, offset_data, offset_hole, simple};
pub(crate) use reply::{option_reply, put};
pub use request::{Command, Request};

/// First bytes from the server: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the server speaks newstyle, and before each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Most bytes of one READ or WRITE (the specification's usual maximum payload size).
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Most bytes of an option's data: many times what clients send.
pub const MAX_OPTION: u32 = 64 << 10;
/// Most bytes of a string ("Conventions" of the specification).
pub const MAX_STRING: usize = 4096;

/// Handshake flags, the server's 16 bits.
pub mod handshake {
    /// Fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The 124 zeros after EXPORT_NAME may be left out.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Transmission flags: what an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES and its NO_HOLE flag.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag of READ.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what others wrote.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag of WRITE_ZEROES.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of requests.
pub mod command_flag {
    /// Reply only when the data is on stable storage.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES must leave the range allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ must be answered in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS must be answered with one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES must fail where it is not faster than writing.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of replies to options.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// A fact of an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// Forbidden here.
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    /// Breaks the option's format.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = (1 << 31) + 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// The server is about to end.
    pub const ERR_SHUTDOWN: u32 = (1 << 31) + 7;
    /// Too large to process.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Types of INFO replies.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Types of chunks in structured replies.
pub mod chunk {
    /// Nothing; the end.
    pub const NONE: u16 = 0;
    /// Bytes at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// Flag: the last chunk of its reply.
    pub const DONE: u16 = 1 << 0;
}

/// States in `base:allocation`.
pub mod state {
    /// Not allocated.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeros.
    pub const ZERO: u32 = 1 << 1;
}

/// The one metadata context that is served, and its number here.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Number of [`BASE_ALLOCATION`]; any will do as long as it stays.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// Error values of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
    Shutdown = 108,
}
