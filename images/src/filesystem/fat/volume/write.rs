// SPDX-License-Identifier: Apache-2.0
//! The new volume's bytes: directories first, then files one after the other, none in fragments.

use super::{Made, Move};
use crate::filesystem::FilesystemKind;
use crate::filesystem::fat::end_mark;
use crate::{Error, Result};

use super::geometry::{BACKUP, Geometry, put};
use super::tree::{Child, ENTRY, Item, Tree};

/// Bytes of all directories together, which are held in memory.
const MOST_DIRECTORIES: u64 = 32 << 20;

/// Hands out clusters in order and remembers the chains.
struct Chains {
    next: u64,
    /// Last clusters of chains, ascending; every other used cluster is followed by the next one.
    ends: Vec<u64>,
}

impl Chains {
    /// Clusters for `bytes`; the first of them.
    fn take(&mut self, bytes: u64, cluster_size: u32) -> u64 {
        let first = self.next;
        self.next += bytes.div_ceil(cluster_size.into()).max(1);
        self.ends.push(self.next - 1);
        first
    }
}

/// The volume's structures and moved content. `boot` is the boot sector to patch, `start` the volume's first byte on its disk.
pub(super) fn write(boot: &[u8], media: u8, tree: &Tree, geometry: &Geometry, start: u64) -> Result<Made> {
    let fixed_root = geometry.kind != FilesystemKind::Fat32;
    let mut chains = Chains { next: 2, ends: Vec::new() };
    // Cluster 0 is how ".." names the root.
    let mut places = Vec::new();
    for (index, directory) in tree.directories.iter().enumerate() {
        places.push(match index {
            0 if fixed_root => 0,
            _ => chains.take(directory.bytes() as u64, geometry.cluster_size),
        });
    }
    let size = (chains.next - 2).saturating_mul(geometry.cluster_size.into());
    if size > MOST_DIRECTORIES {
        return Err(full(geometry, chains.next - 2));
    }
    let mut made = Made { structures: geometry.data(), ..Made::default() };
    let mut root = Vec::new();
    let mut rest = vec![0; size as usize];
    for (index, directory) in tree.directories.iter().enumerate() {
        let own = places.get(index).copied().unwrap_or(0);
        let parent = match directory.parent {
            // Also where the root has a cluster of its own.
            None | Some(0) => 0,
            Some(parent) => places.get(parent).copied().unwrap_or(0),
        };
        let mut raw = Vec::with_capacity(directory.bytes());
        if index != 0 {
            for (dot, cluster) in directory.dots.iter().zip([own, parent]) {
                push(&mut raw, dot, cluster, geometry);
            }
        }
        for item in &directory.items {
            let cluster = match &item.child {
                Child::Nothing => 0,
                Child::Directory(child) => places.get(*child).copied().unwrap_or(0),
                Child::File(runs) => moved(runs, geometry, &mut chains, &mut made.moves),
                Child::Bytes(bytes) => {
                    let first = chains.take(bytes.len() as u64, geometry.cluster_size);
                    made.content.push((geometry.cluster_at(first), bytes.clone()));
                    first
                }
            };
            let Item { raw: entries, .. } = item;
            push(&mut raw, entries, cluster, geometry);
        }
        if index == 0 && fixed_root {
            if raw.len() as u64 > geometry.data() - geometry.root() {
                return Err(Error::refused("making a FAT volume anew", "its root directory is full"));
            }
            root = raw;
        } else {
            put(&mut rest, ((own - 2) * u64::from(geometry.cluster_size)) as usize, &raw);
        }
    }
    let used = chains.next - 2;
    if used > geometry.clusters {
        return Err(full(geometry, used));
    }
    let patches = &mut made.patches;
    let mut patch = |at: u64, bytes: Vec<u8>, what: &'static str| {
        if bytes.iter().any(|byte| *byte != 0) {
            patches.push((at, bytes, what));
        }
    };
    let sector = geometry.boot_sector(boot, start);
    if !fixed_root {
        let info = info_sector(geometry.clusters - used, chains.next);
        let size = u64::from(geometry.sector_size);
        patch(BACKUP * size, sector.clone(), "backup boot sector");
        patch((BACKUP + 1) * size, info.clone(), "backup FSInfo");
        patch(size, info, "FSInfo");
    }
    patch(0, sector, "boot sector");
    let fat = table(geometry.kind, media, &chains);
    for copy in 0..geometry.fats {
        let at = (geometry.reserved + copy * geometry.fat_sectors) * u64::from(geometry.sector_size);
        patch(at, fat.clone(), "allocation table");
    }
    patch(geometry.root(), root, "root directory");
    patch(geometry.data(), rest, "directories");
    Ok(made)
}

fn full(geometry: &Geometry, used: u64) -> Error {
    Error::refused(
        format!("making the FAT volume anew with {}-byte sectors", geometry.sector_size),
        format!(
            "its files need {used} clusters of {} bytes or more, and it has room for {}: remove files from it first",
            geometry.cluster_size, geometry.clusters
        ),
    )
}

/// Gives a file its clusters, and moves its content there. Returns the first cluster.
fn moved(runs: &[(u64, u64)], geometry: &Geometry, chains: &mut Chains, moves: &mut Vec<Move>) -> u64 {
    let size = runs.iter().map(|(_, len)| len).sum();
    let first = chains.take(size, geometry.cluster_size);
    let mut to = geometry.cluster_at(first);
    for &(from, len) in runs {
        moves.push(Move { to, from, len });
        to += len;
    }
    first
}

/// Appends entries, the last of which gets its first cluster.
fn push(directory: &mut Vec<u8>, entries: &[u8], cluster: u64, geometry: &Geometry) {
    directory.extend_from_slice(entries);
    let own = directory.len().saturating_sub(ENTRY);
    put(directory, own + 26, &(cluster as u16).to_le_bytes());
    if geometry.kind == FilesystemKind::Fat32 {
        put(directory, own + 20, &((cluster >> 16) as u16).to_le_bytes());
    }
}

/// FSInfo: how many clusters are free, and where to look for one.
fn info_sector(free: u64, next: u64) -> Vec<u8> {
    let mut sector = vec![0; 512];
    put(&mut sector, 0, b"RRaA");
    put(&mut sector, 484, b"rrAa");
    put(&mut sector, 488, &(free as u32).to_le_bytes());
    put(&mut sector, 492, &(next as u32).to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xAA]);
    sector
}

/// The table up to the last used cluster.
fn table(kind: FilesystemKind, media: u8, chains: &Chains) -> Vec<u8> {
    let end = end_mark(kind);
    let mut ends = chains.ends.iter().copied().peekable();
    let mut entries = vec![end & !0xFF | u32::from(media), end];
    for cluster in 2..chains.next {
        let last = ends.next_if_eq(&cluster).is_some();
        entries.push(if last { end } else { cluster as u32 + 1 });
    }
    match kind {
        FilesystemKind::Fat32 => entries.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
        FilesystemKind::Fat16 => entries.iter().flat_map(|entry| (*entry as u16).to_le_bytes()).collect(),
        _ => {
            let pairs = entries.chunks(2).map(|pair| match pair {
                [even, odd] => even | odd << 12,
                [even, ..] => *even,
                [] => 0,
            });
            pairs.flat_map(|pair| pair.to_le_bytes().into_iter().take(3)).collect()
        }
    }
}
