// SPDX-License-Identifier: Apache-2.0
//! The parsers, and what holds of any answer of theirs.

pub(crate) mod agent;
pub(crate) mod files;
pub(crate) mod filesystem;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod initramfs;
pub(crate) mod layout;
pub(crate) mod nbd;
pub(crate) mod partclone;
pub(crate) mod partition;
pub(crate) mod remote;
pub(crate) mod store;
pub(crate) mod volume;

use std::ops::Range;
use std::path::Path;

use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap};

use crate::disk::Disk;

/// What a parser made of an input.
pub(crate) struct Answer {
    /// A few words.
    pub(crate) summary: String,
    /// All of it, for comparing two runs.
    pub(crate) details: String,
}

impl Answer {
    fn new(summary: impl Into<String>, details: impl std::fmt::Debug) -> Self {
        Self { summary: summary.into(), details: format!("{details:?}") }
    }

    fn error(error: &Error) -> Self {
        check_error(error, &[]);
        Self { summary: "error".into(), details: error.chain() }
    }
}

/// Bytes of disks may cause these kinds of errors, and those that the caller adds.
fn check_error(error: &Error, more: &[ErrorKind]) {
    let chain = error.chain();
    let kinds = [ErrorKind::Malformed, ErrorKind::Unsupported, ErrorKind::Mismatch];
    assert!(kinds.contains(&error.kind()) || more.contains(&error.kind()), "{:?}: {chain}", error.kind());
    assert!(chain.len() < 4096, "an error of {} bytes: {chain}", chain.len());
}

/// Warnings are for people: few and short.
fn check_warnings(warnings: &[String]) {
    assert!(warnings.len() <= 1000, "{} warnings", warnings.len());
    for warning in warnings {
        assert!(warning.len() < 4096, "a warning of {} bytes: {warning}", warning.len());
    }
}

/// Within `size`, and no more than a filesystem's headers are.
fn check_writes(writes: &[(u64, Vec<u8>)], size: u64) {
    for (at, bytes) in writes {
        assert!(at.checked_add(bytes.len() as u64).is_some_and(|end| end <= size), "{at:#x} of {size:#x}");
    }
}

/// Ascending, disjoint, not empty, within `size`.
fn check_ranges(ranges: &[Range<u64>], size: u64) {
    let mut before = None;
    for range in ranges {
        assert!(range.start < range.end && range.end <= size, "{range:x?} of {size:#x}");
        assert!(before.is_none_or(|end| end < range.start), "{range:x?} follows {before:x?}");
        before = Some(range.end);
    }
}

/// Every byte of 0..`size` has one state, and neighbours differ.
fn check_extents(map: &ExtentMap, size: u64) {
    assert_eq!(map.size(), size);
    let mut at = 0;
    let mut state = None;
    for extent in map.iter() {
        assert!(
            extent.offset == at && extent.len > 0 && state != Some(extent.state),
            "{extent:x?} at {at:#x}"
        );
        at = extent.end();
        state = Some(extent.state);
    }
    assert_eq!(at, size);
}

/// A folder for files that a parser takes by name, in memory where there is such a place.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The disk as a sparse file.
fn file_of(disk: &Disk, path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(disk.size()).unwrap();
    for page in disk.pages() {
        let len = 4096.min(disk.size() - page * 4096) as usize;
        file.write_all_at(&disk.peek(page * 4096, len), page * 4096).unwrap();
    }
}
