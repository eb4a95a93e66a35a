// SPDX-License-Identifier: Apache-2.0
//! What of a disk no partition covers, and which of it a machine needs to boot.

use std::ops::Range;

use super::{PartitionTable, Role, TableKind};
use crate::RangeSet;

/// What a range outside the partitions is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapKind {
    /// Always data: the bytes before the first partition (boot code, GRUB's core image, firmware of boards), BIOS
    /// boot partitions, and the table itself.
    BootArea,
    /// Between partitions, behind the last one, or inside an extended partition: no part of any of them.
    Gap,
}

/// A range that belongs to no partition's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// What it is.
    pub kind: GapKind,
}

/// Boot loaders embed themselves within a few MiB (GRUB 1 MiB, U-Boot up to 16 MiB); what lies further up before
/// the first partition is free space.
const MOST_BOOT_AREA: u64 = 16 << 20;

/// All of a disk of `disk_size` bytes that no partition's content covers, in ascending order and disjoint.
///
/// Together with the partitions whose role is [`Role::Content`] or [`Role::Esp`] it covers every byte of the disk; BIOS boot
/// partitions are in the answer as [`GapKind::BootArea`]. Metadata that a hostile table places inside a partition
/// is in the answer too, so the two may overlap there. A disk without a table has no gaps: it is one region.
pub fn gaps(table: &PartitionTable, disk_size: u64) -> Vec<Gap> {
    if table.kind == TableKind::None {
        return Vec::new();
    }
    let first = table.partitions.iter().map(|partition| partition.start).min().unwrap_or(disk_size);
    let mut boot = RangeSet::of(0..first.min(MOST_BOOT_AREA));
    for &(start, len) in &table.metadata {
        boot.insert(start..start.saturating_add(len));
    }
    let mut covered = RangeSet::new();
    for partition in &table.partitions {
        let range = partition.start..partition.start.saturating_add(partition.len);
        match partition.role {
            Role::BiosBoot => boot.insert(range),
            Role::Content | Role::Esp => covered.insert(range),
            Role::Extended => {}
        }
    }
    boot.truncate(disk_size);
    covered.insert_all(&mut boot, 0);

    let free = covered.gaps(disk_size).into_iter().map(|range| Gap { range, kind: GapKind::Gap });
    let boot = boot.ranges().iter().cloned().map(|range| Gap { range, kind: GapKind::BootArea });
    let mut gaps: Vec<Gap> = free.chain(boot).collect();
    gaps.sort_by_key(|gap| gap.range.start);
    gaps
}
