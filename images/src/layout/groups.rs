// SPDX-License-Identifier: Apache-2.0
//! Volumes that may span disks: md arrays and LVM volume groups, put together once all disks were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::adapt::{Leg, Segment};
use crate::volume::lvm::{LogicalVolume, PhysicalVolume, VolumeGroup};
use crate::volume::md;
use crate::{RangeSet, Result};

use super::device::{Device, Span};
use super::walk::{Analysis, Level, SMALL_GAP};
use super::{Content, Kept, Place};

/// An md member and where it was found.
pub(super) struct FoundMember {
    pub(super) node: usize,
    pub(super) span: Span,
    pub(super) member: md::Member,
}

/// A physical volume and where it was found: once, or on every member of a RAID1.
pub(super) struct FoundVolume {
    pub(super) nodes: Vec<usize>,
    pub(super) spans: Vec<Span>,
    /// As each copy reads.
    pub(super) copies: Vec<PhysicalVolume>,
}

impl FoundVolume {
    fn uuid(&self) -> &str {
        self.copies.first().map_or("", |copy| &copy.uuid)
    }

    fn len(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.len)
    }

    fn device(&self) -> Device {
        Device::Spans(self.spans.clone())
    }

    fn groups(&self) -> impl Iterator<Item = &VolumeGroup> {
        self.copies.iter().filter_map(|copy| copy.group.as_ref())
    }

    fn doubt(&self) -> Option<String> {
        let doubt = self.copies.iter().find_map(|copy| copy.doubt.clone());
        let differ = self.copies.iter().any(|copy| copy.uuid != self.uuid());
        doubt.or_else(|| differ.then(|| "the copies of the mirror hold different physical volumes".into()))
    }
}

/// A volume group's newest description, and why it may not be true.
struct Newest {
    group: VolumeGroup,
    doubt: Option<String>,
}

