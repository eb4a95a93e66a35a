// SPDX-License-Identifier: Apache-2.0
//! exFAT's boot checksum, and the fixups that end each sector of an NTFS record.

use super::Span;

pub(super) fn exfat(span: &mut Span<'_>) {
    let sector = 1u64 << span.number(108, 1).clamp(9, 12);
    let region = span.peek(0, 11 * sector as usize);
    let mut sum = 0u32;
    for (at, byte) in region.iter().enumerate() {
        if !matches!(at, 106 | 107 | 112) {
            sum = sum.rotate_right(1).wrapping_add(u32::from(*byte));
        }
    }
    span.write(11 * sector, &sum.to_le_bytes().repeat(sector as usize / 4));
}

pub(super) fn ntfs(span: &mut Span<'_>) {
    for page in span.pages() {
        for at in (page..page + 4096).step_by(1024) {
            if !matches!(&*span.peek(at, 4), b"FILE" | b"INDX" | b"RSTR") {
                continue;
            }
            let place = span.number(at + 4, 2).min(1000);
            let count = span.number(at + 6, 2).clamp(1, 9);
            let mark = span.peek(at + place, 2);
            for sector in 1..count {
                span.write(at + sector * 512 - 2, &mark);
            }
        }
    }
}
