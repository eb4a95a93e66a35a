// SPDX-License-Identifier: Apache-2.0
//! Files of ext2, ext3 and ext4 (Documentation/filesystems/ext4/{inodes,ifork,directory,inlinedata}.rst).

use super::Superblock;
use super::checksum::crc32c;
use super::groups::Geometry;
use super::inode::{EXTENT_MAGIC, EXTENTS_FLAG, INLINE_FLAG, MOST_DEPTH, load};
use super::journal::Journal;
use super::overlay::Overlay;
use crate::filesystem::files::{Id, Kind, Limited, MOST_DIRECTORY, Node, Piece, Run, Status, Volume, gather};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, RangeSet, Result};

const ROOT: u32 = 2;
const DOING: &str = "reading an ext file";
/// `i_block`, where the map or short content lies.
const MAP: usize = 0x28;
const MAP_LEN: usize = 60;
const XATTR_MAGIC: u32 = 0xea02_0000;

struct Files<'a> {
    source: Box<dyn BlockSource + 'a>,
    geometry: Geometry,
    note: Option<String>,
    replaced: RangeSet,
}

struct Inode {
    raw: Vec<u8>,
    seed: u32,
    kind: Kind,
    size: u64,
    flags: u32,
}

/// A journal with changes is replayed in memory; where that is not sure, files are shown as they are on disk.
pub(in crate::filesystem) fn open<'a>(source: &'a Limited<'a>) -> Result<Box<dyn Volume + 'a>> {
    let sb = Superblock::read(source)?
        .ok_or_else(|| Error::malformed("reading the ext superblock", "its magic is gone"))?;
    let geometry = Geometry::new(sb, source.size())?;
    let plain = |geometry, note| -> Box<dyn Volume + 'a> {
        Box::new(Files { source: Box::new(source), geometry, note, replaced: RangeSet::new() })
    };
    if !geometry.sb.needs_recovery() {
        return Ok(plain(geometry, None));
    }
    let replayed = || -> Result<Files<'a>> {
        let patches = Journal::open(source, &geometry)?.replay()?;
        let after = Overlay::new(source, geometry.sb.block_size, patches);
        let replaced = after.replaced();
        let sb = Superblock::read(&after)?
            .ok_or_else(|| Error::malformed("replaying the journal", "no superblock"))?;
        let geometry = Geometry::new(sb, source.size())?;
        Ok(Files {
            source: Box::new(after),
            geometry,
            note: Some("its journal was replayed in memory".into()),
            replaced,
        })
    };
    Ok(match replayed() {
        Ok(files) => Box::new(files),
        Err(error) => plain(geometry, Some(format!("its journal was not replayed: {}", error.chain()))),
    })
}

fn broken(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}

impl Files<'_> {
    fn inode(&self, id: Id) -> Result<Inode> {
        let number = u32::try_from(id.1).map_err(|_| broken("there is no such inode"))?;
        let (raw, seed) = load(&*self.source, &self.geometry, number)?;
        let bytes = Bytes::new(&raw, "inode");
        let kind = Kind::from_mode(bytes.u16_le(0)?.into());
        // The upper half was a directory's ACL once.
        let high = if kind == Kind::File { bytes.u32_le(0x6c)? } else { 0 };
        let size = u64::from(high) << 32 | u64::from(bytes.u32_le(4)?);
        let flags = bytes.u32_le(0x20)?;
        Ok(Inode { seed, kind, size, flags, raw })
    }

    fn content(&self, inode: &Inode, offset: u64, len: usize) -> Result<Vec<u8>> {
        let len = inode.size.saturating_sub(offset).min(len as u64) as usize;
        let bytes = Bytes::new(&inode.raw, "inode");
        let map = bytes.sub(MAP, MAP_LEN)?;
        let short_link =
            inode.kind == Kind::Link && inode.size < MAP_LEN as u64 && inode.flags & EXTENTS_FLAG == 0;
        if short_link || inode.flags & INLINE_FLAG != 0 {
            let mut all = map.all().to_vec();
            if inode.flags & INLINE_FLAG != 0 {
                all.extend(inline_rest(bytes)?);
            }
            let part = all.into_iter().skip(offset as usize).take(len).collect::<Vec<u8>>();
            return if part.len() == len {
                Ok(part)
            } else {
                Err(broken("its content is not all in the inode"))
            };
        }
        gather(&*self.source, &self.pieces(inode, map, offset, len as u64)?, offset, len)
    }

    fn pieces(&self, inode: &Inode, map: Bytes<'_>, offset: u64, len: u64) -> Result<Vec<Piece>> {
        let block_size = u64::from(self.geometry.sb.block_size);
        let blocks = offset / block_size..offset.saturating_add(len).div_ceil(block_size);
        let mut found = Found { files: self, wanted: blocks, pieces: Vec::new() };
        if inode.flags & EXTENTS_FLAG != 0 {
            found.extents(map, None, inode.seed)?;
        } else {
            found.indirect(map)?;
        }
        Ok(found.pieces)
    }

    fn block(&self, block: u64) -> Result<Vec<u8>> {
        let size = u64::from(self.geometry.sb.block_size);
        if block == 0 || block >= self.geometry.sb.blocks_count {
            return Err(broken("a block of its map is impossible"));
        }
        read_vec(&*self.source, block * size, size as usize)
    }
}

