// SPDX-License-Identifier: Apache-2.0
//! What images use: their trees, level by level, each page once however many images have it.

use super::catalog::Catalog;
use super::dedup::ById;
use super::image::ImageRecord;
use super::pool::{IN_FLIGHT, parallel};
use super::{Id, ImageRef, page};
use crate::merkle::Hash;
use crate::{Error, Monitor, Result};

/// Images that are looked at together.
pub(super) const TOGETHER: usize = 256;
/// Pages in memory at a time; a usual one has 8 KiB.
const PAGES: usize = 1024;

/// Trees that were walked so far.
pub(super) struct Walk<'a> {
    catalog: &'a Catalog,
    seen: ById<()>,
    /// Pages that are lost or damaged, and why.
    pub(super) broken: Vec<(Hash, Error)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, seen: ById::default(), broken: Vec::new() }
    }

    /// Pages that were read.
    pub(super) fn pages(&self) -> usize {
        self.seen.len()
    }

    /// Walks from `roots`, hash and level. `used` gets the id of every page and leaf that was not met before.
    pub(super) fn go(
        &mut self,
        roots: Vec<(Hash, u8)>,
        used: &mut dyn FnMut(&Id),
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let mut waiting = vec![roots];
        // The deepest first: what waits is then bounded by the levels.
        while let Some(mut now) = waiting.pop() {
            if monitor.cancelled() {
                return Err(cancelled());
            }
            let later = now.split_off(now.len().min(PAGES));
            if !later.is_empty() {
                waiting.push(later);
            }
            now.retain(|(hash, _)| self.seen.insert(*hash, ()).is_none());
            if now.is_empty() {
                continue;
            }
            let mut next = Vec::new();
            for (hash, level, below) in self.catalog.pages(&now)? {
                used(&self.catalog.store.seal().id(&hash));
                match below {
                    Ok(below) => {
                        for (.., leaf) in &below.leaves {
                            used(&self.catalog.store.seal().id(leaf));
                        }
                        let children =
                            below.children.iter().map(|(.., child)| (*child, level.saturating_sub(1)));
                        next.extend(children.filter(|(child, _)| !self.seen.contains_key(child)));
                    }
                    Err(error) => self.broken.push((hash, error)),
                }
            }
            if !next.is_empty() {
                waiting.push(next);
            }
        }
        Ok(())
    }
}

/// The ends of a record's trees.
pub(super) fn roots(record: &ImageRecord) -> Result<Vec<(Hash, u8)>> {
    let trees = record.trees.iter().enumerate();
    trees.map(|(disk, tree)| Ok((record.root(disk)?, page::root_level(tree.size)))).collect()
}

/// Receives images with what was read of them.
pub(super) type Each<'a> = &'a mut dyn FnMut(&[ImageRef], Vec<Result<ImageRecord>>) -> Result<()>;

/// The records of images, several at a time, `each` in the images' order.
pub(super) fn records(
    catalog: &Catalog,
    images: &[ImageRef],
    monitor: &dyn Monitor,
    each: Each<'_>,
) -> Result<()> {
    for batch in images.chunks(TOGETHER) {
        if monitor.cancelled() {
            return Err(cancelled());
        }
        let store = &catalog.store;
        let read = parallel(batch, IN_FLIGHT, |image| Ok(store.record(image)))?;
        each(batch, read)?;
    }
    Ok(())
}

pub(super) fn cancelled() -> Error {
    Error::new(crate::ErrorKind::Cancelled, "looking through the store")
}
