// SPDX-License-Identifier: Apache-2.0
//! Files of FAT12, FAT16 and FAT32, with long names.

use super::{Boot, end_mark, entry};
use crate::filesystem::FilesystemKind;
use crate::filesystem::files::{Id, Kind, Limited, Node, Piece, Run, Volume, gather};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading a FAT file";
/// A directory's number has this bit, so that it differs from its first file's.
const DIRECTORY: u64 = 1 << 63;
const MOST_DIRECTORY: u64 = 65536 * 32;
/// Entries of a long name.
const MOST_PARTS: usize = 20;

/// Numbers are (first cluster with [`DIRECTORY`], length).
struct Files<'a> {
    source: &'a dyn BlockSource,
    boot: Boot,
    table: Vec<u8>,
}

pub(in crate::filesystem) fn open<'a>(source: &'a Limited<'a>) -> Result<Box<dyn Volume + 'a>> {
    let boot = Boot::read(source)?.ok_or_else(|| broken("there is no boot sector"))?;
    let copy = u64::from(boot.active.unwrap_or(0)).min(boot.fats.saturating_sub(1));
    let bits = match boot.kind {
        FilesystemKind::Fat32 => 32,
        FilesystemKind::Fat16 => 16,
        _ => 12,
    };
    let len = ((boot.clusters + 2) * bits).div_ceil(8).next_multiple_of(2).min(boot.fat_size);
    let table = read_vec(source, boot.fat + copy * boot.fat_size, len as usize)?;
    Ok(Box::new(Files { source, boot, table }))
}

fn broken(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}

impl Files<'_> {
    /// The clusters that hold the first `len` bytes of a chain, as pieces.
    fn pieces(&self, first: u64, len: u64) -> Result<Vec<Piece>> {
        let size = u64::from(self.boot.cluster_size);
        let mut pieces = Vec::new();
        let (mut cluster, mut logical) = (first, 0);
        // The number of clusters also ends a ring.
        for _ in 0..self.boot.clusters.min(len.div_ceil(size)) {
            if !(2..self.boot.clusters + 2).contains(&cluster) {
                return Err(broken("a cluster does not exist"));
            }
            pieces.push(Piece { logical, physical: self.boot.cluster_at(cluster), len: size });
            logical += size;
            cluster = entry(&self.table, self.boot.kind, cluster)?.into();
            if cluster >= u64::from(end_mark(self.boot.kind)) - 7 {
                break;
            }
        }
        Ok(pieces)
    }

    fn directory(&self, id: Id) -> Result<Vec<u8>> {
        let first = id.0 & !DIRECTORY;
        if first == 0 && self.boot.kind != FilesystemKind::Fat32 {
            return read_vec(self.source, self.boot.root, self.boot.root_size as usize);
        }
        let first = if first == 0 { self.boot.root_cluster } else { first };
        let pieces = self.pieces(first, MOST_DIRECTORY)?;
        let len = pieces.iter().map(|piece| piece.len).sum::<u64>();
        gather(self.source, &pieces, 0, len as usize)
    }
}

impl Volume for Files<'_> {
    fn root(&self) -> Id {
        Id(DIRECTORY, 0)
    }

    fn node(&mut self, id: Id) -> Result<Node> {
        let kind = if id.0 & DIRECTORY != 0 { Kind::Directory } else { Kind::File };
        Ok(Node { id, kind, size: id.1 })
    }

    fn entries(&mut self, directory: Id, visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<()> {
        let raw = self.directory(directory)?;
        let mut long: Vec<&[u8]> = Vec::new();
        for raw in raw.chunks_exact(32) {
            let entry = Bytes::new(raw, "directory entry");
            let attributes = entry.u8(11)?;
            match entry.u8(0)? {
                0 => break,
                0xE5 => long.clear(),
                _ if attributes & 0x3F == 0x0F => {
                    if long.len() < MOST_PARTS {
                        long.push(raw);
                    }
                }
                _ if attributes & 0x08 != 0 => long.clear(),
                _ => {
                    let name = if long.is_empty() { short_name(&entry)? } else { long_name(&long) };
                    long.clear();
                    let high = if self.boot.kind == FilesystemKind::Fat32 { entry.u16_le(20)? } else { 0 };
                    let first = u64::from(high) << 16 | u64::from(entry.u16_le(26)?);
                    let id = match attributes & 0x10 {
                        0 => Id(first, entry.u32_le(28)?.into()),
                        _ => Id(first | DIRECTORY, 0),
                    };
                    if !visit(name.as_bytes(), id) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>> {
        let len = id.1.saturating_sub(offset).min(len as u64) as usize;
        if len == 0 {
            return Ok(Vec::new());
        }
        let pieces = self.pieces(id.0, offset.saturating_add(len as u64))?;
        gather(self.source, &pieces, offset, len)
    }

    fn runs(&mut self, id: Id) -> Result<Option<Vec<Run>>> {
        if id.0 & DIRECTORY != 0 || id.1 == 0 {
            return Ok(None);
        }
        Ok(Some(self.pieces(id.0, id.1)?.into_iter().map(Run::from).collect()))
    }

    fn same_name(&self, wanted: &[u8], found: &[u8]) -> bool {
        wanted.eq_ignore_ascii_case(found)
    }
}

/// "NAME.EXT"; lower case where Windows NT says so (bits 3 and 4 of byte 12).
pub(super) fn short_name(entry: &Bytes<'_>) -> Result<String> {
    let case = entry.u8(12)?;
    let part = |at: usize, len: usize, lower: bool| -> Result<String> {
        let text = String::from_utf8_lossy(entry.slice(at, len)?).trim_end_matches(' ').to_owned();
        Ok(if lower { text.to_lowercase() } else { text })
    };
    let (name, extension) = (part(0, 8, case & 0x08 != 0)?, part(8, 3, case & 0x10 != 0)?);
    Ok(if extension.is_empty() { name } else { format!("{name}.{extension}") })
}

/// The parts stand in reverse order, each with 13 UTF-16 units; 0 ends the name.
pub(super) fn long_name(parts: &[&[u8]]) -> String {
    let units = parts.iter().rev().flat_map(|part| {
        [1..11, 14..26, 28..32].into_iter().flat_map(|range| part.get(range).unwrap_or(&[]).chunks_exact(2))
    });
    let units = units
        .filter_map(|unit| Some(u16::from_le_bytes(unit.try_into().ok()?)))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
