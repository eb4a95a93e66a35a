// SPDX-License-Identifier: Apache-2.0
//! A physical volume that became larger, and a logical volume that gets the new extents: what `pvresize` and `lvextend` do,
//! as bytes to write.
//!
//! ```text
//!   text: seqno + 1; dev_size, pe_count of the PV; extent_count of the LV's last segment, or one segment more
//!   each metadata area of the group: the new text behind the old one (it wraps), then the header that names it
//!   the grown PV's label: the device's size
//! ```
//!
//! The text is edited, not made anew: what is not understood in it stays. Formats: lvm2 `lib/format_text/layout.h`,
//! `format-text.c` (`vg_write`).

use std::ops::Range;

use crate::adapt::Patched;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

use super::group::{LogicalVolume, VolumeGroup};
use super::pv::{self, AREA_HEADER, Area, SECTOR, Stored, crc};
use super::text::{self, Section, Value};

/// What a group looks like when it has grown.
#[derive(Debug)]
pub struct Growth {
    /// What to write: number of the physical volume as given, first byte on it, bytes. In this order: texts, headers, label.
    pub writes: Vec<(usize, u64, Vec<u8>)>,
    /// Extents that the logical volume gets.
    pub extents: u64,
    /// The group as it will be.
    pub group: VolumeGroup,
    /// Which of the physical volumes as given is which of the group's: by the group's order.
    pub members: Vec<usize>,
}

impl Growth {
    /// The logical volume of that name, as it will be.
    pub fn logical(&self, name: &str) -> Option<&LogicalVolume> {
        self.group.logical.iter().find(|logical| logical.name == name)
    }
}

/// Grows physical volume number `grown` of `volumes`, which are all of one group's, to `size` bytes, and gives the new
/// extents to the logical volume `lv`.
///
/// # Errors
///
/// `Refused`, with the reason, where that cannot be done: volumes are missing or in doubt, the volume is not a plain one, the
/// metadata lies behind the extents, there is no room for one extent.
pub fn grow(volumes: &[&dyn BlockSource], grown: usize, size: u64, lv: &str) -> Result<Growth> {
    let refused = |because: &str| Error::refused(format!("growing logical volume {lv}"), because.to_owned());
    let mut areas = Vec::new();
    let mut found = Vec::new();
    for (number, volume) in volumes.iter().enumerate() {
        let physical = pv::probe(volume)?.ok_or_else(|| refused("there is no LVM2 physical volume"))?;
        if let Some(doubt) = &physical.doubt {
            return Err(refused(doubt));
        }
        for &(start, len) in &physical.metadata {
            if let Area::Text(stored) = pv::area(volume, start, len)? {
                areas.push((number, start, len, stored));
            }
        }
        found.push(physical);
    }
    let Some((_, _, _, first)) = areas.first() else {
        return Err(refused("its volume group has no metadata"));
    };
    let old = &first.text;
    if areas.iter().any(|(_, _, _, stored)| stored.text != *old) {
        return Err(refused("the copies of its volume group's metadata differ"));
    }
    let group = VolumeGroup::parse(old)?;
    if let Some(doubt) = &group.doubt {
        return Err(refused(doubt));
    }
    if group.exported {
        return Err(refused("its volume group is exported"));
    }
    let place = |member: &super::Member| found.iter().position(|physical| physical.uuid == member.uuid);
    let members: Vec<usize> = group.volumes.iter().map(place).collect::<Option<_>>().ok_or_else(|| {
        refused("its volume group has physical volumes that are not on the disk that grows")
    })?;
    let (Some(member), Some(physical)) = (members.iter().position(|place| *place == grown), found.get(grown))
    else {
        return Err(refused("the partition that grows holds no physical volume of its group"));
    };
    let (Some(listed), true) = (group.volumes.get(member), group.volumes.iter().all(|one| !one.missing))
    else {
        return Err(refused("its volume group misses a physical volume"));
    };
    if physical.metadata.iter().any(|(start, len)| start.saturating_add(*len) > listed.start) {
        return Err(refused("a second metadata area lies behind the physical volume's extents"));
    }
    let all = size.saturating_sub(listed.start) / group.extent_size;
    let extents = all.saturating_sub(listed.extents);
    if extents == 0 {
        return Err(refused("the new room is smaller than one extent"));
    }
    let logical = group.logical.iter().find(|one| one.name == lv);
    let logical = logical.ok_or_else(|| refused("there is no such logical volume"))?;
    if let Some(special) = &logical.special {
        return Err(refused(&format!("{special}; only linear and striped volumes can be grown")));
    }
    let change = Change { lv, uuid: &listed.uuid, size, old: listed.extents, all };
    let new =
        edit(old, &change).ok_or_else(|| refused("its volume group's metadata is not as LVM writes it"))?;

    let mut writes = next_copies(&areas, &new, || {
        refused("there is no room for another copy of the metadata in its area")
    })?;
    if let Some(volume) = volumes.get(grown) {
        let label = read_vec(volume, physical.label, SECTOR)?;
        writes.push((grown, physical.label, sized_label(&label, size)?));
    }
    let group = check(volumes, &writes, &group, (member, all))?;
    Ok(Growth { writes, extents, group, members })
}

