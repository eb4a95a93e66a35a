// SPDX-License-Identifier: Apache-2.0
//! Flipped bytes in real metadata: what is in use stays in the answer, or all of it is, or the answer is a refusal.
//!
//! Only where checksums guard the metadata can a reader know; so the checksums are left broken here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use unmoor_fuzz::damage::change;
use unmoor_fuzz::disk::Machine;
use unmoor_fuzz::random::Random;
use unmoor_fuzz::seeds;
use unmoor_images::layout::{Options, analyze};
use unmoor_images::monitor::Silent;
use unmoor_images::{BlockSource, RangeSet, State};

const ROUNDS: u64 = 1000;

/// The data of each disk, or `None` for a refusal.
fn data(machine: &Machine) -> Option<Vec<RangeSet>> {
    let disks: Vec<&dyn BlockSource> = machine.disks.iter().map(|disk| disk as _).collect();
    let layouts = analyze(&disks, &Options::default(), &Silent).ok()?;
    let sets = layouts.iter().map(|layout| {
        let mut set = RangeSet::new();
        let kept = layout.extents.iter().filter(|extent| extent.state == State::Data);
        kept.for_each(|extent| set.insert(extent.offset..extent.end()));
        set
    });
    Some(sets.collect())
}

fn flipped_bytes_lose_nothing(name: &str) {
    let (target, seed) = name.split_once('/').unwrap();
    let seed = seeds::load(Some(target)).into_iter().find(|have| have.name == seed).unwrap();
    let mut truth = data(&Machine::decode(&seed.data)).unwrap();
    let mut noticed = 0;
    for round in 0..ROUNDS {
        let mut random = Random::new(round);
        let mut machine = Machine::decode(&seed.data);
        let disk = random.index(machine.disks.len());
        let place = change(&mut machine.disks[disk], &mut random);
        // The boot sector of a FAT volume in the place of the table makes another disk, which nobody can tell from a damaged one.
        if name == "layout/gpt" && place.is_some_and(|(_, len)| len >= 512) {
            continue;
        }
        let Some(mut found) = data(&machine) else {
            noticed += 1;
            continue;
        };
        for (truth, found) in truth.iter_mut().zip(&mut found) {
            noticed += u32::from(truth.ranges() != found.ranges());
            for range in truth.ranges() {
                assert!(
                    found.covers(range.clone()),
                    "{name}: {range:x?} is lost by {place:x?}, round {round}"
                );
            }
        }
    }
    println!("{name}: {noticed} of {ROUNDS} changed the answer");
    assert!(noticed > 0);
}

macro_rules! truth {
    ($($test:ident $name:literal;)*) => {
        $(#[test] fn $test() { flipped_bytes_lose_nothing($name); })*
    };
}

truth! {
    flipped_bytes_of_ext4_lose_nothing "ext/ext4-1k";
    flipped_bytes_of_ext4_with_bigalloc_lose_nothing "ext/ext4-bigalloc";
    flipped_bytes_of_ext4_with_meta_bg_lose_nothing "ext/ext4-meta-bg";
    flipped_bytes_of_ext4_with_a_journal_to_replay_lose_nothing "ext/ext4-journal";
    flipped_bytes_of_xfs_lose_nothing "xfs/v5";
    flipped_bytes_of_xfs_trees_lose_nothing "xfs/v5-trees";
    flipped_bytes_of_btrfs_lose_nothing "btrfs/small";
    flipped_bytes_of_btrfs_trees_lose_nothing "btrfs/dup-trees";
    flipped_bytes_of_lvm_lose_nothing "lvm/linear";
    flipped_bytes_of_striped_lvm_lose_nothing "lvm/striped";
    flipped_bytes_of_raid1_lose_nothing "layout/md";
    flipped_bytes_of_gpt_lose_nothing "partition/gpt";
    flipped_bytes_of_a_whole_disk_lose_nothing "layout/gpt";
    flipped_bytes_of_lvm_over_two_disks_lose_nothing "layout/lvm";
}
