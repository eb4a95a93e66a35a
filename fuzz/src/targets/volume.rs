// SPDX-License-Identifier: Apache-2.0
//! LVM2, md and LUKS: the reader alone, the change of UUIDs, then what the layout makes of all disks together.

use std::ops::Range;

use unmoor_images::BlockSource;
use unmoor_images::volume::{luks as luks_reader, lvm as lvm_reader, md as md_reader};

use super::{Answer, check_writes, layout};
use crate::disk::Machine;

/// The readers may speak of more than the disk has, but not beyond all bounds: sums of two addresses must not overflow.
fn check_places<'a>(places: impl IntoIterator<Item = &'a Range<u64>>) {
    for place in places {
        assert!(place.start <= place.end, "{place:x?}");
    }
}

fn both(machine: &Machine, own: Answer) -> Answer {
    let layout = layout::parse(machine);
    Answer { summary: own.summary, details: own.details + &layout.details }
}

pub(crate) fn lvm(machine: &Machine) -> Answer {
    let first: &dyn BlockSource = machine.first();
    if let Ok(ids) = lvm_reader::ids(&[first]) {
        let names: Vec<_> = ids.into_iter().map(|old| (old, "a".repeat(38))).collect();
        if let Ok(renamed) = lvm_reader::change(&[first], &names) {
            let writes: Vec<_> = renamed.writes.into_iter().map(|(_, at, bytes)| (at, bytes)).collect();
            check_writes(&writes, first.size());
        }
    }
    let own = match lvm_reader::probe(machine.first()) {
        Err(error) => Answer::error(&error),
        Ok(None) => Answer::new("nothing", ()),
        Ok(Some(volume)) => {
            check_places(volume.own.iter().chain(&volume.data));
            let summary = match (&volume.doubt, &volume.group) {
                (Some(_), _) => "pv in doubt".to_owned(),
                (None, None) => "pv".to_owned(),
                (None, Some(group)) => {
                    let segments = group.logical.iter().flat_map(|logical| &logical.segments);
                    segments.for_each(|segment| {
                        check_places(&segment.runs().map(|(_, run)| run).collect::<Vec<_>>());
                    });
                    format!("pv {} {} lvs", group.name, group.logical.len())
                }
            };
            Answer::new(summary, volume)
        }
    };
    both(machine, own)
}

pub(crate) fn md(machine: &Machine) -> Answer {
    let disk = machine.first();
    if let Ok(change) = md_reader::change(disk, &[0x5a; 16]) {
        check_writes(&change.writes, disk.size());
    }
    let own = match md_reader::probe(disk) {
        Err(error) => Answer::error(&error),
        Ok(None) => Answer::new("nothing", ()),
        Ok(Some(member)) => {
            check_places(member.own.iter().chain([&member.content]));
            assert!(member.content.end <= disk.size() || member.special.is_some(), "{member:x?}");
            let special = if member.special.is_some() { " special" } else { "" };
            Answer::new(format!("md {} raid{}{special}", member.metadata, member.level), member)
        }
    };
    both(machine, own)
}

pub(crate) fn luks(machine: &Machine) -> Answer {
    if let Ok(change) = luks_reader::change(machine.first(), &[0x5a; 16]) {
        check_writes(&change.writes, machine.first().size());
    }
    match luks_reader::probe(machine.first()) {
        Err(error) => Answer::error(&error),
        Ok(None) => Answer::new("nothing", ()),
        Ok(Some(luks)) => Answer::new(format!("luks{}", luks.version), luks),
    }
}
