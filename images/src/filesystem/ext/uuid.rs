// SPDX-License-Identifier: Apache-2.0
//! Another UUID for ext2, ext3 and ext4.
//!
//! All checksums of `metadata_csum` begin with one of the UUID. `metadata_csum_seed` (Linux 4.4) keeps that start value in the superblock,
//! so that the UUID can change and nothing else: it is what `tune2fs -O metadata_csum_seed -U` does. With `uninit_bg` alone
//! the descriptors' checksums are made anew.

use super::checksum::crc32c;
use super::features::{CSUM_SEED, EA_INODE, ENCRYPT, GDT_CSUM, METADATA_CSUM, STABLE_INODES};
use super::groups::Geometry;
use super::superblock::{CHECKSUM_AT, MAGIC, OFFSET, SIZE, Superblock};
use crate::filesystem::identity::refused;
use crate::identity::{Change, Writes, put};
use crate::parse::{Bytes, read_vec, uuid_text};
use crate::{BlockSource, Result};

const UUID_AT: usize = 0x68;
const INCOMPAT_AT: usize = 0x60;
const SEED_AT: usize = 0x270;
/// A filesystem of 16 TiB has 26 thousand blocks of descriptors, copies included. It bounds memory.
const MOST_COPIES: usize = 1 << 16;

/// Plans the UUID `new` for the filesystem at byte 0 of `source`.
pub(in crate::filesystem) fn change_uuid(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    let sb = Superblock::read(source)?.ok_or_else(|| refused("there is no ext filesystem"))?;
    refuse(&sb)?;
    let geometry = Geometry::new(sb, source.size())?;
    let sb = &geometry.sb;
    let features = &sb.features;
    let with_checksums = features.ro_compat & METADATA_CSUM != 0;
    let seeded = with_checksums && features.incompat & CSUM_SEED == 0;
    let mut writes = Writes::new();
    for (number, at) in geometry.superblocks().enumerate() {
        if number > MOST_COPIES {
            return Err(refused("it has too many copies of its superblock"));
        }
        let Some(copy) = superblock_copy(source, at, sb)? else { continue };
        writes.push((at, with_uuid(copy, new, seeded.then_some(sb.checksum_seed))?));
    }
    if !with_checksums && features.ro_compat & GDT_CSUM != 0 {
        descriptors(source, &geometry, new, &mut writes)?;
    }
    let adds = if seeded { vec!["metadata_csum_seed"] } else { Vec::new() };
    Ok(Change { old: uuid_text(&sb.uuid), new: uuid_text(new), writes, adds })
}

fn refuse(sb: &Superblock) -> Result<()> {
    if let Some(journal) = sb.external_journal() {
        return Err(refused(format!(
            "its journal is on another device, {journal}, which knows the filesystem by its UUID"
        )));
    }
    if sb.needs_recovery() {
        return Err(refused("its journal has changes to replay: mount it once"));
    }
    if let Some(reason) = sb.distrust() {
        return Err(refused(format!("{reason}: run e2fsck -f on it")));
    }
    let features = &sb.features;
    if features.compat & STABLE_INODES != 0 && features.incompat & ENCRYPT != 0 {
        return Err(refused("its encrypted files are bound to the UUID (stable_inodes)"));
    }
    if features.incompat & EA_INODE != 0 && features.ro_compat & METADATA_CSUM == 0 {
        return Err(refused(
            "hashes of its large attributes begin with the UUID (ea_inode without metadata_csum)",
        ));
    }
    Ok(())
}

/// The superblock at `at`; `None` for a backup that is of another filesystem or damaged: e2fsck would not use it either.
fn superblock_copy(source: &dyn BlockSource, at: u64, sb: &Superblock) -> Result<Option<Vec<u8>>> {
    if at.checked_add(SIZE as u64).is_none_or(|end| end > source.size()) {
        return Ok(None);
    }
    let raw = read_vec(source, at, SIZE)?;
    let bytes = Bytes::new(&raw, "ext superblock");
    let is_ours = bytes.u16_le(0x38)? == MAGIC && bytes.slice(UUID_AT, 16)? == sb.uuid;
    if !is_ours && at == OFFSET {
        return Err(refused("its superblock changed while it was read"));
    }
    Ok(is_ours.then_some(raw))
}

/// `seed` is given where the start value of checksums has to be kept from now on.
fn with_uuid(mut raw: Vec<u8>, new: &[u8; 16], seed: Option<u32>) -> Result<Vec<u8>> {
    put(&mut raw, UUID_AT, new);
    if let Some(seed) = seed {
        let incompat = Bytes::new(&raw, "ext superblock").u32_le(INCOMPAT_AT)?;
        put(&mut raw, INCOMPAT_AT, &(incompat | CSUM_SEED).to_le_bytes());
        put(&mut raw, SEED_AT, &seed.to_le_bytes());
    }
    let bytes = Bytes::new(&raw, "ext superblock");
    if bytes.u32_le(0x64)? & METADATA_CSUM != 0 {
        let sum = crc32c(!0, bytes.slice(0, CHECKSUM_AT)?);
        put(&mut raw, CHECKSUM_AT, &sum.to_le_bytes());
    }
    Ok(raw)
}

/// Every copy of every descriptor whose checksum is right gets the one that goes with the new UUID.
fn descriptors(
    source: &dyn BlockSource,
    geometry: &Geometry,
    new: &[u8; 16],
    writes: &mut Writes,
) -> Result<()> {
    let mut after = geometry.clone();
    after.sb.uuid = *new;
    let block_size = u64::from(geometry.sb.block_size);
    let desc_size = usize::from(geometry.sb.desc_size);
    let copies = geometry
        .descriptor_copies(MOST_COPIES)
        .ok_or_else(|| refused("it has too many copies of its descriptors"))?;
    for (block, first) in copies {
        let Some(at) = block
            .checked_mul(block_size)
            .filter(|at| at.checked_add(block_size).is_some_and(|end| end <= source.size()))
        else {
            continue;
        };
        let mut raw = read_vec(source, at, block_size as usize)?;
        let mut changed = false;
        for (index, raw) in (first..geometry.groups).zip(raw.chunks_exact_mut(desc_size)) {
            let descriptor = Bytes::new(raw, "group descriptor");
            if geometry.descriptor_checksum(index, descriptor)? == descriptor.u16_le(0x1e)? {
                let sum = after.descriptor_checksum(index, descriptor)?;
                put(raw, 0x1e, &sum.to_le_bytes());
                changed = true;
            }
        }
        if changed {
            writes.push((at, raw));
        }
    }
    Ok(())
}
