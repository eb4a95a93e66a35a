// SPDX-License-Identifier: Apache-2.0
//! Files of XFS ("XFS Algorithms & Data Structures", chapters "On-disk Inode", "Data Extents", "Directories").
//!
//! A dirty log is not replayed: files are shown as they are on disk, and a note says so.

use super::log::{self, LogState};
use super::superblock::{Superblock, checksum_matches};
use crate::filesystem::files::{Id, Kind, Limited, MOST_DIRECTORY, Node, Piece, Run, Status, Volume, gather};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading an XFS file";
const RECORD: usize = 16;
/// Addresses in a directory from which on there are hashes, no entries (`XFS_DIR2_LEAF_OFFSET`).
const LEAVES: u64 = 32 << 30;
/// Fanout bounds a tree of extents to few levels; the kernel computes 5 for the smallest blocks.
const MOST_LEVELS: u16 = 9;

struct Files<'a> {
    source: &'a dyn BlockSource,
    superblock: Superblock,
    inode_size: usize,
    /// Bits of an inode number that count within a block.
    inode_log: u8,
    root: u64,
    directory_block: u32,
    has_types: bool,
    note: Option<String>,
}

struct Inode {
    raw: Vec<u8>,
    kind: Kind,
    /// 1: content in the inode, 2: extents, 3: tree of extents.
    format: u8,
    size: u64,
    extents: u64,
    fork: std::ops::Range<usize>,
}

pub(in crate::filesystem) fn open<'a>(source: &'a Limited<'a>) -> Result<Box<dyn Volume + 'a>> {
    let superblock = Superblock::read(source)?.ok_or_else(|| broken("there is no superblock"))?;
    superblock.refuse_unknown_features()?;
    let raw = read_vec(source, 0, 512)?;
    let raw = Bytes::new(&raw, "the XFS superblock");
    let (inode_size, inode_log, directory_log) = (raw.u16_be(104)?, raw.u8(123)?, raw.u8(192)?);
    let per_block = u32::from(inode_size).checked_shl(inode_log.into());
    if !(256..=2048).contains(&inode_size) || per_block != Some(superblock.block_size) {
        return Err(broken("the inode size is impossible"));
    }
    // 64 KiB at most (`XFS_MAX_BLOCKSIZE`).
    let directory_block =
        superblock.block_size.checked_shl(directory_log.into()).filter(|size| *size <= 65536);
    let note = match log::state(source, &superblock) {
        Ok(LogState::Dirty(_)) => Some("its log has changes that are not shown".to_owned()),
        Ok(_) => None,
        Err(error) => Some(format!("its log cannot be read: {}", error.chain())),
    };
    Ok(Box::new(Files {
        inode_size: inode_size.into(),
        inode_log,
        root: raw.u64_be(56)?,
        directory_block: directory_block.ok_or_else(|| broken("the directory block size is impossible"))?,
        has_types: superblock.features.has_types(),
        source,
        superblock,
        note,
    }))
}

fn broken(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}

