// SPDX-License-Identifier: Apache-2.0
//! Where probing programs look for signatures: what old content there must not say on a restored disk.
//!
//! Two uses. *Holes* at these places become zeros, because a target's old content would show through them.
//! And a source that itself carries the mark of something that lies *beneath* or *around* filesystems
//! (BIOS RAID, DRBD, bcache, ZFS, ...) is kept whole: the filesystem seen on it may be an old one, or only a
//! part of one.
//!
//! Addresses: libblkid `superblocks/*.c` of util-linux 2.41, and the formats' own definitions.

use crate::parse::{Bytes, read_vec};
use crate::volume::luks;
use crate::{BlockSource, RangeSet, Result};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// No signature at one of the places outside the first and last MiB is longer.
const PIECE: u64 = 4096;

/// Signatures further than 1 MiB from both ends, by their address.
const FROM_START: [u64; 6] = [
    MIB,       // VMFS volume; UDF anchor with blocks of 4 KiB; LUKS2's second header
    2 * MIB,   // VMFS, bcachefs' second superblock; LUKS2's second header
    4 * MIB,   // LUKS2's second header
    64 * MIB,  // btrfs' first mirror
    256 << 30, // btrfs' second mirror
    1 << 50,   // btrfs' third mirror, of old versions
];

/// Promise FastTrack metadata, in sectors before the end (libblkid `promise_raid.c`); one is over 1 MiB away.
const PROMISE: [u64; 13] = [63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087];

/// The places in a disk, partition or volume of `len` bytes.
pub fn places(len: u64) -> RangeSet {
    let mut places = RangeSet::new();
    let mut add = |start: u64, size: u64| places.insert(start.min(len)..start.saturating_add(size).min(len));
    // These hold nearly all: boot sectors, LVM, md 1.1 and 1.2, ext, XFS, swap, ZFS' first two labels; and near the end md 0.90
    // (up to 128 KiB before it) and 1.0, ZFS' last two labels (up to 768 KiB), backup GPT, BIOS RAID, DRBD, nilfs2, bcachefs.
    add(0, MIB);
    add(len.saturating_sub(MIB), MIB);
    FROM_START.iter().for_each(|start| add(*start, PIECE));
    for sectors in PROMISE {
        add((len / SECTOR).saturating_sub(sectors) * SECTOR, PIECE);
    }
    places
}

/// Where a mark stands.
#[derive(Clone, Copy)]
enum At {
    Start(u64),
    /// Sectors of 512 bytes before the end, and bytes from there.
    BeforeEnd(u64, u64),
    /// `size - bytes`, for formats that count no sectors.
    EndBytes(u64, u64),
}

struct Mark {
    name: &'static str,
    at: At,
    magic: &'static [u8],
}

const fn mark(name: &'static str, at: At, magic: &'static [u8]) -> Mark {
    Mark { name, at, magic }
}

/// BIOS RAID, which takes whole disks. A false alarm costs space, never content, so no checksums are
/// verified; except where the magic is so short that chance would raise one.
const DISK_MARKS: &[Mark] = &[
    mark("Intel RAID (isw)", At::BeforeEnd(2, 0), b"Intel Raid ISM Cfg Sig. "),
    mark("DDF RAID", At::BeforeEnd(1, 0), b"\xde\x11\xde\x11"),
    mark("DDF RAID", At::BeforeEnd(257, 0), b"\xde\x11\xde\x11"),
    mark("NVIDIA RAID", At::BeforeEnd(2, 0), b"NVIDIA  "),
    mark("Silicon Image RAID", At::BeforeEnd(1, 0x60), b"\0\0\0\x2f"),
    mark("LSI RAID", At::BeforeEnd(1, 0), b"$XIDE$"),
    mark("Adaptec RAID", At::BeforeEnd(1, 0), b"\x37\xfc\x4d\x1e"),
    mark("HighPoint 45x RAID", At::BeforeEnd(11, 0), b"\xf3\x16\x78\x5a"),
    mark("HighPoint 45x RAID", At::BeforeEnd(11, 0), b"\xfd\x16\x78\x5a"),
    mark("HighPoint 37x RAID", At::Start(4608 + 32), b"\xf0\x16\x78\x5a"),
    mark("HighPoint 37x RAID", At::Start(4608 + 32), b"\xfd\x16\x78\x5a"),
];

