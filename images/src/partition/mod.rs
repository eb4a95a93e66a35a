// SPDX-License-Identifier: Apache-2.0
//! Partition tables: GPT, and MBR with its chain of extended boot records.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BlockSource, Result};

/// Which kind of table a disk carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// GUID partition table (UEFI 2.10, chapter 5).
    Gpt,
    /// Master boot record with primary, extended and logical partitions.
    Mbr,
    /// No table: a filesystem or volume may begin at byte 0.
    None,
}

/// What a partition is for, as far as its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A filesystem, volume or anything else.
    Content,
    /// An MBR extended partition: a container of logical ones, no content itself.
    Extended,
    /// GRUB's core image on GPT (21686148-6449-6E6F-744E-656564454649): raw bytes, all data.
    BiosBoot,
    /// EFI system partition.
    Esp,
}

/// One partition; offsets and lengths in bytes of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Partition {
    /// Number as the kernel counts it (GPT slot + 1; MBR primaries 1-4, logicals from 5).
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// GPT type GUID (lower case), or MBR type as "0x83".
    pub type_id: String,
    /// What the type means here.
    pub role: Role,
    /// GPT partition GUID, or DISKID-NN for MBR: what fstab calls PARTUUID.
    pub partuuid: Option<String>,
    /// GPT partition name.
    pub name: Option<String>,
    /// MBR active flag, or GPT legacy-BIOS-bootable attribute.
    pub bootable: bool,
}

/// A disk's table as found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionTable {
    /// Which kind.
    pub kind: TableKind,
    /// Bytes per sector in which the table counts.
    pub sector_size: u32,
    /// GPT disk GUID, or MBR disk signature as eight hex digits.
    pub disk_id: Option<String>,
    /// In order of start address.
    pub partitions: Vec<Partition>,
    /// Byte ranges that hold the table itself: MBR, headers, entry arrays, every EBR.
    pub metadata: Vec<(u64, u64)>,
    /// What the administrator should know, such as a damaged primary GPT.
    pub warnings: Vec<String>,
}

/// Reads the table of `source`.
pub fn read(source: &dyn BlockSource) -> Result<PartitionTable> {
    let _ = source;
    Ok(PartitionTable {
        kind: TableKind::None,
        sector_size: source.sector_size(),
        disk_id: None,
        partitions: Vec::new(),
        metadata: Vec::new(),
        warnings: Vec::new(),
    })
}
