// SPDX-License-Identifier: Apache-2.0
//! What has been found out of every disk's bytes so far.

use std::ops::Range;

use crate::adapt::Mapped;
use crate::{BlockSource, ExtentMap, RangeSet, State};

/// One disk's account.
pub(super) struct Account {
    size: u64,
    sector_size: u64,
    /// Content to be kept.
    data: RangeSet,
    /// Where a hole must not show what the target held before.
    quiet: RangeSet,
    /// Why nothing of the disk may be left out.
    pub(super) whole: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) patches: Vec<(u64, Vec<u8>)>,
}

/// All disks' accounts.
pub(super) struct Ledger {
    pub(super) disks: Vec<Account>,
}

impl Ledger {
    pub(super) fn new(disks: &[&dyn BlockSource]) -> Self {
        // The bound on memory holds for the run, not for each disk.
        let limit = (2_000_000 / disks.len().max(1)).max(50_000);
        let account = |disk: &&dyn BlockSource| Account {
            size: disk.size(),
            sector_size: u64::from(disk.sector_size()).max(1),
            data: RangeSet::with_limit(limit),
            quiet: RangeSet::new(),
            whole: None,
            warnings: Vec::new(),
            patches: Vec::new(),
        };
        Self { disks: disks.iter().map(account).collect() }
    }

    /// Keeps a range of a disk, whole sectors.
    pub(super) fn keep_on(&mut self, disk: usize, range: Range<u64>) {
        if let Some(account) = self.disks.get_mut(disk) {
            account.data.insert(account.sectors(range));
        }
    }

    /// Keeps a range of a device on all the disks where it lies.
    pub(super) fn keep(&mut self, device: &Mapped<'_>, range: Range<u64>) {
        for (disk, run) in device.runs(range) {
            self.keep_on(disk, run);
        }
    }

    /// Holes in a range of a device become zeros.
    pub(super) fn quiet(&mut self, device: &Mapped<'_>, range: Range<u64>) {
        for (disk, run) in device.runs(range) {
            if let Some(account) = self.disks.get_mut(disk) {
                account.quiet.insert(account.sectors(run));
            }
        }
    }

    /// Warns once of each thing. Hostile metadata can cause a hundred thousand warnings, each compared with all others.
    pub(super) fn warn(&mut self, disk: usize, text: String) {
        const MOST: usize = 250;
        if let Some(account) = self.disks.get_mut(disk)
            && account.warnings.len() <= MOST
            && !account.warnings.contains(&text)
        {
            let full = account.warnings.len() == MOST;
            account.warnings.push(if full { "further warnings are left out".into() } else { text });
        }
    }
}

impl Account {
    /// Devices are read in sectors: the range with the whole of its first and last one.
    fn sectors(&self, range: Range<u64>) -> Range<u64> {
        if range.is_empty() {
            return range;
        }
        let end = range.end.checked_next_multiple_of(self.sector_size).unwrap_or(self.size);
        range.start / self.sector_size * self.sector_size..end.min(self.size)
    }

    /// Every byte's state.
    pub(super) fn extents(&mut self, all: bool) -> ExtentMap {
        if all || self.whole.is_some() {
            return ExtentMap::uniform(self.size, State::Data);
        }
        ExtentMap::from_data(self.size, &mut self.data, State::Hole).zero_holes(&mut self.quiet)
    }
}
