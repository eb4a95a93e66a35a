// SPDX-License-Identifier: Apache-2.0
//! XFS version 5: superblocks, AG headers and the blocks of short B-trees (fs/xfs/libxfs/xfs_format.h).

use super::Span;

/// By magic: where the checksum is, and whether it covers a sector or a block.
const STRUCTURES: [(&[u8; 4], u64, bool); 8] = [
    (b"XFSB", 224, true),
    (b"XAGF", 216, true),
    (b"XAGI", 312, true),
    (b"AB3B", 52, false),
    (b"AB3C", 52, false),
    (b"IAB3", 52, false),
    (b"FIB3", 52, false),
    (b"RMB3", 52, false),
];

pub(super) fn seal(span: &mut Span<'_>) {
    let big = |at| u64::from(u32::from_be_bytes(span.peek(at, 4).try_into().unwrap()));
    let block = big(4).clamp(512, 65536);
    let sector = (big(100) & 0xffff).clamp(512, 32768);
    for page in span.pages() {
        for at in (page..page + 4096).step_by(512) {
            let magic = span.peek(at, 4);
            let Some((_, field, small)) = STRUCTURES.iter().find(|(known, ..)| known[..] == magic) else {
                continue;
            };
            let mut raw = span.peek(at, if *small { sector } else { block } as usize);
            let field = *field as usize;
            if field + 4 > raw.len() {
                continue;
            }
            raw[field..field + 4].fill(0);
            let sum = crc32c::crc32c(&raw);
            span.write(at + field as u64, &sum.to_le_bytes());
        }
    }
}
