// SPDX-License-Identifier: Apache-2.0
//! From block bitmaps to byte ranges.

use super::checksum::crc32c;
use super::groups::{Geometry, Group};
use crate::parse::read_vec;
use crate::{BlockSource, Error, RangeSet, Result};

/// Bitmaps that lie close together are read at once, up to this many bytes. flex_bg puts 16 side by side.
const RUN: u64 = 1 << 20;
/// Blocks between two bitmaps that are cheaper to read than to skip.
const GAP: u64 = 32;

/// Whether bitmaps are held against their checksums and the descriptors' free counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Yes,
    /// On-disk state before a journal's replay: a bitmap may be newer or older than its descriptor.
    No,
}

/// Adds every byte in use to `used`.
///
/// In use are: the boot block, what the bitmaps say, and for each group the metadata, which the bitmap block of a
/// BLOCK_UNINIT group does not list. Inode tables are kept whole: ITABLE_ZEROED promises that
/// their unused part reads as zeros, and a checker that meets a bad descriptor reads all of it.
///
/// # Errors
/// `Malformed` for a descriptor or (with [`Check::Yes`]) a bitmap that cannot be trusted.
pub(super) fn used(
    source: &dyn BlockSource,
    geometry: &Geometry,
    check: Check,
    used: &mut RangeSet,
) -> Result<()> {
    let mut marks = Marks { geometry, allocated: RangeSet::new(), metadata: RangeSet::new() };
    marks.metadata.insert(0..2 * super::superblock::OFFSET);
    if let Some(block) = geometry.sb.mmp_block {
        marks.metadata(block, 1);
    }
    geometry.each_piece(source, |groups| {
        let mut bitmaps = Vec::new();
        for group in groups {
            let leading = geometry.leading_metadata(group.index);
            marks.metadata(leading.start, leading.end - leading.start);
            marks.metadata(group.block_bitmap, 1);
            marks.metadata(group.inode_bitmap, 1);
            marks.metadata(group.inode_table, geometry.inode_table_blocks);
            if !group.block_uninit {
                bitmaps.push(*group);
            }
        }
        read_bitmaps(source, &bitmaps, check, &mut marks)
    })?;
    used.insert_all(&mut marks.allocated, 0);
    used.insert_all(&mut marks.metadata, 0);
    Ok(())
}

/// Allocated clusters come in ascending order, metadata do not (flex_bg): apart, only the smaller set is sorted.
struct Marks<'a> {
    geometry: &'a Geometry,
    allocated: RangeSet,
    metadata: RangeSet,
}

impl Marks<'_> {
    /// Blocks of metadata, rounded to clusters: a cluster is allocated whole.
    fn metadata(&mut self, block: u64, blocks: u64) {
        let sb = &self.geometry.sb;
        let ratio = u64::from(sb.cluster_ratio);
        if blocks == 0 {
            return;
        }
        let (start, end) = if ratio == 1 {
            (block, block.saturating_add(blocks))
        } else {
            (block / ratio * ratio, block.saturating_add(blocks).div_ceil(ratio).saturating_mul(ratio))
        };
        let block_size = u64::from(sb.block_size);
        let end = end.min(sb.blocks_count);
        self.metadata.insert(start.saturating_mul(block_size)..end.saturating_mul(block_size));
    }

    /// Clusters that the bitmap of one group has set. Returns how many are clear.
    fn bitmap(&mut self, group: &Group, bitmap: &[u8]) -> u64 {
        let sb = &self.geometry.sb;
        let blocks = self.geometry.blocks_of(group.index);
        let (ratio, block_size) = (u64::from(sb.cluster_ratio), u64::from(sb.block_size));
        let clusters = (blocks.end - blocks.start).div_ceil(ratio);
        let allocated = &mut self.allocated;
        let set = set_runs(bitmap, clusters, |first, end| {
            let start = blocks.start + first * ratio;
            let end = (blocks.start + end * ratio).min(blocks.end);
            allocated.insert(start * block_size..end * block_size);
        });
        clusters.saturating_sub(set)
    }
}

