// SPDX-License-Identifier: Apache-2.0
//! unmoor's own files, which somebody else may have written: map, manifest, record of a restore.

use unmoor_images::manifest::{Manifest, decode_map};
use unmoor_images::merkle::Leaves;
use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap, LEAF};
use unmoor_restore::record::RestoreRecord;

use super::{Answer, check_error, check_extents, file_of, folder};
use crate::disk::Machine;

/// The name that the seeds' record has for its map.
pub(crate) const RECORD: &str = "restored.raw.unmoor-record.json";

pub(crate) fn map(machine: &Machine) -> Answer {
    let disk = machine.first();
    let bytes = disk.peek(0, disk.size().min(1 << 20) as usize);
    match decode_map(&bytes) {
        Ok((extents, leaves)) => Answer::new("map", (check_map(&extents, &leaves), extents, leaves.root())),
        // What ends too soon is the reader's error.
        Err(error) => failed(&error, &[ErrorKind::Io]),
    }
}

pub(crate) fn check_map(extents: &ExtentMap, leaves: &Leaves) -> usize {
    check_extents(extents, leaves.size());
    assert_eq!(leaves.count(), leaves.size().div_ceil(LEAF));
    let mut next = 0;
    let mut runs = 0;
    for (first, count, _) in leaves.runs() {
        assert!(first == next && count > 0);
        next += count;
        runs += 1;
    }
    assert_eq!(next, leaves.count());
    runs
}

pub(crate) fn manifest(machine: &Machine) -> Answer {
    let folder = folder();
    let path = folder.path().join("web01.unmoor.json");
    file_of(machine.first(), &path);
    match Manifest::read(&path) {
        Ok(manifest) => {
            // A map's name must not lead out of the folder; there is no map here, so reading it cannot succeed.
            for disk in &manifest.disks {
                let error = disk.read_map(folder.path()).unwrap_err();
                check_error(&error, &[ErrorKind::Io]);
            }
            Answer::new("manifest", manifest)
        }
        Err(error) => failed(&error, &[]),
    }
}

pub(crate) fn record(machine: &Machine) -> Answer {
    let folder = folder();
    let path = folder.path().join(RECORD);
    file_of(machine.first(), &path);
    if let Some(map) = machine.disks.get(1) {
        file_of(map, &path.with_extension("map"));
    }
    match RestoreRecord::read(&path) {
        Ok((record, extents, leaves)) => {
            assert_eq!(record.size, extents.size());
            check_map(&extents, &leaves);
            Answer::new("record", (record, extents, leaves.root()))
        }
        Err(error) => failed(&error, &[ErrorKind::Io]),
    }
}

/// The folder's name, another each time, may stand in it.
fn failed(error: &Error, more: &[ErrorKind]) -> Answer {
    check_error(error, more);
    Answer { summary: "error".into(), details: format!("{:?}", error.kind()) }
}
