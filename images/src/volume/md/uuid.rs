// SPDX-License-Identifier: Apache-2.0
//! Another UUID for an md array, on one of its members: the superblock and its checksum, and the bitmap, which the kernel
//! holds against it (`md_bitmap_read_sb`).

use super::{MAGIC, Member, SECTOR, folded, probe, v0, v1};
use crate::identity::{Change, Writes, put};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

const LEN: usize = 4096;
const BITMAP_MAGIC: u32 = 0x6d74_6962;

fn refused(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::refused("giving an md array another UUID", because)
}

/// Plans the UUID `new` for the member in `source`; all members of the array must get it.
///
/// # Errors
///
/// `Refused` where the array is being reshaped, or has a journal or another feature whose own headers name it.
pub fn change(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    let member = probe(source)?.ok_or_else(|| refused("there is no md superblock"))?;
    let mut writes = Writes::new();
    if member.metadata == "0.90" {
        let (at, old, new) = v0_superblock(source, new, &mut writes)?;
        // Right behind the superblock, in the same reserved room.
        bitmap(source, at + LEN as u64, (&old, &new), &mut writes)?;
    } else {
        let (at, old) = v1_superblock(source, &member, new, &mut writes)?;
        for range in member.own.iter().filter(|range| range.start != at) {
            bitmap(source, range.start, (&old, new), &mut writes)?;
        }
    }
    Ok(Change { old: member.array_uuid, new: text(new), writes, adds: Vec::new() })
}

