// SPDX-License-Identifier: Apache-2.0
//! btrfs with CRC-32C: superblocks, and every node, known by the filesystem's UUID at its place in a node's header.

use super::Span;

const SUPERBLOCKS: [u64; 3] = [0x1_0000, 0x400_0000, 0x40_0000_0000];

pub(super) fn seal(span: &mut Span<'_>) {
    let first = SUPERBLOCKS[0];
    if span.number(first + 0xc4, 2) != 0 {
        return;
    }
    let node = span.number(first + 0x94, 4).clamp(4096, 65536);
    // With the feature metadata_uuid the nodes have the other one.
    let fsid = if span.number(first + 0xbc, 8) & 1 << 10 != 0 {
        span.peek(first + 0x23b, 16)
    } else {
        span.peek(first + 0x20, 16)
    };
    for page in span.pages() {
        let len = if SUPERBLOCKS.contains(&page) {
            4096
        } else if span.peek(page + 0x20, 16) == fsid {
            node
        } else {
            continue;
        };
        let sum = crc32c::crc32c(&span.peek(page + 0x20, len as usize - 0x20));
        span.write(page, &sum.to_le_bytes());
    }
}