impl Files<'_> {
    /// Byte of a block of a group.
    fn place(&self, number: u64, low: u32) -> Result<u64> {
        let sb = &self.superblock;
        let bits = u32::from(sb.group_log) + low;
        let group = number.checked_shr(bits).and_then(|group| u32::try_from(group).ok());
        let block = (number & ((1 << bits) - 1)) >> low;
        match group.filter(|group| *group < sb.groups) {
            Some(group) if block < u64::from(sb.blocks_of_group(group)) => {
                Ok(sb.byte_of(group, block as u32))
            }
            _ => Err(broken("a block number is impossible")),
        }
    }

    fn inode(&self, id: Id) -> Result<Inode> {
        let within = id.1 & ((1 << self.inode_log) - 1);
        let at = self.place(id.1, self.inode_log.into())? + within * self.inode_size as u64;
        let raw = read_vec(self.source, at, self.inode_size)?;
        let bytes = Bytes::new(&raw, "XFS inode");
        let version = bytes.u8(4)?;
        if bytes.slice(0, 2)? != b"IN" || !(1..=3).contains(&version) {
            return Err(broken("there is no inode").at(at));
        }
        let core = if version == 3 { 176 } else { 100 };
        if version == 3 && !checksum_matches(&raw, 100)? {
            return Err(broken("an inode has a wrong checksum").at(at));
        }
        // Large counts of extents (flag NREXT64) have a field of their own.
        let large = version == 3 && bytes.u64_be(120)? & 1 << 4 != 0;
        let end = match usize::from(bytes.u8(82)?) * 8 {
            0 => self.inode_size,
            len => (core + len).min(self.inode_size),
        };
        Ok(Inode {
            kind: Kind::from_mode(bytes.u16_be(2)?.into()),
            format: bytes.u8(5)?,
            size: bytes.u64_be(56)?,
            extents: if large { bytes.u64_be(24)? } else { bytes.u32_be(76)?.into() },
            fork: core..end,
            raw,
        })
    }

    fn content(&self, inode: &Inode, offset: u64, len: usize) -> Result<Vec<u8>> {
        let pieces = self.pieces(inode, offset, len)?;
        gather(self.source, &pieces, offset, len)
    }

    /// Where bytes of a file lie.
    fn pieces(&self, inode: &Inode, offset: u64, len: usize) -> Result<Vec<Piece>> {
        let fork = Bytes::new(inode.raw.get(inode.fork.clone()).unwrap_or(&[]), "XFS data fork");
        let size = u64::from(self.superblock.block_size);
        let wanted = offset / size..offset.saturating_add(len as u64).div_ceil(size);
        let mut pieces = Vec::new();
        match inode.format {
            2 => {
                let most = (fork.len() / RECORD) as u64;
                self.records(fork, inode.extents.min(most) as usize, &wanted, &mut pieces)?;
            }
            3 => {
                let (level, count) = (fork.u16_be(0)?, usize::from(fork.u16_be(2)?));
                let most = fork.len().saturating_sub(4) / 16;
                self.children(fork, 4, (count, most), level, &wanted, &mut pieces)?;
            }
            _ => return Err(broken("its content is of an unknown format")),
        }
        Ok(pieces)
    }

    /// Packed extents: 1 bit unwritten, 54 bits logical block, 52 bits block, 21 bits length.
    fn records(
        &self,
        raw: Bytes<'_>,
        count: usize,
        wanted: &std::ops::Range<u64>,
        pieces: &mut Vec<Piece>,
    ) -> Result<()> {
        let size = u64::from(self.superblock.block_size);
        for index in 0..count {
            let (high, low) = (raw.u64_be(index * RECORD)?, raw.u64_be(index * RECORD + 8)?);
            let (logical, len) = (high << 1 >> 10, low & ((1 << 21) - 1));
            if high >> 63 != 0 || logical >= wanted.end || logical + len <= wanted.start {
                continue;
            }
            let physical = self.place((high & 0x1ff) << 43 | low >> 21, 0)?;
            if physical + len * size > self.superblock.size_bytes() || logical >= 1 << 46 {
                return Err(broken("an extent is impossible"));
            }
            pieces.push(Piece { logical: logical * size, physical, len: len * size });
        }
        Ok(())
    }

    /// A node of the tree of extents: keys at `at`, room for `counts.1` of them, then as many block numbers.
    fn children(
        &self,
        node: Bytes<'_>,
        at: usize,
        counts: (usize, usize),
        level: u16,
        wanted: &std::ops::Range<u64>,
        pieces: &mut Vec<Piece>,
    ) -> Result<()> {
        let (count, most) = counts;
        if level == 0 || level > MOST_LEVELS || count > most {
            return Err(broken("a node of its extent tree is impossible"));
        }
        for index in 0..count {
            let key = |index: usize| node.u64_be(at + index * 8);
            let next = if index + 1 < count { key(index + 1)? } else { u64::MAX };
            if key(index)? >= wanted.end || next <= wanted.start {
                continue;
            }
            let place = self.place(node.u64_be(at + (most + index) * 8)?, 0)?;
            let raw = read_vec(self.source, place, self.superblock.block_size as usize)?;
            let child = Bytes::new(&raw, "XFS extent tree");
            let header = match child.slice(0, 4)? {
                b"BMA3" => 72,
                b"BMAP" => 24,
                _ => return Err(broken("a node of its extent tree has another magic")),
            };
            // Always one below its parent, so this ends.
            if child.u16_be(4)? != level - 1 {
                return Err(broken("a node of its extent tree is of another level"));
            }
            let count = usize::from(child.u16_be(6)?);
            let most = (raw.len() - header) / 16;
            if level == 1 {
                let records = child.sub(header, raw.len() - header)?;
                self.records(records, count.min(most), wanted, pieces)?;
            } else {
                self.children(child, header, (count, most), level - 1, wanted, pieces)?;
            }
        }
        Ok(())
    }

    /// A directory small enough for its inode; false once `visit` has enough.
    fn short_entries(&self, fork: Bytes<'_>, visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<()> {
        let wide = fork.u8(1)? != 0;
        let number = if wide { 8 } else { 4 };
        let mut at = 2 + number;
        for _ in 0..fork.u8(0)? {
            let len = usize::from(fork.u8(at)?);
            let name = fork.slice(at + 3, len)?;
            at += 3 + len + usize::from(self.has_types);
            let inode = if wide { fork.u64_be(at)? } else { fork.u32_be(at)?.into() };
            at += number;
            if !visit(name, Id(0, inode)) {
                break;
            }
        }
        Ok(())
    }

    /// One directory block; false once `visit` has enough.
    fn block_entries(&self, block: &[u8], visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<bool> {
        let bytes = Bytes::new(block, "XFS directory block");
        let (mut at, mut end) = match bytes.slice(0, 4)? {
            b"XDB3" | b"XDD3" => (64, block.len()),
            b"XD2B" | b"XD2D" => (16, block.len()),
            _ => return Ok(true),
        };
        if matches!(bytes.slice(0, 4)?, b"XDB3" | b"XD2B") {
            // A single block ends with its hashes and their number.
            let hashes = bytes.u32_be(block.len() - 8)? as usize;
            end = block.len().saturating_sub(8 + hashes.saturating_mul(8));
        }
        while at + 4 <= end {
            if bytes.u16_be(at)? == 0xffff {
                match usize::from(bytes.u16_be(at + 2)?) {
                    len if len >= 8 && len % 8 == 0 => at += len,
                    _ => return Err(broken("a directory's free space is impossible")),
                }
                continue;
            }
            let len = usize::from(bytes.u8(at + 8)?);
            if !visit(bytes.slice(at + 9, len)?, Id(0, bytes.u64_be(at)?)) {
                return Ok(false);
            }
            at += (11 + len + usize::from(self.has_types)).next_multiple_of(8);
        }
        Ok(true)
    }
}

