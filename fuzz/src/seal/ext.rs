// SPDX-License-Identifier: Apache-2.0
//! ext4's checksums (Documentation/filesystems/ext4/checksums.rst): superblock, descriptors, block bitmaps, first inodes,
//! journal superblock.

use super::{MOST, Span};

const SB: u64 = 1024;
/// Inodes that readers look at are among the first: 8 is the journal.
const INODES: u64 = 16;

/// CRC-32C without the inversions before and after.
fn crc(seed: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, data)
}

pub(super) fn seal(span: &mut Span<'_>) {
    let field = |at: u64, len| span.number(SB + at, len);
    let (compatible, incompatible, read_only) = (field(0x5c, 4), field(0x60, 4), field(0x64, 4));
    let checksums = read_only & 0x400 != 0;
    let block = 1024u64 << (field(0x18, 4) & 7);
    let first = field(0x14, 4) & 1;
    let desc = match incompatible & 0x80 {
        0 => 32,
        _ => field(0xfe, 2).clamp(32, 1024),
    };
    let (per_group, clusters) = (field(0x20, 4).max(8), field(0x24, 4).min(block * 8));
    let blocks = field(4, 4) | if incompatible & 0x80 == 0 { 0 } else { field(0x150, 4) << 32 };
    let inode_size = if field(0x4c, 4) == 0 { 128 } else { field(0x58, 2).clamp(128, 4096) };
    let uuid = span.peek(SB + 0x68, 16);
    let seed = if incompatible & 0x2000 != 0 { field(0x270, 4) as u32 } else { crc(!0, &uuid) };
    let meta_bg = (incompatible & 0x10 != 0).then(|| field(0x104, 4));
    let groups = blocks.saturating_sub(first).div_ceil(per_group).min(MOST);

    for group in 0..groups {
        let each = block / desc;
        let at = match (group / each, group % each) {
            // From the first meta group on, their block is the first of the groups that it describes.
            (meta, within) if meta_bg.is_some_and(|first| meta >= first.max(1)) => {
                (first + meta * each * per_group) * block + within * desc
            }
            _ => (first + 1) * block + group * desc,
        };
        let mut raw = span.peek(at, desc as usize);
        if raw.iter().all(|byte| *byte == 0) {
            continue;
        }
        let number = |at: usize, len: usize| {
            raw[at..at + len].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let wide = desc >= 64;
        let high = |at: usize| if wide { number(at, 4) << 32 } else { 0 };
        if checksums {
            let bitmap = number(0, 4) | high(0x20);
            let sum = crc(seed, &span.peek(bitmap.saturating_mul(block), clusters as usize / 8));
            if group == 0 {
                let table = (number(8, 4) | high(0x28)).saturating_mul(block);
                inodes(span, table, inode_size, seed);
            }
            raw[0x18..0x1a].copy_from_slice(&(sum as u16).to_le_bytes());
            if wide {
                raw[0x38..0x3a].copy_from_slice(&((sum >> 16) as u16).to_le_bytes());
            }
        }
        raw[0x1e..0x20].fill(0);
        let index = (group as u32).to_le_bytes();
        if checksums {
            let sum = crc(crc(seed, &index), &raw) as u16;
            raw[0x1e..0x20].copy_from_slice(&sum.to_le_bytes());
        } else if read_only & 0x10 != 0 {
            let sum =
                [&uuid[..], &index, &raw[..0x1e], &raw[0x20..]].iter().fold(!0, |sum, data| crc16(sum, data));
            raw[0x1e..0x20].copy_from_slice(&sum.to_le_bytes());
        }
        span.write(at, &raw);
    }
    if compatible & 4 != 0 {
        journals(span, block);
    }
    if checksums {
        let sum = crc(!0, &span.peek(SB, 0x3fc));
        span.write(SB + 0x3fc, &sum.to_le_bytes());
    }
}

fn inodes(span: &mut Span<'_>, table: u64, size: u64, seed: u32) {
    for number in 1..=INODES {
        let at = table.saturating_add((number - 1) * size);
        let mut raw = span.peek(at, size as usize);
        if raw.iter().all(|byte| *byte == 0) {
            continue;
        }
        let wide = size > 128 && raw[0x80..0x82] != [0, 0];
        raw[0x7c..0x7e].fill(0);
        if wide {
            raw[0x82..0x84].fill(0);
        }
        let sum = crc(crc(seed, &(number as u32).to_le_bytes()), &raw[0x64..0x68]);
        let sum = crc(sum, &raw);
        raw[0x7c..0x7e].copy_from_slice(&(sum as u16).to_le_bytes());
        if wide {
            raw[0x82..0x84].copy_from_slice(&((sum >> 16) as u16).to_le_bytes());
        }
        span.write(at, &raw);
    }
}

/// The journal's blocks are big-endian and begin with c03b3998 and their type (include/linux/jbd2.h).
fn journals(span: &mut Span<'_>, block: u64) {
    let mut seed = None;
    for page in span.pages() {
        for at in (page..page + 4096).step_by(block.min(4096) as usize) {
            let head = span.peek(at, 12);
            if head[..4] != [0xc0, 0x3b, 0x39, 0x98] {
                continue;
            }
            let mut raw = span.peek(at, block as usize);
            match head[7] {
                // A superblock of version 2 with a checksum.
                4 if raw[0x50] == 4 => {
                    raw[0xfc..0x100].fill(0);
                    seed = Some(crc(!0, &raw[0x30..0x40]));
                    let sum = crc(!0, &raw[..1024]);
                    span.write(at + 0xfc, &sum.to_be_bytes());
                }
                // Descriptor and revocation blocks end with theirs.
                1 | 5 => {
                    let tail = raw.len() - 4;
                    raw[tail..].fill(0);
                    let sum = seed.map(|seed| crc(seed, &raw));
                    sum.into_iter().for_each(|sum| span.write(at + tail as u64, &sum.to_be_bytes()));
                }
                2 => {
                    raw[16..20].fill(0);
                    let sum = seed.map(|seed| crc(seed, &raw));
                    sum.into_iter().for_each(|sum| span.write(at + 16, &sum.to_be_bytes()));
                }
                _ => {}
            }
        }
    }
}

fn crc16(seed: u16, data: &[u8]) -> u16 {
    data.iter().fold(seed, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 != 0 { sum >> 1 ^ 0xa001 } else { sum >> 1 })
    })
}
