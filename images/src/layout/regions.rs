// SPDX-License-Identifier: Apache-2.0
//! The tree of regions: nodes while the walk goes on, [`Region`]s at its end.

use crate::{Error, Result};

use super::device::Span;
use super::walk::Analysis;
use super::{Content, DiskLayout, Kept, Place, Region};

/// A [`Region`] under construction.
pub(super) struct Node {
    pub(super) disk: usize,
    place: Place,
    pub(super) content: Content,
    pub(super) kept: Kept,
    /// Bytes of data, where the disk's map does not tell: for logical volumes.
    pub(super) used: u64,
    children: Vec<usize>,
}

impl Analysis<'_> {
    pub(super) fn add(&mut self, parent: Option<usize>, place: Place, disk: usize) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node {
            disk,
            place,
            content: Content::Unknown,
            kept: Kept::Used,
            used: 0,
            children: Vec::new(),
        });
        match parent.and_then(|parent| self.nodes.get_mut(parent)) {
            Some(parent) => parent.children.push(index),
            None => self.roots.get_mut(disk).into_iter().for_each(|roots| roots.push(index)),
        }
        index
    }

    pub(super) fn each(&mut self, nodes: &[usize], change: impl Fn(&mut Node)) {
        for node in nodes {
            if let Some(node) = self.nodes.get_mut(*node) {
                change(node);
            }
        }
    }

    /// Adds a part of the device whose copies are `spans`, below `parents`.
    pub(super) fn add_part(
        &mut self,
        parents: &[Option<usize>],
        parts: &[Span],
        number: Option<u32>,
        content: &Content,
        kept: &Kept,
    ) -> Vec<usize> {
        let pairs: Vec<_> = parents.iter().copied().zip(parts.iter().copied()).collect();
        let nodes: Vec<_> = pairs
            .into_iter()
            .map(|(parent, part)| self.add(parent, place(part, number), part.disk))
            .collect();
        self.each(&nodes, |node| {
            node.content = content.clone();
            node.kept = kept.clone();
        });
        if matches!(kept, Kept::Everything(_)) {
            for part in parts {
                self.ledger.keep_on(part.disk, part.start..part.start.saturating_add(part.len));
            }
        }
        nodes
    }

    /// What to call a region in a warning of its disk.
    pub(super) fn who(&self, node: usize) -> String {
        match self.nodes.get(node).map(|node| &node.place) {
            Some(Place::Disk { partition: Some(number), .. }) => format!("partition {number}"),
            Some(Place::LogicalVolume { vg, lv, .. }) => format!("logical volume {vg}/{lv}"),
            Some(Place::Md { name: Some(name), .. }) => format!("md array {name}"),
            Some(Place::Md { uuid, .. }) => format!("md array {uuid}"),
            _ => "the disk".into(),
        }
    }

    pub(super) fn finish(mut self) -> Result<Vec<DiskLayout>> {
        let mut layouts = Vec::new();
        let nodes = std::mem::take(&mut self.nodes);
        for (disk, table) in std::mem::take(&mut self.tables).into_iter().enumerate() {
            let (Some(account), Some(roots)) = (self.ledger.disks.get_mut(disk), self.roots.get(disk)) else {
                return Err(Error::malformed("analyzing the disks", "a disk has no account"));
            };
            let extents = account.extents(self.options.all);
            let mut regions: Vec<_> =
                roots.iter().filter_map(|&root| region(&nodes, root, &extents)).collect();
            regions.sort_by_key(address);
            layouts.push(DiskLayout {
                table,
                regions,
                extents,
                warnings: std::mem::take(&mut account.warnings),
                patches: std::mem::take(&mut account.patches),
            });
        }
        Ok(layouts)
    }
}

pub(super) fn place(span: Span, partition: Option<u32>) -> Place {
    Place::Disk { offset: span.start, len: span.len, partition }
}

fn address(region: &Region) -> u64 {
    match region.place {
        Place::Disk { offset, .. } | Place::Md { offset, .. } => offset,
        Place::LogicalVolume { .. } => 0,
    }
}

/// Nesting is bounded by the walk: disk, partition, array, partition in it, logical volume.
fn region(nodes: &[Node], index: usize, extents: &crate::ExtentMap) -> Option<Region> {
    let node = nodes.get(index)?;
    let used_bytes = match node.place {
        Place::Disk { offset, len, .. } | Place::Md { offset, len, .. } => extents
            .within(offset..offset.saturating_add(len))
            .filter(|extent| extent.state == crate::State::Data)
            .map(|extent| extent.len)
            .sum(),
        Place::LogicalVolume { .. } => node.used,
    };
    let mut children: Vec<_> =
        node.children.iter().filter_map(|&child| region(nodes, child, extents)).collect();
    children.sort_by_key(address);
    Some(Region {
        place: node.place.clone(),
        content: node.content.clone(),
        used_bytes,
        kept: node.kept.clone(),
        children,
    })
}
