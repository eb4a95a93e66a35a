// SPDX-License-Identifier: Apache-2.0
//! Which blocks an image has, and where each stands in the order of the blocks that it has.

use crate::{Error, Result};

/// Runs of used blocks that are kept: 16 bytes each. ext4 with 100 TiB of small files has fewer.
const MOST_RUNS: usize = 12_000_000;

/// A run of blocks that are in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First block of the filesystem.
    start: u64,
    /// How many used blocks come before it.
    before: u64,
}

/// The used blocks, as runs.
#[derive(Debug)]
pub(super) struct Blocks {
    runs: Vec<Run>,
    used: u64,
    total: u64,
}

impl Blocks {
    /// Blocks that are in the image.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// What block `block` is: its place among the used ones, if it is one; and for how many blocks that goes on.
    pub(super) fn at(&self, block: u64) -> (Option<u64>, u64) {
        let next = self.runs.partition_point(|run| run.start <= block);
        let end = self.runs.get(next).map_or(self.total, |run| run.start);
        let Some(run) = next.checked_sub(1).and_then(|index| self.runs.get(index)) else {
            return (None, end.saturating_sub(block));
        };
        let len = self.runs.get(next).map_or(self.used, |run| run.before) - run.before;
        let within = block - run.start;
        if within < len {
            (Some(run.before + within), len - within)
        } else {
            (None, end.saturating_sub(block))
        }
    }
}

/// Puts the runs together.
pub(super) struct Builder {
    blocks: Blocks,
    at: u64,
    inside: bool,
}

impl Builder {
    pub(super) fn new(total: u64) -> Self {
        Self { blocks: Blocks { runs: Vec::new(), used: 0, total }, at: 0, inside: false }
    }

    /// The next `count` blocks.
    pub(super) fn push(&mut self, count: u64, used: bool) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        if used && !self.inside {
            if self.blocks.runs.len() >= MOST_RUNS {
                return Err(Error::unsupported(
                    "reading the map of used blocks",
                    format!("it has more than {MOST_RUNS} runs"),
                ));
            }
            self.blocks.runs.push(Run { start: self.at, before: self.blocks.used });
        }
        self.inside = used;
        self.at += count;
        if used {
            self.blocks.used += count;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Blocks {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_its_place_and_the_run_that_it_is_in() {
        let map: Vec<bool> = (0..1000u64).map(|block| block * block % 7 < 3 || block > 900).collect();
        let mut builder = Builder::new(1000);
        map.iter().for_each(|used| builder.push(1, *used).unwrap());
        let blocks = builder.finish();
        let mut before = 0;
        for (block, used) in map.iter().enumerate() {
            let (place, run) = blocks.at(block as u64);
            assert_eq!(place, used.then_some(before), "{block}");
            let same = map[block..].iter().take_while(|next| *next == used).count();
            assert_eq!(run, same as u64, "{block}");
            before += u64::from(*used);
        }
        assert_eq!(blocks.used(), before);
        assert_eq!(Builder::new(0).finish().at(0), (None, 0));
    }
}
