// SPDX-License-Identifier: Apache-2.0
//! The header cluster: fixed fields, extensions, feature names, and what is refused because of them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{L1_MOST, MAGIC};
use crate::parse::{Bytes, c_text};
use crate::{Error, Result};

const DOING: &str = "reading the qcow2 header";

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// Raw deflate.
    Zlib,
    /// One or more zstd frames.
    Zstd,
}

/// The header's facts, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// L1 entries that the disk's size needs; the table has at least as many.
    pub(super) l1_entries: u64,
    /// L1 entries that the table has.
    pub(super) l1_len: u64,
    pub(super) refcounts: RefcountTable,
    /// Internal snapshots and where their table begins.
    pub(super) snapshots: (u32, u64),
    /// It was not closed cleanly: refcounts may be wrong.
    pub(super) dirty: bool,
    /// It has persistent dirty bitmaps.
    pub(super) bitmaps: bool,
    pub(super) codec: Codec,
    pub(super) extended_l2: bool,
    /// Backing file name as it stands.
    pub(super) backing: Option<String>,
    /// `raw`, `qcow2` ...
    pub(super) backing_format: Option<String>,
    /// Set if data lies in another file; its name may still be missing.
    pub(super) external_data: bool,
    pub(super) data_file: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// Where the refcounts are, as the header has it; checked by those who use it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefcountTable {
    pub(super) offset: u64,
    pub(super) clusters: u64,
    /// A refcount has `1 << order` bits.
    pub(super) order: u32,
}

/// Bits of the incompatible features field (specification, "Header", bytes 72-79).
pub(super) mod incompatible {
    pub(in crate::formats::qcow2) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
}

/// Header extension types.
mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(super) const BITMAPS: u32 = 0x2385_2875;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
}

/// Bytes of one entry of the feature name table: type, bit, name.
const FEATURE_NAME: usize = 48;

