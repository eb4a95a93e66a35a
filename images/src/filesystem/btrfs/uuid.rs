// SPDX-License-Identifier: Apache-2.0
//! Another UUID for btrfs, as `btrfstune -M` gives it: tree blocks and the device's own item keep the one that the filesystem was
//! made with (feature metadata-uuid, Linux 5.0), and the superblocks alone bear the new one.

use super::superblock::{AT, COPIES, INCOMPAT_METADATA_UUID, LEN, Superblock};
use crate::filesystem::identity::refused;
use crate::identity::{Change, Writes, put};
use crate::parse::{Bytes, read_vec, uuid_text};
use crate::{BlockSource, Result};

const FSID_AT: usize = 32;
const INCOMPAT_AT: usize = 188;
const METADATA_UUID_AT: usize = 571;

/// Plans the UUID `new` for the filesystem on `source`.
pub(in crate::filesystem) fn change_uuid(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    let superblock = Superblock::read(source)?.ok_or_else(|| refused("there is no btrfs"))?;
    if let Some(why) = superblock.other_devices() {
        return Err(refused(why));
    }
    superblock.refuse_unknown_features()?;
    let gets = *new != superblock.metadata_uuid;
    let mut writes = Writes::new();
    for at in std::iter::once(AT).chain(COPIES) {
        if at + LEN > source.size().min(superblock.device_bytes) {
            continue;
        }
        let mut raw = read_vec(source, at, LEN as usize)?;
        let copy = Bytes::new(&raw, "a btrfs superblock");
        // A copy of another time, of another filesystem or damaged is none.
        if copy.slice(64, 8)? != b"_BHRfS_M"
            || copy.u64_le(48)? != at
            || copy.slice(FSID_AT, 16)? != superblock.fsid
            || !superblock.checksum.matches(&raw)
        {
            continue;
        }
        let incompat = copy.u64_le(INCOMPAT_AT)?;
        let (bits, metadata) = match gets {
            true => (incompat | INCOMPAT_METADATA_UUID, superblock.metadata_uuid),
            false => (incompat & !INCOMPAT_METADATA_UUID, [0; 16]),
        };
        put(&mut raw, FSID_AT, new);
        put(&mut raw, INCOMPAT_AT, &bits.to_le_bytes());
        put(&mut raw, METADATA_UUID_AT, &metadata);
        superblock.checksum.seal(&mut raw);
        writes.push((at, raw));
    }
    let had = superblock.metadata_uuid != superblock.fsid;
    Ok(Change {
        old: uuid_text(&superblock.fsid),
        new: uuid_text(new),
        writes,
        adds: if gets && !had { vec!["metadata-uuid"] } else { Vec::new() },
    })
}
