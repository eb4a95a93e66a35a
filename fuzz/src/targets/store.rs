// SPDX-License-Identifier: Apache-2.0
//! Objects of an image store, whose bytes somebody else may have written.

use unmoor_images::BlockSource;
use unmoor_images::store::{DocumentKind, decode_document, decode_index, decode_pack, decode_tree};
use unmoor_images::{ErrorKind, LEAF};

use super::{Answer, check_error, check_extents};
use crate::disk::Machine;

/// Most bytes of an object that are looked at.
const MOST: u64 = 1 << 20;
/// The same of a page, which is read for each of a node's children.
const MOST_PAGE: usize = 16 << 10;

fn bytes(machine: &Machine, disk: usize) -> Vec<u8> {
    machine.disks.get(disk).map(|disk| disk.peek(0, disk.size().min(MOST) as usize)).unwrap_or_default()
}

pub(crate) fn pack(machine: &Machine) -> Answer {
    let bytes = bytes(machine, 0);
    match decode_pack(&bytes) {
        Ok(table) => {
            assert!(table.entries.len() * 40 <= bytes.len());
            let end = table.places().last().map_or(16, |(at, entry)| at + u64::from(entry.stored));
            assert!(end <= bytes.len() as u64);
            // The salt and with it the name are another each time that a seed is made.
            Answer::new("pack", table)
        }
        Err(error) => Answer::error(&error),
    }
}

pub(crate) fn index(machine: &Machine) -> Answer {
    let bytes = bytes(machine, 0);
    match decode_index(&bytes) {
        Ok(index) => {
            let entries: usize = index.packs.iter().map(|pack| pack.entries.len()).sum();
            assert!(index.packs.len() * 36 + entries * 40 <= bytes.len());
            Answer::new(format!("index of {}", index.packs.len()), index)
        }
        Err(error) => Answer::error(&error),
    }
}

/// A root and its page; the disk's size is in the third file.
pub(crate) fn tree(machine: &Machine) -> Answer {
    let size = bytes(machine, 2);
    // An image with a larger disk is refused before its trees are read.
    let size = size.first_chunk().map_or(0, |size| u64::from_le_bytes(*size)).min(1 << 50);
    let (mut node, mut page) = (bytes(machine, 0), bytes(machine, 1));
    node.truncate(MOST_PAGE);
    page.truncate(MOST_PAGE);
    match decode_tree(size, &node, &page) {
        Ok((extents, leaves)) => {
            check_extents(&extents, size);
            assert_eq!(leaves.count(), size.div_ceil(LEAF));
            Answer::new("tree", (extents, leaves.root()))
        }
        Err(error) => Answer::error(&error),
    }
}

/// An image, the configuration, a key and a mark.
pub(crate) fn stored(machine: &Machine) -> Answer {
    use DocumentKind::{Config, Image, Key, Mark};
    documents(machine, &[Image, Config, Key, Mark])
}

/// A lease, and hints.
pub(crate) fn hints(machine: &Machine) -> Answer {
    use DocumentKind::{Damaged, Lease, Moved, Usage};
    documents(machine, &[Lease, Moved, Damaged, Usage])
}

fn documents(machine: &Machine, kinds: &[DocumentKind]) -> Answer {
    let (mut read, mut details) = (0, Vec::new());
    for (index, kind) in kinds.iter().enumerate() {
        match decode_document(*kind, &bytes(machine, index)) {
            Ok(text) => {
                read += 1;
                details.push(text);
            }
            Err(error) => {
                // A name that no machine has is what its caller did wrong, elsewhere.
                check_error(&error, &[ErrorKind::Usage]);
                details.push(error.chain());
            }
        }
    }
    Answer::new(format!("{read} documents"), details)
}