/// What lies between a partition and its filesystem, or spans several devices.
const MARKS: &[Mark] = &[
    // The magics of bcache and bcachefs.
    mark("bcache", At::Start(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    mark(
        "bcachefs",
        At::Start(4096 + 24),
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    mark("Stratis", At::Start(512 + 4), b"!Stra0tis\x86\xff\x02^\x41rh"),
    mark("Stratis", At::Start(512 * 9 + 4), b"!Stra0tis\x86\xff\x02^\x41rh"),
    mark("dm-integrity", At::Start(0), b"integrt\0"),
    mark("dm-verity", At::Start(0), b"verity\0\0"),
    mark("VDO", At::Start(0), b"dmvdo001"),
    mark("a device-mapper snapshot", At::Start(0), b"SnAp"),
    mark("BitLocker", At::Start(3), b"-FVE-FS-"),
    mark("DRBD", At::EndBytes(4096, 60), b"\x83\x74\x02\x6b"),
    mark("DRBD", At::EndBytes(4096, 60), b"\x83\x74\x02\x6c"),
    mark("DRBD", At::EndBytes(4096, 60), b"\x83\x74\x02\x6d"),
];

/// Looks for the mark of something that unmoor does not look into; answers its name.
pub(super) fn foreign(source: &dyn BlockSource, whole_disk: bool) -> Result<Option<&'static str>> {
    let disk_marks = if whole_disk { DISK_MARKS } else { &[] };
    for mark in disk_marks.iter().chain(MARKS) {
        if has(source, mark)? {
            return Ok(Some(mark.name));
        }
    }
    if whole_disk {
        for sectors in PROMISE {
            if has(source, &mark("Promise RAID", At::BeforeEnd(sectors, 0), b"Promise Technology, Inc."))? {
                return Ok(Some("Promise RAID"));
            }
        }
        if let Some(name) = summed(source)? {
            return Ok(Some(name));
        }
    }
    Ok(if zfs(source)? { Some("ZFS") } else { None })
}

fn has(source: &dyn BlockSource, mark: &Mark) -> Result<bool> {
    let size = source.size();
    let at = match mark.at {
        At::Start(at) => Some(at),
        At::BeforeEnd(sectors, more) => (size / SECTOR).checked_sub(sectors).map(|at| at * SECTOR + more),
        At::EndBytes(bytes, more) => size.checked_sub(bytes).map(|at| at + more),
    };
    let Some(at) = at.filter(|at| at.checked_add(mark.magic.len() as u64).is_some_and(|end| end <= size))
    else {
        return Ok(false);
    };
    Ok(read_vec(source, at, mark.magic.len())? == mark.magic)
}

/// Marks of two bytes in the last sector, believed only with their checksum.
fn summed(source: &dyn BlockSource) -> Result<Option<&'static str>> {
    let Some(last) = (source.size() / SECTOR).checked_sub(1) else {
        return Ok(None);
    };
    let raw = read_vec(source, last * SECTOR, SECTOR as usize)?;
    let sector = Bytes::new(&raw, "last sector");
    let sum = sector.slice(0, 50)?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if sector.u16_le(0)? == 0xaa55 && sector.u8(2)? <= 2 && sector.u8(50)? == sum {
        return Ok(Some("VIA RAID"));
    }
    if sector.slice(0, 2)? == b"JM" {
        // 64 words that add up to 0 or 1.
        let mut sum = 0u16;
        for index in 0..64 {
            sum = sum.wrapping_add(sector.u16_le(index * 2)?);
        }
        if sum <= 1 {
            return Ok(Some("JMicron RAID"));
        }
    }
    Ok(None)
}

/// One of the four labels holds a list of names and values in XDR that speaks of a pool.
fn zfs(source: &dyn BlockSource) -> Result<bool> {
    const LABEL: u64 = 256 * 1024;
    const LIST: u64 = 16 * 1024;
    let size = source.size() & !(LABEL - 1);
    for label in [Some(0), Some(LABEL), size.checked_sub(2 * LABEL), size.checked_sub(LABEL)] {
        let Some(label) = label.filter(|label| label + LABEL <= size) else { continue };
        let list = read_vec(source, label + LIST, 4096)?;
        let names_pool = list.windows(9).any(|window| window == b"pool_guid");
        if list.starts_with(&[1, 0, 0, 0]) | list.starts_with(&[1, 1, 0, 0]) && names_pool {
            return Ok(true);
        }
    }
    Ok(false)
}

const _: () = assert!(luks::SECOND_OFFSETS[6] == FROM_START[0] && luks::SECOND_OFFSETS[8] == FROM_START[2]);