impl Volume for Files<'_> {
    fn root(&self) -> Id {
        Id(0, self.root)
    }

    fn node(&mut self, id: Id) -> Result<Node> {
        let inode = self.inode(id)?;
        Ok(Node { id, kind: inode.kind, size: inode.size })
    }

    fn entries(&mut self, directory: Id, visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<()> {
        let inode = self.inode(directory)?;
        if inode.kind != Kind::Directory {
            return Err(broken("it is not a directory"));
        }
        if inode.format == 1 {
            let fork = inode.raw.get(inode.fork.clone()).unwrap_or(&[]);
            return self.short_entries(Bytes::new(fork, "XFS directory"), visit);
        }
        let step = self.directory_block;
        let end = inode.size.min(MOST_DIRECTORY).min(LEAVES);
        for at in (0..end).step_by(step as usize) {
            let pieces = self.pieces(&inode, at, step as usize)?;
            if pieces.is_empty() {
                continue;
            }
            if !self.block_entries(&gather(self.source, &pieces, at, step as usize)?, visit)? {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        let len = inode.size.saturating_sub(offset).min(len as u64) as usize;
        if inode.format == 1 {
            let fork = Bytes::new(inode.raw.get(inode.fork.clone()).unwrap_or(&[]), "XFS data fork");
            return Ok(fork.slice(usize::try_from(offset).unwrap_or(usize::MAX), len)?.to_vec());
        }
        if inode.kind != Kind::Link || !self.superblock.features.is_v5() {
            return self.content(&inode, offset, len);
        }
        // Every block of a long link begins with a header of 56 bytes; links that mkfs.xfs 6.1 copies have none.
        let block = self.superblock.block_size as usize;
        let mut target = Vec::new();
        let mut at = 0;
        while (target.len() as u64) < inode.size && at < 65536 {
            let raw = self.content(&inode, at, block)?;
            let header = if raw.starts_with(b"XSLM") { 56 } else { 0 };
            target.extend_from_slice(raw.get(header..).unwrap_or(&[]));
            at += block as u64;
        }
        Ok(target.into_iter().skip(offset as usize).take(len).collect())
    }

    fn status(&mut self, id: Id) -> Result<Status> {
        let inode = self.inode(id)?;
        let bytes = Bytes::new(&inode.raw, "XFS inode");
        let v3 = bytes.u8(4)? == 3;
        let nanoseconds = v3 && bytes.u64_be(120)? & 1 << 3 != 0;
        let time = |at: usize| -> Result<(i64, u32)> {
            if !nanoseconds {
                return Ok(((bytes.u32_be(at)? as i32).into(), bytes.u32_be(at + 4)?));
            }
            // Since the earliest second that 32 bits can name (`XFS_BIGTIME_EPOCH_OFFSET`).
            let count = bytes.u64_be(at)?;
            Ok(((count / 1_000_000_000) as i64 - (1 << 31), (count % 1_000_000_000) as u32))
        };
        let fork = inode.raw.get(inode.fork.clone()).unwrap_or(&[]);
        let device =
            if inode.format == 0 { Bytes::new(fork, "XFS data fork").u32_be(0).unwrap_or(0) } else { 0 };
        Ok(Status {
            mode: bytes.u16_be(2)?.into(),
            uid: bytes.u32_be(8)?,
            gid: bytes.u32_be(12)?,
            links: bytes.u32_be(16)?,
            device: device.into(),
            modified: Some(time(40)?),
            changed: Some(time(48)?),
        })
    }

    fn runs(&mut self, id: Id) -> Result<Option<Vec<Run>>> {
        let inode = self.inode(id)?;
        if !matches!(inode.format, 2 | 3) {
            return Ok(None);
        }
        let len = usize::try_from(inode.size).unwrap_or(usize::MAX);
        Ok(Some(self.pieces(&inode, 0, len)?.into_iter().map(Run::from).collect()))
    }

    fn note(&self) -> Option<String> {
        self.note.clone()
    }
}