/// As `mdadm --detail` prints it.
fn text(uuid: &[u8; 16]) -> String {
    let words = uuid.chunks(4).map(|part| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    words.collect::<Vec<_>>().join(":")
}

/// Where it lies, and the old UUID as it stands on disk.
fn v1_superblock(
    source: &dyn BlockSource,
    member: &Member,
    new: &[u8; 16],
    writes: &mut Writes,
) -> Result<(u64, [u8; 16])> {
    let at = member.own.first().map(|range| range.start).unwrap_or_default();
    let mut raw = read_vec(source, at, LEN)?;
    let block = Bytes::new(&raw, "md superblock");
    if block.u32_le(0)? != MAGIC || block.u64_le(144)? != at / SECTOR {
        return Err(refused("it carries several md superblocks: mdadm --zero-superblock removes an old one"));
    }
    let features = block.u32_le(8)?;
    if features & !v1::RENAMED != 0 {
        return Err(refused(format!(
            "its array is being reshaped, or has a journal or other features (feature map {features:#x})"
        )));
    }
    let mut old = [0; 16];
    old.copy_from_slice(block.slice(16, 16)?);
    let roles = block.u32_le(220)? as usize;
    put(&mut raw, 16, new);
    let sum = v1::checksum(&Bytes::new(&raw, "md superblock"), roles)?;
    put(&mut raw, 216, &sum.to_le_bytes());
    writes.push((at, raw));
    Ok((at, old))
}

/// Where it lies, and the old and the new UUID as they stand on disk: four words, of which the first stands apart.
fn v0_superblock(
    source: &dyn BlockSource,
    new: &[u8; 16],
    writes: &mut Writes,
) -> Result<(u64, [u8; 16], [u8; 16])> {
    const WORDS: [usize; 4] = [5, 13, 14, 15];
    const CHECKSUM: usize = 38;
    let at = v0::place(source.size()).ok_or_else(|| refused("there is no md superblock"))?;
    let mut raw = read_vec(source, at, LEN)?;
    let block = Bytes::new(&raw, "md superblock");
    if block.u32_le(8)? != 90 {
        return Err(refused("its array is being reshaped"));
    }
    let (mut old, mut stored) = ([0; 16], [0; 16]);
    for (index, word) in WORDS.into_iter().enumerate() {
        put(&mut old, index * 4, block.slice(word * 4, 4)?);
        put(&mut stored, index * 4, &Bytes::new(new, "a UUID").u32_be(index * 4)?.to_le_bytes());
    }
    for (index, word) in WORDS.into_iter().enumerate() {
        put(&mut raw, word * 4, Bytes::new(&stored, "a UUID").slice(index * 4, 4)?);
    }
    let block = Bytes::new(&raw, "md superblock");
    let mut sum = 0u64;
    for index in (0..LEN / 4).filter(|index| *index != CHECKSUM) {
        sum += u64::from(block.u32_le(index * 4)?);
    }
    put(&mut raw, CHECKSUM * 4, &folded(sum).to_le_bytes());
    writes.push((at, raw));
    Ok((at, old, stored))
}

/// A bitmap with the old UUID at `at`, if there is one.
fn bitmap(
    source: &dyn BlockSource,
    at: u64,
    (old, new): (&[u8; 16], &[u8; 16]),
    writes: &mut Writes,
) -> Result<()> {
    const HEADER: u64 = 256;
    if at.checked_add(HEADER).is_none_or(|end| end > source.size()) {
        return Ok(());
    }
    let raw = read_vec(source, at, HEADER as usize)?;
    let header = Bytes::new(&raw, "md bitmap");
    if header.u32_le(0)? == BITMAP_MAGIC && header.slice(8, 16)? == old {
        writes.push((at + 8, new.to_vec()));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::layout::tests::uml;
    use crate::volume::lvm::tests::Disk;

    const NEW: [u8; 16] = [0x5e, 0xed, 0xba, 0x5e, 0, 0x11, 0x42, 0x22, 0x83, 0x33, 1, 2, 3, 4, 5, 6];

    #[test]
    fn arrays_of_every_metadata_are_assembled_by_their_new_uuid_with_their_bitmap() {
        let folder = tempfile::tempdir().unwrap();
        let versions = ["0.90", "1.0", "1.1", "1.2"];
        let pairs = versions.map(|version| {
            [format!("a{}", version.replace('.', "")), format!("b{}", version.replace('.', ""))]
        });
        for name in pairs.iter().flatten() {
            std::fs::File::create(folder.path().join(name)).unwrap().set_len(48 << 20).unwrap();
        }
        let mut script =
            format!("attach {}\n", pairs.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
        for (number, (version, [a, b])) in versions.iter().zip(&pairs).enumerate() {
            script += &format!(
                "mdadm --create /dev/md{number} --run --level=1 --raid-devices=2 --metadata={version} --bitmap=internal --assume-clean ${a} ${b}\n\
                 echo content of {version} | dd of=/dev/md{number} bs=4096 conv=sync,fsync\nmdadm --stop /dev/md{number}\n"
            );
        }
        uml::run(folder.path(), &script);
        for name in pairs.iter().flatten() {
            let path = folder.path().join(name);
            let mut disk = Disk(std::fs::read(&path).unwrap());
            let changed = change(&disk, &NEW).unwrap();
            assert_eq!(changed.new, "5eedba5e:00114222:83330102:03040506");
            assert_eq!(changed.writes.len(), 2, "superblock and bitmap of {name}");
            for (at, bytes) in &changed.writes {
                disk.0[*at as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            assert_eq!(probe(&disk).unwrap().unwrap().array_uuid, changed.new);
            std::fs::write(&path, &disk.0).unwrap();
        }
        let mut script =
            format!("attach {}\n", pairs.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
        for (number, (version, [a, b])) in versions.iter().zip(&pairs).enumerate() {
            script += &format!(
                "mdadm --assemble /dev/md{number} --uuid=5eedba5e:00114222:83330102:03040506 ${a} ${b}\n\
                 mdadm --detail /dev/md{number}\nmdadm --examine-bitmap ${a}\nhead -c 20 /dev/md{number} | grep 'content of {version}'\n\
                 grep -A2 md{number} /proc/mdstat\nmdadm --stop /dev/md{number}\n"
            );
        }
        let log = uml::run(folder.path(), &script);
        assert_eq!(log.matches("[UU]").count(), 4, "{log}");
        assert_eq!(log.matches("bitmap: 0/").count(), 4, "{log}");
    }

    #[test]
    fn what_is_no_member_is_refused() {
        assert!(change(&Disk(vec![0; 1 << 20]), &NEW).is_err());
    }
}
