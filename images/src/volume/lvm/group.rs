// SPDX-License-Identifier: Apache-2.0
//! A volume group as its metadata text describes it: physical volumes, logical volumes, their segments.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::{Error, Result};

use super::text::{self, Section, Value};

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Its UUID, as `vgs -o uuid` prints it.
    pub id: String,
    /// Counts the changes; the highest is the newest.
    pub seqno: u64,
    /// Bytes of one extent.
    pub extent_size: u64,
    /// Hidden from this host by `vgexport`.
    pub exported: bool,
    /// Its physical volumes, present or not.
    pub volumes: Vec<Member>,
    /// Its logical volumes, hidden ones included.
    pub logical: Vec<LogicalVolume>,
    /// Why extents may be in use that no segment below shows.
    pub doubt: Option<String>,
}

/// A physical volume as its group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// PV UUID, as `pvs -o uuid` prints it.
    pub uuid: String,
    /// First byte of extent 0.
    pub start: u64,
    /// How many extents it has.
    pub extents: u64,
    /// Recorded as missing: its content may be behind the others'.
    pub missing: bool,
    /// Space for a bootloader, in bytes of the volume.
    pub boot_area: Range<u64>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Its name.
    pub name: String,
    /// Its UUID, as `lvs -o uuid` prints it.
    pub id: String,
    /// Not a hidden part of another one.
    pub visible: bool,
    /// Its length in bytes.
    pub len: u64,
    /// The segments that lie on physical extents, in order.
    pub segments: Vec<Stripes>,
    /// Why its content is not simply the bytes of its extents in order (thin pool, RAID, snapshot ...).
    pub special: Option<String>,
}

/// A run of a logical volume on one (linear) or several physical volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripes {
    /// Length in bytes over all stripes.
    pub len: u64,
    /// Bytes of one chunk; without meaning for a single stripe.
    pub stripe_size: u64,
    /// (index in [`VolumeGroup::volumes`], first byte on that volume).
    pub stripes: Vec<(usize, u64)>,
}

impl Stripes {
    /// The bytes that it takes on each of its physical volumes.
    pub fn runs(&self) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        let each = self.len / (self.stripes.len() as u64).max(1);
        self.stripes.iter().map(move |&(volume, start)| (volume, start..start.saturating_add(each)))
    }
}

const SECTOR: u64 = 512;
/// A logical volume in any other state is being moved, converted or rebuilt, or is a part of another one.
const PLAIN_STATUS: [&str; 4] = ["READ", "WRITE", "VISIBLE", "FIXED_MINOR"];

fn broken(because: impl Into<String>) -> Error {
    Error::malformed("reading LVM metadata", because.into())
}

/// Sectors as bytes.
fn bytes(sectors: u64) -> Result<u64> {
    sectors
        .checked_mul(SECTOR)
        .filter(|bytes| *bytes < 1 << 62)
        .ok_or_else(|| broken("a number is too large"))
}

/// LVM's own limit (lvm2 `NAME_LEN`). Names are repeated for each volume and in messages; one of megabytes would fill the memory.
const LONGEST_NAME: usize = 128;

fn name(text: &str) -> Result<&str> {
    if text.len() > LONGEST_NAME {
        return Err(broken(format!("a name has {} characters", text.len())));
    }
    Ok(text)
}

impl VolumeGroup {
    /// Reads a group's metadata text.
    pub fn parse(text: &str) -> Result<Self> {
        let root = text::parse(text)?;
        let mut groups = root.sections().filter(|(_, section)| section.section("physical_volumes").is_some());
        let (Some((group_name, group)), None) = (groups.next(), groups.next()) else {
            return Err(broken("there is not exactly one volume group"));
        };
        let extent_size = bytes(group.number("extent_size")?)?;
        if extent_size == 0 {
            return Err(broken("extent_size is 0"));
        }
        let mut found = Self {
            name: name(group_name)?.to_owned(),
            id: name(group.text("id")?)?.to_owned(),
            seqno: group.number("seqno")?,
            extent_size,
            exported: group.words("status").any(|word| word == "EXPORTED"),
            volumes: Vec::new(),
            logical: Vec::new(),
            doubt: None,
        };
        let mut places = HashMap::new();
        for (key, volume) in group.section("physical_volumes").into_iter().flat_map(Section::sections) {
            if places.insert(name(key)?, found.volumes.len()).is_some() {
                return Err(broken(format!("{key} stands twice")));
            }
            found.volumes.push(member(volume, extent_size)?);
        }
        let mut parts = HashSet::new();
        for (key, volume) in group.section("logical_volumes").into_iter().flat_map(Section::sections) {
            let volume = found.logical_volume(name(key)?, volume, &places, &mut parts)?;
            found.logical.push(volume);
        }
        // What another volume is built from or refers to does not show its content in order, or is
        // still needed where its own filesystem has freed it (the origin of a snapshot).
        for volume in &mut found.logical {
            if parts.contains(&*volume.name) && volume.special.is_none() {
                volume.special =
                    Some("it is part of another logical volume, or the origin of a snapshot".into());
            }
        }
        Ok(found)
    }

