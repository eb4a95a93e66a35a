// SPDX-License-Identifier: Apache-2.0
//! Makes checksums right again, so that a parser believes damaged fields. Whoever makes hostile disks does the same.
//!
//! All of it follows what the damaged bytes say, as far as that goes; what makes no sense is left as it is.

mod btrfs;
mod ext;
mod images;
mod small;
mod tables;
mod volumes;
mod xfs;

use unmoor_images::{BlockSource, partition};

use crate::disk::{Disk, Machine};

/// No more structures of one kind are sealed: seeds have fewer.
const MOST: u64 = 256;

/// Part of a disk that some structure takes for all there is.
struct Span<'a> {
    disk: &'a mut Disk,
    base: u64,
    size: u64,
}

impl Span<'_> {
    fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.disk.peek(self.base.saturating_add(offset), len)
    }

    fn number(&self, offset: u64, len: usize) -> u64 {
        self.disk.number(self.base.saturating_add(offset), len)
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset < self.size {
            self.disk.write(self.base.saturating_add(offset), data);
        }
    }

    /// Offsets of the 4 KiB pages that hold something.
    fn pages(&self) -> Vec<u64> {
        let pages = self.disk.pages().into_iter().map(|page| page * 4096);
        pages
            .filter(|at| (self.base..self.base.saturating_add(self.size)).contains(at))
            .map(|at| at - self.base)
            .collect()
    }
}

/// For formats without checksums.
pub fn nothing(_: &mut Machine) {}

/// GPT.
pub fn tables(machine: &mut Machine) {
    each(machine, tables::seal);
}

/// Filesystems on whole disks.
pub fn filesystems(machine: &mut Machine) {
    each(machine, filesystem);
}

/// LVM2 and md on whole disks.
pub fn volumes(machine: &mut Machine) {
    each(machine, volumes::seal);
}

/// VHDX and VHD.
pub fn images(machine: &mut Machine) {
    each(machine, images::seal);
}

/// partclone's header, and its map of used blocks in bits.
pub fn partclone(machine: &mut Machine) {
    each(machine, images::partclone);
}

/// All but the last of these, on whole disks and in partitions.
pub fn everything(machine: &mut Machine) {
    for disk in &mut machine.disks {
        let size = disk.size();
        tables::seal(&mut Span { disk, base: 0, size });
        let mut places = vec![(0, size)];
        if let Ok(table) = partition::read(disk) {
            places.extend(table.partitions.iter().take(16).map(|partition| (partition.start, partition.len)));
        }
        for (base, size) in places {
            let mut span = Span { disk, base, size };
            filesystem(&mut span);
            volumes::seal(&mut span);
        }
    }
}

/// The length and hash of a restore record's map.
pub fn record(machine: &mut Machine) {
    let [json, map] = &mut machine.disks[..] else { return };
    if json.size().max(map.size()) > 1 << 20 {
        return;
    }
    let bytes = map.peek(0, map.size() as usize);
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&json.peek(0, json.size() as usize))
    else {
        return;
    };
    let Some(fields) = value.get_mut("map").and_then(|map| map.as_object_mut()) else { return };
    fields.insert("bytes".into(), bytes.len().into());
    fields.insert("blake3".into(), blake3::hash(&bytes).to_hex().to_string().into());
    if let Ok((extents, leaves)) = unmoor_images::manifest::decode_map(&bytes)
        && let Some(fields) = value.as_object_mut()
    {
        fields.insert("size".into(), extents.size().into());
        fields.insert("root".into(), unmoor_images::manifest::hex(&leaves.root()).into());
    }
    *json = Disk::of(value.to_string().as_bytes());
}

/// The header and the mark of the file beside an overlay.
pub fn overlay(machine: &mut Machine) {
    each(machine, |span| {
        for at in [0, 512] {
            let raw = span.peek(at, 508);
            if raw.starts_with(b"UNMOOR-OVERLAY") || raw.starts_with(b"COMPLETE") {
                span.write(at + 508, &crc32c::crc32c(&raw).to_le_bytes());
            }
        }
    });
}

/// The order of a boot.
pub fn order(machine: &mut Machine) {
    each(machine, |span| {
        if (4..1 << 20).contains(&span.size) {
            let raw = span.peek(0, span.size as usize - 4);
            span.write(raw.len() as u64, &crc32c::crc32c(&raw).to_le_bytes());
        }
    });
}

fn each(machine: &mut Machine, seal: fn(&mut Span<'_>)) {
    for disk in &mut machine.disks {
        let size = disk.size();
        seal(&mut Span { disk, base: 0, size });
    }
}

fn filesystem(span: &mut Span<'_>) {
    if span.number(1024 + 56, 2) == 0xef53 {
        ext::seal(span);
    }
    if span.peek(0, 4) == b"XFSB" {
        xfs::seal(span);
    }
    if span.peek(0x1_0040, 8) == b"_BHRfS_M" {
        btrfs::seal(span);
    }
    match &*span.peek(3, 8) {
        b"EXFAT   " => small::exfat(span),
        b"NTFS    " => small::ntfs(span),
        _ => {}
    }
}