/// What of inline content does not fit `i_block`: the value of the attribute "system.data" behind the inode's fields.
fn inline_rest(inode: Bytes<'_>) -> Result<Vec<u8>> {
    if inode.len() <= 130 {
        return Ok(Vec::new());
    }
    let header = 128 + usize::from(inode.u16_le(128)?);
    if header + 4 > inode.len() || inode.u32_le(header)? != XATTR_MAGIC {
        return Ok(Vec::new());
    }
    let area = inode.sub(header + 4, inode.len() - header - 4)?;
    let mut at = 0;
    while at + 16 <= area.len() && area.u32_le(at)? != 0 {
        let name = usize::from(area.u8(at)?);
        if area.u8(at + 1)? == 7 && area.slice(at + 16, name)? == b"data" {
            return Ok(area.slice(area.u16_le(at + 2)?.into(), area.u32_le(at + 8)? as usize)?.to_vec());
        }
        at += (16 + name).next_multiple_of(4);
    }
    Ok(Vec::new())
}

/// Collects where the wanted blocks of one file lie.
struct Found<'a, 'b> {
    files: &'a Files<'b>,
    wanted: std::ops::Range<u64>,
    pieces: Vec<Piece>,
}

impl Found<'_, '_> {
    fn add(&mut self, logical: u64, len: u64, physical: u64) -> Result<()> {
        let sb = &self.files.geometry.sb;
        if physical.checked_add(len).is_none_or(|end| end > sb.blocks_count) {
            return Err(broken("a block of its map is impossible"));
        }
        let size = u64::from(sb.block_size);
        if logical < self.wanted.end && logical + len > self.wanted.start {
            self.pieces.push(Piece { logical: logical * size, physical: physical * size, len: len * size });
        }
        Ok(())
    }

    /// `level` is what the parent says the node's depth must be; it falls, so this ends.
    fn extents(&mut self, node: Bytes<'_>, level: Option<u16>, seed: u32) -> Result<()> {
        let (entries, most, depth) = (node.u16_le(2)?, node.u16_le(4)?, node.u16_le(6)?);
        let wrong_depth = level.is_some_and(|level| level != depth);
        if node.u16_le(0)? != EXTENT_MAGIC || entries > most || depth > MOST_DEPTH || wrong_depth {
            return Err(broken("a node of its extent tree is impossible"));
        }
        if level.is_some() && self.files.geometry.sb.has_metadata_checksums() {
            let tail = 12 + 12 * usize::from(most);
            if crc32c(seed, node.slice(0, tail)?) != node.u32_le(tail)? {
                return Err(broken("a node of its extent tree has a wrong checksum"));
            }
        }
        for index in 0..usize::from(entries) {
            let entry = node.sub(12 + 12 * index, 12)?;
            let first = u64::from(entry.u32_le(0)?);
            if first >= self.wanted.end {
                break;
            }
            if depth > 0 {
                let last = index + 1 == usize::from(entries);
                let next = if last { u64::MAX } else { node.u32_le(24 + 12 * index)?.into() };
                if next > self.wanted.start {
                    let child = u64::from(entry.u16_le(8)?) << 32 | u64::from(entry.u32_le(4)?);
                    let raw = self.files.block(child)?;
                    self.extents(Bytes::new(&raw, "extent tree node"), Some(depth - 1), seed)?;
                }
                continue;
            }
            // Longer ones are preallocated: they read as zeros.
            let len = entry.u16_le(4)?;
            if len <= 32768 {
                let physical = u64::from(entry.u16_le(6)?) << 32 | u64::from(entry.u32_le(8)?);
                self.add(first, len.into(), physical)?;
            }
        }
        Ok(())
    }

    fn indirect(&mut self, map: Bytes<'_>) -> Result<()> {
        let per_block = u64::from(self.files.geometry.sb.block_size) / 4;
        // Of each level the block that was read last.
        let mut cache: [(u64, Vec<u8>); 3] = Default::default();
        for logical in self.wanted.clone() {
            let Some(mut within) = logical.checked_sub(12) else {
                let block = map.u32_le(logical as usize * 4)?;
                if block != 0 {
                    self.add(logical, 1, block.into())?;
                }
                continue;
            };
            let (mut levels, mut span) = (1, per_block);
            while within >= span {
                within -= span;
                levels += 1;
                span = span.saturating_mul(per_block);
                if levels > 3 {
                    return Err(broken("it is longer than its map can be"));
                }
            }
            let mut block = u64::from(map.u32_le((11 + levels) * 4)?);
            for (have, raw) in cache.iter_mut().take(levels) {
                if block == 0 {
                    break;
                }
                if *have != block {
                    *raw = self.files.block(block)?;
                    *have = block;
                }
                span /= per_block;
                let slot = within / span;
                within %= span;
                block = Bytes::new(raw, "indirect block").u32_le(slot as usize * 4)?.into();
            }
            if block != 0 {
                self.add(logical, 1, block)?;
            }
        }
        Ok(())
    }
}

