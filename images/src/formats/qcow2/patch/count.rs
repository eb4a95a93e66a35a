// SPDX-License-Identifier: Apache-2.0
//! Refcounts made anew: what uses each cluster of the file is counted, as `qemu-img check -r leaks` does.

use super::{Qcow2Patcher, bad, read, used_clusters, words};
use crate::formats::qcow2::{L1_MOST, OFFSET};
use crate::parse::Bytes;
use crate::{Error, Result};

/// Clusters of a file that are counted at most: 256 MiB of counters.
const CLUSTERS_MOST: u64 = 64 << 20;
/// L2 entries that are looked at at most, those of snapshots included.
const ENTRIES_MOST: u64 = 1 << 32;
/// Snapshots that QEMU allows (QCOW_MAX_SNAPSHOTS).
const SNAPSHOTS_MOST: u32 = 65536;

struct Counts {
    bits: u32,
    users: Vec<u32>,
}

impl Counts {
    fn add(&mut self, clusters: std::ops::Range<u64>) -> Result<()> {
        let end = usize::try_from(clusters.end).unwrap_or(usize::MAX);
        let part = usize::try_from(clusters.start).ok().and_then(|start| self.users.get_mut(start..end));
        let part = part.ok_or_else(|| bad("a cluster outside the file").at(clusters.start << self.bits))?;
        part.iter_mut().for_each(|users| *users = users.saturating_add(1));
        Ok(())
    }

    fn add_bytes(&mut self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let last = offset.saturating_add(len - 1);
        self.add(offset >> self.bits..(last >> self.bits).saturating_add(1))
    }
}

impl Qcow2Patcher {
    /// Sets every refcount to what is really used; in memory, until `finish`.
    pub(super) fn count_anew(&mut self) -> Result<()> {
        if self.next > CLUSTERS_MOST {
            return Err(Error::refused(
                "counting the image's clusters",
                "there are too many: repair it with qemu-img check -r all",
            ));
        }
        let bits = self.header.cluster_bits;
        let mut counts = Counts { bits, users: vec![0; self.next as usize] };
        counts.add(0..1)?;
        let (table, clusters) = self.refcounts.place();
        counts.add_bytes(table, clusters << bits)?;
        for place in self.refcounts.block_places() {
            counts.add_bytes(place, 1 << bits)?;
        }
        let mut entries = 0;
        if self.header.l1_len * 8 > L1_MOST {
            return Err(bad("an L1 table that cannot be").at(36));
        }
        let active = (self.header.l1_offset, self.header.l1_len);
        for (offset, len) in std::iter::once(active).chain(self.snapshot_tables(&mut counts)?) {
            counts.add_bytes(offset, len * 8)?;
            let l1 = words(&read(&self.file, offset, len * 8, self.file_len)?);
            self.count_l1(&l1, &mut counts, &mut entries)?;
        }
        for (cluster, users) in (0..).zip(counts.users) {
            self.refcounts.set(cluster, u64::from(users), &self.file, self.file_len)?;
        }
        Ok(())
    }

    fn count_l1(&self, l1: &[u64], counts: &mut Counts, entries: &mut u64) -> Result<()> {
        let cluster = self.header.cluster();
        for place in l1.iter().map(|entry| entry & OFFSET).filter(|place| *place != 0) {
            counts.add_bytes(place, cluster)?;
            *entries += cluster / 8;
            if *entries > ENTRIES_MOST {
                return Err(bad("more L2 entries than an image can have"));
            }
            for entry in words(&read(&self.file, place, cluster, self.file_len)?) {
                if let Some(clusters) = used_clusters(entry, counts.bits) {
                    counts.add(clusters)?;
                }
            }
        }
        Ok(())
    }

    /// Where the L1 tables of snapshots lie, and their entries (specification, "Snapshots").
    fn snapshot_tables(&self, counts: &mut Counts) -> Result<Vec<(u64, u64)>> {
        const HEAD: u64 = 40;
        let (count, table) = self.header.snapshots;
        if count > SNAPSHOTS_MOST {
            return Err(bad("more snapshots than an image can have").at(60));
        }
        let mut found = Vec::new();
        let mut at = table;
        for _ in 0..count {
            let raw = read(&self.file, at, HEAD, self.file_len)?;
            let head = Bytes::new(&raw, "a snapshot");
            let (offset, len) = (head.u64_be(0)?, u64::from(head.u32_be(8)?));
            if len * 8 > L1_MOST || offset >= self.file_len {
                return Err(bad("a snapshot whose L1 table cannot be").at(at));
            }
            found.push((offset, len));
            let names = u64::from(head.u16_be(12)?) + u64::from(head.u16_be(14)?);
            let more = u64::from(head.u32_be(36)?) + names;
            at = at.saturating_add((HEAD + more).next_multiple_of(8));
            if at > self.file_len {
                return Err(bad("a snapshot table outside the file"));
            }
        }
        counts.add_bytes(table, at.saturating_sub(table))?;
        Ok(found)
    }
}
