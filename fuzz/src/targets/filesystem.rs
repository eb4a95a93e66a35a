// SPDX-License-Identifier: Apache-2.0
//! Filesystems, through the one door: `probe`, then `used`; and the change of their UUIDs.

use unmoor_images::filesystem::{Condition, FilesystemFacts, identity, probe, used};
use unmoor_images::{BlockSource, Error};

use super::{Answer, check_ranges, check_warnings, check_writes};
use crate::disk::Machine;

pub(crate) fn parse(machine: &Machine) -> Answer {
    let disk = machine.first();
    if let Ok(change) = identity::change(disk, &[0x5a; 16]) {
        check_writes(&change.writes, disk.size());
    }
    match probe(disk) {
        Ok(Some(facts)) => ranges(disk, &facts).unwrap_or_else(|error| {
            let mut answer = Answer::error(&error);
            answer.summary = format!("{} error", facts.kind.name());
            answer
        }),
        Ok(None) => Answer::new("nothing", ()),
        Err(error) => Answer::error(&error),
    }
}

fn ranges(disk: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Answer, Error> {
    assert!(facts.features.len() < 200);
    assert!(facts.label.as_ref().is_none_or(|label| label.len() < 2048));
    let mut used = used(disk, facts)?;
    check_ranges(used.ranges.ranges(), disk.size());
    check_warnings(&used.warnings);
    let mut summary = facts.kind.name().to_owned();
    match facts.condition {
        Condition::Clean => {}
        Condition::Dirty(_) => summary += " dirty",
        Condition::Hibernated(_) => summary += " hibernated",
    }
    if used.everything_because.is_some() {
        assert!(used.ranges.covers(0..disk.size()), "everything, but {:?}", used.ranges.ranges());
        summary += " whole";
    }
    Ok(Answer::new(summary, (facts, used)))
}
