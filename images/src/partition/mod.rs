// SPDX-License-Identifier: Apache-2.0
//! Partition tables: GPT, and MBR with its chain of extended boot records.
//!
//! ```text
//!   read(source) --> detect --> gpt | mbr --> PartitionTable --> gaps(table, size)
//!                      ^                                          what no partition covers
//!   rewrite::plan -----+--> place --> gpt | mbr --> TableRewrite (writes for another disk)
//! ```
//!
//! What counts as a table is what Linux would take for one (`block/partitions/{efi,msdos}.c`), with two
//! differences: a damaged primary GPT is replaced by its backup without a boot option, and whatever is
//! doubtful ends as [`TableKind::None`] or as metadata with a warning, so that the bytes are kept.
//!
//! The parsers are our own. The crate `gpt` renumbers partitions when it writes (1,3,14,15 becomes 1,2,3,4).
//! `gptman` allocates by an unchecked entry count, does not tell which copy was damaged or why, and drops
//! bytes that it does not know; `mbrman` refuses chains that are not in order of address (`sfdisk --append` makes
//! such) instead of telling what it could read. Rewriting here patches the source's own bytes, so a rewrite without change is identical to the source.
//! Both crates remain as second readers in the tests.

mod detect;
mod gaps;
mod gpt;
pub mod identity;
mod mbr;
pub mod rewrite;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::gaps::{Gap, GapKind, gaps};
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
    /// Byte ranges (first byte, length) that hold the table itself: MBR, headers, entry arrays, every EBR. Where a
    /// chain of EBRs is broken, also what no known partition covers of its container: logical partitions that
    /// nobody can find may lie there. All of it must be kept as data.
    pub metadata: Vec<(u64, u64)>,
    /// What the administrator should know, such as a damaged primary GPT.
    pub warnings: Vec<String>,
}

/// Reads the table of `source`.
///
/// A damaged, doubtful or missing table is no error but a warning in the answer.
///
/// # Errors
///
/// Only where the first sector cannot be read.
pub fn read(source: &dyn BlockSource) -> Result<PartitionTable> {
    Ok(match detect::detect(source)? {
        detect::Found::Gpt(gpt) => gpt.table(source.size()),
        detect::Found::Mbr(mbr) => mbr.table(source.size()),
        detect::Found::Nothing(warnings) => PartitionTable {
            kind: TableKind::None,
            sector_size: source.sector_size(),
            disk_id: None,
            partitions: Vec::new(),
            metadata: Vec::new(),
            warnings: warnings.into_vec(),
        },
    })
}

/// Warnings of one table: a hostile one can cause thousands, of which the first tell enough.
#[derive(Debug, Default)]
struct Warnings {
    list: Vec<String>,
    more: u64,
}

impl Warnings {
    const MOST: usize = 24;

    fn push(&mut self, text: impl Into<String>) {
        if self.list.len() < Self::MOST {
            self.list.push(text.into());
        } else {
            self.more += 1;
        }
    }

    fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.list.push(format!("{} more warnings about the partition table", self.more));
        }
        self.list
    }
}

/// Sorts by address and warns of overlaps. Containers overlap their logical partitions by design.
fn finish_partitions(partitions: &mut [Partition], warnings: &mut Warnings) {
    partitions.sort_by_key(|partition| (partition.start, partition.number));
    let mut furthest: Option<(u64, u32)> = None;
    for partition in partitions.iter().filter(|partition| partition.role != Role::Extended) {
        if let Some((end, number)) = furthest
            && partition.start < end
        {
            warnings.push(format!(
                "partition {} overlaps partition {number} by {} bytes",
                partition.number,
                end.min(partition.start.saturating_add(partition.len)) - partition.start
            ));
        }
        let end = partition.start.saturating_add(partition.len);
        if furthest.is_none_or(|(furthest, _)| end > furthest) {
            furthest = Some((end, partition.number));
        }
    }
}
