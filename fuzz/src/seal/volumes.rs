// SPDX-License-Identifier: Apache-2.0
//! LVM2's label, metadata area headers and texts; md superblocks of version 1.

use super::Span;

/// LVM2's CRC: CRC-32 from a seed of its own, without the inversion at the end.
fn crc(data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(data);
    !hasher.finalize()
}

pub(super) fn seal(span: &mut Span<'_>) {
    for sector in [0, 512, 1024, 1536] {
        if span.peek(sector, 8) == b"LABELONE" {
            let sum = crc(&span.peek(sector + 20, 492));
            span.write(sector + 16, &sum.to_le_bytes());
        }
    }
    for page in span.pages() {
        if span.peek(page + 4, 16) == b" LVM2 x[5A%r0N*>" {
            area(span, page);
        }
        // 1.1, 1.2 and 1.0; other pages that begin alike do no harm.
        if span.number(page, 4) == 0xa92b_4efc && span.number(page + 4, 4) == 1 {
            md(span, page);
        }
    }
}

fn area(span: &mut Span<'_>, at: u64) {
    let len = span.number(at + 32, 8);
    let (offset, size) = (span.number(at + 40, 8), span.number(at + 48, 8));
    if size <= 32 << 20 && offset <= len {
        let first = size.min(len - offset);
        let mut text = span.peek(at.saturating_add(offset), first as usize);
        text.extend(span.peek(at + 512, (size - first) as usize));
        let sum = crc(&text);
        span.write(at + 56, &sum.to_le_bytes());
    }
    let sum = crc(&span.peek(at + 4, 508));
    span.write(at, &sum.to_le_bytes());
}

pub(crate) fn md(span: &mut Span<'_>, at: u64) {
    let roles = span.number(at + 220, 4).min(1920);
    span.write(at + 216, &[0; 4]);
    let raw = span.peek(at, 256 + roles as usize * 2);
    let mut sum = 0u64;
    for word in raw.chunks(4) {
        sum += word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    span.write(at + 216, &sum.to_le_bytes());
}