impl Analysis<'_> {
    /// Keeps `own` ranges of a span, and small gaps between them and what is accounted for elsewhere.
    fn keep_frame(&mut self, span: Span, own: &[Range<u64>], elsewhere: &[Range<u64>]) {
        let mut covered = RangeSet::new();
        for range in own {
            let part = span.part(range);
            self.ledger.keep_on(part.disk, part.start..part.start + part.len);
            covered.insert(range.clone());
        }
        elsewhere.iter().for_each(|range| covered.insert(range.clone()));
        for gap in covered.gaps(span.len).into_iter().filter(|gap| gap.end - gap.start <= SMALL_GAP) {
            self.ledger.keep_on(span.disk, span.start + gap.start..span.start + gap.end);
        }
    }

    /// Puts md arrays together.
    pub(super) fn arrays(&mut self) -> Result<()> {
        let mut arrays: BTreeMap<String, Vec<FoundMember>> = BTreeMap::new();
        for found in std::mem::take(&mut self.members) {
            let member = &found.member;
            let content = Content::MdMember {
                array_uuid: member.array_uuid.clone(),
                name: member.name.clone(),
                level: member.level,
                metadata: member.metadata.to_owned(),
            };
            self.each(&[found.node], |node| node.content = content.clone());
            if let Some(reason) = &found.member.special {
                self.give_up(&[found.node], &Device::span(found.span), reason, true)?;
            } else {
                arrays.entry(found.member.array_uuid.clone()).or_default().push(found);
            }
        }
        for (uuid, members) in arrays {
            let lens: BTreeSet<_> =
                members.iter().map(|found| found.member.content.end - found.member.content.start).collect();
            if lens.len() > 1 {
                for found in &members {
                    let reason = "the members of its array differ in size";
                    self.give_up(&[found.node], &Device::span(found.span), reason, true)?;
                }
                continue;
            }
            let (mut nodes, mut spans) = (Vec::new(), Vec::new());
            for FoundMember { node, span, member } in members {
                self.keep_frame(span, &member.own, std::slice::from_ref(&member.content));
                let content = span.part(&member.content);
                let place = Place::Md {
                    uuid: uuid.clone(),
                    name: member.name,
                    offset: content.start,
                    len: content.len,
                };
                nodes.push(self.add(Some(node), place, span.disk));
                spans.push(content);
            }
            self.examine(nodes, &Device::Spans(spans), Level::Array)?;
        }
        Ok(())
    }

    /// Puts volume groups together and looks into their logical volumes.
    pub(super) fn groups(&mut self) -> Result<()> {
        let volumes = std::mem::take(&mut self.volumes);
        let mut newest = newest(&volumes);
        let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, volume) in volumes.iter().enumerate() {
            places.entry(volume.uuid()).or_default().push(index);
        }
        cast_doubt(&mut newest, &volumes, &places);

        let mut listed = BTreeSet::new();
        for Newest { group, doubt } in newest.values() {
            let mine: Vec<Vec<usize>> = group
                .volumes
                .iter()
                .map(|member| places.get(&*member.uuid).cloned().unwrap_or_default())
                .collect();
            for &index in mine.iter().flatten() {
                listed.insert(index);
                let Some(volume) = volumes.get(index) else { continue };
                let content = Content::PhysicalVolume {
                    pv_uuid: volume.uuid().to_owned(),
                    vg: Some(group.name.clone()),
                    vg_uuid: Some(group.id.clone()),
                };
                self.each(&volume.nodes, |node| node.content = content.clone());
                if let Some(reason) = doubt {
                    self.give_up(&volume.nodes, &volume.device(), reason, true)?;
                }
            }
            if doubt.is_none() {
                let mine: Vec<&FoundVolume> = mine
                    .iter()
                    .filter_map(|found| found.first().and_then(|&index| volumes.get(index)))
                    .collect();
                self.group(group, &mine)?;
            }
        }
        for (_, volume) in volumes.iter().enumerate().filter(|(index, _)| !listed.contains(index)) {
            self.orphan(volume)?;
        }
        Ok(())
    }

    /// A physical volume that no group lists.
    fn orphan(&mut self, volume: &FoundVolume) -> Result<()> {
        let group = volume.groups().next();
        let content = Content::PhysicalVolume {
            pv_uuid: volume.uuid().to_owned(),
            vg: group.map(|group| group.name.clone()),
            vg_uuid: group.map(|group| group.id.clone()),
        };
        self.each(&volume.nodes, |node| node.content = content.clone());
        let reason = if let Some(doubt) = volume.doubt() {
            doubt
        } else if let Some(group) = group {
            format!("volume group {} does not list it any more", group.name)
        } else if volume.copies.iter().any(|copy| copy.areas_read == 0) {
            "it holds no metadata, and no volume group on these disks lists it".into()
        } else {
            // Metadata areas in good order that say that nothing is allocated.
            for (span, copy) in volume.spans.iter().zip(&volume.copies) {
                let data: Vec<_> = copy
                    .data
                    .iter()
                    .map(|range| if range.is_empty() { range.start..span.len } else { range.clone() })
                    .collect();
                self.keep_frame(*span, &copy.own, &data);
            }
            return Ok(());
        };
        self.give_up(&volume.nodes, &volume.device(), &reason, true)
    }

    /// A group that is complete and not in doubt; `volumes` in the order of its members.
    fn group(&mut self, group: &VolumeGroup, volumes: &[&FoundVolume]) -> Result<()> {
        for (member, volume) in group.volumes.iter().zip(volumes) {
            let extents = member.start..member.start + member.extents * group.extent_size;
            for (span, copy) in volume.spans.iter().zip(&volume.copies) {
                let mut own = copy.own.clone();
                own.push(member.boot_area.clone());
                self.keep_frame(*span, &own, std::slice::from_ref(&extents));
            }
        }
        let parent = volumes.first().and_then(|volume| volume.nodes.first()).copied();
        let disk = parent.and_then(|parent| self.nodes.get(parent)).map_or(0, |node| node.disk);
        if group.exported {
            self.ledger.warn(
                disk,
                format!("volume group {} is exported: the restored host must import it", group.name),
            );
        }
        for logical in &group.logical {
            self.check_cancelled()?;
            let place =
                Place::LogicalVolume { vg: group.name.clone(), lv: logical.name.clone(), len: logical.len };
            let node = self.add(parent, place, disk);
            let device = device(logical, volumes);
            let Some(reason) = &logical.special else {
                self.examine(vec![node], &device, Level::LogicalVolume)?;
                continue;
            };
            let own_extents = !logical.segments.is_empty();
            self.give_up(&[node], &device, reason, logical.visible && own_extents)?;
            if !own_extents {
                self.each(&[node], |node| node.kept = Kept::Nothing);
                let text = format!("what {} is made of is kept whole: {reason}", self.who(node));
                self.ledger.warn(disk, text);
            }
        }
        Ok(())
    }
}