impl Volume for Files<'_> {
    fn root(&self) -> Id {
        Id(0, ROOT.into())
    }

    fn node(&mut self, id: Id) -> Result<Node> {
        let inode = self.inode(id)?;
        Ok(Node { id, kind: inode.kind, size: inode.size })
    }

    /// Reads all blocks in order: an index (htree) hides in entries that look unused.
    fn entries(&mut self, directory: Id, visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<()> {
        let inode = self.inode(directory)?;
        if inode.kind != Kind::Directory {
            return Err(broken("it is not a directory"));
        }
        let size = inode.size.min(MOST_DIRECTORY);
        if inode.flags & INLINE_FLAG != 0 {
            // Behind the parent's number; then entries in the attribute.
            let all = self.content(&inode, 0, size as usize)?;
            let (first, rest) = all.split_at(MAP_LEN.min(all.len()));
            let more = block_entries(first.get(4..).unwrap_or(&[]), visit)?;
            return if more { block_entries(rest, visit).map(drop) } else { Ok(()) };
        }
        let step = u64::from(self.geometry.sb.block_size);
        let mut at = 0;
        while at < size {
            let block = self.content(&inode, at, step as usize)?;
            if !block_entries(&block, visit)? {
                break;
            }
            at += step;
        }
        Ok(())
    }

    fn read(&mut self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.content(&self.inode(id)?, offset, len)
    }

    fn status(&mut self, id: Id) -> Result<Status> {
        let inode = self.inode(id)?;
        let bytes = Bytes::new(&inode.raw, "inode");
        let low = |at: usize| -> Result<u32> { Ok(bytes.u16_le(at)?.into()) };
        // The seconds are signed; two more bits above them, and nanoseconds, where the inode is large enough to have them.
        let extra = if inode.raw.len() > 130 { usize::from(bytes.u16_le(128)?) } else { 0 };
        let time = |at: usize, more: usize| -> Result<(i64, u32)> {
            let seconds = i64::from(bytes.u32_le(at)? as i32);
            if more + 4 > 128 + extra || more + 4 > bytes.len() {
                return Ok((seconds, 0));
            }
            let more = bytes.u32_le(more)?;
            Ok((seconds + (i64::from(more & 3) << 32), more >> 2))
        };
        let device = if inode.kind == Kind::Other { bytes.u64_le(MAP)? } else { 0 };
        Ok(Status {
            mode: low(0)?,
            uid: low(2)? | low(0x78)? << 16,
            gid: low(0x18)? | low(0x7a)? << 16,
            links: low(0x1a)?,
            device,
            modified: Some(time(0x10, 0x88)?),
            changed: Some(time(0xc, 0x84)?),
        })
    }

    fn runs(&mut self, id: Id) -> Result<Option<Vec<Run>>> {
        let inode = self.inode(id)?;
        let short =
            inode.kind == Kind::Link && inode.size < MAP_LEN as u64 && inode.flags & EXTENTS_FLAG == 0;
        if short || inode.flags & INLINE_FLAG != 0 || inode.kind == Kind::Other {
            return Ok(None);
        }
        let bytes = Bytes::new(&inode.raw, "inode");
        let pieces = self.pieces(&inode, bytes.sub(MAP, MAP_LEN)?, 0, inode.size)?;
        Ok(Some(merged(&pieces)))
    }

    fn replaced(&self) -> RangeSet {
        self.replaced.clone()
    }

    fn note(&self) -> Option<String> {
        self.note.clone()
    }
}

/// Pieces that follow each other, as one run: a map of single blocks has many.
fn merged(pieces: &[Piece]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run)
                if run.logical + run.len == piece.logical && run.physical + run.len == piece.physical =>
            {
                run.len += piece.len;
                run.stored += piece.len;
            }
            _ => runs.push((*piece).into()),
        }
    }
    runs
}

/// Entries of one block; false once `visit` has enough.
fn block_entries(block: &[u8], visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<bool> {
    let bytes = Bytes::new(block, "directory block");
    let mut at = 0;
    while at + 8 <= block.len() {
        let (inode, name) = (bytes.u32_le(at)?, usize::from(bytes.u8(at + 6)?));
        let len = match usize::from(bytes.u16_le(at + 4)?) {
            // 64 KiB, which the field cannot hold.
            0 | 65535 if block.len() == 65536 => 65536,
            len => len,
        };
        if len < 8 || len % 4 != 0 || name + 8 > len || at + len > block.len() {
            return Err(broken("a directory entry is impossible"));
        }
        if inode != 0 && name != 0 && !visit(bytes.slice(at + 8, name)?, Id(0, inode.into())) {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}