impl Header {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 entry.
    pub(super) fn l2_entry(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Reads and checks it. `file_len` is the image file's length.
    pub(super) fn read(file: &File, file_len: u64) -> Result<Self> {
        // The header and its extensions lie in the first cluster; a cluster has at most 2 MiB.
        let mut raw = vec![0; file_len.min(4096) as usize];
        file.read_exact_at(&mut raw, 0).map_err(|error| Error::io(DOING, error))?;
        let cluster_bits = Bytes::new(&raw, "the qcow2 header").u32_be(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(malformed("the cluster size is not 512 bytes to 2 MiB").at(20));
        }
        raw.resize(file_len.min(1 << cluster_bits) as usize, 0);
        file.read_exact_at(&mut raw, 0).map_err(|error| Error::io(DOING, error))?;
        Self::parse(&raw, cluster_bits, file_len)
    }

    fn parse(raw: &[u8], cluster_bits: u32, file_len: u64) -> Result<Self> {
        let bytes = Bytes::new(raw, "the qcow2 header");
        if bytes.u32_be(0)? != MAGIC {
            return Err(malformed("no qcow2 magic").at(0));
        }
        let version = bytes.u32_be(4)?;
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(DOING, format!("version {version}")).at(4));
        }
        let features = if version == 2 { 0 } else { bytes.u64_be(72)? };
        let header_len = if version == 2 { 72 } else { bytes.u32_be(100)? as usize };
        if header_len > raw.len() || header_len % 8 != 0 || (version == 3 && header_len < 104) {
            return Err(malformed("a header length that is not possible").at(100));
        }
        let mut header = Self {
            version,
            cluster_bits,
            size: bytes.u64_be(24)?,
            l1_offset: bytes.u64_be(40)?,
            l1_entries: 0,
            l1_len: u64::from(bytes.u32_be(36)?),
            refcounts: RefcountTable {
                offset: bytes.u64_be(48)?,
                clusters: u64::from(bytes.u32_be(56)?),
                order: if version == 2 { 4 } else { bytes.u32_be(96)? },
            },
            snapshots: (bytes.u32_be(60)?, bytes.u64_be(64)?),
            dirty: features & incompatible::DIRTY != 0,
            bitmaps: false,
            codec: Codec::Zlib,
            extended_l2: features & incompatible::EXTENDED_L2 != 0,
            backing: None,
            backing_format: None,
            external_data: features & incompatible::EXTERNAL_DATA != 0,
            data_file: None,
            warnings: Vec::new(),
        };
        header.check_encryption(bytes.u32_be(32)?)?;
        let backing_at = bytes.u64_be(8)?;
        let backing_len = bytes.u32_be(16)? as usize;
        let mut extensions_end = raw.len();
        if backing_at != 0 && backing_len != 0 {
            let at = usize::try_from(backing_at).unwrap_or(usize::MAX);
            if backing_len > 1023 || at < header_len {
                return Err(malformed("a backing file name where there cannot be one").at(8));
            }
            let name = bytes.slice(at, backing_len)?;
            header.backing = Some(String::from_utf8_lossy(name).into_owned());
            extensions_end = at;
        }
        let names = header.read_extensions(&bytes, header_len, extensions_end)?;
        header.check_features(features, &names)?;
        header.codec = match (features & incompatible::COMPRESSION_TYPE != 0, bytes.u8(104)) {
            (true, Ok(1)) if header_len > 104 => Codec::Zstd,
            (true, Ok(other)) if header_len > 104 && other != 0 => {
                return Err(Error::unsupported(DOING, format!("compression type {other}")).at(104));
            }
            (true, _) => return Err(malformed("a compression type bit without a type").at(104)),
            (false, _) => Codec::Zlib,
        };
        if header.snapshots.0 != 0 {
            header.warnings.push("internal snapshots are ignored; the current state is read".into());
        }
        header.check_l1(header.l1_len, file_len)?;
        Ok(header)
    }

    fn check_encryption(&self, method: u32) -> Result<()> {
        let name = match method {
            0 => return Ok(()),
            1 => "AES".to_owned(),
            2 => "LUKS".to_owned(),
            other => format!("method {other}"),
        };
        Err(Error::refused(
            "opening the qcow2 image",
            format!("its content is encrypted ({name}); decrypt it first with qemu-img convert"),
        ))
    }

    fn check_features(&mut self, features: u64, names: &[(u8, String)]) -> Result<()> {
        let unknown = features & !incompatible::KNOWN;
        if unknown != 0 {
            let list: Vec<String> = (0..64u8)
                .filter(|bit| unknown >> bit & 1 == 1)
                .map(|bit| match names.iter().find(|(named, _)| *named == bit) {
                    Some((_, name)) => format!("{name} (bit {bit})"),
                    None => format!("bit {bit}"),
                })
                .collect();
            let reason = format!("it needs features that are not known here: {}", list.join(", "));
            return Err(Error::unsupported(DOING, reason).at(72));
        }
        if features & incompatible::CORRUPT != 0 {
            return Err(Error::refused(
                "opening the qcow2 image",
                "it is marked corrupt; repair it with qemu-img check -r all",
            ));
        }
        if features & incompatible::DIRTY != 0 {
            // Only refcounts may be wrong then, and reading does not use them.
            self.warnings.push("the image was not closed cleanly (dirty bit)".into());
        }
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err(malformed("extended L2 entries with clusters under 16 KiB"));
        }
        Ok(())
    }

    /// Walks the extensions; returns the names of incompatible feature bits.
    fn read_extensions(&mut self, bytes: &Bytes<'_>, from: usize, end: usize) -> Result<Vec<(u8, String)>> {
        let mut names = Vec::new();
        let mut at = from;
        // Each turn moves on by at least 8 bytes of at most 2 MiB.
        while at.saturating_add(8) <= end {
            let kind = bytes.u32_be(at)?;
            let len = bytes.u32_be(at + 4)? as usize;
            let body = at + 8;
            if kind == extension::END {
                break;
            }
            if len > end.saturating_sub(body) {
                return Err(malformed("a header extension that leaves the header").at(at as u64));
            }
            let data = bytes.slice(body, len)?;
            match kind {
                extension::BACKING_FORMAT => self.backing_format = Some(c_text(data)),
                extension::DATA_FILE => self.data_file = Some(c_text(data)),
                extension::BITMAPS => {
                    self.bitmaps = true;
                    self.warnings.push("dirty bitmaps are ignored".into());
                }
                extension::FEATURE_NAMES => {
                    for name in data.chunks_exact(FEATURE_NAME) {
                        if let [0, bit, text @ ..] = name {
                            names.push((*bit, c_text(text)));
                        }
                    }
                }
                _ => {}
            }
            at = body.saturating_add(len.next_multiple_of(8));
        }
        Ok(names)
    }

    fn check_l1(&mut self, entries: u64, file_len: u64) -> Result<()> {
        // Address space of one L2 table: at most 2 MiB * 2 MiB / 8.
        let table = self.cluster() / self.l2_entry() * self.cluster();
        self.l1_entries = self.size.div_ceil(table);
        if self.size > i64::MAX as u64 || self.l1_entries > L1_MOST / 8 {
            return Err(malformed("a disk size that no L1 table can describe").at(24));
        }
        if entries < self.l1_entries {
            return Err(malformed("the L1 table is too short for the disk").at(36));
        }
        let end = self.l1_entries.checked_mul(8).and_then(|len| len.checked_add(self.l1_offset));
        if self.l1_entries > 0
            && (!self.l1_offset.is_multiple_of(self.cluster())
                || self.l1_offset == 0
                || end.is_none_or(|end| end > file_len))
        {
            return Err(malformed("the L1 table lies outside the file or is not aligned").at(40));
        }
        Ok(())
    }
}

fn malformed(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}
