// SPDX-License-Identifier: Apache-2.0
//! Filesystems and swap: which of their bytes are kept, and what a suspended system means for all of them.

use crate::adapt::Mapped;
use crate::filesystem::{Condition, FilesystemFacts, FilesystemKind};
use crate::parse::read_vec;
use crate::{BlockSource, Error, RangeSet, Result};

use super::Hibernated;
use super::device::Device;
use super::walk::{Analysis, SMALL_GAP, distrust};

/// A filesystem or swap that was found and waits to be accounted for.
pub(super) struct Leaf {
    pub(super) nodes: Vec<usize>,
    pub(super) device: Device,
    /// As each copy states them.
    pub(super) facts: Vec<FilesystemFacts>,
}

impl Leaf {
    /// What was found, if a system is suspended onto it.
    fn suspended(&self) -> Option<&str> {
        self.facts.iter().find_map(|facts| match &facts.condition {
            Condition::Hibernated(text) => Some(text.as_str()),
            _ => None,
        })
    }

    fn is_swap(&self) -> bool {
        self.facts.iter().any(|facts| facts.kind == FilesystemKind::Swap)
    }
}

/// Length of swap's signature, which ends its first page.
const MARK: u64 = 10;
const SWAP_MARKS: [&[u8]; 2] = [b"SWAPSPACE2", b"SWAP-SPACE"];
/// What the kernel (`kernel/power/swap.c`) and uswsusp put there; the old signature is kept in the 10 bytes before.
const SUSPENDED_MARKS: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];

