// SPDX-License-Identifier: Apache-2.0
//! The new volume's bytes: directories first, then files one after the other, none in fragments.

use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::filesystem::fat::{Boot, end_mark};
use unmoor_images::parse::read_vec;
use unmoor_images::{BlockSource, Error, Result};

use super::geometry::{BACKUP, Geometry, put};
use super::tree::{Child, ENTRY, Item, Tree};
use crate::view::{Patch, Piece};

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

/// Patches and pieces of the volume, at their places on image (`old` first byte) and target (`new`).
pub(super) fn write(
    source: &dyn BlockSource,
    boot: &Boot,
    tree: &Tree,
    geometry: &Geometry,
    old: u64,
    new: u64,
) -> Result<(Vec<Patch>, Vec<Piece>)> {
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
    let mut pieces = Vec::new();
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
                Child::File(runs) => content(runs, geometry, &mut chains, &mut pieces, old, new),
            };
            let Item { raw: entries, .. } = item;
            push(&mut raw, entries, cluster, geometry);
        }
        if index == 0 && fixed_root {
            root = raw;
        } else {
            put(&mut rest, ((own - 2) * u64::from(geometry.cluster_size)) as usize, &raw);
        }
    }
    let used = chains.next - 2;
    if used > geometry.clusters {
        return Err(full(geometry, used));
    }
    let mut patches = Vec::new();
    let mut patch = |at: u64, bytes: Vec<u8>, what: &str| {
        if bytes.iter().any(|byte| *byte != 0) {
            patches.push(Patch { offset: new + at, bytes, what: format!("FAT volume's {what}") });
        }
    };
    let sector = geometry.boot_sector(&read_vec(source, 0, 512)?, new);
    if !fixed_root {
        let info = info_sector(geometry.clusters - used, chains.next);
        let size = u64::from(geometry.sector_size);
        patch(BACKUP * size, sector.clone(), "backup boot sector");
        patch((BACKUP + 1) * size, info.clone(), "backup FSInfo");
        patch(size, info, "FSInfo");
    }
    patch(0, sector, "boot sector");
    let fat = table(geometry.kind, boot.media, &chains);
    for copy in 0..geometry.fats {
        let at = (geometry.reserved + copy * geometry.fat_sectors) * u64::from(geometry.sector_size);
        patch(at, fat.clone(), "allocation table");
    }
    patch(geometry.root(), root, "root directory");
    patch(geometry.data(), rest, "directories");
    Ok((patches, pieces))
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

/// Gives a file its clusters, and its content as pieces there. Returns the first cluster.
fn content(
    runs: &[(u64, u64)],
    geometry: &Geometry,
    chains: &mut Chains,
    pieces: &mut Vec<Piece>,
    old: u64,
    new: u64,
) -> u64 {
    let size = runs.iter().map(|(_, len)| len).sum();
    let first = chains.take(size, geometry.cluster_size);
    let mut to = new + geometry.cluster_at(first);
    for (from, len) in runs {
        pieces.push(Piece { to, from: old + from, len: *len });
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
