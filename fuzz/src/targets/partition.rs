// SPDX-License-Identifier: Apache-2.0
//! Partition tables: read, the gaps between partitions, other identities, and the table rewritten for other disks.

use unmoor_images::partition::identity::{NewIdentity, change};
use unmoor_images::partition::rewrite::{Options, Placement, plan, trailing};
use unmoor_images::partition::{self, PartitionTable, Role, TableKind};
use unmoor_images::{BlockSource, ErrorKind, RangeSet};

use super::{Answer, check_error, check_warnings, check_writes};
use crate::disk::Machine;
use crate::random::Random;

pub(crate) fn parse(machine: &Machine) -> Answer {
    let disk = machine.first();
    let table = match partition::read(disk) {
        Ok(table) => table,
        Err(error) => return Answer::error(&error),
    };
    let summary = match table.kind {
        TableKind::None => "nothing".to_owned(),
        TableKind::Gpt => format!("gpt {}", table.partitions.len()),
        TableKind::Mbr => format!("mbr {}", table.partitions.len()),
    };
    check_table(&table, disk.size());
    check_identities(disk, &table);
    let plans: Vec<_> = options(machine.choices, disk, &table)
        .iter()
        .map(|options| match plan(disk, options) {
            Ok(plan) => {
                let mut places: Vec<_> =
                    plan.writes.iter().map(|(at, data)| *at..*at + data.len() as u64).collect();
                places.sort_by_key(|place| place.start);
                assert!(places.iter().all(|place| place.end <= options.size), "{places:x?} {options:?}");
                assert!(
                    places.array_windows().all(|[one, next]| one.end <= next.start),
                    "{places:x?} {options:?}"
                );
                format!("{plan:?}")
            }
            Err(error) => {
                check_error(&error, &[ErrorKind::Refused, ErrorKind::Usage]);
                error.chain()
            }
        })
        .collect();
    Answer::new(summary, (table, plans))
}

/// Other identities are found where they were written, and nothing else moves.
fn check_identities(disk: &dyn BlockSource, table: &PartitionTable) {
    let fresh = |number: u32| [number as u8; 16];
    let new = match table.kind {
        TableKind::Gpt => {
            let partitions = table.partitions.iter().map(|one| (one.number, fresh(one.number))).collect();
            NewIdentity::Gpt { disk: [0x5a; 16], partitions }
        }
        TableKind::Mbr => NewIdentity::Mbr(0x5a5a_5a5a),
        TableKind::None => return,
    };
    match change(disk, &new) {
        Ok(writes) => check_writes(&writes, disk.size()),
        Err(error) => check_error(&error, &[ErrorKind::Refused]),
    }
}

/// Partitions and gaps together are the whole disk, and each lies within it or is warned of.
pub(super) fn check_table(table: &PartitionTable, size: u64) {
    check_warnings(&table.warnings);
    let mut covered = RangeSet::new();
    for partition in table.partitions.iter().filter(|partition| partition.role != Role::Extended) {
        covered.insert(partition.start..partition.start.saturating_add(partition.len));
    }
    for &(start, len) in &table.metadata {
        assert!(start.checked_add(len).is_some_and(|end| end <= size), "{start:#x} {len:#x} of {size:#x}");
    }
    for gap in partition::gaps(table, size) {
        assert!(gap.range.start < gap.range.end && gap.range.end <= size, "{gap:?}");
        covered.insert(gap.range);
    }
    if table.kind != TableKind::None {
        assert_eq!(covered.gaps(size), [], "{table:?}");
    }
}

/// The usual ones, and one at random.
fn options(choices: u64, disk: &dyn BlockSource, table: &PartitionTable) -> Vec<Options> {
    let plain = Options { size: disk.size(), sector_size: disk.sector_size(), ..Options::default() };
    let larger = Options {
        size: disk.size().saturating_mul(2),
        grow_last: true,
        move_to_end: trailing(&table.partitions),
        ..plain.clone()
    };
    let mut random = Random::new(choices);
    let mut place = || Placement {
        number: random.below(6) as u32,
        start: random.once_in(2).then(|| random.below(disk.size().saturating_mul(2))),
        len: random.once_in(2).then(|| random.bits() >> random.below(64)),
    };
    let placements = vec![place()];
    let odd = Options {
        size: random.bits() >> random.below(64),
        sector_size: random.of(&[512, 512, 4096, 4096, 513]),
        grow_last: random.once_in(2),
        move_to_end: (0..random.below(3)).map(|_| random.below(8) as u32).collect(),
        placements: if random.once_in(2) { placements } else { Vec::new() },
    };
    vec![
        plain.clone(),
        larger,
        Options { size: disk.size() / 2, ..plain.clone() },
        Options { sector_size: 4096, ..plain },
        odd,
    ]
}
