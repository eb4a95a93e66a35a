// SPDX-License-Identifier: Apache-2.0
//! GPT: the checksum of the entries, then that of the header, in both copies (UEFI 2.10, 5.3.2).

use unmoor_images::BlockSource;

use super::Span;

pub(super) fn seal(span: &mut Span<'_>) {
    let sector = u64::from(span.disk.sector_size());
    let last = (span.size / sector).saturating_sub(1) * sector;
    for header in [sector, last] {
        if span.peek(header, 8) != b"EFI PART" {
            continue;
        }
        let entries = span.number(header + 72, 8).saturating_mul(sector);
        let len = span.number(header + 80, 4).saturating_mul(span.number(header + 84, 4));
        if len <= 4 << 20 {
            let sum = crc32fast::hash(&span.peek(entries, len as usize));
            span.write(header + 88, &sum.to_le_bytes());
        }
        let size = span.number(header + 12, 4).min(sector);
        span.write(header + 16, &[0; 4]);
        let sum = crc32fast::hash(&span.peek(header, size as usize));
        span.write(header + 16, &sum.to_le_bytes());
    }
}
