// SPDX-License-Identifier: Apache-2.0
//! All readers together: `layout::analyze` of all disks.

use unmoor_images::layout::{Content, DiskLayout, Hibernated, Kept, Options, Place, analyze};
use unmoor_images::monitor::Silent;
use unmoor_images::{BlockSource, ErrorKind, State};

use super::{Answer, check_error, check_extents, check_warnings};
use crate::disk::Machine;

pub(crate) fn parse(machine: &Machine) -> Answer {
    let disks: Vec<&dyn BlockSource> = machine.disks.iter().map(|disk| disk as _).collect();
    match analyze(&disks, &options(machine.choices), &Silent) {
        Ok(layouts) => {
            assert_eq!(layouts.len(), disks.len());
            for (layout, disk) in layouts.iter().zip(&disks) {
                check(layout, disk.size());
            }
            let words: Vec<_> = layouts.iter().map(words).collect();
            Answer::new(words.join("; "), layouts)
        }
        Err(error) => {
            // The only error: a suspended system.
            check_error(&error, &[ErrorKind::Refused]);
            assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
            Answer::new("suspended", error.chain())
        }
    }
}

/// What the low bits of the machine's choices mean.
pub(crate) fn options(choices: u64) -> Options {
    let hibernated = match choices >> 1 & 3 {
        0 | 3 => Hibernated::Refuse,
        1 => Hibernated::Keep,
        _ => Hibernated::Discard,
    };
    Options { all: choices & 1 == 1, hibernated }
}

fn check(layout: &DiskLayout, size: u64) {
    check_extents(&layout.extents, size);
    check_warnings(&layout.warnings);
    super::partition::check_table(&layout.table, size);
    for (at, patch) in &layout.patches {
        let end = at + patch.len() as u64;
        let data = layout.extents.within(*at..end).all(|extent| extent.state == State::Data);
        assert!(end <= size && data, "a patch at {at:#x} outside of data");
    }
    for region in layout.all_regions() {
        let (offset, len) = match &region.place {
            Place::Disk { offset, len, .. } | Place::Md { offset, len, .. } => (*offset, *len),
            Place::LogicalVolume { vg, lv, len } => {
                assert!(vg.len() + lv.len() < 1024);
                (0, *len)
            }
        };
        assert!(region.used_bytes <= len, "{region:?}");
        let whole = matches!(region.kept, Kept::Everything(_));
        if !matches!(region.place, Place::LogicalVolume { .. }) {
            assert!(offset.checked_add(len).is_some_and(|end| end <= size), "{region:?} of {size:#x}");
            assert!(!whole || region.used_bytes == len, "not all of it is data: {region:?}");
        }
    }
}

/// What is where, outer regions first.
fn words(layout: &DiskLayout) -> String {
    let mut words = vec![format!("{:?}:", layout.table.kind).to_lowercase()];
    for region in layout.all_regions() {
        words.push(match &region.content {
            Content::Filesystem(facts) => facts.kind.name().to_owned(),
            Content::PhysicalVolume { .. } => "pv".into(),
            Content::MdMember { level, .. } => format!("raid{level}"),
            Content::Luks { version, .. } => format!("luks{version}"),
            Content::BootArea => "boot".into(),
            Content::Extended => "extended".into(),
            Content::Unknown => match region.kept {
                Kept::Nothing => "gap".into(),
                _ => "unknown".into(),
            },
        });
        // The usual reasons to keep all of what is known are no surprise.
        if let (Content::Filesystem(_), Kept::Everything(_)) = (&region.content, &region.kept) {
            words.push("(whole)".into());
        }
    }
    words.join(" ")
}
