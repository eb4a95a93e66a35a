// SPDX-License-Identifier: Apache-2.0
//! The bounds, and structures that lead in a circle. Whose the blocks are is compared with e2fsprogs in the binary's tests.

use std::fs;
use std::time::Instant;

use super::{Affected, Disks, Limits, affected};
use crate::adapt::Memory;
use crate::formats::partclone::tests::{run, text};
use crate::layout::{self, DiskLayout};
use crate::monitor::Silent;
use crate::{BlockSource, Error, Extent, RangeSet, Result};

const MIB: u64 = 1 << 20;

/// An ext4 of 16 MiB with 60 files.
fn disk() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = (dir.path().join("content"), dir.path().join("disk"));
    for number in 0..60 {
        let folder = content.join(format!("d{}", number % 4));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("f{number}")), format!("{number} ").repeat(4000)).unwrap();
    }
    fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    run("e2fsprogs", "mke2fs", &["-q", "-F", "-t", "ext4", "-d", text(&content), text(&path)]);
    fs::read(&path).unwrap()
}

/// A disk of which a part cannot be read.
struct Hurt<'a>(&'a dyn BlockSource, RangeSet);

impl BlockSource for Hurt<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + buf.len() as u64;
        if self.1.clone().ranges().iter().any(|range| range.start < end && offset < range.end) {
            return Err(Error::new(crate::ErrorKind::Mismatch, "reading").because("damaged"));
        }
        self.0.read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.extent_at(offset, len)
    }
}

fn layouts(bytes: &[u8]) -> Vec<DiskLayout> {
    let disk = Memory::new(bytes.to_vec());
    let options = layout::Options { all: false, hibernated: layout::Hibernated::Keep };
    layout::analyze(&[&disk], &options, &Silent).unwrap()
}

fn look(
    bytes: &[u8],
    layouts: &[DiskLayout],
    ranges: &[std::ops::Range<u64>],
    limits: &Limits,
) -> Vec<Affected> {
    let mut set = RangeSet::new();
    ranges.iter().for_each(|range| set.insert(range.clone()));
    let memory = Memory::new(bytes.to_vec());
    let disk = Hurt(&memory, set.clone());
    let disks = Disks { sources: &[&disk], layouts };
    affected(&disks, &mut [set], limits, &Silent).unwrap()
}

const ALL: Limits = Limits { files: 1000, until: None };

#[test]
fn files_are_counted_beyond_the_limit_and_a_walk_out_of_time_says_so() {
    let bytes = disk();
    let layouts = layouts(&bytes);
    // Behind the inode tables; before them, names could not be read.
    let free_of_tables = [4 * MIB..16 * MIB];
    let all = look(&bytes, &layouts, &free_of_tables, &ALL);
    let [all] = all.as_slice() else { panic!("{all:?}") };
    assert!(all.incomplete.is_none() && all.bytes == 12 * MIB && all.free_bytes > 8 * MIB, "{all:?}");
    let whole = look(&bytes, &layouts, &[0..16 * MIB], &ALL);
    assert!(whole[0].incomplete.is_some(), "{whole:?}");
    let mut nothing = RangeSet::new();
    let memory = Memory::new(bytes.clone());
    let disks = Disks { sources: &[&memory], layouts: &layouts };
    assert_eq!(affected(&disks, &mut [nothing.clone()], &ALL, &Silent).unwrap(), []);
    nothing.insert(0..16 * MIB);
    // All of it, while it can be read: every file and directory is named once.
    let every = affected(&disks, &mut [nothing.clone()], &ALL, &Silent).unwrap();
    assert_eq!(every[0].files.iter().filter(|file| file.path.contains("/f")).count(), 60);
    assert!(every[0].files.iter().all(|file| file.unreadable.is_none() && file.bytes > 0));
    assert_eq!(every[0].files.iter().map(|file| file.bytes).sum::<u64>(), every[0].file_bytes);
    let few = affected(&disks, &mut [nothing.clone()], &Limits { files: 7, until: None }, &Silent).unwrap();
    assert_eq!(few[0].files, every[0].files[..7]);
    assert_eq!(few[0].more + 7, every[0].files.len() as u64);
    let late = Limits { files: 7, until: Some(Instant::now()) };
    let late = affected(&disks, &mut [nothing], &late, &Silent).unwrap();
    assert!(late[0].incomplete.as_ref().unwrap().contains("takes too long"), "{late:?}");
}

#[test]
fn what_damaged_structures_lead_to_ends() {
    let bytes = disk();
    let layouts = layouts(&bytes);
    let mut state = 5u64;
    let mut next = |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    let mut unreadable = 0;
    for _ in 0..40 {
        let mut bad = bytes.clone();
        for _ in 0..60 {
            // Of what comes behind the superblock.
            let at = 4096 + next(3 * MIB) as usize;
            bad[at] ^= 1 << next(8);
        }
        let start = next(15 * MIB);
        let found = look(&bad, &layouts, &[start..start + MIB], &ALL);
        unreadable +=
            found.iter().flat_map(|one| &one.files).filter(|file| file.unreadable.is_some()).count();
    }
    assert!(unreadable > 0);
}
