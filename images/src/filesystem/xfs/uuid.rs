// SPDX-License-Identifier: Apache-2.0
//! Another UUID for XFS, as `xfs_admin -U` gives it.
//!
//! Every metadata block of version 5 bears the UUID that the filesystem was made with: it moves to `sb_meta_uuid` (feature META_UUID,
//! Linux 4.3), and the superblocks alone bear the new one. Version 4 has it in the superblocks only. The kernel holds the newest record
//! of the log against the superblock (`xlog_header_check_mount`); where `xfs_admin` writes the log anew, here its headers change.

use super::superblock::{INCOMPAT_META_UUID, Superblock, checksum, checksum_matches};
use super::{Distrust, log, untrusted_because};
use crate::filesystem::identity::refused;
use crate::identity::{Change, Writes, put};
use crate::parse::{Bytes, read_vec, uuid_text};
use crate::{BlockSource, Result};

const UUID_AT: usize = 32;
const INCOMPAT_AT: usize = 216;
const CHECKSUM_AT: usize = 224;
const META_UUID_AT: usize = 248;
/// Groups are at least 16 MiB as mkfs makes them; this bounds memory.
const MOST_GROUPS: u32 = 1 << 16;

/// Plans the UUID `new` for the filesystem at byte 0 of `source`.
pub(in crate::filesystem) fn change_uuid(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    let superblock = Superblock::read(source)?.ok_or_else(|| refused("there is no XFS"))?;
    if let Some(Distrust::Dirty(why) | Distrust::OtherDevice(why)) = untrusted_because(source, &superblock)? {
        return Err(refused(why));
    }
    superblock.refuse_unknown_features()?;
    if superblock.groups > MOST_GROUPS {
        return Err(refused(format!("it has {} allocation groups", superblock.groups)));
    }
    let had = superblock.has_meta_uuid();
    let gets = superblock.features.is_v5() && *new != superblock.meta_uuid;
    let mut writes = log::relabelled(source, &superblock, new)?;
    for group in 0..superblock.groups {
        let at = superblock.byte_of(group, 0);
        let sector = read_vec(source, at, superblock.sector_size as usize)?;
        writes.push((at, with_uuid(sector, &superblock, new, gets)?));
    }
    Ok(Change {
        old: uuid_text(&superblock.uuid),
        new: uuid_text(new),
        writes: disjoint(writes),
        adds: if gets && !had { vec!["meta_uuid"] } else { Vec::new() },
    })
}

fn with_uuid(mut sector: Vec<u8>, superblock: &Superblock, new: &[u8; 16], gets: bool) -> Result<Vec<u8>> {
    let raw = Bytes::new(&sector, "an XFS superblock");
    let v5 = superblock.features.is_v5();
    if raw.slice(0, 4)? != b"XFSB" || v5 && !checksum_matches(&sector, CHECKSUM_AT)? {
        return Err(refused("a copy of its superblock is damaged: run xfs_repair"));
    }
    let incompat = raw.u32_be(INCOMPAT_AT)?;
    put(&mut sector, UUID_AT, new);
    if v5 {
        let (bits, meta) = match gets {
            true => (incompat | INCOMPAT_META_UUID, superblock.meta_uuid),
            // Back to what it was made with.
            false => (incompat & !INCOMPAT_META_UUID, [0; 16]),
        };
        put(&mut sector, INCOMPAT_AT, &bits.to_be_bytes());
        put(&mut sector, META_UUID_AT, &meta);
        let sum = checksum(&sector, CHECKSUM_AT)?;
        put(&mut sector, CHECKSUM_AT, &sum.to_le_bytes());
    }
    Ok(sector)
}

fn disjoint(mut writes: Writes) -> Writes {
    writes.sort_by_key(|(at, _)| *at);
    writes
}