/// Where a logical volume's own extents lie. If physical volumes are mirrored by md, the first copy is put together from
/// their first copies, and so on; the last copy of one with fewer serves for the rest.
fn device(logical: &LogicalVolume, volumes: &[&FoundVolume]) -> Device {
    let used = logical.segments.iter().flat_map(|segment| &segment.stripes);
    let sides =
        used.filter_map(|(index, _)| volumes.get(*index)).map(|volume| volume.spans.len()).max().unwrap_or(1);
    let leg = |side: usize, index: usize, start: u64| {
        let spans = volumes.get(index).map_or(&[] as &[Span], |volume| &volume.spans);
        // A span that does not exist makes the map fail, and with it the analysis of that volume.
        let none = Leg { source: usize::MAX, start: 0 };
        spans
            .get(side)
            .or(spans.last())
            .map_or(none, |span| Leg { source: span.disk, start: span.start.saturating_add(start) })
    };
    let copy = |side: usize| {
        let segment = |segment: &crate::volume::lvm::Stripes| Segment {
            len: segment.len,
            stripe_size: segment.stripe_size,
            legs: segment.stripes.iter().map(|&(index, start)| leg(side, index, start)).collect(),
        };
        logical.segments.iter().map(segment).collect()
    };
    Device::Volume((0..sides).map(copy).collect())
}

/// Every group's newest description, by its UUID.
fn newest(volumes: &[FoundVolume]) -> BTreeMap<String, Newest> {
    let mut newest: BTreeMap<String, Newest> = BTreeMap::new();
    for group in volumes.iter().flat_map(FoundVolume::groups) {
        match newest.get_mut(&group.id) {
            Some(have) if have.group.seqno > group.seqno => {}
            Some(have) if have.group.seqno == group.seqno => {
                if have.group != *group {
                    have.doubt = Some(format!(
                        "the metadata of volume group {} differs between its physical volumes",
                        group.name
                    ));
                }
            }
            _ => {
                newest.insert(group.id.clone(), Newest { group: group.clone(), doubt: None });
            }
        }
    }
    newest
}

/// Finds what forbids to believe a group's description; the physical volumes that are there are then kept whole.
fn cast_doubt(
    newest: &mut BTreeMap<String, Newest>,
    volumes: &[FoundVolume],
    places: &BTreeMap<&str, Vec<usize>>,
) {
    let mut claims: BTreeMap<String, usize> = BTreeMap::new();
    for member in newest.values().flat_map(|newest| &newest.group.volumes) {
        *claims.entry(member.uuid.clone()).or_default() += 1;
    }
    for Newest { group, doubt } in newest.values_mut() {
        let name = &group.name;
        let mut reason = group.doubt.as_ref().map(|why| format!("volume group {name}: {why}"));
        // A damaged copy may have been the newest one.
        for volume in volumes.iter().filter(|volume| volume.groups().any(|other| other.id == group.id)) {
            reason = reason.or_else(|| volume.doubt());
        }
        for member in &group.volumes {
            let found = places.get(&*member.uuid).map_or(&[] as &[usize], Vec::as_slice);
            let why = match found {
                [] => Some(format!(
                    "physical volume {} of volume group {name} is not among these disks (or cannot be read)",
                    member.uuid
                )),
                _ if member.missing => {
                    Some(format!("volume group {name} misses physical volume {}", member.uuid))
                }
                [index] => volumes.get(*index).and_then(|volume| {
                    let end = member.start.saturating_add(member.extents.saturating_mul(group.extent_size));
                    volume.doubt().or_else(|| {
                        (end > volume.len())
                            .then(|| format!("its extents in volume group {name} reach beyond its end"))
                    })
                }),
                _ => Some(format!("physical volume {} is there more than once", member.uuid)),
            };
            let several = claims.get(&member.uuid).is_some_and(|count| *count > 1);
            let why = why.or_else(|| {
                several.then(|| format!("physical volume {} is listed more than once", member.uuid))
            });
            reason = reason.or(why);
        }
        *doubt = doubt.take().or(reason);
    }
}
