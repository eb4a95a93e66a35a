// SPDX-License-Identifier: Apache-2.0
//! exFAT: used clusters from the allocation bitmap that the root directory names.
//!
//! Source: Microsoft, "exFAT file system specification" (sections in brackets).

mod boot;
#[cfg(test)]
mod tests;

use boot::Boot;

use super::bit_runs::set_runs;
use super::fat::serial_text;
use super::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::parse::{Bytes, read_vec, utf16_text};
use crate::{BlockSource, Error, RangeSet, Result};

/// A directory is at most 256 MiB large (7.4).
const MOST_DIRECTORY: u64 = 256 << 20;
/// Directories and bitmaps are read in pieces of at most this many bytes: clusters may have 32 MiB.
const PIECE: u64 = 1 << 20;

/// exFAT by its boot region, whose checksum must be right.
pub(super) fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some(boot) = Boot::read(source)? else { return Ok(None) };
    let root = Root::read(source, &boot)?;
    Ok(Some(FilesystemFacts {
        kind: FilesystemKind::Exfat,
        uuid: (boot.serial != [0; 4]).then(|| serial_text(boot.serial)),
        label: root.label.filter(|label| !label.is_empty()),
        block_size: boot.cluster_size,
        size_bytes: boot.size,
        condition: if boot.flags & 2 != 0 {
            Condition::Dirty("the volume is marked dirty: it was not unmounted".into())
        } else {
            Condition::Clean
        },
        max_sector_size: boot.sector_size,
        features: if boot.fats > 1 { vec!["texfat".into()] } else { Vec::new() },
    }))
}

/// Everything before the first cluster, the clusters of every allocation bitmap, and the rest behind the last cluster.
pub(super) fn used(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    if let Condition::Dirty(found) | Condition::Hibernated(found) = &facts.condition {
        return Ok(Used::everything(
            source.size(),
            format!(
                "{found}, so the allocation bitmap may lag behind; to capture used blocks only, check it \
                 ('chkdsk /f', 'fsck.exfat') or mount and unmount it"
            ),
        ));
    }
    let boot = Boot::read(source)?
        .ok_or_else(|| Error::malformed("reading the exFAT boot sector", "its magic is missing"))?;
    let root = Root::read(source, &boot)?;
    if root.bitmaps.is_empty() {
        return Err(Error::malformed("reading the exFAT root directory", "it names no allocation bitmap"));
    }
    let mut ranges = RangeSet::of(0..boot.heap);
    let mut own = vec![boot.root_cluster];
    for bitmap in &root.bitmaps {
        read_bitmap(source, &boot, bitmap, &mut ranges, &mut own)?;
    }
    ranges.insert(boot.cluster_at(boot.clusters + 2)..boot.size);
    // The bitmap has no checksum; one that calls itself or the root directory free is not the bitmap.
    own.extend(root.upcase);
    for cluster in own {
        let at = boot.cluster_at(cluster);
        if !ranges.covers(at..at + u64::from(boot.cluster_size)) {
            return Err(Error::malformed(
                "checking the exFAT allocation bitmap",
                format!("cluster {cluster} of the system's own is free in it"),
            )
            .at(at));
        }
    }
    let mut warnings = Vec::new();
    if boot.flags & 4 != 0 {
        warnings.push("the volume is marked as having had read or write errors".into());
    }
    Ok(Used { ranges, warnings, everything_because: None })
}

/// An allocation bitmap as its directory entry names it.
struct Bitmap {
    cluster: u64,
    len: u64,
}

/// What the root directory says of the volume.
#[derive(Default)]
struct Root {
    /// One, or two where there are two FATs (TexFAT).
    bitmaps: Vec<Bitmap>,
    label: Option<String>,
    /// First cluster of the upcase table.
    upcase: Option<u64>,
}

impl Root {
    fn read(source: &dyn BlockSource, boot: &Boot) -> Result<Self> {
        let mut found = Self::default();
        let mut cluster = boot.root_cluster;
        // The limit of a directory's size also ends a chain that is a ring.
        for _ in 0..MOST_DIRECTORY.div_ceil(boot.cluster_size.into()) {
            let (at, len) = (boot.cluster_at(cluster), u64::from(boot.cluster_size));
            for from in (0..len).step_by(PIECE as usize) {
                let entries = read_vec(source, at + from, (len - from).min(PIECE) as usize)?;
                if found.take(&entries, boot)? {
                    return Ok(found);
                }
            }
            match boot.next(source, cluster)? {
                Some(next) => cluster = next,
                None => return Ok(found),
            }
        }
        Err(Error::malformed("reading the exFAT root directory", "it is larger than 256 MiB, or a ring"))
    }

    /// True at the end of the directory.
    fn take(&mut self, entries: &[u8], boot: &Boot) -> Result<bool> {
        for entry in entries.chunks_exact(32) {
            let entry = Bytes::new(entry, "directory entry");
            match entry.u8(0)? {
                0 => return Ok(true),
                0x81 => {
                    let cluster = boot.valid(entry.u32_le(20)?)?;
                    self.bitmaps.push(Bitmap { cluster, len: entry.u64_le(24)? });
                    if self.bitmaps.len() > 2 {
                        return Err(Error::malformed(
                            "reading the exFAT root directory",
                            "it names more than two allocation bitmaps",
                        ));
                    }
                }
                0x82 => self.upcase = Some(boot.valid(entry.u32_le(20)?)?),
                0x83 => {
                    let units = usize::from(entry.u8(1)?.min(11));
                    self.label = Some(utf16_text(entry.slice(2, units * 2)?));
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

/// Adds the clusters that one bitmap calls used to `ranges`, and its own clusters to `own`.
fn read_bitmap(
    source: &dyn BlockSource,
    boot: &Boot,
    bitmap: &Bitmap,
    ranges: &mut RangeSet,
    own: &mut Vec<u64>,
) -> Result<()> {
    let bytes = boot.clusters.div_ceil(8);
    if bitmap.len < bytes {
        return Err(Error::malformed("reading the exFAT allocation bitmap", "it is shorter than the volume"));
    }
    let cluster_size = u64::from(boot.cluster_size);
    let (mut cluster, mut done) = (bitmap.cluster, 0);
    loop {
        own.push(cluster);
        let end = (done + cluster_size).min(bytes);
        for at in (done..end).step_by(PIECE as usize) {
            let piece =
                read_vec(source, boot.cluster_at(cluster) + (at - done), (end - at).min(PIECE) as usize)?;
            let first = at * 8;
            set_runs(&piece, (boot.clusters - first).min(PIECE * 8), |run| {
                ranges.insert(boot.cluster_at(first + run.start + 2)..boot.cluster_at(first + run.end + 2));
            });
        }
        done = end;
        if done == bytes {
            return Ok(());
        }
        cluster = boot.next(source, cluster)?.ok_or_else(|| {
            Error::malformed("reading the exFAT allocation bitmap", "its chain of clusters is too short")
        })?;
    }
}
