// SPDX-License-Identifier: Apache-2.0
//! Files of btrfs (`include/uapi/linux/btrfs_tree.h`): inode, directory and extent items of each subvolume's tree.
//!
//! A log tree is not replayed: files are shown as of the last commit, and a note says so.

use std::collections::HashMap;
use std::io::Read;

use super::chunks::Chunks;
use super::extents::{ROOT_ITEM, read_chunks};
use super::superblock::{Root, Superblock};
use super::tree::{Key, Trees};
use crate::filesystem::files::{Id, Kind, Limited, Node, Run, Status, Volume};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const DOING: &str = "reading a btrfs file";
const INODE_ITEM: u8 = 1;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const EXTENT_DATA: u8 = 108;
/// The subvolume that is there from the start.
const TOP: u64 = 5;
/// Holds the number of the default subvolume, under the name "default".
const ROOT_TREE_DIRECTORY: u64 = 6;
/// Number of every subvolume's root directory.
const ROOT_DIRECTORY: u64 = 256;
/// The kernel compresses pieces of 128 KiB (`BTRFS_MAX_COMPRESSED`); inline content is smaller than a block.
const MOST_COMPRESSED: u64 = 128 << 10;
/// Subvolumes of the top level that are looked at: snapshots can be thousands.
const MOST_ROOTS: usize = 64;

struct Files<'a> {
    source: &'a dyn BlockSource,
    superblock: Superblock,
    chunks: Chunks,
    /// Roots of subvolumes that were looked up.
    roots: HashMap<u64, Root>,
    default: u64,
}

pub(in crate::filesystem) fn open<'a>(source: &'a Limited<'a>) -> Result<Box<dyn Volume + 'a>> {
    let superblock = Superblock::read(source)?.ok_or_else(|| broken("there is no superblock"))?;
    superblock.refuse_unknown_features()?;
    if let Some(why) = superblock.other_devices() {
        return Err(Error::unsupported(DOING, why));
    }
    let mut trees = Trees { source, superblock: &superblock, damaged: 0 };
    let chunks = read_chunks(&mut trees)?.map_err(|why| Error::unsupported(DOING, why))?;
    let mut default = TOP;
    let root = superblock.root;
    trees.walk_range(&chunks, root, Key::all(ROOT_TREE_DIRECTORY, DIR_ITEM), |_, item| {
        each_name(item, |name, key| {
            if name == b"default" && key.kind == ROOT_ITEM {
                default = key.object;
            }
            true
        })
        .map(drop)
    })?;
    Ok(Box::new(Files { source, superblock, chunks, roots: HashMap::new(), default }))
}

fn broken(because: &'static str) -> Error {
    Error::malformed(DOING, because)
}

/// Names in a directory item, of which several may share a hash; false once `visit` has enough.
fn each_name(item: Bytes<'_>, mut visit: impl FnMut(&[u8], Key) -> bool) -> Result<bool> {
    let mut at = 0;
    while at < item.len() {
        let (data, name) = (usize::from(item.u16_le(at + 25)?), usize::from(item.u16_le(at + 27)?));
        if !visit(item.slice(at + 30, name)?, Key::read(item, at)?) {
            return Ok(false);
        }
        at += 30 + name + data;
    }
    Ok(true)
}

