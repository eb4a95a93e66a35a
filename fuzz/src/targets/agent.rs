// SPDX-License-Identifier: Apache-2.0
//! What agents send to the server's store, and what it sends to them.

use unmoor_images::BlockSource;
use unmoor_images::manifest::encode_map;
use unmoor_images::merkle;
use unmoor_pxe_boot::client::store::{Frame, read_frames, whole_frames};
use unmoor_pxe_boot::server::store::decode_commit;
use zstd::bulk::Decompressor;

use super::Answer;
use super::files::check_map;
use crate::disk::Machine;

/// Leaves, one behind the other.
pub(crate) fn frames(machine: &Machine) -> Answer {
    let disk = machine.first();
    let bytes = disk.peek(0, disk.size().min(2 << 20) as usize);
    let whole = match whole_frames(&bytes) {
        Ok(whole) => whole,
        Err(error) => {
            assert!(read_frames(&bytes).is_err(), "one of two readers takes it");
            return Answer::error(&error);
        }
    };
    assert_eq!(read_frames(&bytes).is_ok(), whole == bytes.len());
    let frames = read_frames(&bytes[..whole]).expect("they are whole");
    let mut again = Vec::new();
    let mut decompressor = Decompressor::new().unwrap();
    let mut found = Vec::new();
    for frame in &frames {
        frame.write(&mut again).unwrap();
        let mut leaf = vec![0; frame.raw as usize];
        let unpacked = frame.unpack(&mut decompressor, &mut leaf);
        assert!(unpacked.is_err() || merkle::leaf(&leaf) == frame.hash);
        found.push(unpacked.map_err(|error| error.chain()));
    }
    assert!(again == bytes[..whole], "frames come out as others");
    let right = found.iter().filter(|found| found.is_ok()).count();
    let heads: Vec<_> = frames.iter().map(|Frame { hash, raw, packed, .. }| (hash, raw, packed)).collect();
    Answer::new(format!("{right} leaves"), (heads, &found))
}

/// A commit's body.
pub(crate) fn commit(machine: &Machine) -> Answer {
    let disk = machine.first();
    let bytes = disk.peek(0, disk.size().min(1 << 20) as usize);
    match decode_commit(&bytes) {
        Ok((commit, maps)) => {
            assert_eq!(commit.maps.len(), maps.len());
            let mut found = Vec::new();
            for (extents, leaves) in &maps {
                found.push((check_map(extents, leaves), leaves.root(), encode_map(extents, leaves)));
            }
            Answer::new(format!("{} maps", maps.len()), (commit, found))
        }
        Err(error) => Answer::error(&error),
    }
}
