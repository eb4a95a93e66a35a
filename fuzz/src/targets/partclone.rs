// SPDX-License-Identifier: Apache-2.0
//! partclone's images: header, map of used blocks, and the stream of blocks with their checksums.

use unmoor_images::formats::partclone::PartcloneSource;
use unmoor_images::source::BlockSource;
use unmoor_images::{ErrorKind, Result};

use super::{Answer, check_error};
use crate::disk::Machine;

/// Most bytes of an image that are looked at.
const MOST: u64 = 4 << 20;
/// Bytes that are read of the filesystem in it, from its beginning and at a place that the input chooses.
const READ: u64 = 1 << 20;

pub(crate) fn parse(machine: &Machine) -> Answer {
    let disk = machine.first();
    let image = match PartcloneSource::of_bytes(disk.peek(0, disk.size().min(MOST) as usize)) {
        Ok(image) => image,
        Err(error) => return failed("error", &error),
    };
    let size = image.size();
    assert!(size <= 1 << 50 && image.used_bytes() <= size.saturating_add(image.header().block_size.into()));
    let mut at = 0;
    while at < size.min(READ) {
        let known = image.extent_at(at, size - at).expect("every place has a state");
        assert!(known.offset == at && known.len > 0 && known.len <= size - at, "{known:x?} at {at:#x}");
        at += known.len;
    }
    let summary = |state: &str| {
        let header = image.header();
        format!("{} of version {}, {state}", header.filesystem.escape_debug(), header.version)
    };
    match read(&image, size, machine.choices) {
        Ok(hash) => Answer::new(summary("read"), (summary(""), hash, size)),
        Err(error) => failed(&summary("damaged"), &error),
    }
}

/// From the beginning, from another place, and what lies before that once more.
fn read(image: &PartcloneSource, size: u64, choices: u64) -> Result<String> {
    let place = if size == 0 { 0 } else { choices % size };
    let mut hasher = blake3::Hasher::new();
    let mut bytes = vec![0; 64 << 10];
    for (start, len) in [(0, READ), (place, 64 << 10), (place.saturating_sub(100_000), 4096)] {
        let mut at = start;
        while at < size.min(start + len) {
            let part = (size - at).min(bytes.len() as u64) as usize;
            image.read_at(&mut bytes[..part], at)?;
            hasher.update(&bytes[..part]);
            at += part as u64;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// What cannot be unpacked is the unpacker's error.
fn failed(summary: &str, error: &unmoor_images::Error) -> Answer {
    check_error(error, &[ErrorKind::Io]);
    Answer { summary: summary.to_owned(), details: error.chain() }
}
