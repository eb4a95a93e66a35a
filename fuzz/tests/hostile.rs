// SPDX-License-Identifier: Apache-2.0
//! Disks that somebody made to keep a reader busy: much to do for few bytes. No random damage finds these.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fmt::Write;

use unmoor_fuzz::disk::{Disk, Machine};
use unmoor_fuzz::{Target, seal, seeds};
use unmoor_images::BlockSource;

fn seed(target: &str, name: &str) -> Machine {
    let seed = seeds::load(Some(target)).into_iter().find(|seed| seed.name == name).unwrap();
    Machine::decode(&seed.data)
}

fn put(disk: &mut Disk, at: u64, number: u64, len: usize) {
    disk.write(at, &number.to_le_bytes()[..len]);
}

/// What the layout of it is, within the bounds that hold for all targets.
fn layout(mut machine: Machine) -> String {
    seal::everything(&mut machine);
    let outcome = Target::named("layout").unwrap().run_machine(&machine);
    outcome.summary
}

/// The ext4 of layout/gpt, claimed by `count` partitions that begin within `step` sectors of each other.
fn gpt(count: u64, kind: Option<[u8; 16]>, step: u64) -> Machine {
    let mut machine = seed("layout", "gpt");
    let disk = &mut machine.disks[0];
    let entry = disk.peek(1024 + 128, 128);
    let start = disk.number(1024 + 128 + 32, 8);
    let mut entries = entry.repeat(count as usize);
    for (index, entry) in entries.chunks_exact_mut(128).enumerate() {
        let first = start + index as u64 * step;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        if step > 0 {
            entry[40..48].copy_from_slice(&(first + step - 1).to_le_bytes());
        }
        if let Some(kind) = kind {
            entry[..16].copy_from_slice(&kind);
        }
    }
    // The backup's entries would lie in a partition; its header is gone.
    let last = disk.size() - 512;
    disk.write(last, &[0; 512]);
    let place = 40 << 20;
    disk.write(place, &entries);
    put(disk, 512 + 72, place / 512, 8);
    put(disk, 512 + 80, count, 4);
    machine
}

#[test]
fn thousands_of_partitions_over_one_filesystem_are_not_each_walked() {
    assert_eq!(layout(gpt(30_000, None, 0)), "none: unknown");
    let few = layout(gpt(900, None, 0));
    assert!(few.starts_with("gpt: boot ext4 ext4") && few.contains("ext4 (whole)"), "{few:.200}");
}

#[test]
fn thousands_of_warnings_are_not_compared_with_each_other() {
    // Windows' dynamic disk data: each a reason to warn.
    let dynamic =
        [0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a, 0x69, 0xad];
    assert_eq!(layout(gpt(30_000, Some(dynamic), 1)), "none: unknown");
    assert!(layout(gpt(900, Some(dynamic), 1)).starts_with("gpt: boot unknown unknown"));
}

/// The physical volume of lvm/linear with another text.
fn lvm(text: impl Fn(&str) -> String) -> Machine {
    let mut machine = seed("lvm", "linear");
    let disk = &mut machine.disks[0];
    let area = 4096;
    let (offset, len) = (disk.number(area + 40, 8), disk.number(area + 48, 8));
    let old = String::from_utf8(disk.peek(area + offset, len as usize)).unwrap();
    let new = text(old.trim_end_matches('\0'));
    let size = 24 << 20;
    // The only metadata area, in the PV header and in its own.
    let label = 512;
    let at =
        (label..label + 512).step_by(8).find(|at| disk.number(*at, 8) == area && disk.number(at + 8, 8) > 0);
    put(disk, at.unwrap() + 8, size, 8);
    put(disk, area + 32, size, 8);
    put(disk, area + 40, 512, 8);
    put(disk, area + 48, new.len() as u64, 8);
    disk.write(area + 512, new.as_bytes());
    machine
}

/// `count` logical volumes; each is all of the text that `segment` says.
fn volumes(count: usize, segment: &str) -> String {
    let mut text = String::new();
    for index in 0..count {
        let _ = write!(
            text,
            "v{index} {{\nid = \"i{index}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = 1\nsegment1 {{\n\
             start_extent = 0\nextent_count = 2\n{segment}\n}}\n}}\n"
        );
    }
    text
}

fn with_volumes(old: &str, volumes: &str) -> String {
    let start = old.find("logical_volumes {").unwrap() + "logical_volumes {".len();
    format!("{}\n{volumes}\n}}\n}}\n", &old[..start])
}

#[test]
fn thousands_of_logical_volumes_on_the_same_extents_are_not_each_walked() {
    let same = "type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 0]";
    let found = layout(lvm(|old| with_volumes(old, &volumes(20_000, same))));
    assert_eq!(found.split(' ').count(), 20_002, "{found:.200}");
}

#[test]
fn thousands_of_odd_logical_volumes_give_few_warnings() {
    let odd = "type = \"odd\"";
    let found = layout(lvm(|old| with_volumes(old, &volumes(30_000, odd))));
    assert_eq!(found.split(' ').count(), 30_002, "{found:.200}");
}

#[test]
fn a_name_of_megabytes_is_not_repeated_for_each_logical_volume() {
    let odd = "type = \"odd\"";
    let long = "n".repeat(1 << 20);
    layout(lvm(|old| with_volumes(old, &volumes(5000, odd)).replacen("vg0", &long, 1)));
    layout(lvm(|old| with_volumes(old, &volumes(5000, odd).replacen("v7 ", &format!("{long} "), 1))));
    layout(lvm(|old| with_volumes(old, &volumes(20, &format!("type = \"{long}\"")))));
}
