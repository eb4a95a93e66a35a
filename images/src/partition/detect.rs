// SPDX-License-Identifier: Apache-2.0
//! Which table a disk carries, and when what looks like one is none.

use super::Warnings;
use super::gpt::Gpt;
use super::mbr::{self, Mbr};
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result, ResultExt};

/// What was found.
pub(super) enum Found {
    Gpt(Box<Gpt>),
    Mbr(Box<Mbr>),
    /// No table that can be used, and what was met on the way.
    Nothing(Warnings),
}

/// Sector size in which the disk's tables should count.
pub(super) fn native_sector(source: &dyn BlockSource) -> u64 {
    match source.sector_size() {
        4096 => 4096,
        _ => 512,
    }
}

/// Looks at a disk. Fails only where its first sector cannot be read.
pub(super) fn detect(source: &dyn BlockSource) -> Result<Found> {
    let mut warnings = Warnings::default();
    let native = native_sector(source);
    if source.size() < mbr::SECTOR as u64 {
        return Ok(Found::Nothing(warnings));
    }
    let boot = read_vec(source, 0, mbr::SECTOR).doing(|| "reading the first sector")?;
    let boot = Bytes::new(&boot, "first sector");
    let entries = mbr::entries(boot)?;

    if boot.slice(510, 2)? == [0x55, 0xaa] && entries.iter().any(|entry| entry.kind == mbr::PROTECTIVE) {
        return Ok(match find_gpt(source, native, boot) {
            Ok(mut gpt) => {
                describe_protection(&entries, &mut gpt.warnings);
                Found::Gpt(Box::new(gpt))
            }
            Err(error) => {
                warnings.push(format!(
                    "the MBR says that there is a GPT, but neither copy of it can be used ({}); \
                     the disk is taken as one without a table",
                    error.chain()
                ));
                Found::Nothing(warnings)
            }
        });
    }

    // Linux and every firmware look for a GPT only behind a protective MBR.
    let stray = Gpt::find(source, native).is_ok_and(|gpt| !gpt.from_backup);
    if boot.slice(510, 2)? == [0x55, 0xaa] && !is_filesystem(boot, &entries, source.size() / native)? {
        let mbr = Mbr::read(source, native)?;
        if mbr.has_partitions(source.size()) {
            let mut mbr = mbr;
            if stray {
                mbr.warnings.push(
                    "a GPT is there too, without a protective MBR: ignored, as Linux does, in favour of the MBR",
                );
            }
            return Ok(Found::Mbr(Box::new(mbr)));
        }
        if entries.iter().any(|entry| entry.count != 0) {
            warnings.push(
                "the first sector ends like an MBR, but none of its entries is a partition of this disk; \
                 the disk is taken as one without a table",
            );
        }
    }
    if stray {
        warnings.push(
            "there is a GPT but no protective MBR, so that no system sees its partitions; \
             the disk is taken as one without a table",
        );
    }
    Ok(Found::Nothing(warnings))
}

/// A GPT in the disk's own sectors, else in the other size: an image of a 4Kn disk in a file, or the reverse.
fn find_gpt(source: &dyn BlockSource, native: u64, boot: Bytes<'_>) -> Result<Gpt> {
    let primary_damage = match Gpt::find(source, native) {
        Ok(gpt) => return believe(source, boot, gpt),
        Err(error) => error,
    };
    let other = if native == 4096 { 512 } else { 4096 };
    match Gpt::find(source, other) {
        Ok(mut gpt) => {
            gpt.warnings
                .push(format!("the table is for {other}-byte sectors, the disk has {native}-byte sectors"));
            believe(source, boot, gpt)
        }
        Err(_) => Err(primary_damage),
    }
}

/// A table that survives only in its backup, or has no partitions, may be a rest of the past under a filesystem
/// that was made on the whole disk.
fn believe(source: &dyn BlockSource, boot: Bytes<'_>, gpt: Gpt) -> Result<Gpt> {
    if (gpt.from_backup || gpt.used.slots().next().is_none())
        && let Some(name) = whole_disk_content(source, boot)
    {
        return Err(Error::malformed("reading the GPT", format!("{name} covers the whole disk instead")));
    }
    Ok(gpt)
}