impl Files<'_> {
    /// Calls `each` for all items of one kind that an inode has.
    fn items(&mut self, id: Id, kind: u8, each: impl FnMut(Key, Bytes<'_>) -> Result<()>) -> Result<()> {
        self.range(id.0, Key::all(id.1, kind), each)
    }

    fn range(
        &mut self,
        subvolume: u64,
        range: std::ops::RangeInclusive<Key>,
        each: impl FnMut(Key, Bytes<'_>) -> Result<()>,
    ) -> Result<()> {
        let root = self.subvolume(subvolume)?;
        let mut trees = Trees { source: self.source, superblock: &self.superblock, damaged: 0 };
        trees.walk_range(&self.chunks, root, range, each)
    }

    fn subvolume(&mut self, number: u64) -> Result<Root> {
        if let Some(root) = self.roots.get(&number) {
            return Ok(*root);
        }
        let mut found = None;
        let mut trees = Trees { source: self.source, superblock: &self.superblock, damaged: 0 };
        trees.walk_range(&self.chunks, self.superblock.root, Key::all(number, ROOT_ITEM), |_, item| {
            found = Some(Root::of_item(item)?);
            Ok(())
        })?;
        let root = found.ok_or_else(|| broken("there is no such subvolume"))?;
        self.roots.insert(number, root);
        Ok(root)
    }

    /// Bytes of a place in logical addresses, of the first copy.
    fn bytes(&self, logical: u64, len: u64) -> Result<Vec<u8>> {
        let chunk = self.chunks.get(self.chunks.find(logical, len)?)?;
        let place = chunk.places.first().ok_or_else(|| broken("a chunk lies nowhere"))?;
        read_vec(self.source, place + (logical - chunk.logical), usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// The part `wanted` of the extent at `start` of a file: where it begins there, and its bytes.
    fn extent(
        &self,
        start: u64,
        item: Bytes<'_>,
        wanted: &std::ops::Range<u64>,
    ) -> Result<Option<(u64, Vec<u8>)>> {
        let (whole, compression, kind) = (item.u64_le(8)?, item.u8(16)?, item.u8(20)?);
        if item.u8(17)? != 0 || item.u16_le(18)? != 0 {
            return Err(Error::unsupported(DOING, "it is encrypted"));
        }
        if kind == 0 {
            let raw = item.slice(21, item.len().saturating_sub(21))?;
            return Ok(Some((start, unpack(compression, raw, whole)?)));
        }
        let (logical, stored, skip, len) =
            (item.u64_le(21)?, item.u64_le(29)?, item.u64_le(37)?, item.u64_le(45)?);
        let end = start.saturating_add(len).min(wanted.end);
        let from = start.max(wanted.start);
        // Type 2 is preallocated, place 0 is a hole.
        if kind != 1 || logical == 0 || from >= end {
            return Ok(None);
        }
        let into = skip.checked_add(from - start).ok_or_else(|| broken("an extent is impossible"))?;
        if compression == 0 {
            let place = logical.checked_add(into).ok_or_else(|| broken("an extent is impossible"))?;
            return Ok(Some((from, self.bytes(place, end - from)?)));
        }
        if stored > MOST_COMPRESSED {
            return Err(broken("a compressed extent is too long"));
        }
        let all = unpack(compression, &self.bytes(logical, stored)?, whole)?;
        let part = all.into_iter().skip(into as usize).take((end - from) as usize).collect();
        Ok(Some((from, part)))
    }
}

/// Content of `len` bytes from its compressed form.
fn unpack(compression: u8, raw: &[u8], len: u64) -> Result<Vec<u8>> {
    if len > MOST_COMPRESSED {
        return Err(broken("a compressed extent is too long"));
    }
    let failed = |error| Error::malformed(DOING, "its compressed content is damaged").source(error);
    let mut out = Vec::new();
    match compression {
        0 => out.extend_from_slice(raw),
        1 => {
            flate2::read::ZlibDecoder::new(raw).take(len).read_to_end(&mut out).map_err(failed)?;
        }
        // One frame, with zeros behind it up to the block's end.
        3 => {
            let decoder = zstd::stream::read::Decoder::new(raw).map_err(failed)?;
            decoder.single_frame().take(len).read_to_end(&mut out).map_err(failed)?;
        }
        _ => return Err(Error::unsupported(DOING, "it is compressed with LZO")),
    }
    out.truncate(len as usize);
    Ok(out)
}

impl Volume for Files<'_> {
    fn root(&self) -> Id {
        Id(self.default, ROOT_DIRECTORY)
    }

    /// The top level and the subvolumes in its root directory, as installers name them: "@", "@rootfs", "root".
    fn other_roots(&mut self) -> Result<Vec<(String, Id)>> {
        let mut roots = vec![("subvolid=5".to_owned(), Id(TOP, ROOT_DIRECTORY))];
        self.entries(Id(TOP, ROOT_DIRECTORY), &mut |name, id| {
            if id.0 != TOP {
                roots.push((format!("subvol={}", String::from_utf8_lossy(name)), id));
            }
            roots.len() < MOST_ROOTS
        })?;
        Ok(roots)
    }

    fn node(&mut self, id: Id) -> Result<Node> {
        let mut found = None;
        self.items(id, INODE_ITEM, |_, item| {
            found = Some(Node { id, kind: Kind::from_mode(item.u32_le(52)?), size: item.u64_le(16)? });
            Ok(())
        })?;
        found.ok_or_else(|| broken("there is no such inode"))
    }

    fn entries(&mut self, directory: Id, visit: &mut dyn FnMut(&[u8], Id) -> bool) -> Result<()> {
        let mut more = true;
        self.items(directory, DIR_INDEX, |_, item| {
            if more {
                more = each_name(item, |name, key| {
                    let id = match key.kind {
                        ROOT_ITEM => Id(key.object, ROOT_DIRECTORY),
                        _ => Id(directory.0, key.object),
                    };
                    visit(name, id)
                })?;
            }
            Ok(())
        })
    }

    fn read(&mut self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>> {
        let size = self.node(id)?.size;
        let len = size.saturating_sub(offset).min(len as u64) as usize;
        let wanted = offset..offset.saturating_add(len as u64);
        // Keys have an extent's start; one that begins before the range may reach into it. It is 128 MiB long at most.
        let first = offset.saturating_sub(128 << 20);
        let range = Key { object: id.1, kind: EXTENT_DATA, offset: first }..=Key {
            object: id.1,
            kind: EXTENT_DATA,
            offset: wanted.end.saturating_sub(1),
        };
        let mut items = Vec::new();
        self.range(id.0, range, |key, item| {
            if items.len() < 4096 {
                items.push((key.offset, item.all().to_vec()));
            }
            Ok(())
        })?;
        let mut out = vec![0; len];
        for (start, item) in &items {
            let Some((from, bytes)) = self.extent(*start, Bytes::new(item, "btrfs extent item"), &wanted)?
            else {
                continue;
            };
            for (at, byte) in (from..).zip(&bytes).skip_while(|(at, _)| *at < offset) {
                match out.get_mut((at - offset) as usize) {
                    Some(place) => *place = *byte,
                    None => break,
                }
            }
        }
        Ok(out)
    }

    fn status(&mut self, id: Id) -> Result<Status> {
        let mut found = None;
        self.items(id, INODE_ITEM, |_, item| {
            let time =
                |at: usize| -> Result<(i64, u32)> { Ok((item.u64_le(at)? as i64, item.u32_le(at + 8)?)) };
            found = Some(Status {
                mode: item.u32_le(52)?,
                uid: item.u32_le(44)?,
                gid: item.u32_le(48)?,
                links: item.u32_le(40)?,
                device: item.u64_le(56)?,
                modified: Some(time(136)?),
                changed: Some(time(124)?),
            });
            Ok(())
        })?;
        found.ok_or_else(|| broken("there is no such inode"))
    }

    fn runs(&mut self, id: Id) -> Result<Option<Vec<Run>>> {
        let mut extents = Vec::new();
        let mut inline = false;
        self.items(id, EXTENT_DATA, |key, item| {
            match item.u8(20)? {
                0 => inline = true,
                1 if item.u64_le(21)? != 0 => extents.push((
                    key.offset,
                    item.u8(16)?,
                    item.u64_le(21)?,
                    item.u64_le(29)?,
                    item.u64_le(37)?,
                    item.u64_le(45)?,
                )),
                _ => {}
            }
            Ok(())
        })?;
        if inline {
            return Ok(None);
        }
        let mut runs = Vec::new();
        for (logical, compression, place, stored, skip, len) in extents {
            // Of a compressed extent all is needed for any part.
            let (from, stored, skip) = match compression {
                0 => (place.saturating_add(skip), len, 0),
                _ => (place, stored, skip),
            };
            let chunk = self.chunks.get(self.chunks.find(from, stored)?)?;
            let first = chunk.places.first().ok_or_else(|| broken("a chunk lies nowhere"))?;
            let physical = first.saturating_add(from - chunk.logical);
            runs.push(Run { logical, len, physical, stored, skip });
        }
        Ok(Some(runs))
    }

    fn note(&self) -> Option<String> {
        self.superblock.pending().map(|_| "its log has changes that are not shown".to_owned())
    }
}
