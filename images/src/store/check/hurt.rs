// SPDX-License-Identifier: Apache-2.0
//! Which bytes of which images are hurt, once it is known which chunks are lost.

use std::collections::HashSet;

use super::{HurtDisk, HurtImage};
use crate::merkle::Hash;
use crate::store::catalog::Catalog;
use crate::store::dedup::ById;
use crate::store::image::ImageRecord;
use crate::store::{Id, ImageRef, page};
use crate::{LEAF, Result};

/// Most ranges of one disk that are listed; what is beyond them is put together.
const MOST_RANGES: usize = 10_000;

pub(super) struct Search<'a> {
    catalog: &'a Catalog,
    missing: &'a HashSet<Id>,
    broken: &'a HashSet<Hash>,
    /// Pages and nodes below which nothing is lost.
    clean: ById<()>,
}

impl<'a> Search<'a> {
    pub(super) fn new(catalog: &'a Catalog, missing: &'a HashSet<Id>, broken: &'a HashSet<Hash>) -> Self {
        Self { catalog, missing, broken, clean: ById::default() }
    }

    /// What an image lacks; none if that is nothing.
    pub(super) fn image(&mut self, image: &ImageRef, record: &ImageRecord) -> Result<Option<HurtImage>> {
        let mut hurt = HurtImage::of(image, record);
        for (disk, tree) in record.trees.iter().enumerate() {
            let mut ranges = Vec::new();
            let root = record.root(disk)?;
            self.below(&root, page::root_level(tree.size), 0, tree.size, &mut ranges)?;
            if !ranges.is_empty() {
                hurt.disks.push(HurtDisk { disk, ranges });
            }
        }
        Ok((!hurt.disks.is_empty()).then_some(hurt))
    }

    /// Adds what is lost below a page or node that begins at `start`; answers whether anything is.
    fn below(
        &mut self,
        hash: &Hash,
        level: u8,
        start: u64,
        size: u64,
        ranges: &mut Vec<(u64, u64)>,
    ) -> Result<bool> {
        if self.clean.contains_key(hash) || start >= size {
            return Ok(false);
        }
        let end = start.saturating_add(page::covers(level)).min(size);
        let lost = self.broken.contains(hash) || self.missing.contains(&self.catalog.store.seal().id(hash));
        let read = if lost { None } else { self.catalog.pages(&[(*hash, level)])?.pop() };
        let Some((_, _, Ok(below))) = read else {
            add(ranges, start, end);
            return Ok(true);
        };
        let step = page::step(level);
        let mut hurt = false;
        for (first, count, child) in &below.children {
            for at in *first..first + count {
                let from = start.saturating_add(at.saturating_mul(step));
                hurt |= self.below(child, level.saturating_sub(1), from, size, ranges)?;
            }
        }
        for (first, count, leaf) in &below.leaves {
            if self.missing.contains(&self.catalog.store.seal().id(leaf)) {
                add(ranges, start + first * LEAF, (start + (first + count) * LEAF).min(end));
                hurt = true;
            }
        }
        if !hurt {
            self.clean.insert(*hash, ());
        }
        Ok(hurt)
    }
}

fn add(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    let full = ranges.len() >= MOST_RANGES;
    match ranges.last_mut() {
        Some(last) if last.1 == start || full => last.1 = end,
        _ => ranges.push((start, end)),
    }
}