fn describe_protection(entries: &[mbr::Entry; 4], warnings: &mut Warnings) {
    if entries.iter().any(|entry| entry.kind != mbr::PROTECTIVE && entry.count != 0) {
        warnings.push(
            "hybrid MBR: it lists partitions beside the GPT; the GPT is used, as Linux does, and the MBR is kept",
        );
    }
    if !entries.iter().any(|entry| entry.kind == mbr::PROTECTIVE && entry.start == 1) {
        warnings.push("the protective MBR does not start at sector 1: Linux ignores this GPT");
    }
}

/// True if a first sector that ends in 55AA is a filesystem's boot sector, or code, rather than an MBR.
///
/// Linux rejects active flags other than 0x00 and 0x80 (`msdos_partition`); this alone does not tell a FAT boot
/// sector whose message is short. So where a BIOS parameter block is, every entry must make sense as well: that
/// leaves real MBRs on disks that once were one FAT, whose first 440 bytes fdisk keeps, and rejects the entry
/// from sector 0 that `mkfs.fat --mbr` writes.
fn is_filesystem(boot: Bytes<'_>, entries: &[mbr::Entry; 4], total: u64) -> Result<bool> {
    if entries.iter().any(|entry| entry.flag & 0x7f != 0) {
        return Ok(true);
    }
    if matches!(boot.slice(0, 4)?, b"XFSB" | b"LUKS") {
        return Ok(true);
    }
    if !has_parameter_block(boot)? {
        return Ok(false);
    }
    let sane = |entry: &mbr::Entry| {
        entry.kind != 0
            && entry.start != 0
            && entry.count != 0
            && u64::from(entry.start) + u64::from(entry.count) <= total
    };
    Ok(!entries.iter().all(|entry| entry.empty || sane(entry)) || entries.iter().all(|entry| entry.empty))
}

/// FAT, exFAT, NTFS, ReFS or BitLocker by the fields that all their drivers check.
fn has_parameter_block(boot: Bytes<'_>) -> Result<bool> {
    if matches!(boot.slice(3, 8)?, b"NTFS    " | b"EXFAT   " | b"-FVE-FS-" | b"ReFS\0\0\0\0") {
        return Ok(true);
    }
    let bytes_per_sector = boot.u16_le(11)?;
    let (sectors_per_cluster, reserved) = (boot.u8(13)?, boot.u16_le(14)?);
    let (fats, media) = (boot.u8(16)?, boot.u8(21)?);
    Ok(matches!(boot.u8(0)?, 0xeb | 0xe9)
        && matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && sectors_per_cluster.is_power_of_two()
        && reserved != 0
        && matches!(fats, 1 | 2)
        && (media >= 0xf8 || media == 0xf0))
}

/// Something that lives on whole disks and leaves a stale table in place. Reading errors count as "no": the caller
/// only asks whether to distrust a table.
fn whole_disk_content(source: &dyn BlockSource, boot: Bytes<'_>) -> Option<&'static str> {
    const SIGNATURES: &[(u64, &[u8], &str)] = &[
        (0, b"XFSB", "an XFS filesystem"),
        (0, b"LUKS\xba\xbe", "a LUKS container"),
        (1080, b"\x53\xef", "an ext filesystem"),
        (0x10040, b"_BHRfS_M", "a btrfs filesystem"),
        (0, b"LABELONE", "an LVM physical volume"),
        (512, b"LABELONE", "an LVM physical volume"),
        (1024, b"LABELONE", "an LVM physical volume"),
        (1536, b"LABELONE", "an LVM physical volume"),
        (4086, b"SWAPSPACE2", "swap"),
        (0, b"\xfc\x4e\x2b\xa9", "an md RAID member"),
        (4096, b"\xfc\x4e\x2b\xa9", "an md RAID member"),
    ];
    if has_parameter_block(boot).unwrap_or(false) {
        return Some("a FAT or NTFS filesystem");
    }
    SIGNATURES
        .iter()
        .find(|(at, magic, _)| read_vec(source, *at, magic.len()).is_ok_and(|found| found == *magic))
        .map(|(_, _, name)| *name)
}
