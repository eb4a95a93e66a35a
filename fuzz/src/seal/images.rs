// SPDX-License-Identifier: Apache-2.0
//! VHDX's CRC-32C of headers, region tables and log entries; VHD's sums of footers and dynamic header; partclone's CRC-32.

use super::{MOST, Span};

pub(super) fn seal(span: &mut Span<'_>) {
    if span.peek(0, 8) == b"vhdxfile" {
        vhdx(span);
    }
    for footer in [0, span.size.saturating_sub(512), span.size.saturating_sub(511)] {
        if span.peek(footer, 8) == b"conectix" {
            sum(span, footer, 512.min(span.size - footer) as usize, 64);
        }
    }
    for page in span.pages() {
        for at in (page..page + 4096).step_by(512) {
            if span.peek(at, 8) == b"cxsparse" {
                sum(span, at, 1024, 36);
            }
        }
    }
}

fn vhdx(span: &mut Span<'_>) {
    // The log's entries lie on pages; the first MiB has headers and region tables.
    let entries: Vec<u64> = span.pages().into_iter().filter(|at| span.peek(*at, 4) == b"loge").collect();
    for at in entries.into_iter().take(MOST as usize) {
        let len = span.number(at + 8, 4).min(1 << 20) as usize;
        crc(span, at, len);
    }
    for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)] {
        crc(span, at, len);
    }
}

/// The checksum at byte 4.
fn crc(span: &mut Span<'_>, at: u64, len: usize) {
    let mut raw = span.peek(at, len.max(8));
    raw[4..8].fill(0);
    span.write(at + 4, &crc32c::crc32c(&raw).to_le_bytes());
}

/// The complement of the sum of all bytes but its own.
fn sum(span: &mut Span<'_>, at: u64, len: usize, place: usize) {
    let mut raw = span.peek(at, len);
    raw[place..place + 4].fill(0);
    let sum = raw.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
    span.write(at + place as u64, &(!sum).to_be_bytes());
}

/// Bytes of the header, its checksum included.
const PARTCLONE: usize = 110;

pub(super) fn partclone(span: &mut Span<'_>) {
    let header = span.peek(0, PARTCLONE);
    if !header.starts_with(b"partclone-image") || &header[30..34] != b"0002" {
        return;
    }
    // CRC-32 without its final inversion.
    let crc = |raw: &[u8]| (!crc32fast::hash(raw)).to_le_bytes();
    span.write(PARTCLONE as u64 - 4, &crc(&header[..PARTCLONE - 4]));
    let map = span.number(60, 8).div_ceil(8);
    if span.number(105, 1) == 1 && map < 1 << 20 {
        let raw = span.peek(PARTCLONE as u64, map as usize);
        span.write(PARTCLONE as u64 + map, &crc(&raw));
    }
}
