// SPDX-License-Identifier: Apache-2.0
//! Files for an EFI system partition: written as files where the guest has it mounted, else by making its FAT volume anew.

use std::ops::Range;

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::fat::{Made, Stamp, Volume};
use unmoor_images::{BlockSource, Error, Result, ResultExt};

use crate::files::Files;
use crate::plan::{Content, DiskEdit, Draft, Reason};

/// Files by their paths from the partition's top, with slashes: "EFI/BOOT/BOOTX64.EFI".
pub(super) type EspFiles = Vec<(String, Vec<u8>)>;

/// Bytes at a partition's end where an old volume's signature may stand (md's superblocks of version 0.90 and 1.0).
const TAIL: u64 = 128 << 10;

/// Whether the guest's ESP is mounted where the plan is made: its files are then the guest's, on another filesystem.
pub(super) fn is_mounted(files: &dyn Files, mountpoint: &str) -> Result<bool> {
    let parent = match mountpoint.trim_end_matches('/').rsplit_once('/') {
        Some((parent, _)) if !parent.is_empty() => parent,
        _ => "/",
    };
    let (own, above) = (files.metadata(mountpoint)?, files.metadata(parent)?);
    Ok(matches!((own, above), (Some(own), Some(above)) if own.device != above.device))
}

/// Plans files below a mounted ESP.
pub(super) fn write_files(
    draft: &mut Draft<'_>,
    mountpoint: &str,
    files: EspFiles,
    rule: &str,
    why: &str,
) -> Result<()> {
    for (path, bytes) in files {
        let path = format!("{}/{path}", mountpoint.trim_end_matches('/'));
        draft.write_mode(&path, bytes, 0o644, rule, why)?;
    }
    Ok(())
}

/// Writes that make a new volume with `files` in `range` of a disk.
pub(super) fn new_volume(
    files: EspFiles,
    range: &Range<u64>,
    sector_size: u32,
    serial: u32,
    now: i64,
) -> Result<Vec<(u64, Content)>> {
    let time = Stamp::from_unix(now);
    let mut volume = Volume::new("EFI", serial, time);
    for (path, bytes) in files {
        volume.put(&path, bytes, time)?;
    }
    let len = range.end - range.start;
    let made = volume.make(len, sector_size, range.start).doing(|| "making the EFI system partition")?;
    let mut writes = Vec::new();
    let tail = len.saturating_sub(TAIL);
    if highest(&made) <= tail {
        writes.push((range.start + tail, Content::Base64(vec![0; (len - tail) as usize])));
    }
    writes.extend(placed(made.writes(None)?, range));
    Ok(writes)
}

/// Makes the volume at `range` of `disk` anew with `files` put there; every other file, serial number and label stay.
///
/// # Errors
///
/// `Refused` where they do not fit; `Malformed` for a broken volume.
pub(super) fn changed_volume(
    draft: &mut Draft<'_>,
    (index, disk): (usize, &dyn BlockSource),
    range: &Range<u64>,
    files: EspFiles,
    now: i64,
    reason: Reason,
) -> Result<()> {
    let old = Window::new(disk, range.start, range.end - range.start)?;
    let mut volume = Volume::read(&old)?
        .ok_or_else(|| Error::unsupported("changing the EFI system partition", "it holds no FAT volume"))?;
    let names: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
    for (path, bytes) in files {
        volume.put(&path, bytes, Stamp::from_unix(now))?;
    }
    let made = volume
        .make(range.end - range.start, disk.sector_size(), range.start)
        .doing(|| "putting files on the EFI system partition")?;
    draft.disk(DiskEdit {
        reasons: vec![reason],
        disk: index,
        summary: vec![format!("the EFI system partition at byte {} gets {}", range.start, names.join(", "))],
        writes: placed(made.writes(Some(&old))?, range),
    });
    Ok(())
}

fn placed(writes: Vec<(u64, Vec<u8>)>, range: &Range<u64>) -> Vec<(u64, Content)> {
    writes.into_iter().map(|(at, bytes)| (range.start + at, Content::Base64(bytes))).collect()
}

fn highest(made: &Made) -> u64 {
    let patches = made.patches.iter().map(|(at, bytes, _)| at + bytes.len() as u64);
    patches.chain(made.content.iter().map(|(at, bytes)| at + bytes.len() as u64)).max().unwrap_or(0)
}
