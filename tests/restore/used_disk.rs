// SPDX-License-Identifier: Apache-2.0
//! The promise as a whole: a restored disk is the source's, whatever the target was before.

use std::fs::File;

use crate::disks::Scene;
use crate::past;
use crate::support::{Loop, can_loop, checked, files, flip, run, signatures, text};

#[test]
fn a_disk_with_a_past_shows_and_holds_only_what_was_restored() {
    if !can_loop() {
        return;
    }
    let scene = Scene::new();
    let source = scene.gpt("source.raw", &[("ext4", 24), ("xfs", 64), ("btrfs", 128), ("swap", 8)], 40);
    let image = source.captured("image.qcow2");
    let target = scene.path("target.raw");
    let places: Vec<_> = source.parts.iter().map(|(_, place)| *place).collect();
    past::disk(&target, source.size(), &places);
    {
        let device = Loop::new(&target, &[]);
        run(&["restore", "--yes", text(&image), text(device.path())]).expect(0).says(&["exact"]);
        run(&["verify", text(&image), text(device.path())]).expect(0);
    }
    let (old, new) = (Loop::new(&source.path, &[]), Loop::new(&target, &[]));
    assert_eq!(signatures(new.path()), signatures(old.path()));
    drop((old, new));
    for (kind, place) in &source.parts {
        // One after the other: the kernel takes two btrfs of one UUID for one.
        let look = |disk| {
            let device = Loop::part(disk, *place);
            let found = if *kind == "swap" { Default::default() } else { files(device.path(), kind) };
            (signatures(device.path()), checked(device.path(), kind), found)
        };
        assert_eq!(look(&target), look(&source.path), "{kind}");
    }
    // One byte of one file, of the ext4's superblock and of the table: each is found, and its place is named.
    let pairs = [(source.part("ext4").0 + 1024 + 120, "partition 1"), (600, "")];
    for (at, place) in pairs {
        flip(&target, at);
        let device = Loop::new(&target, &[]);
        let found = run(&["verify", "--json", text(&image), text(device.path())]).code;
        assert_eq!(found, Some(1), "a byte at {at}");
        run(&["verify", text(&image), text(device.path())]).expect(1).says(&["damaged", place]);
        drop(device);
        flip(&target, at);
    }
    // What no filesystem uses stays as it was, unless it is to be wiped.
    let count = || {
        let bytes = std::fs::read(&target).unwrap();
        bytes.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0xA5)).count()
    };
    assert!(count() > 20_000, "{}", count());
    let device = Loop::new(&target, &[]);
    run(&["restore", "--yes", "--wipe", text(&image), text(device.path())]).expect(0);
    run(&["verify", text(&image), text(device.path())]).expect(0);
    drop(device);
    File::open(&target).unwrap().sync_all().unwrap();
    assert_eq!(count(), 0);
}