/// Reads the group as it will be, and holds it against what was wanted.
fn check(
    volumes: &[&dyn BlockSource],
    writes: &[(usize, u64, Vec<u8>)],
    before: &VolumeGroup,
    (member, all): (usize, u64),
) -> Result<VolumeGroup> {
    let wrong = || Error::malformed("growing a volume group", "the edited metadata does not read as meant");
    let mut after = None;
    for (number, volume) in volumes.iter().enumerate() {
        let of_it = writes.iter().filter(|(of, _, _)| *of == number);
        let patches: Vec<_> = of_it.map(|(_, at, bytes)| (*at, bytes.clone())).collect();
        let physical = pv::probe(&Patched::new(volume, &patches))?.ok_or_else(wrong)?;
        if physical.doubt.is_some() {
            return Err(wrong());
        }
        after = physical.group.or(after);
    }
    let after = after.ok_or_else(wrong)?;
    let extents = after.volumes.get(member).map(|listed| listed.extents);
    let others = before.logical.len() == after.logical.len() && before.volumes.len() == after.volumes.len();
    if after.seqno != before.seqno + 1 || extents != Some(all) || !others {
        return Err(wrong());
    }
    Ok(after)
}

/// The group's next text in each area (number of the volume, first byte and length of the area, what is in it), and then the headers
/// that name it: number of the volume, first byte, bytes.
pub(super) fn next_copies(
    areas: &[(usize, u64, u64, Stored)],
    new: &str,
    no_room: impl Fn() -> Error,
) -> Result<Vec<(usize, u64, Vec<u8>)>> {
    let (mut writes, mut headers) = (Vec::new(), Vec::new());
    for (number, start, len, stored) in areas {
        let old = (stored.offset, stored.text.len() as u64);
        let at = next_place(old, *len, new.len() as u64).ok_or_else(&no_room)?;
        let (head, tail) = new.as_bytes().split_at((len - at).min(new.len() as u64) as usize);
        writes.push((*number, start + at, head.to_vec()));
        if !tail.is_empty() {
            writes.push((*number, start + AREA_HEADER, tail.to_vec()));
        }
        headers.push((*number, *start, area_header(&stored.header, at, new)?));
    }
    writes.append(&mut headers);
    Ok(writes)
}

/// Where the next text goes in an area of `len` bytes, as LVM chooses it: at the sector behind the old one, round to just
/// behind the header.
fn next_place((offset, old_len): (u64, u64), len: u64, new_len: u64) -> Option<u64> {
    let room = len.checked_sub(AREA_HEADER)?;
    let sector = SECTOR as u64;
    let taken = old_len.checked_next_multiple_of(sector)?.checked_add(new_len)?;
    if taken > room {
        return None;
    }
    let next = offset.checked_add(old_len)?.checked_next_multiple_of(sector)?;
    Some(if next >= len { next - room } else { next })
}

