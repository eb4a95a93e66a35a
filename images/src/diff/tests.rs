// SPDX-License-Identifier: Apache-2.0
//! Partitions that moved, disks that grew, and structures that lead in a circle. What the files of real changes are is compared with
//! the kernel's view in the binary's tests.

use std::fs;
use std::path::Path;

use super::{Change, Difference, Image, What, diff};
use crate::adapt::Memory;
use crate::formats::partclone::tests::{run, text};
use crate::layout::{self, DiskLayout};
use crate::merkle::{self, Leaves};
use crate::monitor::Silent;
use crate::{BlockSource, LEAF};

const MIB: usize = 1 << 20;

/// A disk of `mib` MiB whose only partition, an ext4 filled from `content`, begins at MiB `start`.
fn disk(dir: &Path, mib: usize, start: usize, content: &Path) -> Vec<u8> {
    let (path, part) = (dir.join("disk"), dir.join("part"));
    for (path, len) in [(&path, mib), (&part, 16)] {
        let _ = fs::remove_file(path);
        fs::File::create(path).unwrap().set_len((len * MIB) as u64).unwrap();
    }
    let place = format!("1:{}:+16M", start * 2048);
    run("gdisk", "sgdisk", &["-U", "11111111-2222-3333-4444-555555555555", "-n", &place, text(&path)]);
    let options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-U",
        "99999999-2222-3333-4444-555555555555",
        "-E",
        "hash_seed=99999999-2222-3333-4444-555555555555",
        "-d",
    ];
    run("e2fsprogs", "mke2fs", &[&options[..], &[text(content), text(&part)]].concat());
    let mut bytes = fs::read(&path).unwrap();
    bytes[start * MIB..(start + 16) * MIB].copy_from_slice(&fs::read(&part).unwrap());
    bytes
}

struct Taken {
    disk: Memory,
    layouts: Vec<DiskLayout>,
    leaves: Leaves,
}

fn take(bytes: Vec<u8>) -> Taken {
    let pairs = bytes.chunks(LEAF as usize).zip(0..).map(|(chunk, index)| (index, merkle::leaf(chunk)));
    let leaves = Leaves::from_pairs(bytes.len() as u64, pairs.collect()).unwrap();
    let disk = Memory::new(bytes);
    let layouts = layout::analyze(&[&disk], &layout::Options::default(), &Silent).unwrap();
    Taken { disk, layouts, leaves }
}

fn compare(one: &Taken, two: &Taken) -> Vec<Difference> {
    let mut found = Vec::new();
    let disks: [&[&dyn BlockSource]; 2] = [&[&one.disk], &[&two.disk]];
    let before = Image { disks: disks[0], layouts: &one.layouts, leaves: &[&one.leaves] };
    let after = Image { disks: disks[1], layouts: &two.layouts, leaves: &[&two.leaves] };
    diff(&before, &after, &Silent, &mut |difference| {
        found.push(difference);
        Ok(())
    })
    .unwrap();
    found
}

fn changes(found: &[Difference]) -> Vec<(String, &Change)> {
    let files = found.iter().filter_map(|one| match one {
        Difference::File(file) => Some((String::from_utf8_lossy(&file.path).into_owned(), &file.change)),
        _ => None,
    });
    files.collect()
}

#[test]
fn a_partition_that_moved_on_a_disk_that_grew_is_compared_by_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    fs::create_dir_all(content.join("etc")).unwrap();
    fs::write(content.join("etc/a"), "a".repeat(100_000)).unwrap();
    fs::write(content.join("b"), "b").unwrap();
    let one = take(disk(dir.path(), 24, 1, &content));
    assert_eq!(compare(&one, &one), []);
    fs::write(content.join("etc/a"), "a".repeat(99_999) + "b").unwrap();
    let two = take(disk(dir.path(), 40, 20, &content));
    let found = compare(&one, &two);
    let files = changes(&found);
    // mke2fs takes the times of the files, and of what it makes itself the clock's.
    let content: Vec<_> = files
        .iter()
        .filter(|(_, change)| matches!(change, Change::Changed { what, .. } if what.contains(&What::Content)))
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(content, ["/etc/a"], "{files:?}");
    assert!(!files.iter().any(|(_, change)| !matches!(change, Change::Changed { .. })), "{files:?}");
    assert!(found.iter().any(|one| matches!(one, Difference::Extents { .. })), "the table moved");
}

#[test]
fn damaged_directories_are_told_and_the_walk_ends() {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    (0..30)
        .for_each(|number| fs::create_dir_all(content.join(format!("d{}/e{number}", number % 5))).unwrap());
    (0..30).for_each(|number| fs::write(content.join(format!("d{}/f{number}", number % 5)), "x").unwrap());
    let bytes = disk(dir.path(), 20, 1, &content);
    let one = take(bytes.clone());
    let mut state = 3u64;
    let mut unreadable = 0;
    for _ in 0..40 {
        let mut bad = bytes.clone();
        for _ in 0..60 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Of the first 2 MiB of the filesystem, where inodes and directories are; its superblock stays.
            let at = MIB + 4096 + (state >> 33) as usize % (2 * MIB);
            bad[at] ^= 1 << (state % 8);
        }
        let two = Taken { layouts: one.layouts.clone(), ..take(bad) };
        let found = compare(&one, &two);
        unreadable += found
            .iter()
            .filter(
                |one| matches!(one, Difference::File(file) if matches!(file.change, Change::Unreadable(_))),
            )
            .count();
    }
    assert!(unreadable > 0, "no damage was told");
}