fn read_bitmaps(
    source: &dyn BlockSource,
    groups: &[Group],
    check: Check,
    marks: &mut Marks<'_>,
) -> Result<()> {
    let block_size = u64::from(marks.geometry.sb.block_size);
    let mut rest = groups;
    while let Some(first) = rest.first() {
        let mut last = first.block_bitmap;
        let mut count = 1;
        for next in rest.iter().skip(1) {
            let near = next.block_bitmap > last && next.block_bitmap - last <= GAP;
            if !near || (next.block_bitmap - first.block_bitmap + 1) * block_size > RUN {
                break;
            }
            last = next.block_bitmap;
            count += 1;
        }
        let at = first.block_bitmap * block_size;
        let raw = read_vec(source, at, ((last - first.block_bitmap + 1) * block_size) as usize)?;
        let (run, behind) = rest.split_at(count);
        for group in run {
            let offset = ((group.block_bitmap - first.block_bitmap) * block_size) as usize;
            let length = marks.geometry.sb.clusters_per_group as usize / 8;
            let bitmap = crate::parse::Bytes::new(&raw, "block bitmap").slice(offset, length)?;
            let free = marks.bitmap(group, bitmap);
            if check == Check::Yes {
                verify(marks.geometry, group, bitmap, free)
                    .map_err(|error| error.at(group.block_bitmap * block_size))?;
            }
        }
        rest = behind;
    }
    Ok(())
}

fn verify(geometry: &Geometry, group: &Group, bitmap: &[u8], free: u64) -> Result<()> {
    let because = if geometry.sb.has_metadata_checksums()
        && (crc32c(geometry.sb.checksum_seed, bitmap) ^ group.bitmap_checksum.0) & group.bitmap_checksum.1
            != 0
    {
        "checksum mismatch".into()
    } else if free != u64::from(group.free_clusters) {
        // Without checksums this is the only witness; the kernel takes such a group out of use.
        format!("{free} clusters are free, but its descriptor says {}", group.free_clusters)
    } else {
        return Ok(());
    };
    Err(Error::malformed(format!("reading the block bitmap of group {}", group.index), because))
}

/// Calls `run(first, end)` for each run of set bits among the first `bits`, and returns how many are set.
fn set_runs(bitmap: &[u8], bits: u64, mut run: impl FnMut(u64, u64)) -> u64 {
    let mut set = 0;
    let mut open: Option<u64> = None;
    for (base, chunk) in (0..bits).step_by(64).zip(bitmap.chunks(8)) {
        let mut raw = [0; 8];
        for (to, from) in raw.iter_mut().zip(chunk) {
            *to = *from;
        }
        let left = bits - base;
        let word = u64::from_le_bytes(raw) & if left < 64 { (1 << left) - 1 } else { u64::MAX };
        set += u64::from(word.count_ones());
        match (word, open) {
            (0, None) => continue,
            (u64::MAX, Some(_)) => continue,
            _ => {}
        }
        let mut bit = 0;
        while bit < 64 {
            let ahead = if open.is_some() { !word } else { word } >> bit;
            if ahead == 0 {
                break;
            }
            bit += u64::from(ahead.trailing_zeros());
            match open.take() {
                Some(first) => run(first, base + bit),
                None => open = Some(base + bit),
            }
        }
    }
    if let Some(first) = open {
        run(first, bits.min(bitmap.len() as u64 * 8));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_those_that_bit_by_bit_reading_finds(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..80),
            cut in 0u64..64,
        ) {
            let bits = (bytes.len() as u64 * 8).saturating_sub(cut);
            let mut found = vec![false; bytes.len() * 8];
            let mut last_end = None;
            let set = set_runs(&bytes, bits, |first, end| {
                assert!(first < end && last_end.is_none_or(|last| last < first));
                last_end = Some(end);
                found[first as usize..end as usize].fill(true);
            });
            let want: Vec<bool> =
                (0..bytes.len() * 8).map(|bit| (bit as u64) < bits && bytes[bit / 8] >> (bit % 8) & 1 == 1).collect();
            prop_assert_eq!(set, want.iter().filter(|bit| **bit).count() as u64);
            prop_assert_eq!(found, want);
        }
    }
}
