// SPDX-License-Identifier: Apache-2.0
//! VHDX: Hyper-V's format ([MS-VHDX]; "the specification" below). All numbers are little-endian.
//!
//! ```text
//!   file type | header 1 | header 2 | region table, twice   (the first MiB)
//!   header with the higher sequence number -> log: changes of metadata that may not have reached their places
//!   region table -> metadata: block size, disk size, sector sizes ...
//!                -> BAT: a 64-bit entry a block; behind every chunk of blocks one for a bitmap that only children use
//! ```
//!
//! Reading: `header`, `log` (replayed in memory; a source is never written to), `region`, `metadata`, `source`. Writing: `sink`.

mod header;
mod log;
mod metadata;
mod region;
mod replayed;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub(super) use header::SIGNATURE;
pub use sink::VhdxSink;
pub use source::VhdxSource;

/// Everything that is not in the header section lies on multiples of this many bytes.
const MIB: u64 = 1 << 20;
/// Sectors of the disk that one bitmap of 1 MiB describes.
const CHUNK_SECTORS: u64 = 1 << 23;
/// Bytes of the largest disk (section 2.6.2.2).
const MOST_SIZE: u64 = 64 << 40;

/// Payload block states (section 2.5.1.1).
mod state {
    pub(super) const NOT_PRESENT: u64 = 0;
    pub(super) const UNDEFINED: u64 = 1;
    pub(super) const ZERO: u64 = 2;
    pub(super) const UNMAPPED: u64 = 3;
    pub(super) const FULLY_PRESENT: u64 = 6;
    /// Bits of a BAT entry that hold the state.
    pub(super) const BITS: u64 = 7;
    /// Bits of a BAT entry that hold the block's offset in the file.
    pub(super) const OFFSET: u64 = !0xf_ffff;
}

/// Identifiers of regions and metadata items, as they are printed.
mod id {
    pub(super) const BAT: u128 = 0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08;
    pub(super) const METADATA: u128 = 0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e;
    pub(super) const FILE_PARAMETERS: u128 = 0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b;
    pub(super) const DISK_SIZE: u128 = 0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8;
    pub(super) const PAGE83: u128 = 0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746;
    pub(super) const LOGICAL_SECTOR: u128 = 0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f;
    pub(super) const PHYSICAL_SECTOR: u128 = 0xcda3_48c7_445d_4471_9cc9_e988_5251_c556;
    pub(super) const PARENT_LOCATOR: u128 = 0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c;
}

/// A stored GUID as the number that is printed.
fn guid(raw: &[u8]) -> u128 {
    raw.first_chunk().map_or(0, |raw| u128::from_be_bytes(crate::parse::guid_bytes(raw)))
}

/// The bytes of the GUID that is printed as `id`.
fn guid_raw(id: u128) -> [u8; 16] {
    crate::parse::guid_bytes(&id.to_be_bytes())
}

/// CRC-32C of `raw` with zeros in place of the four bytes at `at`, which hold it.
fn checksum(raw: &[u8], at: usize) -> u32 {
    let (before, rest) = raw.split_at(at.min(raw.len()));
    let after = rest.get(4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

/// Payload blocks between two bitmap entries of the BAT.
fn chunk_ratio(sector: u64, block: u64) -> u64 {
    CHUNK_SECTORS * sector / block
}