impl Analysis<'_> {
    /// Applies the user's choice to suspended systems, before anything is accounted for.
    pub(super) fn hibernation(&mut self) -> Result<()> {
        let leaves = std::mem::take(&mut self.leaves);
        let suspended = leaves.iter().find_map(|leaf| leaf.suspended().map(|text| (leaf, text.to_owned())));
        let Some((first, text)) = suspended else {
            self.leaves = leaves;
            return Ok(());
        };
        let place = first.nodes.first().map_or_else(String::new, |&node| self.place_text(node));
        match self.options.hibernated {
            Hibernated::Refuse => Err(Error::refused(
                format!("analyzing {place}"),
                format!(
                    "a system is suspended there ({text}); shut it down properly, or choose --hibernated=keep (its swap and \
                     filesystems are captured whole, and it can only resume on the same hardware) or --hibernated=discard (it \
                     starts afresh, as after a power failure)"
                ),
            )),
            Hibernated::Keep => {
                let reason = format!("a system is suspended on {place} ({text}), and it is to be kept");
                for leaf in &leaves {
                    self.give_up(&leaf.nodes, &leaf.device, &reason, leaf.suspended().is_some())?;
                }
                Ok(())
            }
            Hibernated::Discard => {
                for leaf in leaves {
                    if leaf.suspended().is_none() {
                        self.leaves.push(leaf);
                    } else if leaf.is_swap() {
                        self.discard(&leaf)?;
                    } else {
                        // Windows' state lies in a file of the filesystem, which only Windows may remove.
                        let reason =
                            "Windows is suspended on it, which only Windows can end: start and shut it down";
                        self.give_up(&leaf.nodes, &leaf.device, reason, true)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn place_text(&self, node: usize) -> String {
        let disk = self.nodes.get(node).map_or(0, |node| node.disk);
        match self.disks.len() {
            1 => self.who(node),
            _ => format!("{} of disk {}", self.who(node), disk + 1),
        }
    }

    /// Keeps a swap's first page alone, with the signature that it had before the system was suspended: exact bytes would
    /// make the restored machine resume from content that is not there.
    fn discard(&mut self, leaf: &Leaf) -> Result<()> {
        for (copy, facts) in leaf.device.copies(&self.disks)?.iter().zip(&leaf.facts) {
            let page = u64::from(facts.block_size);
            let refused = |because: &'static str| {
                Error::refused("giving up a suspended system", because).at(page.saturating_sub(MARK))
            };
            if page < 2 * MARK || page > copy.size() || page > 1 << 20 {
                return Err(refused("the swap's page size makes no sense; choose --hibernated=keep"));
            }
            let tail = match read_vec(copy, page - 2 * MARK, 2 * MARK as usize) {
                Ok(tail) => tail,
                Err(error) => {
                    return self.give_up(&leaf.nodes, &leaf.device, &distrust(error)?, true);
                }
            };
            let (before, mark) = tail.split_at(MARK as usize);
            if !SUSPENDED_MARKS.iter().any(|known| mark.starts_with(known)) {
                return Err(refused("its mark is not one that unmoor can remove; choose --hibernated=keep"));
            }
            let mark = SWAP_MARKS.iter().find(|known| before == **known).copied().unwrap_or(b"SWAPSPACE2");
            self.ledger.keep(copy, 0..page);
            self.patch(copy, page - MARK, mark);
        }
        self.each(&leaf.nodes, |node| {
            node.used = leaf.facts.first().map_or(0, |facts| u64::from(facts.block_size));
        });
        for &node in &leaf.nodes {
            let disk = self.nodes.get(node).map_or(0, |node| node.disk);
            let text = format!(
                "the system suspended on {} is given up as asked: it starts afresh, and what it had not written is lost",
                self.who(node)
            );
            self.ledger.warn(disk, text);
        }
        Ok(())
    }

    fn patch(&mut self, device: &Mapped<'_>, offset: u64, content: &[u8]) {
        let mut rest = content;
        for (disk, start, len) in device.resolve(offset, content.len() as u64) {
            let (now, later) = rest.split_at((len as usize).min(rest.len()));
            if let Some(account) = self.ledger.disks.get_mut(disk) {
                account.patches.push((start, now.to_vec()));
            }
            rest = later;
        }
    }

    /// Reads every filesystem's used ranges into the ledger.
    ///
    /// Partitions may overlap and logical volumes share extents, and thousands of them can claim one large filesystem, which
    /// would be walked for hours: what goes beyond four times the disks is not walked but kept.
    pub(super) fn account(&mut self) -> Result<()> {
        let disks = self.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.size()));
        let mut walked = 0u64;
        for leaf in std::mem::take(&mut self.leaves) {
            self.check_cancelled()?;
            if self.options.all {
                self.give_up(&leaf.nodes, &leaf.device, "every byte is wanted", false)?;
                continue;
            }
            let copies = leaf.device.copies(&self.disks)?;
            walked = copies.iter().fold(walked, |sum, copy| sum.saturating_add(copy.size()));
            if walked > disks.saturating_mul(4) {
                let reason = "partitions or volumes claim the same bytes again and again";
                self.give_up(&leaf.nodes, &leaf.device, reason, true)?;
                continue;
            }
            match self.used(&leaf, &copies)? {
                Ok(mut used) => {
                    // All copies of a mirror get the union, so that they stay equal where they are in use.
                    for copy in &copies {
                        for range in used.ranges() {
                            self.ledger.keep(copy, range.clone());
                        }
                    }
                    let bytes = used.bytes();
                    self.each(&leaf.nodes, |node| node.used = bytes);
                }
                Err(reason) => self.give_up(&leaf.nodes, &leaf.device, &reason, true)?,
            }
        }
        Ok(())
    }

    /// The used ranges of all copies together, or why there is no telling.
    fn used(&mut self, leaf: &Leaf, copies: &[Mapped<'_>]) -> Result<std::result::Result<RangeSet, String>> {
        let mut all = RangeSet::new();
        for (copy, facts) in copies.iter().zip(&leaf.facts) {
            let size = copy.size();
            if facts.size_bytes > size {
                return Ok(Err(format!(
                    "its {} is larger ({} bytes) than the space that it lies in ({size} bytes)",
                    facts.kind.name(),
                    facts.size_bytes
                )));
            }
            let mut used = match (self.readers.used)(copy, facts) {
                Ok(used) => used,
                Err(error) => return Ok(Err(distrust(error)?)),
            };
            for warning in used.warnings.drain(..) {
                for &node in &leaf.nodes {
                    let disk = self.nodes.get(node).map_or(0, |node| node.disk);
                    let text = format!("{}: {warning}", self.who(node));
                    self.ledger.warn(disk, text);
                }
            }
            if let Some(reason) = used.everything_because {
                return Ok(Err(reason));
            }
            used.ranges.truncate(size);
            all.insert_all(&mut used.ranges, 0);
            // What lies behind its end is a gap.
            if size - facts.size_bytes <= SMALL_GAP {
                all.insert(facts.size_bytes..size);
            }
        }
        Ok(Ok(all))
    }
}
