// SPDX-License-Identifier: Apache-2.0
//! The free-space B+trees of each allocation group, read leaf by leaf in order.

use std::ops::Range;

use super::superblock::{Superblock, checksum_matches};
use crate::filesystem::Used;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result, ResultExt};

/// The kernel's `XFS_BTREE_MAXLEVELS`.
const MOST_LEVELS: u32 = 9;
const NO_BLOCK: u32 = u32::MAX;

/// Everything within the filesystem but its free extents.
pub(super) fn used(source: &dyn BlockSource, superblock: &Superblock) -> Result<Used> {
    let log = superblock.log()?;
    let mut used = Used::default();
    for index in 0..superblock.groups {
        let group = Group { source, superblock, index, blocks: superblock.blocks_of_group(index) };
        let mut at = superblock.byte_of(index, 0);
        group
            .each_free(log, |free| {
                used.ranges.insert(at..superblock.byte_of(index, free.start));
                at = superblock.byte_of(index, free.end);
            })
            .doing(|| format!("reading XFS allocation group {index}"))?;
        used.ranges.insert(at..superblock.byte_of(index, group.blocks));
    }
    Ok(used)
}

struct Group<'a> {
    source: &'a dyn BlockSource,
    superblock: &'a Superblock,
    index: u32,
    blocks: u32,
}

/// The two trees hold the same extents in different order.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Place,
    Length,
}

/// What the AGF says of a tree.
struct Root {
    block: u32,
    levels: u32,
}

/// Of all records of a tree, whatever their order.
#[derive(Default, PartialEq, Debug)]
struct Tally {
    blocks: u64,
    extents: u64,
    longest: u32,
    mixed: u64,
}

impl Tally {
    fn add(&mut self, start: u32, count: u32) {
        self.blocks += u64::from(count);
        self.extents += 1;
        self.longest = self.longest.max(count);
        self.mixed = self.mixed.wrapping_add(mix(u64::from(start) << 32 | u64::from(count)));
    }
}

