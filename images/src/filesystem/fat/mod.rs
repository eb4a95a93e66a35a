// SPDX-License-Identifier: Apache-2.0
//! FAT12, FAT16 and FAT32: used clusters from every copy of the file allocation table.
//!
//! Sources: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, and Linux' `fs/fat`.

mod boot;
pub(super) mod files;
#[cfg(test)]
pub(super) mod oracle;
mod serial;
mod table;
#[cfg(test)]
mod tests;
mod volume;

pub use boot::Boot;
pub(super) use serial::change_serial;
pub use table::{end_mark, entry};
pub use volume::{Made, Move, Stamp, Volume};

use super::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, RangeSet, Result};

/// A FAT directory has at most 65536 entries of 32 bytes (the specification's limit).
const MOST_DIRECTORY: u64 = 65536 * 32;

/// FAT by its boot sector and the first entries of its table.
pub(super) fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some(boot) = Boot::read(source)? else { return Ok(None) };
    let head = table::Head::read(source, &boot)?;
    Ok(Some(FilesystemFacts {
        kind: boot.kind,
        uuid: boot.serial.filter(|serial| *serial != [0; 4]).map(serial_text),
        label: label(source, &boot)?,
        block_size: boot.cluster_size,
        size_bytes: boot.size,
        condition: match head.unclean(&boot) {
            Some(found) => Condition::Dirty(found.into()),
            None => Condition::Clean,
        },
        max_sector_size: boot.sector_size,
        features: Vec::new(),
    }))
}

/// Everything before the first cluster, every cluster that any copy of the table calls used, and the rest behind
/// the last cluster. FAT has no journal, so what the table says holds for a volume that was not unmounted too.
pub(super) fn used(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    let boot = Boot::read(source)?
        .ok_or_else(|| Error::malformed("reading the FAT boot sector", "it is not FAT's"))?;
    table::Head::read(source, &boot)?;
    let mut ranges = RangeSet::of(0..boot.data);
    let found = table::scan(source, &boot, |run| {
        ranges.insert(boot.cluster_at(run.start)..boot.cluster_at(run.end));
    })?;
    ranges.insert(boot.cluster_at(boot.clusters + 2)..boot.size);
    let root = boot.cluster_at(boot.root_cluster.max(2));
    if boot.kind == FilesystemKind::Fat32 && !ranges.covers(root..root + 1) {
        return Err(
            Error::malformed("checking the FAT", "the root directory's cluster is free in it").at(root)
        );
    }

    let mut warnings = Vec::new();
    if let Condition::Dirty(found) = &facts.condition {
        warnings.push(format!("{found}; its allocation table is taken as it stands"));
    }
    if found.copies_differ && boot.active.is_none() {
        warnings.push("the copies of the file allocation table differ; what any of them uses is kept".into());
    }
    if found.bad > 0 {
        warnings.push(format!("{} clusters are marked bad and are not kept", found.bad));
    }
    Ok(Used { ranges, warnings, everything_because: None })
}

/// The serial number as DOS and `blkid` print it.
pub(super) fn serial_text([a, b, c, d]: [u8; 4]) -> String {
    format!("{d:02X}{c:02X}-{b:02X}{a:02X}")
}

/// The root directory's label entry, else the boot sector's label.
fn label(source: &dyn BlockSource, boot: &Boot) -> Result<Option<String>> {
    let in_root = if boot.kind == FilesystemKind::Fat32 {
        let mut cluster = boot.root_cluster;
        let mut found = None;
        // The limit of a directory's size also ends a chain that is a ring.
        for _ in 0..MOST_DIRECTORY.div_ceil(boot.cluster_size.into()) {
            if found.is_some() || !(2..boot.clusters + 2).contains(&cluster) {
                break;
            }
            found = label_in(&read_vec(source, boot.cluster_at(cluster), boot.cluster_size as usize)?)?;
            cluster = u64::from(Bytes::new(&read_vec(source, boot.fat + cluster * 4, 4)?, "FAT").u32_le(0)?);
            cluster &= 0x0FFF_FFFF;
        }
        found
    } else {
        label_in(&read_vec(source, boot.root, boot.root_size as usize)?)?
    };
    let raw = match in_root {
        Some(Entry::Label(raw)) => Some(raw),
        _ => boot.label.filter(|label| label != b"NO NAME    "),
    };
    let text = raw.map(|raw| String::from_utf8_lossy(&raw).trim_end_matches([' ', '\0']).to_owned());
    Ok(text.filter(|text| !text.is_empty()))
}

enum Entry {
    Label([u8; 11]),
    EndOfDirectory,
}

/// The volume label among a directory's entries, or that the directory ends there.
fn label_in(entries: &[u8]) -> Result<Option<Entry>> {
    for entry in entries.chunks_exact(32) {
        let entry = Bytes::new(entry, "directory entry");
        match entry.u8(0)? {
            0 => return Ok(Some(Entry::EndOfDirectory)),
            0xE5 => continue,
            _ => {}
        }
        // Bit 3 is the label; with bits 0-2 too it is a part of a long name.
        if entry.u8(11)? & 0x18 == 0x08 && entry.u8(11)? & 0x3F != 0x0F {
            let mut raw = [0; 11];
            raw.copy_from_slice(entry.slice(0, 11)?);
            if raw.first() == Some(&0x05) {
                raw[0] = 0xE5;
            }
            return Ok(Some(Entry::Label(raw)));
        }
    }
    Ok(None)
}
