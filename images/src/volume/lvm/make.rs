// SPDX-License-Identifier: Apache-2.0
//! The head of a physical volume, made from a saved configuration (`vgcfgbackup`): what `pvcreate --restorefile` and
//! `vgcfgrestore` write. Formats: lvm2 `lib/format_text/layout.h`, `lib/label/label.h`; `pv.rs` reads them.

use super::group::VolumeGroup;
use super::pv::{AREA_HEADER, SECTOR, crc};
use super::text::{self, Section};
use crate::{Error, Result};

/// Where the metadata area begins, in bytes.
const AREA: u64 = 4096;

/// What lies at the beginning of a physical volume.
#[derive(Debug)]
pub struct Head {
    /// Bytes by their place on the volume.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// The volume's size in bytes, as the configuration states it.
    pub size: u64,
}

fn broken(because: impl Into<String>) -> Error {
    Error::malformed("reading a saved LVM configuration", because.into())
}

/// The head of the physical volume `uuid` of the group in `saved`.
pub fn head(saved: &str, uuid: &str) -> Result<Head> {
    let group = VolumeGroup::parse(saved)?;
    let member = group.volumes.iter().find(|member| member.uuid == uuid);
    let member = member.ok_or_else(|| broken(format!("it has no physical volume {uuid}")))?;
    let size = size(saved, uuid)?;
    let plain: Vec<u8> = uuid.bytes().filter(|byte| *byte != b'-').collect();
    let room = member.start.saturating_sub(AREA);
    let text = as_stored(saved, &group.name)?;
    if plain.len() != 32 || room < AREA_HEADER || text.len() as u64 > room - AREA_HEADER {
        return Err(broken(format!("the metadata has no room before the extents of {uuid}")));
    }

    let mut volume = plain;
    for number in [size, member.start, 0, 0, 0, AREA, room, 0, 0] {
        volume.extend(number.to_le_bytes());
    }
    // The extension's version 2, and that the volume is in use; no area of a boot loader.
    volume.extend(2u32.to_le_bytes());
    volume.extend(1u32.to_le_bytes());
    volume.extend([0; 16]);
    let mut label = vec![0; SECTOR];
    put(&mut label, 0, b"LABELONE")?;
    put(&mut label, 8, &1u64.to_le_bytes())?;
    put(&mut label, 20, &32u32.to_le_bytes())?;
    put(&mut label, 24, b"LVM2 001")?;
    put(&mut label, 32, &volume)?;
    let sum = crc(&[label.get(20..).unwrap_or_default()]);
    put(&mut label, 16, &sum.to_le_bytes())?;

    let mut area = vec![0; AREA_HEADER as usize];
    put(&mut area, 4, b" LVM2 x[5A%r0N*>")?;
    put(&mut area, 20, &1u32.to_le_bytes())?;
    for (at, number) in [(24, AREA), (32, room), (40, AREA_HEADER), (48, text.len() as u64)] {
        put(&mut area, at, &number.to_le_bytes())?;
    }
    put(&mut area, 56, &crc(&[&text]).to_le_bytes())?;
    let sum = crc(&[area.get(4..).unwrap_or_default()]);
    put(&mut area, 0, &sum.to_le_bytes())?;
    area.extend(text);
    Ok(Head { pieces: vec![(SECTOR as u64, label), (AREA, area)], size })
}

fn put(room: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    let place = room.get_mut(at..at + bytes.len()).ok_or_else(|| broken("a field has no room"))?;
    place.copy_from_slice(bytes);
    Ok(())
}

fn size(saved: &str, uuid: &str) -> Result<u64> {
    let root = text::parse(saved)?;
    let volumes = root.sections().filter_map(|(_, group)| group.section("physical_volumes"));
    let mut volumes = volumes.flat_map(Section::sections);
    let volume = volumes.find(|(_, volume)| volume.text("id").is_ok_and(|id| id == uuid));
    let sectors = volume
        .map_or_else(|| Err(broken("no such physical volume")), |(_, volume)| volume.number("dev_size"))?;
    sectors.checked_mul(SECTOR as u64).ok_or_else(|| broken("a number is too large"))
}

/// The text as it stands in a metadata area: it must begin with the group's name, which LVM reads first.
fn as_stored(saved: &str, name: &str) -> Result<Vec<u8>> {
    let (mut depth, mut quoted, mut escaped, mut comment) = (0u32, false, false, false);
    let (mut section, mut start, mut rest) = (None, 0, String::new());
    let mut line = 0;
    for (at, c) in saved.char_indices() {
        match c {
            '\n' => {
                comment = false;
                if depth == 0 && section.is_none_or(|(_, end)| at > end) {
                    let text = saved.get(line..at).unwrap_or_default();
                    // What holds for the group: contents, version, description, creation_host, creation_time.
                    if text.contains(" = ") && !text.starts_with('#') {
                        rest.push_str(text);
                        rest.push('\n');
                    }
                }
                line = at + 1;
            }
            _ if comment => {}
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '#' => comment = true,
            '{' => {
                if depth == 0 && section.is_none() {
                    start = line;
                }
                depth += 1;
            }
            '}' => {
                depth = depth.checked_sub(1).ok_or_else(|| broken("a section ends twice"))?;
                if depth == 0 && section.is_none() {
                    section = Some((start, at));
                }
            }
            _ => {}
        }
    }
    let (start, end) = section.ok_or_else(|| broken("it has no section"))?;
    let section = saved.get(start..=end).unwrap_or_default();
    if !section.starts_with(name) {
        return Err(broken("its first section is not the group"));
    }
    Ok(format!("{section}\n# Generated by LVM2\n\n{rest}\n\0").into_bytes())
}