/// The finaliser of splitmix64: sums of its values are equal for equal sets, and else as good as never.
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl Group<'_> {
    /// Calls `free` for each free extent in ascending order; an error afterwards means that none can be trusted.
    ///
    /// The tree by length is read too: the blocks of a version 4 filesystem have no checksum, and a record with a
    /// wrong start would pass every test that one tree alone allows. It costs as many reads again.
    fn each_free(&self, log: (u32, u32, u32), mut free: impl FnMut(Range<u32>)) -> Result<()> {
        let at = self.superblock.byte_of(self.index, 0) + u64::from(self.superblock.sector_size);
        let sector = read_vec(self.source, at, self.superblock.sector_size as usize)?;
        let agf = Bytes::new(&sector, "the AGF");
        let bad = |why: String| Err(Error::malformed("reading the AGF", why).at(at));
        if agf.slice(0, 4)? != b"XAGF" || agf.u32_be(4)? != 1 {
            return bad("no magic".into());
        }
        if self.superblock.features.is_v5() {
            if !checksum_matches(&sector, 216)? {
                return bad("checksum mismatch".into());
            }
            if agf.slice(64, 16)? != self.superblock.meta_uuid {
                return bad("it belongs to another filesystem".into());
            }
        }
        let (number, length) = (agf.u32_be(8)?, agf.u32_be(12)?);
        if number != self.index || length != self.blocks {
            return bad(format!(
                "it says group {number} of {length} blocks, not {} of {}",
                self.index, self.blocks
            ));
        }
        let by_place =
            self.walk(Order::Place, &Root { block: agf.u32_be(16)?, levels: agf.u32_be(28)? }, |range| {
                if log.0 == self.index && range.start < log.1 + log.2 && log.1 < range.end {
                    return Err(Error::malformed("reading free space", "the log is called free").at(at));
                }
                free(range);
                Ok(())
            })?;
        let by_length =
            self.walk(Order::Length, &Root { block: agf.u32_be(20)?, levels: agf.u32_be(32)? }, |_| Ok(()))?;
        if by_place != by_length {
            return bad("the free-space trees by place and by length differ".into());
        }
        let (blocks, longest) = (agf.u32_be(52)?, agf.u32_be(56)?);
        if u64::from(blocks) != by_place.blocks || longest != by_place.longest {
            return bad(format!(
                "{blocks} blocks are free, {longest} together; the trees hold {} and {}",
                by_place.blocks, by_place.longest
            ));
        }
        Ok(())
    }

    /// Walks a tree in key order without recursion. Keys must rise from record to record over the whole tree, so
    /// no block can be met twice, and a walk ends after as many leaves as the group has blocks.
    fn walk(
        &self,
        order: Order,
        root: &Root,
        mut each: impl FnMut(Range<u32>) -> Result<()>,
    ) -> Result<Tally> {
        if !(1..=MOST_LEVELS).contains(&root.levels) {
            return Err(Error::malformed("reading a free-space tree", format!("{} levels", root.levels)));
        }
        let mut tally = Tally::default();
        let mut last: Option<(u32, u32)> = None;
        let mut path = vec![self.node(order, root.block, root.levels - 1, true)?];
        // The right neighbour that the block last left on each level has named.
        let mut neighbours: Vec<Option<u32>> = vec![None; root.levels as usize];
        while let Some(node) = path.last_mut() {
            if node.level == 0 {
                for record in 0..node.records {
                    let (start, count) = node.key(record)?;
                    self.check_record(order, last, start, count).map_err(|error| error.at(node.at))?;
                    last = Some((start, count));
                    tally.add(start, count);
                    each(start..start + count)?;
                }
                node.next = node.records;
            }
            if node.next >= node.records {
                if let Some(seen) = neighbours.get_mut(node.level as usize) {
                    *seen = Some(node.right);
                }
                path.pop();
                continue;
            }
            let (key, child) = (node.key(node.next)?, node.child(node.next)?);
            node.next += 1;
            let (level, at) = (node.level - 1, node.at);
            let child_node = self.node(order, child, level, false)?;
            let expected = neighbours.get(level as usize).copied().flatten();
            let first = child_node.key(0)?;
            // The tree by place compares starts alone.
            let keyed = first.0 == key.0 && (order == Order::Place || first.1 == key.1);
            if !keyed || expected.is_some_and(|block| block != child) {
                return Err(Error::malformed(
                    "reading a free-space tree",
                    format!("block {child} is not where its parent and neighbours say"),
                )
                .at(at));
            }
            path.push(child_node);
        }
        if neighbours.iter().any(|right| right.is_some_and(|right| right != NO_BLOCK)) {
            return Err(Error::malformed(
                "reading a free-space tree",
                "a level goes on after its last block",
            ));
        }
        Ok(tally)
    }

    fn check_record(&self, order: Order, last: Option<(u32, u32)>, start: u32, count: u32) -> Result<()> {
        // Superblock, AGF, AGI and AGFL: four sectors.
        let headers = (4 * self.superblock.sector_size).div_ceil(self.superblock.block_size);
        let end = start.checked_add(count).filter(|end| *end <= self.blocks);
        let rises = last.is_none_or(|(last_start, last_count)| match order {
            Order::Place => start >= last_start + last_count,
            Order::Length => (count, start) > (last_count, last_start),
        });
        if count == 0 || start < headers || end.is_none() || !rises {
            return Err(Error::malformed(
                "reading free space",
                format!("{count} blocks from {start} after {last:?} in a group of {}", self.blocks),
            ));
        }
        Ok(())
    }

    fn node(&self, order: Order, block: u32, level: u32, is_root: bool) -> Result<Node> {
        if block >= self.blocks {
            return Err(Error::malformed("reading a free-space tree", format!("it names block {block}")));
        }
        let at = self.superblock.byte_of(self.index, block);
        let bad = |why: String| Err(Error::malformed("reading a free-space tree block", why).at(at));
        let data = read_vec(self.source, at, self.superblock.block_size as usize)?;
        let raw = Bytes::new(&data, "a free-space tree block");
        let v5 = self.superblock.features.is_v5();
        let magic: &[u8; 4] = match (order, v5) {
            (Order::Place, true) => b"AB3B",
            (Order::Place, false) => b"ABTB",
            (Order::Length, true) => b"AB3C",
            (Order::Length, false) => b"ABTC",
        };
        if raw.slice(0, 4)? != magic {
            return bad("no magic".into());
        }
        if v5 {
            if !checksum_matches(&data, 52)? {
                return bad("checksum mismatch".into());
            }
            let here = raw.u64_be(16)? == at / 512 && raw.u32_be(48)? == self.index;
            if !here || raw.slice(32, 16)? != self.superblock.meta_uuid {
                return bad("it was written for another place".into());
            }
        }
        let (found_level, records) = (u32::from(raw.u16_be(4)?), usize::from(raw.u16_be(6)?));
        let header = if v5 { 56 } else { 16 };
        let most = (data.len() - header) / if level == 0 { 8 } else { 12 };
        if found_level != level || records > most || (records == 0 && !(is_root && level == 0)) {
            return bad(format!("level {found_level} with {records} records where level {level} belongs"));
        }
        let right = raw.u32_be(12)?;
        if is_root && (right != NO_BLOCK || raw.u32_be(8)? != NO_BLOCK) {
            return bad("a root has neighbours".into());
        }
        Ok(Node { at, level, records, next: 0, right, header, children: header + most * 8, data })
    }
}

/// One block of a tree.
struct Node {
    /// Its byte address, for errors.
    at: u64,
    level: u32,
    records: usize,
    /// The child to visit next.
    next: usize,
    right: u32,
    /// Where keys or records start: 8 bytes each.
    header: usize,
    /// Where the children's numbers start: 4 bytes each, behind room for all keys.
    children: usize,
    data: Vec<u8>,
}

impl Node {
    /// Start and count of a record, or of the first record below a child.
    fn key(&self, index: usize) -> Result<(u32, u32)> {
        let raw = Bytes::new(&self.data, "a free-space tree block");
        Ok((raw.u32_be(self.header + index * 8)?, raw.u32_be(self.header + index * 8 + 4)?))
    }

    fn child(&self, index: usize) -> Result<u32> {
        Bytes::new(&self.data, "a free-space tree block").u32_be(self.children + index * 4)
    }
}