/// An area's header that names the text at `at`.
fn area_header(old: &[u8], at: u64, text: &str) -> Result<Vec<u8>> {
    let mut header = old.to_vec();
    let mut put = |place: Range<usize>, bytes: &[u8]| {
        if let Some(place) = header.get_mut(place) {
            place.copy_from_slice(bytes);
        }
    };
    put(40..48, &at.to_le_bytes());
    put(48..56, &(text.len() as u64).to_le_bytes());
    put(56..60, &crc(&[text.as_bytes()]).to_le_bytes());
    put(60..64, &[0; 4]);
    // The second locator is for a text that is not committed yet.
    put(64..88, &[0; 24]);
    let sum = crc(&[Bytes::new(&header, "LVM metadata area header").slice(4, AREA_HEADER as usize - 4)?]);
    if let Some(place) = header.get_mut(..4) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    Ok(header)
}

/// A label whose physical volume says that its device has `size` bytes.
fn sized_label(old: &[u8], size: u64) -> Result<Vec<u8>> {
    let mut label = old.to_vec();
    let at = Bytes::new(old, "LVM label").u32_le(20)? as usize + 32;
    match label.get_mut(at..at + 8) {
        Some(place) => place.copy_from_slice(&size.to_le_bytes()),
        None => return Err(Error::malformed("writing an LVM label", "its header lies outside its sector")),
    }
    let sum = crc(&[Bytes::new(&label, "LVM label").slice(20, SECTOR - 20)?]);
    if let Some(place) = label.get_mut(16..20) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    Ok(label)
}

/// What is to change in a text.
struct Change<'a> {
    lv: &'a str,
    /// Of the physical volume.
    uuid: &'a str,
    /// Its new size in bytes.
    size: u64,
    /// Its extents before, and then.
    old: u64,
    all: u64,
}

/// The text with the change; `None` where something is not where LVM writes it.
fn edit(old: &str, change: &Change<'_>) -> Option<String> {
    let root = text::parse(old).ok()?;
    let (_, group) = root.sections().find(|(_, section)| section.section("physical_volumes").is_some())?;
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut number = |section: &Section<'_>, key: &str, value: u64| {
        let place = number_after(old, section.key(key)?)?;
        edits.push((place, value.to_string()));
        Some(())
    };
    number(group, "seqno", group.number("seqno").ok()?.checked_add(1)?)?;
    let physical = group.section("physical_volumes")?.sections();
    let (name, physical) =
        physical.into_iter().find(|(_, section)| section.text("id").is_ok_and(|id| id == change.uuid))?;
    number(physical, "dev_size", change.size / SECTOR as u64)?;
    number(physical, "pe_count", change.all)?;
    let logical = group.section("logical_volumes")?.section(change.lv)?;
    let segments: Vec<_> = logical.sections().filter(|(name, _)| name.starts_with("segment")).collect();
    let (last_name, last) = segments.last()?;
    let new = change.all.checked_sub(change.old)?;
    let (start, count) = (last.number("start_extent").ok()?, last.number("extent_count").ok()?);
    let ends_there = matches!(last.array("stripes"), [Value::Text(on), Value::Number(first)]
        if *on == name && u64::try_from(*first).ok()?.checked_add(count)? == change.old);
    if ends_there {
        number(last, "extent_count", count.checked_add(new)?)?;
    } else {
        let total = segments.len() as u64 + 1;
        number(logical, "segment_count", total)?;
        let next = format!("segment{total}");
        if segments.iter().any(|(name, _)| *name == next) {
            return None;
        }
        let text = format!(
            "\n\n\t\t\t{next} {{\n\t\t\t\tstart_extent = {}\n\t\t\t\textent_count = {new}\n\n\t\t\t\ttype = \"striped\"\n\
             \t\t\t\tstripe_count = 1\n\n\t\t\t\tstripes = [\n\t\t\t\t\t\"{name}\", {}\n\t\t\t\t]\n\t\t\t}}",
            start.checked_add(count)?,
            change.old
        );
        let end = section_end(old, last_name)?;
        edits.push((end..end, text));
    }
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut new = old.to_owned();
    for (place, text) in edits {
        new.replace_range(place, &text);
    }
    Some(new)
}

