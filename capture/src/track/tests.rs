// SPDX-License-Identifier: Apache-2.0
//! On a real disk of this machine: a loop device, which has requests as any other.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;

use super::*;

pub(crate) struct LoopDevice {
    pub(crate) path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// None, and a line that says so, where there is no right to make one.
    pub(crate) fn new(size: u64) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output();
        match output {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap().trim().to_owned();
                Some(Self { path, _file: file })
            }
            _ => {
                println!("skipped: needs root to set up loop devices");
                None
            }
        }
    }

    pub(crate) fn number(&self) -> u64 {
        fs::metadata(&self.path).unwrap().rdev()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.path]).status();
    }
}

#[test]
fn every_write_is_heard_of_and_the_kernels_own_count_agrees() {
    const SIZE: u64 = 256 << 20;
    let Some(device) = LoopDevice::new(SIZE) else { return };
    let tracker = match Tracker::start(&[Source { number: device.number(), size: SIZE }]) {
        Ok(tracker) => tracker,
        Err(error) => {
            println!("skipped: {}", error.chain());
            return;
        }
    };
    let (folder, _) = tracker.place();
    assert!(tracker.take(0).into_ranges(SIZE).ranges().is_empty());
    let disk = OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open(&device.path).unwrap();
    let mut want = RangeSetOf64K::default();
    // Small, unaligned, large, from several threads; through the page cache and behind it.
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..200u64 {
                    let at = (round * 7919 + thread * 104_729) % (SIZE / 4096 - 64) * 4096;
                    disk.write_all_at(&vec![thread as u8; 4096 * (1 + round as usize % 3)], at).unwrap();
                }
            });
        }
    });
    for thread in 0..4u64 {
        for round in 0..200u64 {
            let at = (round * 7919 + thread * 104_729) % (SIZE / 4096 - 64) * 4096;
            want.insert(at, 4096 * (1 + round % 3));
        }
    }
    tracker.prove().unwrap();
    let mut got = tracker.take(0).into_ranges(SIZE);
    for piece in &want.0 {
        assert!(got.covers(piece * 65536..(piece + 1) * 65536), "piece {piece} was missed");
    }
    assert_eq!(got.bytes(), want.0.len() as u64 * 65536, "nothing else was marked");
    // A discard is one request for many pieces.
    let status =
        Command::new("blkdiscard").args(["-o", "67108864", "-l", "134217728", &device.path]).status();
    if status.is_ok_and(|status| status.success()) {
        let mut got = tracker.take(0).into_ranges(SIZE);
        assert_eq!(got.ranges(), [64 << 20..192 << 20]);
    } else {
        println!("skipped: no blkdiscard, or the loop device's filesystem has no holes");
    }
    tracker.prove().unwrap();
    drop(tracker);
    assert!(!folder.exists(), "the instance is removed");
}

#[derive(Default)]
struct RangeSetOf64K(std::collections::BTreeSet<u64>);

impl RangeSetOf64K {
    fn insert(&mut self, at: u64, len: u64) {
        self.0.extend(at / 65536..=(at + len - 1) / 65536);
    }
}
