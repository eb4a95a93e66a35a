// SPDX-License-Identifier: Apache-2.0
//! From a disk to its partitions and the gaps between them.

use crate::adapt::Mapped;
use crate::partition::{Partition, PartitionTable, Role, TableKind};
use crate::volume::md;
use crate::{BlockSource, RangeSet, Result};

use super::device::{Device, Span};
use super::regions::place;
use super::walk::{Analysis, Finding, Level, SMALL_GAP, distrust, foreign_reason};
use super::{Content, Kept};

/// What lies before the first partition is kept up to here: GRUB embeds itself within 1 MiB, U-Boot within 16 MiB.
const MOST_BOOT_AREA: u64 = 16 << 20;

/// Partition types whose content is spread over several partitions or disks: Windows dynamic disks and Storage Spaces.
const SPREAD_TYPES: [&str; 4] = [
    "0x42",
    "af9b60a0-1431-4f62-bc68-3311714a69ad",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d",
];

impl Analysis<'_> {
    pub(super) fn disk(&mut self, disk: usize, source: &dyn BlockSource) -> Result<PartitionTable> {
        self.check_cancelled()?;
        let span = Span { disk, start: 0, len: source.size() };
        let device = Device::span(span);
        for copy in device.copies(&self.disks)? {
            self.silence(&copy);
        }
        let table = match (self.readers.table)(source) {
            Ok(table) => table,
            Err(error) => {
                let reason = distrust(error)?;
                self.keep_disk(disk, format!("its partition table cannot be trusted: {reason}"));
                PartitionTable {
                    kind: TableKind::None,
                    sector_size: source.sector_size(),
                    disk_id: None,
                    partitions: Vec::new(),
                    metadata: Vec::new(),
                    warnings: Vec::new(),
                }
            }
        };
        // A boot sector's mark alone does not say that the rest is free: many formats carry it.
        let bare = match table.kind {
            TableKind::None => true,
            TableKind::Mbr => table.partitions.is_empty(),
            TableKind::Gpt => false,
        };
        let member = match self.find(source, true) {
            Ok(Finding::Nothing) => false,
            Ok(Finding::Md(member)) => bare || !of_partition(&member, &table),
            Ok(_) if bare => false,
            Ok(Finding::Foreign(name)) => {
                self.keep_disk(disk, foreign_reason(name));
                false
            }
            Ok(other) => {
                self.keep_disk(disk, format!("it has a partition table and also {}", other.name()));
                false
            }
            Err(error) if bare => {
                // Found again, and reported, where the disk is examined as one device.
                distrust(error)?;
                false
            }
            Err(error) => {
                let reason = distrust(error)?;
                self.keep_disk(disk, reason);
                false
            }
        };
        if bare || member {
            let node = self.add(None, place(span, None), disk);
            self.examine(vec![node], &device, Level::Disk)?;
        } else {
            self.split(&table, &[None], &[span], Level::Partition)?;
        }
        Ok(table)
    }

    /// Nothing of the disk may be left out.
    fn keep_disk(&mut self, disk: usize, reason: String) {
        self.ledger.warn(disk, format!("the whole disk is kept: {reason}"));
        if let Some(account) = self.ledger.disks.get_mut(disk) {
            account.whole = Some(reason);
        }
    }

    /// Takes apart a partitioned disk, or an array with a partition table in it.
    pub(super) fn split(
        &mut self,
        table: &PartitionTable,
        parents: &[Option<usize>],
        spans: &[Span],
        level: Level,
    ) -> Result<()> {
        let size = spans.first().map_or(0, |span| span.len);
        let end = |partition: &Partition| partition.start.saturating_add(partition.len);
        let cut = |range: std::ops::Range<u64>| -> Vec<Span> {
            spans.iter().map(|span| span.part(&range)).collect()
        };
        let mut taken = RangeSet::new();
        for &(start, len) in &table.metadata {
            taken.insert(start..start.saturating_add(len));
            for part in cut(start..start.saturating_add(len)) {
                self.ledger.keep_on(part.disk, part.start..part.start + part.len);
            }
        }
        let starts = table.partitions.iter().map(|partition| partition.start);
        let first = starts.min().unwrap_or(size).min(size).min(MOST_BOOT_AREA);
        self.add_part(
            parents,
            &cut(0..first),
            None,
            &Content::BootArea,
            &Kept::Everything("boot code and partition table".into()),
        );
        taken.insert(0..first);

        // Extended partitions first: others and gaps are listed in them.
        let mut extended = Vec::new();
        for partition in table.partitions.iter().filter(|partition| partition.role == Role::Extended) {
            let parts = cut(partition.start..end(partition));
            let nodes =
                self.add_part(parents, &parts, Some(partition.number), &Content::Extended, &Kept::Nothing);
            extended.push((partition.start..end(partition), nodes));
            for copy in Device::Spans(parts).copies(&self.disks)? {
                self.silence(&copy);
            }
        }
        let within = |start: u64| -> Vec<Option<usize>> {
            match extended.iter().find(|(range, _)| range.contains(&start)) {
                Some((_, nodes)) => nodes.iter().copied().map(Some).collect(),
                None => parents.to_vec(),
            }
        };
        for partition in table.partitions.iter().filter(|partition| partition.role != Role::Extended) {
            taken.insert(partition.start..end(partition));
            let parts = cut(partition.start..end(partition));
            let parents = within(partition.start);
            let nodes =
                self.add_part(&parents, &parts, Some(partition.number), &Content::Unknown, &Kept::Used);
            let device = Device::Spans(parts);
            if end(partition) > size {
                self.give_up(&nodes, &device, "it reaches beyond the end of the disk", true)?;
            } else if partition.role == Role::BiosBoot {
                self.each(&nodes, |node| node.content = Content::BootArea);
                self.give_up(&nodes, &device, "boot code", false)?;
            } else if SPREAD_TYPES.contains(&&*partition.type_id.to_ascii_lowercase()) {
                let reason = "it belongs to a Windows dynamic disk or storage pool";
                self.give_up(&nodes, &device, reason, true)?;
            } else {
                self.examine(nodes, &device, level)?;
            }
        }
        let mut edges: Vec<u64> = extended.iter().flat_map(|(range, _)| [range.start, range.end]).collect();
        edges.sort_unstable();
        for gap in taken.gaps(size) {
            // A gap inside a container and one beside it are two.
            let mut start = gap.start;
            for end in edges.iter().copied().filter(|edge| gap.contains(edge)).chain([gap.end]) {
                if start < end {
                    let kept = match end - start {
                        0..=SMALL_GAP => Kept::Everything("a small gap between partitions".into()),
                        _ => Kept::Nothing,
                    };
                    self.add_part(&within(start), &cut(start..end), None, &Content::Unknown, &kept);
                }
                start = end;
            }
        }
        Ok(())
    }

    /// An array may carry a partition table. False if it does not.
    pub(super) fn split_array(
        &mut self,
        nodes: &[usize],
        copies: &[Mapped<'_>],
        spans: &[Span],
    ) -> Result<bool> {
        let mut tables = Vec::new();
        for copy in copies {
            match (self.readers.table)(copy) {
                Ok(table) => tables.push(table),
                Err(error) => {
                    distrust(error)?;
                    return Ok(false);
                }
            }
        }
        let Some(table) = tables.first().filter(|table| !table.partitions.is_empty()) else {
            return Ok(false);
        };
        if tables.iter().any(|other| other != table) {
            return Ok(false);
        }
        let table = table.clone();
        for (node, span) in nodes.iter().zip(spans) {
            let who = self.who(*node);
            for warning in &table.warnings {
                self.ledger.warn(span.disk, format!("{who}: {warning}"));
            }
        }
        let parents: Vec<_> = nodes.iter().copied().map(Some).collect();
        self.split(&table, &parents, spans, Level::InArray)?;
        Ok(true)
    }
}

/// Whether a superblock that was found at a disk's end is that of its last partition: 0.90 does not state its address.
fn of_partition(member: &md::Member, table: &PartitionTable) -> bool {
    member.metadata == "0.90"
        && table.partitions.iter().any(|partition| {
            let place = partition.start..partition.start.saturating_add(partition.len);
            member.own.iter().any(|own| place.contains(&own.start)) && member.content.end <= partition.len
        })
}