    fn logical_volume<'a>(
        &mut self,
        name: &'a str,
        section: &Section<'a>,
        places: &HashMap<&'a str, usize>,
        parts: &mut HashSet<&'a str>,
    ) -> Result<LogicalVolume> {
        let mut volume = LogicalVolume {
            name: name.to_owned(),
            id: self::name(section.text("id")?)?.to_owned(),
            visible: section.words("status").any(|word| word == "VISIBLE"),
            len: 0,
            segments: Vec::new(),
            special: None,
        };
        if !volume.visible {
            volume.special = Some("it is a hidden part of another logical volume".into());
        } else if let Some(word) = section.words("status").find(|word| !PLAIN_STATUS.contains(word)) {
            volume.special = Some(format!("its status is {word}"));
        }
        let mut next = 0;
        let mut count = 0;
        for (_, segment) in section.sections().filter(|(name, _)| name.starts_with("segment")) {
            let extents = segment.number("extent_count")?;
            if segment.number("start_extent")? != next {
                return Err(broken(format!("the segments of {name} do not follow each other")));
            }
            next = next.checked_add(extents).ok_or_else(|| broken("a number is too large"))?;
            count += 1;
            let kind = segment.text("type")?;
            if kind == "striped" {
                let areas: Vec<_> = pairs(segment.array("stripes")).collect();
                let on_extents = areas.iter().filter(|(name, _)| places.contains_key(name)).count();
                if on_extents == areas.len() && !areas.is_empty() {
                    volume.segments.push(self.stripes(segment, extents, &areas, places)?);
                    continue;
                }
                if on_extents > 0 {
                    self.doubt = Some(format!("a segment of {name} lies partly on other logical volumes"));
                }
                parts.extend(areas.iter().map(|(name, _)| *name));
                volume.special = Some("it lies on other logical volumes".into());
                continue;
            }
            volume.special = Some(match (segment.text("cow_store"), segment.text("origin")) {
                (Ok(store), Ok(origin)) => format!("it stands for {store}, a snapshot of {origin}"),
                _ => format!("it has a segment of type {kind}"),
            });
            // Other types name their parts under keys of their own (raids, mirrors, origin, cow_store, thin_pool,
            // data, metadata, cache_pool, ...): every string may be one. Extents that such a
            // segment takes directly, as pvmove does, are not worked out.
            let keys = segment.entries.iter().map(|(key, _)| *key).filter(|key| *key != "type");
            for word in keys.flat_map(|key| segment.words(key)) {
                if places.contains_key(word) {
                    self.doubt =
                        Some(format!("{name} has a segment of type {kind} directly on physical extents"));
                }
                parts.insert(word);
            }
        }
        // It may quote any text of the segment.
        volume.special = volume.special.map(|text| text.chars().take(2 * LONGEST_NAME).collect());
        if count != section.number("segment_count")? {
            return Err(broken(format!("segments of {name} are missing")));
        }
        let len = next.checked_mul(self.extent_size).filter(|len| *len < 1 << 62);
        volume.len = len.ok_or_else(|| broken("a number is too large"))?;
        Ok(volume)
    }

    fn stripes(
        &self,
        segment: &Section<'_>,
        extents: u64,
        areas: &[(&str, u64)],
        places: &HashMap<&str, usize>,
    ) -> Result<Stripes> {
        let count = areas.len() as u64;
        let whole = extents.checked_mul(self.extent_size).filter(|len| *len < 1 << 62 && *len > 0);
        let (Some(len), 0) = (whole, extents % count) else {
            return Err(broken("a segment's length is not a multiple of its stripes"));
        };
        if segment.number("stripe_count")? != count {
            return Err(broken("a segment's stripes are incomplete"));
        }
        let stripe_size = if count == 1 { len } else { bytes(segment.number("stripe_size")?)? };
        if stripe_size == 0 || !(len / count).is_multiple_of(stripe_size) {
            return Err(broken("a segment's stripe_size does not divide it"));
        }
        let mut stripes = Vec::new();
        for (name, first) in areas {
            let index = places.get(name).copied().unwrap_or(usize::MAX);
            let member = self.volumes.get(index).ok_or_else(|| broken("no such physical volume"))?;
            if first.checked_add(extents / count).is_none_or(|end| end > member.extents) {
                return Err(broken("a segment lies beyond its physical volume"));
            }
            // Within the member's extents, whose end was checked when it was read.
            stripes.push((index, member.start + first * self.extent_size));
        }
        Ok(Stripes { len, stripe_size, stripes })
    }
}

fn member(section: &Section<'_>, extent_size: u64) -> Result<Member> {
    let member = Member {
        uuid: name(section.text("id")?)?.to_owned(),
        start: bytes(section.number("pe_start")?)?,
        extents: section.number("pe_count")?,
        missing: section.words("flags").any(|word| word == "MISSING"),
        boot_area: {
            let start = bytes(section.number("ba_start").unwrap_or(0))?;
            start..start + bytes(section.number("ba_size").unwrap_or(0))?
        },
    };
    let end = member.extents.checked_mul(extent_size).and_then(|len| len.checked_add(member.start));
    if end.is_none_or(|end| end >= 1 << 62) {
        return Err(broken("a physical volume is too large"));
    }
    Ok(member)
}

/// The (name, number) pairs of a `stripes` array. A pair of another shape ends the list, which then is incomplete.
fn pairs<'a, 'b>(values: &'b [Value<'a>]) -> impl Iterator<Item = (&'a str, u64)> + 'b {
    values.chunks(2).map_while(|pair| match pair {
        [Value::Text(name), Value::Number(number)] => Some((*name, u64::try_from(*number).ok()?)),
        _ => None,
    })
}
