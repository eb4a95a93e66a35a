// SPDX-License-Identifier: Apache-2.0
//! The EFI system partition as the guest has it: on the disk, mounted now, in fstab.

use std::ops::Range;

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::fat::Boot;
use unmoor_images::layout::{DiskLayout, Place};
use unmoor_images::partition::Role;
use unmoor_images::{BlockSource, Result};

use super::{Context, RULE, esp};
use crate::devices::Device;
use crate::files::{Files, MOST_TEXT};
use crate::plan::Draft;

/// Where distributions mount it.
const MOUNTPOINT: &str = "/boot/efi";
/// Less does not hold shim and GRUB twice.
const LEAST: u64 = 16 << 20;

/// An ESP with a FAT volume on this disk.
pub(super) fn existing_esp(source: &dyn BlockSource, layout: &DiskLayout) -> Result<Option<Range<u64>>> {
    for partition in layout.table.partitions.iter().filter(|partition| partition.role == Role::Esp) {
        let area = Window::new(source, partition.start, partition.len)?;
        if matches!(Boot::read(&area), Ok(Some(_))) && partition.len >= LEAST {
            return Ok(Some(partition.start..partition.start + partition.len));
        }
    }
    Ok(None)
}

/// Where the guest has the partition at `range` mounted now.
pub(super) fn mounted_at(
    draft: &Draft<'_>,
    context: &Context<'_>,
    disk: usize,
    range: &Range<u64>,
) -> Result<Option<String>> {
    for esp in &context.inspection.boot.esps {
        let Some(device) = context.devices.devices.get(esp.device) else { continue };
        let is_it = device.disk == disk
            && matches!(device.place, Place::Disk { offset, .. } if offset == range.start);
        if let Some(mountpoint) = esp.mountpoint.as_ref().filter(|_| is_it)
            && esp::is_mounted(draft, mountpoint)?
        {
            return Ok(Some(mountpoint.clone()));
        }
    }
    Ok(None)
}

/// A line in fstab for an ESP that was there and that nobody mounted.
pub(super) fn mount_existing(
    draft: &mut Draft<'_>,
    context: &Context<'_>,
    disk: usize,
    range: &Range<u64>,
) -> Result<()> {
    let devices = &context.devices.devices;
    let is_it = |device: &Device| {
        device.disk == disk && matches!(device.place, Place::Disk { offset, .. } if offset == range.start)
    };
    let Some(index) = devices.iter().position(is_it) else { return Ok(()) };
    if context.inspection.fstab.iter().any(|line| line.device == Some(index)) {
        return Ok(());
    }
    match devices.get(index).and_then(|device| device.uuid.clone()) {
        Some(id) => mount(draft, context, &id),
        None => Ok(()),
    }
}

/// The ESP's line in fstab, and its mount point. `id` is its serial number as blkid prints it.
pub(super) fn mount(draft: &mut Draft<'_>, context: &Context<'_>, id: &str) -> Result<()> {
    let line = format!("UUID={id}  {MOUNTPOINT}  vfat  umask=0077  0  1");
    let mut text = draft.read("/etc/fstab", MOST_TEXT)?.unwrap_or_default();
    let old =
        context.inspection.fstab.iter().find(|line| line.mountpoint.trim_end_matches('/') == MOUNTPOINT);
    if let Some(old) = old {
        // What was mounted there is not on these disks, or is no ESP.
        let lines = text.split_inclusive(|byte| *byte == b'\n').enumerate();
        text = lines
            .flat_map(
                |(index, content)| {
                    if index + 1 == old.line { [b"# ".as_slice(), content] } else { [content, b""] }
                },
            )
            .flatten()
            .copied()
            .collect();
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    draft.write("/etc/fstab", text, RULE, "the boot loader's packages write to the EFI system partition")?;
    draft.directory(MOUNTPOINT, 0o700, RULE, "the EFI system partition is mounted there")
}