/// Where a name that was parsed from `text` ends in it.
fn end_of(text: &str, name: &str) -> Option<usize> {
    let at = (name.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let end = at.checked_add(name.len())?;
    (text.get(at..end)? == name).then_some(end)
}

/// The digits of the number that `key`, parsed from `text`, is set to.
pub(super) fn number_after(text: &str, key: &str) -> Option<Range<usize>> {
    let behind = end_of(text, key)?;
    let rest = text.get(behind..)?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    let start = text.len() - value.len();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (digits > 0).then_some(start..start + digits)
}

/// Just behind the `}` of the section `name`, parsed from `text`.
fn section_end(text: &str, name: &str) -> Option<usize> {
    let behind = end_of(text, name)?;
    let (mut depth, mut quoted, mut escaped, mut comment) = (0usize, false, false, false);
    for (at, byte) in text.bytes().enumerate().skip(behind) {
        match byte {
            b'\n' => comment = false,
            _ if comment => {}
            b'\\' if quoted => escaped = !escaped,
            b'"' if !escaped => quoted = !quoted,
            b'#' if !quoted => comment = true,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => escaped = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_text_wraps_where_lvm_wraps_it_and_never_overlaps_the_old_one() {
        let len = 1 << 20;
        assert_eq!(next_place((512, 1000), len, 1000), Some(1536));
        // Ends in the area's last sector: the next begins behind the header.
        assert_eq!(next_place((len - 1024, 1024), len, 1000), Some(512));
        // The old one itself wraps.
        assert_eq!(next_place((len - 512, 1024), len, 1000), Some(1024));
        assert_eq!(next_place((512, len - 1512), len, 1000), None);
    }

    #[test]
    fn a_text_is_edited_where_it_says_so_and_stays_as_it_is_elsewhere() {
        let text = "vg {\nid = \"v\"\nseqno = 9\nphysical_volumes {\n\npv0 {\nid = \"p\" # pe_count = 1\ndev_size=10\npe_count = 5\n}\n}\n\
            logical_volumes {\na {\nid=\"}\"\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 2\ntype=\"striped\"\n\
            stripes = [ \"pv0\", 0 ]\n}\n}\nb {\nsegment_count=1\nsegment1 {\nstart_extent = 0\nextent_count = 3\nstripes = [\"pv0\", 2]\n}\n}\n}\n}\0";
        let change = |lv| Change { lv, uuid: "p", size: 10 << 20, old: 5, all: 25 };
        let grown = edit(text, &change("b")).unwrap();
        let expected = text
            .replace("seqno = 9", "seqno = 10")
            .replace("dev_size=10", "dev_size=20480")
            .replace("\npe_count = 5", "\npe_count = 25")
            .replace("extent_count = 3", "extent_count = 23");
        assert_eq!(grown, expected);
        let grown = edit(text, &change("a")).unwrap();
        assert!(grown.contains("segment_count = 2"), "{grown}");
        let root = text::parse(&grown).unwrap();
        let a = root.section("vg").unwrap().section("logical_volumes").unwrap().section("a").unwrap();
        let added = a.section("segment2").unwrap();
        assert_eq!((added.number("start_extent").unwrap(), added.number("extent_count").unwrap()), (2, 20));
        assert_eq!(added.array("stripes"), [Value::Text("pv0"), Value::Number(5)]);
        assert_eq!(edit(text, &change("c")), None);
    }
}
